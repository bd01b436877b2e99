"""The demo's result on stdout: what each model foresees, what each hospital spent, and where everything is."""

from __future__ import annotations

import sys
from collections.abc import Mapping
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
FILES = (
    ("report", "report.html"),
    ("summary", "summary.json"),
    ("twin", "twin.safetensors"),
    ("certificate", "certificate.json"),
    ("ledgers", "ledgers"),
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
    console.print(_scores(summary))
    if summary["metrics"]["baselines"]:
        console.print(_baselines(summary))
    if summary["what_if"]:
        console.print(_what_if(summary["what_if"]))
    console.print(_hospitals(summary))
    for what, name in FILES:
        console.print(f"{what + ':':<16}{out / name}")
    console.print(f"\n{summary['rounds']} rounds, {summary['seconds']:.0f} s. Check what was signed:")
    console.print(f"  gemel verify {out / 'certificate.json'}")


def _scores(summary: Mapping[str, Any]) -> Table:
    """One row for each endpoint, model: its scores in words, for they differ between endpoints."""
    metrics = summary["metrics"]
    table = Table(
        title="Foresight on held-out patients (AUC: higher is better; IBS, Brier, RMSE: lower)", box=None
    )
    table.title_justify = "left"
    lines = {name: line for name, line in summary["endpoints"].items() if name in metrics["released"]}
    most = max(len(line["figures"]) for line in lines.values())
    for heading in ("", "model", *[""] * most):
        table.add_column(heading, justify="left" if len(table.columns) < 2 else "right")
    for name, line in lines.items():
        table.add_row(line["title"], "", *(f"[dim]{heading}[/dim]" for heading in line["figures"].values()))
        for key, model in MODELS.items():
            score = metrics[key][name]
            table.add_row("", model, *(_figure(score.get(figure)) for figure in line["figures"]))
        released = metrics["released"][name]
        noisy = (
            f"{released[f]['value']:.2f} ± {released[f]['standard_error']:.2f}" if f in released else ""
            for f in line["figures"]
        )
        table.add_row("", "joint twin, as the hospitals released it", *noisy)
    return table


def _baselines(summary: Mapping[str, Any]) -> Table:
    table = Table(title="\nPublished scores, on the held-out patients who have their inputs", box=None)
    table.title_justify = "left"
    for heading in ("score", "of", "people", "", "score's", "joint twin's"):
        table.add_column(heading, justify="left" if heading in ("score", "of", "") else "right")
    for line in summary["metrics"]["baselines"]:
        endpoint = summary["endpoints"][line["endpoint"]]
        figure = endpoint["figures"].get(line["figure"], line["figure"])
        figures = (_figure(line[key]) for key in ("score", "twin"))
        table.add_row(line["title"], endpoint["title"], f"{line['patients']:,}", figure, *figures)
    return table


def _what_if(what_if: Mapping[str, Any]) -> Table:
    """The last time of each outcome under both plans, or why there is none."""
    table = Table(title=f"\n{what_if['title']}: what if?", box=None)
    table.title_justify = "left"
    if what_if["reasons"]:
        table.add_column("The twin does not say")
        for reason in what_if["reasons"]:
            table.add_row(reason)
        return table
    at = f"{what_if['times'][-1]:g} {what_if['time_unit']}"
    for heading in (f"risk at {at}", "A", "B", "A minus B"):
        table.add_column(heading, justify="left" if heading.startswith("risk") else "right")
    for name, curve in what_if["with_plan"].items():
        ends = curve[-1], what_if["with_other"][name][-1]
        (points, *_) = points_apart([curve, what_if["with_other"][name]], [-1])
        table.add_row(what_if["titles"][name], *(f"{risk:.1%}" for risk in ends), points)
    plans = (f"{letter}: {told}." for letter, told in zip("AB", what_if["described"], strict=True))
    table.caption = f"{' '.join(plans)} {what_if['claim']}"
    table.caption_justify = "left"
    return table


def _hospitals(summary: Mapping[str, Any]) -> Table:
    table = Table(title="\nWhat each hospital's patients spent, everything included", box=None)
    table.title_justify = "left"
    for heading in ("hospital", "people", "ε spent", "ε cap", "left the hospital"):
        table.add_column(heading, justify="left" if heading == "hospital" else "right")
    for site in summary["sites"]:
        left = sum(item["bytes"] for item in site["left"])
        spent = f"{site['epsilon_spent']:.4f}"
        row = (site["title"], f"{site['patients']:,}", spent, f"{site['epsilon_cap']:g}", f"{left:,} bytes")
        table.add_row(*row)
    return table


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
