"""The demo's result on stdout: what each model foresees, what each hospital spent, and where everything is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

MODELS = {
    "federated_dp": "joint twin, private",
    "pooled": "same twin, pooled, not private",
    "local": "each hospital alone (mean)",
    "cox": "Cox on age and sex, pooled",
}
OUTCOMES = {"death": "death", "cardiovascular": "heart and circulation"}
FILES = (
    ("report", "report.html"),
    ("summary", "summary.json"),
    ("certificate", "certificate.json"),
    ("ledgers", "ledgers"),
    ("virtual cohort", "virtual_cohort"),
)


def show(summary: dict[str, Any], out: Path) -> None:
    """Print the result of a demo."""
    width = None if sys.stdout.isatty() else 100
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True, width=width)
    console.print(_metrics(summary["metrics"]))
    console.print(_hospitals(summary))
    for what, name in FILES:
        console.print(f"{what + ':':<16}{out / name}")
    console.print(f"\n{summary['rounds']} rounds, {summary['seconds']:.0f} s. Check what was signed:")
    console.print(f"  gemel verify {out / 'certificate.json'}")


def _metrics(metrics: dict[str, Any]) -> Table:
    """One row for each model and outcome: eight narrow columns would wrap on a usual terminal."""
    table = Table(title="Foresight on held-out patients (AUC: higher is better; IBS: lower)", box=None)
    table.title_justify = "left"
    for heading in ("", "model", "AUC 5 years", "AUC 10 years", "IBS"):
        table.add_column(heading, justify="left" if heading in ("", "model") else "right")
    for outcome, title in OUTCOMES.items():
        for number, (key, model) in enumerate(MODELS.items()):
            score = metrics[key][outcome]
            figures = (_figure(score[name]) for name in ("auc_5y", "auc_10y", "ibs"))
            table.add_row("" if number else title, model, *figures)
        released = metrics["released"][outcome]
        noisy = (
            f"{released[n]['value']:.2f} ± {released[n]['standard_error']:.2f}" for n in ("auc_5y", "auc_10y")
        )
        table.add_row("", "joint twin, as the hospitals released it", *noisy, "")
    return table


def _hospitals(summary: dict[str, Any]) -> Table:
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
