import dataclasses
import itertools

import numpy as np
import pytest
from cardiometabolic import PROGRAMME

from gemel.core.errors import GemelError
from gemel.synthetic.cohort import fit, sample
from gemel.synthetic.marginals import cliques, count_marginals, encode, levels

SIZES = {f.name: levels(f) for f in PROGRAMME.features}


def joint_of_model(model, a, b):
    """The model's exact pair table: variable elimination over the conditionals, without sampling."""
    age = model.conditionals[0].table
    given_age = {}  # P(ancestors-or-self pair) by brute force: P(a, b | age) along the trees
    steps = {s.feature: s for s in model.conditionals}

    def chain(name):
        parents = steps[name].parents
        return [name] if len(parents) < 2 else [*chain(parents[1]), name]

    def with_history(name, keep):
        """P(keep, name | age) for an ancestor `keep` of `name` (or itself)."""
        path = chain(name)
        path = path[path.index(keep) :]
        if keep not in given_age:
            first, *rest = chain(keep)
            table = steps[first].table
            for step in rest:
                table = np.einsum("ap,apx->ax", table, steps[step].table)
            given_age[keep] = table
        table = np.einsum("ax,xy->axy", given_age[keep], np.eye(SIZES[keep]))
        for step in path[1:]:
            table = np.einsum("akp,apx->akx", table, steps[step].table)
        return table

    if "age_years" in (a, b):
        other = b if a == "age_years" else a
        table = age[:, None] * with_history(other, other).sum(axis=1)
        return table if a == "age_years" else table.T
    common = [n for n in chain(a) if n in chain(b)]
    if not common:
        one, two = with_history(a, a).sum(axis=1), with_history(b, b).sum(axis=1)
        return np.einsum("g,ga,gb->ab", age, one, two)
    meet = common[-1]
    weight = with_history(meet, meet).sum(axis=1)
    one, two = with_history(a, meet), with_history(b, meet)
    scale = np.divide(1.0, weight, out=np.zeros_like(weight), where=weight > 0)
    return np.einsum("g,gka,gkb,gk->ab", age, one, two, scale)


def test_sampled_pairs_equal_the_models_also_those_that_nobody_measured(model):
    drawn = model.draw_levels(200_000, seed=3)
    measured = {frozenset(c) for c in cliques(PROGRAMME)}
    pairs = list(itertools.combinations(PROGRAMME.feature_names, 2))
    assert len([p for p in pairs if frozenset(p) not in measured]) > 20
    for a, b in pairs:
        flat = drawn[a] * SIZES[b] + drawn[b]
        found = np.bincount(flat, minlength=SIZES[a] * SIZES[b]).reshape(SIZES[a], SIZES[b]) / 200_000
        # 0.015: three times the total variation that 200,000 draws leave in the largest table.
        assert 0.5 * np.abs(found - joint_of_model(model, a, b)).sum() < 0.015, (a, b)


def test_almost_noise_free_tables_give_back_the_populations_pair_tables(real):
    tables = count_marginals(PROGRAMME, real)
    drawn = fit(PROGRAMME, tables, noise_multiplier=0.01, sites=1).draw_levels(100_000, seed=1)
    truth = encode(PROGRAMME, real.values)
    for a, b in cliques(PROGRAMME):
        shares = []
        for codes in (drawn, truth):
            flat = codes[a] * SIZES[b] + codes[b]
            shares.append(np.bincount(flat, minlength=SIZES[a] * SIZES[b]) / len(flat))
        assert 0.5 * np.abs(shares[0] - shares[1]).sum() < 0.025, (a, b)


def test_the_model_knows_no_exact_number_of_patients(real, model):
    assert model.noisy_total != len(real)
    assert model.noisy_total == pytest.approx(len(real), rel=0.05)


def test_the_total_comes_from_the_tables(real):
    shifted = {name: table + 7 for name, table in count_marginals(PROGRAMME, real).items()}
    assert fit(PROGRAMME, shifted, noise_multiplier=1.0, sites=1).noisy_total > len(real) + 100


def test_missing_stays_missing_as_often_as_in_the_population(model, twin, provenance, real):
    cohort = sample(model, twin, patients=5_000, seed=2, provenance=provenance)
    for j, feature in enumerate(PROGRAMME.features):
        real_share = np.isnan(real.values[:, j]).mean()
        assert np.isnan(cohort.values[:, j]).mean() == pytest.approx(real_share, abs=0.03), feature.name


def test_values_are_missing_together_as_in_the_population(model, twin, provenance, real):
    cohort = sample(model, twin, patients=5_000, seed=2, provenance=provenance)
    both = [np.isnan(v[:, 2:4]).all(axis=1).mean() for v in (cohort.values, real.values)]
    assert both[0] == pytest.approx(both[1], abs=0.03)
    assert both[1] > 0.2


def test_values_stay_within_public_bounds_and_in_the_bin_that_was_drawn(model, twin, provenance):
    cohort = sample(model, twin, patients=3_000, seed=4, provenance=provenance)
    drawn, again = model.draw_levels(3_000, seed=4), encode(PROGRAMME, cohort.values)
    for j, feature in enumerate(PROGRAMME.features):
        assert (drawn[feature.name] == again[feature.name]).all(), feature.name
        assert np.nanmin(cohort.values[:, j]) >= feature.low
        assert np.nanmax(cohort.values[:, j]) <= feature.high


def test_binary_features_are_zero_or_one(cohort):
    for name in ("male", "fatty_liver", "diabetes_history"):
        column = cohort.values[:, PROGRAMME.feature_names.index(name)]
        assert set(column[~np.isnan(column)].tolist()) <= {0.0, 1.0}


def test_equal_seeds_give_equal_cohorts_and_others_differ(model, twin, provenance):
    one, same, other = (sample(model, twin, patients=50, seed=s, provenance=provenance) for s in (1, 1, 2))
    assert np.array_equal(one.values, same.values, equal_nan=True)
    assert np.array_equal(one.time_years, same.time_years)
    assert one.release == same.release != other.release
    assert not np.array_equal(one.values, other.values, equal_nan=True)


def test_the_baseline_is_not_drawn_from_the_stream_that_the_twin_draws(model):
    same_stream = np.random.default_rng(11).random((1_000, 1))
    rows = np.broadcast_to(np.cumsum(model.conditionals[0].table), (1_000, len(model.conditionals[0].table)))
    as_the_twin_would = (same_stream >= rows).sum(axis=1)
    assert (model.draw_levels(1_000, seed=11)["age_years"] != as_the_twin_would).any()


def test_times_are_whole_days_after_the_index_date_and_zero_where_prevalent(cohort):
    days = cohort.time_years.astype(float) * 365.25
    assert np.abs(days - np.rint(days)).max() < 1e-2
    assert (days[cohort.event == -1] == 0).all()
    assert (days[cohort.event != -1] > 0.99).all()


@pytest.mark.parametrize("source", ["marginals", "twin", "whole"])
def test_a_source_without_a_privacy_statement_is_refused(model, twin, provenance, source):
    del provenance[source]
    with pytest.raises(GemelError, match="GEM702"):
        sample(model, twin, patients=5, seed=1, provenance=provenance)


@pytest.mark.parametrize(
    ("source", "field", "value"),
    [
        ("twin", "epsilon", float("inf")),
        ("twin", "epsilon", 0.0),
        ("twin", "delta", 1.0),
        ("twin", "mechanisms", []),
        ("twin", "unit", "record"),
        ("marginals", "neighbouring", "replace one"),
        ("whole", "epsilon", 1.0),
        ("whole", "noise", "numpy"),
    ],
)
def test_a_statement_that_bounds_nothing_or_something_else_is_refused(
    model, twin, provenance, source, field, value
):
    provenance[source] = provenance[source] | {field: value}
    with pytest.raises(GemelError, match="GEM702"):
        sample(model, twin, patients=5, seed=1, provenance=provenance)


@pytest.mark.parametrize(("field", "value"), [("noise_multiplier", 9.0), ("count", 3)])
def test_a_statement_about_other_tables_is_refused(model, twin, provenance, field, value):
    mechanism = provenance["marginals"]["mechanisms"][0] | {field: value}
    provenance["marginals"] = provenance["marginals"] | {"mechanisms": [mechanism]}
    with pytest.raises(GemelError, match="GEM702"):
        sample(model, twin, patients=5, seed=1, provenance=provenance)


@pytest.mark.parametrize(("field", "value"), [("sites", 2), ("programme", "other"), ("surprise", 1)])
def test_provenance_of_another_release_is_refused(model, twin, provenance, field, value):
    with pytest.raises(GemelError, match="GEM702"):
        sample(model, twin, patients=5, seed=1, provenance=provenance | {field: value})


def test_tables_without_noise_are_refused(real):
    with pytest.raises(GemelError, match="GEM702"):
        fit(PROGRAMME, count_marginals(PROGRAMME, real), noise_multiplier=0.0, sites=3)


def test_a_twin_that_simulates_something_else_is_refused(model, twin, provenance):
    class Broken:
        def simulate(self, values, *, seed):
            course = twin.simulate(values, seed=seed)
            return dataclasses.replace(course, time_years=course.time_years[:, :2])

    with pytest.raises(GemelError, match="GEM602"):
        sample(model, Broken(), patients=5, seed=1, provenance=provenance)


def test_the_real_twin_simulates_the_cohort(model, provenance):
    from gemel.twins.hazard import HazardTwin

    cohort = sample(model, HazardTwin(PROGRAMME), patients=200, seed=1, provenance=provenance)
    assert set(np.unique(cohort.event)) == {-1, 0, 1}
    diabetic = cohort.values[:, PROGRAMME.feature_names.index("diabetes_history")] == 1
    assert ((cohort.event[:, 2] == -1) == diabetic).all()
