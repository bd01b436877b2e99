"""How near a virtual table of SUPPORT2 is to the real one, by what people do with it."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pandas as pd
from _support2 import FEATURES, Raw
from lifelines import CoxPHFitter
from numpy.typing import NDArray
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from gemel.synthetic.columns import Numbers

Floats = NDArray[np.float64]

# Time and event as two columns here, in bins of their own: the measure does not know how the model sees them.
DAYS = (0, 3, 6, 13, 20, 29, 44, 59, 89, 119, 179, 269, 364, 499, 649, 799, 999, 1249, 1499, 1749, 2030)
# What is known before the outcome: an order not to resuscitate is not.
_PREDICTORS = [name for name in FEATURES if name != "dnr"]
_GRID = (30, 90, 180, 365, 730, 1095)


def levels_of(raw: Raw) -> dict[str, NDArray[np.intp]]:
    """The levels of all 23 columns, time and event apart."""
    days, event = raw["survival"]
    found = {name: form.encode(raw[name]) for name, form in FEATURES.items()}
    found["hospdead"] = (raw["hospdead"] == "1").astype(np.intp)
    found["death"] = np.asarray(event, np.intp)
    found["days"] = np.clip(np.searchsorted(DAYS, days, side="left") - 1, 0, len(DAYS) - 2)
    return found


def pair_distances(real: Raw, virtual: Raw) -> list[float]:
    """Total variation of every pair of the 23 columns."""
    first, second = levels_of(real), levels_of(virtual)
    found = []
    for a, b in itertools.combinations(first, 2):
        width = max(int(x[b].max()) for x in (first, second)) + 1
        cells = (max(int(x[a].max()) for x in (first, second)) + 1) * width
        shares = [np.bincount(x[a] * width + x[b], minlength=cells) / len(x[a]) for x in (first, second)]
        found.append(0.5 * float(np.abs(shares[0] - shares[1]).sum()))
    return found


def prediction(training: Raw, test: Raw) -> tuple[float, float]:
    """AUC of death in hospital on the test patients: gradient boosting, logistic regression."""
    labels = (training["hospdead"] == "1").astype(int)
    if len(set(labels.tolist())) < 2:
        return 0.5, 0.5
    truth = (test["hospdead"] == "1").astype(int)
    numbers = [name for name in _PREDICTORS if isinstance(FEATURES[name], Numbers)]
    others = [name for name in _PREDICTORS if name not in numbers]
    found = []
    for model in (
        HistGradientBoostingClassifier(max_iter=100, random_state=0),
        LogisticRegression(max_iter=300),
    ):
        columns = make_column_transformer(
            (OneHotEncoder(handle_unknown="ignore", sparse_output=False), others), (StandardScaler(), numbers)
        )
        fitted = make_pipeline(columns, model).fit(_frame(training), labels)
        found.append(float(roc_auc_score(truth, fitted.predict_proba(_frame(test))[:, 1])))
    return found[0], found[1]


def cox(raw: Raw) -> tuple[Floats, Floats]:
    """Coefficients (5,) and their 95 % intervals (5, 2) of age, metastasis, coma score, blood pressure, log creatinine."""
    days, event = raw["survival"]
    table = pd.DataFrame(
        {
            "days": np.maximum(days, 1.0),
            "event": event,
            "age": raw["age"] / 10,
            "metastatic": (raw["ca"] == "metastatic").astype(int),
            "coma": raw["scoma"] / 10,
            "pressure": raw["meanbp"] / 10,
            "creatinine": np.log(np.maximum(raw["crea"].astype(float), 0.1)),
        }
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = CoxPHFitter(penalizer=1e-3).fit(table, "days", "event")
    return fitted.params_.to_numpy(), fitted.confidence_intervals_.to_numpy()


def overlap(first: Floats, second: Floats) -> float:
    """Mean share that two sets of intervals (k, 2) have in common, of the narrower one."""
    common = np.minimum(first[:, 1], second[:, 1]) - np.maximum(first[:, 0], second[:, 0])
    narrower = np.minimum(np.ptp(first, axis=1), np.ptp(second, axis=1))
    return float(np.mean(np.maximum(common, 0) / narrower))


def survival_curve(raw: Raw) -> Floats:
    """Kaplan-Meier at six days from a month to three years."""
    days, event = raw["survival"]
    shares, alive = [], 1.0
    times = np.unique(days[event == 1])
    for day in times:
        alive *= 1 - float(((days == day) & (event == 1)).sum()) / float((days >= day).sum())
        shares.append(alive)
    steps = np.concatenate([[1.0], shares])
    return steps[np.searchsorted(times, _GRID, side="right")]


def _frame(raw: Raw) -> pd.DataFrame:
    return pd.DataFrame({name: raw[name] for name in _PREDICTORS})
