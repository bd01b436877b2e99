"""What a twin says of one patient, on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gemel.cli.output import table
from gemel.cli.programme_render import in_words, number, signed
from gemel.cli.twin_record import time_label

if TYPE_CHECKING:
    from rich.console import Console

Record = Mapping[str, Any]
UNKNOWN = "no effect known"
_ROUNDING = 1e-7
NOT_ADVICE = (
    "A risk is the twin's expectation for people with these values, not a certainty about this one. "
    "Not a medical device; no treatment advice."
)


def render_prediction(console: Console, result: Record) -> None:
    """One patient under one plan."""
    render_patient(console, result)
    prediction = result["prediction"]
    times = [time_label(prediction["times_years"][step]) for step in prediction["shown"]]
    rows = table("risk of", *(f">{time}" for time in times), title="What the twin expects")
    for outcome in prediction["outcomes"].values():
        rows.add_row(outcome["title"], *_risks(outcome["risk"], prediction["shown"]))
    console.print(rows)
    _render_targets(console, prediction["targets"])
    _render_courses(console, prediction, times)
    _render_interval(console, result["interval"])
    console.print(NOT_ADVICE, markup=False)


def render_comparison(console: Console, result: Record) -> None:
    """One patient under two plans, or why the twin does not say."""
    render_patient(console, result)
    for letter, described in zip("AB", result["described"], strict=True):
        console.print(f"Plan {letter}: {described}", markup=False)
    console.print(result["claim"], markup=False)
    if result["refused"]:
        console.print("\n[bold]Refused.[/bold] The twin does not compare these plans for this patient:")
        for reason in result["refused"]:
            console.print(f"  {reason['code']} {reason['message']}", markup=False)
        return
    _render_two_courses(console, result)
    _render_differences(console, result["differences"])
    for assumed in result["assumptions"]:
        console.print(f"  assumed: {assumed}", markup=False)
    for unchecked in result["unchecked"]:
        console.print(f"  not checked: {unchecked}", markup=False)
    console.print(NOT_ADVICE, markup=False)


def _render_two_courses(console: Console, result: Record) -> None:
    plans = [
        f"{letter}: {plan['name'] or described}"
        for letter, plan, described in zip("AB", result["plans"], result["described"], strict=True)
    ]
    first, second = result["predictions"]
    shown = first["shown"]
    times = [time_label(first["times_years"][step]) for step in shown]
    rows = table("expected", "plan", *(f">{time}" for time in times), title="\nThe two courses")
    for name, outcome in first["outcomes"].items():
        risks = [outcome["risk"], second["outcomes"][name]["risk"]]
        for place, risk in enumerate(risks):
            rows.add_row("" if place else outcome["title"], plans[place], *_risks(risk, shown))
        if None not in risks:
            rows.add_row("", "A minus B", *points_apart(risks, shown))
    for name, course in first["courses"].items():
        means = [course["mean"], second["courses"][name]["mean"]]
        for place, mean in enumerate(means):
            told = "" if place else f"{name} ({course['unit']})"
            rows.add_row(told, plans[place], *(f"{mean[step]:.4g}" for step in shown))
        if _differ(means):
            rows.add_row("", "A minus B", *(f"{means[0][step] - means[1][step]:+.3g}" for step in shown))
        else:
            rows.add_row("", "A minus B", UNKNOWN)
    console.print(rows)
    _render_two_targets(console, first["targets"], second["targets"], plans)


def _render_differences(console: Console, differences: Sequence[Record]) -> None:
    """What the twin is scored on, under both plans; the E-value where the difference is an association."""
    rows = table("endpoint", ">day", ">A", ">B", ">A minus B", ">E-value", title="Endpoints")
    for line in differences:
        rows.add_row(
            line["endpoint"],
            str(line["horizon_days"]),
            f"{line['plan']:.4g}",
            f"{line['other']:.4g}",
            UNKNOWN if line["difference"] is None else signed(line["difference"], 4),
            number(line["e_value"]),
        )
    console.print(rows)


def render_assimilation(console: Console, result: Record) -> None:
    """One patient, as observations come in."""
    render_patient(console, result)
    steps = result["steps"]
    names = list(dict.fromkeys(name for step in steps for name in step["parameters"]))
    rows = table(
        ">observations",
        "the last of them",
        *(f">{name}" for name in names),
        title="\nThe patient's own parameters, ± standard deviation",
    )
    for step in steps:
        told = (_with_spread(step["parameters"].get(name)) for name in names)
        rows.add_row(str(step["observations"]), last_taken(result, step), *told)
    console.print(rows)
    expected = table(
        ">observations",
        "next observed",
        ">day",
        ">expected",
        ">observed",
        ">off by",
        title="What was expected before each was taken in",
    )
    for step in steps:
        following = step["next"]
        if following is not None:
            expected.add_row(
                str(step["observations"]),
                f"{following['name']} ({following['unit']})",
                number(following["day"]),
                f"{following['expected']:.4g} ± {following['spread']:.2g}",
                number(following["observed"]),
                f"{following['observed'] - following['expected']:+.3g}",
            )
    if expected.row_count:
        console.print(expected)
    _render_later(console, steps)
    console.print(NOT_ADVICE, markup=False)


def last_taken(result: Record, step: Record) -> str:
    """The newest observation that a step holds."""
    if not step["observations"]:
        return ""
    last = result["observed"][step["observations"] - 1]
    return f"day {number(last['day'])}: {last['name']} {number(last['value'])}"


def render_patient(console: Console, result: Record) -> None:
    """Who is asked about."""
    if result["title"]:
        console.print(f"{result['title']} (a patient of no hospital).", markup=False)
    known = [line for line in result["patient"] if line["value"] is not None]
    rows = table("feature", ">value", "unit")
    for line in known:
        value = ("yes" if line["value"] else "no") if line["flag"] else number(line["value"])
        rows.add_row(line["title"], value, in_words(line["unit"]))
    console.print(rows)
    missing = [line["title"] for line in result["patient"] if line["value"] is None]
    if missing:
        console.print(f"Not known: {', '.join(missing)}.", markup=False)
    console.print(f"Twin of {result['programme']}: {result['twin']}.\n", markup=False)


def points_apart(risks: Sequence[Sequence[float]], steps: Sequence[int]) -> list[str]:
    """The difference of two risks over time; told once when the twin knows of none."""
    if not _differ(risks):
        return [UNKNOWN]
    return [f"{signed(100 * (risks[0][step] - risks[1][step]), 1)} points" for step in steps]


def _differ(courses: Sequence[Sequence[float]]) -> bool:
    """Whether two courses differ by more than rounding: no difference is no effect that the twin knows, not an effect of 0."""
    return any(abs(one - other) > _ROUNDING * max(1.0, abs(one)) for one, other in zip(*courses, strict=True))


def _risks(risk: Sequence[float] | None, steps: Sequence[int]) -> list[str]:
    return ["had it before"] * len(steps) if risk is None else [f"{risk[step]:.1%}" for step in steps]


def _render_targets(console: Console, targets: Record) -> None:
    if not targets:
        return
    rows = table("at a day", "day", "expected", title="Measured or judged at one day")
    for target in targets.values():
        rows.add_row(target["title"], str(target["at_days"]), target_cell(target))
    console.print(rows)


def _render_two_targets(console: Console, first: Record, second: Record, plans: Sequence[str]) -> None:
    if not first:
        return
    rows = table("at a day", "day", *plans)
    for name, target in first.items():
        rows.add_row(target["title"], str(target["at_days"]), target_cell(target), target_cell(second[name]))
    console.print(rows)


def target_cell(target: Record) -> str:
    """A target's expected value, risk, or the probabilities of its levels from the lowest on."""
    if "mean" in target:
        return f"{target['mean']:.4g} ± {target['spread']:.2g} {in_words(target['unit'])}".rstrip()
    if "levels" in target:
        return " ".join(f"{share:.0%}" for share in target["levels"])
    return f"{target['risk']:.1%}"


def _render_courses(console: Console, prediction: Record, times: Sequence[str]) -> None:
    if not prediction["courses"]:
        return
    rows = table(
        "course",
        "unit",
        *(f">{time}" for time in times),
        title="Course, ± between what could happen to such a person",
    )
    for name, course in prediction["courses"].items():
        cells = (f"{course['mean'][s]:.4g} ± {course['spread'][s]:.2g}" for s in prediction["shown"])
        rows.add_row(name, course["unit"], *cells)
    console.print(rows)


def _render_interval(console: Console, interval: Record) -> None:
    """Where a risk lies over models and missing features, and a measured value with all that may happen."""
    rows = table(
        "interval of",
        ">day",
        ">from",
        ">to",
        ">widened by what is missing",
        title=f"Intervals, {interval['level']:.0%}",
    )
    for risk in interval["risks"].values():
        for day, low, high in zip(risk["at_days"], risk["low"], risk["high"], strict=True):
            if low is not None:
                rows.add_row(risk["title"], str(day), f"{low:.1%}", f"{high:.1%}", _factor(risk["widening"]))
    for name, value in interval["values"].items():
        rows.add_row(name, "", number(value["low"]), number(value["high"]), _factor(value["widening"]))
    if rows.row_count:
        console.print(rows)
        console.print(f"They hold: {'; '.join(interval['holds'])}.", markup=False)
    if len(interval["risks"]) and not any(None not in risk["low"] for risk in interval["risks"].values()):
        console.print(
            "No interval of the risks: with one model and nothing missing there is nothing that would move them.",
            markup=False,
        )


def _factor(widening: float | None) -> str:
    return "by it alone" if widening is None else f"x {widening:.2f}"


def _render_later(console: Console, steps: Sequence[Record]) -> None:
    """What is expected at the last time, after each number of observations."""
    last = steps[0]["prediction"]
    step = last["shown"][-1]
    at = time_label(last["times_years"][step])
    courses, outcomes = list(last["courses"]), list(last["outcomes"])
    heads = [
        *(f">{name}" for name in courses),
        *(f">risk of {name}" for name in outcomes),
        *(f">{name}" for name in last["targets"]),
    ]
    rows = table(">observations", *heads, title=f"What is expected at {at}")
    for line in steps:
        told = line["prediction"]
        cells = [
            f"{told['courses'][name]['mean'][step]:.4g} ± {told['courses'][name]['spread'][step]:.2g}"
            for name in courses
        ]
        cells += [_risks(told["outcomes"][name]["risk"], [step])[0] for name in outcomes]
        cells += [target_cell(told["targets"][name]) for name in last["targets"]]
        rows.add_row(str(line["observations"]), *cells)
    console.print(rows)


def _with_spread(parameter: Record | None) -> str:
    return "–" if parameter is None else f"{parameter['mean']:.4g} ± {parameter['spread']:.2g}"
