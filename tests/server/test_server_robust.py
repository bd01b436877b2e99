"""One poisoned update in five: the mean follows it, no robust rule does."""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.server.strategy.aggregate import aggregate_median
from flwr.serverapp.strategy.fedtrimmedavg import trim_mean
from flwr.serverapp.strategy.multikrum import select_multikrum
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gemel.core.errors import GemelError
from gemel.core.study import AggregationRule
from gemel.server.aggregate import weighted_mean
from gemel.server.flower.robust import least_updates, robust_mean

ROBUST = [rule for rule in AggregationRule if rule is not AggregationRule.MEAN]
Updates = dict[str, dict[str, np.ndarray]]


def _honest(sites: int = 5, *, seed: int = 0, offset: float = 1.0) -> Updates:
    rng = np.random.default_rng(seed)
    return {
        f"site{i}": {
            "w": (offset + 0.1 * rng.standard_normal((3, 4))).astype(np.float32),
            "b": (offset + 0.1 * rng.standard_normal(2)).astype(np.float32),
        }
        for i in range(sites)
    }


ATTACKS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sign flip": lambda x: -x,
    "times 100": lambda x: 100 * x,
    "random": lambda x: np.random.default_rng(9).normal(0, 10, x.shape).astype(np.float32),
    "huge": lambda x: np.full_like(x, 3e38),
}


def _poisoned(updates: Updates, attack: str, site: str = "site2") -> Updates:
    return {
        name: {k: ATTACKS[attack](v) for k, v in arrays.items()} if name == site else arrays
        for name, arrays in updates.items()
    }


def _outside(model: dict[str, np.ndarray], honest: Updates) -> float:
    """By how much the model leaves the range of the honest updates, in any value."""
    return max(
        float(
            np.maximum(
                model[name].astype(np.float64) - np.max([u[name] for u in honest.values()], axis=0),
                np.min([u[name] for u in honest.values()], axis=0) - model[name].astype(np.float64),
            ).max()
        )
        for name in model
    )


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("rule", ROBUST)
def test_one_poisoned_site_in_five_moves_no_robust_rule_beyond_the_honest_spread(
    rule: AggregationRule, attack: str
) -> None:
    honest = _honest()
    updates = _poisoned(honest, attack)
    others = {site: arrays for site, arrays in honest.items() if site != "site2"}
    assert _outside(robust_mean(updates, rule, malicious=1), others) <= 0


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_plain_mean_follows_the_poisoned_site(attack: str) -> None:
    honest = _honest()
    with np.errstate(over="ignore"):
        model = weighted_mean(_poisoned(honest, attack), dict.fromkeys(honest, 1.0))
    others = {site: arrays for site, arrays in honest.items() if site != "site2"}
    assert _outside(model, others) > 0.1


@given(st.integers(0, 10_000), st.sampled_from(ROBUST), st.sampled_from(list(ATTACKS)), st.integers(0, 4))
def test_whichever_site_is_poisoned_the_model_stays_among_the_honest(
    seed: int, rule: AggregationRule, attack: str, which: int
) -> None:
    honest = _honest(seed=seed)
    bad = f"site{which}"
    others = {site: arrays for site, arrays in honest.items() if site != bad}
    assert _outside(robust_mean(_poisoned(honest, attack, bad), rule, malicious=1), others) <= 0


def test_trimmed_mean_and_median_are_scipys() -> None:
    for sites, cut in ((5, 1), (5, 2), (7, 2), (9, 4), (10, 3)):
        updates = _honest(sites)
        stacked = np.stack([updates[s]["w"].astype(np.float64) for s in sorted(updates)])
        trimmed = robust_mean(updates, AggregationRule.TRIMMED_MEAN, malicious=cut)["w"]
        assert np.allclose(trimmed, stats.trim_mean(stacked, (cut + 0.01) / sites, axis=0), atol=1e-6)
        median = robust_mean(updates, AggregationRule.MEDIAN, malicious=0)["w"]
        assert np.allclose(median, np.median(stacked, axis=0), atol=1e-6)


def test_krum_gives_one_update_as_it_is_and_multi_krum_the_mean_of_the_kept() -> None:
    """Against the definition: the smallest sum of squared distances to the n - f - 2 nearest others."""
    updates = _poisoned(_honest(7, seed=3), "times 100", "site0")
    flat = {s: np.concatenate([u["b"], u["w"].ravel()]).astype(np.float64) for s, u in updates.items()}
    scores = {}
    for site, x in flat.items():
        distances = sorted(float(((x - y) ** 2).sum()) for other, y in flat.items() if other != site)
        scores[site] = sum(distances[: 7 - 2 - 2])
    ranked = sorted(scores, key=scores.__getitem__)
    krum = robust_mean(updates, AggregationRule.KRUM, malicious=2)
    assert all(np.array_equal(krum[name], updates[ranked[0]][name]) for name in krum)
    multi = robust_mean(updates, AggregationRule.MULTI_KRUM, malicious=2)
    expected = np.mean([updates[s]["w"].astype(np.float64) for s in ranked[:5]], axis=0)
    assert np.allclose(multi["w"], expected, atol=1e-6)


def test_krum_tells_near_updates_apart_far_from_zero() -> None:
    """|x|² + |y|² - 2xy would give noise here without the differences from the median."""
    honest = _honest(5, offset=3e4)
    updates = {**honest, "site4": {k: v + np.float32(2.0) for k, v in honest["site4"].items()}}
    others = {site: arrays for site, arrays in honest.items() if site != "site4"}
    assert _outside(robust_mean(updates, AggregationRule.KRUM, malicious=1), others) <= 0


@pytest.mark.parametrize("rule", ROBUST)
def test_too_few_updates_for_so_many_poisoned_ones_are_refused(rule: AggregationRule) -> None:
    least = least_updates(rule, malicious=1)
    assert least == (5 if "krum" in rule else 3)
    robust_mean(_honest(least), rule, malicious=1)
    with pytest.raises(GemelError, match="GEM501"):
        robust_mean(_honest(least - 1), rule, malicious=1)
    with pytest.raises(GemelError, match="GEM501"):
        robust_mean(_honest(5), rule, malicious=-1)


def test_the_mean_is_not_taken_for_a_robust_rule() -> None:
    with pytest.raises(GemelError, match="GEM303"):
        robust_mean(_honest(), AggregationRule.MEAN, malicious=0)


@pytest.mark.parametrize("rule", ROBUST)
def test_dtype_shape_and_inputs_are_kept_and_the_order_of_sites_is_of_no_consequence(
    rule: AggregationRule,
) -> None:
    updates = _honest()
    before = {s: {k: v.copy() for k, v in u.items()} for s, u in updates.items()}
    model = robust_mean(updates, rule, malicious=1)
    again = robust_mean(dict(reversed(updates.items())), rule, malicious=1)
    assert {k: (v.shape, v.dtype.name) for k, v in model.items()} == {
        "w": ((3, 4), "float32"),
        "b": ((2,), "float32"),
    }
    assert all(np.array_equal(model[k], again[k]) for k in model)
    assert all(np.array_equal(updates[s][k], before[s][k]) for s in updates for k in updates[s])


def test_flowers_functions_are_those_that_this_was_written_for() -> None:
    """The contract with flwr 1.41.0: signatures, and what they do on a small case."""
    assert importlib.metadata.version("flwr") == "1.41.0"
    assert list(inspect.signature(trim_mean).parameters) == ["array", "cut_fraction"]
    assert list(inspect.signature(aggregate_median).parameters) == ["results"]
    assert list(inspect.signature(select_multikrum).parameters) == [
        "contents",
        "num_malicious_nodes",
        "num_nodes_to_select",
    ]
    assert trim_mean(np.array([[1.0], [2.0], [9.0], [-5.0]]), 0.25).tolist() == [1.5]
    medians = aggregate_median([([np.array([v])], 1) for v in (1.0, 7.0, 2.0)])
    assert [m.tolist() for m in medians] == [[2.0]]
    contents = [
        RecordDict({"arrays": ArrayRecord({"w": Array(np.array([v, 0.0]))})})
        for v in (0.0, 1.0, 2.0, 50.0, 0.9)
    ]
    chosen = select_multikrum(contents, num_malicious_nodes=1, num_nodes_to_select=1)
    assert chosen[0] is contents[1] or chosen[0] is contents[4]
