"""The usual forms of a programme's features: a flag that is recorded or not, a last value, age, sex. Public numbers only."""

from __future__ import annotations

from gemel.core.programme import Feature, FeatureKind

_FLAG_EDGES = (0.0, 0.5, 1.0)


def recorded(
    name: str,
    title: str,
    *concepts: str,
    source: str = "recorded diagnosis",
    mean: float = 0.0,
    scale: float = 1.0,
    window_days: int | None = None,
    from_days: int | None = None,
    to_days: int = 0,
) -> Feature:
    """1 when any of the concepts was recorded in the window, else 0."""
    return Feature(
        name=name,
        title=title,
        kind=FeatureKind.PRESENT,
        unit="1",
        low=0,
        high=1,
        reference_mean=mean,
        scale=scale,
        bin_edges=_FLAG_EDGES,
        source=source,
        concepts=concepts,
        window_days=window_days,
        from_days=from_days,
        to_days=to_days,
    )


def measured(
    name: str,
    title: str,
    concept: str,
    *,
    unit: str,
    edges: tuple[float, ...],
    mean: float,
    scale: float,
    source: str,
    kind: FeatureKind = FeatureKind.LAST,
    window_days: int | None = None,
    from_days: int | None = None,
    to_days: int = 0,
) -> Feature:
    """A value of a measured concept in the window, by default the last; the bounds are the outer edges."""
    return Feature(
        name=name,
        title=title,
        kind=kind,
        unit=unit,
        low=edges[0],
        high=edges[-1],
        reference_mean=mean,
        scale=scale,
        bin_edges=edges,
        source=source,
        concepts=(concept,),
        window_days=window_days,
        from_days=from_days,
        to_days=to_days,
    )
