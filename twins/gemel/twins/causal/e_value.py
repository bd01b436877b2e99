"""The E-value: how strong an unmeasured confounder would have to be to explain an association away.

VanderWeele TJ, Ding P, Ann Intern Med 2017;167:268 (table 2). On the scale of the risk ratio, with RR turned to be above 1:
E = RR + sqrt(RR (RR - 1)). An unmeasured confounder that is tied to treatment and to outcome by risk ratios of E each, above
and beyond the measured covariates, could explain the association; a weaker one could not. It says nothing of other biases.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gemel.core.errors import GemelError

# Up to this share with the outcome by the end of follow-up, odds and hazard ratios stand for the risk ratio.
RARE = 0.15


@dataclass(frozen=True)
class EValue:
    """Of the estimate, and of the limit of its interval that is nearest to no effect: 1 when the interval holds that.

    `limit` is None where there is no interval.
    """

    estimate: float
    limit: float | None


def e_value(risk_ratio: float, *, low: float | None = None, high: float | None = None) -> EValue:
    """Of a risk ratio with its interval, both limits or none. Raises GEM628 for what is no ratio with an interval around it.

    >>> found = e_value(3.9, low=1.8, high=8.7)
    >>> round(found.estimate, 2), round(found.limit, 2)
    (7.26, 3.0)
    """
    if (low is None) != (high is None):
        raise GemelError("GEM628", "An interval has two limits.")
    _positive(risk_ratio)
    if low is None or high is None:
        return EValue(_of(risk_ratio), None)
    if not 0 <= low <= risk_ratio <= high:
        raise GemelError("GEM628", f"{risk_ratio:g} is not between {low:g} and {high:g}.")
    if low <= 1 <= high:
        return EValue(_of(risk_ratio), 1.0)
    return EValue(_of(risk_ratio), _of(low if low > 1 else high))


def risk_ratio_of_odds_ratio(odds_ratio: float, *, rare: bool) -> float:
    """The risk ratio that an odds ratio stands for: itself where the outcome is rare (`RARE`), its square root where it is not.

    >>> risk_ratio_of_odds_ratio(4.0, rare=False)
    2.0
    """
    _positive(odds_ratio)
    return odds_ratio if rare else math.sqrt(odds_ratio)


def risk_ratio_of_hazard_ratio(hazard_ratio: float, *, rare: bool) -> float:
    """The risk ratio that a hazard ratio stands for: itself where the outcome is rare (`RARE`), else the paper's approximation."""
    _positive(hazard_ratio)
    if rare:
        return hazard_ratio
    root = math.sqrt(hazard_ratio)
    return float((1 - 0.5**root) / (1 - 0.5 ** (1 / root)))


def risk_ratio_of_risks(risk: float, other_risk: float) -> float:
    """The ratio behind a risk difference, from its two risks; a difference alone has no E-value."""
    if not (0 < risk <= 1 and 0 < other_risk <= 1):
        raise GemelError("GEM628", f"{risk:g} and {other_risk:g} are not two risks above 0.")
    return risk / other_risk


def risk_ratio_of_mean_difference(difference: float, *, standard_deviation: float) -> float:
    """The risk ratio that a difference of means stands for: exp(0.91 d), d in standard deviations of the outcome."""
    _positive(standard_deviation)
    return math.exp(0.91 * difference / standard_deviation)


def largest_bias(with_treatment: float, with_outcome: float) -> float:
    """By what factor at most a confounder tied by these two risk ratios can move a risk ratio (Ding & VanderWeele 2016).

    >>> round(largest_bias(7.263, 7.263), 3)
    3.9
    """
    if not (with_treatment >= 1 and with_outcome >= 1):
        raise GemelError("GEM628", "A confounder's risk ratios are turned to be at least 1.")
    return with_treatment * with_outcome / (with_treatment + with_outcome - 1)


def _of(risk_ratio: float) -> float:
    above = risk_ratio if risk_ratio >= 1 else (1 / risk_ratio if risk_ratio > 0 else math.inf)
    return above + math.sqrt(above * (above - 1)) if math.isfinite(above) else math.inf


def _positive(value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise GemelError("GEM628", f"{value:g} is no positive number.")
