"""What-ifs where the truth is known: a trial's randomised differences beside g-computed ones, and the coverage of intervals.

The trial is the International Stroke Trial, dealt to nodes by its own hospitals and read through FHIR. The stroke twin is fitted
pooled without privacy, federated without privacy, and federated at several ε; each time the effects of aspirin and heparin on being
dead or dependent at six months are g-computed over all of its people. The bars are the trial's own 95 % intervals. A twin that
learnt nothing of aspirin would pass them too (0 lies inside), so a control is run beside them: the same people and nodes, with courses
drawn as if aspirin made who got it ten years younger.

Coverage: made-up hospitals in which a drug is given by indication, its effect known; how often the 95 % interval holds it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _federation import bar, federated, federated_without_privacy, machine, row, study_for
from numpy.typing import NDArray

from gemel.cli.demo.hospitals import deal, shares
from gemel.cli.demo.open_datasets import datasets_of
from gemel.core.dataset import Dataset
from gemel.core.programme import Assignment
from gemel.twins.baselines import fit_without_privacy
from gemel.twins.causal.estimand import Estimand, declare
from gemel.twins.causal.population_effect import population_effect
from gemel.twins.causal.precision import Parameters, retrained, sandwich_draws
from gemel.twins.causal.randomised_effect import randomised_effect
from gemel.twins.installed import definition_of, make_twin
from gemel.twins.programmes.stroke import PROGRAMME
from gemel.twins.reference_cohort import sample_cohort
from gemel.twins.treatment_plan import TreatmentPlan, planned_values
from gemel.twins.twin import Twin

HERE = Path(__file__).resolve().parent
ENDPOINT = "dead_or_dependent"
POINTS = 100.0
# The whole trial's randomised risk differences, in points, with 95 % intervals; computed from its published file (19,435 people).
TRIAL = {"aspirin": (-1.25, -2.61, 0.11), "heparin": (0.03, -1.33, 1.39)}
EPSILONS = (8.0, 3.0)
FIT_STEPS = 250
# The control: as many years younger is who was allotted aspirin.
YOUNGER = 10


def estimands() -> dict[str, Estimand]:
    """One for each randomised treatment of the programme."""
    return {
        treatment.name: declare(
            PROGRAMME,
            TreatmentPlan.always({treatment.name: 1.0}, name=treatment.title),
            TreatmentPlan.always({treatment.name: 0.0}, name=f"no {treatment.name}"),
            endpoint=ENDPOINT,
            population="the trial's people",
        )
        for treatment in PROGRAMME.treatments
        if treatment.assignment is Assignment.RANDOMISED
    }


def pool(sites: Mapping[str, Dataset]) -> Dataset:
    """Everybody, as if in one place."""
    parts = list(sites.values())
    first = parts[0]
    return Dataset(
        first.programme,
        first.programme_version,
        first.features,
        first.outcomes,
        tuple(f"{i:04d}:{p}" for i, part in enumerate(parts) for p in part.patient_ids),
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.time_years for part in parts]),
        np.concatenate([part.event for part in parts]),
        first.target_names,
        np.concatenate([part.targets for part in parts]),
    )


Rows = list[dict[str, Any]]


def measured(
    case: str, twin: Twin, everybody: Dataset, *, parameters: Sequence[Parameters] = ()
) -> tuple[Rows, dict[str, float]]:
    """Rows of each treatment's g-computed effect in points, and the effects."""
    rows, values = [], {}
    for name, estimand in estimands().items():
        found = population_effect(twin, everybody.values, estimand, parameters=parameters)
        if found.effect is None:
            raise SystemExit(f"{name}: {found.refusal}")
        values[name] = POINTS * found.effect.value
        interval = found.effect.interval
        more = {"low": POINTS * interval[0], "high": POINTS * interval[1]} if interval else {}
        if found.effect.pull is not None:
            more["pull"] = POINTS * found.effect.pull
        more = {key: round(value, 3) for key, value in more.items()}
        rows.append(row(name, case, values[name], "points of risk", people=found.people, **more))
    return rows, values


def outside(values: Mapping[str, float]) -> dict[str, float]:
    """By how many points each effect lies outside the trial's interval; 0 inside."""
    return {name: max(TRIAL[name][1] - value, value - TRIAL[name][2], 0.0) for name, value in values.items()}


def lot(everybody: Dataset, twin: Twin) -> Rows:
    """What the lot itself says of the people at hand: plain, and adjusted by the twin's prognosis."""
    rows = []
    for name, estimand in estimands().items():
        for side, by in (("lot, here", None), ("lot, adjusted by the twin", twin)):
            effect = randomised_effect(everybody, estimand, twin=by)
            low, high = (round(POINTS * limit, 3) for limit in effect.interval or (np.nan, np.nan))
            rows.append(row(name, side, POINTS * effect.value, "points of risk", low=low, high=high))
        value, low, high = TRIAL[name]
        rows.append(row(name, "lot, whole trial", value, "points of risk", low=low, high=high))
    return rows


def private(
    sites: Mapping[str, Dataset], everybody: Dataset, epsilon: float, *, draws: int, replicas: int
) -> tuple[Rows, dict[str, float]]:
    """Federated and private: the worst of several trainings, the first with its interval."""
    study = study_for(PROGRAMME, sites, epsilon=epsilon)
    twins = [federated(study, PROGRAMME, sites) for _ in range(draws)]
    names = list(sites)

    def train(datasets: Sequence[Dataset]) -> Parameters:
        return federated(study, PROGRAMME, dict(zip(names, datasets, strict=True))).to_arrays()

    parameters = (
        retrained(twins[0], [site.values for site in sites.values()], train, replicas=replicas, seed=1)
        if replicas
        else ()
    )
    rows, first = measured(f"federated, ε = {epsilon:g}", twins[0], everybody, parameters=parameters)
    found = [first, *(measured("", twin, everybody)[1] for twin in twins[1:])]
    for name in first:
        of = [one[name] for one in found]
        rows.append(
            row(
                name,
                f"federated, ε = {epsilon:g}, {draws} trainings",
                float(np.mean(of)),
                "points of risk",
                lowest=round(min(of), 3),
                highest=round(max(of), 3),
            )
        )
    return rows, {name: max(outside(one)[name] for one in found) for name in first}


def helped(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """The control's world: aspirin makes whoever was allotted it YOUNGER years younger."""
    changed = np.array(values, copy=True)
    age, aspirin = (PROGRAMME.feature_names.index(name) for name in ("age_years", "aspirin"))
    changed[:, age] -= YOUNGER * (values[:, aspirin] == 1)
    return changed


def control(
    sites: Mapping[str, Dataset], pooled: Twin, everybody: Dataset, *, replicas: int
) -> tuple[Rows, bool]:
    """The same people with the courses of `helped` ones: is that found at ε = 8, and is the truth inside the interval?"""
    drawn = {
        name: replace(sample_cohort(pooled, helped(site.values), seed=number), values=site.values)
        for number, (name, site) in enumerate(sites.items())
    }
    study = study_for(PROGRAMME, drawn, epsilon=EPSILONS[0])

    def train(datasets: Sequence[Dataset]) -> Parameters:
        return federated(study, PROGRAMME, dict(zip(drawn, datasets, strict=True))).to_arrays()

    twin = make_twin(PROGRAMME)
    twin.load_arrays(train(list(drawn.values())))
    draws = retrained(twin, [site.values for site in sites.values()], train, replicas=replicas, seed=2)
    estimand = estimands()["aspirin"]
    treated, untreated = (
        planned_values(PROGRAMME, everybody.values, plan) for plan in (estimand.plan, estimand.other_plan)
    )
    risks = [
        pooled.predict(values).risk(PROGRAMME, estimand.endpoint)[:, 0]
        for values in (helped(treated), untreated)
    ]
    truth = float((risks[0] - risks[1]).mean())
    found = population_effect(twin, everybody.values, estimand, parameters=draws).effect
    if found is None or found.interval is None:
        raise SystemExit("the control has no effect or no interval")
    low, high = (round(POINTS * limit, 3) for limit in found.interval)
    rows = [
        row("control: aspirin helps", "truth", POINTS * truth, "points of risk"),
        row(
            "control: aspirin helps",
            f"federated, ε = {EPSILONS[0]:g}",
            POINTS * found.value,
            "points of risk",
            low=low,
            high=high,
            pull=round(POINTS * float(found.pull or 0), 3),
        ),
    ]
    return rows, found.interval[0] <= truth <= found.interval[1] and found.interval[1] < 0


def trial(data: Path, *, nodes: int, draws: int, replicas: int) -> tuple[Rows, Rows]:
    """Rows and bars on the trial's people below `data`."""
    people = list(definition_of(PROGRAMME).open_data.people(data, seed=0))
    parts = deal(people, shares(nodes), seed=0)
    sites = datasets_of(PROGRAMME, {f"node-{i + 1:02d}": part for i, part in enumerate(parts)})
    everybody = pool(sites)
    pooled = make_twin(PROGRAMME)
    start = pooled.to_arrays()
    fit_without_privacy(pooled, everybody, steps=FIT_STEPS)
    rows = lot(everybody, pooled)
    sandwich = sandwich_draws(pooled, everybody, draws=60, seed=1, held_to=start)
    more, values = measured("pooled, no privacy", pooled, everybody, parameters=sandwich)
    rows += more
    missed = {"pooled": outside(values)}
    more, values = measured(
        f"federated over {len(sites)}, no privacy", federated_without_privacy(PROGRAMME, sites), everybody
    )
    rows += more
    missed["federated, no privacy"] = outside(values)
    for epsilon in EPSILONS:
        more, missed[f"federated, ε = {epsilon:g}, worst"] = private(
            sites, everybody, epsilon, draws=draws, replicas=replicas if epsilon == EPSILONS[0] else 0
        )
        rows += more
    bars = [
        bar(f"{name}, {side}: points outside the randomised interval", points[name], 0.0, "max")
        for side, points in missed.items()
        for name in TRIAL
    ]
    more, held = control(sites, pooled, everybody, replicas=replicas)
    return rows + more, [*bars, bar("control: found, and inside the interval", float(held), 1.0, "min")]


def coverage(hospitals: int) -> tuple[Rows, Rows]:
    """How often the interval of a confounded drug's effect holds the truth, and how far off the plain difference is."""
    sys.path.insert(0, str(HERE.parent / "tests" / "support"))
    from treated_people import GIVEN, WITHOUT, Truth, fitted
    from treated_people import PROGRAMME as TREATED
    from treated_people import people as made_up

    estimand = declare(
        TREATED, GIVEN["drug"], WITHOUT["drug"], endpoint="walks", population="the made-up hospital"
    )
    held, plain, errors = [], [], []
    for number in range(hospitals):
        dataset, truth = made_up(1500, Truth(), seed=5000 + number)
        twin = fitted(dataset)
        draws = sandwich_draws(twin, dataset, draws=60, seed=number)
        effect = population_effect(twin, dataset.values, estimand, parameters=draws).effect
        if effect is None or effect.interval is None:
            raise SystemExit("a made-up hospital has no effect or no interval")
        held.append(effect.interval[0] <= truth["drug_walks"] <= effect.interval[1])
        errors.append(effect.value - truth["drug_walks"])
        got, walks = dataset.values[:, 4] == 1, dataset.targets[:, 0]
        plain.append(float(walks[got].mean() - walks[~got].mean()) - truth["drug_walks"])
    share = float(np.mean(held))
    rows = [
        row("made-up hospitals", "interval holds the truth", share, "share", hospitals=hospitals),
        row("made-up hospitals", "error of g-computation", POINTS * float(np.mean(errors)), "points of risk"),
        row(
            "made-up hospitals",
            "error of the plain difference",
            POINTS * float(np.mean(plain)),
            "points of risk",
        ),
    ]
    # Three binomial standard errors around the nominal 95 %.
    margin = 3 * float(np.sqrt(0.95 * 0.05 / hospitals))
    return rows, [
        bar("coverage of the 95 % interval", share, round(0.95 - margin, 4), "min"),
    ]


def absent(data: Path) -> str:
    """Why the trial's part cannot run; empty when it can."""
    try:
        file = definition_of(PROGRAMME).open_data.file
    except ModuleNotFoundError:
        return "the stroke programme has no twin installed here"
    return "" if (data / file).exists() else f"{file} is not below --data"


def main() -> None:
    """Measure, and write the result where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--nodes", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows, bars = coverage(20 if arguments.quick else 200)
    missing = absent(arguments.data)
    if not missing:
        size = {"draws": 1, "replicas": 3} if arguments.quick else {"draws": 5, "replicas": 20}
        more = trial(arguments.data, nodes=arguments.nodes, **size)
        rows, bars = rows + more[0], bars + more[1]
    else:
        rows.append(row("the trial", f"left out: {missing}", 0.0, "people"))
    result = {"name": "what_if", "machine": machine(), "rows": rows, "bars": bars}
    text = json.dumps(result, indent=2)
    if arguments.json:
        arguments.json.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
