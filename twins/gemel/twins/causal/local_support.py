"""Support as a hospital's own patients show it: who got which plan. Computed at the hospital; it is released to nobody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gemel.core.programme import Programme, TreatmentKind
from gemel.twins.causal.support import (
    Bools,
    Floats,
    Propensity,
    Reason,
    Refusal,
    learnt_treatments,
    observed_treatments,
)
from gemel.twins.design import design_of
from gemel.twins.treatment_plan import TreatmentPlan

# Fewer people who got a plan than this tell nothing of who gets it.
FEWEST_WHO_GOT_IT = 20
# Standard deviation of the normal prior of a coefficient: weak, but it keeps a separated fit finite.
_PRIOR_DEVIATION = 2.5
_STEPS = 40


@dataclass(frozen=True)
class LocalSupport:
    """From the raw values (n, d) of the people that a hospital trained with: exact, hence local."""

    people: NDArray[np.floating]

    def propensity(
        self, programme: Programme, values: Floats, plan: TreatmentPlan, other_plan: TreatmentPlan
    ) -> Propensity:
        """P(the record is as the plan has it | covariates) for the observed treatments, by ridge logistic regression."""
        covariates = _Covariates(programme, plan, other_plan, self.people)
        chances = []
        for one in (plan, other_plan):
            names = observed_treatments(programme, one)
            if not names:
                chances.append(np.ones(len(values)))
                continue
            got = follows(programme, self.people, one, names)
            fitted = _logistic(covariates.of(self.people), got)
            chances.append(_expit(covariates.of(values) @ fitted))
        return Propensity(chances[0], chances[1])

    def refusals(
        self, programme: Programme, values: Floats, plan: TreatmentPlan, other_plan: TreatmentPlan
    ) -> Sequence[Refusal]:
        """Who lies outside the people that got a plan: beyond the independent-variable hull (Cook 1979, by leverage)."""
        covariates = _Covariates(programme, plan, other_plan, self.people)
        found = []
        for one, label in ((plan, "the plan"), (other_plan, "the other plan")):
            names = learnt_treatments(programme, one)
            got = follows(programme, self.people, one, names) if names else np.ones(len(self.people), bool)
            called = one.name or label
            if got.sum() < FEWEST_WHO_GOT_IT:
                message = f"{called}: fewer than {FEWEST_WHO_GOT_IT} people here got it."
                found.append(Refusal(Reason("GEM622", message), np.ones(len(values), bool)))
                continue
            message = f"{called}: nobody with such a combination of values got it here."
            beyond = _beyond_hull(covariates.of(self.people[got]), covariates.of(values))
            found.append(Refusal(Reason("GEM622", message), beyond))
        return found


def follows(
    programme: Programme, values: NDArray[np.floating], plan: TreatmentPlan, treatments: Sequence[str]
) -> Bools:
    """Whose record says what the plan does, bool (n,): the amount itself, or for a dose the same public bin."""
    same = np.ones(len(values), dtype=bool)
    for name in treatments:
        treatment = programme.treatment(name)
        column = programme.feature_names.index(treatment.feature)
        amount, given = plan.start_amount(name), np.asarray(values[:, column], np.float64)
        edges = programme.columns[column].bin_edges
        if treatment.kind is TreatmentKind.DOSE and len(edges) > 1 and amount > 0:
            inner = np.asarray(edges[1:-1], np.float64)
            same &= (np.digitize(given, inner) == np.digitize(amount, inner)) & (given > 0)
        else:
            same &= given == amount
    return same


class _Covariates:
    """The design's columns but those of treatments that a plan sets or whose effect was not learnt here.

    Centred and scaled by the people; a 1 before them.
    """

    def __init__(
        self,
        programme: Programme,
        plan: TreatmentPlan,
        other_plan: TreatmentPlan,
        people: NDArray[np.floating],
    ) -> None:
        self._design = design_of(programme)
        named = plan.treatments | other_plan.treatments
        out = {t.feature for t in programme.treatments if t.name in named or not t.is_learnt}
        self._kept = np.array([not out & set(name.split(":")) for name in self._design.names])
        columns = self._design.columns(people)[:, self._kept].astype(np.float64)
        self._centre = columns.mean(axis=0)
        self._spread = columns.std(axis=0)
        self._spread[self._spread < 1e-9] = 1.0

    def of(self, values: NDArray[np.floating]) -> Floats:
        columns = self._design.columns(values)[:, self._kept].astype(np.float64)
        scaled = (columns - self._centre) / self._spread
        return np.concatenate([np.ones((len(values), 1)), scaled], axis=1)


def _logistic(columns: Floats, got: Bools) -> Floats:
    """Coefficients (p,) of a logistic regression by Newton steps; a normal prior on all but the first."""
    prior = np.full(columns.shape[1], 1 / _PRIOR_DEVIATION**2)
    prior[0] = 1e-6
    fitted = np.zeros(columns.shape[1])
    for _ in range(_STEPS):
        chance = _expit(columns @ fitted)
        gradient = columns.T @ (got - chance) - prior * fitted
        weight = np.maximum(chance * (1 - chance), 1e-10)
        step = np.linalg.solve((columns * weight[:, None]).T @ columns + np.diag(prior), gradient)
        # A full step may overshoot where the classes are almost parted.
        fitted += step * min(1.0, 5.0 / max(float(np.abs(step).max()), 1e-12))
        if np.abs(step).max() < 1e-8:
            break
    return fitted


def _beyond_hull(people: Floats, values: Floats) -> Bools:
    inverse = np.linalg.pinv(people.T @ people, rcond=1e-10)
    leverage = np.einsum("ij,jk,ik->i", people, inverse, people)
    asked = np.einsum("ij,jk,ik->i", values, inverse, values)
    # What no one of the people varied in has no leverage: a value that does is beyond them too.
    off = np.abs(values - values @ inverse @ (people.T @ people)).max(axis=1) > 1e-6
    return np.asarray((asked > leverage.max() * (1 + 1e-9)) | off)


def _expit(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -700, 700))))
