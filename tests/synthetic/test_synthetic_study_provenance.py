import pytest
from cardiometabolic import PROGRAMME

from gemel.core.study import SCHEMA, PrivacyPlan, Study, TrainingPlan
from gemel.core.synthesis_plan import ROUNDS
from gemel.privacy.accounting import epsilon, price
from gemel.synthetic.domain import domain_of
from gemel.synthetic.protocol import synthesis_plan
from gemel.synthetic.study_provenance import provenance_of_study


@pytest.fixture
def study():
    return Study(
        schema=SCHEMA,
        study_id="toy",
        title="Toy study",
        purpose="test",
        programme=PROGRAMME.name,
        programme_version=PROGRAMME.version,
        training=TrainingPlan(
            rounds=2,
            local_steps=5,
            learning_rate=0.1,
            momentum=0.9,
            max_grad_norm=1.0,
            sample_rate=1.0,
            noise_multiplier=8.0,
        ),
        privacy=PrivacyPlan(
            epsilon=3.0,
            delta=1e-5,
            count_noise_multiplier=20.0,
            metrics_noise_multiplier=20.0,
            synthesis_noise_multiplier=4.0,
        ),
        metrics_tables=2,
        synthesis=synthesis_plan(domain_of(PROGRAMME), sites_of_a_person=3),
        minimum_patients=10,
        quorum=1,
        round_timeout_s=10.0,
        sites={"a": "00", "b": "11"},
    )


def test_the_price_is_computed_from_the_study(study):
    document = provenance_of_study(study, sites=2, created="2026-11-22T09:00:00Z", noise="secure")
    assert document["whole"]["epsilon"] == price(study.charges(), delta=1e-5)
    synthesis = [m for task in ROUNDS for m in study.charge(task).mechanisms]
    assert document["synthesis"]["epsilon"] == epsilon(synthesis, delta=1e-5)
    assert document["synthesis"]["epsilon"] < document["whole"]["epsilon"]
    assert document["sites_of_a_person"] == 3
    training = [m for task in ("train/1", "train/2") for m in study.charge(task).mechanisms]
    assert document["twin"]["epsilon"] == epsilon(training, delta=1e-5)
