"""On fine bins and (next to) without noise, the estimates are those of numpy, scipy, scikit-learn and lifelines.

Each tolerance is that of the bins, and says why; what is not binned agrees to rounding.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from described_population import HORIZON, LEVELS, SCORE_EDGES, draw
from lifelines import KaplanMeierFitter
from lifelines.utils import concordance_index
from scipy import stats
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, roc_auc_score

from gemel.core.dataset import Dataset
from gemel.core.statistic_request import (
    Binned,
    ContingencyRequest,
    CountRequest,
    HistogramRequest,
    MomentsRequest,
    PredictionRequest,
    SurvivalRequest,
)
from gemel.privacy.statistics import estimates, tabulate

CLINICAL = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "clinical"


def read(request, dataset, *, predictions=None):
    """The estimate from the exact table: as if the noise were a ten-millionth of a patient."""
    table = tabulate(request, dataset, predictions=predictions)
    (result,) = estimates([request], table, hospitals=1, noise_share=1e-6 / request.noise_multiplier)
    return result


def grid(low, high, bins):
    return tuple(np.linspace(low, high, bins + 1).tolist())


@pytest.fixture(scope="module")
def people():
    return draw(6_000, seed=5)


@pytest.fixture(scope="module")
def known(people):
    values = people.values[:, 0].astype(float)
    return values[np.isfinite(values)]


def test_a_count_and_a_histogram_are_numpys(people, known):
    assert read(CountRequest(name="n", noise_multiplier=1.0), people).patients.value == len(people)
    edges = grid(0, 3, 30)
    result = read(
        HistogramRequest(name="h", noise_multiplier=1.0, of=Binned(variable="creatinine", edges=edges)),
        people,
    )
    counts, _ = np.histogram(np.clip(known, 0, 3), edges)
    assert [e.value for e in result.patients] == counts.tolist()
    assert result.missing.value == len(people) - len(known)


def test_quantiles_are_numpys_within_a_part_of_a_bin(people, known):
    p = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
    binned = Binned(variable="creatinine", edges=grid(0, 3, 60))
    result = read(HistogramRequest(name="h", noise_multiplier=1.0, of=binned, probabilities=p), people)
    found = [q.value.value for q in result.quantiles]
    # A bin is 0.05 wide; within it the density is all but straight, so a fifth of a bin is much.
    assert found == pytest.approx(np.quantile(known, p).tolist(), abs=0.01)


def test_mean_and_variance_are_numpys_and_not_binned(people, known):
    request = MomentsRequest(name="m", noise_multiplier=0.25, variable="creatinine", low=0.0, high=3.0)
    result, clamped = read(request, people), np.clip(known, 0, 3)
    # Parts of 1/2048 of a patient, rounded both ways: errors of 3 / 2048 / sqrt(n) and less.
    assert result.mean.value == pytest.approx(clamped.mean(), abs=1e-4)
    assert result.variance.value == pytest.approx(clamped.var(), abs=2e-4)
    assert result.mean.standard_error == pytest.approx(clamped.std() / np.sqrt(len(known)), rel=0.01)
    centred = clamped - clamped.mean()
    of_variance = np.sqrt(((centred**4).mean() - clamped.var() ** 2) / len(known))
    assert result.variance.standard_error == pytest.approx(of_variance, rel=0.03)


def test_independence_is_pearsons_chi_square(people):
    halves = (0.0, 0.5, 1.0)
    of = (Binned(variable="score", edges=SCORE_EDGES), Binned(variable="treated", edges=halves))
    request = ContingencyRequest(name="c", noise_multiplier=1.0, of=of)
    table = tabulate(request, people)["c"][:-1, :-1]
    oracle = stats.chi2_contingency(table, correction=False)
    test = read(request, people).independence
    assert test.statistic == pytest.approx(oracle.statistic, rel=1e-4)
    assert (test.p_value, test.degrees_of_freedom) == (pytest.approx(oracle.pvalue, rel=1e-4), oracle.dof)


def test_the_odds_ratio_is_scipys(people):
    halves = (0.0, 0.5, 1.0)
    of = tuple(Binned(variable=name, edges=halves) for name in ("male", "treated"))
    request = ContingencyRequest(name="c", noise_multiplier=1.0, of=of)
    table = tabulate(request, people)["c"][:-1, :-1]
    oracle = stats.contingency.odds_ratio(table, kind="sample")
    limits = oracle.confidence_interval(0.95)
    found = read(request, people).odds_ratios[0].value
    assert found.value == pytest.approx(oracle.statistic)
    # Fieller's and Woolf's intervals agree to first order only.
    assert (found.low, found.high) == (
        pytest.approx(limits.low, rel=0.01),
        pytest.approx(limits.high, rel=0.01),
    )


def test_a_third_variable_makes_strata(people):
    halves = (0.0, 0.5, 1.0)
    of = tuple(Binned(variable=name, edges=halves) for name in ("stroke_by_horizon", "treated", "male"))
    request = ContingencyRequest(name="c", noise_multiplier=1.0, of=of)
    table = tabulate(request, people)["c"][:-1, :-1, :-1]
    each = [stats.chi2_contingency(table[:, :, k], correction=False).statistic for k in range(2)]
    result = read(request, people)
    assert result.independence.statistic == pytest.approx(sum(each), rel=1e-4)
    assert result.independence.degrees_of_freedom == 2
    ratio = stats.contingency.odds_ratio(table[:, :, 1], kind="sample").statistic
    assert next(r for r in result.odds_ratios if r.stratum == 1).value.value == pytest.approx(ratio)


def greenwood(fitter, at):
    """Greenwood's standard error, from the oracle's own event table."""
    table = fitter.event_table
    table = table[(table.index > 0) & (table.index <= at)]
    terms = table.observed / (table.at_risk * (table.at_risk - table.observed))
    return float(fitter.predict(at) * np.sqrt(terms.sum()))


def check_curve(dataset, result, j, *, times, tolerance):
    time, event = dataset.time_years[:, j].astype(float), dataset.event[:, j] == 1
    fitter = KaplanMeierFitter().fit(time, event)
    for at in times:
        i = result.ends_years.index(at)
        found = result.curves[0].survival[i]
        assert found.value == pytest.approx(float(fitter.predict(at)), abs=tolerance)
        assert found.standard_error == pytest.approx(greenwood(fitter, at), rel=0.06)
        assert result.curves[0].at_risk[i].value == np.count_nonzero(
            time >= result.ends_years[i] - (result.ends_years[0])
        )


def test_the_curve_is_kaplan_meiers_with_greenwoods_error(people):
    edges = tuple(np.arange(0, 10.25, 0.25).tolist())
    result = read(
        SurvivalRequest(name="s", noise_multiplier=1.0, outcome="stroke", edges_years=edges), people
    )
    # Within a quarter of a year, who leaves counts half: an error of (share leaving x share with event) / 12 each.
    check_curve(people, result, 1, times=(1.0, 2.5, 5.0, 10.0), tolerance=5e-4)


def test_curves_by_a_variable_are_those_of_each_group_alone(people):
    edges, sex = tuple(np.arange(0, 11.0).tolist()), Binned(variable="male", edges=(0.0, 0.5, 1.0))
    by = read(
        SurvivalRequest(name="s", noise_multiplier=1.0, outcome="stroke", edges_years=edges, by=sex), people
    )
    alone = SurvivalRequest(name="s", noise_multiplier=1.0, outcome="stroke", edges_years=edges)
    for group in (0, 1):
        mine = people.take(people.values[:, 1] == group)
        assert by.curves[group].survival == read(alone, mine).curves[0].survival
    assert (by.curves[1].low, by.curves[1].high, by.curves[2].low) == (0.5, 1.0, None)


def fine_score(people):
    """A score that is not on the bins: the level, blurred."""
    random = np.random.default_rng(0)
    return np.clip(people.values[:, 3] + random.uniform(-0.05, 0.05, len(people)), 0, 1)


def binary(edges, **more):
    score = Binned(variable="risk", edges=edges)
    return PredictionRequest(name="p", noise_multiplier=1.0, score=score, outcome="stroke_by_horizon", **more)


def test_auc_brier_and_calibration_of_a_binary_outcome_are_scikit_learns(people):
    risk, truth = fine_score(people), people.targets[:, 0]
    result = read(binary(grid(0, 1, 100)), people, predictions={"risk": risk})
    # In a bin of 0.01 pairs are ties that were not, and risks are its middle: (bin width)² / 12 for Brier.
    assert result.auc.value == pytest.approx(roc_auc_score(truth, risk), abs=1e-3)
    assert result.brier.value == pytest.approx(brier_score_loss(truth, risk), abs=5e-4)
    assert result.c_index is None
    coarse = read(binary(grid(0, 1, 5)), people, predictions={"risk": risk})
    observed, _ = calibration_curve(truth, risk, n_bins=5)
    assert [b.observed.value for b in coarse.calibration][: len(observed)] == pytest.approx(observed.tolist())


def delong(truth, risk):
    """DeLong, DeLong & Clarke-Pearson, Biometrics 1988: the standard error of an AUC."""
    case, control = risk[truth == 1], risk[truth == 0]
    above = (case[:, None] > control) + 0.5 * (case[:, None] == control)
    return float(np.sqrt(above.mean(1).var(ddof=1) / len(case) + above.mean(0).var(ddof=1) / len(control)))


def test_without_noise_the_error_of_an_auc_is_delongs(people):
    risk, truth = people.values[:, 3].astype(float), people.targets[:, 0]
    result = read(binary(SCORE_EDGES), people, predictions={"risk": risk})
    assert result.auc.value == pytest.approx(roc_auc_score(truth, risk))
    assert result.auc.standard_error == pytest.approx(delong(truth, risk), rel=0.02)


def timed(edges, years):
    score = Binned(variable="risk", edges=edges)
    return PredictionRequest(name="p", noise_multiplier=1.0, score=score, outcome="stroke", edges_years=years)


def test_with_censoring_auc_and_brier_are_those_of_the_weighted_individuals(people):
    """The oracle is `gemel.twins.scores`, exact on individuals, itself tested against others."""
    from gemel.twins import scores

    risk = fine_score(people)
    result = read(timed(grid(0, 1, 50), grid(0, HORIZON, 20)), people, predictions={"risk": risk})
    assert result.auc.value == pytest.approx(scores.auc(people, 1, risk, years=HORIZON), abs=2e-3)
    assert result.brier.value == pytest.approx(scores.brier(people, 1, risk, years=HORIZON), abs=2e-3)


def test_the_c_index_is_harrells(people):
    risk = fine_score(people)
    time, event = people.time_years[:, 1].astype(float), people.event[:, 1] == 1
    exact = concordance_index(np.minimum(time, HORIZON), -risk, event & (time <= HORIZON))
    fine = read(timed(grid(0, 1, 40), grid(0, HORIZON, 30)), people, predictions={"risk": risk})
    coarse = read(timed(grid(0, 1, 40), grid(0, HORIZON, 4)), people, predictions={"risk": risk})
    # Bins of 0.025 make ties. Of two events in one interval nobody knows the first: half a pair each way, so
    # coarse times lower the index a little.
    assert fine.c_index.value == pytest.approx(exact, abs=1e-3)
    assert -3e-3 < coarse.c_index.value - exact < 5e-4


def test_calibration_of_a_true_risk_lies_on_the_diagonal():
    many = draw(60_000, seed=2)
    result = read(timed(SCORE_EDGES, grid(0, HORIZON, 10)), many, predictions={"risk": many.values[:, 3]})
    for point, level in zip(result.calibration, LEVELS, strict=True):
        # Deaths that come first (1 in 200 a year) lower the observed risk by up to 3 %.
        assert point.observed.value == pytest.approx(level, abs=0.03)
        assert point.low <= level <= point.high


@pytest.fixture(scope="module")
def olmsted():
    """17,549 people of R's survival::nafld1."""
    path = CLINICAL / "nafld" / "nafld1.csv.gz"
    if not path.is_file():
        pytest.skip("the open data of ../shared/data are not on this machine")
    table = pd.read_csv(path)
    columns = table[["age", "male", "bmi"]].to_numpy(np.float32)
    time = (table["futime"].to_numpy() / 365.25).astype(np.float32)[:, None]
    names = tuple(f"{i:064x}" for i in range(len(table)))
    event = table["status"].to_numpy(np.int8)[:, None]
    return Dataset("nafld", "1", ("age", "male", "bmi"), ("death",), names, columns, time, event)


def test_real_patients_are_described_as_by_the_oracles(olmsted):
    edges = tuple((np.arange(0, 61) / 4).tolist())
    curve = read(SurvivalRequest(name="s", noise_multiplier=1.0, outcome="death", edges_years=edges), olmsted)
    fitter = KaplanMeierFitter().fit(olmsted.time_years[:, 0].astype(float), olmsted.event[:, 0])
    for at in (1.0, 5.0, 10.0, 15.0):
        found = curve.curves[0].survival[curve.ends_years.index(at)]
        assert found.value == pytest.approx(float(fitter.predict(at)), abs=2e-4)
        assert found.standard_error == pytest.approx(greenwood(fitter, at), rel=0.06)
    bmi = olmsted.values[:, 2].astype(float)
    bmi = np.clip(bmi[np.isfinite(bmi)], 10, 70)
    moments = read(
        MomentsRequest(name="m", noise_multiplier=0.25, variable="bmi", low=10.0, high=70.0), olmsted
    )
    assert moments.mean.value == pytest.approx(bmi.mean(), abs=5e-3)
    assert moments.variance.value == pytest.approx(bmi.var(), rel=5e-3)
    assert moments.known.value == pytest.approx(len(bmi))
