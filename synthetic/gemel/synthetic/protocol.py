"""Virtual cohorts over hospitals: what the three rounds take and release, and what follows from them.

Round 1: how many patients have each level. Round 2: how strongly columns go together. Round 3: the tables of the tree and
of the anchors. After round 2 the coordinator works out the tree from sums of releases: that costs no privacy, and anybody
can do it again. A node is told the summed levels, by which it works out what round 2 counts, and with the tree what
round 3 does.

Every array is flat, of 32-bit integers, and as long as public bounds say, whatever was chosen: masks are agreed on before.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemel.core.arrays import Arrays, ArraySpec
from gemel.core.errors import GemelError
from gemel.core.study import Study
from gemel.core.synthesis_plan import ROUNDS, Measurement, SynthesisPlan
from gemel.privacy.noise import NoiseSource
from gemel.privacy.secure_aggregation.plan import as_added
from gemel.privacy.statistics import noisy_counts
from gemel.synthetic.anchored_tree import (
    MeasurePlan,
    Query,
    TreeModel,
    fit,
    measure_plan,
    pair_queries,
    scoring,
    sums_shape,
    tree_of,
)
from gemel.synthetic.anchored_tree.plan import most_pair_cells
from gemel.synthetic.anchored_tree.scores import Scores
from gemel.synthetic.domain import Codes, Domain

_FIRST, _SECOND, _THIRD = ROUNDS
_NO_PARENT = -1
_THOUSAND = 1000
_MOST = np.iinfo(np.int32).max
_MOST_PEOPLE = 1e12

Tables = dict[str, NDArray[np.int64]]


@dataclasses.dataclass(frozen=True)
class Summed:
    """What one round brought: its arrays, added up over so many hospitals."""

    arrays: Arrays
    hospitals: int


def synthesis_plan(domain: Domain, *, sites_of_a_person: int = 2) -> SynthesisPlan:
    """What a study measures for virtual cohorts of a domain, and how its rounds share the noise.

    Raises GEM720 for a domain whose columns leave nothing to choose.
    """
    if not (mechanisms := _measured(domain, whole=1.0).mechanisms((1, 2, 3)))[2:]:
        raise GemelError("GEM720", "Synthesis over hospitals needs two columns beside the anchors.")
    levels, scores, tables = (
        Measurement(tables=one.count, share=one.count / one.noise_multiplier**2) for one in mechanisms
    )
    return SynthesisPlan(levels=levels, scores=scores, tables=tables, sites_of_a_person=sites_of_a_person)


def check_plan(domain: Domain, plan: SynthesisPlan) -> None:
    """Refuse (GEM720) a study that is charged for other counts than its programme's rounds make."""
    expected = synthesis_plan(domain, sites_of_a_person=plan.sites_of_a_person)
    for task in ROUNDS:
        charged, released = plan.mechanism(task, 1.0), expected.mechanism(task, 1.0)
        if charged.count != released.count or not math.isclose(
            charged.noise_multiplier, released.noise_multiplier
        ):
            raise GemelError("GEM720", f"{task}: charged {charged}, its programme releases {released}.")


def declared_tables(task: str, domain: Domain) -> dict[str, ArraySpec]:
    """The array that a round releases."""
    name = {_FIRST: "levels", _SECOND: "scores", _THIRD: "tables"}[task]
    return {name: ArraySpec((_cells(task, domain),), "int32")}


@lru_cache(maxsize=64)  # a node asks a few times for each release
def _cells(task: str, domain: Domain) -> int:
    if task == _FIRST:
        return sum(domain.sizes.values())
    plan = _measured(domain, whole=1.0)
    if task == _SECOND:
        return sum(math.prod(shape) for shape in _score_shapes(domain))
    return most_pair_cells(plan)


@lru_cache(maxsize=16)
def _score_shapes(domain: Domain) -> tuple[tuple[int, int], ...]:
    return tuple(sums_shape(domain, pair) for pair in _measured(domain, whole=1.0).score_pairs)


def declared_choice(task: str, domain: Domain) -> dict[str, ArraySpec]:
    """What a round takes: after the first the summed levels; the third also the parent of each scored column by its number,
    -1 for none, and the multiplier of all of synthesis that the levels have, in thousandths.
    """
    if task == _FIRST:
        return {}
    levels = {"levels": ArraySpec((sum(domain.sizes.values()),), "int64")}
    if task == _SECOND:
        return levels
    scored = len(_measured(domain, whole=1.0).scored)
    return {**levels, "parents": ArraySpec((scored,), "int64"), "multiplier": ArraySpec((1,), "int64")}


def check_choice(task: str, domain: Domain, choice: Arrays) -> None:
    """Refuse (GEM720) what no round leads to: more people or noise than there are, a parent that is no scored column, a cycle."""
    if task != _FIRST and (np.abs(choice["levels"].astype(np.float64)) > _MOST_PEOPLE).any():
        raise GemelError("GEM720", "Levels of more people than there are.")
    if task == _THIRD:
        if not 0 <= int(choice["multiplier"][0]) <= _MOST_PEOPLE:
            raise GemelError("GEM720", "Noise that no levels have.")
        _tree(_measured(domain, whole=1.0), choice)


def release(
    task: str, domain: Domain, codes: Codes, *, whole: float, choice: Arrays, noise: NoiseSource
) -> dict[str, NDArray[np.generic]]:
    """One hospital's noisy counts of a round, as `declared_tables` says.

    Args:
        task: One of `ROUNDS`.
        domain: The public columns.
        codes: Its patients' levels.
        whole: The multiplier of all of synthesis that this hospital adds (`secure_aggregation.plan.as_added`).
        choice: As `declared_choice` says; GEM720 when it cannot be.
        noise: Where noise comes from.
    """
    counted = count_round(task, domain, codes, whole=whole, choice=choice)
    noisy = [noisy_counts(table, noise_multiplier=sigma, noise=noise) for table, sigma in counted]
    flat = np.concatenate([table.ravel() for table in noisy])
    ((name, spec),) = declared_tables(task, domain).items()
    room = np.zeros(spec.shape, np.int32)  # tables that were not chosen stay empty
    room[: len(flat)] = np.clip(flat, -_MOST, _MOST)
    return {name: room}


def count_round(
    task: str, domain: Domain, codes: Codes, *, whole: float, choice: Arrays
) -> list[tuple[NDArray[np.int64], float]]:
    """The exact tables of a round with the σ of the noise that each gets: private until that is added.

    One patient more or fewer changes a table of round 1 or 3 by one in one cell; of round 2 each score, in units of its σ over
    the round's, by a 2-norm of at most one.
    """
    plan = _measured(domain, whole=whole)
    if task == _SECOND:
        scored = scoring(plan, _by_name(plan, choice["levels"]))
        return list(zip(scored.count(codes), scored.sigmas(plan.score_sigma), strict=True))
    queries = plan.one_ways if task == _FIRST else _queries(plan, choice)
    return [(query.count(domain, codes), query.sigma) for query in queries]


def outcome(study: Study, domain: Domain, sums: Mapping[str, Summed]) -> Tables:
    """What the last of some rounds led to: of the second what the third counts, of the third all that cohorts need."""
    levels = np.asarray(sums[_FIRST].arrays["levels"], np.int64)
    if _SECOND not in sums:
        return {"levels": levels}
    if _THIRD not in sums:
        plan = _measured(domain, whole=_whole(study, sums[_SECOND].hospitals))
        tree = tree_of(plan, _by_name(plan, levels), _scores(plan, sums[_SECOND].arrays["scores"]))
        position = {name: number for number, name in enumerate(plan.scored)}
        parents = [position[tree[name]] if name in tree else _NO_PARENT for name in plan.scored]
        multiplier = round(_THOUSAND * _whole(study, sums[_FIRST].hospitals))
        return {
            "levels": levels,
            "parents": np.array(parents, np.int64),
            "multiplier": np.array([multiplier], np.int64),
        }
    chosen = outcome(study, domain, {task: sums[task] for task in (_FIRST, _SECOND)})
    return {
        **chosen,
        "scores": np.asarray(sums[_SECOND].arrays["scores"], np.int64),
        "tables": np.asarray(sums[_THIRD].arrays["tables"], np.int64),
        "hospitals": np.array([sums[task].hospitals for task in ROUNDS], np.int64),
    }


def cohort_model(
    study: Study, domain: Domain, measured: Arrays, *, potentials: Mapping[str, NDArray[Any]] | None = None
) -> TreeModel:
    """The model that cohorts are drawn from, fitted to what the third round led to (`outcome`).

    With the `potentials` of an earlier fit to it nothing is fitted anew; GEM763 when they are another's.
    """
    third = _measured(domain, whole=_whole(study, int(measured["hospitals"][-1])))
    queries, tables = released_tables(study, domain, measured)
    scores = released_scores(study, domain, measured)
    return fit(third, _tree(third, measured), queries, tables, scores=scores, potentials=potentials)


def released_tables(study: Study, domain: Domain, measured: Arrays) -> tuple[tuple[Query, ...], Tables]:
    """What the third round led to as tables by name, summed over hospitals, and the query that each answers."""
    first, _, third = (_measured(domain, whole=_whole(study, int(n))) for n in measured["hospitals"])
    queries = _queries(third, measured)
    tables = {**_by_name(first, measured["levels"]), **_split(domain, queries, measured["tables"])}
    return (*first.one_ways, *queries), tables


def released_scores(study: Study, domain: Domain, measured: Arrays) -> Scores:
    """The second round as the third led to it."""
    plan = _measured(domain, whole=_whole(study, int(measured["hospitals"][1])))
    scored = scoring(plan, _by_name(plan, measured["levels"]))
    return Scores(scored, _scores(plan, measured["scores"]), plan.score_sigma)


def _measured(domain: Domain, *, whole: float) -> MeasurePlan:
    """The plan when all of synthesis is one Gaussian of multiplier `whole`: of precision 1 / whole², so zCDP half that."""
    return measure_plan(domain, rho=0.5 / whole**2)


def _whole(study: Study, hospitals: int) -> float:
    """The multiplier of all of synthesis that a sum over so many hospitals has."""
    return as_added(study).privacy.synthesis_noise_multiplier * math.sqrt(hospitals)


def _queries(plan: MeasurePlan, choice: Arrays) -> tuple[Query, ...]:
    """The tables of round 3. Their noise is a matter of the plan; which they are, of the choice."""
    multiplier = int(choice["multiplier"][0]) / _THOUSAND
    return pair_queries(plan, _by_name(plan, choice["levels"]), _tree(plan, choice), multiplier=multiplier)


def _tree(plan: MeasurePlan, choice: Arrays) -> dict[str, str]:
    """The parent of each scored column that has one. Raises GEM720 for what is no forest of them."""
    numbers = [int(number) for number in choice["parents"]]
    if not all(_NO_PARENT <= number < len(plan.scored) for number in numbers):
        raise GemelError("GEM720", "A parent in the tree is no column of the programme.")
    for start in range(len(numbers)):
        above = start
        for _ in numbers:
            above = numbers[above] if above != _NO_PARENT else above
        if above != _NO_PARENT:
            raise GemelError("GEM720", f"The tree has a cycle above {plan.scored[start]}.")
    return {
        name: plan.scored[number]
        for name, number in zip(plan.scored, numbers, strict=True)
        if number != _NO_PARENT
    }


def _by_name(plan: MeasurePlan, levels: NDArray[np.generic]) -> Tables:
    """The tables of round 1 by the names of their queries."""
    return _split(plan.domain, plan.one_ways, levels)


def _scores(plan: MeasurePlan, flat: NDArray[np.generic]) -> list[NDArray[np.int64]]:
    """The sums of each two scored columns."""
    return _cut(flat, _score_shapes(plan.domain))


def _split(domain: Domain, queries: Iterable[Query], flat: NDArray[np.generic]) -> Tables:
    """Tables by name, from the flat array in which they lie one after the other."""
    queries = tuple(queries)
    tables = _cut(flat, [query.shape(domain) for query in queries])
    return {query.name: table for query, table in zip(queries, tables, strict=True)}


def _cut(flat: NDArray[np.generic], shapes: Sequence[tuple[int, ...]]) -> list[NDArray[np.int64]]:
    """Tables of these shapes that lie one after the other."""
    ends = list(itertools.accumulate(math.prod(shape) for shape in shapes))
    starts = [0, *ends[:-1]]
    return [
        np.asarray(flat[start:end], np.int64).reshape(shape)
        for start, end, shape in zip(starts, ends, shapes, strict=True)
    ]
