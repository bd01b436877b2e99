"""How far the released models of a run differ on one patient: the range over hospitals' models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gemel.core.errors import GemelError
from gemel.twins.treatment_plan import NOTHING_CHANGED, TreatmentPlan
from gemel.twins.twin import Twin


@dataclass(frozen=True)
class PredictionRange:
    """Lowest and highest cumulative incidence over several models, each (n, times, k).

    It is the spread of the models (differences between hospitals, and privacy noise), not a confidence interval:
    it has no stated coverage, and knows nothing of what all models get wrong alike.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]


def predict_range(
    twins: Sequence[Twin], values: NDArray[np.floating], *, plan: TreatmentPlan = NOTHING_CHANGED
) -> PredictionRange:
    """The range of the predictions of `twins`: the sites' last models and the last global ones, all released.

    Raises GEM602 without twins, or when they are not twins of one programme.
    """
    if len({(twin.programme.name, twin.programme.version) for twin in twins}) != 1:
        raise GemelError("GEM602", "A range needs twins, all of one programme.")
    courses = np.stack([twin.predict(values, plan=plan).cumulative_incidence for twin in twins])
    return PredictionRange(courses.min(axis=0), courses.max(axis=0))
