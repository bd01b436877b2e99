"""Prediction intervals that hold what is not known: of the twin's parameters, of a person, of chance, of a measurement, of what is missing.

    models (several twins)  x  completions (public draws of what is missing)  x  futures (simulated: person, chance, measurement)

Risks are given intervals by models and completions alone: a risk is what is left when persons and chance are averaged over. The middle
stays what the twin predicts, which has learned what goes with a missing value; completions say how far the truth may lie from it.
An interval of the twin promises no coverage where it was not calibrated: `site_calibration` does.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gemel.core.programme import Programme, TargetKind
from gemel.twins.prediction import Prediction
from gemel.twins.scores import is_risk
from gemel.twins.treatment_plan import NOTHING_CHANGED, TreatmentPlan
from gemel.twins.twin import Twin
from gemel.twins.uncertainty.conformal import check_level
from gemel.twins.uncertainty.missing_values import completions, drawn_columns
from gemel.twins.uncertainty.models import check_models

Floats = NDArray[np.float64]
_COMPLETIONS = 32
_FUTURES = 512  # of each patient, over models and completions
_FEWEST_FUTURES = 8  # of one model and completion
_PATIENTS_AT_ONCE = 256
_SMALLEST = 1e-9


@dataclass(frozen=True)
class Band:
    """Low, middle (median) and high, of one shape, patients first.

    `widening` (n,) is by what factor missing features widen the spread: standard deviation with them missing over that if they were
    known, on the scale of the numbers (of risks: logit). 1 where nothing is missing; infinite where nothing else is uncertain.
    """

    low: Floats
    middle: Floats
    high: Floats
    widening: Floats


@dataclass(frozen=True)
class PredictionInterval:
    """See the module.

    Attributes:
        risks: By endpoint, (n, horizons). NaN for whom there is neither a second model nor a missing feature: a single number then
            has no spread, and the interval none to show.
        values: By VALUE_AT target, (n,): what would be measured, of the living.
        courses: By name, (n, T) on the programme's grid: the course itself, without the noise of a measurement, of the living.
        missing: bool (n, d), what was drawn.
        holds: What the intervals hold, in words.
    """

    level: float
    risks: Mapping[str, Band]
    values: Mapping[str, Band]
    courses: Mapping[str, Band]
    missing: NDArray[np.bool_]
    holds: tuple[str, ...]


def interval(
    twin: Twin,
    values: NDArray[np.floating],
    *,
    level: float = 0.9,
    models: Sequence[Twin] = (),
    plan: TreatmentPlan = NOTHING_CHANGED,
    seed: int = 0,
) -> PredictionInterval:
    """Intervals for patients with raw values (n, d), NaN where missing; equal seeds give equal ones.

    `models` are all that could be the twin, itself among them (`models.drawn_models`, or what a run released); none: it alone.
    Raises GEM631 for a level out of 0 to 1, or for models of different programmes.
    """
    check_level(level)
    able = tuple(models) or (twin,)
    check_models((twin, *able))
    given = np.asarray(values, np.float64)
    missing = ~np.isfinite(given) & drawn_columns(twin.programme)
    parts: list[tuple[NDArray[np.intp], _Bands]] = []
    for lacking in (False, True):
        rows = np.flatnonzero(missing.any(axis=1) == lacking)
        for start in range(0, len(rows), _PATIENTS_AT_ONCE):
            mine = rows[start : start + _PATIENTS_AT_ONCE]
            parts.append((mine, _bands(able, given[mine], level, plan, seed, lacking=lacking)))
    risks, of_values, courses = (_joined([(rows, found[i]) for rows, found in parts]) for i in range(3))
    holds = ["chance", "what differs between people", "noise of a measurement (values)"]
    holds += [f"parameters of the twin ({len(able)} models)"] if len(able) > 1 else []
    holds += ["missing features"] if missing.any() else []
    return PredictionInterval(level, risks, of_values, courses, missing, tuple(holds))


_Bands = tuple[dict[str, Band], dict[str, Band], dict[str, Band]]


def _bands(
    models: Sequence[Twin],
    values: Floats,
    level: float,
    plan: TreatmentPlan,
    seed: int,
    *,
    lacking: bool,
) -> _Bands:
    """Risks, values and courses of patients who all lack something, or all nothing."""
    programme, patients = models[0].programme, len(values)
    draws = _COMPLETIONS if lacking else 1
    paths = max(_FEWEST_FUTURES, math.ceil(_FUTURES / (draws * len(models))))
    full = completions(programme, values, draws=draws, seed=seed).reshape(patients * draws, -1)
    risks: dict[str, list[Floats]] = {}
    measured: dict[str, list[Floats]] = {}
    courses: dict[str, list[Floats]] = {}
    for i, model in enumerate(models):
        with_all = model.predict(full, plan=plan)
        as_given = model.predict(values, plan=plan) if lacking else with_all
        for name, risk in _logit_risks(programme, with_all).items():
            at = risk.reshape(patients, draws, -1)
            own = _logit_risks(programme, as_given)[name].reshape(patients, 1, -1)
            risks.setdefault(name, []).append(at - at.mean(axis=1, keepdims=True) + own)
        # Every model has futures of its own: chance is not shared between them.
        future = model.simulate(full, seed=seed + i, plan=plan, paths=paths)
        for name, value in future.targets.items():
            if name in with_all.targets and with_all.targets[name].ndim == 2 and _is_value(programme, name):
                shift = _shift(with_all.targets[name][:, 0], as_given.targets[name][:, 0], draws)
                drawn = value.astype(np.float64).reshape(patients, draws, paths, 1)
                measured.setdefault(name, []).append(drawn + shift[:, None, None, None])
        for name, course in future.courses.items():
            courses.setdefault(name, []).append(course.astype(np.float64).reshape(patients, draws, paths, -1))
    known = lacking or len(models) > 1
    return (
        {n: _risk_band(np.stack(d), level, known=known) for n, d in risks.items()},
        {n: _squeezed(_band(np.stack(d), level)) for n, d in measured.items()},
        {n: _band(np.stack(d), level) for n, d in courses.items()},
    )


def _band(drawn: Floats, level: float) -> Band:
    """From draws (models, n, completions, paths, T)."""
    by_completion = np.moveaxis(drawn, 0, 2)  # (n, completions, models, paths, T)
    patients, draws, _, _, times = by_completion.shape
    each = by_completion.reshape(patients, draws, -1, times)
    whole = each.reshape(patients, -1, times)
    with warnings.catch_warnings():
        # Of a time that nobody lives to see there is nothing to say.
        warnings.simplefilter("ignore", RuntimeWarning)
        low, middle, high = np.nanquantile(whole, _places(level), axis=1)
        # The variance if what is missing were known, and what it adds: the two sum up whatever is drawn.
        within = np.nanmean(np.nanvar(each, axis=2), axis=1)
        between = np.nanvar(np.nanmean(each, axis=2), axis=1)
        widening = _factor(np.nanmean(within, axis=1), np.nanmean(within + between, axis=1))
    return Band(low, middle, high, widening)


def _risk_band(logits: Floats, level: float, *, known: bool) -> Band:
    """From logit risks (models, n, completions, horizons)."""
    by_patient = np.moveaxis(logits, 0, 2)  # (n, completions, models, horizons)
    patients, draws, models, horizons = by_patient.shape
    whole = by_patient.reshape(patients, draws * models, horizons)
    low, middle, high = _expit(np.quantile(whole, _places(level), axis=1))
    if not known:
        low, high = np.full_like(low, np.nan), np.full_like(high, np.nan)
    within = by_patient.var(axis=2).mean(axis=(1, 2))
    between = by_patient.mean(axis=2).var(axis=1).mean(axis=1)
    return Band(low, middle, high, _factor(within, within + between))


def _factor(within: Floats, total: Floats) -> Floats:
    """Square root of total over within; 1 where nothing is added."""
    added = total - within > _SMALLEST * np.maximum(total, _SMALLEST)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(added, np.sqrt(total / within), 1.0)


def _shift(with_all: Floats, as_given: Floats, draws: int) -> Floats:
    """(n,): from the mean over the completions to what the twin predicts of a patient who lacks them."""
    return np.asarray(as_given - with_all.reshape(len(as_given), draws).mean(axis=1), np.float64)


def _logit_risks(programme: Programme, prediction: Prediction) -> dict[str, Floats]:
    """(n, horizons) by endpoint that is a risk."""
    return {
        endpoint.name: _logit(prediction.risk(programme, endpoint))
        for endpoint in programme.endpoints
        if is_risk(programme, endpoint)
    }


def _is_value(programme: Programme, target: str) -> bool:
    return any(t.name == target and t.kind is TargetKind.VALUE_AT for t in programme.targets)


def _squeezed(band: Band) -> Band:
    return Band(band.low[:, 0], band.middle[:, 0], band.high[:, 0], band.widening)


def _joined(parts: list[tuple[NDArray[np.intp], dict[str, Band]]]) -> dict[str, Band]:
    """The patients of all parts in their own order."""
    if not parts:
        return {}
    order = np.argsort(np.concatenate([rows for rows, _ in parts]), kind="stable")
    return {
        name: Band(
            *(
                np.concatenate([getattr(found[name], part) for _, found in parts])[order]
                for part in ("low", "middle", "high", "widening")
            )
        )
        for name in parts[0][1]
    }


def _places(level: float) -> tuple[float, float, float]:
    return (1 - level) / 2, 0.5, (1 + level) / 2


def _logit(p: Floats) -> Floats:
    inside = np.clip(p, _SMALLEST, 1 - _SMALLEST)
    return np.asarray(np.log(inside / (1 - inside)), np.float64)


def _expit(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-x)), np.float64)
