"""The liver's fibrosis: stages F0 to F4 as a chain in continuous time, and the three tests through which it is seen.

Rates: Le P et al., Clin Gastroenterol Hepatol 2023;21:1154 (meta-analysis of paired biopsies and imaging, 54 studies,
26,738 people): mean years to the next stage up and down, read in its abstract; a rate is the reciprocal.

A test sees a stage blurredly, and the same person's tests err alike: half of a test's variance within a stage is the
person's own and does not average out. So the filter follows pairs of a stage and of two such deviations, one of the blood
scores and one of the stiffness.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gemel.twins.assimilation.hidden_markov import NormalEmission
from gemel.twins.parameters import Mark, Parameter, StateVariable
from gemel.twins.person_prior import PersonPrior, person_prior
from gemel.twins.solvers import Inputs

STAGES = ("F0", "F1", "F2", "F3", "F4")
LE_2023 = "Le P et al., Clin Gastroenterol Hepatol 2023;21:1154, abstract"
SINGH_2015 = "Singh S et al., Clin Gastroenterol Hepatol 2015;13:643, abstract (411 patients with biopsies)"
HUANG_2023 = "Huang DQ et al., Gastroenterology 2023;165:463, abstract (447 patients with paired biopsies)"

YEARS_UP = (9.9, 10.3, 13.3, 22.2)  # from F0, F1, F2, F3
YEARS_DOWN = (40.0, 20.4, 12.5, 21.3)  # from F1, F2, F3, F4
# Stages of patients whose liver was biopsied for fatty liver: what is believed of a patient before any test.
STAGE_MIX = np.array([0.358, 0.325, 0.167, 0.093, 0.057])

# Fibrosis progresses 1.69 times as fast with type 2 diabetes (Huang 2023: 1.17 to 2.43); regression did not differ. The
# published rates are those of a mixture, of which about a third has diabetes (Mózes 2022: 33 %).
DIABETES_RATIO, DIABETES_SHARE = 1.69, 0.33
PACE_WITHOUT_DIABETES = 1 / (1 - DIABETES_SHARE + DIABETES_SHARE * DIABETES_RATIO)
PACE_WITH_DIABETES = DIABETES_RATIO * PACE_WITHOUT_DIABETES

# How much faster a stage is lost under a treatment: the ratio of -log(1 - p) of two shares p that improved by a stage.
# Semaglutide, ESSENCE: 36.8 against 22.4 % at 72 weeks. Resmetirom 100 mg, MAESTRO-NASH: 25.9 against 14.2 % at 52 weeks.
SEMAGLUTIDE_RATIO = float(np.log(1 - 0.368) / np.log(1 - 0.224))
RESMETIROM_RATIO = float(np.log(1 - 0.259) / np.log(1 - 0.142))
# Weight loss, Vilar-Gomez 2015: 45 % regressed with 10 % or more, 7 % with less than 5 %. Nobody was randomised.
WEIGHT_LOSS_RATIO, FULL_WEIGHT_LOSS = float(np.log(1 - 0.45) / np.log(1 - 0.07)), 10.0


def _rate(name: str, title: str, years: float) -> Parameter:
    return Parameter(
        name=name,
        title=title,
        value=1 / years,
        unit="/a",
        source=f"{LE_2023}: one stage in {years:g} years",
        mark=Mark.VERIFIED,
        low=0.001,
        high=2.0,
    )


_UP = tuple(_rate(f"up_{STAGES[i]}", f"From {STAGES[i]} to the next", y) for i, y in enumerate(YEARS_UP))
_DOWN = tuple(
    _rate(f"down_{STAGES[i + 1]}", f"From {STAGES[i + 1]} to the one before", y)
    for i, y in enumerate(YEARS_DOWN)
)
_PACE = Parameter(
    name="pace",
    title="How fast fibrosis progresses, against the published rates",
    value=1.0,
    unit="1",
    source=f"{HUANG_2023}: 1.69 times as fast with type 2 diabetes, around a mean of 1",
    mark=Mark.COMPUTED,
    low=0.1,
    high=10.0,
)
_DISEASED = Parameter(
    name="fatty_liver",
    title="Whether there is fatty liver disease: without it the liver stays at F0",
    value=1.0,
    unit="1",
    source="the programme's feature",
    mark=Mark.COMPUTED,
    low=1e-9,
    high=1.0,
)


class FibrosisChain:
    """`gemel.twins.physiology.ChainPhysiology`: from each stage to its neighbours, at the published rates."""

    states: tuple[StateVariable, ...] = tuple(
        StateVariable(stage, f"Fibrosis stage {stage}", "1", 0.0, 1.0) for stage in STAGES
    )
    parameters: tuple[Parameter, ...] = (*_UP, *_DOWN, _PACE, _DISEASED)
    inputs: tuple[str, ...] = ("weight_loss", "glp_1_receptor_agonist", "resmetirom")

    def start(self, theta: Mapping[str, Tensor]) -> Tensor:
        """(B, 5): the stages of biopsied patients; F0 without fatty liver."""
        diseased = theta["fatty_liver"][:, None]
        mix = torch.tensor(STAGE_MIX, dtype=diseased.dtype)
        return diseased * mix + (1 - diseased) * torch.eye(len(STAGES), dtype=diseased.dtype)[0]

    def rates(self, inputs: Mapping[str, Tensor], theta: Mapping[str, Tensor]) -> Tensor:
        """(B, 5, 5) per year. Treatments speed regression; of several the strongest counts: no trial combined them."""
        up = [theta["fatty_liver"] * theta["pace"] * theta[p.name] for p in _UP]
        down = [theta["fatty_liver"] * self.regression(inputs, theta["pace"]) * theta[p.name] for p in _DOWN]
        none = torch.zeros_like(up[0] + down[0])
        rows = []
        for stage in range(len(STAGES)):
            row = [none] * len(STAGES)
            if stage + 1 < len(STAGES):
                row[stage + 1] = up[stage] + none
            if stage > 0:
                row[stage - 1] = down[stage - 1] + none
            row[stage] = -sum(row, none)
            rows.append(torch.stack(row, dim=-1))
        return torch.stack(rows, dim=-2)

    @staticmethod
    def regression(inputs: Mapping[str, Tensor], like: Tensor) -> Tensor:
        """How much faster stages are lost under these treatments, (B,)."""
        nothing = torch.zeros_like(like)
        lost = (inputs.get("weight_loss", nothing) / FULL_WEIGHT_LOSS).clamp(0.0, 1.0)
        effects = (
            lost * float(np.log(WEIGHT_LOSS_RATIO)),
            inputs.get("glp_1_receptor_agonist", nothing) * float(np.log(SEMAGLUTIDE_RATIO)),
            inputs.get("resmetirom", nothing) * float(np.log(RESMETIROM_RATIO)),
        )
        strongest = torch.maximum(torch.maximum(effects[0], effects[1]), effects[2])
        return torch.exp(strongest + nothing)


@dataclass(frozen=True)
class FibrosisTest:
    """A test in stage F0 to F4: normal around `means`, on the logarithm where `logarithmic`; `deviation` within a stage.

    `own` is the deviation that it shares: 0 of the blood scores, 1 of the stiffness.
    """

    means: tuple[float, float, float, float, float]
    deviation: float
    logarithmic: bool
    own: int
    source: str
    mark: Mark


_LOG = np.log
# Fitted so that in the stages of Singh 2015 the published accuracy comes out, by least squares; a test repeats it.
TESTS = {
    "fib_4": FibrosisTest(
        means=tuple(_LOG([0.731, 0.922, 1.163, 1.872, 3.014]).tolist()),
        deviation=0.978,
        logarithmic=True,
        own=0,
        source="AUROC 0.76 for F3-4 and 0.68 for F2-4, at 1.30 sensitivity 0.69 and specificity 0.64 (Han S et al., Gut "
        "Liver 2022;16:952, abstract); at 3.25 0.38 and 0.96 (Sun W et al., Hepatol Res 2016;46:862, abstract)",
        mark=Mark.COMPUTED,
    ),
    "nafld_fibrosis_score": FibrosisTest(
        means=(-1.960, -1.960, -1.960, -0.888, 0.185),
        deviation=1.680,
        logarithmic=False,
        own=0,
        source="AUROC 0.74 for F3-4 and 0.60 for F2-4, at -1.455 sensitivity 0.70 and specificity 0.61 (Han 2022); at "
        "0.676 0.27 and 0.98 (Sun 2016)",
        mark=Mark.COMPUTED,
    ),
    "liver_stiffness": FibrosisTest(
        means=tuple(_LOG([4.06, 6.10, 10.23, 12.14, 30.32]).tolist()),
        deviation=0.863,
        logarithmic=True,
        own=1,
        source="AUROC 0.77, 0.80, 0.89 and Youden's cut-off 8.2, 9.7, 13.6 kPa for F2-4, F3-4, F4 (Eddowes PJ et al., "
        "Gastroenterology 2019;156:1717, abstract)",
        mark=Mark.COMPUTED,
    ),
}
OWN_SHARE = Parameter(
    name="own_share",
    title="Share of a test's variance within a stage that is the person's own",
    value=0.5,
    unit="1",
    source="chosen by the programme's authors: between errors that average out (0) and repeats that teach nothing (1)",
    mark=Mark.UNVERIFIED,
    low=0.01,
    high=0.99,
)
# Three points that stand for a standard normal (Gauss-Hermite): deviations of a person, and their probabilities.
_DEVIATIONS = np.array([-np.sqrt(3.0), 0.0, np.sqrt(3.0)])
_PROBABILITIES = np.array([1 / 6, 2 / 3, 1 / 6])
# (stage, deviation of the blood scores, deviation of the stiffness), in the order of `SeenFibrosis`' states.
_SEEN = tuple(product(range(len(STAGES)), range(3), range(3)))


class SeenFibrosis:
    """The chain that the filter follows: a stage with a person's two deviations, which never change."""

    states: tuple[StateVariable, ...] = tuple(
        StateVariable(f"{STAGES[s]}:{a}:{b}", f"{STAGES[s]}, deviations {a} and {b}", "1", 0.0, 1.0)
        for s, a, b in _SEEN
    )
    parameters: tuple[Parameter, ...] = FibrosisChain.parameters
    inputs: tuple[str, ...] = FibrosisChain.inputs
    _chain = FibrosisChain()

    def start(self, theta: Mapping[str, Tensor]) -> Tensor:
        """(B, 45)."""
        stages = self._chain.start(theta)
        own = torch.tensor(np.outer(_PROBABILITIES, _PROBABILITIES).ravel(), dtype=stages.dtype)
        return (stages[:, :, None] * own).flatten(1)

    def rates(self, inputs: Mapping[str, Tensor], theta: Mapping[str, Tensor]) -> Tensor:
        """(B, 45, 45) per year."""
        rates = self._chain.rates(inputs, theta)
        return torch.kron(rates, torch.eye(9, dtype=rates.dtype))


def emissions() -> dict[str, NormalEmission]:
    """By test, how it is distributed in each state of `SeenFibrosis`."""
    made = {}
    for name, test in TESTS.items():
        means, (own, within) = _blurred(test)
        mean = [means[state[0]] + own * _DEVIATIONS[state[1 + test.own]] for state in _SEEN]
        deviation = torch.full((len(_SEEN),), within, dtype=torch.float64)
        made[name] = NormalEmission(torch.tensor(mean, dtype=torch.float64), deviation, test.logarithmic)
    return made


def chain_prior(diseased: NDArray[np.float64], pace: NDArray[np.float64]) -> PersonPrior:
    """The chain's parameters of n people: the published rates, with whether there is a disease and its pace, (n,) each."""
    mine = {"fatty_liver": torch.from_numpy(diseased), "pace": torch.from_numpy(pace)}
    return person_prior(FibrosisChain.parameters, len(pace), typical=mine)


def in_double(inputs: Inputs) -> Inputs:
    """The same inputs in double precision."""
    return Inputs(inputs.starts, {name: given.double() for name, given in inputs.amounts.items()})


def stages_of(seen: Tensor) -> Tensor:
    """(..., 5) from the filter's (..., 45)."""
    return seen.reshape(*seen.shape[:-1], len(STAGES), 9).sum(-1)


def stage_at_index(
    tests: Mapping[str, NDArray[np.floating]], diseased: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """(n, 5), the stages of n people given one value (n,) of some tests at one time, NaN where there is none."""
    believed = np.where(diseased[:, None], STAGE_MIX, np.eye(len(STAGES))[0])
    for name, values in tests.items():
        test = TESTS[name]
        with np.errstate(all="ignore"):
            at = np.log(values) if test.logarithmic else np.asarray(values, np.float64)
        mean, deviation = _blurred(test)
        away = (at[:, None, None] - mean[:, None] - deviation[0] * _DEVIATIONS) / deviation[1]
        # Shifted by the nearest stage, so that a value far from all of them leaves something.
        nearest = np.min(away**2, axis=(1, 2), keepdims=True)
        likelihood = np.exp(-0.5 * (away**2 - nearest)) @ _PROBABILITIES
        believed = believed * np.where(np.isfinite(at)[:, None], likelihood, 1.0)
    return np.asarray(believed / believed.sum(axis=1, keepdims=True), np.float64)


def _blurred(test: FibrosisTest) -> tuple[NDArray[np.float64], tuple[float, float]]:
    """Means (5,) of a test, and its deviations: a person's own, and from one test to the next."""
    share = OWN_SHARE.value
    return np.array(test.means), (
        float(np.sqrt(share) * test.deviation),
        float(np.sqrt(1 - share) * test.deviation),
    )
