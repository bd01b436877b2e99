"""The noise that was really added: its size, shape and independence, read off repeated releases."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection

import numpy as np
import torch
from scipy import stats

from gemel.core.study import TrainingPlan
from gemel.privacy.audit.intervals import FALSE_ALARM, normal_limit, variance_ratio_limits
from gemel.privacy.audit.probes import RollCall
from gemel.privacy.audit.report import Check
from gemel.privacy.audit.subject import (
    Floats,
    Patients,
    Subject,
    Watched,
    flat,
    flat_clipping,
    movement,
    one_step,
    rows,
)
from gemel.privacy.noise import NoiseSource

ATTACK = "noise"
# So few that nobody is taken, though somebody is there.
ALMOST_NOBODY = 1e-9
_STEPS_AT_ONCE = 8
_MOST_COORDINATES = 512
# Fresh trainers and sources every so often, as from round to round; the same ones between.
_RELEASES_OF_A_TRAINER = 20


def attack(subject: Subject, *, repeats: int = 200, seed: int = 0) -> Iterator[Check]:
    """Release many times where the exact sum is known, and look at what is left.

    The cases: nobody in the data set; somebody there and nobody taken; everybody taken; only patients whose gradients
    are not finite; several steps in one call. Every source of noise is a fresh secure one, as on a node.
    """
    z = subject.plan.noise_multiplier
    # A node runs any plan that it approves, and the sampled path is another one inside the engine.
    nobody, empty_batch, everybody = (
        one_step(subject.plan, sample_rate=rate) for rate in (1.0, ALMOST_NOBODY, 1.0)
    )
    none = rows(subject.patients, slice(0, 0))
    some = rows(subject.patients, slice(0, 12))
    cases: tuple[tuple[str, TrainingPlan, Patients], ...] = (
        ("nobody is there", nobody, none),
        ("nobody is taken", empty_batch, some),
        ("everybody is taken", everybody, some),
        ("all gradients are not finite", everybody, _not_finite(some)),
    )
    for when, plan, patients in cases:
        drawn = residuals(subject, plan, patients, repeats)
        yield from _size(subject, drawn, z, when)
        if when == "nobody is there":
            yield from _shape(subject, drawn, z)
            yield from _independence(subject, drawn, z)
    yield _several_steps(subject, repeats // 2)


def attack_source(plan: TrainingPlan) -> Iterator[Check]:
    """What does not depend on the model: noise beside the training of a large one, restarts and forks."""
    yield _large_model(plan)
    yield fork_freshness()


def residuals(subject: Subject, plan: TrainingPlan, patients: Patients, repeats: int) -> dict[str, Floats]:
    """What `repeats` releases differ by from the one without noise; by parameter, (repeats, coordinates)."""
    quiet = one_step(plan, noise_multiplier=0.0)
    # At almost nobody the exact sum is 0; at 1 it does not depend on the source.
    expected = movement(subject.make_model, patients, quiet, NoiseSource.for_tests(0))
    drawn: dict[str, list[Floats]] = {name: [] for name in expected}
    for number in range(repeats):
        if number % _RELEASES_OF_A_TRAINER == 0:
            watched = Watched(subject.make_model, plan, NoiseSource.secure())
        for name, array in watched.release(patients).items():
            drawn[name].append((array - expected[name]).reshape(-1))
    return {name: np.stack(arrays) for name, arrays in drawn.items()}


def _not_finite(patients: Patients) -> Patients:
    return {
        name: torch.full_like(tensor, float("nan")) if tensor.is_floating_point() else tensor
        for name, tensor in patients.items()
    }


def _size(subject: Subject, drawn: dict[str, Floats], z: float, when: str) -> Iterator[Check]:
    """Mean square against z², over everything, the layer and the coordinate that are furthest off."""
    everything = np.concatenate(list(drawn.values()), axis=1)
    blocks = [*drawn.values(), everything, *np.split(everything, everything.shape[1], axis=1)]
    alpha = FALSE_ALARM / len(blocks)
    outside = 0
    for block in blocks:
        ratio = _mean_square(block) / z**2
        low, high = variance_ratio_limits(block.size, alpha=alpha)
        outside += not low <= ratio <= high
    measured = math.sqrt(_mean_square(everything))
    low, high = variance_ratio_limits(everything.size, alpha=alpha)
    yield Check(
        ATTACK,
        f"The noise has the plan's standard deviation when {when} ({subject.name}).",
        f"{z:.6g} x max_grad_norm, {z * math.sqrt(low):.4g} to {z * math.sqrt(high):.4g} allowed",
        f"{measured:.6g}"
        + (f"; {outside} of {len(blocks)} layers and coordinates are off" if outside else ""),
        outside == 0,
        numbers={"claimed": z, "measured": measured, "outside": outside, "draws": everything.size},
    )


def _shape(subject: Subject, drawn: dict[str, Floats], z: float) -> Iterator[Check]:
    values = np.concatenate([array.reshape(-1) for array in drawn.values()]) / z
    mean = float(values.mean() * math.sqrt(values.size))
    limit = normal_limit()
    yield Check(
        ATTACK,
        f"The noise has mean 0 ({subject.name}).",
        f"|z| <= {limit:.2f}",
        f"z = {mean:.2f}",
        abs(mean) <= limit,
        numbers={"claimed": limit, "measured": mean},
    )
    test = stats.kstest(values, "norm")
    yield Check(
        ATTACK,
        f"The noise is Gaussian (Kolmogorov & Smirnov, {subject.name}).",
        f"p >= {FALSE_ALARM:g}",
        f"p = {test.pvalue:.3g}, {values.size} draws",
        bool(test.pvalue >= FALSE_ALARM),
        numbers={"claimed": FALSE_ALARM, "measured": float(test.pvalue)},
    )


def _independence(subject: Subject, drawn: dict[str, Floats], z: float) -> Iterator[Check]:
    """No two releases and no two coordinates share noise."""
    matrix = np.concatenate(list(drawn.values()), axis=1)[:, :_MOST_COORDINATES] / z
    for what, table in (("releases", matrix), ("coordinates", matrix.T)):
        largest, limit = largest_correlation(table)
        yield Check(
            ATTACK,
            f"The noise of any two {what} is independent ({subject.name}).",
            f"largest correlation <= {limit:.3f}",
            f"{largest:.3f} of {len(table)} {what}",
            largest <= limit,
            numbers={"claimed": limit, "measured": largest},
        )


def largest_correlation(table: Floats) -> tuple[float, float]:
    """(largest |correlation| of two rows of standard normals, the limit that independent ones keep)."""
    count, length = table.shape
    if count < 2 or length < 2:
        return 0.0, 1.0
    lengths = np.linalg.norm(table, axis=1)
    gram = np.abs(table @ table.T) / np.outer(lengths, lengths)
    pairs = count * (count - 1) // 2
    # The exact law of a correlation about a known mean: t with `length` - 1 degrees of freedom.
    t = stats.t.isf(FALSE_ALARM / (2 * pairs), length - 1)
    limit = float(t / math.sqrt(length - 1 + t**2))
    return float(np.max(gram[np.triu_indices(count, 1)])), limit


def _several_steps(subject: Subject, repeats: int) -> Check:
    """Independent steps add up in the square; one draw that is used again adds up as it is."""
    plan = one_step(flat_clipping(subject.plan), local_steps=_STEPS_AT_ONCE, sample_rate=ALMOST_NOBODY)
    none = rows(subject.patients, slice(0, 0))
    sums = [
        flat(movement(subject.make_model, none, plan, NoiseSource.secure())) for _ in range(max(repeats, 20))
    ]
    variance = _mean_square(np.array(sums)) / subject.plan.noise_multiplier**2
    low, high = variance_ratio_limits(np.array(sums).size)
    return Check(
        ATTACK,
        f"Every step draws noise of its own ({subject.name}).",
        f"variance of {_STEPS_AT_ONCE} steps = {_STEPS_AT_ONCE} z², {low * 8:.3g} to {high * 8:.3g} allowed",
        f"{variance:.4g} z²",
        low <= variance / _STEPS_AT_ONCE <= high,
        numbers={"claimed": float(_STEPS_AT_ONCE), "measured": variance},
    )


def _large_model(plan: TrainingPlan, *, width: int = 12_000, repeats: int = 3) -> Check:
    """Of a large model's steps the noise may be drawn beside the training: its own path, with its own faults."""
    several = one_step(flat_clipping(plan), local_steps=4, sample_rate=1.0)
    nobody = {"seat": torch.zeros(0, width)}
    sums = [movement(lambda: RollCall(width), nobody, several, NoiseSource.secure()) for _ in range(repeats)]
    drawn = np.stack([flat(one) for one in sums]) / (plan.noise_multiplier * 2)
    low, high = variance_ratio_limits(drawn.size)
    largest, limit = largest_correlation(drawn)
    ratio = _mean_square(drawn)
    return Check(
        ATTACK,
        f"Noise of a model with {width} parameters is as large, and fresh in every step and call.",
        f"variance of 4 steps 4 z², {4 * low:.3g} to {4 * high:.3g} allowed; correlation <= {limit:.3f}",
        f"{4 * ratio:.4g} z²; {largest:.3f}",
        low <= ratio <= high and largest <= limit,
        numbers={"claimed": 4.0, "measured": 4 * ratio, "correlation": largest},
    )


def _mean_square(values: Floats) -> float:
    with np.errstate(invalid="ignore", over="ignore"):
        mean = float(np.mean(values**2))
    return mean if math.isfinite(mean) else math.inf


def fork_freshness(children: int = 3) -> Check:
    """Processes that were forked from one another, and sources made anew as after a restart, share no noise."""
    source = NoiseSource.secure()
    source.gaussian((16,))  # in use before the fork, as on a warm node
    draws = [source.gaussian((64,)) for _ in range(2)]
    draws += [NoiseSource.secure().gaussian((64,)) for _ in range(2)]
    draws += [_in_child(lambda: source.gaussian((64,))) for _ in range(children)]
    draws += [source.gaussian((64,)) for _ in range(children)]
    equal = sum(bool(np.allclose(a, b)) for i, a in enumerate(draws) for b in draws[:i])
    largest, limit = largest_correlation(np.array(draws))
    return Check(
        ATTACK,
        "After a restart or a fork the noise is fresh.",
        f"0 streams equal, largest correlation <= {limit:.3f}",
        f"{equal} equal, {largest:.3f}, {len(draws)} streams",
        equal == 0 and largest <= limit,
        numbers={"claimed": limit, "measured": largest, "equal": equal},
    )


def _in_child(draw: Callable[[], Floats]) -> Floats:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)

    def work(out: Connection) -> None:
        out.send(draw())

    child = context.Process(target=work, args=(theirs,))
    child.start()
    try:
        if not ours.poll(30):
            return np.zeros(64)
        result: Floats = ours.recv()
        return result
    finally:
        child.join(30)
        if child.is_alive():
            child.kill()
