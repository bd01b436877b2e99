"""How well the fatty-liver twin foresees on held-out people: federated at ε = 3 beside pooled, local and Cox.

The demo's three FHIR exports are read by the data adapters, then split into training and held-out people anew for each
split. Training uses the real engine with secure noise, so the federated rows differ from run to run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gemel.cli.demo.comparison import compare, pool, twin_scores
from gemel.cli.demo.hospitals import write_hospitals
from gemel.cli.demo.run import DELTA, MINIMUM_PATIENTS, shares, training
from gemel.cli.proposal import propose
from gemel.core.canonical import document_hash
from gemel.core.dataset import Dataset
from gemel.core.signing import SigningKey
from gemel.core.study import Study
from gemel.data_adapters.dataset.build import build
from gemel.privacy.engine import DpTrainer
from gemel.privacy.noise import NoiseSource
from gemel.privacy.statistics import noisy_counts
from gemel.server.aggregate import weighted_mean
from gemel.twins.hazard import HazardTwin
from gemel.twins.programmes.fatty_liver import PROGRAMME
from gemel.twins.programmes.fatty_liver.plan import DEFAULT_TRAINING
from gemel.twins.scores import observed_over_expected

EPSILON = 3.0
MARGIN = 0.02
OUTCOMES = ("death", "cardiovascular")


def hospitals() -> dict[str, Dataset]:
    """The demo's three hospitals, by way of FHIR."""
    with tempfile.TemporaryDirectory() as folder:
        exports = write_hospitals(Path(folder), hospitals=3, seed=1)
        return {e.name: build(e.folder, PROGRAMME, pseudonym_key=bytes(32))[0] for e in exports}


def split_anew(sites: dict[str, Dataset], number: int) -> dict[str, Dataset]:
    """The same people under other pseudonyms, so that others are held out."""
    return {name: _renamed(dataset, number) for name, dataset in sites.items()}


def _renamed(dataset: Dataset, number: int) -> Dataset:
    names = tuple(document_hash([number, name])[:32] for name in dataset.patient_ids)
    return Dataset(
        dataset.programme,
        dataset.programme_version,
        dataset.features,
        dataset.outcomes,
        names,
        dataset.values,
        dataset.time_years,
        dataset.event,
    )


def federated(study: Study, sites: dict[str, Dataset]) -> HazardTwin:
    """The study's training at its price: noisy counts, rounds of local steps, weighted means."""
    noise, twin = NoiseSource.secure(), HazardTwin(PROGRAMME)
    halves = {name: dataset.split()[0] for name, dataset in sites.items()}
    sizes = np.array([len(dataset) for dataset in sites.values()], dtype=np.int64)
    noisy = noisy_counts(sizes, noise_multiplier=study.privacy.count_noise_multiplier, noise=noise)
    counts = dict(zip(sites, noisy.astype(float).tolist(), strict=True))
    tensors = {name: twin.tensors(half) for name, half in halves.items()}
    model = twin.to_arrays()
    for _ in range(study.training.rounds):
        updates = {}
        for name, batch in tensors.items():
            twin.load_arrays(model)
            DpTrainer(study.training, noise=noise, expected_patients=counts[name] * 0.8).train(twin, batch)
            updates[name] = twin.to_arrays()
        model = weighted_mean(updates, counts)
    twin.load_arrays(model)
    return twin


Taken = dict[tuple[str, str], list[float]]


def take(study: Study, people: dict[str, Dataset], *, splits: int, draws: int) -> Taken:
    """10-year AUC (and calibration) by (case, side) over the splits, of the federated twin over draws of noise in each."""
    taken: Taken = {}
    for number in range(splits):
        sites = split_anew(people, number)
        held_out = pool([dataset.split()[1] for dataset in sites.values()])
        twins = [federated(study, sites) for _ in range(draws)]
        others = compare(PROGRAMME, sites, twins[0])
        for outcome in OUTCOMES:
            for side in ("pooled", "local", "cox"):
                taken.setdefault((outcome, side), []).append(others[side][outcome]["auc_10y"])
        for twin in twins:
            incidence = twin.predict(held_out.values).cumulative_incidence[:, 10]
            for j, outcome in enumerate(OUTCOMES):
                ratio = observed_over_expected(held_out, j, incidence[:, j], years=10)
                taken.setdefault((outcome, "federated observed/expected"), []).append(ratio)
            mine = {outcome: of["auc_10y"] for outcome, of in twin_scores(twin, held_out).items()}
            for outcome in OUTCOMES:
                taken.setdefault((outcome, "federated_dp"), []).append(mine[outcome])
                for side in ("pooled", "cox"):
                    gain = mine[outcome] - others[side][outcome]["auc_10y"]
                    taken.setdefault((outcome, f"federated - {side}"), []).append(gain)
    return taken


def measure(*, splits: int, draws: int) -> dict[str, Any]:
    """The result of the benchmark, with its two bars."""
    torch.set_num_threads(1)
    people = hospitals()
    study = propose(
        PROGRAMME,
        training(DEFAULT_TRAINING.rounds),
        shares(),
        sites={name: SigningKey.generate().public_hex for name in people},
        epsilon=EPSILON,
        delta=DELTA,
        minimum_patients=MINIMUM_PATIENTS,
        quorum=2,
        round_timeout_s=60.0,
        study_id="benchmark",
    )
    taken = take(study, people, splits=splits, draws=draws)
    rows = [
        {
            "case": f"{outcome} 10 y",
            "side": side,
            "value": round(statistics.mean(values), 4),
            "unit": "ratio" if "observed" in side else "AUC",
            "lowest": round(min(values), 4),
            "highest": round(max(values), 4),
            "repeats": len(values),
        }
        for (outcome, side), values in taken.items()
    ]
    death = min(taken["death", "federated - pooled"])
    heart = min(taken["cardiovascular", "federated - cox"])
    return {
        "name": "twin_accuracy",
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        },
        "rows": rows,
        "bars": [
            bar("death: federated - pooled, worst run", death, -MARGIN),
            bar("cardiovascular: federated - Cox, worst run", heart, 0.0),
        ],
    }


def bar(name: str, value: float, least: float) -> dict[str, Any]:
    """A bar that a value must at least reach."""
    value = round(value, 4)
    return {"name": name, "value": value, "bar": least, "direction": "min", "ok": value >= least}


def main() -> None:
    """Measure, and write the result where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    size = {"splits": 1, "draws": 1} if arguments.quick else {"splits": 5, "draws": 3}
    result = json.dumps(measure(**size), indent=2)
    if arguments.json:
        arguments.json.write_text(result, encoding="utf-8")
    else:
        print(result)


if __name__ == "__main__":
    main()
