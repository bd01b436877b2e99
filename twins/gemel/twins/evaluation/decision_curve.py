"""What deciding by the twin would gain at a threshold of risk: net benefit against treating all, and nobody.

Vickers & Elkin, Med Decis Making 2006;26:565; with weights of censoring. Net benefit is in true positives per patient: who would treat at
a risk of 10 % holds one missed case as bad as nine treatments in vain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gemel.twins.evaluation.estimate import Estimate, standard_error
from gemel.twins.evaluation.observed import Floats, Observed

THRESHOLDS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


@dataclass(frozen=True)
class NetBenefit:
    """At one threshold; treating nobody has 0.

    Attributes:
        treat_all: Net benefit without any score.
        gain: Net benefit over the better of treating all and nobody, with its interval.
        treated: The share of patients with a risk of at least the threshold.
    """

    threshold: float
    net_benefit: float
    treat_all: float
    gain: Estimate
    treated: float


def decision_curve(
    observed: Observed, risk: Floats, *, thresholds: Sequence[float] = THRESHOLDS
) -> tuple[NetBenefit, ...]:
    """The net benefit of risks (n,) at each threshold; nothing where nobody is known."""
    if not observed.known.any():
        return ()
    return tuple(_at(observed, risk, threshold) for threshold in thresholds)


def net_benefit_difference(observed: Observed, first: Floats, second: Floats, threshold: float) -> Estimate:
    """Net benefit of the first minus that of the second, at a threshold, of the same patients."""
    each = _benefit(observed, first >= threshold, threshold) - _benefit(
        observed, second >= threshold, threshold
    )
    return _weighted_mean(observed, each)


def _at(observed: Observed, risk: Floats, threshold: float) -> NetBenefit:
    mine = _benefit(observed, risk >= threshold, threshold)
    everybody = _benefit(observed, np.ones(len(risk), np.bool_), threshold)
    all_of_them = _weighted_mean(observed, everybody).value
    best = everybody if all_of_them > 0 else np.zeros(len(risk))
    return NetBenefit(
        threshold,
        _weighted_mean(observed, mine).value,
        all_of_them,
        _weighted_mean(observed, mine - best),
        float(np.mean(risk[observed.at_risk] >= threshold)),
    )


def _benefit(
    observed: Observed, treated: np.ndarray[tuple[int], np.dtype[np.bool_]], threshold: float
) -> Floats:
    """(n,): 1 for a treated case, minus the odds of the threshold for another who is treated."""
    odds = threshold / (1 - threshold)
    return np.asarray(np.where(treated, np.where(observed.case, 1.0, -odds), 0.0), np.float64)


def _weighted_mean(observed: Observed, each: Floats) -> Estimate:
    weight = observed.weight / observed.weight.sum()
    value = float((weight * each).sum())
    return Estimate.plain(value, standard_error(weight * (each - value)))
