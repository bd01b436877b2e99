"""`report.html`: one demo run as a page for a hospital director. Self-contained: no request, no script.

The schema of the summary it is drawn from is in `summary.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

import jinja2

from gemel.cli.demo import charts
from gemel.cli.demo.summary import Metrics, Scores, Summary, read_summary

MODELS = {
    "federated_dp": "Joint twin, private",
    "pooled": "Pooled records, no privacy",
    "local": "Each hospital alone (mean)",
    "cox": "Cox model, age and sex",
}
OUTCOMES = {"death": "Death", "cardiovascular": "Cardiovascular disease", "diabetes": "Diabetes"}
# The bar that the project set: at most this much AUC lost against pooled records.
CLOSE_AUC = 0.02
_NUMBER_WORDS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten")


def write_report(summary: dict[str, Any], path: Path) -> None:
    """Draw the summary as one HTML file at `path`. Raises `msgspec.ValidationError` for a malformed summary."""
    run = read_summary(summary)
    path.write_text(_environment(path.parent).get_template("report.html.j2").render(**_view(run)), "utf-8")


def headline(run: Summary) -> str:
    """The result in one sentence: what was achieved, and how it compares with pooling all records."""
    sites = len(run.sites)
    who = f"{_NUMBER_WORDS[sites]} hospital{'s' * (sites != 1)}" if sites < 11 else f"{sites} hospitals"
    together = "together " if sites != 1 else ""
    start = f"{who} {together}trained one patient twin without moving a patient record"
    ours, pooled = (_auc_10y(scores, "death") for scores in (run.metrics.federated_dp, run.metrics.pooled))
    if ours is None or pooled is None:
        return f"{start}."
    if ours >= pooled:
        return f"{start}, and it foresees death within ten years as well as if all records had been pooled."
    if pooled - ours <= CLOSE_AUC:
        return f"{start}, and it foresees death within ten years almost as well as if all records had been pooled."
    return f"{start}. It foresees death within ten years less well than if all records had been pooled."


def findings(metrics: Metrics) -> list[str]:
    """For each outcome, one sentence that says honestly where the joint twin stands at ten years."""
    sentences = []
    for outcome in _outcomes(metrics):
        ours = _auc_10y(metrics.federated_dp, outcome)
        if ours is None:
            continue
        parts = [
            f"{_compared(ours, other)} {name} ({other:.3f})"
            for name, other in (
                ("pooled records without privacy", _auc_10y(metrics.pooled, outcome)),
                ("the hospitals alone, on average", _auc_10y(metrics.local, outcome)),
                ("a Cox model on age and sex", _auc_10y(metrics.cox, outcome)),
            )
            if other is not None
        ]
        line = f"{OUTCOMES.get(outcome, outcome)}: AUC {ours:.3f}"
        sentences.append(f"{line}: {'; '.join(parts)}." if parts else f"{line}.")
    return sentences


def _compared(ours: float, other: float) -> str:
    difference = round(ours, 3) - round(other, 3)
    if abs(difference) < 0.0005:
        return "the same as"
    return f"{abs(difference):.3f} {'better' if difference > 0 else 'worse'} than"


def _view(run: Summary) -> dict[str, Any]:
    metrics, what_if, cohort = run.metrics, run.what_if, run.synthetic
    outcomes = {outcome: OUTCOMES.get(outcome, outcome) for outcome in _outcomes(metrics)}
    models = {name: getattr(metrics, name) for name in MODELS}
    course_chart = what_if and charts.courses(
        what_if.years,
        what_if.factual,
        what_if.counterfactual,
        low=what_if.low,
        high=what_if.high,
        titles=OUTCOMES,
    )
    return {
        "run": run,
        "certificate": run.certificate_line,
        "headline": headline(run),
        "findings": findings(metrics),
        "models": models,
        "model_titles": MODELS,
        "outcomes": outcomes,
        "labels": {site.name: site.label for site in run.sites},
        "walk_chart": charts.walk(run.sites, virtual_patients=cohort.patients),
        "rounds_chart": charts.rounds(run.sites, run.rounds_detail) if run.rounds_detail else None,
        "budget_chart": charts.budgets(run.sites),
        "auc_chart": charts.discrimination(models, MODELS, outcomes),
        "course_chart": course_chart,
        "survival_chart": charts.survival(cohort.survival) if cohort.survival else None,
        "missed": [(entry.round, missing) for entry in run.rounds_detail for missing in entry.missing],
    }


def _environment(folder: Path) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        auc=lambda value: "not known" if value is None else f"{value:.3f}",
        ibs=lambda value: "not known" if value is None else f"{value:.4f}",
        delta=lambda value: f"{value:.12f}".rstrip("0"),
        size=_size,
        duration=_duration,
        feature=_feature,
        value=_value,
        near=lambda file: _near(file, folder),
        href=lambda file: "./" + quote(_near(file, folder)),
    )
    return environment


def _outcomes(metrics: Metrics) -> Iterable[str]:
    return [name for name in metrics.federated_dp if name in OUTCOMES] + [
        name for name in metrics.federated_dp if name not in OUTCOMES
    ]


def _auc_10y(scores: Scores, outcome: str) -> float | None:
    return scores[outcome].auc_10y if outcome in scores else None


def _near(file: str, folder: Path) -> str:
    """A path as seen from the report's folder; a path outside it keeps its name only: no machine's paths in a page."""
    given = PurePath(file)
    if given.is_absolute():
        given = PurePath(os.path.relpath(given, folder.resolve()))
    return given.name if ".." in given.parts else given.as_posix()


def _size(count: int | None) -> str:
    if count is None:
        return "not known"
    if count < 1000:
        return f"{count} bytes"
    return f"{count / 1000:.1f} kB" if count < 1_000_000 else f"{count / 1e6:.1f} MB"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _feature(name: str) -> str:
    words = name
    for suffix, unit in (("_kg_m2", "kg/m²"), ("_mmhg", "mm Hg"), ("_mg_dl", "mg/dL"), ("_years", "years")):
        if name.endswith(suffix):
            words = f"{name.removesuffix(suffix)} ({unit})"
    words = words.replace("_", " ").replace("hdl", "HDL")
    return words[:1].upper() + words[1:]


def _value(value: float | str | bool | None) -> str:
    if value is None:
        return "not known"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else f"{value:.4g}"
