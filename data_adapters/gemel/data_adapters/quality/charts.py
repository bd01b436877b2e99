"""The pictures of the report, drawn from its numbers; beside each a table or a sentence says the same."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, log10

from markupsafe import Markup

from gemel.data_adapters.quality.report import Distribution, YearCount
from gemel.data_adapters.quality.svg import line, picture, rect, text

_SHARE_WIDTH = 120.0


def share_bar(share: float, label: str) -> Markup:
    """A bar of a share between 0 and 1."""
    width = _SHARE_WIDTH * share
    drawn = [rect(0, 2, _SHARE_WIDTH, 12, "ground"), rect(0, 2, width, 12, "bar")]
    return picture(_SHARE_WIDTH, 16, label, drawn, kind="inline")


def lines_bar(accepted: int, rejected: int, most: int) -> Markup:
    """Accepted and rejected lines of a file; a rejected line is never too thin to be seen."""
    long = _SHARE_WIDTH * (accepted + rejected) / max(most, 1)
    bad = max(long * rejected / max(accepted + rejected, 1), 2.0 if rejected else 0.0)
    drawn = [rect(0, 2, max(long - bad, 1.0 if accepted else 0.0), 12, "bar")]
    if rejected:
        drawn.append(rect(max(long - bad, 0), 2, bad, 12, "bad"))
    return picture(_SHARE_WIDTH, 16, f"{accepted} accepted, {rejected} rejected", drawn, kind="inline")


def histogram(one: Distribution) -> Markup:
    """The values of a concept, with the programme's reference mean and scale, and the plausible bounds that are near."""
    left, top, width, height = 8.0, 26.0, 344.0, 96.0
    edges, counts = one.histogram.edges, one.histogram.counts
    low, high, most = edges[0], edges[-1], max(counts, default=1) or 1

    def across(value: float) -> float:
        return left + width * (value - low) / (high - low)

    drawn = []
    mean, scale = one.reference_mean, one.reference_scale
    if mean is not None and scale is not None:
        start, end = max(across(mean - scale), left), min(across(mean + scale), left + width)
        drawn.append(rect(start, top, end - start, height, "reference"))
    for lower, upper, count in zip(edges[:-1], edges[1:], counts, strict=True):
        tall = height * count / most
        title = f"{_short(lower)} to {_short(upper)}: {count}"
        drawn.append(
            rect(
                across(lower) + 0.5,
                top + height - tall,
                across(upper) - across(lower) - 1,
                tall,
                "bar",
                title=title,
            )
        )
    drawn.append(line(left, top + height, left + width, top + height, "axis"))
    if mean is not None:
        at = across(mean)
        drawn.append(line(at, top - 4, at, top + height, "mean"))
        anchor = "end" if at > left + width * 0.6 else "start"
        drawn.append(
            text(at + (-4 if anchor == "end" else 4), top - 8, f"reference {mean:g}", anchor=anchor, kind="s")
        )
    for bound in (one.plausible_low, one.plausible_high):
        if bound is not None and low <= bound <= high:
            drawn.append(line(across(bound), top, across(bound), top + height, "bound"))
    for value in _ticks(low, high):
        drawn.append(text(across(value), top + height + 16, _short(value), anchor="middle", kind="s"))
    label = (
        f"{one.title}: {one.values} values, half of them up to {_short(one.p50)} {one.unit}, nine of ten between "
        f"{_short(one.p5)} and {_short(one.p95)}."
    )
    return picture(360, 146, label, drawn)


def timeline(years: Sequence[YearCount]) -> Markup:
    """Visits (up) and facts (down) by year."""
    left, width, middle, height = 58.0, 826.0, 92.0, 72.0
    step = width / max(len(years), 1)
    sides = (
        ("Visits", [y.visits for y in years], "bar", -1),
        ("Facts", [y.facts for y in years], "second", 1),
    )
    drawn = []
    for name, counts, kind, direction in sides:
        most = max(counts, default=0)
        for i, (year, count) in enumerate(zip(years, counts, strict=True)):
            if count:
                tall = max(height * count / most, 1.0)
                y = middle - tall if direction < 0 else middle + 20
                drawn.append(
                    rect(
                        left + i * step + 0.5,
                        y,
                        max(step - 1, 0.6),
                        tall,
                        kind,
                        title=f"{year.year}: {count}",
                    )
                )
        at = middle - height if direction < 0 else middle + 20 + height
        drawn.append(text(left - 6, at + (12 if direction < 0 else 0), f"{most:,}", anchor="end", kind="s"))
        drawn.append(
            text(left - 6, middle - 4 if direction < 0 else middle + 34, name, anchor="end", kind="s")
        )
    every = next(n for n in (1, 2, 5, 10, 20, 50, 100) if len(years) / n <= 14 or n == 100)
    for i, year in enumerate(years):
        if year.year % every == 0:
            drawn.append(
                text(left + (i + 0.5) * step, middle + 14, str(year.year), anchor="middle", kind="s")
            )
    label = f"Visits and facts by year, {years[0].year} to {years[-1].year}." if years else "No dated record."
    return picture(900, 196, label, drawn)


def _ticks(low: float, high: float) -> list[float]:
    rough = (high - low) / 5
    unit = 10 ** floor(log10(rough))
    step = next(m * unit for m in (1, 2, 2.5, 5, 10) if m * unit >= rough)
    first = ceil(low / step)
    found = [i * step for i in range(first, floor(high / step) + 1)]
    # Not at the very edge, where the text would be cut.
    return [value for value in found if 0.03 <= (value - low) / (high - low) <= 0.97]


def _short(value: float) -> str:
    return f"{value:.4g}"
