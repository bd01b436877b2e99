"""What a report says of virtual trajectories beside real ones: transitions, memory, persons' means, and the order of events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemel.core.dataset import OCCURRED
from gemel.core.programme import DAYS_PER_YEAR
from gemel.synthetic.report.findings import Finding
from gemel.synthetic.report.measures import Limit, measured
from gemel.synthetic.trajectory.histories import Histories
from gemel.synthetic.trajectory.model import Trajectories

BLOCK = "trajectories"
# Transitions may lie so much farther from held-out patients than other patients do; correlations so far apart.
MOST_OVER_FLOOR, MOST_LAG_ERROR = 1.3, 0.10
LAGS = (1, 2, 3)
_MEAN_BINS = 10
# A quantile of fewer is one person's fate.
_FEWEST = 20


@dataclass(frozen=True)
class Shape:
    """What histories look like.

    Attributes:
        transitions: (tokens, tokens), shares of all pairs of a visit and the next.
        lags: Correlation of the first field's places at visits 1, 2, 3 apart; NaN where a panel is too short.
        means: Shares of patients with all visits by the mean of the first field's places.
    """

    transitions: NDArray[np.float64]
    lags: NDArray[np.float64]
    means: NDArray[np.float64]


def shape_of(histories: Histories) -> Shape:
    """Over all pairs of visits that were made."""
    panel, tokens, here = histories.panel, histories.tokens(), histories.here
    many = int(np.prod(panel.sizes))
    table = np.zeros((many, many))
    both = here[:, 1:]
    np.add.at(table, (tokens[:, :-1][both], tokens[:, 1:][both]), 1)
    places = panel.fields[0].places[histories.levels[:, :, 0]]
    known = here & np.isfinite(np.asarray(panel.fields[0].values)[histories.levels[:, :, 0]])
    lags = [_correlation(places, known, apart) for apart in LAGS]
    whole = known.all(axis=1)
    means = np.histogram(places[whole].mean(axis=1), bins=np.linspace(-1, 1, _MEAN_BINS + 1))[0]
    return Shape(table / max(table.sum(), 1), np.array(lags), means / max(means.sum(), 1))


def _correlation(places: NDArray[np.float64], known: NDArray[np.bool_], apart: int) -> float:
    if places.shape[1] <= apart:
        return np.nan
    both = known[:, :-apart] & known[:, apart:]
    early, late = places[:, :-apart][both], places[:, apart:][both]
    if len(early) < 2 or early.std() == 0 or late.std() == 0:
        return np.nan
    return float(np.corrcoef(early, late)[0, 1])


def variation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Total variation of two tables of shares."""
    return float(0.5 * np.abs(a - b).sum())


def trajectory_rows(
    draws: Sequence[Histories], *, training: Histories, holdout: Histories, internal: bool = True
) -> Iterator[Finding]:
    """Rows of draws of one model beside patients.

    Args:
        draws: Five or more, each of about as many as trained.
        training: Whom the model was trained on; what they themselves differ from the held-out ones by is the floor.
        holdout: Who was kept out.
        internal: Whether the numbers are about patients whom nobody may see: False of open data only.
    """
    real, floor = shape_of(holdout), variation(shape_of(training).transitions, shape_of(holdout).transitions)
    shapes = [shape_of(draw) for draw in draws]
    yield measured(
        BLOCK,
        "total variation of transitions, over that of the training patients",
        [variation(shape.transitions, real.transitions) / max(floor, 1e-9) for shape in shapes],
        Limit(most=MOST_OVER_FLOOR),
        internal=internal,
        baseline=floor,
        detail="From held-out patients; the baseline is what training patients differ from them by.",
    )
    name = training.panel.fields[0].name
    for number, apart in enumerate(LAGS):
        if np.isfinite(real.lags[number]):
            yield measured(
                BLOCK,
                f"error of the correlation of {name}, {apart} visit{'s' if apart > 1 else ''} apart",
                [float(abs(shape.lags[number] - real.lags[number])) for shape in shapes],
                Limit(most=MOST_LAG_ERROR),
                internal=internal,
                baseline=float(abs(shape_of(training).lags[number] - real.lags[number])),
            )
    yield measured(
        BLOCK,
        f"total variation of persons' means of {name}",
        [variation(shape.means, real.means) for shape in shapes],
        internal=internal,
        baseline=variation(shape_of(training).means, real.means),
    )


def order_row(drawn: Sequence[Trajectories]) -> Finding:
    """What cannot be, counted in trajectories: it looks at no patient, so anybody may see it."""
    return measured(
        BLOCK,
        "visits after death, before the index date, out of order, or twice on a day",
        [float(violations(one)) for one in drawn],
        Limit(most=0.0),
        internal=False,
    )


def violations(drawn: Trajectories) -> int:
    """How many visits cannot be."""
    rows, days = drawn.rows, drawn.days
    last = np.full(drawn.patients, np.inf)
    if drawn.outcomes:
        died = drawn.event[:, 0] == OCCURRED
        last[died] = np.rint(drawn.time_years[died, 0].astype(np.float64) * DAYS_PER_YEAR)
    same = np.diff(rows) == 0
    wrong_order = (np.diff(rows) < 0) | (same & (np.diff(days) <= 0))
    return int(np.sum(days < 0) + np.sum(days > last[rows]) + np.sum(wrong_order))


def fan(draws: Sequence[Histories], real: Histories | None, *, field: int = 0) -> dict[str, Any]:
    """A figure of one field over time, as JSON values: tenths, quarters and the middle of who is still there at each visit.

    "fan": days; virtual, and real where there are patients, each a list of [p10, p25, p50, p75, p90] for each visit, null where
    fewer than twenty are there.
    """
    panel = draws[0].panel
    days = [visit * panel.days_between for visit in range(panel.visits)]
    together = np.concatenate([draw.levels for draw in draws])
    return {
        "kind": "fan",
        "name": panel.fields[field].name,
        "days": days,
        "virtual": _quantiles(panel.fields[field].values, together[:, :, field]),
        "real": None if real is None else _quantiles(panel.fields[field].values, real.levels[:, :, field]),
    }


def _quantiles(values: Sequence[float], levels: NDArray[np.int64]) -> list[list[float] | None]:
    told: list[list[float] | None] = []
    for visit in range(levels.shape[1]):
        here = np.asarray(values)[levels[levels[:, visit] >= 0, visit]]
        here = here[np.isfinite(here)]
        enough = len(here) >= _FEWEST
        told.append(np.quantile(here, (0.1, 0.25, 0.5, 0.75, 0.9)).tolist() if enough else None)
    return told
