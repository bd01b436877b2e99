"""What a study may ask about patients in numbers: each request one integer table, with public bounds, bins and price.

A request says before anything is computed what its table looks like, what one patient can change in it, and what it
costs. Nothing in it is fitted on patients. How tables are counted, noised and read: `gemel.privacy.statistics`.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Collection, Sequence
from typing import Any

import msgspec

from gemel.core.errors import GemelError
from gemel.core.mechanism import Mechanism, MechanismKind

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)
LEAST_NOISE, MOST_NOISE = 0.1, 5_000.0
MOST_EDGES, MOST_CELLS, MOST_REQUESTS = 201, 4_096, 200
# Moments are shared out over the cells of one patient in parts of 1/grid: fine, and yet the noise stays below 1023
# parts, whose table is drawn from quickly.
_MOST_GRID, _MOST_GRID_NOISE = 4_096, 1_023.0
MOMENT_CELLS = 5
STATUSES_OF_SURVIVAL, STATUSES_OF_PREDICTION = 2, 3


class Binned(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A variable in public bins [edge, next edge), the last one closed.

    A value outside of the edges counts in the nearest bin; a missing or non-finite one in a cell of its own behind
    the bins, so that every patient is in exactly one cell.
    """

    variable: str
    edges: tuple[float, ...]

    @property
    def bins(self) -> int:
        """How many bins there are, the missing not counted."""
        return len(self.edges) - 1

    @property
    def cells(self) -> int:
        """The bins and the cell of the missing."""
        return len(self.edges)

    def problems(self) -> list[str]:
        """What is wrong with it; empty when nothing."""
        found = [] if self.variable else ["a variable has no name"]
        return found + _edge_problems(self.edges, f"edges of {self.variable}")


class _Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind"):
    """What all requests have. `noise_multiplier`: the noise's parameter σ over what one patient changes."""

    name: str
    noise_multiplier: float

    @property
    def grid(self) -> int:
        """The table's units for one patient: 1 where cells count people."""
        return 1

    @property
    def noise_sigma(self) -> float:
        """The parameter of the discrete Gaussian in each cell, in the table's units."""
        return self.noise_multiplier

    @property
    def outcomes(self) -> tuple[str, ...]:
        """Names of the timed outcomes that it needs."""
        return ()

    def mechanisms(self) -> tuple[Mechanism, ...]:
        """What the release costs a patient: one patient changes one cell by one, whatever the number of cells."""
        return (Mechanism(kind=MechanismKind.DISCRETE_GAUSSIAN, noise_multiplier=self.noise_multiplier),)


class CountRequest(_Request, frozen=True, kw_only=True, tag="count"):
    """How many patients there are."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(1,)."""
        return (1,)

    @property
    def variables(self) -> tuple[str, ...]:
        """None."""
        return ()

    def problems(self) -> list[str]:
        """None that is not common to all."""
        return []


class HistogramRequest(_Request, frozen=True, kw_only=True, tag="histogram"):
    """How many patients in each bin, how many without a value; quantiles of the values within the edges, for nothing."""

    of: Binned
    probabilities: tuple[float, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """(bins + missing,)."""
        return (self.of.cells,)

    @property
    def variables(self) -> tuple[str, ...]:
        """The binned one."""
        return (self.of.variable,)

    def problems(self) -> list[str]:
        """What is wrong with bins or probabilities."""
        p = self.probabilities
        good = len(p) <= MOST_EDGES and all(0 < x < 1 for x in p) and list(p) == sorted(set(p))
        return self.of.problems() + ([] if good else ["probabilities must increase within (0, 1)"])


class MomentsRequest(_Request, frozen=True, kw_only=True, tag="moments"):
    """Mean and variance of a variable clamped to public bounds.

    With t in [0, 1] the place between the bounds, each patient is shared out over five cells in the parts
    C(4, j) t^j (1-t)^(4-j), which are not negative and sum to one: a vector of 2-norm at most 1, from which the first
    four moments can be read. The table counts in whole parts of 1/`grid`, and its sixth cell holds the missing.
    """

    variable: str
    low: float
    high: float

    @property
    def shape(self) -> tuple[int, ...]:
        """(five parts + missing,)."""
        return (MOMENT_CELLS + 1,)

    @property
    def variables(self) -> tuple[str, ...]:
        """The one."""
        return (self.variable,)

    @property
    def grid(self) -> int:
        """A power of two, as large as the noise's table allows."""
        fits = _MOST_GRID_NOISE / self.noise_multiplier
        return 1 if fits < 2 else min(_MOST_GRID, 2 ** math.floor(math.log2(fits)))

    @property
    def noise_sigma(self) -> float:
        """Wider by a variance of 1/4 than multiplier x grid: see `mechanisms`."""
        return math.sqrt((self.noise_multiplier * self.grid) ** 2 + 0.25)

    def mechanisms(self) -> tuple[Mechanism, ...]:
        """A Gaussian, not the coarse discrete one: many cells move, by many units.

        The Gaussian rounded to whole units costs what the Gaussian costs (rounding is post-processing), and has 1/12
        more variance; the discrete Gaussian that is drawn (σ > 400 units) has 1/4 more, and costs less at every ε
        (tested against the exact hockey-stick divergence).
        """
        return (Mechanism(kind=MechanismKind.GAUSSIAN, noise_multiplier=self.noise_multiplier),)

    def problems(self) -> list[str]:
        """What is wrong with the bounds."""
        found = _edge_problems((self.low, self.high), f"bounds of {self.variable}")
        return found + ([] if self.variable else ["a variable has no name"])


class ContingencyRequest(_Request, frozen=True, kw_only=True, tag="contingency"):
    """Two binned variables against each other; with three, the first two within each bin of the third."""

    of: tuple[Binned, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """(bins + missing) of each variable."""
        return tuple(binned.cells for binned in self.of)

    @property
    def variables(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(binned.variable for binned in self.of)

    def problems(self) -> list[str]:
        """What is wrong with variables or bins."""
        found = (
            []
            if len(self.of) in (2, 3)
            else [f"a contingency table has 2 or 3 variables, not {len(self.of)}"]
        )
        found += [problem for binned in self.of for problem in binned.problems()]
        if any(binned.bins < 2 for binned in self.of[:2]):
            found.append("the first two variables need two bins or more")
        return found + ([] if len(set(self.variables)) == len(self.of) else ["a variable is there twice"])


class SurvivalRequest(_Request, frozen=True, kw_only=True, tag="survival"):
    """The Kaplan-Meier curve of an outcome at public times, for all patients at risk or by the bins of a variable.

    `edges_years` start at 0; death, where it is not the outcome, ends follow-up as leaving does.
    """

    outcome: str
    edges_years: tuple[float, ...]
    by: Binned | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(groups + missing, or 1; event and left for each interval, and beyond)."""
        groups = 1 if self.by is None else self.by.cells
        return (groups, STATUSES_OF_SURVIVAL * (len(self.edges_years) - 1) + 1)

    @property
    def variables(self) -> tuple[str, ...]:
        """What it is by."""
        return () if self.by is None else (self.by.variable,)

    @property
    def outcomes(self) -> tuple[str, ...]:
        """The one."""
        return (self.outcome,)

    def problems(self) -> list[str]:
        """What is wrong with times or bins."""
        return _time_problems(self.edges_years) + ([] if self.by is None else self.by.problems())


class PredictionRequest(_Request, frozen=True, kw_only=True, tag="prediction"):
    """How well a score predicts an outcome: AUC, Brier score, calibration and C-index, all from one table.

    Attributes:
        score: The score in public bins; for Brier score and calibration a risk, with edges from 0 to 1.
        outcome: An outcome by name; or, without `edges_years`, a variable whose values above one half are cases.
        edges_years: From 0 to the horizon; the times between serve to weigh who left, and the C-index.
        predicted: The public predicted risk of each bin; its middle when not given.
    """

    score: Binned
    outcome: str
    edges_years: tuple[float, ...] = ()
    predicted: tuple[float, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """(bins + missing; event, died first and left for each interval, and beyond; or case, control)."""
        intervals = len(self.edges_years) - 1
        statuses = STATUSES_OF_PREDICTION * intervals + 1 if self.edges_years else 2
        return (self.score.cells, statuses)

    @property
    def variables(self) -> tuple[str, ...]:
        """The score, and the outcome where it is a variable."""
        return (self.score.variable,) if self.edges_years else (self.score.variable, self.outcome)

    @property
    def outcomes(self) -> tuple[str, ...]:
        """The one, where it has a time."""
        return (self.outcome,) if self.edges_years else ()

    @property
    def is_risk(self) -> bool:
        """Whether the score is a probability."""
        return self.score.edges[0] == 0 and self.score.edges[-1] == 1

    def problems(self) -> list[str]:
        """What is wrong with bins, times or predicted risks."""
        found = self.score.problems() + (_time_problems(self.edges_years) if self.edges_years else [])
        if self.score.bins < 2:
            found.append("a score needs two bins or more")
        if self.predicted and not (
            len(self.predicted) == self.score.bins and all(0 <= p <= 1 for p in self.predicted)
        ):
            found.append("predicted must be one probability for each bin")
        return found


StatisticRequest = (
    CountRequest
    | HistogramRequest
    | MomentsRequest
    | ContingencyRequest
    | SurvivalRequest
    | PredictionRequest
)


def parse_statistics(payload: object) -> tuple[StatisticRequest, ...]:
    """Read requests from JSON values, checked to the last field. Raises GEM311 naming field and fault."""
    try:
        requests = msgspec.convert(payload, tuple[StatisticRequest, ...])
    except msgspec.ValidationError as error:
        raise GemelError("GEM311", f"A statistic is malformed: {error}.") from error
    check_statistics(requests)
    return requests


def statistics_payload(requests: Sequence[StatisticRequest]) -> list[dict[str, Any]]:
    """The JSON form that `parse_statistics` reads."""
    payload: list[dict[str, Any]] = msgspec.to_builtins(list(requests))
    return payload


def check_statistics(requests: Sequence[StatisticRequest]) -> None:
    """Refuse (GEM311) requests that are out of bounds; two must not have one name, which names their table."""
    if len(requests) > MOST_REQUESTS:
        raise GemelError("GEM311", f"At most {MOST_REQUESTS} statistics, got {len(requests)}.")
    for request in requests:
        found = request.problems()
        if not _NAME.fullmatch(request.name):
            found.append("a name is a lower-case letter, then letters, digits and _, at most 64")
        if not LEAST_NOISE <= request.noise_multiplier <= MOST_NOISE:
            found.append(f"noise_multiplier must be {LEAST_NOISE} to {MOST_NOISE}")
        if not found and math.prod(request.shape) > MOST_CELLS:
            found.append(f"the table has {math.prod(request.shape)} cells, at most {MOST_CELLS} are possible")
        if found:
            raise GemelError("GEM311", f"Statistic {request.name[:64]!r}: {'; '.join(found)}.")
    names = [request.name for request in requests]
    if len(set(names)) != len(names):
        raise GemelError("GEM311", "Two statistics have the same name.")


def check_statistic_names(
    requests: Sequence[StatisticRequest], *, variables: Collection[str], outcomes: Collection[str]
) -> None:
    """Refuse (GEM311) requests for a variable or an outcome that is not there."""
    for request in requests:
        unknown = sorted(set(request.variables) - set(variables))
        unknown += sorted(set(request.outcomes) - set(outcomes))
        if unknown:
            raise GemelError("GEM311", f"Statistic {request.name!r}: there is no {', '.join(unknown)}.")


def _edge_problems(edges: tuple[float, ...], what: str) -> list[str]:
    if not 2 <= len(edges) <= MOST_EDGES:
        return [f"{what}: 2 to {MOST_EDGES} numbers, got {len(edges)}"]
    # Half a step must be a number too: the largest floats are no clinical bounds.
    finite = all(math.isfinite(edge) and abs(edge) <= 1e12 for edge in edges)
    increasing = all(a < b for a, b in itertools.pairwise(edges))
    return [] if finite and increasing else [f"{what} must be finite and strictly increasing"]


def _time_problems(edges: tuple[float, ...]) -> list[str]:
    found = _edge_problems(edges, "edges_years")
    return found if found or edges[0] == 0 else ["edges_years must start at 0"]
