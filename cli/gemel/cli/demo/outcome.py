"""The demo's result on stdout: what each model foresees, what each hospital spent, and where everything is."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from gemel.cli.twin_render import points_apart

MODELS = {
    "federated_dp": "joint twin, private",
    "pooled": "same twin, pooled, not private",
    "local": "each hospital alone (mean)",
    "age_and_sex": "age and sex alone, pooled",
}
TABLE_WIDTH = 78
FILES = (
    ("report", "report.html"),
    ("summary", "summary.json"),
    ("twin", "twin.safetensors"),
    ("twin report", "twin_report.md"),
    ("certificate", "certificate.json"),
    ("ledgers", "ledgers"),
    ("cohort model", "cohorts.safetensors"),
    ("its report", "virtual_cohort_report/public/report.html"),
    ("virtual cohort", "virtual_cohort"),
)


def show(summary: Mapping[str, Any], out: Path) -> None:
    """Print the result of a demo."""
    width = None if sys.stdout.isatty() else 110
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True, width=width)
    if summary["source"]["simulated"]:
        console.print(
            f"SIMULATED PEOPLE: {summary['source']['title']}. The numbers below say that the walk works, nothing of medicine.\n",
            markup=False,
        )
    console.print(
        "Foresight on held-out patients (AUC: higher is better; IBS, Brier, RMSE: lower)", markup=False
    )
    for table in _scores(summary):
        console.print(table)
    if summary["metrics"]["baselines"]:
        console.print(_baselines(summary))
    if summary["what_if"]:
        console.print(_what_if(summary["what_if"]))
    console.print(_hospitals(summary))
    console.print(f"\n{_gate(summary['synthetic'])}\n", markup=False)
    for what, name in FILES:
        console.print(f"{what + ':':<16}{out / name}")
    console.print(f"\n{summary['rounds']} rounds, {summary['seconds']:.0f} s. Check what was signed:")
    console.print(f"  gemel verify {out / 'certificate.json'}")


def _scores(summary: Mapping[str, Any]) -> Iterator[Table]:
    """One table for each endpoint that hospitals release: scores differ between endpoints."""
    metrics = summary["metrics"]
    for name, line in summary["endpoints"].items():
        if name not in metrics["released"]:
            continue
        table = _table(line["title"], "model", *line["figures"].values())
        for key, model in MODELS.items():
            table.add_row(model, *(_figure(metrics[key][name].get(figure)) for figure in line["figures"]))
        released = metrics["released"][name]
        noisy = (
            f"{released[f]['value']:.2f} ± {released[f]['standard_error']:.2f}" if f in released else ""
            for f in line["figures"]
        )
        table.add_row("joint twin, as the hospitals released it", *noisy)
        yield table


def _table(title: str, first: str, *numbers: str) -> Table:
    """A table without lines whose first column holds words."""
    table = Table(title=f"\n{title}", box=None, title_justify="left", min_width=TABLE_WIDTH)
    table.add_column(first)
    for heading in numbers:
        table.add_column(heading, justify="right")
    return table


def _baselines(summary: Mapping[str, Any]) -> Table:
    table = _table(
        "Published scores, on the held-out patients who have their inputs",
        "score",
        "of",
        "people",
        "",
        "its",
        "the twin's",
    )
    table.columns[1].justify = "left"
    for line in summary["metrics"]["baselines"]:
        endpoint = summary["endpoints"][line["endpoint"]]
        figure = endpoint["figures"].get(line["figure"], line["figure"])
        figures = (_figure(line[key]) for key in ("score", "twin"))
        table.add_row(line["title"], endpoint["title"], f"{line['patients']:,}", figure, *figures)
    return table


def _what_if(what_if: Mapping[str, Any]) -> Table:
    """The last time of each outcome under both plans, or why there is none."""
    title = f"One patient of no hospital: {what_if['title']}"
    if what_if["reasons"]:
        table = _table(title, "What if? The twin does not say")
        for reason in what_if["reasons"]:
            table.add_row(reason)
        return table
    at = f"{what_if['times'][-1]:g} {what_if['time_unit']}"
    table = _table(title, f"risk at {at}", "A", "B", "A minus B")
    for name, curve in what_if["with_plan"].items():
        ends = curve[-1], what_if["with_other"][name][-1]
        (points, *_) = points_apart([curve, what_if["with_other"][name]], [-1])
        table.add_row(what_if["titles"][name], *(f"{risk:.1%}" for risk in ends), points)
    plans = (f"{letter}: {told}." for letter, told in zip("AB", what_if["described"], strict=True))
    table.caption = f"{' '.join(plans)} {what_if['claim']}"
    table.caption_justify = "left"
    return table


def _hospitals(summary: Mapping[str, Any]) -> Table:
    title = "What each hospital's patients spent, everything included"
    table = _table(title, "hospital", "people", "ε spent", "ε cap", "left the hospital")
    for site in summary["sites"]:
        left = sum(item["bytes"] for item in site["left"])
        spent = f"{site['epsilon_spent']:.4f}"
        row = (site["title"], f"{site['patients']:,}", spent, f"{site['epsilon_cap']:g}", f"{left:,} bytes")
        table.add_row(*row)
    return table


def _gate(cohort: Mapping[str, Any]) -> str:
    """What the release gate said of the virtual cohort."""
    gate = cohort["gate"]
    if not gate["by"]:
        return f"Virtual cohort: the release gate let it pass, {gate['passed']} rows that decide passed."
    return (
        f"Virtual cohort: THE RELEASE GATE REFUSED IT ({gate['passed']} rows that decide passed, {len(gate['failed'])} failed, "
        f"{len(gate['untested'])} not tested far enough). Released all the same by {gate['by']}, on record: {gate['reason']}."
    )


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
