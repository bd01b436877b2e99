"""The keeper's side: one nursery, a worker for each study, a task at a time; whoever misbehaves is killed and replaced."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from gemel.client_node.patients import kept_at
from gemel.client_node.worker.limits import Limits
from gemel.client_node.worker.pipe import (
    Broken,
    End,
    Ended,
    Order,
    Ready,
    Start,
    read_document,
    read_outcome,
    write_bytes,
    write_document,
)
from gemel.core.arrays import Arrays, pack_arrays
from gemel.core.dataset import Dataset
from gemel.core.error_catalogue import CATALOGUE
from gemel.core.errors import GemelError
from gemel.core.programme import Programme
from gemel.core.study import Study
from gemel.privacy.noise import NoiseSource

READY_WITHIN_S = 120.0
STATUS_WITHIN_S = 10.0
_OUT_OF_MEMORY = 121  # as `worker.__main__` leaves
# The rest of the keeper's environment is none of a worker's business.
_INHERITED = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CXX", "TZ")

logger = logging.getLogger(__name__)


@dataclass
class _Worker:
    number: int
    key: tuple[str, str]
    connection: socket.socket
    used_at: float


class _Died(Exception):
    """A worker or its child ended in the middle of a task."""

    def __init__(self, status: int | None) -> None:
        super().__init__(f"exit status {status}")
        self.status = status


class Workers:
    """Computes tasks on patients in other processes. One caller at a time.

    Args:
        folder: The node's home.
        limits: What they may use.
    """

    def __init__(self, folder: Path, limits: Limits) -> None:
        self._folder, self._limits = folder.resolve(), limits
        self._nursery: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._workers: dict[tuple[str, str], _Worker] = {}
        self._number = 0
        self.replaced = 0
        self.confinement: Ready | None = None

    def start(self) -> None:
        """Start the nursery, so that it has everything imported when the first task comes."""
        self._end_nursery()
        ours, theirs = socket.socketpair()
        (self._folder / "compiled").mkdir(exist_ok=True)
        with (self._folder / "worker.log").open("ab") as log:
            self._nursery = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "gemel.client_node.worker",
                    str(theirs.fileno()),
                    str(self._folder),
                ],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs.fileno(),),
                cwd="/",
            )
        theirs.close()
        self._control = ours

    def close(self) -> None:
        """End every process."""
        self._end_nursery()

    def compute(
        self,
        task: str,
        study: Study,
        programme: Programme,
        *,
        dataset: Dataset,
        inputs: Arrays,
        noisy_patients: float,
        noise: NoiseSource,
    ) -> dict[str, NDArray[np.generic]]:
        """As `tasks.compute`, in a worker. The noise is the worker's own: only a secure source is taken.

        Raises GEM420 to GEM423, and what the task raises. A worker that dies by itself is replaced and asked once more:
        nothing of what it did was seen by anybody.
        """
        if not noise.is_secure:
            raise GemelError("GEM420", "A worker draws its own noise, from the operating system.")
        order = Order(
            task=task,
            study=msgspec.Raw(msgspec.json.encode(study.to_payload())),
            programme=programme.name,
            programme_version=programme.version,
            noisy_patients=noisy_patients,
            inputs_bytes=0,
        )
        content = pack_arrays(inputs) if inputs else b""
        order = msgspec.structs.replace(order, inputs_bytes=len(content))
        for last in (False, True):
            worker = self._worker(study.sha256, kept_at(self._folder, programme), dataset.snapshot)
            try:
                return self._ask(worker, order, content)
            except _Died as died:
                self._end(worker)
                logger.warning("the worker for %s died: %s", task, died)
                if last:
                    raise GemelError("GEM423", f"The worker died in {task}, twice: {died}.") from died
        raise AssertionError

    def _ask(self, worker: _Worker, order: Order, content: bytes) -> dict[str, NDArray[np.generic]]:
        deadline = time.monotonic() + self._limits.seconds
        reading, writing = os.pipe()
        try:
            try:
                write_document(worker.connection, order, writing)
                write_bytes(worker.connection.fileno(), content)
            finally:
                os.close(writing)
            outcome, result = read_outcome(
                reading, deadline=deadline, most_bytes=self._limits.memory_mb * 1_000_000
            )
            status = self._status(worker)
        except Broken as broken:
            self._explain(worker, order.task, broken, late=time.monotonic() >= deadline)
        finally:
            os.close(reading)
        if outcome.code:
            code = outcome.code if outcome.code in CATALOGUE else "GEM423"
            raise GemelError(code, f"{order.task}: {outcome.why}")
        if status != 0:
            raise _Died(status)
        return self._unpacked(worker, order.task, result)

    def _explain(self, worker: _Worker, task: str, broken: Broken, *, late: bool) -> None:
        """Say by a code why a task has no result; the worker goes, except when only its child went wrong."""
        if late:
            self._end(worker)
            raise GemelError("GEM422", f"{task} took more than {self._limits.seconds:g} s.")
        try:
            status = self._status(worker)
        except Broken:
            raise _Died(None) from broken
        if status == _OUT_OF_MEMORY:
            raise GemelError("GEM421", f"{task} needed more than {self._limits.memory_mb} MB.")
        if status == -signal.SIGXCPU:
            raise GemelError("GEM422", f"{task} took more than {self._limits.seconds:g} s of a processor.")
        if status < 0:
            raise _Died(status) from broken
        self._end(worker)
        raise GemelError("GEM423", f"The worker's answer to {task} is none: {broken}.") from broken

    def _status(self, worker: _Worker) -> int:
        ended, _ = read_document(worker.connection, Ended, deadline=time.monotonic() + STATUS_WITHIN_S)
        return ended.status

    def _unpacked(self, worker: _Worker, task: str, result: bytearray) -> dict[str, NDArray[np.generic]]:
        try:
            arrays: Mapping[str, Any] = load(bytes(result))
        except (SafetensorError, KeyError, ValueError) as error:
            self._end(worker)
            raise GemelError("GEM423", f"The worker's answer to {task} holds no arrays: {error}.") from error
        return dict(arrays)

    def _worker(self, study_sha256: str, dataset: Path, snapshot: str) -> _Worker:
        """The study's worker on that data set, started where there is none. Raises GEM420, GEM405."""
        key = (study_sha256, snapshot)
        for other in [w for w in self._workers.values() if w.key[0] == study_sha256 and w.key != key]:
            self._end(other, misbehaved=False)
        worker = self._workers.get(key)
        if worker is not None and self._nursery is not None and self._nursery.poll() is None:
            worker.used_at = time.monotonic()
            return worker
        if self._nursery is None or self._nursery.poll() is not None:
            self.start()
        while len(self._workers) >= self._limits.studies:
            self._end(min(self._workers.values(), key=lambda w: w.used_at), misbehaved=False)
        return self._started(key, dataset)

    def _started(self, key: tuple[str, str], dataset: Path) -> _Worker:
        ours, theirs = socket.socketpair()
        self._number += 1
        worker = _Worker(self._number, key, ours, time.monotonic())
        start = Start(
            number=worker.number,
            home=str(self._folder),
            dataset=str(dataset),
            snapshot=key[1],
            limits=self._limits,
        )
        try:
            assert self._control is not None  # noqa: S101  # `start` made it
            write_document(self._control, start, theirs.fileno())
            theirs.close()
            ready, _ = read_document(ours, Ready, deadline=time.monotonic() + READY_WITHIN_S)
        except Broken as broken:
            self._end(worker)
            raise GemelError("GEM420", f"The worker does not start: {broken}.") from broken
        if ready.fault:
            self._end(worker)
            code, _, why = ready.fault.partition(" ")
            raise GemelError(code if code in CATALOGUE else "GEM420", f"The worker cannot work: {why}")
        if self.confinement is None:
            logger.info(
                "workers: network %s, files %s, user %s", ready.network, ready.files, ready.user or "same"
            )
        self.confinement = ready
        self._workers[key] = worker
        return worker

    def _end(self, worker: _Worker, *, misbehaved: bool = True) -> None:
        self._workers.pop(worker.key, None)
        worker.connection.close()
        if misbehaved:
            self.replaced += 1
            self._tell()
        if self._control is not None:
            with contextlib.suppress(Broken):
                write_document(self._control, End(number=worker.number))

    def _tell(self) -> None:
        """Leave the count for the node's metrics."""
        path = self._folder / "worker.json"
        with contextlib.suppress(OSError):
            path.with_suffix(".new").write_bytes(msgspec.json.encode({"replaced": self.replaced}))
            path.with_suffix(".new").replace(path)

    def _end_nursery(self) -> None:
        for worker in self._workers.values():
            worker.connection.close()
        self._workers.clear()
        if self._control is not None:
            self._control.close()  # at its end the nursery kills what it forked, and leaves
            self._control = None
        if self._nursery is not None:
            try:
                self._nursery.wait(5.0)
            except subprocess.TimeoutExpired:
                self._nursery.kill()
                self._nursery.wait()
            self._nursery = None

    def _environment(self) -> dict[str, str]:
        given = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        compiled = str(self._folder / "compiled")
        return {**given, "OMP_NUM_THREADS": "1", "TORCHINDUCTOR_CACHE_DIR": compiled, "TMPDIR": compiled}
