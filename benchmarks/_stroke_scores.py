"""What is measured of a stroke twin on people: discrimination, calibration before and after, coverage, observations taken in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from gemel.core.dataset import OCCURRED, Dataset
from gemel.core.programme import DAYS_PER_YEAR
from gemel.core.series import Series
from gemel.twins.prediction import Prediction
from gemel.twins.programmes.stroke import OUTCOME_DAY, PROGRAMME
from gemel.twins.programmes.stroke.columns import stroke_design
from gemel.twins.recalibration import Flag, recalibrate_locally
from gemel.twins.twin import Observations, Twin
from gemel.twins.uncertainty.site_calibration import calibrate_set

ENDPOINTS = tuple(endpoint.name for endpoint in PROGRAMME.endpoints)
NOMINAL = 0.9
_REPEATS = 20

Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]


def six_months(dataset: Dataset) -> dict[str, tuple[Flags, Flags]]:
    """By endpoint (known, bad), the trial's own way: whose status at six months is known, whenever the form was done."""
    died = (dataset.event[:, 0] == OCCURRED) & (dataset.time_years[:, 0] * DAYS_PER_YEAR < OUTCOME_DAY + 0.5)
    level = dataset.targets[:, dataset.target_names.index("rankin_6_months")]
    known = died | np.isfinite(level)
    return {"dead_or_dependent": (known, died | (level >= 3)), "death": (known, died)}


def risks(prediction: Prediction) -> dict[str, Floats]:
    """By endpoint (n,)."""
    return {e.name: prediction.risk(PROGRAMME, e)[:, -1] for e in PROGRAMME.endpoints}


def aucs(risk: dict[str, Floats], dataset: Dataset) -> dict[str, float]:
    """By endpoint, of those whose status is known."""
    truth = six_months(dataset)
    return {
        name: float(roc_auc_score(truth[name][1][truth[name][0]], risk[name][truth[name][0]]))
        for name in ENDPOINTS
    }


def logistic_regression(training: Dataset, tested: Dataset) -> dict[str, Floats]:
    """Pooled logistic regression on the same columns, without privacy: risks of the tested people by endpoint."""
    design = stroke_design(PROGRAMME)
    columns, truth = design.columns(training.values), six_months(training)
    found = {}
    for name in ENDPOINTS:
        known, bad = truth[name]
        fitted = LogisticRegression(C=1e3, max_iter=2000).fit(columns[known], bad[known])
        found[name] = fitted.predict_proba(design.columns(tested.values))[:, 1]
    return found


def age_alone(tested: Dataset) -> dict[str, Floats]:
    """The simplest rule."""
    age = tested.values[:, PROGRAMME.feature_names.index("age_years")].astype(np.float64)
    return dict.fromkeys(ENDPOINTS, age)


@dataclass(frozen=True)
class Calibration:
    """Observed over expected of one endpoint at a place: before, and after recalibration on other patients of that place."""

    before: float
    after: float
    flag: Flag

    @property
    def was_off(self) -> bool:
        """Whether it was outside 0.9 to 1.1 before."""
        return not 0.9 <= self.before <= 1.1


def calibration(twin: Twin, dataset: Dataset) -> dict[str, Calibration]:
    """By endpoint; `after` is the mean over random halves: one half recalibrates, the other is looked at."""
    truth, risk = six_months(dataset), risks(twin.predict(dataset.values))
    after: dict[str, list[float]] = {name: [] for name in ENDPOINTS}
    random = np.random.default_rng(1)
    for _ in range(_REPEATS):
        half = random.permutation(len(dataset)) < len(dataset) // 2
        fitted = recalibrate_locally(twin, dataset.take(half))
        for name in ENDPOINTS:
            used = ~half & truth[name][0]
            after[name].append(truth[name][1][used].mean() / fitted[name].apply(risk[name][used]).mean())
    flags = recalibrate_locally(twin, dataset)
    return {
        name: Calibration(
            truth[name][1][truth[name][0]].mean() / risk[name][truth[name][0]].mean(),
            float(np.mean(after[name])),
            flags[name].flag,
        )
        for name in ENDPOINTS
    }


def coverage(twin: Twin, dataset: Dataset, endpoint: str) -> float:
    """How often a place's own conformal sets held the truth: mean over random halves, one calibrates."""
    prediction, random, held = twin.predict(dataset.values), np.random.default_rng(2), []
    for _ in range(_REPEATS):
        half = random.permutation(len(dataset)) < len(dataset) // 2
        calibrated = calibrate_set(
            rows(prediction, half), dataset.take(half), PROGRAMME, endpoint, level=NOMINAL
        )
        covered, weight = calibrated.covered(
            rows(prediction, ~half), dataset.take(~half), keep_likeliest=False
        )
        held.append(float((covered * weight).sum() / weight.sum()))
    return float(np.mean(held))


def rows(prediction: Prediction, chosen: Flags) -> Prediction:
    """The prediction of some of its patients."""
    return replace(
        prediction,
        cumulative_incidence=prediction.cumulative_incidence[chosen],
        state=prediction.state[chosen],
        prevalent=prediction.prevalent[chosen],
        targets={name: values[chosen] for name, values in prediction.targets.items()},
        courses={},
    )


def observed_until(
    deaths: Sequence[float | None], home: Sequence[float | None], days: Sequence[float]
) -> Observations:
    """What a ward sees on each of `days` of patients alive on the last of them: who is home by then."""
    pairs = [
        [(day, float(left is not None and left <= day)) for day in days]
        for left, died in zip(home, deaths, strict=True)
        if died is None or died > days[-1]
    ]
    offsets = np.arange(0, (len(pairs) + 1) * len(days), len(days), dtype=np.int64)
    flat = np.array(pairs, np.float32).reshape(-1, 2)
    return {"at_home": Series(offsets, flat[:, 0].copy(), flat[:, 1].copy())}


def brier_and_log(probability: Floats, bad: Flags) -> tuple[float, float]:
    """Of a risk: mean squared error, and minus the mean log-likelihood."""
    p = np.clip(probability, 1e-6, 1 - 1e-6)
    return float(((p - bad) ** 2).mean()), float(-np.log(np.where(bad, p, 1 - p)).mean())
