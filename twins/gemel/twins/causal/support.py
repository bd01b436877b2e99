"""Whether a question can be answered at all: bounds, contraindications, training support, and the chance of each plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gemel.core.errors import GemelError
from gemel.core.programme import Assignment, Programme, TreatmentKind
from gemel.twins.causal.estimand import treatments_compared
from gemel.twins.treatment_plan import TreatmentPlan, check_plan

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# Below this chance of getting a plan a comparison rests on the model's extrapolation; with two plans, 0.98 is the other side.
LOWEST_PROPENSITY = 0.02


@dataclass(frozen=True)
class Reason:
    """Why a question is refused: a code of the catalogue and what it is about."""

    code: str
    message: str


@dataclass(frozen=True)
class Refusal:
    """One reason, and whom of n patients it concerns: bool (n,)."""

    reason: Reason
    whom: Bools


@dataclass(frozen=True)
class Propensity:
    """The chance of getting each plan, given the covariates: (n,) each; NaN where nothing here knows it."""

    plan: Floats
    other_plan: Floats

    def summary(self) -> dict[str, float]:
        """Overlap: smallest, 5th centile and median of the smaller chance, and the share of patients below the limit."""
        smaller = np.minimum(self.plan, self.other_plan)
        if not np.isfinite(smaller).all():
            return {}
        least, fifth, median = np.quantile(smaller, [0.0, 0.05, 0.5])
        below = float((smaller < LOWEST_PROPENSITY).mean())
        return {
            "smallest": float(least),
            "5th centile": float(fifth),
            "median": float(median),
            "share below the limit": below,
        }


class SupportEvidence(Protocol):
    """What is known of the people that a twin learnt from: a hospital's own data, or released tables."""

    def propensity(
        self, programme: Programme, values: Floats, plan: TreatmentPlan, other_plan: TreatmentPlan
    ) -> Propensity:
        """The chance of each plan, for observed treatments alone: 1 where a plan sets none; NaN where not known."""

    def refusals(
        self, programme: Programme, values: Floats, plan: TreatmentPlan, other_plan: TreatmentPlan
    ) -> Sequence[Refusal]:
        """Who is outside what it has seen."""


@dataclass(frozen=True)
class Support:
    """The verdict on n patients: what refuses whom, each one's chance of the plans, and what nothing here could check."""

    refusals: tuple[Refusal, ...]
    propensity: Propensity
    unchecked: tuple[str, ...]

    @property
    def supported(self) -> Bools:
        """Whom nothing refuses: bool (n,)."""
        refused = np.zeros(len(self.propensity.plan), dtype=bool)
        for refusal in self.refusals:
            refused |= refusal.whom
        return ~refused

    def reasons(self, patient: int) -> tuple[Reason, ...]:
        """Why one patient is refused; empty for who is not."""
        return tuple(refusal.reason for refusal in self.refusals if refusal.whom[patient])

    @property
    def counts(self) -> dict[Reason, int]:
        """How many patients each reason refuses."""
        return {refusal.reason: int(refusal.whom.sum()) for refusal in self.refusals}


def check_plans(
    programme: Programme,
    values: NDArray[np.floating],
    plan: TreatmentPlan,
    other_plan: TreatmentPlan,
    *,
    evidence: SupportEvidence | None = None,
) -> Support:
    """The verdict on raw values (n, d). Raises GEM603 for a plan that does not fit the programme."""
    given = np.asarray(values, np.float64)
    if given.ndim != 2 or given.shape[1] != len(programme.columns):
        raise GemelError("GEM601", f"Expected (n, {len(programme.columns)}) values, got {given.shape}.")
    found: list[Refusal] = [*_beyond_bounds(programme, given)]
    for one in (plan, other_plan):
        check_plan(programme, one)
        found += _contraindicated(programme, given, one)
    chance = _chance(programme, given, plan, other_plan)
    unchecked: tuple[str, ...] = ()
    if evidence is not None:
        found += evidence.refusals(programme, given, plan, other_plan)
        observed = evidence.propensity(programme, given, plan, other_plan)
        chance = Propensity(chance.plan * observed.plan, chance.other_plan * observed.other_plan)
    else:
        unchecked = ("whether people like these were among those the twin learnt from",)
        unknown = tuple(np.nan if observed_treatments(programme, one) else 1.0 for one in (plan, other_plan))
        chance = Propensity(chance.plan * unknown[0], chance.other_plan * unknown[1])
    found += _improbable(chance, plan, other_plan)
    if not (np.isfinite(chance.plan).all() and np.isfinite(chance.other_plan).all()):
        unchecked += ("how many people like these got each of the plans (propensity)",)
    unchecked += tuple(
        f"the effect of {t.name}: it is from publications, and these data need record nobody who got it"
        for t in treatments_compared(programme, plan, other_plan)
        if not t.is_learnt
    )
    return Support(_merged(found), chance, unchecked)


def observed_treatments(programme: Programme, plan: TreatmentPlan) -> tuple[str, ...]:
    """The treatments of a plan whose effect the twin learnt from people who got them by indication."""
    learnt = learnt_treatments(programme, plan)
    return tuple(n for n in learnt if programme.treatment(n).assignment is Assignment.OBSERVED)


def learnt_treatments(programme: Programme, plan: TreatmentPlan) -> tuple[str, ...]:
    """The treatments of a plan whose effect the twin learnt; what it read elsewhere needs nobody here who got it."""
    return tuple(t.name for t in programme.treatments if t.is_learnt and t.name in plan.treatments)


def _beyond_bounds(programme: Programme, values: Floats) -> list[Refusal]:
    found = []
    for column, feature in enumerate(programme.columns):
        given = values[:, column]
        outside = np.isinf(given) | np.isfinite(given) & ((given < feature.low) | (given > feature.high))
        message = f"{feature.name} is outside {feature.low:g} to {feature.high:g} {feature.unit}."
        found.append(Refusal(Reason("GEM620", message), outside))
    return found


def _contraindicated(programme: Programme, values: Floats, plan: TreatmentPlan) -> list[Refusal]:
    """Who has what forbids a treatment that the plan gives; who may have it (not known) is refused too."""
    found = []
    for name in sorted(plan.treatments):
        if not any(dose.treatment == name and dose.amount > 0 for dose in plan.doses):
            continue
        for feature in programme.treatment(name).contraindications:
            present = values[:, programme.feature_names.index(feature)]
            found.append(Refusal(Reason("GEM621", f"{name}: {feature} forbids it."), present > 0.5))
            message = f"{name}: {feature} would forbid it, and is not known."
            found.append(Refusal(Reason("GEM621", message), np.isnan(present)))
    return found


def _chance(
    programme: Programme, values: Floats, plan: TreatmentPlan, other_plan: TreatmentPlan
) -> Propensity:
    """What lots decide: the product of the stated chances of the randomised treatments that a plan sets."""
    chances = []
    for one in (plan, other_plan):
        chance = 1.0
        for name in one.treatments:
            treatment = programme.treatment(name)
            if treatment.assignment is not Assignment.RANDOMISED or not treatment.feature:
                continue
            if treatment.chance is None:
                chance = np.nan
            elif treatment.kind is TreatmentKind.BINARY or one.start_amount(name) == 0:
                chance *= treatment.chance if one.start_amount(name) > 0 else 1 - treatment.chance
            else:  # of the amounts that the lot could give, this one's chance is not stated
                chance = np.nan
        chances.append(np.full(len(values), chance))
    return Propensity(chances[0], chances[1])


def _improbable(chance: Propensity, plan: TreatmentPlan, other_plan: TreatmentPlan) -> list[Refusal]:
    found = []
    for one, given, label in (
        (plan, chance.plan, "the plan"),
        (other_plan, chance.other_plan, "the other plan"),
    ):
        message = f"{one.name or label}: under {LOWEST_PROPENSITY:.0%} of people like this one got it."
        found.append(Refusal(Reason("GEM623", message), given < LOWEST_PROPENSITY))
    return found


def _merged(found: Sequence[Refusal]) -> tuple[Refusal, ...]:
    """One refusal for each reason, and only those that concern somebody."""
    by_reason: dict[Reason, Bools] = {}
    for refusal in found:
        before = by_reason.get(refusal.reason)
        by_reason[refusal.reason] = refusal.whom if before is None else before | refusal.whom
    return tuple(Refusal(reason, whom) for reason, whom in by_reason.items() if whom.any())
