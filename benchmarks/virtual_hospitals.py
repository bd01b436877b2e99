"""Many virtual hospitals in one process: time for each hospital and round, and memory, by how many there are.

Two sides. `grid`: the in-process grid with a ClientApp that sends back a model of 1,000 numbers, the floor of what Flower's
own messages cost. `node`: `gemel study simulate` with made-up patients, so that each answer is a whole node's: signatures,
approval, ledger, patients, six noisy steps, gate, outbox, certificate. Processor time, as the wall clock is the machine's
other work too; each case in a process of its own, whose peak memory it is.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATIENTS, ROUNDS, EPSILON, DELTA = 50, 2, 3.0, 1e-5
MODEL_NUMBERS = 1000
# Written down once: processor ms for each hospital and round, and MB, with 1,000 hospitals.
BAR_GRID_MS, BAR_NODE_MS, BAR_MEMORY_MB = 1.0, 30.0, 1000.0


def measure_grid(hospitals: int) -> dict[str, float]:
    """Three rounds over the grid with a ClientApp that answers with what it was sent."""
    import numpy as np
    from flwr.app import ArrayRecord, Context, Message, RecordDict
    from flwr.clientapp import ClientApp

    from gemel.server.flower.in_process_grid import InProcessGrid

    client = ClientApp()

    @client.train()
    def train(message: Message, _context: Context) -> Message:
        return Message(RecordDict({"model": message.content["model"]}), reply_to=message)

    grid = InProcessGrid(client, hospitals)
    model = ArrayRecord([np.zeros(MODEL_NUMBERS, dtype=np.float32)])

    def one_round() -> None:
        messages = [
            Message(RecordDict({"model": model}), dst_node_id=node, message_type="train")
            for node in grid.get_node_ids()
        ]
        if len(list(grid.send_and_receive(messages))) != hospitals:
            raise SystemExit("a node did not answer")

    one_round()
    processor, wall = time.process_time(), time.perf_counter()
    for _ in range(3):
        one_round()
    return {
        "processor_ms": (time.process_time() - processor) * 1000 / (3 * hospitals),
        "wall_ms": (time.perf_counter() - wall) * 1000 / (3 * hospitals),
    }


def measure_node(hospitals: int) -> dict[str, float]:
    """A whole simulated study; for each answer of a node, hellos and evaluations among them."""
    from gemel.cli.proposal import propose, usual_training
    from gemel.cli.simulate import simulated
    from gemel.cli.virtual_hospitals import divide, site_names
    from gemel.client_node.audit.people import made_up_dataset
    from gemel.twins.programmes.fatty_liver import PROGRAMME

    training, shares = usual_training(PROGRAMME, rounds=ROUNDS)
    study = propose(
        PROGRAMME,
        training,
        shares,
        sites={"a": "00" * 32, "b": "01" * 32},
        epsilon=EPSILON,
        delta=DELTA,
        minimum_patients=1,
        quorum=2,
        round_timeout_s=60.0,
        study_id="simulate",
    )
    dataset = made_up_dataset(PROGRAMME, patients=hospitals * PATIENTS, seed=0)
    parts = dict(zip(site_names(hospitals), divide(dataset, hospitals, seed=0), strict=True))
    processor = time.process_time()
    with simulated(study, parts, progress=False) as simulation:
        processor = time.process_time() - processor
        certificate = simulation.run.certificate
        if certificate is None or certificate.payload["status"] != "complete":
            raise SystemExit("the simulated run is not complete")
        tasks = certificate.payload["tasks"]
        rounds = [t["seconds"] for t in tasks if t["task"].startswith("train/")]
    return {
        "processor_ms": processor * 1000 / simulation.messages,
        "wall_ms": simulation.run_s * 1000 / simulation.messages,
        "settle_ms": simulation.settle_s * 1000 / hospitals,
        "round_s": sum(rounds) / len(rounds),
    }


SIDES: dict[str, Callable[[int], dict[str, float]]] = {"grid": measure_grid, "node": measure_node}


def apart(side: str, hospitals: int) -> dict[str, float]:
    """One case in a process of its own, with its peak memory."""
    done = subprocess.run(
        [sys.executable, __file__, "--case", side, str(hospitals)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    )
    if done.returncode != 0:
        raise SystemExit(f"{side} with {hospitals}: {done.stderr[-2000:]}")
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def main() -> None:
    """Measure, print a line for each number, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--case", nargs=2)
    options = parser.parse_args()
    if options.case:
        side, hospitals = options.case
        measured = SIDES[side](int(hospitals))
        measured["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(measured))
        return
    sizes = (10, 100) if options.quick else (10, 100, 1000)
    rows: list[dict[str, Any]] = []
    largest: dict[str, dict[str, float]] = {}
    for side in SIDES:
        for hospitals in sizes:
            measured = largest[side] = apart(side, hospitals)
            for name, value in measured.items():
                unit = name.rpartition("_")[2].replace("mb", "MB")
                rows.append(
                    {"case": f"{hospitals} hospitals, {name}", "side": side, "value": value, "unit": unit}
                )
                print(f"{hospitals:>5} hospitals  {side:<5} {name:<13} {value:10.2f} {unit}")
    bars = [
        _bar("grid: processor ms for each hospital and round", largest["grid"]["processor_ms"], BAR_GRID_MS),
        _bar("node: processor ms for each answer", largest["node"]["processor_ms"], BAR_NODE_MS),
        _bar("node: peak memory, MB", largest["node"]["peak_mb"], BAR_MEMORY_MB),
    ]
    for bar in bars:
        print(f"{'ok  ' if bar['ok'] else 'MISS'} {bar['name']}: {bar['value']:.2f} (bar {bar['bar']:g})")
    result = {
        "name": "virtual_hospitals",
        "machine": {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "system": platform.platform(),
        },
        "settings": {"patients": PATIENTS, "rounds": ROUNDS, "model_numbers": MODEL_NUMBERS},
        "rows": rows,
        "bars": bars,
    }
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    sys.exit(0 if all(bar["ok"] for bar in bars) else 1)


def _bar(name: str, value: float, bar: float) -> dict[str, Any]:
    return {"name": name, "value": value, "bar": bar, "direction": "max", "ok": value <= bar}


if __name__ == "__main__":
    main()
