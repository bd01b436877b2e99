import dataclasses

import numpy as np
import pytest
from cardiometabolic import PROGRAMME
from lifelines import KaplanMeierFitter
from scipy.stats import spearmanr

from gemel.core.errors import GemelError
from gemel.synthetic.domain import domain_of
from gemel.synthetic.report.comparison import NOTE, _rank_correlation, compare, kaplan_meier


@pytest.fixture(scope="module")
def split(real):
    return real.split()


@pytest.fixture(scope="module")
def comparison(cohort, split):
    return compare(cohort, *split)


@pytest.fixture(scope="module")
def copied(cohort, split):
    """A cohort that is a copy of the patients used: what a broken release would be."""
    some = split[0].take(np.arange(400))
    copy = dataclasses.replace(cohort, values=some.values, time_years=some.time_years, event=some.event)
    return compare(copy, *split)


def test_kaplan_meier_equals_lifelines_with_ties_and_censoring(real):
    time, event = np.ceil(real.time_years[:, 1] * 4) / 4, real.event[:, 1]
    grid = np.linspace(0, 15, 31)
    survival, at_risk = kaplan_meier(time, event, grid)
    free = event != -1
    fitter = KaplanMeierFitter().fit(time[free], event[free] == 1)
    assert np.allclose(survival, fitter.survival_function_at_times(grid).to_numpy(), atol=1e-9)
    assert at_risk[0] == free.sum()


def test_rank_correlation_equals_scipy(real):
    codes = domain_of(PROGRAMME).encode_features(real.values)
    expected = spearmanr(np.stack(list(codes.values()), axis=1)).statistic
    assert np.allclose(_rank_correlation(codes), expected, atol=1e-9)


def test_a_fitted_cohort_is_near_and_says_that_the_comparison_is_exact(comparison):
    assert comparison.note == NOTE
    assert comparison.pairs_virtual < 2.5 * comparison.pairs_holdout
    assert max(f.virtual for f in comparison.features) < 0.15
    assert all(c.largest_difference < 0.12 for c in comparison.curves)
    assert all(c.years[0] == 0 and c.real[0] == c.virtual[0] == 1 for c in comparison.curves)


def test_the_smoke_test_sees_a_copy_and_passes_a_fitted_cohort(comparison, copied):
    assert copied.neighbours.share_nearer_to_real > 0.55
    assert copied.neighbours.copies_virtual == 1.0
    assert comparison.neighbours.copies_virtual < 0.01
    assert abs(comparison.neighbours.share_nearer_to_real - 0.5) < 0.1


def test_distances_see_a_feature_that_is_wrong(cohort, split, comparison):
    values = cohort.values.copy()
    values[:, PROGRAMME.feature_names.index("fatty_liver")] = 1
    worse = compare(dataclasses.replace(cohort, values=values), *split)
    found = {f.feature: f.virtual for f in worse.features}
    assert found["fatty_liver"] > 0.4
    assert worse.pairs_virtual > comparison.pairs_virtual
    assert worse.features[0].virtual == comparison.features[0].virtual


def test_curves_see_outcomes_that_are_wrong(cohort, split):
    event = np.where(cohort.event == 1, 0, cohort.event)
    worse = compare(dataclasses.replace(cohort, event=event.astype(np.int8)), *split)
    assert all(c.largest_difference > 0.15 for c in worse.curves)
    assert all(c.mean_survival_difference > 0.05 for c in worse.curves)


def test_another_programmes_data_are_refused(cohort, real):
    renamed = dataclasses.replace(real, outcomes=("a", "b", "c"))
    with pytest.raises(GemelError, match="GEM701"):
        compare(cohort, renamed, real)
