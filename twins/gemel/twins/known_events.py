"""Events that are known of patients after the index date: what a prediction is conditioned on.

A patient's record is known to the last day on which any outcome was looked at: what it does not hold had not come by then.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gemel.core.errors import GemelError
from gemel.core.programme import DAYS_PER_YEAR, Programme
from gemel.twins.prediction import Floats
from gemel.twins.twin import Observations

# Whole days over 365.25 in float32: a day of the grid must not fall behind its own time.
_SAME = 1e-6


@dataclass(frozen=True)
class KnownEvents:
    """Of n patients and k outcomes (death first).

    Attributes:
        until_years: (n,), how far each record is known; infinite after a death, when nothing is left to come.
        onset_years: (n, k), when each outcome came; infinite where it has not come by then.
    """

    until_years: Floats
    onset_years: Floats

    def of(self, rows: slice) -> KnownEvents:
        """Of some of the patients."""
        return KnownEvents(self.until_years[rows], self.onset_years[rows])

    def open_share(self, start: float, end: float) -> Floats:
        """(n, k): the part of a step of the grid in which an outcome may still come."""
        left = np.clip((end - np.maximum(start, self.until_years)) / (end - start), 0.0, 1.0)
        return np.where(self._came(start, end), 0.0, left[:, None])

    def take_in(self, state: Floats, incidence: Floats, start: float, end: float) -> None:
        """Write what came within a step into the state (n, states) and incidence (n, k) at its end, in place."""
        came = self._came(start, end)
        for disease in range(came.shape[1] - 1):
            rows = came[:, disease + 1]
            for without in (s for s in range(state.shape[1]) if not s >> disease & 1):
                state[rows, without | 1 << disease] += state[rows, without]
                state[rows, without] = 0.0
        state[came[:, 0]] = 0.0
        incidence[came] = 1.0

    def _came(self, start: float, end: float) -> np.ndarray:
        after = (self.onset_years > start + _SAME) | (start == 0)
        return np.asarray(after & (self.onset_years <= end + _SAME))


def known_events(programme: Programme, observations: Observations, *, persons: int) -> KnownEvents:
    """Events from observations by the outcomes' names: 1 on the day on which it came, 0 on a day by which it had not.

    Raises GEM604 for another name or value, a day before the index date, an outcome that came before a day by which it
    had not, and for anything after a death.
    """
    names = programme.outcome_names
    until, onset = np.zeros(persons), np.full((persons, len(names)), np.inf)
    for name, series in observations.items():
        if name not in names:
            raise GemelError("GEM604", f"{name} is no outcome of {programme.name}: {list(names)}.")
        if len(series) != persons:
            raise ValueError(f"{name}: {len(series)} patients, expected {persons}")
        if not np.isin(series.values, (0.0, 1.0)).all() or not (series.days >= 0).all():
            raise GemelError(
                "GEM604", f"{name}: 1 on the day on which it came, 0 on a day by which it had not."
            )
        owner = np.repeat(np.arange(persons), series.lengths)
        years, came = series.days.astype(np.float64) / DAYS_PER_YEAR, series.values == 1.0
        np.maximum.at(until, owner, years)
        np.minimum.at(onset[:, names.index(name)], owner[came], years[came])
        free = np.zeros(persons)
        np.maximum.at(free, owner[~came], years[~came])
        if (onset[:, names.index(name)] < free).any():
            raise GemelError("GEM604", f"{name} came before a day by which it had not.")
    if (until > onset[:, 0] + _SAME).any():
        raise GemelError("GEM604", "Something was seen of a patient after the death.")
    return KnownEvents(np.where(np.isfinite(onset[:, 0]), np.inf, until), onset)


def parted(programme: Programme, observations: Observations) -> tuple[Observations, Observations]:
    """Observations of outcomes, for `known_events`; and all others."""
    names = programme.outcome_names
    events = {name: series for name, series in observations.items() if name in names}
    return events, {name: series for name, series in observations.items() if name not in names}
