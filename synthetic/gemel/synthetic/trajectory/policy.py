"""Who is given what: a policy turns virtual patients into treatment plans, by one plan, by a rule, or by lot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gemel.core.errors import GemelError
from gemel.twins.treatment_plan import NOTHING_CHANGED, TreatmentPlan

# From baseline rows (n, ...) and randomness to the number of a plan for each row (n,).
Choice = Callable[[NDArray[np.generic], np.random.Generator], NDArray[np.integer]]


@dataclass(frozen=True)
class Policy:
    """Plans, and how one of them is chosen for each patient."""

    plans: tuple[TreatmentPlan, ...]
    choice: Choice

    def assign(self, baseline: NDArray[np.generic], random: np.random.Generator) -> NDArray[np.int64]:
        """The number of each row's plan (n,). Raises GEM603 for a choice of no plan."""
        chosen = np.asarray(self.choice(baseline, random), np.int64)
        if chosen.shape != (len(baseline),) or np.any((chosen < 0) | (chosen >= len(self.plans))):
            raise GemelError("GEM603", "The policy chooses no plan for some patients.")
        return chosen


def everybody(plan: TreatmentPlan = NOTHING_CHANGED) -> Policy:
    """One plan for all; by default nothing is changed."""
    return Policy((plan,), lambda baseline, random: np.zeros(len(baseline), np.int64))


def by_rule(
    rule: Callable[[NDArray[np.generic]], NDArray[np.bool_]], plan: TreatmentPlan, otherwise: TreatmentPlan
) -> Policy:
    """One plan for whom the rule holds, (n, ...) to bool (n,); the other for the rest."""
    return Policy((plan, otherwise), lambda baseline, random: np.where(rule(baseline), 0, 1))


def by_lot(plans: Sequence[TreatmentPlan], shares: Sequence[float] | None = None) -> Policy:
    """Each patient's plan drawn, in equal shares or in these. Raises GEM603 for shares that are none."""
    weights = np.full(len(plans), 1 / max(len(plans), 1)) if shares is None else np.asarray(shares, float)
    if len(weights) != len(plans) or not len(plans) or np.any(weights < 0) or abs(weights.sum() - 1) > 1e-9:
        raise GemelError("GEM603", f"{shares} are no shares of {len(plans)} plans.")
    return Policy(tuple(plans), lambda baseline, random: random.choice(len(plans), len(baseline), p=weights))
