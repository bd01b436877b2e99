"""Secure aggregation: computation and bytes of a whole sum, ours beside Flower's legacy SecAgg+.

Computation is the processor time of all nodes and the coordinator together, driven one after the other in one process,
without a network: keys, shares, quantising, masking, unmasking, decoding, and on our side every signature and every
durable state file. Both sides clip at 8, quantise to 2^22 levels, count modulo 2^32 and form a weighted mean; nodes
drop after they shared their keys and before their input, which is the dearest moment. The bars are at 10^6 values and
ten nodes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gemel.core.signing import SigningKey
from gemel.privacy.secure_aggregation import (
    Collector,
    Context,
    Layout,
    Participant,
    Ring,
    default_threshold,
    encoding,
)

LIMIT, FRACTION_BITS, MOST_WEIGHT, WEIGHT = 8.0, 18, 1000.0, 1000.0
BAR_VALUES, BAR_NODES = 1_000_000, 10
BAR_SPEED, BAR_UPLOAD = 3.0, 1.1
QUICK = [(10_000, 3, 0.0), (10_000, 10, 0.3), (BAR_VALUES, BAR_NODES, 0.0)]
FULL = [
    *((values, nodes, dropout) for values in (10_000, 100_000, 1_000_000, 10_000_000) for nodes in (3, 10)
      for dropout in (0.0, 0.1, 0.3)),
    *((values, 50, dropout) for values in (10_000, 1_000_000, 10_000_000) for dropout in (0.0, 0.3)),
]  # fmt: skip
# values · nodes²: above, one run; above the second, legacy is left out: it holds every masked vector at once.
ONE_RUN, LEGACY_LIMIT = 3e8, 3e9
MANY = 50  # legacy takes minutes to share secrets among so many, so both sides run once


class Watch:
    """Processor and wall time of what runs between `on` and its end, less what runs inside `off`."""

    def __init__(self) -> None:
        self.processor_s = self.wall_s = 0.0

    @contextmanager
    def on(self, sign: int = 1) -> Iterator[None]:
        processor, wall = time.process_time(), time.perf_counter()
        try:
            yield
        finally:
            self.processor_s += sign * (time.process_time() - processor)
            self.wall_s += sign * (time.perf_counter() - wall)

    def off(self) -> Any:
        return self.on(-1)


@dataclass(frozen=True)
class Case:
    values: int
    nodes: int
    dropped: frozenset[int]
    threshold: int

    @property
    def name(self) -> str:
        return f"{self.values:.0e} x {self.nodes}, {len(self.dropped)} dropped".replace("e+0", "e")

    @property
    def cost(self) -> float:
        return self.values * self.nodes**2

    def update(self, node: int) -> Any:
        """The node's update, the same at each call: nothing of that size is kept."""
        return np.random.default_rng(node).standard_normal(self.values, dtype=np.float32)

    def mean(self) -> Any:
        total = np.zeros(self.values)
        left = [i for i in range(self.nodes) if i not in self.dropped]
        for node in left:
            total += np.clip(self.update(node), -LIMIT, LIMIT)
        return total / len(left)


def case(values: int, nodes: int, dropout: float) -> Case | None:
    """The case, or None when so many dropouts leave fewer nodes than the default threshold."""
    dropped = round(nodes * dropout)
    if (dropout > 0 and dropped == 0) or nodes - dropped < default_threshold(nodes):
        return None
    return Case(values, nodes, frozenset(range(dropped)), default_threshold(nodes))


def ours(this: Case, watch: Watch) -> tuple[Any, float, bool]:
    """The mean, the bytes that a survivor sent, and whether the ring's sum is that of the survivors' words."""
    keys = [SigningKey.generate() for _ in range(this.nodes)]
    sites = {f"site{i:02}": key.public_hex for i, key in enumerate(keys)}
    entries = (
        *encoding.reals({"w": (this.values,)}, limit=LIMIT, fraction_bits=FRACTION_BITS),
        encoding.weight_entry(fraction_bits=FRACTION_BITS),
    )
    layout = Layout(entries=entries, ring=Ring(bits=32), parties=this.nodes)
    context = Context(
        study_sha256="0" * 64, task="train/1", attempt=1, sites=sites, threshold=this.threshold,
        least_survivors=this.threshold, bits=32, length=layout.length, layout_sha256=layout.sha256,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        nodes = [Participant(Path(folder) / s, k, s) for s, k in zip(sites, keys, strict=True)]
        return _drive(this, nodes, layout, context, watch)


def _drive(
    this: Case, nodes: list[Participant], layout: Layout, context: Context, watch: Watch
) -> tuple[Any, float, bool]:
    left = [node for i, node in enumerate(nodes) if i not in this.dropped]
    sent = dict.fromkeys((node.site for node in nodes), 0)
    expected = np.zeros(layout.length, np.uint32)
    collector = Collector(context)

    def say(node: Participant, document: bytes, take: Callable[[str, bytes], None]) -> None:
        sent[node.site] += len(document)
        take(node.site, document)

    with watch.on():
        for node in nodes:
            say(node, node.advertise(context), collector.take_advertisement)
        roster = collector.close_advertisements()
        for node in nodes:
            say(node, node.share(context, roster), collector.take_shares)
        deliveries = collector.close_shares()
        for node in left:
            with watch.off():
                update = {"w": this.update(nodes.index(node))}
            vector = encoding.weighted(layout, update, weight=WEIGHT, most=MOST_WEIGHT)
            document, content = node.mask(context, deliveries[node.site], vector)
            with watch.off():
                expected += vector
            sent[node.site] += len(document) + len(content)
            collector.take_masked(node.site, document, content)
        survivors = collector.close_masked()
        for node in left:
            say(node, node.confirm(context, survivors), collector.take_confirmation)
        request = collector.close_confirmations()
        for node in left:
            say(node, node.unmask(context, request), collector.take_unmasking)
        total = collector.result()
        with watch.off():
            exact = bool(np.array_equal(total, expected))
        mean = encoding.weighted_mean(layout.decode(total))["w"]
    return mean, statistics.mean(sent[node.site] for node in left), exact


def measure(cases: list[tuple[int, int, float]], *, repeats: int) -> dict[str, Any]:
    """Alternate both sides; medians of processor time."""
    import _legacy_secagg as legacy

    rows: list[dict[str, Any]] = []
    bars: dict[str, float] = {}
    wrong = 0
    for values, nodes, dropout in cases:
        this = case(values, nodes, dropout)
        if this is None:
            continue
        runs = repeats if this.cost <= ONE_RUN and nodes < MANY else 1
        taken: dict[str, list[Watch]] = {"gemel": [], "flower legacy": []}
        facts: dict[str, dict[str, float]] = {}
        true = this.mean()
        for _ in range(runs):
            watch = Watch()
            mean, sent, exact = ours(this, watch)
            wrong += not exact
            taken["gemel"].append(watch)
            facts["gemel"] = _facts(mean, true, sent, values)
            if this.cost > LEGACY_LIMIT:
                continue
            watch = Watch()
            mean, sent = legacy.aggregate(
                nodes=nodes,
                threshold=this.threshold,
                dropped=set(this.dropped),
                update=this.update,
                watch=watch,
            )
            taken["flower legacy"].append(watch)
            facts["flower legacy"] = _facts(mean, true, sent, values)
        for side, watches in taken.items():
            rows.append(_row(this, side, watches, facts.get(side, {})))
            print(json.dumps(rows[-1]), flush=True)
        if (values, nodes, dropout) == (BAR_VALUES, BAR_NODES, 0.0):
            ours_s, legacy_s = (
                statistics.median(w.processor_s for w in taken[side]) for side in ("gemel", "flower legacy")
            )
            bars = {"speed": legacy_s / ours_s, "upload": facts["gemel"]["upload_ratio"]}
    return {"rows": rows, "wrong": wrong, **bars}


def _facts(mean: Any, true: Any, sent: float, values: int) -> dict[str, float]:
    return {
        "upload_bytes": round(sent),
        "upload_ratio": round(sent / (4 * values), 4),
        "largest_error": float(np.abs(mean - true).max()),
    }


def _row(this: Case, side: str, watches: list[Watch], facts: dict[str, float]) -> dict[str, Any]:
    seconds = [watch.processor_s for watch in watches]
    if not seconds:
        return {"case": this.name, "side": side, "value": None, "unit": "s", "note": "left out: memory"}
    return {
        "case": this.name,
        "side": side,
        "value": round(statistics.median(seconds), 4),
        "unit": "s",
        "lowest": round(min(seconds), 4),
        "highest": round(max(seconds), 4),
        "repeats": len(seconds),
        "wall_s": round(statistics.median(watch.wall_s for watch in watches), 4),
        "threshold": this.threshold,
        **facts,
    }


def main() -> None:
    """Measure, and write the result where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = measure(QUICK if arguments.quick else FULL, repeats=3)
    result = {
        "name": "secagg",
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        },
        "rows": found["rows"],
        "bars": [
            _bar("wrong_sums", found["wrong"], 0, "max"),
            _bar("times_faster_than_legacy_1e6_x_10", found["speed"], BAR_SPEED, "min"),
            _bar("upload_over_quantised_update_1e6_x_10", found["upload"], BAR_UPLOAD, "max"),
        ],
    }
    text = json.dumps(result, indent=2)
    if arguments.json:
        arguments.json.write_text(text, encoding="utf-8")
    else:
        print(text)


def _bar(name: str, value: float, bar: float, direction: str) -> dict[str, Any]:
    ok = value >= bar if direction == "min" else value <= bar
    return {"name": name, "value": round(value, 4), "bar": bar, "direction": direction, "ok": ok}


if __name__ == "__main__":
    main()
