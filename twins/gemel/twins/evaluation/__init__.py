"""Exact evaluation at the hospital: what the twin's predictions are worth on patients that it was not trained on."""

from gemel.twins.evaluation.estimate import Estimate
from gemel.twins.evaluation.evaluation import (
    Evaluation,
    RiskEvaluation,
    ValueEvaluation,
    evaluate,
    evaluate_prediction,
)
from gemel.twins.evaluation.observed import Observed, observed_events

__all__ = [
    "Estimate",
    "Evaluation",
    "Observed",
    "RiskEvaluation",
    "ValueEvaluation",
    "evaluate",
    "evaluate_prediction",
    "observed_events",
]
