"""The check's report as one HTML page for a data steward: no request, no script, every text of the export escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

from gemel.core.error_catalogue import CATALOGUE
from gemel.data_adapters.quality import charts
from gemel.data_adapters.quality.drift import THRESHOLDS
from gemel.data_adapters.quality.report import CheckReport

SHOWN_REJECTS = 100
SHOWN_GROUPS = 40
SHOWN_CODES = 50
_WEIGHTS = {"must": "Must", "should": "Should", "look": "Look"}


def render_report(report: CheckReport) -> str:
    """The page as text."""
    return _environment().get_template("report.html.j2").render(**_view(report))


def headline(report: CheckReport) -> str:
    """The result in one sentence."""
    if any(item.weight == "must" for item in report.to_do):
        return "Something must be decided or mended before a data set is built from this export."
    if any(item.weight == "should" for item in report.to_do):
        return "A data set can be built from this export; some of what it holds would be left out."
    return "A data set can be built from this export; nothing that the programme needs is left out."


def _view(report: CheckReport) -> dict[str, Any]:
    most = max((file.read for file in report.files), default=0)
    return {
        "r": report,
        "headline": headline(report),
        "weights": _WEIGHTS,
        "thresholds": THRESHOLDS,
        "titles": {code: entry.title for code, entry in CATALOGUE.items()},
        "files": [
            (file, charts.lines_bar(file.accepted, file.rejected, most), _types(file.types))
            for file in report.files
        ],
        "coverage": [
            (one, charts.share_bar(one.share, f"{one.share:.0%} of the patients")) for one in report.coverage
        ],
        "histograms": [
            (one, charts.histogram(one), [d for d in report.drift if d.concept == one.concept])
            for one in report.distributions
        ],
        "unit_spellings": [(one.concept, one.units) for one in report.concepts if one.units],
        "timeline": charts.timeline(report.years) if report.years else None,
        "groups": report.reject_groups[:SHOWN_GROUPS],
        "rejects": report.rejects[:SHOWN_REJECTS],
        "codes": report.unmapped[:SHOWN_CODES],
        "more_codes": report.unmapped[SHOWN_CODES:],
        "left_out": _left_out(report),
    }


def _left_out(report: CheckReport) -> list[tuple[str, dict[str, int], str]]:
    """What was accepted and not used as it stands: what it is, counts by kind, and why."""
    found = (
        ("Older versions", report.superseded, "A newer version of the same resource counts instead."),
        ("Deleted", report.deleted, "The export itself deletes these resources."),
        (
            "Without their patient",
            report.orphans,
            "The patient is not in the export: nothing can be done with them.",
        ),
        (
            "Do not count",
            report.excluded,
            "The record says so of itself (entered in error, refuted, family history).",
        ),
        (
            "Said twice",
            _some(report, "duplicates"),
            "Another resource says the same of the same time: counted once.",
        ),
        (
            "Without a value",
            _some(report, "absent"),
            "The record says that no value is there, or gives none.",
        ),
        ("Without any date", report.undated, "Neither the statement nor its encounter has one."),
        ("Dates without a day", report.partial_dates, "The middle of the month or year stands for the day."),
        ("Ends that cannot be", report.odd_ends, "No date, or before the start: the end is left out."),
        (
            "Give their concept no value",
            report.unused,
            "Such as a diagnosis with the code of something measured.",
        ),
        (
            "Unit of the mapping",
            report.default_units,
            "Values without a unit that got the one of [default_units].",
        ),
        ("Only a bound", _some(report, "comparators"), 'Such as "<5": used only where a feature says how.'),
    )
    return [(title, counts, why) for title, counts, why in found if counts]


def _some(report: CheckReport, name: str) -> dict[str, int]:
    return {one.concept: getattr(one, name) for one in report.coverage if getattr(one, name)}


def _types(types: dict[str, int]) -> str:
    shown = [
        f"{name} {number:,}" for name, number in sorted(types.items(), key=lambda item: -item[1]) if number
    ]
    return ", ".join(shown[:4]) + (f" and {len(shown) - 4} more types" if len(shown) > 4 else "")


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=lambda value: f"{value:,}",
        percent=_percent,
        short=lambda value: "–" if value is None else f"{value:.4g}",
    )
    return environment


def _percent(share: float) -> str:
    """A share in words that never round something to all or nothing.

    >>> [_percent(share) for share in (0.0, 0.004, 0.5, 0.998, 1.0)]
    ['0 %', 'under 1 %', '50 %', 'over 99 %', '100 %']
    """
    if 0 < share < 0.01:
        return "under 1 %"
    return "over 99 %" if 0.99 < share < 1 else f"{share * 100:.0f} %"
