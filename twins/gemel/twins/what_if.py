"""What the twin expects for one patient, and what it would expect had some features been different.

The two courses are the twin's associations, paired on the same patient. They are no proven causal effect: other
features stay as they are (a blood pressure does not fall with the weight), and what made people's weights differ
in the data was not randomised.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gemel.core.errors import GemelError
from gemel.core.programme import FeatureKind
from gemel.twins.course import predict
from gemel.twins.design import check_support
from gemel.twins.prediction import Prediction

if TYPE_CHECKING:
    from gemel.twins.hazard import HazardTwin

_FIXED = (FeatureKind.AGE, FeatureKind.MALE)


@dataclass(frozen=True)
class WhatIf:
    """A pair of predictions for one patient (first axis 1), and the changed features with their new values."""

    factual: Prediction
    counterfactual: Prediction
    changes: dict[str, float]

    @property
    def difference(self) -> NDArray[np.float64]:
        """(horizon + 1, k): cumulative incidence after the change minus before it."""
        after, before = self.counterfactual.cumulative_incidence, self.factual.cumulative_incidence
        difference: NDArray[np.float64] = after[0] - before[0]
        return difference


def what_if(twin: HazardTwin, values: NDArray[np.floating], changes: Mapping[str, float]) -> WhatIf:
    """Compare one patient, raw values (d,) or (1, d), with the same one given other values of some features.

    `changes` maps a feature's name to its new value in the feature's unit. Raises GEM601 for an unknown feature,
    for age or sex, for a feature that the patient lacks, and for values outside the public bounds, before or after.
    """
    factual = np.asarray(values, dtype=np.float64).reshape(1, -1)
    counterfactual = factual.copy()
    names = twin.programme.feature_names
    for name, value in changes.items():
        if name not in names or twin.programme.features[names.index(name)].kind in _FIXED:
            raise GemelError("GEM601", f"{name} is not a feature that can be changed.")
        if not np.isfinite(value) or not np.isfinite(factual[0, names.index(name)]):
            raise GemelError("GEM601", f"{name} must be known before and after the change.")
        counterfactual[0, names.index(name)] = value
    for given in (factual, counterfactual):
        check_support(twin.programme, given)
    return WhatIf(predict(twin, factual), predict(twin, counterfactual), dict(changes))
