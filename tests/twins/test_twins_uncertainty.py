"""Intervals over models, people, chance and what is missing; conformal ones of a hospital on a whole programme."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import three_kinds
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from three_kinds import NOISE_MMHG, PROGRAMME, mean_pressure, people, three_kinds_twin
from torch import nn

from gemel.core.errors import GemelError
from gemel.core.study import Clipping, TrainingPlan
from gemel.privacy.engine.trainer import DpTrainer
from gemel.privacy.noise import NoiseSource
from gemel.twins.hazard import HazardTwin
from gemel.twins.uncertainty import (
    calibrate_set,
    calibrate_time,
    calibrate_value,
    coverage,
    drawn_models,
    interval,
    privacy_deviation,
)
from gemel.twins.uncertainty.missing_values import completions, drawn_columns, is_flag, reference_share

TWIN = three_kinds_twin()
MODELS = drawn_models(TWIN, {"level": 0.1, "weights": 0.1}, models=5, seed=1)
_AGE, _MALE, _WEIGHT, _PRESSURE, _HDL = range(5)


def lacking(values, *columns):
    changed = values.copy()
    changed[:, list(columns)] = np.nan
    return changed


def width_of_logits(band):
    return np.log(band.high / (1 - band.high)) - np.log(band.low / (1 - band.low))


def test_intervals_of_a_true_twin_hold_what_is_measured():
    values = people(1500, seed=3)
    found = interval(TWIN, values, level=0.8)
    measured = mean_pressure(values) + NOISE_MMHG * np.random.default_rng(0).normal(size=1500)
    band = found.values["pressure"]
    assert np.mean((band.low <= measured) & (measured <= band.high)) == pytest.approx(0.8, abs=0.03)
    assert band.middle == pytest.approx(mean_pressure(values), abs=4)
    assert (band.widening == 1).all()


def test_intervals_with_features_missing_hold_as_often():
    # People who are as the public reference says: then the interval must be right, not only wide.
    random = np.random.default_rng(4)
    values = people(1500, seed=3)
    values[:, _WEIGHT] = np.clip(random.normal(28, 6, 1500), 15, 60)
    values[:, _AGE] = np.clip(random.normal(55, 15, 1500), 18, 100)
    measured = mean_pressure(values) + NOISE_MMHG * random.normal(size=1500)
    band = interval(TWIN, lacking(values, _WEIGHT, _AGE), level=0.9).values["pressure"]
    assert np.mean((band.low <= measured) & (measured <= band.high)) == pytest.approx(0.9, abs=0.03)
    # By hand: sqrt(12² + (0.3 · 15)² + (0.5 · 6)²) / 12, a little less for the bounds.
    assert band.widening.mean() == pytest.approx(math.sqrt(144 + 4.5**2 + 3**2) / 12, rel=0.03)


def test_a_risk_by_one_model_with_nothing_missing_has_no_interval():
    values = people(4, seed=0)
    band = interval(TWIN, values).risks["death"]
    assert np.isnan(band.low).all()
    assert np.isnan(band.high).all()
    assert band.middle == pytest.approx(TWIN.predict(values).cumulative_incidence[:, [5, 10], 0])


def test_a_risk_by_several_models_lies_between_them():
    values = people(30, seed=0)
    found = interval(TWIN, values, models=MODELS)
    risks = np.stack([m.predict(values).cumulative_incidence[:, [5, 10], 0] for m in MODELS])
    band = found.risks["death"]
    assert (band.low >= risks.min(axis=0) - 1e-9).all()
    assert (band.high <= risks.max(axis=0) + 1e-9).all()
    assert (band.high > band.low).all()
    assert any("5 models" in text for text in found.holds)


def test_the_middle_stays_what_the_twin_predicts():
    values = lacking(people(50, seed=0), _WEIGHT, _HDL)
    band = interval(TWIN, values).risks["death"]
    said = TWIN.predict(values).cumulative_incidence[:, [5, 10], 0]
    assert (band.low < said).all()
    assert (said < band.high).all()
    assert np.abs(np.log(band.middle / said)).max() < 0.15


@settings(max_examples=12, deadline=None)
@given(st.sets(st.integers(0, 4)), st.sets(st.integers(0, 4)), st.integers(0, 5))
def test_more_missing_is_never_narrower_on_average(first, more, seed):
    values = people(60, seed=seed)
    few, many = lacking(values, *first), lacking(values, *(first | more))
    one, other = (interval(TWIN, v, models=MODELS, seed=seed) for v in (few, many))
    for name in ("death", "grade"):
        narrow, wide = (width_of_logits(found.risks[name])[:, -1].mean() for found in (one, other))
        assert wide >= narrow * 0.97
    narrow, wide = (np.mean(f.values["pressure"].high - f.values["pressure"].low) for f in (one, other))
    assert wide >= narrow * 0.97


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**11 - 1), st.integers(0, 100))
def test_any_subset_of_the_features_gives_an_interval(bits, seed):
    columns = [i for i in range(len(PROGRAMME.columns)) if bits >> i & 1]
    found = interval(TWIN, lacking(people(3, seed=seed), *columns), models=MODELS[:2])
    for bands in (found.risks, found.values, found.courses):
        for band in bands.values():
            assert (band.low <= band.middle).all()
            assert (band.middle <= band.high).all()
            assert (band.widening >= 1).all()


def test_missing_features_alone_are_an_infinite_widening():
    # One model: nothing else makes a risk uncertain.
    band = interval(TWIN, lacking(people(5, seed=0), _AGE)).risks["death"]
    assert np.isinf(band.widening).all()
    assert interval(TWIN, people(5, seed=0)).risks["death"].widening.tolist() == [1.0] * 5


def test_equal_seeds_give_equal_intervals_and_order_does_not_matter():
    values = lacking(people(6, seed=0), _WEIGHT)
    values[::2, _WEIGHT] = 27.0
    one, same = (interval(TWIN, values, models=MODELS) for _ in range(2))
    assert (one.risks["death"].low == same.risks["death"].low).all()
    alone = interval(TWIN, values[:1], models=MODELS).risks["death"]
    assert alone.low == pytest.approx(one.risks["death"].low[:1])


def test_what_is_known_is_not_drawn():
    values = lacking(people(20, seed=0), _WEIGHT)
    full = completions(PROGRAMME, values, draws=8, seed=0)
    known = np.isfinite(values)
    assert (
        full[:, :, :][np.repeat(known[:, None], 8, axis=1)]
        == np.repeat(values[:, None], 8, axis=1)[np.repeat(known[:, None], 8, axis=1)]
    ).all()
    assert np.isfinite(full).all()


def test_draws_are_the_public_reference_within_the_bounds():
    full = completions(PROGRAMME, np.full((400, len(PROGRAMME.columns)), np.nan), draws=32, seed=0)
    for i, feature in enumerate(PROGRAMME.columns):
        drawn = full[:, :, i]
        if not drawn_columns(PROGRAMME)[i]:
            assert np.isnan(drawn).all()
            continue
        assert feature.low <= drawn.min()
        assert drawn.max() <= feature.high
        if is_flag(feature):
            assert drawn.mean() == pytest.approx(reference_share(feature), abs=0.01)
        else:
            assert drawn.mean() == pytest.approx(feature.reference_mean, abs=0.1 * feature.scale)
            assert drawn.std() == pytest.approx(feature.scale, rel=0.1)


def test_who_lacks_one_feature_more_keeps_the_draws_of_the_others():
    values = people(10, seed=0)
    one = completions(PROGRAMME, lacking(values, _WEIGHT), draws=8, seed=3)
    both = completions(PROGRAMME, lacking(values, _WEIGHT, _AGE), draws=8, seed=3)
    assert (one[:, :, _WEIGHT] == both[:, :, _WEIGHT]).all()


def test_drawn_models_have_the_covariance_that_was_given():
    size = sum(a.size for a in TWIN.to_arrays().values())
    random = np.random.default_rng(0)
    root = random.normal(size=(size, 3)) * 0.1
    models = drawn_models(TWIN, root @ root.T, models=400, seed=0)
    start = np.concatenate([a.ravel() for a in TWIN.to_arrays().values()])
    moved = np.stack([np.concatenate([a.ravel() for a in m.to_arrays().values()]) for m in models]) - start
    assert np.cov(moved.T) == pytest.approx(root @ root.T, abs=0.02)
    assert isinstance(models[0], type(TWIN))


@pytest.mark.parametrize(
    "covariance", [{"nothing": 1.0}, {"level": -1.0}, np.eye(3), {"level": float("nan")}]
)
def test_a_covariance_that_does_not_fit_is_refused(covariance):
    with pytest.raises(GemelError, match="GEM631"):
        drawn_models(TWIN, covariance, models=2, seed=0)


def test_a_negative_variance_is_refused():
    size = sum(a.size for a in TWIN.to_arrays().values())
    with pytest.raises(GemelError, match="GEM631"):
        drawn_models(TWIN, -np.eye(size), models=2, seed=0)


def test_models_of_another_programme_are_refused():
    from cardiometabolic import PROGRAMME as OTHER

    with pytest.raises(GemelError, match="GEM631"):
        interval(TWIN, people(2, seed=0), models=(HazardTwin(OTHER),))
    with pytest.raises(GemelError, match="GEM631"):
        interval(TWIN, people(2, seed=0), level=90)


@pytest.fixture(scope="module")
def halves():
    data = three_kinds.dataset(TWIN, people(9000, seed=11, missing=0.2), seed=12)
    return [
        (part, TWIN.predict(part.values))
        for part in (data.take(np.arange(4500)), data.take(np.arange(4500, 9000)))
    ]


@pytest.mark.parametrize("endpoint", ["death", "grade"])
def test_sets_of_a_hospital_hold_as_often_as_they_say(halves, endpoint):
    (mine, said), (others, said_of_others) = halves
    found = calibrate_set(said, mine, PROGRAMME, endpoint, level=0.9)
    covered, weight = found.covered(said_of_others, others, keep_likeliest=False)
    (share,) = coverage(covered, nominal=0.9, weight=weight)
    assert share.share.value == pytest.approx(0.9, abs=0.025)
    kept, _ = found.covered(said_of_others, others)
    assert (kept | ~covered).all()
    assert found.patients > 1000


def test_intervals_of_a_hospital_mend_a_twin_that_is_wrong_there(halves):
    (mine, said), (others, said_of_others) = halves
    mine, others = (replace(p, targets=p.targets + np.float32([15, 0])) for p in (mine, others))
    found = calibrate_value(said, mine, PROGRAMME, "pressure", level=0.9)
    covered, weight = found.covered(said_of_others, others)
    (share,) = coverage(covered, nominal=0.9, weight=weight)
    assert share.share.value == pytest.approx(0.9, abs=0.025)
    low, high = found.interval(said_of_others)
    assert np.mean(high - low) > 2 * 1.645 * NOISE_MMHG


def test_a_time_bound_of_a_hospital_holds(halves):
    (mine, said), (others, said_of_others) = halves
    found = calibrate_time(said, mine, PROGRAMME, "death", level=0.9)
    covered, weight = found.covered(said_of_others, others)
    (share,) = coverage(covered, nominal=0.9, weight=weight)
    assert share.share.value == pytest.approx(0.9, abs=0.025)
    bound = found.bound(said_of_others)
    assert bound.min() > 0
    assert bound.max() == 10


def test_groups_have_thresholds_of_their_own_where_they_are_large_enough(halves):
    (mine, said), _ = halves
    group = np.where(mine.values[:, _MALE] > 0.5, "men", "women").astype("U9")
    group[:3] = "too few"
    found = calibrate_set(said, mine, PROGRAMME, "grade", level=0.9, group=group)
    assert set(found.by_group) == {"men", "women"}
    limits = found.thresholds(3, np.array(["men", "too few", "nobody"]))
    assert limits.tolist() == [found.by_group["men"], found.threshold, found.threshold]


def test_too_few_patients_make_no_calibration():
    data = three_kinds.dataset(TWIN, people(8, seed=11), seed=12, leaving=False)
    with pytest.raises(GemelError, match="GEM632"):
        calibrate_value(TWIN.predict(data.values), data, PROGRAMME, "pressure", level=0.9)


@pytest.mark.parametrize(
    ("calibrate", "endpoint"),
    [
        (calibrate_value, "death"),
        (calibrate_set, "pressure"),
        (calibrate_time, "grade"),
        (calibrate_set, "no such"),
    ],
)
def test_an_endpoint_of_another_kind_is_refused(halves, calibrate, endpoint):
    (mine, said), _ = halves
    with pytest.raises(GemelError, match="GEM631"):
        calibrate(said, mine, PROGRAMME, endpoint, level=0.9)


class Flat(nn.Module):
    """A loss without slope: what is left after training is noise."""

    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(2000))

    def forward(self, batch):
        return 0.0 * (batch["x"] * self.weights).sum(dim=-1)


@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_the_deviation_of_privacy_noise_is_the_one_that_training_leaves(momentum):
    plan = TrainingPlan(
        rounds=3,
        local_steps=4,
        learning_rate=0.7,
        momentum=momentum,
        max_grad_norm=2.0,
        sample_rate=0.5,
        noise_multiplier=3.0,
    )
    patients, noise = (100.0, 300.0), NoiseSource.for_tests(1)
    model = np.zeros(2000)
    for _ in range(plan.rounds):
        updates = []
        for number in patients:
            site = Flat()
            site.weights.data = torch.tensor(model, dtype=torch.float32)
            trainer = DpTrainer(plan, noise=noise, expected_patients=number)
            trainer.train(site, {"x": torch.zeros(int(number), 2000)})
            updates.append(site.weights.detach().numpy().astype(np.float64))
        model = np.average(updates, axis=0, weights=patients)
    assert model.std() == pytest.approx(privacy_deviation(plan, patients), rel=0.05)


def test_the_noise_of_an_adaptive_bound_is_not_known():
    plan = TrainingPlan(
        rounds=1,
        local_steps=1,
        learning_rate=1.0,
        momentum=0.0,
        max_grad_norm=1.0,
        sample_rate=1.0,
        noise_multiplier=1.0,
        clipping=Clipping.ADAPTIVE,
        quantile_noise_multiplier=5.0,
    )
    with pytest.raises(GemelError, match="GEM631"):
        privacy_deviation(plan, [100.0])
