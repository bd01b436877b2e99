"""`report.html`: one demo run as a page for a hospital director. Self-contained: no request, no script.

The schema of the summary it is drawn from is in `summary.py`.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from gemel.cli.demo import charts
from gemel.cli.demo.summary import EndpointLine, PatientLine, Scores, Summary, Synthetic, read_summary
from gemel.cli.programme_render import in_words as unit_in_words

MODELS = {
    "federated_dp": "Joint twin, private",
    "pooled": "Pooled records, no privacy",
    "local": "Each hospital alone (mean)",
    "age_and_sex": "Age and sex alone, pooled",
}
# The bar that the project set: at most this much AUC lost against pooled records.
CLOSE_AUC = 0.02
# The same of an error, which has a unit: as a part of it.
CLOSE_ERROR = 0.02
_NUMBER_WORDS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten")


def write_report(summary: dict[str, Any], path: Path) -> None:
    """Draw the summary as one HTML file at `path`. Raises `msgspec.ValidationError` for a malformed summary."""
    run = read_summary(summary)
    path.write_text(_environment(path.parent).get_template("report.html.j2").render(**_view(run)), "utf-8")


def headline(run: Summary) -> str:
    """The result in one sentence: what was achieved, and how it compares with pooling all records."""
    sites = len(run.sites)
    who = f"{in_words(sites)} hospital{'s' * (sites != 1)}"
    together = "together " if sites != 1 else ""
    start = f"{who} {together}trained one patient twin without moving a patient record"
    name, line = next(iter(run.endpoints.items()))
    ours, pooled = (_main(run, scores, name) for scores in (run.metrics.federated_dp, run.metrics.pooled))
    if ours is None or pooled is None:
        return f"{start}."
    lost = pooled - ours if line.higher_is_better else ours - pooled
    close = CLOSE_AUC if line.higher_is_better else CLOSE_ERROR * pooled
    told = f"it foresees {line.phrase}"
    if lost <= 0:
        return f"{start}, and {told} as well as if all records had been pooled."
    if lost <= close:
        return f"{start}, and {told} almost as well as if all records had been pooled."
    return f"{start}. {told[:1].upper() + told[1:]} less well than if all records had been pooled."


def findings(run: Summary) -> list[str]:
    """For each endpoint, one sentence that says honestly where the joint twin stands."""
    sentences, metrics = [], run.metrics
    for name, line in run.endpoints.items():
        ours = _main(run, metrics.federated_dp, name)
        if ours is None:
            continue
        parts = [
            f"{_compared(ours, other, line)} {what} ({other:.3f})"
            for what, other in (
                ("pooled records without privacy", _main(run, metrics.pooled, name)),
                ("the hospitals alone, on average", _main(run, metrics.local, name)),
                ("age and sex alone", _main(run, metrics.age_and_sex, name)),
            )
            if other is not None
        ]
        told = f"{line.phrase[:1].upper()}{line.phrase[1:]}: {_score_name(line)} {ours:.3f}"
        sentences.append(f"{told}: {'; '.join(parts)}." if parts else f"{told}.")
    return sentences


def in_words(count: int) -> str:
    """A number at the head of a sentence.

    >>> in_words(3), in_words(20)
    ('Three', '20')
    """
    return _NUMBER_WORDS[count] if count < len(_NUMBER_WORDS) else str(count)


def _compared(ours: float, other: float, line: EndpointLine) -> str:
    difference = round(ours, 3) - round(other, 3)
    if abs(difference) < 0.0005:
        return "the same as"
    better = (difference > 0) is line.higher_is_better
    return f"{abs(difference):.3f} {'better' if better else 'worse'} than"


def _score_name(line: EndpointLine) -> str:
    return line.main.split("_")[0].upper()


def _main(run: Summary, scores: Scores, endpoint: str) -> float | None:
    """The main score of an endpoint."""
    return scores.get(endpoint, {}).get(run.endpoints[endpoint].main)


def _view(run: Summary) -> dict[str, Any]:
    metrics, what_if, cohort = run.metrics, run.what_if, run.synthetic
    models = {name: getattr(metrics, name) for name in MODELS}
    by_auc = {name: line for name, line in run.endpoints.items() if line.higher_is_better}
    drawn = what_if is not None and bool(what_if.times)
    return {
        "run": run,
        "certificate": run.certificate_line,
        "headline": headline(run),
        "findings": findings(run),
        "models": models,
        "model_titles": MODELS,
        # Two fit beside each other where each hospital has three of them.
        "foremost": dict(list(run.endpoints.items())[:2]),
        "labels": {site.name: site.label for site in run.sites},
        "walk_chart": charts.walk(run.sites, virtual_patients=cohort.patients),
        "rounds_chart": charts.rounds(run.sites, run.rounds_detail) if run.rounds_detail else None,
        "budget_chart": charts.budgets(run.sites),
        "auc_chart": charts.discrimination(
            {
                model: {name: scores.get(name, {}).get(line.main) for name, line in by_auc.items()}
                for model, scores in models.items()
            },
            MODELS,
            {name: line.phrase[:1].upper() + line.phrase[1:] for name, line in by_auc.items()},
        ),
        "risk_chart": charts.risk_courses(what_if) if what_if and drawn else None,
        "course_chart": charts.measured_courses(what_if) if what_if and drawn and what_if.courses else None,
        "survival_chart": _survival_chart(cohort),
        "missed": [(entry.round, missing) for entry in run.rounds_detail for missing in entry.missing],
    }


def _survival_chart(cohort: Synthetic) -> Markup | None:
    """Nothing for a curve of one point."""
    curve = cohort.survival
    return charts.survival(curve) if curve is not None and len(curve.years) > 1 else None


def _environment(folder: Path) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        score=_score,
        patient=_patient_value,
        delta=lambda value: f"{value:.12f}".rstrip("0"),
        size=_size,
        duration=_duration,
        feature=_feature,
        value=_value,
        near=lambda file: _near(file, folder),
        href=lambda file: "./" + quote(_near(file, folder)),
    )
    return environment


def _near(file: str, folder: Path) -> str:
    """A path as seen from the report's folder; a path outside it keeps its name only: no machine's paths in a page."""
    given = PurePath(file)
    if given.is_absolute():
        given = PurePath(os.path.relpath(given, folder.resolve()))
    return given.name if ".." in given.parts else given.as_posix()


def _score(value: float | None, name: str = "") -> str:
    if value is None:
        return "not known"
    return f"{value:.4f}" if name.startswith(("brier", "integrated")) else f"{value:.3f}"


def _patient_value(line: PatientLine) -> str:
    if line.value is None:
        return "not known"
    if line.flag:
        return "yes" if line.value else "no"
    return f"{line.value:.4g} {unit_in_words(line.unit)}".rstrip()


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
