"""The stroke twin on the International Stroke Trial: federated over countries, beside pooled logistic regression.

    python benchmarks/stroke.py [--quick] [--json FILE] [--data DIR | --train CSV] [--test CSV]

The file is the trial's published form, whatever hospitals it holds; `--test` gives hospitals that train nothing. Nodes are
countries, the small ones put together, at least 20. Everything goes by way of FHIR, and training by the node's own task with secure
noise, so that private figures differ from run to run. ε holds count, training, marginals and metrics, at δ = 1e-5.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
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
from _stroke_nodes import country_of, hospitals, joined, nodes, parts, people_by_country, read
from _stroke_scores import (
    ENDPOINTS,
    NOMINAL,
    age_alone,
    aucs,
    brier_and_log,
    calibration,
    coverage,
    logistic_regression,
    observed_until,
    risks,
    six_months,
)

from gemel.core.dataset import Dataset
from gemel.core.programme import DAYS_PER_YEAR
from gemel.twins.causal.estimand import declare
from gemel.twins.causal.population_effect import population_effect
from gemel.twins.programmes.stroke import PROGRAMME
from gemel.twins.programmes.stroke.open_data import FILE, home_day, read_rows
from gemel.twins.recalibration import Flag
from gemel.twins.treatment_plan import TreatmentPlan
from gemel.twins.twin import Twin

HERE = Path(__file__).resolve().parent
EPSILONS = (8.0, 3.0)
# What may be lost against pooled logistic regression: without privacy, and at each ε.
MAY_LOSE = {None: 0.01, 8.0: 0.02, 3.0: 0.03}
LEAST_AUC_ELSEWHERE = 0.76
LARGE_COUNTRY, MOST_COUNTRIES = 300, 8
WITHIN_COVERAGE = 0.03
# The whole trial's randomised differences in points of risk, with their 95 % intervals (19,285 people).
BY_LOT = {"aspirin": (-1.25, -2.61, 0.11), "heparin": (0.03, -1.33, 1.39)}
# On which days a ward looks whether a patient is home: none, after a week, three times, and on day 14 too.
SEEN_ON_DAYS: tuple[tuple[float, ...], ...] = ((), (7.0,), (3.0, 7.0, 10.0), (3.0, 7.0, 10.0, 14.0))
LANDMARK = 14.0

Sites = dict[str, Dataset]
Rows = list[dict[str, Any]]


class Measured:
    """Rows and bars as they come."""

    def __init__(self) -> None:
        self.rows: Rows = []
        self.bars: Rows = []

    def row(self, case: str, side: str, value: float, unit: str, **more: Any) -> None:
        """Keep and print a number."""
        self.rows.append(row(case, side, value, unit, **more))
        print(f"{case:<34} {side:<34} {value:9.4f} {unit} {more or ''}", file=sys.stderr, flush=True)

    def bar(self, name: str, value: float, limit: float, direction: str) -> None:
        """Keep and print a bar."""
        self.bars.append(bar(name, value, limit, direction))
        sign = ">=" if direction == "min" else "<="
        verdict = "ok" if self.bars[-1]["ok"] else "MISSED"
        print(f"{name:<69} {value:9.4f} {sign} {limit} {verdict}", file=sys.stderr, flush=True)


def sides_of(twins: Mapping[str, Sequence[Twin]], tested: Dataset) -> dict[str, list[dict[str, float]]]:
    """AUC by endpoint of every twin of every side."""
    return {
        side: [aucs(risks(twin.predict(tested.values)), tested) for twin in of_side]
        for side, of_side in twins.items()
    }


def trained(sites: Sites, draws: int) -> dict[str, list[Twin]]:
    """One federated twin without privacy, and `draws` at each ε."""
    found = {"federated": [federated_without_privacy(PROGRAMME, sites, rounds=15, local_steps=6)]}
    for epsilon in EPSILONS:
        study = study_for(PROGRAMME, sites, epsilon=epsilon)
        found[f"epsilon {epsilon:g}"] = [federated(study, PROGRAMME, sites) for _ in range(draws)]
    return found


def discrimination(
    out: Measured, sites: Sites, test: Dataset | None, *, splits: int, draws: int
) -> dict[str, list[Twin]]:
    """Held-out patients of the nodes, and all of the hospitals that trained nothing; gives the last split's twins."""
    lost: dict[tuple[str, str, str], list[float]] = {}
    auc: dict[tuple[str, str, str], list[float]] = {}
    twins: dict[str, list[Twin]] = {}
    for number in range(splits):
        anew = split_anew(sites, number)
        training = joined(site.split()[0] for site in anew.values())
        people = {"held out": joined(site.split()[1] for site in anew.values())}
        if test is not None:
            people["other hospitals"] = test
        twins = trained(anew, draws)
        for who, tested in people.items():
            plain = aucs(logistic_regression(training, tested), tested)
            alone = aucs(age_alone(tested), tested)
            for side, found in sides_of(twins, tested).items():
                for scores in found:
                    for name in ENDPOINTS:
                        auc.setdefault((who, name, side), []).append(scores[name])
                        lost.setdefault((who, name, side), []).append(plain[name] - scores[name])
            for name in ENDPOINTS:
                auc.setdefault((who, name, "pooled logistic regression"), []).append(plain[name])
                auc.setdefault((who, name, "age alone"), []).append(alone[name])
    for (who, name, side), values in sorted(auc.items()):
        out.row(
            f"{name}, {who}",
            side,
            statistics.mean(values),
            "AUC",
            lowest=round(min(values), 4),
            repeats=len(values),
        )
    for (who, name, side), values in sorted(lost.items()):
        epsilon = float(side.split()[1]) if side.startswith("epsilon") else None
        # Without privacy the mean over splits; with it the worst draw.
        value = statistics.mean(values) if epsilon is None else max(values)
        out.bar(f"AUC lost to pooled regression: {name}, {who}, {side}", value, MAY_LOSE[epsilon], "max")
    return twins


def elsewhere(out: Measured, pieces: Sites, *, countries: int) -> None:
    """Each large country left out of training: discrimination, calibration before and after, coverage."""
    sizes: dict[str, int] = {}
    for name, dataset in pieces.items():
        sizes[country_of(name)] = sizes.get(country_of(name), 0) + len(dataset)
    large = sorted((c for c, n in sizes.items() if n >= LARGE_COUNTRY), key=lambda c: -sizes[c])[:countries]
    found: dict[str, list[float]] = {}
    off = flagged = 0
    for country in large:
        others = {name: dataset for name, dataset in pieces.items() if country_of(name) != country}
        sites = grouped(others)
        there = joined(dataset for name, dataset in pieces.items() if country_of(name) == country)
        private = federated(study_for(PROGRAMME, sites, epsilon=3.0), PROGRAMME, sites)
        open_ = federated_without_privacy(PROGRAMME, sites, rounds=15, local_steps=6)
        for side, twin in (("federated", open_), ("epsilon 3", private)):
            scores, case = aucs(risks(twin.predict(there.values)), there), f"without {country}"
            for name in ENDPOINTS:
                out.row(case, f"{name}, {side}", scores[name], "AUC", people=len(there))
                found.setdefault(f"AUC {name} {side}", []).append(scores[name])
            off, flagged = place(out, case, side, twin, there, found, (off, flagged))
    for side in ("federated", "epsilon 3"):
        lowest = min(found[f"AUC dead_or_dependent {side}"])
        out.bar(
            f"leave one country out: lowest AUC, dead_or_dependent, {side}",
            lowest,
            LEAST_AUC_ELSEWHERE,
            "min",
        )
    places(out, "left-out countries", found, off, flagged)


def place(
    out: Measured,
    case: str,
    side: str,
    twin: Twin,
    there: Dataset,
    found: dict[str, list[float]],
    counted: tuple[int, int],
) -> tuple[int, int]:
    """Calibration and coverage at one place; the counts of places that were off, and of those that were flagged."""
    off, flagged = counted
    for name, measured in calibration(twin, there).items():
        # Told to recalibrate, or that too few patients can tell: never that it fits.
        told = measured.flag is not Flag.FITS
        out.row(
            case,
            f"O/E {name}, {side}",
            measured.before,
            "ratio",
            after=round(measured.after, 3),
            flag=measured.flag.value,
        )
        found.setdefault("O/E after", []).append(measured.after)
        off, flagged = off + measured.was_off, flagged + (measured.was_off and told)
    for name in ENDPOINTS:
        share = coverage(twin, there, name)
        out.row(case, f"coverage {name}, {side}", share, "1")
        found.setdefault("coverage", []).append(share)
    return off, flagged


def places(out: Measured, who: str, found: Mapping[str, list[float]], off: int, flagged: int) -> None:
    """The bars of all places together."""
    out.bar(f"{who}: lowest O/E after local recalibration", min(found["O/E after"]), 0.9, "min")
    out.bar(f"{who}: highest O/E after local recalibration", max(found["O/E after"]), 1.1, "max")
    out.bar(f"{who}: share warned of those off before ({off})", flagged / off if off else 1.0, 1.0, "min")
    away = max(abs(share - NOMINAL) for share in found["coverage"])
    out.bar(f"{who}: farthest conformal coverage from {NOMINAL:g}", away, WITHIN_COVERAGE, "max")


def effects(out: Measured, twins: Mapping[str, Sequence[Twin]], people: Dataset) -> None:
    """Risk differences by g-computation over everybody, beside what the lot says of the same people."""
    known, bad = six_months(people)["dead_or_dependent"]
    for treatment, (trial, low, high) in BY_LOT.items():
        given = people.values[:, PROGRAMME.feature_names.index(treatment)] > 0.5
        raw = 100 * (bad[known & given].mean() - bad[known & ~given].mean())
        out.row(f"{treatment}, dead or dependent", "by lot, these people", raw, "%", whole_trial=trial)
        estimand = declare(
            PROGRAMME,
            TreatmentPlan.always({treatment: 1.0}),
            TreatmentPlan.always({treatment: 0.0}),
            endpoint="dead_or_dependent",
            population="the trial's people",
        )
        for side, of_side in twins.items():
            values = [100 * population_effect(t, people.values, estimand).effect.value for t in of_side]
            out.row(
                f"{treatment}, dead or dependent",
                f"g-computed, {side}",
                statistics.mean(values),
                "%",
                lowest=round(min(values), 2),
                highest=round(max(values), 2),
            )
            out.bar(f"{treatment}, {side}: lowest difference", min(values), low, "min")
            out.bar(f"{treatment}, {side}: highest difference", max(values), high, "max")


def observations(
    out: Measured, side: str, twin: Twin, people: Dataset, numbers: Mapping[str, int], path: Path
) -> None:
    """The error of the status at six months, of patients alive on day 14, as more of their course is taken in."""
    table = list(read_rows(path))
    known, bad = six_months(people)["dead_or_dependent"]
    time = people.time_years[:, 0] * DAYS_PER_YEAR
    alive = np.where(people.event[:, 0] == 1, time > LANDMARK, True)
    used = known & alive
    people, bad = people.take(used), bad[used]
    home = [home_day(table[numbers[name]]) for name in people.patient_ids]
    errors = []
    for days in SEEN_ON_DAYS:
        seen = observed_until([None] * len(people), home, days) if days else {}
        risk = risks(twin.assimilate(people.values, seen).predict())["dead_or_dependent"]
        brier, log = brier_and_log(risk, bad)
        errors.append((brier, log))
        case = f"{len(days)} observations, alive on day 14"
        out.row(case, f"Brier, {side}", brier, "1", people=len(people))
        out.row(case, f"log score, {side}", log, "nat")
    for i, what in enumerate(("Brier", "log score")):
        worst = max(after[i] - before[i] for before, after in pairwise(errors))
        out.bar(f"largest change of the {what} with more observations, {side}", worst, 0.0, "max")


def grouped(pieces: Sites) -> Sites:
    """The nodes of these pieces."""
    of_node = nodes({name: len(dataset) for name, dataset in pieces.items()})
    return {name: joined(pieces[member] for member in members) for name, members in of_node.items()}


def measure(path: Path, test: Path | None, *, quick: bool) -> dict[str, Any]:
    """The result of the benchmark, with its bars."""
    torch.set_num_threads(1)
    out, people = Measured(), people_by_country(path)
    pieces, numbers = read(parts(people))
    sites = grouped(pieces)
    out.row("nodes", "all", len(sites), "nodes", people=sum(map(len, sites.values())))
    out.row("hospitals", "all", hospitals(m for members in people.values() for m in members), "hospitals")
    out.bar("nodes", len(sites), 20, "min")
    others, other_numbers = None, {}
    if test is not None:
        elsewhere_pieces, other_numbers = read(people_by_country(test))
        others = joined(elsewhere_pieces.values())
    splits, draws, countries = (1, 1, 2) if quick else (2, 3, MOST_COUNTRIES)
    twins = discrimination(out, sites, others, splits=splits, draws=draws)
    effects(out, twins, joined(sites.values()))
    for side in ("federated", "epsilon 3"):
        observations(out, side, twins[side][0], joined(sites.values()), numbers, path)
        if others is not None and test is not None:
            observations(out, f"{side}, other hospitals", twins[side][0], others, other_numbers, test)
    elsewhere(out, pieces, countries=countries)
    return {"name": "stroke", "machine": machine(), "rows": out.rows, "bars": out.bars}


def main() -> None:
    """Measure, and write the result where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="one split, one draw, two countries")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--train", type=Path, help="the trial's file, in place of the one below --data")
    parser.add_argument("--test", type=Path, help="hospitals that train nothing, a file of the same form")
    arguments = parser.parse_args()
    path = arguments.train or arguments.data / FILE
    if not path.exists():
        parser.error(f"{path} is not there: give --data or --train")
    result = json.dumps(measure(path, arguments.test, quick=arguments.quick), indent=2)
    if arguments.json:
        arguments.json.write_text(result, encoding="utf-8")
    else:
        print(result)


if __name__ == "__main__":
    main()
