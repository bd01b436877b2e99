"""Virtual cohorts of SUPPORT2 over hospitals that are unlike each other, beside one table of all: distance, selection, bytes.

Usage: python benchmarks/synthetic_federated.py [--quick] [--json FILE] [--data DIR] [--seeds N] [--hospitals N]
Patients are dealt to hospitals by diagnosis and age with a Dirichlet distribution: 0.2 is a strong skew, 0.6 some, none none. Noise is
seeded, for it is a benchmark. Every figure is the median over seeds of dealing and noise.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from _federation import bar, machine, row
from _support2 import domain, training_and_holdout
from _synthetic_scores import pair_distances

from gemel.core.study import SCHEMA, AggregationPlan, Masking, PrivacyPlan, Study, TrainingPlan
from gemel.core.synthesis_plan import ROUNDS
from gemel.privacy.noise import NoiseSource
from gemel.privacy.secure_aggregation.plan import as_added
from gemel.synthetic.anchored_tree import fit_private, plan_for
from gemel.synthetic.protocol import (
    Summed,
    cohort_model,
    declared_choice,
    declared_tables,
    outcome,
    release,
    synthesis_plan,
)

DELTA = 1e-5
DOMAIN = domain()
SKEWS: dict[str, float | None] = {"Dirichlet 0.2": 0.2, "Dirichlet 0.6": 0.6, "alike": None}
WAYS = {
    "shares of noise": AggregationPlan(masking=Masking.SECURE, distributed_noise=True),
    "shares, one may drop": AggregationPlan(masking=Masking.SECURE, distributed_noise=True, dropouts=1),
    "whole noise": AggregationPlan(),
}
Codes = dict[str, Any]


def study_of(hospitals: int, *, epsilon: float, aggregation: AggregationPlan, persons: int = 1) -> Study:
    """A study of synthesis alone at (epsilon, 1e-5)."""
    return Study(
        schema=SCHEMA,
        study_id="benchmark",
        title="benchmark",
        purpose="benchmark",
        programme="none",
        programme_version="1",
        training=TrainingPlan(
            rounds=1,
            local_steps=1,
            learning_rate=1.0,
            momentum=0.0,
            max_grad_norm=1.0,
            sample_rate=1.0,
            noise_multiplier=1e6,
        ),
        privacy=PrivacyPlan(
            epsilon=epsilon,
            delta=DELTA,
            count_noise_multiplier=1e4,
            metrics_noise_multiplier=1e4,
            synthesis_noise_multiplier=plan_for(DOMAIN, epsilon=epsilon, delta=DELTA).whole_multiplier,
        ),
        metrics_tables=1,
        synthesis=synthesis_plan(DOMAIN, sites_of_a_person=persons),
        minimum_patients=1,
        quorum=1,
        round_timeout_s=60.0,
        sites={f"hospital{i}": f"{i:064x}" for i in range(hospitals)},
        aggregation=aggregation,
    )


def deal(codes: Codes, hospitals: int, skew: float | None, random: np.random.Generator) -> list[Codes]:
    """The patients of each hospital, each kind of patient (diagnosis, third of the ages) dealt in other shares."""
    kind = codes["dzgroup"] * 3 + np.digitize(codes["age"], [6, 9])
    place = random.integers(0, hospitals, len(kind))
    for value in np.unique(kind) if skew is not None else ():
        rows = np.flatnonzero(kind == value)
        place[rows] = random.choice(hospitals, len(rows), p=random.dirichlet([skew or 1.0] * hospitals))
    return [{name: levels[place == i] for name, levels in codes.items()} for i in range(hospitals)]


def federated(study: Study, sites: list[Codes], *, seed: int) -> dict[str, Any]:
    """Three rounds, each hospital's noise its own: what cohorts are drawn from."""
    noise, whole = NoiseSource.for_tests(seed), as_added(study).privacy.synthesis_noise_multiplier
    sums: dict[str, Summed] = {}
    chosen: dict[str, Any] = {}
    for task in ROUNDS:
        inputs = chosen if declared_choice(task, DOMAIN) else {}
        came = [release(task, DOMAIN, codes, whole=whole, choice=inputs, noise=noise) for codes in sites]
        total = {name: np.sum([one[name] for one in came], axis=0, dtype=np.int64) for name in came[0]}
        sums[task] = Summed(total, len(sites))
        chosen = dict(outcome(study, DOMAIN, sums))
    return chosen


def information(codes: Codes, names: tuple[str, ...]) -> dict[tuple[str, str], float]:
    """The mutual information of each two columns, in nats."""
    found = {}
    for a, b in itertools.combinations(names, 2):
        table = np.zeros((DOMAIN.sizes[a], DOMAIN.sizes[b]))
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


def kept(measured: dict[str, Any], truth: dict[tuple[str, str], float]) -> float:
    """Of the best tree's information, the part that the best tree of the counted pairs has."""
    scored = plan_for(DOMAIN, epsilon=1.0, delta=DELTA).scored
    parents = measured["parents"]
    roots = [scored[i] for i, p in enumerate(parents) if p < 0]
    pairs = {frozenset((scored[i], scored[p])) for i, p in enumerate(parents) if p >= 0}
    if len(roots) == 1:  # the hub is counted with everything
        pairs |= {frozenset((roots[0], name)) for name in scored if name != roots[0]}
    return best_tree({pair: w for pair, w in truth.items() if frozenset(pair) in pairs}) / best_tree(truth)


def measure(arguments: argparse.Namespace) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows and bars."""
    _, _, training, _ = training_and_holdout(arguments.data)
    codes = DOMAIN.encode_columns(training)
    truth = information(codes, plan_for(DOMAIN, epsilon=1.0, delta=DELTA).scored)
    rows: list[dict[str, Any]] = []
    selection, ratios = [], []
    epsilons, skews = ((1.0,), ("Dirichlet 0.2",)) if arguments.quick else ((1.0, 3.0), tuple(SKEWS))
    for epsilon in epsilons:
        central = [_distance_central(codes, training, epsilon, seed) for seed in range(arguments.seeds)]
        rows.append(row(f"2-way TV, epsilon {epsilon:g}", "central", statistics.median(central), "TV"))
        for skew, way in itertools.product(skews, WAYS):
            found, shares = [], []
            for seed in range(arguments.seeds):
                sites = deal(codes, arguments.hospitals, SKEWS[skew], np.random.default_rng(seed))
                study = study_of(arguments.hospitals, epsilon=epsilon, aggregation=WAYS[way])
                measured = federated(study, sites, seed=seed)
                shares.append(kept(measured, truth))
                if skew == "Dirichlet 0.2" or way == "shares of noise":
                    model = cohort_model(study, DOMAIN, measured)
                    found.append(_distance(training, model.sample(round(model.total), seed=seed), seed))
            rows.append(
                row(f"information kept, {skew}, epsilon {epsilon:g}", way, statistics.median(shares), "share")
            )
            if way == "shares of noise" and epsilon == 1.0:
                selection.append(statistics.median(shares))
            if found:
                rows.append(
                    row(f"2-way TV, {skew}, epsilon {epsilon:g}", way, statistics.median(found), "TV")
                )
                if way == "shares of noise":
                    ratios.append(statistics.median(found) / statistics.median(central))
            print(rows[-1], flush=True)
    sent = sum(4 * spec.shape[0] for task in ROUNDS for spec in declared_tables(task, DOMAIN).values())
    rows.append(row("sent in three rounds", "32-bit words", sent / 1000, "KB a hospital"))
    return rows, [
        bar("federated over central 2-way TV, worst", max(ratios), 1.05, "max"),
        bar("information kept at epsilon 1, worst skew", min(selection), 0.90, "min"),
        bar("KB sent by a hospital", sent / 1000, 50, "max"),
    ]


def _distance_central(codes: Codes, training: Any, epsilon: float, seed: int) -> float:
    fitted = fit_private(DOMAIN, codes, epsilon=epsilon, delta=DELTA, noise=NoiseSource.for_tests(seed))
    return _distance(training, fitted.model.sample(round(fitted.model.total), seed=seed), seed)


def _distance(training: Any, drawn: Codes, seed: int) -> float:
    return float(np.mean(pair_distances(training, DOMAIN.decode_columns(drawn, seed=seed))))


def main() -> None:
    """Measure, print, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--hospitals", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seeds = min(arguments.seeds, 2)
    rows, bars = measure(arguments)
    for one in rows:
        print(f"{one['case']:45} {one['side']:24} {one['value']:.4f} {one['unit']}")
    for one in bars:
        print(
            f"{one['name']}: {one['value']} (bar: {one['direction']} {one['bar']}) {'ok' if one['ok'] else 'MISSED'}"
        )
    if arguments.json:
        report = {"name": "synthetic_federated", "machine": machine(), "rows": rows, "bars": bars}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
