"""The atrial-fibrillation twin on open people, with and without privacy; and what two other programmes say of the arrhythmia.

Parts: (1) every claim of the programme; (2) people of Olmsted County with atrial fibrillation in three nodes: death and stroke
by two years, beside CHA2DS2-VASc; (3) the whole county: what new atrial fibrillation makes of the hazard of stroke, by the
fatty-liver twin's chain of diseases and by a Cox model with a time-dependent covariate; (4) patients of the International Stroke
Trial with and without atrial fibrillation, by the stroke twin trained over its hospitals. Parts 3 and 4 need their data below
`--data`, and are left out without.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from _federation import (
    bar,
    federated,
    federated_without_privacy,
    machine,
    row,
    split_anew,
    study_for,
)
from _stroke_nodes import joined, parts, people_by_country, read
from _stroke_scores import risks, six_months
from lifelines import CoxTimeVaryingFitter
from stroke import grouped

from gemel.cli.demo.comparison import pool
from gemel.cli.demo.hospitals import deal, shares
from gemel.cli.demo.open_datasets import datasets_of
from gemel.core.dataset import Dataset
from gemel.core.programme import Programme
from gemel.twins.baselines import train_without_privacy
from gemel.twins.claims import Verdict, check_claims
from gemel.twins.installed import definition_of, installed
from gemel.twins.programmes.atrial_fibrillation.definition import DEFINITION
from gemel.twins.programmes.fatty_liver.open_data import read_table
from gemel.twins.scores import auc, endpoint_scores
from gemel.twins.treatment_plan import TreatmentPlan
from gemel.twins.twin import Twin

PROGRAMME = DEFINITION.programme
DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"
EPSILONS = (8.0, 3.0)
NODES = 3
TRIAL = Path("clinical") / "ist" / "ist.csv.gz"


def claims(data: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Each claim's number, and one bar: how many fail."""
    checked = check_claims(DEFINITION.claims, data=data)
    rows = [
        row(c.claim.name, "twin", c.computed or 0.0, c.claim.unit, claimed=c.claim.value) for c in checked
    ]
    failing = sum(c.verdict is Verdict.FAILS for c in checked)
    return rows, [bar("claims that fail", failing, 0, "max")]


def county(data: Path, *, splits: int, draws: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Death and stroke by two years on held-out people, over splits."""
    people = list(DEFINITION.open_data.people(data if data.exists() else None, seed=1))
    dealt = deal(people, shares(NODES), seed=0)
    sites = datasets_of(PROGRAMME, {f"node{i}": part for i, part in enumerate(dealt)})
    taken: dict[tuple[str, str, str], list[float]] = {}
    for number in range(splits):
        mine = split_anew(sites, number)
        held_out = pool([dataset.split()[1] for dataset in mine.values()])
        twins = [("federated, no privacy", federated_without_privacy(PROGRAMME, mine))]
        for epsilon in EPSILONS:
            study = study_for(PROGRAMME, mine, epsilon=epsilon)
            twins += [
                (f"federated, ε = {epsilon:g}", federated(study, PROGRAMME, mine)) for _ in range(draws)
            ]
        for side, twin in twins:
            for case, name, value in _scores(twin, held_out):
                taken.setdefault((case, side, name), []).append(value)
        for case, value in _published(held_out):
            taken.setdefault((case, "CHA2DS2-VASc", "auc_2y"), []).append(value)
    rows = [
        row(
            f"{case} {name}",
            side,
            np.mean(values),
            "1",
            lowest=round(min(values), 4),
            highest=round(max(values), 4),
            repeats=len(values),
        )
        for (case, side, name), values in taken.items()
    ]
    auc = {key: float(np.mean(values)) for key, values in taken.items()}
    lost = auc["death", "federated, no privacy", "auc_2y"] - auc["death", "federated, ε = 3", "auc_2y"]
    against = auc["stroke", "federated, ε = 3", "auc_2y"] - auc["stroke", "CHA2DS2-VASc", "auc_2y"]
    return rows, [
        bar("death: AUC lost to privacy at ε = 3", lost, 0.05, "max"),
        bar("stroke: AUC at ε = 3 less that of CHA2DS2-VASc", against, -0.02, "min"),
    ]


def _scores(twin: Twin, held_out: Dataset) -> list[tuple[str, str, float]]:
    prediction = twin.predict(held_out.values)
    found = []
    for endpoint in PROGRAMME.endpoints:
        scores = endpoint_scores(PROGRAMME, endpoint, prediction, held_out)
        found += [
            (endpoint.name, name, scores[name])
            for name in ("auc_2y", "brier_2y", "observed_over_expected_2y")
        ]
    return found


def _published(held_out: Dataset) -> list[tuple[str, float]]:
    found = []
    for baseline in DEFINITION.baselines[:1]:
        score = baseline(held_out.values, PROGRAMME)
        outcome = PROGRAMME.outcome_names.index(baseline.endpoint)
        found.append((baseline.endpoint, auc(held_out, outcome, score, years=730 / 365.25)))
    return found


def new_fibrillation(data: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What new atrial fibrillation makes of the hazard of stroke in the whole county, adjusted for age and sex."""
    ratio, low, high = _time_dependent_cox(data)
    programme = next(p for p in installed() if p.name == "fatty_liver")
    people = list(definition_of(programme).open_data.people(data, seed=1))
    dataset = datasets_of(programme, {"county": people})["county"]
    twin = train_without_privacy(programme, dataset)
    values = np.array([[f.reference_mean for f in programme.columns]])
    disease = programme.outcome_names.index("atrial_fibrillation") - 1
    stroke = programme.outcome_names.index("stroke")
    with_it, without = (twin.hazards_in_state(values, s)[0, stroke, 0] for s in (1 << disease, 0))
    rows = [
        row("stroke after new atrial fibrillation", "Cox, time-dependent", ratio, "1", low=low, high=high),
        row(
            "stroke after new atrial fibrillation",
            "fatty-liver twin, pooled, its chain",
            with_it / without,
            "1",
        ),
    ]
    return rows, [
        bar("hazard ratio of stroke, lower end of its interval", low, 1.0, "min"),
        bar("the twin's ratio", with_it / without, 1.0, "min"),
    ]


def _time_dependent_cox(data: Path) -> tuple[float, float, float]:
    people = {int(r["id"]): r for r in read_table("nafld1", data)}
    first: dict[tuple[int, str], int] = {}
    for event in read_table("nafld3", data):
        key = (int(event["id"]), event["event"])
        first[key] = min(first.get(key, 10**9), int(event["days"]))
    lines = []
    for identity, person in people.items():
        stroke = first.get((identity, "stroke"), 10**9)
        fibrillation = first.get((identity, "afib"), 10**9)
        # Who had either when followed from is another question.
        if stroke <= 0 or fibrillation <= 0:
            continue
        end = max(min(stroke, int(person["futime"])), 1)
        happened = int(stroke <= int(person["futime"]))
        common = {"id": identity, "age": person["age"] / 10, "male": person["male"]}
        if fibrillation < end:
            lines.append(common | {"start": 0, "stop": fibrillation, "af": 0, "event": 0})
            lines.append(common | {"start": fibrillation, "stop": end, "af": 1, "event": happened})
        else:
            lines.append(common | {"start": 0, "stop": end, "af": 0, "event": happened})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = CoxTimeVaryingFitter().fit(
            pd.DataFrame(lines), id_col="id", event_col="event", start_col="start", stop_col="stop"
        )
    summary = model.summary.loc["af"]
    return tuple(float(summary[name]) for name in ("exp(coef)", "exp(coef) lower 95%", "exp(coef) upper 95%"))


def trial(data: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The stroke twin, federated over the trial's countries: the arrhythmia's part in death, and drugs in those who have it."""
    stroke = next(p for p in installed() if p.name == "stroke")
    pieces, _ = read(parts(people_by_country(data / TRIAL)))
    sites = grouped(pieces)
    everybody, held_out = joined(sites.values()), joined(site.split()[1] for site in sites.values())
    twins = {
        "federated, no privacy": federated_without_privacy(stroke, sites, rounds=15, local_steps=6),
        "federated, ε = 3": federated(study_for(stroke, sites, epsilon=3.0), stroke, sites),
    }
    rows, bars = [], []
    known, died = six_months(held_out)["death"]
    has = held_out.values[:, stroke.feature_names.index("atrial_fibrillation")] > 0.5
    seen = {flag: 100 * died[known & (has == flag)].mean() for flag in (True, False)}
    rows += [
        row(f"dead at six months, fibrillation {flag}", "observed", share, "%")
        for flag, share in seen.items()
    ]
    for side, twin in twins.items():
        risk = 100 * risks(twin.predict(held_out.values))["death"]
        told = {flag: risk[known & (has == flag)].mean() for flag in (True, False)}
        rows += [
            row(f"dead at six months, fibrillation {flag}", side, share, "%") for flag, share in told.items()
        ]
        gap = abs((told[True] - told[False]) - (seen[True] - seen[False]))
        bars.append(bar(f"gap of fibrillation in points, {side}, off by", gap, 4.0, "max"))
        for treatment in ("aspirin", "heparin"):
            found = _of_those_with_it(stroke, everybody, twin, treatment)
            rows.append(
                row(f"{treatment}, those with fibrillation", f"g-computed, {side}", found["told"], "%")
            )
            bars.append(
                bar(f"{treatment} with fibrillation, {side}, above", found["told"], found["low"], "min")
            )
            bars.append(
                bar(f"{treatment} with fibrillation, {side}, below", found["told"], found["high"], "max")
            )
    for treatment in ("aspirin", "heparin"):
        found = _of_those_with_it(stroke, everybody, twins["federated, ε = 3"], treatment)
        lot = row(
            f"{treatment}, those with fibrillation",
            "by lot",
            found["lot"],
            "%",
            low=found["low"],
            high=found["high"],
        )
        rows.append(lot)
    return rows, bars


def _of_those_with_it(stroke: Programme, people: Dataset, twin: Twin, treatment: str) -> dict[str, float]:
    """Points of dead or dependent at six months: told by the twin, and by the lot with its 95 % interval."""
    mine = people.take(people.values[:, stroke.feature_names.index("atrial_fibrillation")] > 0.5)
    known, bad = six_months(mine)["dead_or_dependent"]
    given = mine.values[:, stroke.feature_names.index(treatment)] > 0.5
    arms = [bad[known & arm].astype(float) for arm in (given, ~given)]
    lot = 100 * (arms[0].mean() - arms[1].mean())
    error = 100 * np.sqrt(sum(arm.var() / len(arm) for arm in arms))
    plans = [TreatmentPlan.always({treatment: amount}) for amount in (1.0, 0.0)]
    with_it, without = (
        risks(twin.predict(mine.values, plan=plan))["dead_or_dependent"].mean() for plan in plans
    )
    told = 100 * (with_it - without)
    found = {"told": told, "lot": lot, "low": lot - 1.96 * error, "high": lot + 1.96 * error}
    return {name: round(float(value), 4) for name, value in found.items()}


def measure(data: Path, *, splits: int, draws: int) -> dict[str, Any]:
    """All parts whose data are there."""
    torch.set_num_threads(1)
    done = [claims(data), county(data, splits=splits, draws=draws)]
    if (data / "clinical" / "nafld").exists():
        done.append(new_fibrillation(data))
    if (data / TRIAL).exists():
        done.append(trial(data))
    return {
        "name": "atrial_fibrillation",
        "machine": machine(),
        "rows": [line for rows, _ in done for line in rows],
        "bars": [line for _, bars in done for line in bars],
    }


def main() -> None:
    """Measure, and write the result where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", type=Path, default=DATA)
    arguments = parser.parse_args()
    size = {"splits": 1, "draws": 1} if arguments.quick else {"splits": 5, "draws": 3}
    result = json.dumps(measure(arguments.data, **size), indent=2)
    if arguments.json:
        arguments.json.write_text(result, encoding="utf-8")
    else:
        print(result)


if __name__ == "__main__":
    main()
