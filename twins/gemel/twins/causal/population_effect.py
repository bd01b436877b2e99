"""The effect in a population: g-computation (standardisation; Robins 1986, Snowden et al., Am J Epidemiol 2011;173:731).

Everybody's risk is predicted under each plan, and the means are compared. The interval holds both kinds of chance: which people
we happen to average over, and how far the twin's parameters are off (`precision`: sampling of those it learnt from, and noise).
Without the second there is no interval: one that left it out would look surer than anybody is.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from gemel.twins.causal.e_value import EValue, e_value, risk_ratio_of_mean_difference
from gemel.twins.causal.estimand import Basis, Estimand, Measure
from gemel.twins.causal.precision import Parameters
from gemel.twins.causal.support import Reason, SupportEvidence, check_plans
from gemel.twins.prediction import Prediction
from gemel.twins.twin import Twin

Floats = NDArray[np.float64]

# A larger share without support, and the answer would be about other people than the question.
MOST_LEFT_OUT = 0.10
# Parameter draws are averaged over at most so many people: the draws' spread does not need all of them.
_PEOPLE_FOR_PARAMETERS = 4000


@dataclass(frozen=True)
class Effect:
    """An estimate with its 95 % interval; None where the error of the twin's parameters is not known.

    `people_error` and `parameter_error` are standard errors; of a ratio, of its logarithm. `pull` is by how much twins trained
    on draws from this one lie off it on average (`retrained`): what clipping and stopping early do to the effect. The interval
    holds it; the value is not corrected for it.
    """

    value: float
    interval: tuple[float, float] | None
    people_error: float
    parameter_error: float | None
    pull: float | None = None


@dataclass(frozen=True)
class PopulationEffect:
    """What `population_effect` found, or why it found nothing (`refusal`; the numbers are then None).

    Attributes:
        mean, other_mean: Mean risk (or value) under the plan, and under the other.
        included: Who was averaged over, bool (n,).
        left_out: How many were not, by reason.
        overlap: Of the smaller of the two propensities; empty where it is not known.
        unchecked: What nothing here could check.
        e_value: Of an association only: lots leave nothing to explain away.
    """

    estimand: Estimand
    refusal: Reason | None
    included: NDArray[np.bool_]
    left_out: Mapping[Reason, int]
    overlap: Mapping[str, float]
    unchecked: tuple[str, ...]
    mean: float | None = None
    other_mean: float | None = None
    effect: Effect | None = None
    e_value: EValue | None = None

    @property
    def people(self) -> int:
        """How many were averaged over."""
        return int(self.included.sum())


def population_effect(
    twin: Twin,
    values: NDArray[np.floating],
    estimand: Estimand,
    *,
    parameters: Sequence[Parameters] = (),
    evidence: SupportEvidence | None = None,
) -> PopulationEffect:
    """Standardise the twin's predictions under both plans over raw values (n, d).

    Args:
        twin: The twin whose prediction is the estimate.
        values: The people of the estimand's population. Who is not at risk of the endpoint's outcome, and whom the support
            check refuses, is not averaged over.
        estimand: From `gemel.twins.causal.estimand.declare`.
        parameters: How far the twin's parameters may be off: draws of them (`precision`). Empty: no interval.
        evidence: What is known of the people that the twin learnt from.

    Raises GEM603 for a plan that does not fit.
    """
    given = np.asarray(values)
    support = check_plans(estimand.programme, given, estimand.plan, estimand.other_plan, evidence=evidence)
    supported, at_risk = support.supported, _at_risk(twin, given, estimand)
    overlap = support.propensity.summary() if len(given) else {}
    included = supported & at_risk
    kept = given[included]
    found = PopulationEffect(
        estimand, _refusal(supported, at_risk), included, support.counts, overlap, support.unchecked
    )
    if found.refusal is not None:
        return found
    risks = expected_under(twin, kept, estimand)
    if same(*risks):
        names = ", ".join(treatment.name for treatment in estimand.compared)
        nothing = Reason(
            "GEM624", f"{names}: the twin expects exactly the same of everybody under both plans."
        )
        return replace(found, refusal=nothing)
    effect = _effect(twin, kept, estimand, risks, estimand.measure, parameters)
    association = estimand.basis is Basis.ASSOCIATION
    return replace(
        found,
        mean=float(risks[0].mean()),
        other_mean=float(risks[1].mean()),
        effect=effect,
        e_value=_e_value(twin, kept, estimand, risks, effect, parameters) if association else None,
    )


def same(one: Floats | float, other: Floats | float) -> bool:
    """Whether two predictions differ by no more than rounding: the twin knows of no effect.

    >>> same(0.3, 0.1 + 0.2), same(0.3, 0.3001)
    (True, False)
    """
    return bool(np.allclose(one, other, rtol=1e-9, atol=1e-12, equal_nan=True))


def _refusal(supported: NDArray[np.bool_], at_risk: NDArray[np.bool_]) -> Reason | None:
    asked = int(at_risk.sum())
    if asked < 2:
        return Reason("GEM626", f"{asked} people are at risk of it: a population has at least 2.")
    share = 1 - float((supported & at_risk).sum()) / asked
    if share > MOST_LEFT_OUT:
        return Reason("GEM626", f"{share:.0%} of the people asked about have no support for both plans.")
    return None


def _at_risk(twin: Twin, values: NDArray[np.floating], estimand: Estimand) -> NDArray[np.bool_]:
    outcome = estimand.endpoint.outcome
    if not outcome or not len(values):
        return np.ones(len(values), dtype=bool)
    predicted = twin.predict(values)
    return np.logical_not(predicted.prevalent[:, predicted.outcomes.index(outcome)])


def expected_under(twin: Twin, values: NDArray[np.floating], estimand: Estimand) -> tuple[Floats, Floats]:
    """Risk (or value) of each patient under the plan and under the other: (n,) each."""
    first, second = (
        _of(twin.predict(values, plan=plan), estimand) for plan in (estimand.plan, estimand.other_plan)
    )
    return first, second


def _of(predicted: Prediction, estimand: Estimand) -> Floats:
    return np.asarray(
        predicted.risk(estimand.programme, estimand.endpoint)[:, estimand.horizon], dtype=np.float64
    )


def _contrast(risks: tuple[Floats, Floats], measure: Measure) -> tuple[float, float]:
    """The measure (a ratio's logarithm), and its standard error over who the people are."""
    first, second = risks
    if measure is Measure.RISK_RATIO:
        means = max(first.mean(), 1e-12), max(second.mean(), 1e-12)
        value, each = math.log(means[0] / means[1]), first / means[0] - second / means[1]
    else:
        each = first - second
        value = float(each.mean())
    return value, float(each.std(ddof=1) / math.sqrt(len(each)))


def _effect(
    twin: Twin,
    values: NDArray[np.floating],
    estimand: Estimand,
    risks: tuple[Floats, Floats],
    measure: Measure,
    parameters: Sequence[Parameters],
) -> Effect:
    value, people_error = _contrast(risks, measure)
    back = math.exp if measure is Measure.RISK_RATIO else float
    if len(parameters) < 2:
        return Effect(back(value), None, people_error, None)
    some = values
    if len(values) > _PEOPLE_FOR_PARAMETERS:
        chosen = np.random.default_rng(0).choice(len(values), _PEOPLE_FOR_PARAMETERS, replace=False)
        some = values[np.sort(chosen)]
    centre, _ = _contrast(expected_under(twin, some, estimand), measure)
    away = [
        _contrast(expected_under(moved, some, estimand), measure)[0] - centre
        for moved in moved_twins(twin, parameters)
    ]
    parameter_error, reach = error_and_reach(away, people_error)
    interval = back(value - reach), back(value + reach)
    return Effect(back(value), interval, people_error, parameter_error, float(np.mean(away)))


def moved_twins(twin: Twin, parameters: Sequence[Parameters]) -> Iterator[Twin]:
    """The twin at each draw of its parameters, one after the other; the twin itself is not changed."""
    moved = copy.deepcopy(twin)
    for one in parameters:
        moved.load_arrays(one)
        yield moved


def error_and_reach(away: Sequence[float], people_error: float = 0.0) -> tuple[float, float]:
    """From how far the draws lie off the estimate: the parameters' standard error, and half the length of a 95 % interval.

    About the estimate, not about the draws' own mean: what training pulls one way counts as error.
    """
    parameter_error = float(np.sqrt(np.mean(np.square(away))))
    error = math.hypot(people_error, parameter_error)
    return parameter_error, _quantile(people_error, parameter_error, len(away)) * error


def _quantile(people_error: float, parameter_error: float, draws: int) -> float:
    """How many standard errors 95 % reaches, the error itself being known from few draws (Satterthwaite 1946)."""
    if parameter_error == 0:
        return float(stats.norm.ppf(0.975))
    share = parameter_error**2 / (people_error**2 + parameter_error**2)
    return float(stats.t.ppf(0.975, draws / share**2))


def _e_value(
    twin: Twin,
    values: NDArray[np.floating],
    estimand: Estimand,
    risks: tuple[Floats, Floats],
    effect: Effect,
    parameters: Sequence[Parameters],
) -> EValue | None:
    if estimand.measure is Measure.MEAN_DIFFERENCE:
        return _e_value_of_means(twin, values, estimand, effect)
    if min(risks[0].mean(), risks[1].mean()) <= 0:
        return None
    ratio = (
        effect
        if estimand.measure is Measure.RISK_RATIO
        else _effect(twin, values, estimand, risks, Measure.RISK_RATIO, parameters)
    )
    low, high = ratio.interval or (None, None)
    return e_value(ratio.value, low=low, high=high)


def _e_value_of_means(
    twin: Twin, values: NDArray[np.floating], estimand: Estimand, effect: Effect
) -> EValue | None:
    predicted = twin.predict(values, plan=estimand.other_plan).targets[estimand.endpoint.target]
    deviation = float(np.sqrt(np.mean(predicted[:, 1] ** 2) + np.var(predicted[:, 0])))
    if not deviation > 0:
        return None
    ratio = risk_ratio_of_mean_difference(effect.value, standard_deviation=deviation)
    if effect.parameter_error is None:
        return e_value(ratio)
    # 1.78 = 1.96 x 0.91 (VanderWeele & Ding 2017, table 2).
    reach = 1.78 * math.hypot(effect.people_error, effect.parameter_error) / deviation
    return e_value(ratio, low=ratio * math.exp(-reach), high=ratio * math.exp(reach))
