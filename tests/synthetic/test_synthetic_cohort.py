import numpy as np
import pytest
from cardiometabolic import PROGRAMME

from gemel.core.errors import GemelError
from gemel.synthetic.cohort import sample


def test_the_model_knows_no_exact_number_of_patients(real, model, cohort):
    assert model.total != len(real)
    assert cohort.source_patients_estimate == pytest.approx(len(real), rel=0.05)


def test_missing_stays_missing_as_often_as_in_the_population(model, provenance, real):
    cohort = sample(model, patients=5_000, seed=2, provenance=provenance)
    for j, feature in enumerate(PROGRAMME.features):
        real_share = np.isnan(real.values[:, j]).mean()
        assert np.isnan(cohort.values[:, j]).mean() == pytest.approx(real_share, abs=0.03), feature.name


def test_values_stay_within_public_bounds_and_in_the_bin_that_was_drawn(model, provenance):
    cohort = sample(model, patients=3_000, seed=4, provenance=provenance)
    drawn, again = model.sample(3_000, seed=4), model.domain.encode_features(cohort.values)
    for j, feature in enumerate(PROGRAMME.features):
        assert (drawn[feature.name] == again[feature.name]).all(), feature.name
        assert np.nanmin(cohort.values[:, j]) >= feature.low
        assert np.nanmax(cohort.values[:, j]) <= feature.high


def test_binary_features_are_zero_or_one(cohort):
    for name in ("male", "fatty_liver", "diabetes_history"):
        column = cohort.values[:, PROGRAMME.feature_names.index(name)]
        assert set(column[~np.isnan(column)].tolist()) <= {0.0, 1.0}


def test_equal_seeds_give_equal_cohorts_and_others_differ(model, provenance):
    one, same, other = (sample(model, patients=50, seed=s, provenance=provenance) for s in (1, 1, 2))
    assert np.array_equal(one.values, same.values, equal_nan=True)
    assert np.array_equal(one.time_years, same.time_years)
    assert one.release == same.release != other.release
    assert not np.array_equal(one.values, other.values, equal_nan=True)


def test_a_cohort_under_a_condition_meets_it(model, provenance):
    given = {"male": model.domain.equal("male", 0.0)}
    women = sample(model, patients=200, seed=1, provenance=provenance, given=given)
    assert (women.values[:, PROGRAMME.feature_names.index("male")] == 0).all()


def test_a_history_and_its_outcome_s_prevalent_level_are_one_fact(model, provenance):
    cohort = sample(model, patients=5_000, seed=6, provenance=provenance)
    assert set(model.domain.told_by) == {"diabetes_history", "cardiovascular_history"}
    for history, outcome in model.domain.told_by.items():
        told = cohort.values[:, PROGRAMME.feature_names.index(history)] == 1
        before = cohort.event[:, PROGRAMME.outcome_names.index(outcome.removeprefix("outcome/"))] == -1
        assert told.any()
        assert (told == before).all()


def test_times_are_whole_days_after_the_index_date_and_zero_where_prevalent(cohort):
    days = cohort.time_years.astype(float) * 365.25
    assert np.abs(days - np.rint(days)).max() < 1e-2
    assert (days[cohort.event == -1] == 0).all()
    assert (days[cohort.event != -1] > 0.99).all()
    assert set(np.unique(cohort.event)) == {-1, 0, 1}


@pytest.mark.parametrize("source", ["synthesis", "twin", "whole"])
def test_a_source_without_a_privacy_statement_is_refused(model, provenance, source):
    del provenance[source]
    with pytest.raises(GemelError, match="GEM702"):
        sample(model, patients=5, seed=1, provenance=provenance)


@pytest.mark.parametrize(
    ("source", "field", "value"),
    [
        ("twin", "epsilon", float("inf")),
        ("twin", "epsilon", 0.0),
        ("twin", "delta", 1.0),
        ("twin", "mechanisms", []),
        ("twin", "unit", "record"),
        ("synthesis", "neighbouring", "replace one"),
        ("whole", "epsilon", 1.0),
        ("whole", "noise", "numpy"),
    ],
)
def test_a_statement_that_bounds_nothing_or_something_else_is_refused(
    model, provenance, source, field, value
):
    provenance[source] = provenance[source] | {field: value}
    with pytest.raises(GemelError, match="GEM702"):
        sample(model, patients=5, seed=1, provenance=provenance)


def test_a_statement_about_tables_with_more_noise_is_refused(model, provenance):
    mechanism = provenance["synthesis"]["mechanisms"][0] | {"noise_multiplier": 9.0}
    provenance["synthesis"] = provenance["synthesis"] | {"mechanisms": [mechanism]}
    with pytest.raises(GemelError, match="GEM702"):
        sample(model, patients=5, seed=1, provenance=provenance)


@pytest.mark.parametrize(("field", "value"), [("programme", "other"), ("surprise", 1)])
def test_provenance_of_another_release_is_refused(model, provenance, field, value):
    with pytest.raises(GemelError, match="GEM702"):
        sample(model, patients=5, seed=1, provenance=provenance | {field: value})


def test_what_the_history_says_was_there_was_there(model, provenance):
    cohort = sample(model, patients=2_000, seed=3, provenance=provenance)
    diabetic = cohort.values[:, PROGRAMME.feature_names.index("diabetes_history")] == 1
    assert ((cohort.event[:, 2] == -1) == diabetic).all()
    assert 0.02 < diabetic.mean() < 0.5
