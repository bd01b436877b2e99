"""Kill a node that answers a study's tasks, ask it the same again, and see what it says and what its ledger knows.

    python answer_loop.py NODE COORDINATOR STUDY --kills 10 --seed 1

NODE is a home where STUDY (a signed document) is approved. First each durable write of the answers to the first
tasks is a place to die: the n-th fsync or rename kills. Then children that answer task after task are killed at
random instants. What was answered is a line in `said`. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gemel.client_node.home import NodeHome
from gemel.client_node.node import answer
from gemel.core.arrays import pack_arrays
from gemel.core.canonical import sha256_hex
from gemel.core.messages import Envelope, Request, Status, read_reply, sign_request
from gemel.core.programme import Programme
from gemel.core.signing import read_signed
from gemel.core.study import Study, parse_study
from gemel.core.synthesis_plan import ROUNDS
from gemel.server.home import CoordinatorHome
from gemel.synthetic.domain import domain_of
from gemel.synthetic.protocol import declared_choice
from gemel.synthetic.releases import declared_inputs
from gemel.twins.installed import find, make_twin


def _choice(programme: Programme) -> dict[str, np.ndarray]:
    """What a coordinator may choose for synthesis: every level as common, no two columns together."""
    specs = declared_choice(ROUNDS[2], domain_of(programme))
    levels, parents = (np.zeros(specs[name].shape, np.int64) for name in ("levels", "parents"))
    return {"levels": levels + 1000, "parents": parents - 1, "multiplier": np.array([1000])}


class Node:
    """One node with every request of one study, asked in the study's order."""

    def __init__(self, home: Path, coordinator: Path, study: Path) -> None:
        self.home = NodeHome.open(home)
        document = read_signed(study.read_bytes(), kind="study")
        self.study: Study = parse_study(document.payload)
        key = CoordinatorHome(coordinator).key
        programme = find(self.study.programme, self.study.programme_version)
        given = {**make_twin(programme).to_arrays(), **_choice(programme)}
        self.requests: dict[str, tuple[str, Envelope]] = {}
        for task in self.study.tasks:
            taken = {name: given[name] for name in declared_inputs(task, programme, study=self.study)}
            payload = pack_arrays(taken) if taken else b""
            request = Request(
                study_sha256=document.payload_sha256, task=task, inputs_sha256=sha256_hex(payload)
            )
            signed = sign_request(request, key)
            envelope = Envelope(document=signed.to_bytes(), study=document.to_bytes(), payload=payload)
            self.requests[task] = (signed.payload_sha256, envelope)
        self.said = home / "said"

    def work(self, tasks: list[str]) -> None:
        """Answer, and note what was said. A refusal is a failure: every request here is a good one."""
        said = os.open(self.said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for task in tasks:
            got = answer(self.home, self.requests[task][1])
            reply, _ = read_reply(got.document)
            if reply.status is not Status.RELEASED:
                raise AssertionError(f"{task}: {reply.code}")
            line = [task, sha256_hex(got.document), sha256_hex(got.payload)]
            os.write(said, (json.dumps(line) + "\n").encode())
        os.close(said)

    def check(self) -> dict[str, int]:
        """One charge for each task, nothing said that was not charged, the same words every time."""
        lines = (
            [json.loads(line) for line in self.said.read_text().splitlines()] if self.said.exists() else []
        )
        words: dict[str, tuple[str, str]] = {}
        for task, document, payload in lines:
            if words.setdefault(task, (document, payload)) != (document, payload):
                raise AssertionError(f"{task} was answered in two ways")
        with self.home.open_ledger() as ledger:
            ledger.verify()
            reserved = [e for e in ledger.entries() if e.kind == "reserved"]
            begun = [e for e in ledger.entries() if e.kind == "begun"]
            released = {e.task: e.release_sha256 for e in ledger.entries() if e.kind == "released"}
        charged = [e.task for e in begun]
        if len(reserved) > 1 or len(charged) != len(set(charged)):
            raise AssertionError("a study was reserved, or a task begun, twice")
        for entry in begun:
            if entry.request_sha256 != self.requests[entry.task][0]:
                raise AssertionError(f"{entry.task} was charged for another request")
        for task, (_, payload) in words.items():
            if task not in charged or released.get(task) != payload:
                raise AssertionError(f"{task} left without a charge, or as something else")
        return {
            "charged": len(charged),
            "answered": len(words),
            "lines": len(lines),
            "unfinished": len(set(charged) - set(released)),
        }


def die_at_write(number: int) -> None:
    """From here on, the `number`-th fsync or rename of this process is its last."""
    left = number

    def mortal(call: Callable[..., Any]) -> Callable[..., Any]:
        def perhaps(*arguments: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments)

        return perhaps

    os.fsync, os.replace = mortal(os.fsync), mortal(os.replace)


def child(node: Node, tasks: list[str], *, write: int = 0, delay_s: float | None = None) -> bool:
    """Work in a child; True when it was killed. Raises when it failed in another way."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if write:
                die_at_write(write)
            # Killed at an instant, it works until then: first what is asked, then all of it again.
            for _ in range(1) if delay_s is None else itertools.count():
                node.work(tasks)
            status = 0
        finally:
            os._exit(status)
    if delay_s is not None:
        time.sleep(delay_s)
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    if not os.WIFSIGNALED(status) and os.waitstatus_to_exitcode(status) != 0:
        raise AssertionError("the node failed before it was killed")
    return os.WIFSIGNALED(status)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("node", "coordinator", "study"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    chance = random.Random(options.seed)
    node = Node(options.node, options.coordinator, options.study)
    tasks = list(node.study.tasks)
    totals = {"at writes": 0, "at instants": 0, "died between": 0}
    for task in tasks[:2]:  # a count, and a round of training
        write = 1
        while child(node, [task], write=write):
            totals["at writes"] += 1
            totals["died between"] += node.check()["unfinished"] > 0
            write += 1
    per_kill = max(1, len(tasks) // options.kills)
    for number in range(options.kills):
        # Those answered already, at random, then new ones: a kill may fall into either.
        reached = 2 + number * per_kill
        again = chance.sample(tasks[:reached], k=min(3, reached))
        totals["at instants"] += child(
            node, again + tasks[reached:][: 2 * per_kill], delay_s=chance.uniform(0.0, 0.35)
        )
        totals["died between"] += node.check()["unfinished"] > 0
    for _ in range(2):
        node.work(tasks)
    json.dump({**totals, **node.check(), "tasks": len(tasks)}, sys.stdout)


if __name__ == "__main__":
    main()
