"""A published score as a baseline: a points table or a formula over the programme's features, exactly as it was published.

    ALLERGY_SCORE = PublishedScore(
        name="allergy", title="…", source="Author A et al., Journal 2001;1:1, table 3", mark=Mark.VERIFIED, endpoint="death",
        formula=points(Points("age_years", (65, 75), (0, 1, 2)), Points.flag("stroke_history", 2)),
        inputs=("age_years", "stroke_history"),
    )

It is applied to who has its inputs; nothing is imputed. Where the publication says what risk goes with a score, `risk_of` says it
too, so that calibration and net benefit can be compared and not only the order of patients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gemel.core.programme import Programme
from gemel.twins.parameters import Mark

Floats = NDArray[np.float64]
# From the columns that a score needs, by feature name, (n,) each, to its value (n,).
Formula = Callable[[Mapping[str, Floats]], Floats]


@dataclass(frozen=True)
class Points:
    """The points of one input, by its range: `given[i]` from `limits[i - 1]` to below `limits[i]`.

    Attributes:
        feature: The programme's feature.
        limits: Strictly increasing. given: one more than limits.
        above: A limit itself belongs to the range below it: "> 80" where it is true, "≥ 80" where it is not.
    """

    feature: str
    limits: tuple[float, ...]
    given: tuple[float, ...]
    above: bool = False

    def __post_init__(self) -> None:
        increasing = all(a < b for a, b in zip(self.limits, self.limits[1:], strict=False))
        if len(self.given) != len(self.limits) + 1 or not increasing:
            raise ValueError(f"points of {self.feature}: {self.limits} and {self.given} do not fit")

    @classmethod
    def flag(cls, feature: str, given: float) -> Points:
        """Points for a condition that is there (1), and none where it is not (0)."""
        return cls(feature, (0.5,), (0.0, given))

    def __call__(self, columns: Mapping[str, Floats]) -> Floats:
        """Points (n,); 0 where the input is missing, which only an optional input can be."""
        value = columns[self.feature]
        limits = np.asarray(self.limits, np.float64)
        ranges = np.searchsorted(limits, value, side="left" if self.above else "right")
        given = np.asarray(self.given, np.float64)[ranges]
        return np.where(np.isnan(value), 0.0, given)


def points(*parts: Points) -> Formula:
    """The sum of points."""

    def total(columns: Mapping[str, Floats]) -> Floats:
        return np.asarray(sum(part(columns) for part in parts), np.float64)

    return total


@dataclass(frozen=True)
class PublishedScore:
    """See the module; a `gemel.twins.definition.Baseline`.

    Attributes:
        formula: From the columns of `inputs` and `optional` to the score, higher for a higher risk.
        inputs: Features without which there is no score. optional: features that the score itself counts as absent when they
            are not known; the formula gets NaN there.
        risk_of: From scores (n,) to the published risks (n,) at the day `risk_days`; None where none was published.
    """

    name: str
    title: str
    source: str
    mark: Mark
    endpoint: str
    formula: Formula
    inputs: tuple[str, ...]
    optional: tuple[str, ...] = ()
    risk_of: Callable[[Floats], Floats] | None = None
    risk_days: float | None = None

    def __post_init__(self) -> None:
        if not self.source or not self.inputs or (self.risk_of is None) != (self.risk_days is None):
            raise ValueError(f"score {self.name}: source, inputs or the day of its risks is missing")

    def __call__(self, values: NDArray[np.floating], programme: Programme) -> Floats:
        """The score (n,) from raw values (n, d); NaN where an input is missing. KeyError for a feature it does not have."""
        columns = self._columns(values, programme)
        known = np.all([np.isfinite(columns[name]) for name in self.inputs], axis=0)
        with np.errstate(all="ignore"):
            score = np.asarray(self.formula(columns), np.float64)
        return np.where(known, score, np.nan)

    def risk(self, values: NDArray[np.floating], programme: Programme) -> Floats | None:
        """The published risk (n,) by `risk_days`; NaN where the score is. None where none was published."""
        if self.risk_of is None:
            return None
        score = self(values, programme)
        with np.errstate(all="ignore"):
            risk = np.asarray(self.risk_of(score), np.float64)
        return np.where(np.isnan(score), np.nan, risk)

    def _columns(self, values: NDArray[np.floating], programme: Programme) -> dict[str, Floats]:
        where = {name: i for i, name in enumerate(programme.feature_names)}
        return {name: values[:, where[name]].astype(np.float64) for name in (*self.inputs, *self.optional)}


def risk_table(risks: Mapping[int, float]) -> Callable[[Floats], Floats]:
    """Published risks by whole score; beyond the table that of the nearest end. ValueError for a table with gaps.

    >>> risk_table({0: 0.01, 1: 0.03, 2: 0.1})(np.array([1.0, 7.0])).tolist()
    [0.03, 0.1]
    """
    scores = np.array(sorted(risks))
    values = np.array([risks[score] for score in sorted(risks)])
    if len(scores) == 0 or (np.diff(scores) != 1).any():
        raise ValueError(f"the published risks have gaps: {sorted(risks)}")

    def look_up(score: Floats) -> Floats:
        known = np.where(np.isnan(score), scores[0], score)
        place = np.clip(np.rint(known).astype(np.int64) - scores[0], 0, len(scores) - 1)
        return np.where(np.isnan(score), np.nan, values[place])

    return look_up
