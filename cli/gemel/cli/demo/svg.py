"""The strokes that the report's pictures are made of: inline SVG, every text escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

BLUE, ORANGE, GREY, INK, PALE = "#1d5b99", "#b4500b", "#6b7480", "#1c2430", "#e3e8ee"
NOTHING = Markup("")


@dataclass(frozen=True)
class Plot:
    """A rectangle of the page in which values are drawn: y grows upwards in values, downwards in pixels."""

    left: float
    top: float
    width: float
    height: float
    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Pixels of a value pair."""
        across = (x - self.x_low) / (self.x_high - self.x_low)
        up = (y - self.y_low) / (self.y_high - self.y_low)
        return round(self.left + across * self.width, 1), round(self.top + (1 - up) * self.height, 1)

    def line(self, xs: Sequence[float], ys: Sequence[float], *, colour: str, dashed: bool = False) -> Markup:
        """A curve; the dash tells it apart without colour."""
        points = " ".join(f"{x},{y}" for x, y in (self.at(*pair) for pair in zip(xs, ys, strict=True)))
        dash = Markup(' stroke-dasharray="7 4"') if dashed else NOTHING
        form = Markup(
            '<polyline points="{}" fill="none" stroke="{}" stroke-width="2.4" stroke-linejoin="round"{}/>'
        )
        return form.format(points, colour, dash)

    def band(
        self, xs: Sequence[float], low: Sequence[float], high: Sequence[float], *, colour: str
    ) -> Markup:
        """The area between two curves."""
        there = [self.at(*pair) for pair in zip(xs, low, strict=True)]
        back = [self.at(*pair) for pair in zip(xs, high, strict=True)][::-1]
        points = " ".join(f"{x},{y}" for x, y in there + back)
        return Markup('<polygon points="{}" fill="{}" fill-opacity="0.14"/>').format(points, colour)

    def axes(self, *, x_ticks: Iterable[float], y_ticks: Iterable[float], percent: bool = True) -> Markup:
        """Grid lines and tick labels."""
        drawn = []
        for y in y_ticks:
            x0, at = self.at(self.x_low, y)
            drawn.append(stroke(x0, at, x0 + self.width, at, colour=PALE))
            drawn.append(
                text(x0 - 6, at + 4, f"{y:.0%}" if percent else f"{y:.3g}", anchor="end", small=True)
            )
        for x in x_ticks:
            across, y0 = self.at(x, self.y_low)
            drawn.append(text(across, y0 + 17, f"{x:g}", anchor="middle", small=True))
        x0, y0 = self.at(self.x_low, self.y_low)
        drawn.append(stroke(x0, y0, x0 + self.width, y0, colour=GREY))
        return NOTHING.join(drawn)


def picture(width: float, height: float, label: str, drawn: Iterable[Markup]) -> Markup:
    """The whole drawing; `label` says to a screen reader what it shows."""
    form = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>')
    return form.format(f"{width:g}", f"{height:g}", label, NOTHING.join(drawn))


def text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    colour: str = INK,
    bold: bool = False,
    small: bool = False,
    fit: int | None = None,
) -> Markup:
    """A text at its anchor, cut to `fit` characters."""
    if fit is not None and len(text) > fit:
        text = text[: fit - 1] + "…"
    kinds = " ".join(k for k, on in (("b", bold), ("s", small)) if on)
    form = Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}" fill="{}" class="{}">{}</text>')
    return form.format(x, y, anchor, colour, kinds, text)


def rect(x: float, y: float, width: float, height: float, *, fill: str, stroke: str = "none") -> Markup:
    """A rounded rectangle; a negative size is drawn as none."""
    form = Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="4" fill="{}" stroke="{}"/>')
    return form.format(x, y, max(width, 0), max(height, 0), fill, stroke)


def stroke(x0: float, y0: float, x1: float, y1: float, *, colour: str) -> Markup:
    """A straight line."""
    form = Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" stroke="{}"/>')
    return form.format(x0, y0, x1, y1, colour)


def arrow(x0: float, y0: float, x1: float, y1: float) -> Markup:
    """An arrow whose tip is at (x1, y1)."""
    long = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
    dx, dy = (x1 - x0) / long, (y1 - y0) / long
    sides = [(x1 - 10 * dx + s * 5 * dy, y1 - 10 * dy - s * 5 * dx) for s in (1, -1)]
    tip = " ".join(f"{x:.1f},{y:.1f}" for x, y in [(x1, y1), *sides])
    shaft = Markup(
        '<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" stroke="{}" stroke-width="1.6"/>'
    ).format(x0, y0, x1 - 8 * dx, y1 - 8 * dy, GREY)
    return shaft + Markup('<polygon points="{}" fill="{}"/>').format(tip, GREY)
