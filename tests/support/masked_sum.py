"""A whole secure aggregation in one process, with nodes that may drop before any step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gemel.core.signing import SigningKey
from gemel.privacy.secure_aggregation import Collector, Context, Participant, default_threshold
from gemel.privacy.secure_aggregation.collector import Step

STUDY = "5" * 64
Meddle = Callable[[Step, str, bytes], bytes | None]


def through(_step: Step, _site: str, content: bytes) -> bytes | None:
    return content


@dataclass
class Party:
    """Nodes with their keys, states under `folder`, and the context that names them."""

    folder: Path
    context: Context
    keys: dict[str, SigningKey]
    said: dict[Step, dict[str, bytes]] = field(default_factory=dict)
    asked: dict[Step, dict[str, bytes]] = field(default_factory=dict)
    vectors: dict[str, bytes] = field(default_factory=dict)

    def node(self, site: str) -> Participant:
        """A fresh object each time: all that a node knows is on its disk."""
        return Participant(self.folder / f"{site}.json", self.keys[site], site)


def party(folder: Path, nodes: int, *, threshold: int = 0, least: int = 0, **changes: object) -> Party:
    keys = {f"site{i:02}": SigningKey.generate() for i in range(nodes)}
    threshold = threshold or default_threshold(nodes)
    facts: dict[str, object] = {
        "study_sha256": STUDY,
        "task": "train/1",
        "attempt": 1,
        "sites": {site: key.public_hex for site, key in keys.items()},
        "threshold": threshold,
        "least_survivors": least or threshold,
        "bits": 32,
        "length": 40,
    }
    return Party(folder, Context(**{**facts, **changes}), keys)  # type: ignore[arg-type]


def words(context: Context, seed: int) -> NDArray[np.uint32] | NDArray[np.uint64]:
    generator = np.random.default_rng(seed)
    return generator.integers(0, 1 << context.bits, context.length, dtype=f"u{context.bits // 8}")


def run(
    these: Party,
    inputs: Mapping[str, NDArray[np.uint32] | NDArray[np.uint64]],
    *,
    gone: Mapping[str, Step] | None = None,
    meddle: Meddle = through,
    until: Step = Step.UNMASK,
) -> Collector:
    """Drive one aggregation. `gone`: from which step on a node is silent; `meddle` changes what nodes are told."""
    collector, context = Collector(these.context), these.context
    last = dict.fromkeys(these.keys, 99) | {site: int(step) for site, step in (gone or {}).items()}
    asked: dict[str, bytes] = dict.fromkeys(these.keys, b"")
    for step in Step:
        these.asked[step], these.said[step] = dict(asked), {}
        for site, question in asked.items():
            told = meddle(step, site, question)
            if last[site] <= step or told is None:
                continue
            node = these.node(site)
            if step is Step.MASK:
                document, these.vectors[site] = node.mask(context, told, inputs[site])
                collector.take_masked(site, document, these.vectors[site])
            else:
                document = speak(node, step, context, told)
                hear(collector, step)(site, document)
            these.said[step][site] = document
        if step is until:
            break
        asked = close(collector, step, [site for site in asked if site in these.said[step]])
    return collector


def speak(node: Participant, step: Step, context: Context, told: bytes) -> bytes:
    if step is Step.ADVERTISE:
        return node.advertise(context)
    return {Step.SHARE: node.share, Step.CONFIRM: node.confirm, Step.UNMASK: node.unmask}[step](context, told)


def hear(collector: Collector, step: Step) -> Callable[[str, bytes], None]:
    return {
        Step.ADVERTISE: collector.take_advertisement,
        Step.SHARE: collector.take_shares,
        Step.CONFIRM: collector.take_confirmation,
        Step.UNMASK: collector.take_unmasking,
    }[step]


def close(collector: Collector, step: Step, sites: list[str]) -> dict[str, bytes]:
    if step is Step.SHARE:
        return collector.close_shares()
    ask = {
        Step.ADVERTISE: collector.close_advertisements,
        Step.MASK: collector.close_masked,
        Step.CONFIRM: collector.close_confirmations,
    }[step]
    return dict.fromkeys(sites, ask())


def plain_sum(context: Context, vectors: list[NDArray[np.uint32] | NDArray[np.uint64]]) -> NDArray[np.uint64]:
    total = np.zeros(context.length, dtype=f"u{context.bits // 8}")
    for vector in vectors:
        total = total + vector
    return total
