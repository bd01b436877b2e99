"""Standard normal draws for step after step, drawn ahead: many small ones at once, large ones beside the training."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from gemel.privacy.noise import NoiseSource

# From this size on a step's draws take as long as a small model's step: a second thread pays.
BESIDE_FROM = 8_192
_TOGETHER = 16_384
_DEPTH = 2
_PATIENCE_S = 600.0

Draws = Iterator[NDArray[np.float64]]


@contextmanager
def normals(noise: NoiseSource, *, size: int, steps: int, beside: bool | None = None) -> Iterator[Draws]:
    """An iterator over `steps` arrays (size,) of standard normal draws, each given once.

    `beside` draws them in a second thread from a source of its own (`NoiseSource.child`); None: where the source is
    secure, the draws are many and there is a second processor.
    """
    if beside is None:
        beside = noise.is_secure and size >= BESIDE_FROM and steps > 1 and (os.cpu_count() or 1) > 1
    if not beside:
        yield _together(noise, size, steps)
        return
    ahead: queue.Queue[NDArray[np.float64] | BaseException] = queue.Queue(_DEPTH)
    stop = threading.Event()
    arguments = (noise.child(), size, steps, ahead, stop)
    thread = threading.Thread(target=_draw, args=arguments, name="gemel-noise", daemon=True)
    thread.start()
    try:
        yield _taken(ahead, steps)
    finally:
        stop.set()
        thread.join()


def _together(noise: NoiseSource, size: int, steps: int) -> Draws:
    done = 0
    while done < steps:
        ahead = min(max(_TOGETHER // max(size, 1), 1), steps - done)
        yield from noise.gaussian((ahead, size))
        done += ahead


def _draw(
    noise: NoiseSource,
    size: int,
    steps: int,
    ahead: queue.Queue[NDArray[np.float64] | BaseException],
    stop: threading.Event,
) -> None:
    for _ in range(steps):
        try:
            drawn: NDArray[np.float64] | BaseException = noise.gaussian((size,))
        except BaseException as error:
            drawn = error
        while not stop.is_set():
            try:
                ahead.put(drawn, timeout=0.05)
                break
            except queue.Full:
                continue
        if stop.is_set():
            return


def _taken(ahead: queue.Queue[NDArray[np.float64] | BaseException], steps: int) -> Draws:
    for _ in range(steps):
        drawn = ahead.get(timeout=_PATIENCE_S)
        if isinstance(drawn, BaseException):
            raise drawn
        yield drawn
