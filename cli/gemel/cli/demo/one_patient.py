"""The example of a programme in the demo: one patient under two plans, and the same one fitted to observations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemel.cli.patient_files import patient_row
from gemel.cli.programme_render import in_words, number
from gemel.cli.twin_record import (
    assimilation_record,
    described_plan,
    patient_record,
    prediction_record,
    time_label,
)
from gemel.cli.twin_render import last_taken, target_cell
from gemel.core.dataset import Dataset
from gemel.core.programme import DAYS_PER_YEAR, Programme
from gemel.twins.causal.local_support import LocalSupport
from gemel.twins.definition import Example
from gemel.twins.prediction import Prediction
from gemel.twins.treatment_plan import TreatmentPlan
from gemel.twins.twin import Twin
from gemel.twins.what_if import what_if

RANGE_NOTE = "the range over the hospitals' own last models and the joint one, not a confidence interval"
_VISIBLE = 0.001  # a tenth of a point
_YEARS_FROM = 2.0  # a shorter horizon is told in days


def two_plans(
    example: Example, twin: Twin, site_twins: Sequence[Twin], people: Dataset, *, seed: int
) -> dict[str, Any] | None:
    """What the joint twin expects of the example under its two plans; None for a programme without treatments.

    `people` are those that the hospitals trained with: they say whether such a patient ever got such a plan. Their records are
    open here; in a federation each hospital asks its own. What none of them was measured for is taken as not known of the
    example either: the trained twin has learned nothing of it.
    """
    programme = twin.programme
    if not example.plan.treatments and not example.other_plan.treatments:
        return None
    row = patient_row(programme, example.values)
    row[:, np.isnan(people.values).all(axis=0)] = np.nan
    plans = {"plan": example.plan, "other": example.other_plan}
    answer = what_if(twin, row, *plans.values(), evidence=LocalSupport(people.values), paths=0, seed=seed)
    told = {
        "title": example.title,
        "patient": patient_record(programme, row),
        "plan": example.plan.name or described_plan(programme, example.plan),
        "other": example.other_plan.name or described_plan(programme, example.other_plan),
        "described": [described_plan(programme, plan) for plan in plans.values()],
        "claim": answer.claim,
        "assumptions": list(answer.assumptions),
        "unchecked": list(answer.unchecked),
        "reasons": [f"{reason.code} {reason.message}" for reason in answer.reasons],
        "titles": {outcome.name: outcome.title for outcome in programme.outcomes},
    }
    if answer.prediction is None or answer.other_prediction is None:
        return told
    return {
        **told,
        **_time_axis(answer.prediction),
        **_pairs(programme, answer.prediction, answer.other_prediction),
        **_range([twin, *site_twins], row, plans),
    }


def observed_one_by_one(example: Example, twin: Twin) -> dict[str, Any] | None:
    """What each observation of the example changes; None for a twin, or an example, without any."""
    if not twin.observables or not example.observations:
        return None
    record = assimilation_record(twin, patient_row(twin.programme, example.values), example.observations)
    steps, first = record["steps"], record["steps"][0]["prediction"]
    names = list(dict.fromkeys(name for step in steps for name in step["parameters"]))
    last = first["shown"][-1]
    moved = [name for name in first["outcomes"] if _moves(name, steps, last)]
    return {
        "title": example.title,
        "parameters": names,
        "at": time_label(first["times_years"][last]),
        "later": [
            *(_with_unit(name, course["unit"]) for name, course in first["courses"].items()),
            *(f"risk of {name}" for name in moved),
        ],
        "steps": [
            {
                "observations": step["observations"],
                "taken": last_taken(record, step),
                "parameters": [_with_spread(step["parameters"].get(name)) for name in names],
                "expected": _expected(step["next"]),
                "later": [
                    *(
                        f"{course['mean'][last]:.4g} ± {course['spread'][last]:.2g}"
                        for course in step["prediction"]["courses"].values()
                    ),
                    *(f"{step['prediction']['outcomes'][name]['risk'][last]:.1%}" for name in moved),
                ],
            }
            for step in steps
        ],
    }


def _with_unit(name: str, unit: str) -> str:
    return f"{name}, {in_words(unit)}" if in_words(unit) else name


def _moves(outcome: str, steps: Sequence[Mapping[str, Any]], last: int) -> bool:
    """Whether observations change what is expected of an outcome, as far as a reader would see it."""
    risks = [step["prediction"]["outcomes"][outcome]["risk"] for step in steps]
    known = [risk[last] for risk in risks if risk is not None]
    return len(known) == len(risks) and max(known) - min(known) > _VISIBLE


def _expected(following: Mapping[str, Any] | None) -> str:
    if following is None:
        return ""
    return (
        f"{following['expected']:.4g} ± {following['spread']:.2g}, observed {number(following['observed'])}"
    )


def _with_spread(parameter: Mapping[str, float] | None) -> str:
    return "–" if parameter is None else f"{parameter['mean']:.4g} ± {parameter['spread']:.2g}"


def _pairs(programme: Programme, here: Prediction, there: Prediction) -> dict[str, Any]:
    targets = [prediction_record(programme, prediction)["targets"] for prediction in (here, there)]
    return {
        "with_plan": _curves(programme, here.cumulative_incidence, here.prevalent),
        "with_other": _curves(programme, there.cumulative_incidence, there.prevalent),
        "courses": [
            {
                "name": name.replace("_", " "),
                "unit": in_words(course.unit),
                "with_plan": course.mean[0].tolist(),
                "with_other": there.courses[name].mean[0].tolist(),
            }
            for name, course in here.courses.items()
        ],
        "targets": [
            {
                "title": f"{target['title']}, day {target['at_days']}",
                "with_plan": target_cell(target),
                "with_other": target_cell(targets[1][name]),
            }
            for name, target in targets[0].items()
        ],
    }


def _range(
    twins: Sequence[Twin], row: NDArray[np.float64], plans: dict[str, TreatmentPlan]
) -> dict[str, Any]:
    """Lowest and highest of several twins' expectations, under each plan."""
    low, high = {}, {}
    for side, plan in plans.items():
        predictions = [twin.predict(row, plan=plan) for twin in twins]
        courses = np.stack([prediction.cumulative_incidence for prediction in predictions])
        programme, prevalent = twins[0].programme, predictions[0].prevalent
        low[side] = _curves(programme, courses.min(axis=0), prevalent)
        high[side] = _curves(programme, courses.max(axis=0), prevalent)
    return {"low": low, "high": high, "range_note": RANGE_NOTE}


def _curves(
    programme: Programme, incidence: NDArray[np.float64], prevalent: NDArray[np.bool_]
) -> dict[str, list[float]]:
    """By outcome, the course of the one patient's risk; an outcome that was there before has none."""
    return {
        name: incidence[0, :, j].tolist()
        for j, name in enumerate(programme.outcome_names)
        if not prevalent[0, j]
    }


def _time_axis(prediction: Prediction) -> dict[str, Any]:
    times = prediction.times_years
    if times[-1] >= _YEARS_FROM:
        return {"times": [round(time, 2) for time in times], "time_unit": "years"}
    return {"times": [round(time * DAYS_PER_YEAR) for time in times], "time_unit": "days"}
