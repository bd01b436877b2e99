"""A report's document as one HTML page for people: self-contained, no script, no request, fit for screen, dark screen and paper."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from gemel.synthetic.provenance import posterior_from_even_odds
from gemel.synthetic.report.charts import chart, summary
from gemel.synthetic.report.findings import Verdict

# Block -> what it is called, and what it asks. Blocks stand in this order; others follow under their own names.
BLOCKS: Mapping[str, tuple[str, str]] = {
    "statement": ("The promise", "Is it stated in full, and within the limit?"),
    "mechanism": (
        "The mechanism under attack",
        "Does the noise that is added keep the promise? Planted faults must be found.",
    ),
    "membership": ("Membership", "Can somebody tell from a cohort whether a certain patient was counted?"),
    "singling out": ("Singling out", "Does a cohort point at one person whom nothing else would point at?"),
    "linkability": ("Linkability", "Does a cohort join what is known of a person in two places?"),
    "inference": ("Inference", "Does a cohort tell of a counted person what it would not tell of any other?"),
    "evidence": (
        "The patients of this report",
        "Are they those who were counted? Attacks on anybody else find nothing, whatever a cohort gives away.",
    ),
    "pairs": (
        "Columns, alone and in pairs",
        "Are shares as in patients, as far as chance lets any two groups agree?",
    ),
    "survival": ("Survival", "Do events come as often and as early?"),
    "regression": ("Hazard ratios", "Would an analysis of hazards say the same?"),
    "prediction": ("Prediction", "Does a model trained on virtual patients foresee real ones' fate?"),
    "treatment effect": (
        "Effects of treatments",
        "Is the adjusted difference between the treated and the others the same?",
    ),
    "correlations": ("Correlations", "Do columns rise and fall together as in patients?"),
    "constraints": ("What cannot be", "Is there any virtual patient who contradicts themselves?"),
    "fairness": ("Fairness", "Is a cohort as good for women, the old, each hospital?"),
    "trajectories": ("Courses over time", "Do patients change from visit to visit as real ones do?"),
    "analysis": ("Analyses of several cohorts", "Are intervals as wide as they must be?"),
    "released tables": ("Beside what was released", "Do virtual patients follow the noisy tables?"),
    "telling apart": ("Telling apart", "How well can a classifier tell virtual patients from real ones?"),
    "smoke test": ("Smoke test", "Notices a copy; proves nothing when it notices none."),
    "provenance": ("Where it comes from", "Is everything on record?"),
}
_MARKS = {
    Verdict.PASS: ("✓", "pass"),
    Verdict.FAIL: ("✗", "FAIL"),
    Verdict.NOT_TESTED: ("○", "not tested"),
    Verdict.INFORMATION: ("·", "for information"),
}
_VERDICTS = {
    "pass": "Every row that decides has passed.",
    "fail": "At least one row that decides has failed: cohorts of this model are released by nobody but a named person, on record.",
    "not tested": "No row that decides has failed, but some were not tested: cohorts of this model are released by nobody but a "
    "named person, on record.",
}


def render(document: Mapping[str, Any]) -> str:
    """The HTML page of `Report.document`; it refers to nothing outside itself."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("gemel.synthetic.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        figure=_figure, short=lambda value: f"{value:.0e}".replace("e-0", "e-"), chart=chart, summary=summary
    )
    rows, gate, statement = document["findings"], document.get("gate"), document["statement"]
    verdict, blocks = document["verdict"] if gate is None else _stated(gate), _blocks(rows)
    return environment.get_template("page.html.j2").render(
        {
            **document,
            "verdict": verdict,
            "verdict_in_words": _VERDICTS[verdict],
            "gate": gate,
            "score": _score(blocks, gate),
            "blocks": blocks,
            "marks": {verdict.value: mark for verdict, mark in _MARKS.items()},
            "sources": [_source(name, statement[name]) for name in ("tables", "whole")] if statement else [],
            "by_kind": {
                kind: [figure for figure in document["figures"] if figure["kind"] == kind]
                for kind in ("survival", "fan", "marginal", "correlations")
            },
        }
    )


def _stated(gate: Mapping[str, Any]) -> Verdict:
    """What a public report says of the internal one that it follows."""
    if gate["passed"]:
        return Verdict.PASS
    return Verdict.FAIL if gate["failed"] else Verdict.NOT_TESTED


def _score(blocks: Sequence[Mapping[str, Any]], gate: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """How many rows that decide passed, failed, were not tested, by block; of rows that are not shown, what the gate says."""
    score = [
        {"title": block["title"], "id": block["id"], **block["counts"]}
        for block in blocks
        if any(block["counts"].values())
    ]
    shown = {f"{row['block']}: {row['measure']}" for block in blocks for row in block["rows"]}
    unseen: dict[str, Counter[str]] = {}
    for word in ("failed", "untested"):
        for name in (gate or {}).get(word, ()):
            if name not in shown:
                unseen.setdefault(name.split(": ")[0], Counter())[word] += 1
    for name, counts in unseen.items():
        title, _ = BLOCKS.get(name, (name.capitalize(), ""))
        told = {word: counts[word] for word in ("failed", "untested")}
        score.append({"title": f"{title}: by the internal report", "id": "", "passed": 0, **told})
    return score


def _blocks(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows by block, with how many of those that decide passed, failed, were not tested."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["block"], []).append(row)
    order = [*(name for name in BLOCKS if name in found), *(name for name in found if name not in BLOCKS)]
    blocks = []
    for name in order:
        title, asks = BLOCKS.get(name, (name.capitalize(), ""))
        verdicts = Counter(row["verdict"] for row in found[name] if row["gates"])
        told = (("passed", Verdict.PASS), ("failed", Verdict.FAIL), ("untested", Verdict.NOT_TESTED))
        counts = {word: verdicts[verdict] for word, verdict in told}
        id_ = name.replace(" ", "-")
        blocks.append({"id": id_, "title": title, "asks": asks, "rows": found[name], "counts": counts})
    return blocks


def _source(name: str, statement: Mapping[str, Any]) -> dict[str, Any]:
    words = {
        "tables": "The tables that cohorts are drawn from",
        "whole": "Everything that the study released",
    }
    return {
        "source": words[name],
        "epsilon": statement["epsilon"],
        "delta": statement["delta"],
        "posterior": posterior_from_even_odds(statement["epsilon"]),
        "mechanisms": [_mechanism(mechanism) for mechanism in statement["mechanisms"]],
    }


def _mechanism(told: Mapping[str, Any]) -> str:
    times = "once" if told["count"] == 1 else f"{told['count']} times"
    rate = told.get("sample_rate", 1.0)
    sampled = "" if rate == 1 else f", sampling {rate:.3g}"
    kind = str(told["kind"]).replace("_", " ")
    return f"{kind} noise, {told['noise_multiplier']:.3g} × sensitivity{sampled}, {times}"


def _figure(value: float | None) -> str:
    """Three digits at most: more would claim more than some draws can show."""
    if value is None:
        return "–"
    return (
        f"{value:,.0f}"
        if abs(value) >= 1000
        else f"{value:.3g}"
        if abs(value) >= 1
        else f"{value:.3f}".rstrip("0").rstrip(".")
    )
