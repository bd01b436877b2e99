"""Reports that the code fills in: TRIPOD+AI, model-card fields, the context of use of V&V 40."""

from gemel.twins.reporting.audience import Audience
from gemel.twins.reporting.credibility import credibility, model_risk
from gemel.twins.reporting.model_card_fields import card_fields
from gemel.twins.reporting.report import Report, report
from gemel.twins.reporting.tripod_ai import Status, tripod_ai

__all__ = [
    "Audience",
    "Report",
    "Status",
    "card_fields",
    "credibility",
    "model_risk",
    "report",
    "tripod_ai",
]
