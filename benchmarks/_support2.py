"""SUPPORT2 (9,105 critically ill inpatients, public) in public bins: by unit and physiology, never from the data.

Source: Knaus et al., Ann Intern Med 1995;122:191. A part of it may be kept from us: every file is read from a path.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemel.synthetic.columns import Categories, Form, Numbers, Role, Times
from gemel.synthetic.domain import Domain, table_domain

Raw = dict[str, Any]

LAST_DAY = 2030


def _bins(step: float, *edges: float) -> Numbers:
    return Numbers(tuple(map(float, edges)), step, stand_in=float(edges[len(edges) // 2]))


def _one_of(*values: str) -> Categories:
    return Categories(values, stand_in=values[-1])


FEATURES: Mapping[str, Form] = {
    "sex": _one_of("female", "male"),
    "dzgroup": _one_of(
        "ARF/MOSF w/Sepsis", "CHF", "COPD", "Cirrhosis", "Colon Cancer", "Coma", "Lung Cancer", "MOSF w/Malig"
    ),
    "race": _one_of("asian", "black", "hispanic", "missing", "other", "white"),
    "ca": _one_of("metastatic", "yes", "no"),
    "diabetes": _one_of("1", "0"),
    "dementia": _one_of("1", "0"),
    "dnr": _one_of("dnr after sadm", "dnr before sadm", "missing", "no dnr"),
    "age": _bins(0.01, *range(18, 103, 6)),
    "num_co": _bins(1, *range(11)),
    "scoma": _bins(1, 0, 1, 10, 27, 38, 45, 56, 62, 90, 95, 101),
    "adlsc": _bins(1, *range(9)),
    "meanbp": _bins(1, 0, 30, 45, 55, 60, 65, 70, 75, 80, 90, 100, 110, 120, 130, 150, 200),
    "hrt": _bins(1, 0, 40, 55, 65, 75, 85, 95, 105, 115, 125, 140, 160, 300),
    "resp": _bins(1, 0, 8, 12, 16, 20, 24, 28, 32, 38, 45, 80),
    "temp": _bins(0.01, 31, 35, 36, 36.4, 36.8, 37.2, 37.6, 38, 38.4, 39, 40, 42),
    "wblc": _bins(0.01, 0, 2, 4, 6, 8, 9, 10, 12, 14, 17, 20, 25, 35, 60, 200.01),
    "alb": _bins(0.01, 0.3, 1.5, 2, 2.5, 2.8, 3.1, 3.4, 3.6, 4, 4.5, 6, 30),
    "bili": _bins(0.01, 0, 0.3, 0.5, 0.7, 0.9, 1.05, 1.3, 2, 4, 8, 15, 30, 60),
    "crea": _bins(0.01, 0, 0.6, 0.8, 1, 1.2, 1.5, 2, 2.5, 3.5, 5, 8, 22),
    "sod": _bins(1, 100, 125, 130, 133, 135, 137, 139, 141, 143, 146, 150, 185),
}
SURVIVAL = Times(
    event_days=(0, 3, 7, 14, 30, 60, 120, 180, 365, 730, LAST_DAY),
    censor_days=(0, 500, 800, 1250, LAST_DAY),
    to_the_end=False,
)
HOSPITAL_DEATH = _one_of("1", "0")


def domain() -> Domain:
    """20 features, survival (time and event as one column) and death in hospital."""
    columns: list[tuple[str, Form, Role]] = [(name, form, Role.FEATURE) for name, form in FEATURES.items()]
    columns += [("survival", SURVIVAL, Role.OUTCOME), ("hospdead", HOSPITAL_DEATH, Role.TARGET)]
    return table_domain(columns)


def read(path: Path) -> Raw:
    """A file's columns by name; survival is (days, event)."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        rows = list(csv.DictReader(file))
    raw: Raw = {
        name: np.array([float(row[name] or "nan") for row in rows])
        if isinstance(form, Numbers)
        else np.array([row[name] for row in rows], object)
        for name, form in FEATURES.items()
    }
    raw["hospdead"] = np.array([row["hospdead"] for row in rows], object)
    days = np.array([float(row["d_time"]) for row in rows])
    raw["survival"] = (days, np.array([int(float(row["death"])) for row in rows]))
    return raw


def people(raw: Raw) -> int:
    """How many patients."""
    return len(raw["hospdead"])


def take(raw: Raw, rows: NDArray[np.intp]) -> Raw:
    """Some patients."""
    return {
        name: tuple(part[rows] for part in column) if isinstance(column, tuple) else column[rows]
        for name, column in raw.items()
    }


def training_and_holdout(data: Path, holdout: Sequence[Path] = ()) -> tuple[Raw, Raw, Raw, str]:
    """(training, hold-out, all that may be trained on, in words): the hold-out's files, else 30 % of the training's."""
    folder = data / "clinical" / "support2"
    found = sorted(path for path in folder.iterdir() if ".csv" in path.suffixes)
    training = next(path for path in found if path.name.startswith("train"))
    raw = read(training)
    others = list(holdout) or [path for path in found if path != training]
    if others:
        parts = [read(path) for path in others]
        joined: Raw = {
            name: np.concatenate([part[name] for part in parts]) for name in parts[0] if name != "survival"
        }
        joined["survival"] = tuple(np.concatenate([part["survival"][i] for part in parts]) for i in (0, 1))
        return raw, joined, raw, f"hold-out: {', '.join(path.name for path in others)}"
    order = np.random.default_rng(0).permutation(people(raw))
    cut = int(0.7 * len(order))
    return take(raw, order[:cut]), take(raw, order[cut:]), raw, "no hold-out file: 30 % of the training file"
