"""Published rules that HbA1c after 6 months is set beside.

The equations of UKPDS Outcomes Model 2 for events have a known form (Hayes 2013), but their coefficients are in a supplement that
was not at hand and belong to licensed software: they are left out.
"""

from __future__ import annotations

import numpy as np

from gemel.core.programme import DAYS_PER_YEAR
from gemel.twins.parameters import Mark
from gemel.twins.published_score import Floats, PublishedScore

LAST_VALUE = PublishedScore(
    name="last_value",
    title="The last HbA1c, carried forward",
    source="by definition",
    mark=Mark.COMPUTED,
    endpoint="hba1c_182",
    formula=lambda columns: columns["hba1c_percent"],
    inputs=("hba1c_percent",),
)


def _ukpds_90(columns: dict[str, Floats]) -> Floats:
    years = np.maximum(columns["days_since_diabetes_was_recorded"] / DAYS_PER_YEAR, 1.0)
    return np.asarray(
        1.68
        + 0.679 * columns["hba1c_percent"]
        + 0.089 * columns["earlier_hba1c_percent"]
        + 0.219 * np.log(years)
        + 0.055 * (columns["male"] < 0.5)
    )


UKPDS_90 = PublishedScore(
    name="ukpds_90",
    title="UKPDS 90, HbA1c a year later (the earliest HbA1c known here for the first one; ethnic groups not recorded)",
    source="Leal J et al., Diabet Med 2021;38:e14656; coefficients second-hand, from public code that cites it",
    mark=Mark.SECOND_HAND,
    endpoint="hba1c_182",
    formula=lambda columns: _ukpds_90(dict(columns)),
    inputs=("hba1c_percent", "earlier_hba1c_percent", "days_since_diabetes_was_recorded", "male"),
)
