"""A private epoch beside an ordinary one on a GPU: Gemel, Opacus' modes (docs/performance.md). Without a GPU it says so.

Wall seconds between two synchronisations; patients lie on the GPU, so that no side waits for a copy of them. Sides take
turns in each round, in an order that moves on, and ratios are taken within a round. TensorFloat-32 as torch has it by default.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from _dp_gemel import CLIP, LEARNING_RATE, NOISE
from _dp_models import CASES, Case, Loss, WithLoss
from _dp_sides import OPACUS_MODES
from opacus import PrivacyEngine
from torch import Tensor

from gemel.core.study import TrainingPlan
from gemel.privacy.engine import DpTrainer
from gemel.privacy.noise import NoiseSource

Epoch = Callable[[], None]
# Batches that a GPU is used for: more patients in a step than the processor's cases.
SIZES = {
    "MLP 60-256-128-1, batch 1024": (4096, 65_536),
    "GRU T48 F16 H32, batch 256": (1024, 16_384),
    "transformer T48 d32 x2, batch 256": (1024, 16_384),
    "TCN T48 C32 x3, batch 256": (1024, 16_384),
    "3-D U-Net 32^3, batch 4": (32, 256),
}


def batches(case: Case, patients: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Shuffled batches of one size."""
    order = torch.randperm(case.patients, device="cuda").split(case.batch)
    return [{name: tensor[rows] for name, tensor in patients.items()} for rows in order]


def plain(case: Case, patients: dict[str, Tensor]) -> Epoch:
    """The usual loop over shuffled batches."""
    model, loss = case.network(False).cuda(), Loss()
    optimiser = torch.optim.SGD(model.parameters(), LEARNING_RATE)

    def epoch() -> None:
        for batch in batches(case, patients):
            optimiser.zero_grad()
            loss(model(batch["x"]), batch["y"]).backward()
            optimiser.step()

    return epoch


def gemel(case: Case, patients: dict[str, Tensor]) -> Epoch:
    """Poisson samples and noise from the cryptographic source, as a node trains."""
    plan = TrainingPlan(
        rounds=1,
        local_steps=case.steps,
        learning_rate=LEARNING_RATE,
        momentum=0.0,
        max_grad_norm=CLIP,
        sample_rate=case.batch / case.patients,
        noise_multiplier=NOISE,
    )
    model = WithLoss(case.network(False)).cuda()
    trainer = DpTrainer(plan, noise=NoiseSource.secure(), expected_patients=float(case.patients))
    return lambda: trainer.train(model, patients)


def opacus(case: Case, patients: dict[str, Tensor], mode: str) -> Epoch:
    """Opacus' model, optimiser and criterion over batches of one size: without its loader, which would copy patients."""
    warnings.filterwarnings("ignore")
    model, loss = case.network(True).cuda(), Loss()
    optimiser = torch.optim.SGD(model.parameters(), LEARNING_RATE)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(*patients.values()), batch_size=case.batch
    )
    made = PrivacyEngine().make_private(
        module=model,
        optimizer=optimiser,
        data_loader=loader,
        noise_multiplier=NOISE,
        max_grad_norm=CLIP,
        poisson_sampling=False,
        grad_sample_mode=mode,
        criterion=loss,
    )
    private, private_optimiser, *rest = made
    criterion = rest[0] if len(rest) == 2 else loss

    def epoch() -> None:
        for batch in batches(case, patients):
            private_optimiser.zero_grad()
            criterion(private(batch["x"]), batch["y"]).backward()
            private_optimiser.step()

    return epoch


def seconds(epoch: Epoch) -> float:
    """Of one epoch, to the end of its last kernel."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    epoch()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def measure_case(name: str, *, rounds: int) -> list[dict[str, Any]]:
    """Rows of one case: each side over the ordinary epoch."""
    batch, patients = SIZES[name]
    case = replace(CASES[name], batch=batch, patients=patients)
    x, y = case.data()
    on_gpu = {"x": x.cuda(), "y": y.cuda()}
    makers: dict[str, Callable[[], Epoch]] = {
        "plain": lambda: plain(case, on_gpu),
        "gemel": lambda: gemel(case, on_gpu),
    }
    for side, mode in OPACUS_MODES.items():
        makers[side] = lambda mode=mode: opacus(case, on_gpu, mode)
    epochs, rows = {}, []
    label = f"{name.split(',')[0]}, batch {batch}"
    for side, make in makers.items():
        try:
            epoch = make()
            seconds(epoch)
            epochs[side] = epoch
        except Exception as error:
            if side in ("plain", "gemel"):
                raise
            rows.append({"case": label, "side": side, "value": None, "unit": type(error).__name__})
    taken: dict[str, list[float]] = {side: [] for side in epochs}
    for turn in range(rounds):
        order = list(epochs)
        for side in order[turn % len(order) :] + order[: turn % len(order)]:
            taken[side].append(seconds(epochs[side]))
    for side, values in taken.items():
        ratios = [a / b for a, b in zip(values, taken["plain"], strict=True)]
        rows.append(
            {
                "case": label,
                "side": side,
                "value": round(statistics.median(ratios), 3),
                "unit": "of an ordinary epoch",
                "lowest": round(min(ratios), 3),
                "highest": round(max(ratios), 3),
                "ms_an_epoch": round(1e3 * statistics.median(values), 2),
            }
        )
    epochs.clear()
    gc.collect()
    torch.cuda.empty_cache()
    return rows


def main() -> None:
    """Measure, and write the result where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="two rounds")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    machine: dict[str, Any] = {"torch": torch.__version__, "gpu": None}
    if torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
        for name in SIZES:
            rows += measure_case(name, rounds=2 if arguments.quick else 7)
            print(*(row for row in rows if row["case"].split(",")[0] == name.split(",")[0]), sep="\n")
    else:
        rows.append({"case": "all", "side": "gemel", "value": None, "unit": "no GPU on this machine"})
    result = {"name": "dp_step_gpu", "machine": machine, "rows": rows, "bars": []}
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2), encoding="utf-8")
    else:
        print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
