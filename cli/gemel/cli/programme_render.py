"""A programme's record on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gemel.cli.output import table

if TYPE_CHECKING:
    from rich.console import Console

Record = Mapping[str, Any]
_UNITS = {
    "1": "",
    "a": "years",
    "d": "days",
    "h": "hours",
    "mm[Hg]": "mm Hg",
    "kg/m2": "kg/m²",
    "{score}": "",
    "10*9/L": "10⁹/L",
}


def number(value: float | None) -> str:
    """A number as a reader wants it; a dash for none.

    >>> number(0.00012345), number(17549.0), number(None)
    ('0.0001234', '17549', '–')
    """
    if value is None:
        return "–"
    return f"{value:.0f}" if value == round(value) and abs(value) < 1e9 else f"{value:.4g}"


def signed(value: float, digits: int) -> str:
    """A difference with its sign, and without one that is lost in rounding.

    >>> signed(0.0123, 3), signed(-0.0001, 2)
    ('+0.012', '0.00')
    """
    rounded = round(value, digits)
    return f"{rounded:+.{digits}f}" if rounded else f"{0:.{digits}f}"


def in_words(unit: str) -> str:
    """A UCUM unit as people write it; nothing for a number without one.

    >>> in_words("a"), in_words("mm[Hg]"), in_words("1")
    ('years', 'mm Hg', '')
    """
    return _UNITS.get(unit, unit)


def render(console: Console, record: Record) -> None:
    """The whole record."""
    console.print(f"[bold]{record['name']} {record['version']}[/bold]  {record['title']}")
    console.print(record["question"], markup=False)
    _cohort(console, record)
    _features(console, record)
    _asked(console, record)
    _treatments(console, record)
    for physiology in record["physiology"]:
        _physiology(console, physiology)
    _evidence(console, record)
    _context(console, record)


def _cohort(console: Console, record: Record) -> None:
    cohort, times = record["cohort"], record["times_years"]
    horizon = f"{times[-1]:g} years" if times[-1] >= 2 else f"{times[-1] * 365.25:.0f} days"
    index = cohort["index"]
    console.print(
        f"\nWho: {cohort['minimum_age_years']:g} to {cohort['maximum_age_years']:g} years of age; index event: "
        f"{index['which'].replace('_', ' ')} {index['kind']}"
        + (f" of {', '.join(index['concepts'])}" if index["concepts"] else "")
        + f". Followed for {horizon}, in {len(times) - 1} steps.",
        markup=False,
    )
    for word, key in (("Only with", "required"), ("Without", "exclusions")):
        for criterion in cohort[key]:
            console.print(f"  {word}: {criterion['reason']}", markup=False)


def _features(console: Console, record: Record) -> None:
    concepts = {concept["name"]: concept for concept in record["concepts"]}
    rows = table("feature", "what", "how", ">low", ">high", "unit", "codes", "source", title="\nFeatures")
    rows.columns[0].no_wrap = True
    for feature in record["features"]:
        codes = dict.fromkeys(c["code"] for name in feature["concepts"] for c in concepts[name]["codes"])
        bounds = (number(feature["low"]), number(feature["high"]))
        rows.add_row(
            feature["name"],
            feature["title"],
            feature["kind"],
            *bounds,
            feature["unit"],
            ", ".join(codes) or "–",
            feature["source"],
        )
    console.print(rows)


def _asked(console: Console, record: Record) -> None:
    rows = table("outcome or target", "what", "kind", "at", title="Outcomes and targets")
    for outcome in record["outcomes"]:
        rows.add_row(outcome["name"], outcome["title"], outcome["kind"], "over time")
    for target in record["targets"]:
        at = "" if target["at_days"] is None else f"day {target['at_days']}"
        rows.add_row(target["name"], target["title"], target["kind"], at)
    console.print(rows)
    scored = table("endpoint", "what", "of", "at", title="Endpoints: what the twin is scored on")
    for endpoint in record["endpoints"]:
        of = endpoint["outcome"] or endpoint["target"]
        at = ", ".join(f"day {day}" for day in endpoint["horizons_days"]) or "the target's day"
        scored.add_row(endpoint["name"], endpoint["title"], of, at)
    console.print(scored)
    if record["observables"]:
        told = ", ".join(f"{name} ({unit})" for name, unit in record["observables"].items())
        console.print(f"Takes in observations of: {told}.", markup=False)
    else:
        console.print("Takes in no observations.", markup=False)


def _treatments(console: Console, record: Record) -> None:
    if not record["treatments"]:
        console.print("No treatments: a plan can change nothing.", markup=False)
        return
    rows = table(
        "treatment", "what", "kind", ">from", ">to", "unit", "given", "source", title="\nTreatments of a plan"
    )
    for treatment in record["treatments"]:
        chance = "" if treatment["chance"] is None else f", {treatment['chance']:.0%}"
        rows.add_row(
            treatment["name"],
            treatment["title"],
            treatment["kind"],
            number(treatment["low"]),
            number(treatment["high"]),
            treatment["unit"],
            treatment["assignment"] + chance,
            treatment["source"] or "–",
        )
    console.print(rows)


def _physiology(console: Console, physiology: Record) -> None:
    states = ", ".join(f"{state['title']} ({state['unit']})" for state in physiology["states"])
    console.print(f"\nPhysiology {physiology['name']}: {physiology['kind']} of {states}.", markup=False)
    if physiology["inputs"]:
        console.print(f"  Moved by {', '.join(physiology['inputs'])}.", markup=False)
    rows = table("parameter", "what", ">value", ">spread", "unit", "mark", "source")
    for parameter in physiology["parameters"]:
        spread = f"{number(parameter['spread'])} ({parameter['scale']})" if parameter["spread"] else "–"
        rows.add_row(
            parameter["name"],
            parameter["title"],
            number(parameter["value"]),
            spread,
            parameter["unit"],
            parameter["mark"],
            parameter["source"],
        )
    console.print(rows)


def _evidence(console: Console, record: Record) -> None:
    console.print(f"\nLearned: {record['parameters_learned']} numbers, by all hospitals together.")
    if record["baselines"]:
        rows = table("baseline", "what", "endpoint", "mark", "source", title="\nBaselines")
        for line in record["baselines"]:
            rows.add_row(line["name"], line["title"], line["endpoint"], line["mark"], line["source"])
        console.print(rows)
    rows = table("claim", "gate", ">value", ">from", ">to", "unit", "mark", "source", title="Claims")
    for claim in record["claims"]:
        numbers = (number(claim[key]) for key in ("value", "low", "high"))
        rows.add_row(
            claim["statement"], claim["gate"], *numbers, claim["unit"], claim["mark"], claim["source"]
        )
    console.print(rows)
    console.print(f"`gemel programme check {record['name']}` computes each.", markup=False)


def _context(console: Console, record: Record) -> None:
    context, validation = record["context"], record["validation"]
    console.print("\n[bold]Context of use[/bold]")
    for key in ("question", "role", "users"):
        console.print(f"  {key}: {context[key]}", markup=False)
    console.print(
        f"  influence on the decision: {context['influence']}; consequence of a wrong one: {context['consequence']}"
    )
    for factor, evidence in context["credibility"].items():
        console.print(f"  {factor}: {evidence}", markup=False)
    for refused in context["not_for"]:
        console.print(f"  not for: {refused}", markup=False)
    console.print(f"\n[bold]Grade: {validation['grade']}[/bold]")
    console.print(f"  shown on: {validation['data']}", markup=False)
    for missing in validation["missing"]:
        console.print(f"  missing for more: {missing}", markup=False)
    for limit in validation["limits"]:
        console.print(f"  limit: {limit}", markup=False)
