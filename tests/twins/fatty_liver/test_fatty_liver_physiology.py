"""The liver's chain and the circulation are what their sources say, by other software."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import scipy.stats
import torch

from gemel.twins.programmes.fatty_liver import circulation, fibrosis
from gemel.twins.programmes.fatty_liver.circulation import Circulation, beat, resistance_for
from gemel.twins.programmes.fatty_liver.fibrosis import STAGE_MIX, TESTS, FibrosisChain
from gemel.twins.solvers import Inputs, solve_chain, solve_ode

CHAIN, BODY = FibrosisChain(), Circulation()


def published():
    return fibrosis.chain_prior(np.ones(1), np.ones(1)).same


def generator():
    """The published rates, written out once more."""
    up, down = [1 / 9.9, 1 / 10.3, 1 / 13.3, 1 / 22.2], [1 / 40.0, 1 / 20.4, 1 / 12.5, 1 / 21.3]
    rates = np.diag(up, 1) + np.diag(down, -1)
    return rates - np.diag(rates.sum(axis=1))


def test_the_generator_holds_the_published_rates():
    np.testing.assert_allclose(CHAIN.rates({}, published())[0].numpy(), generator(), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("years", [0.25, 1.0, 10.0])
def test_the_chain_moves_as_scipys_matrix_exponential(years):
    theta = published()
    start = torch.eye(5, dtype=torch.float64)
    moved = solve_chain(CHAIN, theta, (0.0, years * 365.25), start=start)[:, 1].numpy()
    np.testing.assert_allclose(moved, scipy.linalg.expm(generator() * years), atol=1e-12)


def test_a_liver_without_fatty_liver_stays_where_it_is():
    theta = fibrosis.chain_prior(np.zeros(1), np.ones(1)).same
    assert CHAIN.start(theta)[0].tolist() == [1, 0, 0, 0, 0]
    assert torch.count_nonzero(CHAIN.rates({}, theta)) == 0


def test_diabetes_speeds_progression_alone_and_keeps_the_published_mean():
    ratio = fibrosis.PACE_WITH_DIABETES / fibrosis.PACE_WITHOUT_DIABETES
    assert ratio == pytest.approx(1.69)
    share = fibrosis.DIABETES_SHARE
    mean = share * fibrosis.PACE_WITH_DIABETES + (1 - share) * fibrosis.PACE_WITHOUT_DIABETES
    assert mean == pytest.approx(1.0)
    faster = CHAIN.rates({}, fibrosis.chain_prior(np.ones(1), np.array([ratio])).same)[0].numpy()
    np.testing.assert_allclose(np.diag(faster, 1), 1.69 * np.diag(generator(), 1))
    np.testing.assert_allclose(np.diag(faster, -1), np.diag(generator(), -1))


@pytest.mark.parametrize(
    ("treatment", "amount", "ratio"),
    [
        ("resmetirom", 1.0, np.log(1 - 0.259) / np.log(1 - 0.142)),
        ("glp_1_receptor_agonist", 1.0, np.log(1 - 0.368) / np.log(1 - 0.224)),
        ("weight_loss", 10.0, np.log(1 - 0.45) / np.log(1 - 0.07)),
        ("weight_loss", 20.0, np.log(1 - 0.45) / np.log(1 - 0.07)),  # no more than the trial's largest class
        ("weight_loss", 0.0, 1.0),
    ],
)
def test_a_treatment_speeds_regression_by_its_trials_ratio_and_leaves_progression(treatment, amount, ratio):
    given = {treatment: torch.tensor([amount], dtype=torch.float64)}
    rates = CHAIN.rates(given, published())[0].numpy()
    np.testing.assert_allclose(np.diag(rates, -1), ratio * np.diag(generator(), -1))
    np.testing.assert_allclose(np.diag(rates, 1), np.diag(generator(), 1))


def test_of_several_treatments_the_strongest_counts():
    all_of_them = {name: torch.ones(1, dtype=torch.float64) for name in CHAIN.inputs}
    both = CHAIN.regression(all_of_them, torch.ones(1, dtype=torch.float64))
    assert float(both) == pytest.approx(fibrosis.RESMETIROM_RATIO)


def accuracy(test, stage, cut):
    """Sensitivity and specificity for a stage and more, in biopsied patients."""
    above = scipy.stats.norm.sf((cut - np.array(test.means)) / test.deviation)
    high, low = STAGE_MIX[stage:], STAGE_MIX[:stage]
    return (high @ above[stage:]) / high.sum(), 1 - (low @ above[:stage]) / low.sum()


@pytest.mark.parametrize(
    ("name", "cut", "sensitivity", "specificity"),
    [
        ("fib_4", np.log(1.30), 0.69, 0.64),
        ("fib_4", np.log(3.25), 0.38, 0.96),
        ("nafld_fibrosis_score", -1.455, 0.70, 0.61),
        ("nafld_fibrosis_score", 0.676, 0.27, 0.98),
    ],
)
def test_the_blood_scores_are_as_sensitive_and_specific_as_published(name, cut, sensitivity, specificity):
    found = accuracy(TESTS[name], 3, cut)
    assert found == pytest.approx((sensitivity, specificity), abs=0.06)


def test_a_persons_own_deviation_and_the_blur_add_up_to_the_tests_variance():
    emission = fibrosis.emissions()["fib_4"]
    own = emission.mean.reshape(5, 3, 3)[0, :, 0].numpy()
    weights = np.array([1 / 6, 2 / 3, 1 / 6])
    variance = weights @ (own - weights @ own) ** 2 + float(emission.deviation[0]) ** 2
    assert variance == pytest.approx(TESTS["fib_4"].deviation ** 2)


def theta_of(**changes):
    theta = {p.name: torch.tensor([p.value], dtype=torch.float64) for p in BODY.parameters}
    return {**theta, **{name: torch.tensor([value], dtype=torch.float64) for name, value in changes.items()}}


@pytest.mark.parametrize(
    ("resistance", "compliance", "rate"), [(1.05, 1.5, 70.0), (1.8, 0.7, 95.0), (0.7, 2.5, 55.0)]
)
def test_a_beat_is_the_periodic_solution_of_the_windkessel(resistance, compliance, rate):
    theta = theta_of(heart_rate=rate)
    t = torch.tensor
    found = beat(t([resistance]).double(), t([compliance]).double(), theta)
    period, ejected = 60 / rate, 0.35 * 60 / rate
    peak = 83.3 * period * np.pi / (2 * ejected)

    def flow(time):
        return peak * np.sin(np.pi * time / ejected) if time < ejected else 0.0

    pressure = [80.0]
    for _ in range(60):  # until the beat repeats itself
        for start, end in ((0.0, ejected), (ejected, period)):
            solved = scipy.integrate.solve_ivp(
                lambda time, p: (flow(min(time, ejected)) - (p - 5.0) / resistance) / compliance,
                (start, end),
                pressure,
                rtol=1e-9,
                atol=1e-9,
                dense_output=True,
            )
            if start == 0.0:
                times = np.linspace(0, ejected, 2000)
                aortic = solved.sol(times)[0] + 0.05 * np.array([flow(x) for x in times])
            pressure = solved.y[:, -1]
    assert float(found["diastolic_pressure"]) == pytest.approx(pressure[0], abs=1e-3)
    assert float(found["systolic_pressure"]) == pytest.approx(aortic.max(), abs=0.1)
    assert float(found["mean_pressure"]) == pytest.approx(5.0 + (resistance + 0.05) * 83.3)


@pytest.mark.parametrize("systolic", [85.0, 120.0, 215.0])
@pytest.mark.parametrize("compliance", [0.6, 1.5, 3.0])
def test_the_resistance_is_the_one_that_gives_the_measured_pressure(systolic, compliance):
    theta, stiff = theta_of(), torch.tensor([compliance], dtype=torch.float64)
    resistance = resistance_for(torch.tensor([systolic], dtype=torch.float64), stiff, theta)
    assert float(beat(resistance, stiff, theta)["systolic_pressure"]) == pytest.approx(systolic, abs=1e-3)


def test_without_a_plan_the_closed_form_is_the_equations_solution():
    theta, days = theta_of(), (365.25, 3652.5)
    solved = solve_ode(BODY, theta, (0.0, *days))[:, 1:]
    torch.testing.assert_close(solved, BODY.undisturbed(theta, days), rtol=1e-6, atol=1e-6)


def test_weight_goes_where_the_plan_says_and_comes_back_when_it_ends():
    inputs = Inputs((-np.inf, 1461.0), {"weight_loss": torch.tensor([[10.0, 0.0]]).double()})
    weight = solve_ode(BODY, theta_of(), (0.0, 1461.0, 4000.0), inputs=inputs)[0, :, 0]
    assert weight.tolist() == pytest.approx([1.0, 0.9, 1.0], abs=1e-4)


def test_the_portal_gradient_rises_with_the_stage_past_the_threshold_in_cirrhosis_alone():
    gradients = circulation.portal_gradients()
    assert list(gradients) == sorted(gradients)
    assert gradients[1] <= 5 < 10 <= gradients[4]
    assert gradients[3] < 10
