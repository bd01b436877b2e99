"""From noisy tables to potentials: the convex dual of Private-PGM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gemel.synthetic.anchored_tree.inference import Floats, infer, minimise
from gemel.synthetic.anchored_tree.queries import Query
from gemel.synthetic.anchored_tree.scores import Scores
from gemel.synthetic.anchored_tree.shrinkage import weight_of
from gemel.synthetic.anchored_tree.structure import Reading, Structure
from gemel.synthetic.columns import Role

# How much entropy counts against the fit. At 1 it would be a prior of as many uniform patients as there are real ones;
# small enough, a table misses its noisy counts by less than a hundredth of the noise for each unit of log association.
_ENTROPY = 0.003
_MOST_STEPS = 400


@dataclass(frozen=True)
class Measured:
    """One noisy table as the fit takes it: how it is read off the marginals, its counts, their sigma, entropy's weight."""

    reading: Reading
    counts: NDArray[np.integer]
    sigma: float
    entropy: float = _ENTROPY


def measured_tables(
    structure: Structure, queries: Sequence[Query], tables: Mapping[str, NDArray[np.integer]], total: float
) -> list[Measured]:
    """The noisy tables of rounds 1 and 3.

    Those of members with targets, treatments and other outcomes count by how far their associations exceed their noise. Those
    with the clock, the hub and along the tree are in groups well above their noise already, and shrinking them would flatten
    hazards; those of anchors with each other hold what a treatment does.
    """
    levels = {q.columns[0]: np.asarray(tables[q.name]) for q in queries if q.name.startswith("levels/")}
    clock, *anchors = (anchor.column for anchor in structure.anchors)
    shrunk = {name for name in anchors if structure.domain.column(name).role is not Role.FEATURE}
    whole = {clock, *anchors}
    found = []
    for query in queries:
        table, entropy = np.asarray(tables[query.name]), _ENTROPY
        with_member = len(query.columns) == 2 and not whole.issuperset(query.columns)
        if with_member and clock not in query.columns and shrunk.intersection(query.columns):
            entropy = weight_of(query, table, levels, total)
        found.append(Measured(structure.reading(query), table, query.sigma, entropy))
    return found


def measured_scores(structure: Structure, scores: Scores) -> list[Measured]:
    """The sums of round 2 of those two columns that share a clique: how they go together in few numbers, and paid for already."""
    noise = scores.scoring.sigmas(scores.sigma)
    found = []
    for pair, sums, sigma in zip(scores.scoring.pairs, scores.sums, noise, strict=True):
        marks = [scores.scoring.marks[name].of_level.astype(np.float64) for name in pair]
        reading = structure.reading_of_marks(pair, marks)
        if reading is not None:
            found.append(Measured(reading, sums, sigma))
    return found


def fit_potentials(
    structure: Structure, measured: Sequence[Measured], total: float, *, most_steps: int = _MOST_STEPS
) -> tuple[dict[str, Floats], Floats, dict[str, Floats], int]:
    """Potentials of members with the state, of the state, and of members with parents: what `infer` takes; and steps.

    Minimises sum over cells of (noisy - expected)^2 / (2 sigma^2) less entropy (by its weight) of `total` patients, through
    its dual: one multiplier a cell, convex without constraints, noise weighted.
    """
    forest = structure.forest
    readings = [one.reading for one in measured]
    sigmas = [one.sigma / np.sqrt(total) for one in measured]
    wanted = [np.asarray(one.counts, np.float64) / total for one in measured]
    entropy = np.concatenate([np.full(one.counts.size, one.entropy) for one in measured])
    ends = np.cumsum([table.size for table in wanted])

    def split(point: Floats) -> list[Floats]:
        # One multiplier is one over the table's noise: then all are of a size, and the steps straight.
        parts = np.split(point, ends[:-1])
        return [p.reshape(w.shape) / s for p, w, s in zip(parts, wanted, sigmas, strict=True)]

    def dual(point: Floats) -> tuple[float, Floats]:
        potentials = split(point)
        beliefs = infer(forest, *gather(structure, readings, potentials))
        value = beliefs.log_total + 0.5 * float(entropy @ point**2)
        slopes = []
        for reading, table, potential, sigma in zip(readings, wanted, potentials, sigmas, strict=True):
            value -= float((table * potential).sum())
            slopes.append(((reading.read(beliefs) - table) / sigma).ravel())
        return value, np.concatenate(slopes) + entropy * point

    start = np.zeros(int(ends[-1]))
    point, steps = minimise(dual, start, most_steps=most_steps, tolerance=1e-4)
    state, with_state, with_parent = gather(structure, readings, split(point))
    return with_state, state, with_parent, steps


def gather(
    structure: Structure, readings: Sequence[Reading], potentials: Sequence[Floats]
) -> tuple[Floats, dict[str, Floats], dict[str, Floats]]:
    """The potentials of all queries, added up where they belong: of the state, with the state, with the parent."""
    forest = structure.forest
    state = np.zeros(forest.states)
    with_state = {m: np.zeros((forest.states, size)) for m, size in forest.members.items()}
    with_parent = {m: np.zeros((forest.members[p], forest.members[m])) for m, p in forest.parent.items()}
    for reading, potential in zip(readings, potentials, strict=True):
        spread = reading.spread(potential)
        if reading.member is None:
            state += spread
        elif reading.with_parent:
            with_parent[reading.member] += spread
        else:
            with_state[reading.member] += spread
    return state, with_state, with_parent
