"""Virtual cohorts over hospitals that are unlike each other, beside one table of all: distance, selection, bytes.

Usage: python benchmarks/synthetic_federated.py [--quick] [--json FILE] [--data DIR] [--seeds N] [--hospitals N]
       [--part all|selection|distances]
Patients of SUPPORT2 are dealt to hospitals by diagnosis and age with a Dirichlet distribution: 0.2 is a strong skew, 0.6 some, none none.
"Information kept" is asked of three more tables too, dealt by what their people differ in. Noise is seeded, for it is a
benchmark. Every figure is the median over seeds of dealing and noise: N of them (10 if not told), of what is kept three times as many.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _federation import bar, machine, row
from _selection_tables import TABLES, Table
from _support2 import domain, training_and_holdout
from _synthetic_scores import pair_distances
from numpy.typing import NDArray

from gemel.core.study import AggregationPlan, Masking, Study
from gemel.core.synthesis_plan import ROUNDS
from gemel.privacy.noise import NoiseSource
from gemel.privacy.secure_aggregation.plan import as_added
from gemel.synthetic.anchored_tree import fit_private, plan_for
from gemel.synthetic.domain import Domain
from gemel.synthetic.protocol import (
    Summed,
    cohort_model,
    declared_choice,
    declared_tables,
    outcome,
    release,
)
from gemel.synthetic.report.attacks.federation import study_of_synthesis

DELTA = 1e-5
SUPPORT2 = domain()
SKEWS: dict[str, float | None] = {"Dirichlet 0.2": 0.2, "Dirichlet 0.6": 0.6, "alike": None}
WAYS = {
    "shares of noise": AggregationPlan(masking=Masking.SECURE, distributed_noise=True),
    "shares, one may drop": AggregationPlan(masking=Masking.SECURE, distributed_noise=True, dropouts=1),
    "whole noise": AggregationPlan(),
}
SHARES = "shares of noise"
Codes = dict[str, Any]


def study_of(
    asked: Domain, hospitals: int, *, epsilon: float, aggregation: AggregationPlan, persons: int = 1
) -> Study:
    """A study of synthesis alone at (epsilon, 1e-5)."""
    return study_of_synthesis(
        asked,
        epsilon=epsilon,
        delta=DELTA,
        hospitals=hospitals,
        aggregation=aggregation,
        sites_of_a_person=persons,
    )


def deal(
    codes: Codes, kind: NDArray[np.intp], hospitals: int, skew: float | None, random: np.random.Generator
) -> list[Codes]:
    """The patients of each hospital, each kind of patient dealt in other shares."""
    place = random.integers(0, hospitals, len(kind))
    for value in np.unique(kind) if skew is not None else ():
        rows = np.flatnonzero(kind == value)
        place[rows] = random.choice(hospitals, len(rows), p=random.dirichlet([skew or 1.0] * hospitals))
    return [{name: levels[place == i] for name, levels in codes.items()} for i in range(hospitals)]


def federated(
    study: Study, asked: Domain, sites: list[Codes], *, seed: int, rounds: Sequence[str] = ROUNDS
) -> dict[str, Any]:
    """The rounds, each hospital's noise its own: what the last of them led to."""
    noise, whole = NoiseSource.for_tests(seed), as_added(study).privacy.synthesis_noise_multiplier
    sums: dict[str, Summed] = {}
    chosen: dict[str, Any] = {}
    for task in rounds:
        inputs = {name: chosen[name] for name in declared_choice(task, asked)}
        came = [release(task, asked, codes, whole=whole, choice=inputs, noise=noise) for codes in sites]
        total = {name: np.sum([one[name] for one in came], axis=0, dtype=np.int64) for name in came[0]}
        sums[task] = Summed(total, len(sites))
        chosen = dict(outcome(study, asked, sums))
    return chosen


def information(asked: Domain, codes: Codes) -> dict[tuple[str, str], float]:
    """The mutual information of each two scored columns, in nats."""
    found = {}
    for a, b in plan_for(asked, epsilon=1.0, delta=DELTA).score_pairs:
        table = np.zeros((asked.sizes[a], asked.sizes[b]))
        np.add.at(table, (codes[a], codes[b]), 1)
        shares = table / table.sum()
        expected = np.outer(shares.sum(axis=1), shares.sum(axis=0))
        held = shares > 0
        found[a, b] = float((shares[held] * np.log(shares[held] / expected[held])).sum())
    return found


def best_tree(weights: dict[tuple[str, str], float]) -> float:
    """The largest sum over a tree of these pairs."""
    part: dict[str, str] = {name: name for pair in weights for name in pair}
    total = 0.0
    for (a, b), weight in sorted(weights.items(), key=lambda item: -item[1]):
        if part[a] != part[b]:
            part = {name: part[a] if p == part[b] else p for name, p in part.items()}
            total += weight
    return total


def kept(asked: Domain, measured: dict[str, Any], truth: dict[tuple[str, str], float]) -> float:
    """Of the best tree's information, the part that the best tree of the counted pairs has."""
    scored = plan_for(asked, epsilon=1.0, delta=DELTA).scored
    parents = measured["parents"]
    roots = [scored[i] for i, p in enumerate(parents) if p < 0]
    pairs = {frozenset((scored[i], scored[p])) for i, p in enumerate(parents) if p >= 0}
    if len(roots) == 1:  # the hub is counted with everything
        pairs |= {frozenset((roots[0], name)) for name in scored if name != roots[0]}
    return best_tree({pair: w for pair, w in truth.items() if frozenset(pair) in pairs}) / best_tree(truth)


def measure(arguments: argparse.Namespace) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows and bars."""
    some, _, training, _ = training_and_holdout(arguments.data)
    everybody, fewer = _by_diagnosis_and_age(training), _by_diagnosis_and_age(some)
    epsilons, skews = ((1.0,), ("Dirichlet 0.2",)) if arguments.quick else ((1.0, 3.0), tuple(SKEWS))
    rows: list[dict[str, Any]] = []
    bars = []
    if arguments.part != "distances":
        for epsilon in epsilons:
            rows += _selection("SUPPORT2", everybody, skews, epsilon, arguments)
        rows += _selection("SUPPORT2 less hold-out", fewer, skews, 1.0, arguments, ways=(SHARES,))
        for name, read in TABLES.items() if not arguments.quick else ():
            rows += _selection(name, read(arguments.data), skews, 1.0, arguments, ways=(SHARES,))
        names = ("SUPPORT2", "SUPPORT2 less hold-out")
        dealt = [f"kept, {name}, {skew}, epsilon 1" for name, skew in itertools.product(names, skews)]
        worst = min(r["value"] for r in rows if r["case"] in dealt and r["side"] == SHARES)
        bars.append(bar("information kept at epsilon 1, worst skew", worst, 0.90, "min"))
    sent = sum(4 * spec.shape[0] for task in ROUNDS for spec in declared_tables(task, SUPPORT2).values())
    rows.append(row("sent in three rounds", "32-bit words", sent / 1000, "KB a hospital"))
    bars.append(bar("KB sent by a hospital", sent / 1000, 50, "max"))
    for epsilon in epsilons if arguments.part != "selection" else ():
        found, ratio = _distances(everybody, training, skews, epsilon, arguments)
        rows += found
        bars.append(
            bar(f"federated over central 2-way TV, epsilon {epsilon:g}, worst skew", ratio, 1.05, "max")
        )
    return rows, bars


def _by_diagnosis_and_age(raw: Any) -> Table:
    codes = SUPPORT2.encode_columns(raw)
    return Table(SUPPORT2, codes, codes["dzgroup"] * 3 + np.digitize(codes["age"], [6, 9]))


def _distances(
    everybody: Table, training: Any, skews: Sequence[str], epsilon: float, arguments: argparse.Namespace
) -> tuple[list[dict[str, Any]], float]:
    """The two-way distance of cohorts drawn over hospitals and over one table; how much further at worst, noise in shares."""
    seeds = range(arguments.seeds)
    central = _median(_distance_central(everybody.codes, training, epsilon, seed) for seed in seeds)
    rows = [row(f"2-way TV, epsilon {epsilon:g}", "central", central, "TV")]
    worst = 0.0
    for skew, way in itertools.product(skews, WAYS):
        if way != SHARES and skew != "Dirichlet 0.2":
            continue
        study = study_of(SUPPORT2, arguments.hospitals, epsilon=epsilon, aggregation=WAYS[way])
        found = _median(
            _distance_over_hospitals(study, training, everybody, SKEWS[skew], seed) for seed in seeds
        )
        rows.append(row(f"2-way TV, {skew}, epsilon {epsilon:g}", way, found, "TV"))
        worst = max(worst, found / central) if way == SHARES else worst
        print(rows[-1], flush=True)
    return rows, worst


def _selection(
    name: str,
    table: Table,
    skews: Sequence[str],
    epsilon: float,
    arguments: argparse.Namespace,
    *,
    ways: Sequence[str] = tuple(WAYS),
) -> list[dict[str, Any]]:
    """How much of the best tree the first two rounds keep, for each skew and way; and of one table of all."""
    truth, rows = information(table.domain, table.codes), []
    one_table = [("one table of all", None, 1, WAYS[SHARES], 1)]
    over = [(skew, SKEWS[skew], arguments.hospitals, WAYS[way], 1) for skew in skews for way in ways]
    twenty = [(f"{skew}, 20 hospitals", SKEWS[skew], 20, WAYS[SHARES], 1) for skew in skews[:1]]
    twice = [
        (f"{skew}, a person at two", SKEWS[skew], arguments.hospitals, WAYS[SHARES], 2) for skew in skews[:1]
    ]
    for case, skew, hospitals, aggregation, persons in (*one_table, *over, *twenty, *twice):
        study = study_of(table.domain, hospitals, epsilon=epsilon, aggregation=aggregation, persons=persons)
        shares = []
        for seed in range(3 * arguments.seeds):
            sites = deal(table.codes, table.kind, hospitals, skew, np.random.default_rng(seed))
            measured = federated(study, table.domain, sites, seed=seed, rounds=ROUNDS[:2])
            shares.append(kept(table.domain, measured, truth))
        way = next(way for way, plan in WAYS.items() if plan is aggregation)
        rows.append(
            row(f"kept, {name}, {case}, epsilon {epsilon:g}", way, statistics.median(shares), "share")
        )
        print(rows[-1], flush=True)
    return rows


def _distance_over_hospitals(
    study: Study, training: Any, everybody: Table, skew: float | None, seed: int
) -> float:
    sites = deal(everybody.codes, everybody.kind, len(study.sites), skew, np.random.default_rng(seed))
    model = cohort_model(study, SUPPORT2, federated(study, SUPPORT2, sites, seed=seed))
    return _distance(training, model.sample(round(model.total), seed=seed), seed)


def _distance_central(codes: Codes, training: Any, epsilon: float, seed: int) -> float:
    fitted = fit_private(SUPPORT2, codes, epsilon=epsilon, delta=DELTA, noise=NoiseSource.for_tests(seed))
    return _distance(training, fitted.model.sample(round(fitted.model.total), seed=seed), seed)


def _distance(training: Any, drawn: Codes, seed: int) -> float:
    return float(np.mean(pair_distances(training, SUPPORT2.decode_columns(drawn, seed=seed))))


def _median(values: Iterable[float]) -> float:
    return statistics.median(list(values))


def main() -> None:
    """Measure, print, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--part", choices=("all", "selection", "distances"), default="all")
    parser.add_argument("--hospitals", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seeds = min(arguments.seeds, 2)
    rows, bars = measure(arguments)
    for one in rows:
        print(f"{one['case']:62} {one['side']:22} {one['value']:.4f} {one['unit']}")
    for one in bars:
        print(
            f"{one['name']}: {one['value']} (bar: {one['direction']} {one['bar']}) {'ok' if one['ok'] else 'MISSED'}"
        )
    if arguments.json:
        report = {"name": "synthetic_federated", "machine": machine(), "rows": rows, "bars": bars}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
