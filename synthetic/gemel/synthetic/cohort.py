"""From released tables and a released twin to a virtual cohort. Post-processing only: no patient is touched."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gemel.core.dataset import OCCURRED
from gemel.core.errors import GemelError
from gemel.core.programme import DAYS_PER_YEAR, Feature, FeatureKind, Programme, Target, TargetKind
from gemel.synthetic.marginals import (
    anchor,
    check_tables,
    cliques,
    companions,
    edges_of,
    is_binary,
    levels,
    may_be_missing,
    table_name,
)
from gemel.synthetic.private_pgm import Graph, estimate
from gemel.synthetic.provenance import CohortProvenance, check_covers, read_provenance, release_id


class Course(Protocol):
    """What a twin simulates: times since the index date in years (n, k), what happened then (n, k), and targets (n,)."""

    @property
    def time_years(self) -> NDArray[np.floating]: ...  # noqa: D102

    @property
    def event(self) -> NDArray[np.integer]: ...  # noqa: D102

    @property
    def targets(self) -> Mapping[str, NDArray[np.floating]]: ...  # noqa: D102


class Simulator(Protocol):
    """The part of a twin that a virtual cohort needs."""

    def simulate(self, values: NDArray[np.float32], *, seed: int) -> Course:
        """Simulate the course of each baseline row (n, d), NaN where missing."""
        ...


@dataclass(frozen=True)
class Conditional:
    """P(feature | parents): `table` has one axis for each parent, then the feature's levels."""

    feature: str
    parents: tuple[str, ...]
    table: NDArray[np.float64]


@dataclass(frozen=True)
class BaselineModel:
    """The distribution of baseline rows, as conditionals in an order in which parents come first.

    `noisy_total` is the estimated number of patients, from the noisy tables; the exact number is unknown here.
    """

    programme: Programme
    conditionals: tuple[Conditional, ...]
    noisy_total: float
    noise_multiplier: float
    sites: int

    def draw_levels(self, patients: int, *, seed: int) -> dict[str, NDArray[np.intp]]:
        """Draw independent rows of levels, feature by feature given its parents."""
        generator = _stream(seed, 1)
        drawn: dict[str, NDArray[np.intp]] = {}
        for step in self.conditionals:
            rows = step.table[tuple(drawn[p] for p in step.parents)]
            chances = np.broadcast_to(np.cumsum(rows, axis=-1), (patients, step.table.shape[-1]))
            # The last sum may be 1 - 1e-16; the clip keeps such a draw inside the levels.
            position = (generator.random((patients, 1)) >= chances).sum(axis=1)
            drawn[step.feature] = np.minimum(position, step.table.shape[-1] - 1).astype(np.intp)
        return drawn


@dataclass(frozen=True)
class VirtualCohort:
    """Patients that never existed, with their simulated course.

    Attributes:
        values: float32 (n, d), each in its feature's unit, NaN where missing.
        time_years: float32 (n, k), whole days over 365.25. event: int8 (n, k), as in `core.dataset.Dataset`.
        targets: float32 (n, t) in the order of the programme's `target_names`; NaN where the patient had died before,
            and of what the twin does not simulate.
        source_patients_estimate: how many patients the hospitals counted, as far as the noisy tables tell.
    """

    programme: Programme
    values: NDArray[np.float32]
    time_years: NDArray[np.float32]
    event: NDArray[np.int8]
    targets: NDArray[np.float32]
    seed: int
    provenance: CohortProvenance
    source_patients_estimate: float

    def __len__(self) -> int:
        return len(self.values)

    @property
    def release(self) -> str:
        """The name of this cohort: equal for equal sources, seed and size."""
        return release_id(self.provenance, seed=self.seed, patients=len(self))


def fit(
    programme: Programme,
    marginals: Mapping[str, NDArray[np.generic]],
    *,
    noise_multiplier: float,
    sites: int,
) -> BaselineModel:
    """Fit the baseline model to noisy tables summed over sites (`marginals.sum_sites`).

    Args:
        programme: Declares features and public bins.
        marginals: Summed noisy tables by name, as `marginal_specs` declares them.
        noise_multiplier: Of the discrete Gaussian noise that each site added to each cell.
        sites: How many sites' tables were summed; the noise of a cell has `noise_multiplier * sqrt(sites)`.

    Raises GEM701 for tables of another domain, GEM702 when no noise was added.
    """
    if not (noise_multiplier > 0 and sites >= 1):
        raise GemelError(
            "GEM702", f"Noise multiplier {noise_multiplier}, {sites} sites: not a private release."
        )
    check_tables(programme, marginals)
    graph = graph_of(programme)
    tables = {c: np.asarray(marginals[table_name(c)], dtype=np.int64) for c in cliques(programme)}
    model, total = estimate(graph, tables)
    steps = [Conditional(graph.anchor, (), model.anchor)]
    for name in graph.order:
        parents = (graph.anchor, graph.parent[name]) if name in graph.parent else (graph.anchor,)
        steps.append(Conditional(name, parents, model.conditionals[name]))
    return BaselineModel(programme, tuple(steps), total, noise_multiplier, sites)


def sample(
    model: BaselineModel, twin: Simulator, *, patients: int, seed: int, provenance: Mapping[str, Any]
) -> VirtualCohort:
    """Draw baseline rows, let the twin simulate their courses, and return the virtual cohort.

    Raises GEM702 unless `provenance` (`provenance.CohortProvenance` as JSON) bounds the privacy loss of both
    sources and is about these very tables. Equal arguments give equal cohorts.
    """
    statement = read_provenance(provenance)
    programme = model.programme
    check_covers(
        statement,
        tables=len(cliques(programme)),
        noise_multiplier=model.noise_multiplier,
        sites=model.sites,
    )
    if (statement.programme, statement.programme_version) != (programme.name, programme.version):
        raise GemelError(
            "GEM702", f"The provenance is of {statement.programme}, the model of {programme.name}."
        )
    if patients < 1:
        raise ValueError(f"patients must be at least 1, got {patients}")
    drawn = model.draw_levels(patients, seed=seed)
    generator = _stream(seed, 2)
    values = np.stack([_decode(f, drawn[f.name], generator) for f in programme.columns], axis=1)
    course = twin.simulate(values, seed=seed)
    time_years, event = _whole_days(course, shape=(patients, len(programme.outcomes)))
    targets = _targets(programme, course, time_years, event)
    return VirtualCohort(programme, values, time_years, event, targets, seed, statement, model.noisy_total)


def _stream(seed: int, number: int) -> np.random.Generator:
    """One of several independent random streams of a seed.

    Spawn keys, because default_rng([seed, 0]) is the very stream of default_rng(seed), which the twin draws.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(number,)))


def graph_of(programme: Programme) -> Graph:
    """The programme's fixed graph, with each companion before its feature."""
    tree = companions(programme)
    waiting = [name for name in programme.feature_names if name != anchor(programme)]
    order: list[str] = []
    while waiting:
        ready = [name for name in waiting if name not in tree or tree[name] in order]
        order += ready
        waiting = [name for name in waiting if name not in ready]
    sizes = {feature.name: levels(feature) for feature in programme.columns}
    return Graph(anchor(programme), tuple(order), tree, sizes)


def _decode(feature: Feature, level: NDArray[np.intp], generator: np.random.Generator) -> NDArray[np.float32]:
    """Values (n,) for levels: 0 and 1 for a binary feature, else uniform within the public bin."""
    edges = np.asarray(edges_of(feature), dtype=np.float64)
    inside = np.minimum(level, len(edges) - 2)
    fraction = generator.random(len(level))
    if is_binary(feature):
        values = inside.astype(np.float64)
    elif is_whole(feature):
        # The whole numbers of the bin, of which the last bin has its upper edge too; where there is none, that edge.
        first, upper = np.ceil(edges[inside]), edges[inside + 1]
        last = np.where(inside == len(edges) - 2, np.floor(upper), np.ceil(upper) - 1)
        values = np.minimum(first + np.floor(fraction * np.maximum(last - first + 1, 1)), upper)
    else:
        step = _resolution(feature)
        raw = edges[inside] + fraction * (edges[inside + 1] - edges[inside])
        # Down to the resolution, not to the nearest: a rounded value must not leave its bin. The tiny
        # amount keeps a multiple that the division puts just below a whole number.
        values = np.maximum(np.floor(raw / step + 1e-9) * step, edges[inside])
    if may_be_missing(feature):
        values = np.where(level == len(edges) - 1, np.nan, values)
    return values.astype(np.float32)


def is_whole(feature: Feature) -> bool:
    """Whether values are whole numbers: counts, and points of a score (UCUM writes such units in braces)."""
    return feature.kind is FeatureKind.COUNT or feature.unit.startswith("{")


def _resolution(feature: Feature) -> float:
    """The finest step at which a value is told: days for an age, else two figures of the feature's scale."""
    if feature.kind is FeatureKind.AGE:
        return 1.0 / DAYS_PER_YEAR
    return float(10.0 ** (math.floor(math.log10(feature.scale)) - 1))


def _whole_days(course: Course, *, shape: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Times as whole days, at least one for what lies after the index date, so that every format agrees."""
    event = np.asarray(course.event)
    time_years = np.asarray(course.time_years, dtype=np.float64)
    if event.shape != shape or time_years.shape != shape or not np.isfinite(time_years).all():
        raise GemelError("GEM602", f"The twin simulated {time_years.shape}, expected finite times {shape}.")
    days = np.where(event < 0, 0.0, np.maximum(1.0, np.rint(time_years * DAYS_PER_YEAR)))
    return (days / DAYS_PER_YEAR).astype(np.float32), event.astype(np.int8)


def _targets(
    programme: Programme, course: Course, time_years: NDArray[np.float32], event: NDArray[np.int8]
) -> NDArray[np.float32]:
    """The targets (n, t) that go with a course in whole days: nobody is measured after death."""
    found = np.full((len(event), len(programme.target_names)), np.nan, np.float32)
    end_days = np.rint(time_years[:, 0] * DAYS_PER_YEAR)
    for j, name in enumerate(programme.target_names):
        target = next(target for target in programme.targets if target.name == name)
        found[:, j] = _target(target, course, end_days, event[:, 0])
    return found


def _target(
    target: Target, course: Course, end_days: NDArray[np.floating], death: NDArray[np.int8]
) -> NDArray[np.float32]:
    died: NDArray[np.bool_] = (death == OCCURRED) & (end_days <= (target.at_days or 0))
    if target.kind is TargetKind.DEATH:
        return np.where(died, np.float32(1), np.float32(0))
    found = np.array(course.targets.get(target.name, np.full(len(death), np.nan)), np.float32)
    if target.kind is not TargetKind.BINARY:
        found[died] = np.nan
    return found
