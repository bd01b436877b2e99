"""Support as released tables show it: noisy counts of pairs of features over public bins. Post-processing; costs nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gemel.core.programme import Feature, Programme
from gemel.twins.causal.support import (
    LOWEST_PROPENSITY,
    Bools,
    Floats,
    Propensity,
    Reason,
    Refusal,
    learnt_treatments,
    observed_treatments,
)
from gemel.twins.treatment_plan import TreatmentPlan, planned_values

# A cell is taken for empty unless its noisy count is this many standard deviations of the noise above 0.
_DEVIATIONS = 3.0


@dataclass(frozen=True)
class ReleasedSupport:
    """From tables by their two features: int64 (levels of one, levels of the other), summed over hospitals.

    The levels are a feature's public bins, then (the last) "missing" where the table has one more. Pairs show less than people
    do: what no pair of tables rules out may still be a combination that nobody had.
    """

    tables: Mapping[tuple[str, str], NDArray[np.integer]]
    noise_sigma: float

    def propensity(
        self, programme: Programme, values: Floats, plan: TreatmentPlan, other_plan: TreatmentPlan
    ) -> Propensity:
        """Not known of observed treatments: pairs do not give a chance that depends on all covariates."""
        known = (np.nan if observed_treatments(programme, one) else 1.0 for one in (plan, other_plan))
        first, second = (np.full(len(values), chance) for chance in known)
        return Propensity(first, second)

    def refusals(
        self, programme: Programme, values: Floats, plan: TreatmentPlan, other_plan: TreatmentPlan
    ) -> Sequence[Refusal]:
        """Who falls, as recorded or as planned, into a cell in which nobody was; or hardly anybody got the plan."""
        found = []
        for one in (plan, other_plan):
            learnt = learnt_treatments(programme, one)
            set_here = {programme.treatment(name).feature for name in learnt}
            doses = tuple(dose for dose in one.doses if dose.treatment in learnt)
            planned = np.asarray(planned_values(programme, values, TreatmentPlan(doses=doses)), np.float64)
            read = {t.feature for t in programme.treatments if not t.is_learnt}
            for (first, second), counts in self.tables.items():
                if read & {first, second}:
                    continue
                cells = tuple(
                    self._levels(programme, name, planned, counts, axis)
                    for axis, name in enumerate((first, second))
                )
                seen = counts[cells]
                message = f"{first} and {second}: nobody with such a pair of values was counted."
                empty = seen < _DEVIATIONS * self.noise_sigma
                found.append(Refusal(Reason("GEM622", message), empty))
                for axis, name in enumerate((first, second)):
                    if name in set_here:
                        found.append(self._seldom(one, (first, second)[1 - axis], name, counts, cells, axis))
        return found

    def _seldom(
        self,
        plan: TreatmentPlan,
        among: str,
        treatment: str,
        counts: NDArray[np.integer],
        cells: tuple[NDArray[np.intp], ...],
        axis: int,
    ) -> Refusal:
        """Who is in a bin of another feature where under 2 % got the planned amount, the noise given its due."""
        everybody = counts.sum(axis=axis)[cells[1 - axis]]
        most = counts[cells] + 2 * self.noise_sigma
        message = f"{treatment} as {plan.name or 'planned'}: under {LOWEST_PROPENSITY:.0%} of people with such a {among} got it."
        return Refusal(Reason("GEM623", message), most < LOWEST_PROPENSITY * everybody)

    @staticmethod
    def _levels(
        programme: Programme, name: str, values: Floats, counts: NDArray[np.integer], axis: int
    ) -> NDArray[np.intp]:
        column = programme.feature_names.index(name)
        return level_in_bins(programme.columns[column], values[:, column], counts.shape[axis])


def level_in_bins(feature: Feature, column: Floats, levels: int) -> NDArray[np.intp]:
    """The public bin of each value (n,); the one after the last bin for a missing value, where `levels` has it."""
    edges = np.asarray(feature.bin_edges, np.float32)
    given = np.asarray(column, np.float32)
    missing: Bools = np.isnan(given)
    filled = np.where(missing, np.float32(feature.reference_mean), given)
    bins = np.clip(np.searchsorted(edges, filled, side="right") - 1, 0, len(edges) - 2)
    return np.where(missing & (levels == len(edges)), len(edges) - 1, bins).astype(np.intp)
