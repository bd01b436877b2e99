"""What a twin says of one patient, as plain values: predictions, two plans side by side, and what observations change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from gemel.cli.patient_files import Pairs, first_observations
from gemel.cli.programme_render import in_words, number
from gemel.core.programme import (
    DAYS_PER_YEAR,
    FeatureKind,
    Programme,
    Target,
    TargetKind,
    Treatment,
    TreatmentKind,
)
from gemel.twins.prediction import Prediction
from gemel.twins.treatment_plan import Dose, TreatmentPlan
from gemel.twins.twin import Twin
from gemel.twins.uncertainty.intervals import Band, PredictionInterval
from gemel.twins.what_if import what_if

# Every number of observations is followed up to here, then each about half as many again.
ALL_UP_TO = 8
_ENOUGH_TIMES = 4


def patient_record(programme: Programme, row: NDArray[np.float64]) -> list[dict[str, Any]]:
    """The features of one patient, missing ones as None."""
    return [
        {
            "feature": feature.name,
            "title": feature.title,
            "value": float(value) if np.isfinite(value) else None,
            "unit": feature.unit,
            "flag": feature.kind in (FeatureKind.MALE, FeatureKind.PRESENT),
        }
        for feature, value in zip(programme.columns, row[0], strict=True)
    ]


def prediction_record(programme: Programme, prediction: Prediction) -> dict[str, Any]:
    """What is expected of the first patient of a prediction; an outcome that was there at the start has no risks."""
    return {
        "times_years": list(prediction.times_years),
        "shown": shown_steps(programme),
        "alive": prediction.alive[0].tolist(),
        "outcomes": {
            outcome.name: {
                "title": outcome.title,
                "risk": None
                if prediction.prevalent[0, j]
                else prediction.cumulative_incidence[0, :, j].tolist(),
            }
            for j, outcome in enumerate(programme.outcomes)
        },
        "targets": {
            target.name: _target_record(target, prediction.targets[target.name][0])
            for target in programme.targets
            if target.name in prediction.targets
        },
        "courses": {
            name: {"unit": c.unit, "mean": c.mean[0].tolist(), "spread": c.spread[0].tolist()}
            for name, c in prediction.courses.items()
        },
    }


def interval_record(programme: Programme, found: PredictionInterval) -> dict[str, Any]:
    """Low and high of everything for the first patient, what the interval holds, and how much wider missing features make it."""
    return {
        "level": found.level,
        "holds": list(found.holds),
        "missing": [n for n, gone in zip(programme.feature_names, found.missing[0], strict=True) if gone],
        "risks": {
            endpoint.name: {
                "title": endpoint.title,
                "at_days": list(endpoint.horizons_days) or [_target_day(programme, endpoint.target)],
                **_band(found.risks[endpoint.name]),
            }
            for endpoint in programme.endpoints
            if endpoint.name in found.risks
        },
        "values": {name: _band(band) for name, band in found.values.items()},
        "courses": {name: _band(band) for name, band in found.courses.items()},
    }


def comparison_record(
    twin: Twin, row: NDArray[np.float64], plan: TreatmentPlan, other: TreatmentPlan, *, seed: int
) -> dict[str, Any]:
    """Both plans, what is expected under each, and how far the comparison is supported; no numbers where it is refused."""
    answer = what_if(twin, row, plan, other, seed=seed)
    told = (answer.prediction, answer.other_prediction)
    return {
        "plans": [msgspec.to_builtins(each) for each in (plan, other)],
        "described": [described_plan(twin.programme, each) for each in (plan, other)],
        "basis": None if answer.basis is None else answer.basis.value,
        "claim": answer.claim,
        "assumptions": list(answer.assumptions),
        "unchecked": list(answer.unchecked),
        "refused": [{"code": reason.code, "message": reason.message} for reason in answer.reasons],
        "predictions": [prediction_record(twin.programme, each) for each in told if each is not None],
        "differences": [
            {
                "endpoint": line.endpoint,
                "horizon_days": line.horizon_days,
                "plan": line.expected,
                "other": line.other_expected,
                "difference": line.difference if line.is_known else None,
                "e_value": None if line.e_value is None else line.e_value.estimate,
            }
            for line in answer.differences
        ],
    }


def described_plan(programme: Programme, plan: TreatmentPlan) -> str:
    """What a plan does, in words.

    >>> from gemel.twins.programmes.fatty_liver import PROGRAMME
    >>> described_plan(PROGRAMME, TreatmentPlan.always({"statin": 1.0}))
    'statin, lowering LDL cholesterol by 1 mmol/L'
    """
    doses = [_described_dose(programme.treatment(dose.treatment), dose) for dose in plan.doses]
    return ", ".join(doses) or "treatments as in the record"


def _described_dose(treatment: Treatment, dose: Dose) -> str:
    what = (
        treatment.title[:1].lower() + treatment.title[1:]
        if treatment.title[1:2].islower()
        else treatment.title
    )
    if not dose.amount:
        what = f"no {what}"
    elif treatment.kind is TreatmentKind.DOSE:
        what = f"{what} {number(dose.amount)} {in_words(treatment.unit)}".rstrip()
    if dose.from_days:
        what += f" from day {number(dose.from_days)}"
    return what if dose.to_days is None else f"{what} to day {number(dose.to_days)}"


def assimilation_record(
    twin: Twin, row: NDArray[np.float64], observed: Mapping[str, Pairs]
) -> dict[str, Any]:
    """After 0, 1, 2, … observations: the person's parameters, and what is expected then."""
    total = sum(len(pairs) for pairs in observed.values())
    ordered = sorted((day, name, value) for name, pairs in observed.items() for day, value in pairs)
    steps = []
    for count in counts_to(total):
        given = first_observations(observed, count)
        individual = twin.assimilate(row, given) if given else None
        prediction = twin.predict(row) if individual is None else individual.predict()
        moved = {} if individual is None else individual.parameters
        steps.append(
            {
                "observations": count,
                "parameters": {
                    name: {"mean": float(mean[0]), "spread": float(spread[0])}
                    for name, (mean, spread) in moved.items()
                },
                "prediction": prediction_record(twin.programme, prediction),
                "next": _expected_next(prediction, ordered[count]) if count < total else None,
            }
        )
    return {
        "observed": [{"day": day, "name": name, "value": value} for day, name, value in ordered],
        "steps": steps,
    }


def counts_to(total: int) -> list[int]:
    """After how many of all observations the fit is shown.

    >>> counts_to(3), counts_to(20)
    ([0, 1, 2, 3], [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 18, 20])
    """
    counts = list(range(min(total, ALL_UP_TO) + 1))
    while counts[-1] < total:
        counts.append(min(total, counts[-1] * 3 // 2))
    return counts


def shown_steps(programme: Programme) -> list[int]:
    """The times of the grid that a table shows: those of endpoints and targets, the last, and some between."""
    times = programme.times_years
    days = {day for endpoint in programme.endpoints for day in endpoint.horizons_days}
    days |= {target.at_days for target in programme.targets if target.at_days is not None}
    wanted = {len(times) - 1} | {step for day in days if (step := _step(programme, day)) is not None}
    for step in np.linspace(1, len(times) - 1, _ENOUGH_TIMES - 1).round().astype(int).tolist():
        if len(wanted) < _ENOUGH_TIMES:
            wanted.add(step)
    return sorted(wanted - {0})


def time_label(years: float) -> str:
    """A time of the grid for readers.

    >>> time_label(5.0), time_label(180 / 365.25), time_label(1826 / 365.25)
    ('5 years', 'day 180', '5 years')
    """
    whole = round(years)
    if whole >= 1 and abs(years - whole) * DAYS_PER_YEAR < 1:
        return f"{whole} year{'s' * (whole != 1)}"
    return f"day {years * DAYS_PER_YEAR:.0f}"


def _step(programme: Programme, day: float) -> int | None:
    try:
        return programme.step_at(day)
    except ValueError:
        return None


def _target_day(programme: Programme, name: str) -> int | None:
    return next(target.at_days for target in programme.targets if target.name == name)


def _band(band: Band) -> dict[str, Any]:
    """The first patient's low and high (None where there is nothing to say) and the factor of what is missing."""
    low, high = (_plain(part[0]) for part in (band.low, band.high))
    return {"low": low, "high": high, "widening": _plain(band.widening[0])}


def _plain(numbers: Any) -> Any:
    """Numbers of an array as JSON has them: None for what is no finite number."""
    values = np.asarray(numbers, np.float64)
    if values.ndim:
        return [_plain(value) for value in values]
    return float(values) if np.isfinite(values) else None


def _target_record(target: Target, predicted: Any) -> dict[str, Any]:
    common = {
        "title": target.title,
        "kind": target.kind.value,
        "unit": target.unit,
        "at_days": target.at_days,
    }
    if target.kind is TargetKind.VALUE_AT:
        return {**common, "mean": float(predicted[0]), "spread": float(predicted[1])}
    if target.kind is TargetKind.ORDINAL:
        return {**common, "levels": np.asarray(predicted).tolist()}
    return {**common, "risk": float(predicted)}


def _expected_next(prediction: Prediction, observation: tuple[float, str, float]) -> dict[str, Any] | None:
    """What was expected of the next observation before it was taken in; None where no course tells."""
    day, name, value = observation
    course = prediction.courses.get(name)
    if course is None:
        return None
    at = day / DAYS_PER_YEAR
    expected, spread = (
        float(np.interp(at, prediction.times_years, series[0])) for series in (course.mean, course.spread)
    )
    return {
        "day": day,
        "name": name,
        "unit": course.unit,
        "expected": expected,
        "spread": spread,
        "observed": value,
    }
