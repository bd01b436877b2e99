"""Our strategies on FLamby's Fed-Heart-Disease and Fed-TCGA-BRCA, beside FLamby's published table.

Its splits and metrics (accuracy; Harrell's C by lifelines), the mean over clients, five seeds. Server strategies, trainer and
accountant are the product's; scaling is by public bounds. Hyper-parameters are chosen on training patients alone, held out in
three folds within them; that choice is not charged to the private sides' ε, as in FLamby. Private sides draw secure noise:
their rows differ from run to run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _flamby_data import Hospital, brca, heart, nested
from _flamby_models import Model
from _flamby_sides import Side, local, pooled, priced, run

from gemel.core.strategy_plan import Algorithm, Personalisation, StrategyPlan
from gemel.core.study import AggregationRule

FOLDS = 3
EPSILON = 1.0
# Noise makes private runs differ more than seeds do others: so many draws for each seed.
DRAWS = 4
# Means of clients that FLamby publishes (its csv files, 5 seeds; heart with ε: FedAvg with Opacus, δ = 1e-4).
PUBLISHED = {
    ("heart", "pooled"): 0.735,
    ("heart", "fedavg"): 0.685,
    ("heart", "fedprox"): 0.685,
    ("heart", "scaffold"): 0.684,
    ("heart", "fedadam"): 0.7255,
    ("heart", "fedyogi"): 0.731,
    ("heart", "fedavg, ε = 1"): 0.685,
    ("brca", "pooled"): 0.676,
    ("brca", "fedavg"): 0.732,
    ("brca", "fedprox"): 0.729,
    ("brca", "scaffold"): 0.687,
    ("brca", "fedadam"): 0.815,
    ("brca", "fedyogi"): 0.815,
}
BARS = {"heart": 0.80, "brca": 0.815}
# What shifts between hospitals in either task: how frequent disease is, how high the hazard is.
HEADS = {"heart": ("bias",), "brca": ("level",)}

Runner = Callable[..., list[Model]]


@dataclass(frozen=True)
class Candidate:
    """A side, how it is run, and the settings to choose among."""

    runner: Runner
    settings: tuple[Side, ...]

    @property
    def name(self) -> str:
        """The side's name."""
        return self.settings[0].name


def candidates(task: str) -> list[Candidate]:
    """All sides; each has a few settings, the same number for all of one kind."""
    base = Side("", rounds=15, local_steps=10, sample_rate=0.5)
    rates = (0.05, 0.2, 0.5)

    def grid(name: str, plans: list[StrategyPlan], runner: Runner = run, **fixed: Any) -> Candidate:
        settings = itertools.product(plans, rates)
        made = [replace(base, name=name, strategy=p, learning_rate=r, **fixed) for p, r in settings]
        return Candidate(runner, tuple(made))

    plain = [StrategyPlan()]
    prox = [StrategyPlan(algorithm=Algorithm.FEDPROX, proximal_mu=mu) for mu in (0.01, 0.1)]
    adaptive = {
        name: [StrategyPlan(algorithm=name, server_learning_rate=rate) for rate in (0.03, 0.1)]
        for name in (Algorithm.FEDADAM, Algorithm.FEDYOGI)
    }
    heads = [StrategyPlan(personalisation=Personalisation.LOCAL_PARAMETERS, local_parameters=HEADS[task])]
    ditto = [StrategyPlan(personalisation=Personalisation.DITTO, ditto_lambda=x) for x in (0.1, 1.0)]

    def private(name: str, strategy: StrategyPlan) -> Candidate:
        settings = ((30, 1, 0.5, 1.0), (30, 1, 1.0, 0.5), (15, 4, 0.2, 1.0))
        made = [
            Side(f"{name}, ε = {EPSILON:g}", strategy, rounds=t, local_steps=k, learning_rate=rate,
                 max_grad_norm=c, sample_rate=1.0, epsilon=EPSILON)
            for t, k, rate, c in settings
        ]  # fmt: skip
        return Candidate(run, tuple(made))

    scaffold = StrategyPlan(algorithm=Algorithm.SCAFFOLD)
    return [
        grid("local", plain, local),
        grid("pooled", plain, pooled),
        grid("fedavg", plain),
        grid("fedprox", prox),
        grid("scaffold", [scaffold]),
        grid("fedadam", adaptive[Algorithm.FEDADAM]),
        grid("fedyogi", adaptive[Algorithm.FEDYOGI]),
        grid("median", plain, rule=AggregationRule.MEDIAN),
        grid("local heads", heads),
        grid("ditto", ditto),
        private("fedavg", plain[0]),
        private("scaffold", scaffold),
        private("local heads", heads[0]),
    ]


def scores(models: list[Model], hospitals: list[Hospital]) -> np.ndarray:
    """Each hospital's score on its held-out patients, (hospitals,)."""
    return np.array([model.score(h.part(False)) for model, h in zip(models, hospitals, strict=True)])


def chosen(task: str, candidate: Candidate, hospitals: list[Hospital], *, folds: int) -> tuple[Side, float]:
    """The setting that is best on training patients held out from training, and its mean score there."""
    inner = [nested(hospitals, fold=fold, folds=FOLDS) for fold in range(folds)]
    means = []
    for side in candidate.settings:
        got = [scores(candidate.runner(task, side, part, seed=100 + i), part) for i, part in enumerate(inner)]
        means.append(float(np.nanmean([np.nanmean(one) for one in got])))
    best = int(np.argmax(means))
    return candidate.settings[best], means[best]


def measure_task(task: str, *, seeds: int, folds: int) -> list[dict[str, Any]]:
    """A row for each side: client mean over seeds, clients, what was chosen and how well it did on training patients."""
    hospitals = heart() if task == "heart" else brca()
    rows = []
    for candidate in candidates(task):
        side, inner = chosen(task, candidate, hospitals, folds=folds)
        repeats = seeds * (DRAWS if side.epsilon else 1)
        got = np.array(
            [scores(candidate.runner(task, side, hospitals, seed=s), hospitals) for s in range(repeats)]
        )
        means = got.mean(axis=1)
        rows.append(
            {
                "case": task,
                "side": candidate.name,
                "value": round(float(means.mean()), 4),
                "unit": "accuracy" if task == "heart" else "C-index",
                "sd": round(float(means.std(ddof=1)), 4) if repeats > 1 else 0.0,
                "repeats": repeats,
                "clients": [round(float(value), 3) for value in got.mean(axis=0)],
                "on_training_patients": round(inner, 4),
                "published": PUBLISHED.get((task, candidate.name)),
                "epsilon": round(priced(side, [h.name for h in hospitals]), 4) if side.epsilon else None,
                "rounds": side.rounds,
                "local_steps": side.local_steps,
                "learning_rate": side.learning_rate,
                "proximal_mu": side.strategy.proximal_mu,
                "server_learning_rate": side.strategy.server_learning_rate,
                "ditto_lambda": side.strategy.ditto_lambda,
            }
        )
        print(_line(rows[-1]), file=sys.stderr, flush=True)
    return rows


def measure(*, seeds: int, folds: int) -> dict[str, Any]:
    """The result of the benchmark, with its bars."""
    torch.set_num_threads(1)
    rows = [row for task in ("heart", "brca") for row in measure_task(task, seeds=seeds, folds=folds)]
    value = {(row["case"], row["side"]): row["value"] for row in rows}
    bars = []
    for task, bar in BARS.items():
        shared = ("fedavg", "fedprox", "scaffold", "fedadam", "fedyogi")
        trained = {r["side"]: r["on_training_patients"] for r in rows if r["case"] == task}
        best = max(shared, key=lambda side: trained[side])
        bars.append(
            _bar(f"{task}: {best}, best of one shared model on training patients", value[task, best], bar)
        )
    bars.append(_bar("heart: fedavg, ε = 1", value["heart", f"fedavg, ε = {EPSILON:g}"], 0.80))
    for task, side in itertools.product(BARS, ("fedprox", "scaffold")):
        bars.append(_bar(f"{task}: {side}, FLamby's", value[task, side], PUBLISHED[task, side]))
    return {
        "name": "flamby",
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        },
        "rows": rows,
        "bars": bars,
    }


def _line(row: dict[str, Any]) -> str:
    published = "" if row["published"] is None else f"  FLamby {row['published']:.3f}"
    spent = "" if row["epsilon"] is None else f"  ε {row['epsilon']:.3f}"
    clients = " ".join(f"{value:.3f}" for value in row["clients"])
    return (
        f"{row['case']:6}{row['side']:16}{row['value']:.3f} ± {row['sd']:.3f}  [{clients}]{published}{spent}"
    )


def _bar(name: str, value: float, least: float) -> dict[str, Any]:
    return {"name": name, "value": value, "bar": least, "direction": "min", "ok": value >= least}


def main() -> None:
    """Measure, and write the result where `--json` says; the table goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    size = {"seeds": 2, "folds": 1} if arguments.quick else {"seeds": 5, "folds": FOLDS}
    result = json.dumps(measure(**size), indent=2, ensure_ascii=False)
    if arguments.json:
        arguments.json.write_text(result, encoding="utf-8")
    else:
        print(result)


if __name__ == "__main__":
    main()
