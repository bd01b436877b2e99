"""The twin of a patient who was watched after the first day: which fates are still likely, given what was seen.

Fates are to die in a step of the grid, or to live with one of the six levels at six months. The twin says how likely each is
before; events are conditioned on exactly (`known_events`); then each fate is weighed by the chance of what else was seen
of who has it (Bayes, tempered where it says again what is known): whether the patient was home by a day, counts of the NIH Stroke Scale, earlier modified Rankin Scales. Nothing
seen leaves the prediction as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gemel.core.errors import GemelError
from gemel.core.programme import DAYS_PER_YEAR
from gemel.core.series import Series
from gemel.twins.known_events import known_events, parted
from gemel.twins.prediction import ExpectedCourse, Floats, Prediction
from gemel.twins.programmes.stroke.rankin import LEVELS, possible_levels
from gemel.twins.treatment_plan import NOTHING_CHANGED, TreatmentPlan
from gemel.twins.twin import Individual, Observations

if TYPE_CHECKING:
    from gemel.twins.programmes.stroke.twin import StrokeTwin

# Home by day d of who lives with level 0 to 5 at six months, and of who dies before: share * (1 - exp(-(d / days) ** power)).
# Mark C: rounded from the International Stroke Trial's hospitals at hand (DPLACE A and B by DALIVED); three groups of levels.
HOME_SHARE = np.array([0.69, 0.56, 0.56, 0.29, 0.29, 0.29, 0.23])
HOME_DAYS = np.array([8.5, 10.0, 10.0, 12.0, 12.0, 12.0, 20.0])
HOME_POWER = np.array([1.6, 1.7, 1.7, 1.8, 1.8, 1.8, 1.9])
# To be home says again some of what the examination said: its logarithm counts so much. Mark C: of 1 and 0.7, the better there.
HOME_EVIDENCE = 0.7
# Points of the NIH Stroke Scale at six months by level, how many more there are on the first day, and in what time that is lost; the
# last is of those who die. Mark U: chosen by the programme's authors.
NIHSS_END = np.array([0.3, 1.0, 2.0, 4.0, 7.0, 13.0, 16.0])
NIHSS_MORE = np.array([3.0, 4.0, 5.0, 6.0, 7.0, 6.0, 0.0])
NIHSS_DAYS, NIHSS_DEVIATION = 50.0, 5.0
# An earlier modified Rankin Scale: how many levels higher than in the end on the first day, and how far off. Mark U: chosen.
RANKIN_MORE, RANKIN_DAYS, RANKIN_DEVIATION = 1.5, 45.0, 0.9
_DYING_RANKIN = 5.0
_DYING = LEVELS
_SCORES = {"nihss": 42.0, "modified_rankin_scale": 5.0}


class StrokePatients(Individual):
    """n patients with their observations. See the module; `StrokeTwin.observables` says what they may be."""

    def __init__(self, twin: StrokeTwin, values: NDArray[np.floating], observations: Observations) -> None:
        self._twin, self._values = twin, values
        events, others = parted(twin.programme, observations)
        persons = len(values)
        self._known = known_events(twin.programme, _alive_when_seen(events, others, persons), persons=persons)
        self._weight = np.zeros((persons, LEVELS + 1))
        for name, series in others.items():
            _check(name, series, persons)
            weigh = _home_log_chance if name == "at_home" else _SCORED[name]
            for row in range(persons):
                days, seen = series.of(row)
                if len(days):
                    self._weight[row] += weigh(days.astype(np.float64), seen.astype(np.float64))

    def predict(self, *, plan: TreatmentPlan = NOTHING_CHANGED) -> Prediction:
        """See `Individual`."""
        from gemel.twins.programmes.stroke.twin import rankin_targets

        before = self._twin.predict_knowing(self._values, self._known, plan)
        # The same factor for every fate changes nothing: the best explained counts 1.
        factor = np.exp(self._weight - self._weight.max(axis=1, keepdims=True))
        levels = before.targets["rankin_6_months"]
        living = factor[:, :_DYING] * levels
        alive = before.alive[:, -1]
        evidence = (1 - alive) * factor[:, _DYING] + alive * living.sum(axis=1)
        dies = np.where(alive < 1, factor[:, _DYING] / evidence, 1.0)
        lives = living.sum(axis=1) / evidence
        incidence, state = _reweighed(before, self._known.until_years, dies, lives)
        targets = rankin_targets(living / living.sum(axis=1, keepdims=True))
        courses = {"nihss": self._impairment(before.courses["nihss"], dies * (1 - alive), targets)}
        return replace(before, cumulative_incidence=incidence, state=state, targets=targets, courses=courses)

    @property
    def parameters(self) -> Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """The modified Rankin Scale at six months, should the patient live: what the observations moved."""
        value = self.predict().targets["rankin_value_6_months"]
        return {"rankin_at_six_months": (value[:, 0], value[:, 1])}

    def _impairment(
        self, course: ExpectedCourse, died: Floats, targets: Mapping[str, Floats]
    ) -> ExpectedCourse:
        """The course moved to where the levels that are now believed lie, as far as anything was scored or seen."""
        moved = self._weight.max(axis=1) > self._weight.min(axis=1)
        if not moved.any():
            return course
        days = np.array(self._twin.programme.times_years) * DAYS_PER_YEAR
        shares = np.concatenate([targets["rankin_6_months"] * (1 - died)[:, None], died[:, None]], axis=1)
        points = _nihss_by_fate(days)  # (T, 7)
        mean = shares @ points.T
        spread = np.sqrt(np.maximum(shares @ (points**2).T - mean**2, 0.0))
        return ExpectedCourse(
            course.unit,
            np.where(moved[:, None], mean, course.mean),
            np.where(moved[:, None], spread, course.spread),
        )


def _reweighed(before: Prediction, until_years: Floats, dies: Floats, lives: Floats) -> tuple[Floats, Floats]:
    """(cumulative incidence, state) when dying by the horizon counts `dies` times as much, and living `lives` times."""
    death = before.cumulative_incidence[:, :, 0] * dies[:, None]
    incidence = before.cumulative_incidence.copy()
    incidence[:, :, 0] = np.clip(death, 0.0, 1.0)
    alive = before.alive
    # Alive at a time: those who die later, and those who live.
    later = (before.cumulative_incidence[:, -1:, 0] - before.cumulative_incidence[:, :, 0]) * dies[:, None]
    now = later + before.alive[:, -1:] * lives[:, None]
    state = before.state * np.where(alive > 0, now / np.maximum(alive, 1e-300), 0.0)[:, :, None]
    return incidence, state


def _alive_when_seen(events: Observations, others: Observations, persons: int) -> Observations:
    """The events; and that each patient of whom something was seen was alive on that day."""
    days: list[list[float]] = [[] for _ in range(persons)]
    for series in others.values():
        for row in range(min(persons, len(series))):
            days[row].extend(series.of(row)[0].tolist())
    given = events.get("death")
    rows = []
    for row, seen in enumerate(days):
        pairs = [] if given is None or len(given) != persons else list(zip(*given.of(row), strict=True))
        rows.append(sorted({*((float(d), float(v)) for d, v in pairs), *((d, 0.0) for d in seen)}))
    if given is not None and len(given) != persons:
        return events  # `known_events` says what is wrong
    lengths = np.array([len(pairs) for pairs in rows])
    flat = np.array([pair for pairs in rows for pair in pairs], np.float32).reshape(-1, 2)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return {**events, "death": Series(offsets, flat[:, 0].copy(), flat[:, 1].copy())}


def _check(name: str, series: Series, persons: int) -> None:
    """Refuse (GEM604) what cannot have been observed."""
    if name != "at_home" and name not in _SCORES:
        raise GemelError("GEM604", f"{name} is not observed by the twin of stroke.")
    if len(series) != persons:
        raise ValueError(f"{name}: {len(series)} patients, expected {persons}")
    if not (np.isfinite(series.days).all() and (series.days >= 0).all()):
        raise GemelError("GEM604", f"{name}: a day before the index date, or none.")
    if name == "at_home":
        fits = bool(np.isin(series.values, (0.0, 1.0)).all())
    else:
        fits = bool(((series.values >= 0) & (series.values <= _SCORES[name])).all())
    if not fits:
        raise GemelError("GEM604", f"{name}: a value that the scale does not have.")


def _home_by(day: float) -> Floats:
    """(7,): the share that is home by a day, of each fate."""
    return np.asarray(HOME_SHARE * -np.expm1(-((day / HOME_DAYS) ** HOME_POWER)), np.float64)


def _home_log_chance(days: Floats, seen: Floats) -> Floats:
    """(7,): tempered log of the chance not to be home by the last day of a 0, and to be so by the first day of a 1."""
    not_yet = max(days[seen == 0.0], default=0.0)
    home = min(days[seen == 1.0], default=np.inf)
    if home < not_yet:
        raise GemelError("GEM604", "at_home: home before a day by which the patient was not.")
    chance = 1.0 - _home_by(not_yet)
    if np.isfinite(home):
        # Home on the day on which the last look said no: the day is all that is known, take the one after it.
        chance = _home_by(max(home, not_yet + 1.0)) - _home_by(not_yet)
    return np.asarray(HOME_EVIDENCE * np.log(np.maximum(chance, 1e-12)), np.float64)


def _nihss_by_fate(days: Floats) -> Floats:
    """(T, 7): points of the NIH Stroke Scale on each of `days`, of each fate."""
    return np.asarray(NIHSS_END + NIHSS_MORE * np.exp(-days[:, None] / NIHSS_DAYS), np.float64)


def _nihss_log_chance(days: Floats, seen: Floats) -> Floats:
    away = (seen[:, None] - _nihss_by_fate(days)) / NIHSS_DEVIATION
    # Counts of one patient are alike: the mean of them is as good as one, and a bit better.
    return np.asarray(-0.5 * (away**2).mean(axis=0) * np.sqrt(len(days)), np.float64)


def _rankin_log_chance(days: Floats, seen: Floats) -> Floats:
    numbers = np.append(np.arange(LEVELS, dtype=np.float64), _DYING_RANKIN)
    expected = np.minimum(numbers + RANKIN_MORE * np.exp(-days[:, None] / RANKIN_DAYS), _DYING_RANKIN)
    chance = np.exp(
        -0.5 * ((np.arange(LEVELS)[None, :, None] - expected[:, None, :]) / RANKIN_DEVIATION) ** 2
    )
    chance = chance / chance.sum(axis=1, keepdims=True)  # (observations, level, fate)
    possible = possible_levels(seen)
    return np.asarray(np.log(np.maximum((chance * possible[:, :, None]).sum(axis=1), 1e-12)).sum(axis=0))


_SCORED = {"nihss": _nihss_log_chance, "modified_rankin_scale": _rankin_log_chance}
