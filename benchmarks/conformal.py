"""How often conformal intervals, sets and time bounds hold: on simulations, by country of the stroke trial, in fatty-liver follow-up.

The models here are simple ones, fitted in this program: what is measured is the calibration, not a twin. Of each country of the trial
(`--data DIR`/clinical/ist/ist.csv.gz) a model of the other countries predicts dead, dependent, not recovered or recovered; one half of its
patients calibrate, the other half is covered or not, over many random halves. Beside it: with the threshold of the other countries.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from gemel.core.concepts import load_concepts
from gemel.core.dataset import Dataset
from gemel.core.programme import (
    CohortDefinition,
    Endpoint,
    Feature,
    FeatureKind,
    Outcome,
    OutcomeKind,
    Programme,
)
from gemel.twins.baselines import fit_without_privacy
from gemel.twins.hazard import HazardTwin
from gemel.twins.uncertainty import calibrate_time
from gemel.twins.uncertainty.conformal import (
    conformal_quantile,
    incidence_at,
    prediction_sets,
    set_scores,
    survival_bound,
    survival_threshold,
    tie_breaks,
    value_interval,
    value_scores,
)

Floats = NDArray[np.float64]
LEVEL = 0.9
DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"
# Fewer known patients make no halves to measure a coverage on.
FEWEST_OF_A_COUNTRY = 100
FURTHEST = 0.03  # of a country's coverage from the nominal level: the project's bar
FURTHEST_SIMULATED = 0.01
_CALIBRATION = 199  # (n + 1) · level is whole: coverage is exactly the level
_TIMES = np.arange(11.0)


def row(case: str, side: str, value: float, unit: str = "share", **more: Any) -> dict[str, Any]:
    """A row of the result."""
    return {"case": case, "side": side, "value": round(float(value), 4), "unit": unit, **more}


def at_most(name: str, value: float, bar: float) -> dict[str, Any]:
    """A bar that a value must not exceed."""
    value = round(float(value), 4)
    return {"name": name, "value": value, "bar": bar, "direction": "max", "ok": value <= bar}


def simulated(draws: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Coverage over new calibration and test patients in each draw, by twins that are wrong."""
    sides: dict[str, Callable[[np.random.Generator], float]] = {
        "measured value": _value,
        "ordinal set": _ordinal,
        "time bound, censored": _time,
    }
    rows, bars = [], []
    for side, once in sides.items():
        random = np.random.default_rng(1)
        covered = np.array([once(random) for _ in range(draws)])
        rows.append(row("simulated, wrong twin", side, covered.mean(), nominal=LEVEL, draws=draws))
        bars.append(
            at_most(
                f"simulated {side}: distance from {LEVEL}", abs(covered.mean() - LEVEL), FURTHEST_SIMULATED
            )
        )
    return rows, bars


def _value(random: np.random.Generator) -> float:
    x = random.normal(size=2 * _CALIBRATION)
    measured = np.exp(x) + random.standard_t(4, len(x)) * (1 + np.abs(x))
    mean, spread, here = 1.5 * x, np.full(len(x), 0.3), slice(_CALIBRATION)
    threshold = conformal_quantile(value_scores(measured[here], mean[here], spread[here]), LEVEL)
    low, high = value_interval(mean[_CALIBRATION:], spread[_CALIBRATION:], threshold)
    return float(np.mean((low <= measured[_CALIBRATION:]) & (measured[_CALIBRATION:] <= high)))


def _ordinal(random: np.random.Generator) -> float:
    odds = 2 * random.normal(size=(2 * _CALIBRATION, 4))
    truth = np.exp(odds) / np.exp(odds).sum(axis=1, keepdims=True)
    level = (truth.cumsum(axis=1) < random.random((len(odds), 1))).sum(axis=1)
    said = truth**3 / (truth**3).sum(axis=1, keepdims=True)
    return _covered_by_sets(said, level, random.random(len(odds)), _CALIBRATION)


def _covered_by_sets(said: Floats, level: NDArray[np.int64], tie: Floats, first: int) -> float:
    scores = set_scores(said, tie)[np.arange(len(level)), level]
    threshold = conformal_quantile(scores[:first], LEVEL)
    held = prediction_sets(said[first:], tie[first:], threshold, keep_likeliest=False)
    return float(np.mean(held[np.arange(len(held)), level[first:]]))


def _time(random: np.random.Generator) -> float:
    """Uniform leaving over 14 years; the twin's hazards are twice too high."""
    patients, first = 8 * _CALIBRATION, 4 * _CALIBRATION
    rate = np.exp(random.normal(-2.5, 0.7, patients))
    time, leaves = random.exponential(1 / rate), random.uniform(0, 14, patients)
    seen = np.minimum(np.minimum(time, leaves), 10.0)
    known = (time <= leaves) | (leaves >= 10)
    weight = np.where(known, 1 / (1 - seen / 14), 0.0)
    incidence = 1 - np.exp(-2 * rate[:, None] * _TIMES)
    case, here = (time <= 10) & (time <= leaves), slice(first)
    at = incidence_at(incidence, _TIMES, np.minimum(time, 10.0))
    threshold = survival_threshold(at[here], case[here], weight[here], LEVEL)
    bound = survival_bound(incidence[first:], _TIMES, threshold)
    return float(np.mean(time[first:] >= bound))


def by_country(file: Path, halves: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Sets of the outcome at six months in each country, by a model of the others."""
    people = pd.read_csv(file, low_memory=False)
    people = people[people["OCCODE"].isin([1, 2, 3, 4])]
    values = _known_at_randomisation(people)
    level = people["OCCODE"].map({4: 0, 3: 1, 2: 2, 1: 3}).to_numpy()
    country, tie = people["COUNTRY"].to_numpy(str), tie_breaks(values)
    names, counts = np.unique(country, return_counts=True)
    rows, off, before = [], {}, {}
    for name in names[counts >= FEWEST_OF_A_COUNTRY]:
        mine = country == name
        others = np.flatnonzero(~mine)
        fitted, kept = others[others % 5 > 0], others[others % 5 == 0]
        model = LogisticRegression(max_iter=2000).fit(values[fitted], level[fitted])
        scores = set_scores(model.predict_proba(values[kept]), tie[kept])[np.arange(len(kept)), level[kept]]
        foreign = conformal_quantile(scores, LEVEL)
        said, at, ties = model.predict_proba(values[mine]), level[mine], tie[mine]
        held = prediction_sets(said, ties, foreign, keep_likeliest=False)
        before[name] = float(np.mean(held[np.arange(len(at)), at]))
        random = np.random.default_rng(0)
        covered = [_half(said, at, ties, random.permutation(len(at))) for _ in range(halves)]
        off[name] = float(np.mean(covered))
        size = prediction_sets(said, ties, foreign).sum(axis=1).mean()
        rows.append(row(f"trial, {name}", "threshold of the others", before[name], patients=len(at)))
        rows.append(
            row(
                f"trial, {name}",
                "threshold of its own",
                off[name],
                patients=len(at),
                spread=round(float(np.std(covered)), 4),
            )
        )
        rows.append(row(f"trial, {name}", "levels in a set, threshold of the others", size, "of 4"))
    if not off:
        return rows, []
    worst = max(abs(share - LEVEL) for share in off.values())
    unmended = max(abs(share - LEVEL) for share in before.values())
    rows.append(row("trial, worst country", "threshold of the others", unmended, "distance from nominal"))
    return rows, [at_most(f"trial: worst of {len(off)} countries, distance from {LEVEL}", worst, FURTHEST)]


def _half(said: Floats, level: NDArray[np.int64], tie: Floats, order: NDArray[np.int64]) -> float:
    return _covered_by_sets(said[order], level[order], tie[order], len(order) // 2)


def _known_at_randomisation(people: pd.DataFrame) -> Floats:
    columns = [
        people["AGE"] / 10,
        (people["SEX"] == "M") * 1.0,
        people["RSBP"].clip(80, 260) / 20,
        people["RDELAY"] / 24,
    ]
    columns += [(people["RCONSC"] == state) * 1.0 for state in "DU"]
    columns += [(people[f"RDEF{i}"] == "Y") * 1.0 for i in range(1, 9)]
    columns += [(people["RATRIAL"] == "Y") * 1.0, (people["RVISINF"] == "Y") * 1.0]
    columns += [(people["STYPE"] == kind) * 1.0 for kind in ("TACS", "PACS", "LACS")]
    return np.asarray(np.nan_to_num(np.column_stack([c.to_numpy(float) for c in columns])), np.float64)


def _follow_up_programme() -> Programme:
    def feature(
        name: str, kind: FeatureKind, unit: str, numbers: tuple[float, ...], *concepts: str
    ) -> Feature:
        low, high, mean, scale = numbers
        return Feature(
            name=name, title=name, kind=kind, unit=unit, low=low, high=high, reference_mean=mean, scale=scale,
            source="round numbers, chosen", concepts=concepts,
        )  # fmt: skip

    return Programme(
        name="follow_up",
        version="1",
        title="Death",
        question="How often does a time bound hold?",
        cohort=CohortDefinition(minimum_age_years=18, maximum_age_years=100, minimum_follow_up_days=1),
        concepts=(load_concepts()["body_mass_index"],),
        features=(
            feature("age_years", FeatureKind.AGE, "a", (18, 100, 55, 15)),
            feature("male", FeatureKind.MALE, "1", (0, 1, 0, 1)),
            feature("body_mass_index_kg_m2", FeatureKind.LAST, "kg/m2", (15, 60, 28, 6), "body_mass_index"),
        ),
        outcomes=(Outcome(name="death", title="Death", kind=OutcomeKind.DEATH),),
        horizon_years=15,
        endpoints=(Endpoint(name="death", title="Death", outcome="death", horizons_days=(3652,)),),
    )


def follow_up(file: Path, halves: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Times before which people do not die, in a hospital of old people: by the others' calibration, and by its own."""
    programme = _follow_up_programme()
    people = pd.read_csv(file)
    years = np.maximum(people["futime"].to_numpy(float), 1.0)[:, None] / 365.25
    data = Dataset(
        programme.name,
        programme.version,
        programme.feature_names,
        programme.outcome_names,
        tuple(f"{i:08d}" for i in range(len(people))),
        people[["age", "male", "bmi"]].to_numpy(np.float32),
        years.astype(np.float32),
        people[["status"]].to_numpy(np.int8),
    )
    random = np.random.default_rng(2)
    part = random.integers(0, 3, len(data))
    twin = fit_without_privacy(HazardTwin(programme), data.take(part == 0))
    old = data.values[:, 0] >= 70
    rows, bars = [], []
    for name, here in (("everybody", np.ones(len(data), np.bool_)), ("those of 70 and over", old)):
        shares = {"calibrated on everybody": [], "calibrated on its own": []}  # type: dict[str, list[float]]
        for _ in range(halves):
            half = (part > 0) & (random.random(len(data)) < 0.5)
            tested = data.take((part > 0) & ~half & here)
            said = twin.predict(tested.values)
            for side, of in (("calibrated on everybody", half), ("calibrated on its own", half & here)):
                mine = data.take(of)
                found = calibrate_time(twin.predict(mine.values), mine, programme, "death", level=LEVEL)
                covered, weight = found.covered(said, tested)
                shares[side].append(float((weight * covered).sum() / weight.sum()))
        rows += [
            row(f"follow-up, {name}", side, float(np.mean(found)), halves=halves)
            for side, found in shares.items()
        ]
        own = float(np.mean(shares["calibrated on its own"]))
        bars.append(at_most(f"follow-up, {name}: distance from {LEVEL}", abs(own - LEVEL), FURTHEST))
    return rows, bars


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer draws and halves")
    parser.add_argument("--json", type=Path, help="where the result goes")
    parser.add_argument("--data", type=Path, default=DATA, help="the folder of open data")
    arguments = parser.parse_args()
    rows, bars = simulated(200 if arguments.quick else 3000)
    halves = 20 if arguments.quick else 200
    for name, measure, repeats in (
        ("clinical/ist/ist.csv.gz", by_country, halves),
        ("clinical/nafld/nafld1.csv.gz", follow_up, halves // 10),
    ):
        if not (arguments.data / name).exists():
            rows.append(row(name, "not there", 0.0))
            continue
        found, held = measure(arguments.data / name, repeats)
        rows, bars = rows + found, bars + held
    result = {
        "name": "conformal",
        "machine": {
            "system": platform.platform(),
            "processors": os.cpu_count(),
            "python": platform.python_version(),
        },
        "rows": rows,
        "bars": bars,
    }
    for line in (*rows, *bars):
        print(json.dumps(line))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1), encoding="utf-8")
    return 0 if all(bar["ok"] for bar in bars) else 1


if __name__ == "__main__":
    raise SystemExit(main())
