import pytest
from cardiometabolic import PROGRAMME

from gemel.core.study import SCHEMA, PrivacyPlan, Study, TrainingPlan
from gemel.privacy.accounting import epsilon, price
from gemel.synthetic.cohort import fit, sample
from gemel.synthetic.marginals import count_marginals, marginal_specs
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
            marginals_noise_multiplier=16.0,
        ),
        metrics_tables=2,
        marginal_tables=len(marginal_specs(PROGRAMME)),
        minimum_patients=10,
        quorum=1,
        round_timeout_s=10.0,
        sites={"a": "00", "b": "11"},
    )


def test_the_price_is_computed_from_the_study_and_lets_its_cohort_be_sampled(study, real, twin):
    document = provenance_of_study(study, sites=2, created="2026-11-22T09:00:00Z", noise="secure")
    assert document["whole"]["epsilon"] == price(study.charges(), delta=1e-5)
    assert document["marginals"]["epsilon"] == epsilon(study.charge("synthesise").mechanisms, delta=1e-5)
    assert document["marginals"]["epsilon"] < document["whole"]["epsilon"]
    training = [m for task in ("train/1", "train/2") for m in study.charge(task).mechanisms]
    assert document["twin"]["epsilon"] == epsilon(training, delta=1e-5)
    model = fit(PROGRAMME, count_marginals(PROGRAMME, real), noise_multiplier=16.0, sites=2)
    assert len(sample(model, twin, patients=10, seed=1, provenance=document)) == 10
