"""What the fatty-liver programme claims of the world outside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch

from gemel.core.dataset import OCCURRED, PREVALENT, Dataset
from gemel.twins.claims import Claim, Gate
from gemel.twins.parameters import Mark
from gemel.twins.programmes.fatty_liver import PROGRAMME, circulation, fibrosis
from gemel.twins.programmes.fatty_liver.cox import log_hazard_ratios
from gemel.twins.programmes.fatty_liver.twin import FattyLiverTwin
from gemel.twins.solvers import Inputs, solve_ode, transition_matrices

MOZES_2022 = "Mózes FE et al., Gut 2022;71:1006, abstract (37 studies, 5,735 patients)"
EDDOWES_2019 = "Eddowes PJ et al., Gastroenterology 2019;156:1717, abstract (404 patients)"
_FROM_RATES = f"matrix exponential of the rates of {fibrosis.LE_2023}, computed by other software"
_TABLES = "clinical/nafld/nafld1.csv.gz"
SIMULATED_COURSES = 8
RATIOS = ("death", "heart_failure", "atrial_fibrillation")


def transition_probability(start: str, ends: tuple[str, ...], years: float) -> float:
    """Of a person with fatty liver at the published pace: from a stage to any of some stages."""
    chain = fibrosis.FibrosisChain()
    theta = fibrosis.chain_prior(np.ones(1), np.ones(1)).same
    moved = transition_matrices(chain.rates({}, theta), years)[0, fibrosis.STAGES.index(start)]
    return float(sum(moved[fibrosis.STAGES.index(end)] for end in ends))


def area_under_curve(test: str, from_stage: int) -> float:
    """P(a test is higher in a person at or beyond a stage than in one below it), in the stages of Singh 2015."""
    of = fibrosis.TESTS[test]
    mean, mix = torch.tensor(of.means, dtype=torch.float64), torch.tensor(fibrosis.STAGE_MIX)
    apart = (mean[from_stage:, None] - mean[None, :from_stage]) / (of.deviation * 2**0.5)
    weight = mix[from_stage:, None] * mix[None, :from_stage]
    return float((weight * torch.special.ndtr(apart)).sum() / weight.sum())


def pressure_for_a_kilogram() -> float:
    """How far systolic pressure of the typical person falls with a kilogram of weight, long after."""
    of = circulation.Circulation()
    theta = {p.name: torch.full((1,), p.value, dtype=torch.float64) for p in of.parameters}
    theta["stiffening"] = torch.zeros(1, dtype=torch.float64)
    lost = Inputs(amounts={"weight_loss": 100 / theta["weight"][:, None]})
    before, after = solve_ode(of, theta, (0.0, 3652.0), inputs=lost)[0]
    pressures = [of.observe(state[None], theta)["systolic_pressure"] for state in (before, after)]
    return float(pressures[0] - pressures[1])


@cache
def trained_on_all(data: Path) -> tuple[FattyLiverTwin, Dataset]:
    """The twin trained on everybody of Olmsted County, without privacy, and their data set: open data only."""
    from gemel.twins.baselines import train_without_privacy
    from gemel.twins.programmes.fatty_liver.cohort import dataset_of
    from gemel.twins.programmes.fatty_liver.open_data import OlmstedCounty

    dataset = dataset_of(OlmstedCounty().people(data, seed=0))
    twin = FattyLiverTwin(PROGRAMME)
    twin.load_arrays(train_without_privacy(PROGRAMME, dataset).to_arrays())
    return twin, dataset


def simulated_hazard_ratios(
    twin: FattyLiverTwin, dataset: Dataset, outcomes: Sequence[str], *, seed: int = 0
) -> dict[str, float]:
    """Hazard ratios of fatty liver, adjusted for age and sex, in courses that the twin simulates for these patients.

    Everybody is followed for as long as in the record. A Cox model is fitted to `SIMULATED_COURSES` courses of each.
    """
    names = ("age_years", "male", "fatty_liver")
    columns = [PROGRAMME.feature_names.index(name) for name in names]
    course = twin.simulate(dataset.values, seed=seed, paths=SIMULATED_COURSES)
    covariates = np.repeat(dataset.values[:, columns], SIMULATED_COURSES, axis=0)
    followed = np.repeat(dataset.time_years[:, 0], SIMULATED_COURSES)
    known, found = np.isfinite(covariates).all(axis=1), {}
    for outcome in outcomes:
        place = PROGRAMME.outcome_names.index(outcome)
        used = known & (course.event[:, place] != PREVALENT)
        time = course.time_years[used, place]
        event = (course.event[used, place] == OCCURRED) & (time <= followed[used])
        ratios, _ = log_hazard_ratios(np.minimum(time, followed[used]), event, covariates[used])
        found[outcome] = float(np.exp(ratios[-1]))
    return found


@cache
def _recovered(data: Path) -> dict[str, float]:
    return simulated_hazard_ratios(*trained_on_all(data), RATIOS)


def _simulated(outcome: str) -> Callable[[Path], float]:
    return lambda data: _recovered(data)[outcome]


def _transition(
    name: str, statement: str, value: float, start: str, ends: tuple[str, ...], years: float
) -> Claim:
    return Claim(
        name=name,
        statement=statement,
        gate=Gate.G0,
        value=value,
        low=value - 0.001,
        high=value + 0.001,
        unit="1",
        source=_FROM_RATES,
        mark=Mark.COMPUTED,
        compute=lambda data: transition_probability(start, ends, years),
    )


def _years(name: str, statement: str, value: float, parameter: str) -> Claim:
    rate: Callable[[Path], float] = lambda data: (  # noqa: E731
        1 / next(p.value for p in fibrosis.FibrosisChain.parameters if p.name == parameter)
    )
    return Claim(
        name=name,
        statement=statement,
        gate=Gate.G0,
        value=value,
        low=value - 0.05,
        high=value + 0.05,
        unit="a",
        source=fibrosis.LE_2023,
        mark=Mark.VERIFIED,
        compute=rate,
    )


def _accuracy(test: str, title: str, stage: int, value: float, low: float, high: float, source: str) -> Claim:
    return Claim(
        name=f"{test}_f{stage}",
        statement=f"{title} tells stage F{stage} and more from less with an area under the curve of {value:.2f}.",
        gate=Gate.G0,
        value=value,
        low=low,
        high=high,
        unit="1",
        source=source,
        mark=Mark.VERIFIED,
        compute=lambda data: area_under_curve(test, stage),
    )


_UP = tuple(
    _years(f"years_up_{s}", f"From {s} to the next stage takes {y:g} years.", y, f"up_{s}")
    for s, y in zip(fibrosis.STAGES, fibrosis.YEARS_UP, strict=False)
)
_DOWN = tuple(
    _years(f"years_down_{s}", f"From {s} to the stage before takes {y:g} years.", y, f"down_{s}")
    for s, y in zip(fibrosis.STAGES[1:], fibrosis.YEARS_DOWN, strict=True)
)
_STAYS = tuple(
    _transition(f"stays_{s}", f"Of people in {s}, {100 * p:.1f} % are there a year later.", p, s, (s,), 1)
    for s, p in zip(fibrosis.STAGES, (0.905, 0.888, 0.888, 0.886, 0.955), strict=True)
)
_OTHER_MOVES = (
    _transition("f3_to_f4", "Of people in F3, 4.1 % are in F4 a year later.", 0.041, "F3", ("F4",), 1),
    _transition("f2_to_f4", "Of people in F2, 7.1 % are in F4 ten years later.", 0.071, "F2", ("F4",), 10),
    _transition(
        "f2_back", "Of people in F2, 19.8 % are in F0 or F1 ten years later.", 0.198, "F2", ("F0", "F1"), 10
    ),
)
# No interval is given in the abstract of Mózes 2022: 0.03 to either side.
_ACCURACY = (
    _accuracy("fib_4", "FIB-4", 3, 0.76, 0.73, 0.79, MOZES_2022),
    _accuracy("nafld_fibrosis_score", "The NAFLD fibrosis score", 3, 0.73, 0.70, 0.76, MOZES_2022),
    _accuracy("liver_stiffness", "Stiffness", 2, 0.77, 0.72, 0.82, EDDOWES_2019),
    _accuracy("liver_stiffness", "Stiffness", 3, 0.80, 0.75, 0.84, EDDOWES_2019),
    _accuracy("liver_stiffness", "Stiffness", 4, 0.89, 0.84, 0.93, EDDOWES_2019),
)
_KILOGRAM = Claim(
    name="pressure_of_a_kilogram",
    statement="A kilogram of weight less goes with 1.05 mm Hg less systolic pressure.",
    gate=Gate.G0,
    value=1.05,
    low=0.66,
    high=1.43,
    unit="mm[Hg]",
    source=circulation.NETER_2003,
    mark=Mark.VERIFIED,
    compute=lambda data: pressure_for_a_kilogram(),
)
# Cox models of each outcome on age, sex and recorded fatty liver at the index date, by other software on the same tables.
_HAZARD_RATIOS = tuple(
    Claim(
        name=f"hazard_ratio_{outcome}",
        statement=f"At the same age and sex people with fatty liver have {value:.2f} times the hazard of {title}.",
        gate=Gate.G1,
        value=value,
        low=low,
        high=high,
        unit="1",
        source="pooled Cox model on age, sex and fatty liver in nafld1 and nafld3, by lifelines 0.30",
        mark=Mark.COMPUTED,
        compute=_simulated(outcome),
        needs=_TABLES,
    )
    for outcome, title, value, low, high in (
        ("death", "death", 1.60, 1.42, 1.80),
        ("heart_failure", "heart failure", 1.70, 1.43, 2.03),
        ("atrial_fibrillation", "atrial fibrillation", 1.25, 1.04, 1.51),
    )
)
CLAIMS = (*_UP, *_DOWN, *_STAYS, *_OTHER_MOVES, *_ACCURACY, _KILOGRAM, *_HAZARD_RATIOS)
