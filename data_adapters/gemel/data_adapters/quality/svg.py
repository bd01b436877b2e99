"""The strokes that the report's pictures are made of: inline SVG, every text escaped, colours by the page's classes."""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup

NOTHING = Markup("")


def picture(width: float, height: float, label: str, drawn: Iterable[Markup], *, kind: str = "") -> Markup:
    """The whole drawing; `label` says to a screen reader what it shows."""
    form = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}" class="{}">{}</svg>')
    return form.format(f"{width:g}", f"{height:g}", label, kind, NOTHING.join(drawn))


def rect(x: float, y: float, width: float, height: float, kind: str, *, title: str = "") -> Markup:
    """A rectangle of a class of the style sheet; a negative size is drawn as none."""
    form = Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" class="{}">{}</rect>')
    inner = Markup("<title>{}</title>").format(title) if title else NOTHING
    return form.format(x, y, max(width, 0), max(height, 0), kind, inner)


def line(x0: float, y0: float, x1: float, y1: float, kind: str) -> Markup:
    """A straight line."""
    form = Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="{}"/>')
    return form.format(x0, y0, x1, y1, kind)


def text(x: float, y: float, said: str, *, anchor: str = "start", kind: str = "") -> Markup:
    """A text at its anchor."""
    form = Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}" class="{}">{}</text>')
    return form.format(x, y, anchor, kind, said)
