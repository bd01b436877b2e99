"""Pictures of the report as inline SVG, drawn from plain numbers; no script, no colour without a shape or a word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from markupsafe import Markup

from gemel.cli.demo.summary import CoursePair, Round, Site, Survival, WhatIf
from gemel.cli.demo.svg import (
    BLUE,
    GREY,
    INK,
    NOTHING,
    ORANGE,
    PALE,
    Plot,
    arrow,
    picture,
    rect,
    stroke,
    text,
)
from gemel.core.programme import DAYS_PER_YEAR


def walk(sites: Sequence[Site], *, virtual_patients: int) -> Markup:
    """Hospitals to coordinator to results: what moves, and what stays."""
    gap, box = 84, 64
    height = max(len(sites) * gap + 26, 200)
    middle = max((len(sites) * gap - (gap - box)) / 2 + 22, 92)
    drawn = [text(2, 13, "Records stay inside", small=True), text(400, 13, "Noised numbers move", small=True)]
    for row, site in enumerate(sites):
        y = 22 + row * gap + (60 if len(sites) == 1 else 0)
        size = f"{site.bytes_left:,} bytes" if site.left else "through its gate"
        end = middle + (row - (len(sites) - 1) / 2) * 14
        # Beside the start of the arrow, on the side from which the arrow leads away.
        beside = y + box / 2 + (-9 if end >= y + box / 2 else 19)
        drawn += [
            rect(2, y, 268, box, fill="#eef4fa", stroke=BLUE),
            text(16, y + 27, site.label, bold=True, fit=28),
            text(16, y + 47, f"{site.patients:,} people", small=True),
            arrow(272, y + box / 2, 480, end),
            text(292, beside, size, small=True),
        ]
    drawn += [
        rect(484, middle - 38, 178, 76, fill="#f5f6f8", stroke=GREY),
        text(573, middle - 5, "Coordinator", bold=True, anchor="middle"),
        text(573, middle + 15, "sees no patient record", small=True, anchor="middle"),
        arrow(664, middle - 10, 708, middle - 34),
        arrow(664, middle + 10, 708, middle + 34),
        rect(712, middle - 62, 186, 54, fill="#fdf3ea", stroke=ORANGE),
        text(805, middle - 39, "One patient twin", bold=True, anchor="middle"),
        text(805, middle - 20, "back to every hospital", small=True, anchor="middle"),
        rect(712, middle + 8, 186, 54, fill="#fdf3ea", stroke=ORANGE),
        text(805, middle + 31, f"{virtual_patients:,} virtual people", bold=True, anchor="middle"),
        text(805, middle + 50, "who never lived", small=True, anchor="middle"),
    ]
    label = f"{len(sites)} hospitals send noised numbers to a coordinator, which makes one twin and a virtual cohort."
    return picture(900, height, label, drawn)


def rounds(sites: Sequence[Site], detail: Sequence[Round]) -> Markup:
    """Hospitals by rounds: a filled disc took part, a cross did not; below, the seconds of each round."""
    left, step, row_height = 235, min(110.0, 640 / max(len(detail), 1)), 36
    base = 40 + len(sites) * row_height
    slowest = max((r.seconds or 0.0 for r in detail), default=0.0)
    every = ceil(len(detail) / 20)
    drawn = []
    for row, site in enumerate(sites):
        y = 48 + row * row_height
        drawn += [
            text(left - 14, y + 4, site.label, anchor="end", fit=32),
            stroke(left, y, left + step * len(detail), y, colour=PALE),
        ]
    for column, entry in enumerate(detail):
        x = left + (column + 0.5) * step
        if column % every == 0:
            drawn.append(text(x, 20, str(entry.round), anchor="middle", small=True))
        why = {missing.site: missing.code for missing in entry.missing}
        for row, site in enumerate(sites):
            y = 48 + row * row_height
            drawn.append(_disc(x, y) if site.name in entry.sites else _cross(x, y, why.get(site.name, "")))
        if slowest > 0 and entry.seconds is not None:
            tall = 44 * entry.seconds / slowest
            drawn.append(rect(x - step * 0.28, base + 56 - tall, step * 0.56, tall, fill="#c9d3de"))
            if column % every == 0:
                drawn.append(text(x, base + 72, f"{entry.seconds:.1f} s", anchor="middle", small=True))
    drawn.append(text(left - 14, 20, "Round", anchor="end", small=True))
    drawn.append(text(left - 14, base + 50, "Time of the round", anchor="end", small=True))
    label = f"Which of {len(sites)} hospitals took part in each of {len(detail)} rounds; the table below says the same."
    return picture(900, base + 84, label, drawn)


def budgets(sites: Sequence[Site]) -> Markup:
    """Privacy spent by each hospital against the cap that it set."""
    left, full, gap = 235, 470, 46
    largest = max((site.epsilon_cap for site in sites), default=1.0) or 1.0
    drawn = []
    for row, site in enumerate(sites):
        y = 10 + row * gap
        cap, spent = full * site.epsilon_cap / largest, full * site.epsilon_spent / largest
        drawn += [
            text(left - 14, y + 19, site.label, anchor="end", fit=32),
            rect(left, y, cap, 26, fill="#ffffff", stroke=GREY),
            rect(left, y, min(spent, full * 1.05), 26, fill=BLUE),
            text(
                left + max(cap, spent) + 12,
                y + 18,
                f"ε {site.epsilon_spent:.3f} of {site.epsilon_cap:g} ({_share(site)})",
            ),
        ]
    return picture(900, 20 + len(sites) * gap, "Privacy spent by each hospital of its own cap.", drawn)


def discrimination(
    models: Mapping[str, Mapping[str, float | None]],
    titles: Mapping[str, str],
    endpoints: Mapping[str, str],
) -> Markup:
    """AUC at the last horizon: one line for each endpoint, one shape for each model."""
    values = [score for scores in models.values() for score in scores.values() if score is not None]
    if not values:
        return NOTHING
    low, high = floor(min(*values, 0.98) * 20 - 0.4) / 20, min(1.0, ceil(max(values) * 20 + 0.4) / 20)
    plot = Plot(325, 44, 530, len(endpoints) * 54, low, high, 0, 1)
    drawn = [_legend(titles)]
    ticks = round((high - low) / 0.05)
    for x in (low + i * 0.05 for i in range(ticks + 1)):
        across, _ = plot.at(x, 0)
        drawn.append(stroke(across, 44, across, 44 + plot.height, colour=PALE))
        drawn.append(text(across, 44 + plot.height + 17, f"{x:.2f}", anchor="middle", small=True))
    for row, (endpoint, title) in enumerate(endpoints.items()):
        y = 44 + 27 + row * 54
        drawn.append(text(311, y + 4, title, anchor="end", fit=39))
        drawn.append(stroke(325, y, 855, y, colour=GREY))
        # The joint twin is drawn last, so that nothing hides it.
        for shape, model in reversed(list(enumerate(models))):
            score = models[model].get(endpoint)
            if score is not None:
                drawn.append(_marker(shape, plot.at(score, 0)[0], y, f"{titles[model]}: {score:.3f}"))
    return picture(900, 44 + plot.height + 26, "AUC of four models; the table says the same.", drawn)


def risk_courses(what_if: WhatIf) -> Markup:
    """Small multiples: expected risk over time under the plan (solid) and the other (dashed), each with its range."""
    names = [name for name in what_if.with_plan if name in what_if.with_other]
    cells = []
    for name in names:
        bands = [
            (what_if.low.get(side, {}).get(name), what_if.high.get(side, {}).get(name))
            for side in ("plan", "other")
        ]
        pair = what_if.with_plan[name], what_if.with_other[name]
        highest = [high for _, high in bands if high]
        top = _nice(max(value for curve in (*pair, *highest) for value in curve))
        cells.append(_Cell(what_if.titles.get(name, name), pair, bands, 0.0, top, "{:.1%}"))
    label = "Expected risk over time under both plans; the table below gives the numbers."
    return _multiples(cells, what_if.times, label)


def measured_courses(what_if: WhatIf) -> Markup:
    """Small multiples: what is measured, as expected under the plan (solid) and the other (dashed)."""
    cells = []
    for course in what_if.courses:
        low, high = _span(course)
        pair = course.with_plan, course.with_other
        cells.append(
            _Cell(
                f"{course.name}, {course.unit}" if course.unit else course.name, pair, [], low, high, "{:.3g}"
            )
        )
    return _multiples(cells, what_if.times, "Expected course of what is measured, under both plans.")


@dataclass(frozen=True)
class _Cell:
    """One small picture: two curves, a band for each where there is one, and the range of its axis."""

    title: str
    pair: tuple[Sequence[float], Sequence[float]]
    bands: Sequence[tuple[Sequence[float] | None, Sequence[float] | None]]
    low: float
    high: float
    form: str


def _multiples(cells: Sequence[_Cell], times: Sequence[float], label: str) -> Markup:
    columns = min(len(cells), 3)
    rows = ceil(len(cells) / columns)
    width = (900 - 52 * columns - 20) / columns
    drawn = []
    for number, cell in enumerate(cells):
        left, top = 52 + number % columns * (width + 52), 34 + number // columns * 262
        plot = Plot(left, top, width - 56, 200, times[0], times[-1], cell.low, cell.high)
        drawn.append(text(plot.left, top - 18, cell.title, bold=True, fit=round(width / 8)))
        ticks = [cell.low + (cell.high - cell.low) * i / 4 for i in range(5)]
        drawn.append(plot.axes(x_ticks=_ticks(times), y_ticks=ticks, percent="%" in cell.form))
        for (low, high), colour in zip(cell.bands, (BLUE, ORANGE), strict=False):
            if low and high:
                drawn.append(plot.band(times, low, high, colour=colour))
        ends = [plot.at(times[-1], curve[-1])[1] for curve in cell.pair]
        sides = zip(cell.pair, (BLUE, ORANGE), (False, True), _apart(ends), strict=True)
        for curve, colour, dashed, y in sides:
            drawn.append(plot.line(times, curve, colour=colour, dashed=dashed))
            end = cell.form.format(curve[-1])
            drawn.append(text(plot.left + plot.width + 5, y + 4, end, colour=colour, bold=True))
    return picture(900, 262 * rows, label, drawn)


def _span(course: CoursePair) -> tuple[float, float]:
    """Round limits a little beyond both curves."""
    values = [*course.with_plan, *course.with_other]
    low, high = min(values), max(values)
    room = (high - low) * 0.08 or abs(high) * 0.05 or 1.0
    return low - room, high + room


def survival(curve: Survival) -> Markup:
    """Share alive over time: real people solid, virtual people dashed."""
    in_days = curve.years[-1] < 2
    years = [round(year * DAYS_PER_YEAR) for year in curve.years] if in_days else curve.years
    unit = "days" if in_days else "years"
    low = max(0.0, floor(min(*curve.real, *curve.virtual) * 10 - 0.5) / 10)
    plot = Plot(60, 14, 690, 230, years[0], years[-1], low, 1.0)
    steps = round((1 - low) / 0.1)
    ticks = [low + i * 0.1 for i in range(steps + 1)]
    ends = _apart([plot.at(years[-1], curve.real[-1])[1], plot.at(years[-1], curve.virtual[-1])[1]])
    drawn = [
        plot.axes(x_ticks=_ticks(years), y_ticks=ticks),
        plot.line(years, curve.real, colour=BLUE),
        plot.line(years, curve.virtual, colour=ORANGE, dashed=True),
        text(758, ends[0] + 4, f"Real {curve.real[-1]:.1%}", colour=BLUE, bold=True),
        text(758, ends[1] + 4, f"Virtual {curve.virtual[-1]:.1%}", colour=ORANGE, bold=True),
        text(405, 276, f"{unit.capitalize()} since the index date", anchor="middle", small=True),
    ]
    return picture(900, 284, "Share alive over time in the real and in the virtual cohort.", drawn)


def _disc(x: float, y: float) -> Markup:
    return Markup('<circle cx="{:.1f}" cy="{:.1f}" r="8" fill="{}"/>').format(x, y, BLUE)


def _cross(x: float, y: float, code: str) -> Markup:
    form = Markup('<path d="M{:.1f} {:.1f}l12 12m0 -12l-12 12" stroke="{}" stroke-width="3" fill="none"/>')
    return form.format(x - 6, y - 6, ORANGE) + text(
        x, y + 20, code, anchor="middle", small=True, colour=ORANGE
    )


def _marker(shape: int, x: float, y: float, title: str) -> Markup:
    forms = (
        Markup('<circle cx="{x:.1f}" cy="{y:.1f}" r="8" fill="{c}"><title>{t}</title></circle>'),
        Markup(
            '<path d="M{x:.1f} {y:.1f}m-7 -7h14v14h-14z" fill="#fff" stroke="{c}" stroke-width="2"><title>{t}</title></path>'
        ),
        Markup(
            '<path d="M{x:.1f} {y:.1f}m0 -9l9 15h-18z" fill="#fff" stroke="{c}" stroke-width="2"><title>{t}</title></path>'
        ),
        Markup(
            '<path d="M{x:.1f} {y:.1f}m0 -9l8 9l-8 9l-8 -9z" fill="#fff" stroke="{c}" stroke-width="2"><title>{t}</title></path>'
        ),
    )
    return forms[shape % 4].format(x=x, y=y, c=(BLUE, INK, GREY, ORANGE)[shape % 4], t=title)


def _legend(titles: Mapping[str, str]) -> Markup:
    step = 880 / max(len(titles), 1)
    drawn = []
    for shape, title in enumerate(titles.values()):
        drawn.append(_marker(shape, 20 + shape * step, 14, title))
        drawn.append(text(36 + shape * step, 18, title, small=True, fit=34))
    return NOTHING.join(drawn)


def _apart(ys: list[float]) -> list[float]:
    """Move two labels apart when they would overlap, keeping their order."""
    first, second = ys
    overlap = 19 - abs(first - second)
    if overlap <= 0:
        return ys
    sign = 1 if first >= second else -1
    return [first + sign * overlap / 2, second - sign * overlap / 2]


def _ticks(times: Sequence[float]) -> list[float]:
    """Four to eight round times from the first to the last."""
    span = times[-1] - times[0]
    step = next(step for step in (1, 2, 5, 10, 30, 60, 90, 180, 365, 730) if span / step <= 8)
    return [times[0] + i * step for i in range(int(span / step) + 1)]


def _nice(value: float) -> float:
    if value <= 0:
        return 0.1
    unit = 10 ** floor(log10(value))
    return float(
        min(1.0, next((m * unit for m in (1, 2, 4, 6, 8, 10) if m * unit >= value * 1.02), 20 * unit))
    )


def _share(site: Site) -> str:
    """Of the cap, rounded down: what is not quite spent must not read as spent."""
    share = site.epsilon_spent / site.epsilon_cap if site.epsilon_cap else 0.0
    return f"{floor(share * 1000) / 10:g} %"
