"""The nursery, the workers that it forks, and their children: `python -P -m gemel.client_node.worker SOCKET`."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import sys
from pathlib import Path

import msgspec

from gemel.client_node.worker.pipe import (
    Broken,
    End,
    Ended,
    Order,
    Outcome,
    Ready,
    Start,
    read_bytes,
    read_document,
    write_document,
    write_outcome,
)
from gemel.client_node.worker.sandbox import bound_task, die_with_parent, shut_in
from gemel.core.dataset import Dataset
from gemel.core.errors import GemelError

OUT_OF_MEMORY = 121
LOOK_AFTER_S = 1.0

logger = logging.getLogger("gemel.client_node.worker")


def serve(control: socket.socket) -> None:
    """Import everything, then fork workers until the keeper is gone."""
    import torch

    from gemel.client_node import tasks  # noqa: F401  # what a child computes with
    from gemel.twins.installed import installed

    torch.set_num_threads(1)  # one thread: bitwise repeatable sums, and no thread pool to carry over a fork
    installed()
    workers: dict[int, int] = {}
    waiting = select.poll()
    waiting.register(control.fileno(), select.POLLIN)
    while True:
        _reap(workers)
        if not waiting.poll(LOOK_AFTER_S * 1000):
            continue
        try:
            order, files = read_document(control, Start | End, descriptors=1)  # type: ignore[arg-type]  # a union is a kind
        except Broken:
            break
        if isinstance(order, End):
            _kill(workers, order.number)
            continue
        child = os.fork()
        if child == 0:
            control.close()
            os._exit(_worker(order, socket.socket(fileno=files[0])))
        for descriptor in files:
            os.close(descriptor)
        workers[order.number] = child
    for number in list(workers):
        _kill(workers, number)


def _reap(workers: dict[int, int]) -> None:
    for number, process in list(workers.items()):
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            logger.info("worker %d ended with %d", number, os.waitstatus_to_exitcode(status))
            del workers[number]


def _kill(workers: dict[int, int], number: int) -> None:
    """A worker and its children are one process group; while nobody waited for it, its number is no one else's."""
    process = workers.pop(number, None)
    if process is None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)  # when it had not come to be a group yet
    os.waitpid(process, 0)


def _worker(start: Start, keeper: socket.socket) -> int:
    """Map the data set, be shut in, fork a child for each order."""
    os.setsid()
    die_with_parent()
    kept = keeper.fileno()
    os.closerange(3, kept)
    os.closerange(kept + 1, 1024)
    home = Path(start.home)
    try:
        dataset = Dataset.load(Path(start.dataset))
        if dataset.snapshot != start.snapshot:
            raise GemelError("GEM405", "The data set is another than the one that was admitted.")
        compiled = home / "compiled"
        holds = shut_in(user=start.limits.user, secret=home, writable=[compiled])
        die_with_parent()  # the kernel forgets it where the user changes
        os.chdir("/")
        fault = "" if holds.is_shut or start.limits.unconfined else f"GEM420 {holds}"
    except GemelError as error:
        write_document(keeper, Ready(fault=f"{error.code} {error.message}"))
        return 1
    except Exception as error:
        logger.exception("a worker cannot be made ready")
        write_document(keeper, Ready(fault=f"GEM420 {type(error).__name__}: {error}"))
        return 1
    try:
        write_document(keeper, Ready(network=holds.network, files=holds.files, user=holds.user, fault=fault))
        while not fault:
            _obey(start, keeper, dataset)
    except Broken:
        return 0  # the keeper is gone, or has no more work
    return 1


def _obey(start: Start, keeper: socket.socket, dataset: Dataset) -> None:
    order, files = read_document(keeper, Order, descriptors=1)
    inputs = read_bytes(keeper.fileno(), order.inputs_bytes)
    child = os.fork()
    if child == 0:
        keeper.close()
        os._exit(_child(start, order, bytes(inputs), dataset, files[0]))
    for descriptor in files:
        os.close(descriptor)
    _, status = os.waitpid(child, 0)
    write_document(keeper, Ended(status=os.waitstatus_to_exitcode(status)))


def _child(start: Start, order: Order, inputs: bytes, dataset: Dataset, pipe: int) -> int:
    """Compute one task; its result goes into the pipe. What goes wrong is told by a code, or by how this ends."""
    die_with_parent()
    try:
        bound_task(memory_mb=start.limits.memory_mb, seconds=start.limits.seconds)
        result = _computed(order, inputs, dataset)
        write_outcome(pipe, Outcome(result_bytes=len(result)), result)
    except Broken:
        return 1
    except GemelError as error:
        write_outcome(pipe, Outcome(code=error.code, why=error.message))
    except MemoryError:
        return OUT_OF_MEMORY
    except Exception as error:
        if "allocate memory" in str(error) or "not enough memory" in str(error):
            return OUT_OF_MEMORY  # torch's own word for it
        logger.exception("task %s failed", order.task)
        write_outcome(pipe, Outcome(code="GEM406", why=type(error).__name__))
    return 0


def _computed(order: Order, inputs: bytes, dataset: Dataset) -> bytes:
    from safetensors.numpy import load

    from gemel.client_node import tasks
    from gemel.core.arrays import pack_arrays
    from gemel.core.study import Study
    from gemel.privacy.noise import NoiseSource
    from gemel.twins.installed import find

    arrays = tasks.compute(
        order.task,
        msgspec.convert(msgspec.json.decode(order.study), Study),
        find(order.programme, order.programme_version),
        dataset=dataset,
        inputs=load(inputs) if inputs else {},
        noisy_patients=order.noisy_patients,
        noise=NoiseSource.secure(),
    )
    return pack_arrays(arrays)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the keeper ends us
    die_with_parent()
    serve(socket.socket(fileno=int(sys.argv[1])))
