"""FLamby's Fed-Heart-Disease and Fed-TCGA-BRCA as patients' tensors by hospital, with its splits and public scaling.

Splits are FLamby's (owkin/FLamby @edacf54): heart by scikit-learn's `train_test_split` with seed 43, 66 % to train, by label;
BRCA as published in its file. Columns too: heart without ca, thal and slope, patients with a missing value left out.
Scaling is ours: public reference values and clinical bounds, nothing fitted on patients.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "clinical"
HEART_CENTRES = ("cleveland", "hungarian", "switzerland", "va")
BRCA_REGIONS = 6
# name -> (lowest, highest, reference, scale). Bounds are of what clinics record; a value outside, as the 0 mg/dl that
# stands for cholesterol not measured, counts as missing and takes the reference.
HEART_RANGES = {
    "age": (18.0, 100.0, 55.0, 10.0),  # years
    "trestbps": (60.0, 260.0, 130.0, 20.0),  # mmHg; 130 is the first threshold of hypertension (ACC/AHA 2017)
    "chol": (70.0, 700.0, 200.0, 50.0),  # mg/dl; below 200 is desirable (NCEP ATP III)
    "thalach": (50.0, 230.0, 150.0, 25.0),  # beats/min; 220 - age (Fox 1971) at 70 years
    "oldpeak": (-5.0, 10.0, 1.0, 1.0),  # mm of ST depression; 1 mm is a positive exercise test (ACC/AHA)
}
# Deaths or ends of follow-up, in years; the last interval is open.
BRCA_EDGES_YEARS = (0.0, 1.0, 2.0, 3.0, 5.0, 8.0)
_HEART_COLUMNS = ("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak")


@dataclass(frozen=True)
class Hospital:
    """One client: float32 rows by name, and which of them train. `x` (n, p); `y` (n,), or `time`, `event` (n,)."""

    name: str
    columns: dict[str, NDArray[np.float32]]
    trains: NDArray[np.bool_]

    def part(self, trains: bool) -> dict[str, NDArray[np.float32]]:
        """The rows of training, or of testing."""
        return {name: rows[self.trains == trains] for name, rows in self.columns.items()}


def heart() -> list[Hospital]:
    """740 patients of four hospitals, 13 columns."""
    return [_heart_centre(name) for name in HEART_CENTRES]


def brca() -> list[Hospital]:
    """1,088 patients of six regions, 39 columns."""
    folder = SHARED / "fed_tcga_brca"
    table = pd.read_csv(folder / "brca.csv").merge(pd.read_csv(folder / "train_test_split.csv"), on="pid")
    features = table.columns[1:40]
    x = table[features].to_numpy(np.float64)
    x[:, 0] = (np.clip(x[:, 0], 18, 100) - 60) / 15  # age; all others are 0 or 1
    columns = {
        "x": x.astype(np.float32),
        "time": (table["T"].to_numpy(np.float64) / 365.25).astype(np.float32),
        "event": table["E"].to_numpy(np.float32),
    }
    hospitals = []
    for region in range(BRCA_REGIONS):
        mine = table["fold2"].isin([f"train_{region}", f"test_{region}"]).to_numpy()
        trains = table["fold"].eq("train").to_numpy()[mine]
        hospitals.append(Hospital(f"region-{region}", {n: rows[mine] for n, rows in columns.items()}, trains))
    return hospitals


def nested(hospitals: list[Hospital], *, fold: int, folds: int) -> list[Hospital]:
    """The training patients alone, a part of them held out by label: what hyper-parameters are chosen on."""
    inner = []
    for hospital in hospitals:
        columns = hospital.part(True)
        label = columns["y" if "y" in columns else "event"]
        trains = np.ones(len(label), dtype=bool)
        random = np.random.default_rng(1)
        for value in (0, 1):
            rows = random.permutation(np.flatnonzero(label == value))
            trains[rows[fold::folds]] = False
        inner.append(Hospital(hospital.name, columns, trains))
    return inner


def _heart_centre(name: str) -> Hospital:
    table = pd.read_csv(SHARED / "heart_disease" / f"processed.{name}.data", header=None, na_values="?")
    table = table.drop(columns=[10, 11, 12]).dropna().reset_index(drop=True)
    label = (table[13] > 0).astype(int).to_numpy()
    stratify = (
        label if np.bincount(label, minlength=2).min() > 2 else None
    )  # Switzerland has one without disease
    _, test = train_test_split(
        np.arange(len(table)), test_size=1 - 0.66, train_size=0.66, random_state=43, stratify=stratify
    )
    trains = np.ones(len(table), dtype=bool)
    trains[test] = False
    values = dict(zip(_HEART_COLUMNS, table[list(range(10))].to_numpy(np.float64).T, strict=True))
    columns = [_scaled(values[feature], *HEART_RANGES[feature]) for feature in HEART_RANGES]
    columns += [values[feature] for feature in ("sex", "fbs", "exang")]
    columns += [values["cp"] == kind for kind in (2, 3, 4)]
    columns += [values["restecg"] == kind for kind in (1, 2)]
    x = np.stack([np.asarray(column, np.float32) for column in columns], axis=1)
    return Hospital(name, {"x": x, "y": label.astype(np.float32)}, trains)


def _scaled(
    values: NDArray[np.float64], low: float, high: float, reference: float, scale: float
) -> NDArray[np.float64]:
    known = (values >= low) & (values <= high)
    return np.where(known, (values - reference) / scale, 0.0)
