"""The figures of a report as inline SVG: no script; every colour has a shape or a dash too, and a sentence says what is to be seen.

Colours are the page's (`--real`, `--virtual`, …), so that they follow light, dark and paper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

Numbers = Sequence[float]
_DAYS_PER_YEAR = 365.25
_NOTHING = Markup("")


@dataclass(frozen=True)
class _Plot:
    """A rectangle in which values are drawn: y grows upwards in values, downwards in pixels."""

    left: float
    top: float
    width: float
    height: float
    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Pixels of a pair of values."""
        across = (x - self.x[0]) / ((self.x[1] - self.x[0]) or 1.0)
        up = (y - self.y[0]) / ((self.y[1] - self.y[0]) or 1.0)
        return round(self.left + across * self.width, 1), round(self.top + (1 - up) * self.height, 1)

    def steps(self, xs: Numbers, ys: Numbers, kind: str) -> Markup:
        """A curve that stays until its next point."""
        parts = [f"M{self.at(xs[0], ys[0])[0]} {self.at(xs[0], ys[0])[1]}"]
        parts += [f"H{x}V{y}" for x, y in (self.at(*pair) for pair in zip(xs[1:], ys[1:], strict=True))]
        return Markup('<path class="{}" d="{}"/>').format(kind, "".join(parts))

    def line(self, xs: Numbers, ys: Numbers, kind: str) -> Markup:
        """A line through points."""
        points = " ".join(f"{x},{y}" for x, y in (self.at(*pair) for pair in zip(xs, ys, strict=True)))
        return Markup('<polyline class="{}" points="{}"/>').format(kind, points)

    def band(self, xs: Numbers, low: Numbers, high: Numbers) -> Markup:
        """The area between two lines."""
        there = [self.at(*pair) for pair in zip(xs, low, strict=True)]
        back = [self.at(*pair) for pair in zip(xs, high, strict=True)][::-1]
        points = " ".join(f"{x},{y}" for x, y in there + back)
        return Markup('<polygon class="band" points="{}"/>').format(points)

    def axes(self, x_ticks: Iterable[tuple[float, str]], y_ticks: Iterable[tuple[float, str]]) -> Markup:
        """Grid lines with their labels."""
        drawn = []
        for y, label in y_ticks:
            across, down = self.at(self.x[0], y)
            drawn += [
                _rule(across, down, across + self.width, down),
                _text(across - 5, down + 3, label, "end"),
            ]
        for x, label in x_ticks:
            across, down = self.at(x, self.y[0])
            drawn.append(_text(across, down + 13, label, "middle"))
        return _NOTHING.join(drawn)


def chart(figure: Mapping[str, Any]) -> Markup:
    """The picture of a figure of `figures.figures_of`, or of a fan of trajectories; nothing for a kind that is not known."""
    draw: Callable[[Mapping[str, Any]], Markup] | None = {
        "survival": survival,
        "marginal": marginal,
        "correlations": correlations,
        "fan": fan,
    }.get(str(figure["kind"]))
    return _NOTHING if draw is None else draw(figure)


def summary(figure: Mapping[str, Any]) -> str:
    """What a figure shows, in a sentence with its numbers."""
    kind, title = figure["kind"], str(figure["title"])
    if kind == "survival" and figure["days"]:
        when, end = _when(figure["days"][-1]), figure["virtual"]["middle"][-1]
        real = f", of those counted {figure['training'][-1]:.1%}" if figure["training"] is not None else ""
        return f"After {when}, {end:.1%} of the virtual patients are free of it{real}."
    if kind == "marginal":
        beside = figure["training"] if figure["training"] is not None else figure["released"]
        if beside is None:
            return title
        apart = sum(abs(a - b) for a, b in zip(figure["virtual"]["middle"], beside, strict=True)) / 2
        return f"{apart:.1%} of the virtual patients would have to change their level to agree."
    if kind == "correlations" and figure["training"] is not None and figure["pairs"]:
        apart = [abs(a - b) for a, b in zip(figure["virtual"]["middle"], figure["training"], strict=True)]
        return f"{len(apart)} pairs of columns, {sum(apart) / len(apart):.3f} apart on average, {max(apart):.2f} at most."
    return title


def survival(figure: Mapping[str, Any]) -> Markup:
    """Share still free of an event: virtual with the band of all draws, those counted, those kept out."""
    days, virtual = figure["days"], figure["virtual"]
    if len(days) < 2:
        return _NOTHING
    sides = [figure[side] for side in ("training", "holdout") if figure[side] is not None]
    lowest = min(0.9, *(int(10 * min(curve)) / 10 for curve in (virtual["low"], *sides)))
    plot = _Plot(40, 8, 300, 150, (0.0, days[-1]), (lowest, 1.0))
    shares = [lowest + (1 - lowest) * part / 4 for part in range(5)]
    drawn = [
        plot.axes(_time_ticks(days[-1]), [(share, f"{100 * share:.3g}%") for share in shares]),
        plot.band(days, virtual["low"], virtual["high"]),
        plot.steps(days, virtual["middle"], "virtual"),
    ]
    for side in ("holdout", "training"):
        if figure[side] is not None:
            drawn.append(plot.steps(days, figure[side], side))
    return _picture(352, 184, f"{figure['title']}. {summary(figure)}", drawn)


def marginal(figure: Mapping[str, Any]) -> Markup:
    """The shares of a column's levels: virtual as bars with the range of all draws, real ones as strokes upon them."""
    levels, virtual = figure["levels"], figure["virtual"]
    sides = [(side, figure[side]) for side in ("training", "holdout", "released") if figure[side] is not None]
    most = max(*virtual["high"], *(max(shares) for _, shares in sides), 1e-9)
    row, left, full = 15, 132, 190
    drawn = []
    for i, level in enumerate(levels):
        y = 4 + i * row
        drawn += [
            _text(left - 6, y + 9, _short(level), "end"),
            _bar(left, y + 1, full * virtual["middle"][i] / most),
        ]
        low, high = (left + full * virtual[end][i] / most for end in ("low", "high"))
        if high - low >= 1:
            drawn.append(_rule(low, y + 6, high, y + 6, "spread"))
        for side, shares in sides:
            across = left + full * shares[i] / most
            drawn.append(_rule(across, y, across, y + 12, f"mark {side}"))
        drawn.append(_text(left + full + 6, y + 9, f"{virtual['middle'][i]:.1%}", "start"))
    return _picture(372, 6 + row * len(levels), f"{figure['title']}. {summary(figure)}", drawn)


def correlations(figure: Mapping[str, Any]) -> Markup:
    """Each pair of columns as a point: how it goes together in those counted (across) and in virtual patients (up)."""
    if figure["training"] is None or not figure["pairs"]:
        return _NOTHING
    plot = _Plot(40, 8, 300, 300, (-1.0, 1.0), (-1.0, 1.0))
    ticks = [(value, f"{value:g}") for value in (-1.0, -0.5, 0.0, 0.5, 1.0)]
    drawn = [plot.axes(ticks, ticks), plot.line((-1, 1), (-1, 1), "diagonal")]
    for pair, real, virtual in zip(
        figure["pairs"], figure["training"], figure["virtual"]["middle"], strict=True
    ):
        x, y = plot.at(real, virtual)
        one, other = (figure["names"][place] for place in pair)
        title = f"{one}, {other}: counted {real:.2f}, virtual {virtual:.2f}"
        drawn.append(
            Markup('<circle class="dot" cx="{}" cy="{}" r="3"><title>{}</title></circle>').format(x, y, title)
        )
    return _picture(352, 334, f"{figure['title']}. {summary(figure)}", drawn)


def fan(figure: Mapping[str, Any]) -> Markup:
    """Courses over time: the middle and the range in which nine of ten virtual patients lie; real ones as lines beside."""
    days, virtual = figure["days"], figure["virtual"]
    if len(days) < 2:
        return _NOTHING
    ends = [*virtual["low"], *virtual["high"]]
    real = figure.get("training")
    if real is not None:
        ends += [*real["low"], *real["high"]]
    low, high = min(ends), max(ends)
    plot = _Plot(46, 8, 294, 150, (days[0], days[-1]), (low, high))
    values = [low + (high - low) * part / 4 for part in range(5)]
    drawn = [
        plot.axes(_time_ticks(days[-1]), [(value, f"{value:.3g}") for value in values]),
        plot.band(days, virtual["low"], virtual["high"]),
        plot.line(days, virtual["middle"], "virtual"),
    ]
    if real is not None:
        drawn += [
            plot.line(days, real[line], "training" if line == "middle" else "holdout")
            for line in ("low", "middle", "high")
        ]
    return _picture(352, 184, f"{figure['title']}. {figure.get('unit', '')}", drawn)


def _time_ticks(last: float) -> list[tuple[float, str]]:
    """Whole years, or days where there are fewer than two years."""
    years = last / _DAYS_PER_YEAR
    if years >= 1.9:
        step = 5 if years >= 10 else 1
        return [(year * _DAYS_PER_YEAR, f"{year} y") for year in range(0, int(years + 0.1) + 1, step)]
    step = 30 if last < 300 else 90
    return [(float(day), f"{day} d") for day in range(0, int(last) + 1, step)]


def _when(days: float) -> str:
    years = days / _DAYS_PER_YEAR
    return f"{years:.3g} years" if years >= 2 else f"{days:.0f} days"


def _short(text: str, most: int = 22) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _picture(width: float, height: float, label: str, drawn: Iterable[Markup]) -> Markup:
    form = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>')
    return form.format(f"{width:g}", f"{height:g}", label, _NOTHING.join(drawn))


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, text)


def _rule(x0: float, y0: float, x1: float, y1: float, kind: str = "grid") -> Markup:
    form = Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>')
    return form.format(kind, x0, y0, x1, y1)


def _bar(x: float, y: float, width: float) -> Markup:
    return Markup('<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="10"/>').format(
        x, y, max(width, 0.0)
    )
