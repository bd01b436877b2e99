"""One process of `rounds.py`: what an update goes through between a node's worker and the next model, without a network.

    python _rounds_path.py VALUES

Three sites, one after another: arrays are encoded, held against what is declared (the gate's own check), hashed, made durable
in an outbox and read back as they are sent; at the coordinator hashed, decoded and checked, made durable; then averaged from
the kept files and written as the next model. Memory is the highest above the start, in private memory of this process (the
page cache gives kept files back when asked), in copies of one update. Prints JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from gemel.core.arrays import ArraySpec, check_arrays, pack_arrays, unpack_arrays
from gemel.core.canonical import sha256_hex
from gemel.core.files import write_durably
from gemel.core.messages import Envelope
from gemel.server.aggregate import weighted_mean
from gemel.server.home import RunFolder

SITES = ("alpha", "beta", "gamma")


class Highest:
    """The most private memory of this process (bytes) while it is watched."""

    def __init__(self) -> None:
        self.bytes = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Highest:
        self.bytes = now_bytes()
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.002):
            self.bytes = max(self.bytes, now_bytes())


def now_bytes() -> int:
    """Private memory of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the kernel tells no RssAnon")


def node(folder: Path, site: str, declared: dict[str, ArraySpec], values: int) -> float:
    """A node's half; seconds without the making of the arrays."""
    chance = np.random.default_rng(len(site))
    arrays = {name: chance.random(values // 4, np.float32) for name in declared}
    started = time.perf_counter()
    payload = pack_arrays(arrays)
    check_arrays(arrays, declared)
    sha256_hex(payload)
    write_durably(folder / f"{site}.outbox", payload)
    return time.perf_counter() - started


def coordinator(run: RunFolder, folder: Path, site: str, declared: dict[str, ArraySpec]) -> None:
    """The coordinator's half, for one site."""
    payload = (folder / f"{site}.outbox").read_bytes()
    sha256_hex(payload)
    unpack_arrays(payload, declared)
    run.save_release("train/1", site, Envelope(document=b"{}", payload=payload))


def main() -> None:
    """Run it once to warm up, then three times; the median."""
    values = int(sys.argv[1])
    declared = {f"wide_{number}": ArraySpec((values // 4,), "float32") for number in range(4)}
    rates, copies = [], []
    for _ in range(4):
        with tempfile.TemporaryDirectory(prefix="path-") as name:
            folder = Path(name)
            run = RunFolder(folder / "run")
            run.folder.mkdir()
            before, taken = now_bytes(), 0.0
            with Highest() as highest:
                for site in SITES:
                    taken += node(folder, site, declared, values)
                started = time.perf_counter()
                for site in SITES:
                    coordinator(run, folder, site, declared)
                updates = {site: run.map_release("train/1", site) for site in SITES}
                run.save_model("model-0001", weighted_mean(updates, dict.fromkeys(SITES, 1.0)))
                taken += time.perf_counter() - started
            rates.append(len(SITES) * values * 4 / 1e6 / taken)
            copies.append((highest.bytes - before) / (values * 4))
    print(json.dumps({"mb_s": sorted(rates[1:])[1], "copies": max(copies[1:])}))


if __name__ == "__main__":
    main()
