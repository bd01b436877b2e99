"""What the plain hazard twin claims, measured on the open Olmsted County cohort (skips where it is absent)."""

from __future__ import annotations

import lifelines
import numpy as np
import pandas as pd
import pytest
import torch
from cardiometabolic import PROGRAMME

from gemel.core.study import TrainingPlan
from gemel.privacy.engine import DpTrainer
from gemel.privacy.noise import NoiseSource
from gemel.privacy.planning import Shares, plan
from gemel.twins.baselines import fit_without_privacy
from gemel.twins.hazard import HazardTwin
from gemel.twins.scores import auc

SITE_SHARES = (0.6, 0.3, 0.1)
SEEDS = range(3)  # three keep the suite quick

# lifelines 0.30 calls pandas in a form that pandas 4 will drop.
pytestmark = pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def halves(nafld):
    return nafld.split()


@pytest.fixture(scope="module")
def pooled(halves):
    return fit_without_privacy(HazardTwin(PROGRAMME), halves[0])


def auc_10y(twin, data, outcome):
    return auc(data, outcome, twin.predict(data.values).cumulative_incidence[:, 10, outcome], years=10)


def cox_auc_10y(halves, outcome):
    def frame(data):
        return pd.DataFrame({"age": data.values[:, 0], "male": data.values[:, 1]})

    train, held_out = halves
    mine = train.event[:, outcome] >= 0
    table = frame(train)[mine].assign(t=train.time_years[mine, outcome], e=train.event[mine, outcome])
    model = lifelines.CoxPHFitter().fit(table, "t", "e")
    return auc(held_out, outcome, model.predict_log_partial_hazard(frame(held_out)).to_numpy(), years=10)


def default_training_plan():
    noise = plan(
        epsilon=3,
        delta=1e-5,
        rounds=6,
        local_steps=6,
        metrics_tables=2,
        shares=Shares(training=0.83, synthesis=0.16, count=0.01),
    )
    return TrainingPlan(
        rounds=6,
        local_steps=6,
        learning_rate=1.0,
        momentum=0.6,
        max_grad_norm=4.0,
        sample_rate=1.0,
        noise_multiplier=noise.training,
    )


def train_federated(training_plan, sites, *, seed):
    """Rounds of local DP training and averaging, weighted by the number of patients."""
    noise = NoiseSource.for_tests(seed)
    twin = HazardTwin(PROGRAMME)
    tensors = [twin.tensors(site) for site in sites]
    shares = np.array([len(site) for site in sites]) / sum(len(site) for site in sites)
    for _ in range(training_plan.rounds):
        arrays, start = [], twin.to_arrays()
        for site, batch in zip(sites, tensors, strict=True):
            twin.load_arrays(start)
            DpTrainer(training_plan, noise=noise, expected_patients=len(site)).train(twin, batch)
            arrays.append(twin.to_arrays())
        mean = {n: sum(s * a[n] for s, a in zip(shares, arrays, strict=True)) for n in start}
        twin.load_arrays({name: value.astype(np.float32) for name, value in mean.items()})
    return twin


def test_the_cohort_is_the_one_that_was_published(nafld):
    assert len(nafld) == 17_549
    assert (nafld.event[:, 0] == 1).sum() == 1_364
    assert np.nanmax(nafld.values[:, 4]) <= 200


def test_the_pooled_twin_beats_a_cox_model_on_age_and_sex(halves, pooled):
    assert auc_10y(pooled, halves[1], 0) > cox_auc_10y(halves, 0) + 0.005
    assert auc_10y(pooled, halves[1], 1) > cox_auc_10y(halves, 1) + 0.01


def test_at_epsilon_3_the_federated_twin_is_near_the_pooled_one_and_above_cox(nafld, halves, pooled):
    ends = (np.cumsum(SITE_SHARES) * len(nafld)).astype(int)
    order = np.random.default_rng(0).permutation(len(nafld))
    parts = [np.sort(part) for part in np.split(order, ends[:-1])]
    sites = [nafld.take(part).split()[0] for part in parts]
    training_plan = default_training_plan()
    assert training_plan.rounds >= 5
    twins = [train_federated(training_plan, sites, seed=seed) for seed in SEEDS]
    death = [auc_10y(twin, halves[1], 0) for twin in twins]
    heart = [auc_10y(twin, halves[1], 1) for twin in twins]
    assert min(death) >= auc_10y(pooled, halves[1], 0) - 0.02
    assert min(heart) > cox_auc_10y(halves, 1)
