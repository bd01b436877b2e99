"""What the lot itself says: the difference between those who were allotted each plan. What a twin's number is held against.

Needs patients' outcomes, so it is computed where they are, and released to nobody.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from gemel.core.dataset import Dataset
from gemel.core.errors import GemelError
from gemel.twins.causal.estimand import Basis, Estimand, Measure
from gemel.twins.causal.local_support import follows
from gemel.twins.causal.population_effect import Effect, expected_under
from gemel.twins.causal.support import Bools, learnt_treatments
from gemel.twins.scores import followed_to, is_risk, observed
from gemel.twins.treatment_plan import TreatmentPlan
from gemel.twins.twin import Twin

Floats = NDArray[np.float64]


def randomised_effect(dataset: Dataset, estimand: Estimand, *, twin: Twin | None = None) -> Effect:
    """The intention-to-treat difference, with its 95 % interval, in the people whose endpoint is known.

    With a twin it is adjusted by the twin's prognosis (augmented inverse probability weighting, Tsiatis et al., Stat Med
    2008;27:4658): the lot keeps that right whatever the twin gets wrong, and a good prognosis makes the interval shorter. `pull` is
    then by how much the twin's own number lies off the adjusted one.

    Raises GEM625 for what was not randomised, and for a ratio; GEM626 with fewer than two people in an arm.
    """
    if estimand.basis is not Basis.RANDOMISED or estimand.measure is Measure.RISK_RATIO:
        raise GemelError("GEM625", "The difference between arms is that of randomised treatments, no ratio.")
    known, seen = _known(dataset, estimand)
    people = dataset.values[known]
    here, there = (_allotted(estimand, people, plan) for plan in (estimand.plan, estimand.other_plan))
    if min(here.sum(), there.sum()) < 2:
        raise GemelError("GEM626", "Fewer than two people were allotted one of the plans.")
    outcome = seen[known]
    first, second = _mean_and_spread(outcome, here), _mean_and_spread(outcome, there)
    value, error, pull = first[0] - second[0], math.hypot(first[1], second[1]), None
    if twin is not None:
        under, under_other = expected_under(twin, people, estimand)
        each = (
            under
            - under_other
            + here / here.mean() * (outcome - under)
            - there / there.mean() * (outcome - under_other)
        )
        value, error = float(each.mean()), float(each.std(ddof=1) / math.sqrt(len(each)))
        pull = float((under - under_other).mean()) - value
    reach = float(stats.norm.ppf(0.975)) * error
    return Effect(value, (value - reach, value + reach), error, 0.0, pull)


def _known(dataset: Dataset, estimand: Estimand) -> tuple[Bools, Floats]:
    """Whose endpoint is known at the horizon, and what it was: (n,) each."""
    endpoint, programme = estimand.endpoint, estimand.programme
    if not is_risk(programme, endpoint):
        return observed(programme, endpoint, dataset)
    group = followed_to(programme, endpoint, dataset)[estimand.horizon]
    return group.weight > 0, group.case.astype(np.float64)


def _allotted(estimand: Estimand, values: NDArray[np.floating], plan: TreatmentPlan) -> Bools:
    names = [t.name for t in estimand.compared]
    set_here = [n for n in learnt_treatments(estimand.programme, plan) if n in names]
    return follows(estimand.programme, values, plan, set_here)


def _mean_and_spread(outcome: Floats, arm: Bools) -> tuple[float, float]:
    mine = outcome[arm]
    return float(mine.mean()), float(mine.std(ddof=1) / math.sqrt(len(mine)))
