"""What exactly a comparison is of: population, two plans, endpoint, horizon, measure, and what has to be assumed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from gemel.core.errors import GemelError
from gemel.core.programme import Assignment, Endpoint, Programme, TargetKind, Treatment
from gemel.twins.treatment_plan import Dose, TreatmentPlan, check_plan


class Measure(StrEnum):
    """How two plans are set against each other."""

    RISK_DIFFERENCE = "risk_difference"  # risk under the plan minus risk under the other
    RISK_RATIO = "risk_ratio"
    MEAN_DIFFERENCE = "mean_difference"  # in the target's unit


class Basis(StrEnum):
    """What kind of claim a comparison is: the weakest of the treatments in which the plans differ."""

    RANDOMISED = "randomised"
    LITERATURE = "literature"
    ASSOCIATION = "association"


@dataclass(frozen=True)
class Estimand:
    """A comparison, declared before it is computed; made by `declare`.

    Attributes:
        population: Whose values are averaged over, in words.
        compared: The treatments in which the plans differ.
        horizon_days: One of the endpoint's horizons, or its target's day.
    """

    programme: Programme
    population: str
    plan: TreatmentPlan
    other_plan: TreatmentPlan
    compared: tuple[Treatment, ...]
    endpoint: Endpoint
    horizon_days: int
    measure: Measure

    @property
    def basis(self) -> Basis:
        """What kind of claim it is."""
        return basis_of(self.compared)

    @property
    def horizon(self) -> int:
        """Which of the endpoint's horizons: the column of `Prediction.risk`."""
        return self.endpoint.horizons_days.index(self.horizon_days) if self.endpoint.outcome else 0

    @property
    def sentence(self) -> str:
        """The estimand in a sentence."""
        names = (self.plan.name or "the plan", self.other_plan.name or "the other plan")
        return (
            f"{self.measure.value.replace('_', ' ').capitalize()} of {self.endpoint.title} at day {self.horizon_days}, "
            f"{names[0]} against {names[1]}, in {self.population}."
        )

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What has to hold for the number to be the effect."""
        return assumptions_of(self.basis)


def declare(
    programme: Programme,
    plan: TreatmentPlan,
    other_plan: TreatmentPlan,
    *,
    endpoint: str,
    population: str,
    horizon_days: int | None = None,
    measure: Measure | None = None,
) -> Estimand:
    """Check and complete an estimand: by default at the endpoint's last horizon, as a difference.

    Raises GEM603 for a plan that does not fit, GEM625 for an endpoint, horizon or measure that is not there, and for plans
    that are the same.
    """
    check_plan(programme, plan)
    check_plan(programme, other_plan)
    compared = treatments_compared(programme, plan, other_plan)
    if not compared:
        raise GemelError("GEM625", "The two plans are the same.")
    chosen = next((e for e in programme.endpoints if e.name == endpoint), None)
    if chosen is None:
        names = ", ".join(e.name for e in programme.endpoints)
        raise GemelError("GEM625", f"{programme.name} has no endpoint {endpoint}: {names}.")
    horizons = horizons_of(programme, chosen)
    day = horizons[-1] if horizon_days is None else horizon_days
    if day not in horizons:
        raise GemelError("GEM625", f"{endpoint} is known at the days {list(horizons)}, not at {day}.")
    mean = is_mean(programme, chosen)
    usual = Measure.MEAN_DIFFERENCE if mean else Measure.RISK_DIFFERENCE
    used = usual if measure is None else measure
    if (used is Measure.MEAN_DIFFERENCE) != mean:
        raise GemelError("GEM625", f"{endpoint} has no {used.value.replace('_', ' ')}.")
    return Estimand(programme, population, plan, other_plan, compared, chosen, day, used)


def treatments_compared(
    programme: Programme, plan: TreatmentPlan, other_plan: TreatmentPlan
) -> tuple[Treatment, ...]:
    """The treatments in which two plans differ, in the programme's order."""
    return tuple(t for t in programme.treatments if _doses(plan, t.name) != _doses(other_plan, t.name))


def basis_of(compared: tuple[Treatment, ...]) -> Basis:
    """What a comparison of plans that differ in these treatments can claim: the weakest of them."""
    if any(t.is_learnt and t.assignment is Assignment.OBSERVED for t in compared):
        return Basis.ASSOCIATION
    return Basis.RANDOMISED if all(t.is_learnt for t in compared) else Basis.LITERATURE


def assumptions_of(basis: Basis) -> tuple[str, ...]:
    """What has to hold for a number of this basis to be the effect."""
    return (*_BY_BASIS[basis], *_ALWAYS)


def horizons_of(programme: Programme, endpoint: Endpoint) -> tuple[int, ...]:
    """The days on which an endpoint is known."""
    if endpoint.outcome:
        return endpoint.horizons_days
    return (next(t for t in programme.targets if t.name == endpoint.target).at_days or 0,)


def is_mean(programme: Programme, endpoint: Endpoint) -> bool:
    """Whether an endpoint is a measured value, not a risk."""
    return any(t.name == endpoint.target and t.kind is TargetKind.VALUE_AT for t in programme.targets)


def _doses(plan: TreatmentPlan, treatment: str) -> tuple[Dose, ...] | None:
    if treatment not in plan.treatments:
        return None
    return tuple(sorted((d for d in plan.doses if d.treatment == treatment), key=lambda d: d.from_days))


_BY_BASIS = {
    Basis.RANDOMISED: (
        "Treatment was given by lot at the stated chance: nothing else differs between the groups but by chance.",
        "Intention to treat: the effect of being allotted the plan, whatever was taken afterwards.",
        "For a group of its own, or one patient: the twin's model of how the effect varies is right.",
    ),
    Basis.LITERATURE: (
        "The effect is as the cited publications have it; these data did not teach it and cannot check it.",
        "It carries over to this patient from the people who were studied.",
    ),
    Basis.ASSOCIATION: (
        "Exchangeability: the measured covariates hold all that drove both treatment and outcome. The E-value says how "
        "strong what they leave out would have to be.",
        "Positivity: people like this one got each of the plans (propensity at least 0.02).",
    ),
}
_ALWAYS = (
    "Consistency: a plan is one well-defined thing, and what is given to one patient changes nothing for another.",
    "Who left early had the course of those who stayed, given the covariates.",
    "The twin's outcome model is right where it is used.",
)
