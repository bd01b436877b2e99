"""Reading Kaplan-Meier curves: survival at public times, numbers at risk, Greenwood's error with the noise's."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from gemel.core.statistic_request import STATUSES_OF_SURVIVAL, SurvivalRequest
from gemel.privacy.statistics.uncertainty import Estimate, count_estimate, proportion_estimate, rising, spread

Floats = NDArray[np.float64]


class Curve(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One group's curve: at risk at the start of each interval, surviving at its end.

    `low` and `high` are the group's bin; both None for all patients, or for those without the variable.
    """

    low: float | None
    high: float | None
    at_risk: tuple[Estimate, ...]
    survival: tuple[Estimate, ...]


class SurvivalResult(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="survival"
):
    """Curves of all groups; with groups, the last is of patients without the variable."""

    name: str
    ends_years: tuple[float, ...]
    curves: tuple[Curve, ...]


def read_survival(request: SurvivalRequest, table: Floats, sigma: float) -> SurvivalResult:
    """One curve for each group."""
    edges = [] if request.by is None else list(zip(request.by.edges, request.by.edges[1:], strict=False))
    bounds: list[tuple[float | None, float | None]] = [*edges, (None, None)]
    return SurvivalResult(
        name=request.name,
        ends_years=request.edges_years[1:],
        curves=tuple(
            _curve(counts, sigma, low, high) for counts, (low, high) in zip(table, bounds, strict=True)
        ),
    )


def survival(counts: Floats) -> Floats:
    """Survival (..., intervals) at the end of each, of counts (..., 2 x intervals + 1).

    The life table's estimate: those who left in an interval were at risk for half of it.
    """
    events, left = counts[..., 0:-1:2], counts[..., 1:-1:2]
    through = _tail(counts)[..., :-1]
    exposed = np.maximum(through - np.maximum(left, 0) / 2, 1.0)
    result: Floats = np.cumprod(1 - np.clip(events / exposed, -1.0, 1.0), axis=-1, dtype=np.float64)
    return result


def _tail(counts: Floats) -> Floats:
    """Patients at risk (..., intervals + 1) at the start of each interval, and beyond the last."""
    starts = counts[..., ::STATUSES_OF_SURVIVAL].copy()
    starts[..., :-1] += counts[..., 1::STATUSES_OF_SURVIVAL]
    return np.cumsum(starts[..., ::-1], axis=-1)[..., ::-1]


def _curve(counts: Floats, sigma: float, low: float | None, high: float | None) -> Curve:
    raw, sampling, noise = spread(survival, counts, sigma)
    # Noise may make the raw curve rise; the nearest falling curve is as close to the true one or closer.
    falling = np.clip(-rising(-raw), 0, 1)
    at_risk = _tail(counts)[:-1]
    # The cells that are summed: two for each interval that is left, and that beyond.
    cells = len(counts) - STATUSES_OF_SURVIVAL * np.arange(len(raw))
    steady = -rising(-at_risk)
    return Curve(
        low=low,
        high=high,
        at_risk=tuple(count_estimate(n, sigma * c**0.5) for n, c in zip(steady.tolist(), cells, strict=True)),
        survival=tuple(
            _surviving(
                float(s),
                float(sampling[i, i]),
                float(noise[i, i]),
                float(at_risk[i]),
                sigma * cells[i] ** 0.5,
            )
            for i, s in enumerate(falling)
        ),
    )


def _surviving(value: float, sampling: float, noise: float, at_risk: float, at_risk_sigma: float) -> Estimate:
    # So many people without censoring would know it as well; as few as are at risk when that says nothing.
    people = value * (1 - value) / sampling if sampling > 0 and 0 < value < 1 else at_risk
    if at_risk <= 2 * at_risk_sigma:
        # Nothing but noise is at risk: the curve may fall to 0 from here and nobody would know.
        return Estimate(value=value, standard_error=None, low=0.0, high=1.0, reliable=False)
    return proportion_estimate(value, patients=people, noise_variance=noise)
