"""The one-page report of a virtual cohort: self-contained HTML for people, JSON for machines."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import msgspec

from gemel.core.mechanism import Mechanism
from gemel.core.programme import DAYS_PER_YEAR
from gemel.synthetic.cohort import VirtualCohort
from gemel.synthetic.provenance import PrivacyStatement, posterior_from_even_odds
from gemel.synthetic.report.comparison import Comparison, SurvivalCurve
from gemel.synthetic.report.verdicts import verdicts

NOT_FOR = (
    "training a twin",
    "a decision about any one person",
    "rare subgroups: noise and coarse bins hide or invent them",
    "testing a hypothesis as if these were observed patients",
)

_MECHANISMS = {
    "gaussian": "Gaussian noise",
    "poisson_gaussian": "Gaussian noise on a random sample",
    "discrete_gaussian": "discrete Gaussian noise",
    "laplace": "Laplace noise",
}
_PANEL = {"width": 300, "height": 170, "left": 36, "right": 8, "top": 8, "bottom": 24}


def write_report(cohort: VirtualCohort, folder: Path, *, comparison: Comparison | None = None) -> list[Path]:
    """Write `report.html` and `report.json` under `folder`; both hold the same.

    Without a comparison the likeness to real patients is "not tested". The exact `comparison` belongs to
    open data only, and the report says so.
    """
    document = report_document(cohort, comparison)
    folder.mkdir(parents=True, exist_ok=True)
    page, data = folder / "report.html", folder / "report.json"
    page.write_text(render(document), encoding="utf-8")
    data.write_text(
        json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
    )
    return [page, data]


def report_document(cohort: VirtualCohort, comparison: Comparison | None) -> dict[str, Any]:
    """Everything that the report says, as JSON values."""
    provenance = cohort.provenance
    rows = verdicts(cohort, comparison)
    return {
        "title": cohort.programme.title,
        "question": cohort.programme.question,
        "release": cohort.release,
        "seed": cohort.seed,
        "virtual_patients": len(cohort),
        # Two figures: an estimate from noisy tables, and no more exact than it looks.
        "source_patients_about": float(f"{cohort.source_patients_estimate:.2g}"),
        "provenance": provenance.as_dict(),
        "privacy": {
            "unit": provenance.whole.unit,
            "neighbouring": provenance.whole.neighbouring,
            "whole": _statement("The whole study", provenance.whole),
            "sources": [
                _statement("Tables of the baseline", provenance.synthesis),
                _statement("The twin", provenance.twin),
            ],
            "noise_secure": all(
                s.noise == "secure" for s in (provenance.synthesis, provenance.twin, provenance.whole)
            ),
        },
        "rows": [msgspec.to_builtins(row) for row in rows],
        "counts": dict(Counter(row.verdict for row in rows)),
        "comparison": None if comparison is None else comparison.as_dict(),
        "curves": [] if comparison is None else [_panel(curve) for curve in comparison.curves],
        "not_for": list(NOT_FOR),
    }


def render(document: dict[str, Any]) -> str:
    """The HTML page of a report document; it refers to nothing outside itself."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = _figure
    environment.filters["short"] = lambda value: f"{value:.0e}".replace("e-0", "e-")
    return environment.get_template("page.html.j2").render(document)


def _statement(source: str, statement: PrivacyStatement) -> dict[str, Any]:
    return {
        "source": source,
        "epsilon": statement.epsilon,
        "delta": statement.delta,
        "delta_one_in": round(1 / statement.delta),
        "posterior_from_even_odds": posterior_from_even_odds(statement.epsilon),
        "mechanisms": [_mechanism(m) for m in statement.mechanisms],
        "noise": statement.noise,
    }


def _mechanism(mechanism: Mechanism) -> str:
    times = "once" if mechanism.count == 1 else f"{mechanism.count} times"
    sampled = "" if mechanism.sample_rate == 1 else f", sampling {mechanism.sample_rate:.3g}"
    return f"{_MECHANISMS[mechanism.kind.value]}, {mechanism.noise_multiplier:.3g} × sensitivity{sampled}, {times}"


def _figure(value: float | None) -> str:
    """Two or three digits: more would claim more than a thousand virtual patients can show."""
    return "–" if value is None else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def _panel(curve: SurvivalCurve) -> dict[str, Any]:
    """One survival plot: paths in the coordinates of an inline SVG, and its axis."""
    left, top = _PANEL["left"], _PANEL["top"]
    width = _PANEL["width"] - left - _PANEL["right"]
    height = _PANEL["height"] - top - _PANEL["bottom"]
    horizon = curve.years[-1] or 1.0
    # The axis starts at the tens below the lowest point, so that three outcomes of unlike frequency stay legible.
    lowest = min(0.9, int(10 * min(*curve.real, *curve.virtual)) / 10)

    def x(year: float) -> float:
        return round(left + width * year / horizon, 1)

    def y(share: float) -> float:
        return round(top + height * (1 - (share - lowest) / (1 - lowest)), 1)

    def path(shares: Sequence[float]) -> str:
        # Steps: the curve stays until the next time of the grid.
        steps = [f"M{x(0)} {y(1.0)}"]
        for year, share in zip(curve.years, shares, strict=True):
            steps.append(f"H{x(year)}V{y(share)}")
        return "".join(steps)

    shares = [lowest + (1 - lowest) * part / 4 for part in range(5)]
    return {
        "title": curve.title,
        "summary": f"At {_when(curve.years[-1])} {curve.real[-1]:.1%} of the real and "
        f"{curve.virtual[-1]:.1%} of the virtual patients are free of it.",
        "real": path(curve.real),
        "virtual": path(curve.virtual),
        "horizontal": [{"y": y(share), "label": f"{share:.0%}"} for share in shares],
        "vertical": [{"x": x(year), "label": label} for year, label in _ticks(horizon)],
        **_PANEL,
    }


def _ticks(horizon: float) -> list[tuple[float, str]]:
    """Times of an axis with their labels: whole years, or days where there are fewer than two years."""
    if horizon >= 2:
        return [(float(year), str(year)) for year in range(0, int(horizon) + 1, 5 if horizon >= 10 else 1)]
    days = int(horizon * DAYS_PER_YEAR + 1e-6)
    return [(day / DAYS_PER_YEAR, f"{day} d") for day in range(0, days + 1, 30 if days < 300 else 90)]


def _when(years: float) -> str:
    return f"{years:g} years" if years >= 2 else f"{years * DAYS_PER_YEAR:.0f} days"
