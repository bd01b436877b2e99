"""What is done to a patient from the index date on: the input of a physiology, and the two sides of a what-if."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from gemel.core.errors import GemelError
from gemel.core.programme import Programme, TreatmentKind


class Dose(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An amount of a treatment, in its unit, from a day to a day (None: to the end), days since the index date."""

    treatment: str
    amount: float
    from_days: float = 0.0
    to_days: float | None = None


class TreatmentPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Doses; what a plan does not name stays as it is in the patient's record.

    A treatment that it names is 0 outside the doses' days.
    """

    doses: tuple[Dose, ...] = ()
    name: str = ""

    @classmethod
    def always(cls, amounts: Mapping[str, float], *, name: str = "") -> TreatmentPlan:
        """Each treatment at one amount from the index date to the end.

        >>> TreatmentPlan.always({"aspirin": 1.0}).amount("aspirin", 100.0)
        1.0
        """
        return cls(doses=tuple(Dose(treatment=t, amount=float(a)) for t, a in amounts.items()), name=name)

    @property
    def treatments(self) -> frozenset[str]:
        """The treatments that it sets."""
        return frozenset(dose.treatment for dose in self.doses)

    def amount(self, treatment: str, day: float) -> float:
        """What it gives on a day; 0 outside its doses."""
        for dose in self.doses:
            if dose.treatment == treatment and dose.from_days <= day < _end(dose):
                return dose.amount
        return 0.0

    def amounts(self, treatment: str, days: NDArray[np.floating]) -> NDArray[np.float64]:
        """`amount` at each of `days`: the same shape."""
        given = np.zeros(days.shape, np.float64)
        for dose in reversed(self.doses):
            if dose.treatment == treatment:
                given[(dose.from_days <= days) & (days < _end(dose))] = dose.amount
        return given

    def start_amount(self, treatment: str) -> float:
        """What it gives on the index date."""
        return self.amount(treatment, 0.0)


NOTHING_CHANGED = TreatmentPlan()


def read_plan(document: Any) -> TreatmentPlan:
    """A plan from JSON values. Raises GEM603 naming the fault."""
    try:
        return msgspec.convert(document, TreatmentPlan)
    except msgspec.ValidationError as error:
        raise GemelError("GEM603", f"The treatment plan is malformed: {error}.") from error


def check_plan(programme: Programme, plan: TreatmentPlan) -> None:
    """Refuse (GEM603) a treatment that the programme does not have, an amount out of bounds, doses that overlap."""
    known = {treatment.name: treatment for treatment in programme.treatments}
    for dose in plan.doses:
        treatment = known.get(dose.treatment)
        if treatment is None:
            raise GemelError(
                "GEM603", f"{programme.name} has no treatment {dose.treatment}: {sorted(known)}."
            )
        binary = treatment.kind is TreatmentKind.BINARY
        # Written so that a number which is none fails too.
        fits = (
            dose.amount in (0.0, 1.0)
            if binary
            else (dose.amount == 0.0 or treatment.low <= dose.amount <= treatment.high)
        )
        if not fits:
            raise GemelError(
                "GEM603",
                f"{dose.treatment} = {dose.amount:g} {treatment.unit} is outside "
                f"{treatment.low:g} to {treatment.high:g}.",
            )
        if not 0 <= dose.from_days < _end(dose):
            raise GemelError("GEM603", f"{dose.treatment}: its days do not run forward from the index date.")
    for name in plan.treatments:
        mine = sorted((d for d in plan.doses if d.treatment == name), key=lambda dose: dose.from_days)
        if any(_end(first) > second.from_days for first, second in pairwise(mine)):
            raise GemelError("GEM603", f"{name}: two doses overlap.")


def planned_values(
    programme: Programme, values: NDArray[np.floating], plan: TreatmentPlan
) -> NDArray[np.floating]:
    """Raw values (n, d) with the columns that say what was given at the index date set as the plan has them.

    Raises GEM603 for a plan that does not fit the programme, or that changes such a treatment later: the data say what
    was given at the index date, and no more.
    """
    check_plan(programme, plan)
    changed = np.array(values, copy=True)
    for name in sorted(plan.treatments):
        feature = programme.treatment(name).feature
        if not feature:
            continue
        mine = [dose for dose in plan.doses if dose.treatment == name]
        if any(dose.from_days > 0 or dose.to_days is not None for dose in mine):
            raise GemelError("GEM603", f"{name}: the data say what was given at the index date, and no more.")
        changed[:, programme.feature_names.index(feature)] = plan.start_amount(name)
    return changed


def _end(dose: Dose) -> float:
    return float("inf") if dose.to_days is None else dose.to_days
