"""Many random futures of many patients, quickly: paths are drawn in chunks, counted, and let go.

Random numbers belong to a patient and a path, never to a plan: under two plans a path has the same clocks, so that what a
plan does not touch is identical and a difference is that of the plans alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gemel.core.dataset import OCCURRED, PREVALENT

_CLOCKS = (3,)

Floats32 = NDArray[np.float32]
# Paths that are held at once: a few arrays of them stay in a processor's second-level cache.
CHUNK = 1 << 16


def event_courses(
    hazards: NDArray[np.floating],
    prevalent: NDArray[np.bool_],
    times_years: Sequence[float],
    *,
    seed: int,
    paths: int = 1,
) -> tuple[Floats32, NDArray[np.int8]]:
    """Times and events of n patients' paths under hazards that are constant within a step, given the state at its start.

    Each outcome of each path has one exponential clock, drawn once. It runs at the hazard of the state that the path is in,
    and rings when it has run down: the same law as a fresh clock in each step, and under a plan with a lower hazard the same
    event comes later, never at random.

    Args:
        hazards: (n, 2^m, k, steps): cumulative over each step, by the set of diseases (bit i: disease i + 1).
        prevalent: (n, k).
        times_years: (steps + 1,).
        seed: Equal seeds give equal clocks, whatever the hazards.
        paths: How many for each patient.

    Returns:
        float32 time and int8 event, (n * paths, k), a patient's paths one after the other, in the conventions of
        `SimulatedCourse`.
    """
    patients, _, outcomes, steps = hazards.shape
    # A stream of its own: callers draw their values from the plain seed.
    random = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=_CLOCKS))
    draws = random.standard_exponential((outcomes, patients, paths), dtype=np.float32)
    clocks = list(torch.from_numpy(draws).unbind(0))
    # By step and outcome, the states in the last dimension: (steps, k, n, states).
    rates = torch.from_numpy(np.ascontiguousarray(hazards.transpose(3, 2, 0, 1), dtype=np.float32))
    held = torch.from_numpy(prevalent)[:, :, None].expand(-1, -1, paths)
    never = torch.inf
    clocks = [clock.masked_fill_(held[:, j], never) for j, clock in enumerate(clocks)]
    times = [torch.full((patients, paths), never) for _ in range(outcomes)]
    state = torch.zeros((patients, paths), dtype=torch.int64)
    for disease in range(outcomes - 1):
        state += held[:, disease + 1] << disease
    for step in range(steps):
        _advance(clocks, times, state, rates[step], (times_years[step], times_years[step + 1]))
    return _as_course(times, held, float(times_years[-1]))


def _advance(
    clocks: list[Tensor], times: list[Tensor], state: Tensor, rates: Tensor, span: tuple[float, float]
) -> None:
    """One step of all paths, in place: clocks run; one that rings is stopped, and its time is written down."""
    start, width = span[0], span[1] - span[0]
    entered = state.clone()
    end, died = torch.ones(()), torch.zeros((), dtype=torch.bool)
    for outcome, clock in enumerate(clocks):
        rate = rates[outcome] if rates.shape[-1] == 1 else rates[outcome].gather(1, entered)
        part = clock / rate
        rings = part <= end
        clock.sub_(rate).masked_fill_(rings | died, torch.inf)
        if outcome == 0:  # death: nothing rings after it
            end, died = part.clamp(max=1.0), rings
        else:
            state += rings << (outcome - 1)
        torch.where(rings, part.mul_(width).add_(start), times[outcome], out=times[outcome])


def _as_course(times: list[Tensor], held: Tensor, horizon: float) -> tuple[Floats32, NDArray[np.int8]]:
    outcomes, rows = len(times), times[0].numel()
    time = torch.stack([one.reshape(-1) for one in times], dim=1)
    event = torch.isfinite(time).to(torch.int8) * OCCURRED
    ends = time[:, :1].clamp(max=horizon)
    time = torch.where(event == OCCURRED, time.clamp(max=horizon), ends.expand(rows, outcomes))
    before = held.transpose(1, 2).reshape(rows, outcomes)
    time = time.masked_fill(before, 0.0)
    return time.numpy(), event.masked_fill(before, PREVALENT).numpy()
