"""How unsure a prediction is: intervals of the twin, conformal intervals of one hospital, and how often they held."""

from gemel.twins.uncertainty.coverage import Coverage, coverage
from gemel.twins.uncertainty.intervals import Band, PredictionInterval, interval
from gemel.twins.uncertainty.models import drawn_models, privacy_deviation
from gemel.twins.uncertainty.site_calibration import (
    CalibratedSet,
    CalibratedTime,
    CalibratedValue,
    calibrate_set,
    calibrate_time,
    calibrate_value,
)

__all__ = [
    "Band",
    "CalibratedSet",
    "CalibratedTime",
    "CalibratedValue",
    "Coverage",
    "PredictionInterval",
    "calibrate_set",
    "calibrate_time",
    "calibrate_value",
    "coverage",
    "drawn_models",
    "interval",
    "privacy_deviation",
]
