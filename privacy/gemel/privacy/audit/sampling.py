"""Who takes part in a step, and what the sum is divided by: by a roll call in which every patient has a seat."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from gemel.core.study import TrainingPlan
from gemel.privacy.audit.added_noise import largest_correlation
from gemel.privacy.audit.intervals import binomial_limits, normal_limit, variance_ratio_limits
from gemel.privacy.audit.probes import SEATS, VISITS, RollCall, seats, seats_of_visits
from gemel.privacy.audit.report import Check
from gemel.privacy.audit.subject import (
    EXPECTED_PATIENTS,
    Floats,
    Patients,
    flat_clipping,
    movement,
    one_step,
)
from gemel.privacy.noise import NoiseSource

ATTACK = "sampling"
# Small beside a seat's 0 or 1: a reading is wrong at 12 standard deviations, so never. A secure source takes any above 0.
_Z = 0.04
_HALF = 0.5
_PATIENTS_WITH_VISITS = 8


def attack(plan: TrainingPlan, *, steps: int = 400) -> Iterator[Check]:
    """Call the roll in many steps: rates, batch sizes, independence, whole patients, public divisor."""
    rate = plan.sample_rate if 0.05 <= plan.sample_rate <= 0.5 else 0.2
    base = one_step(flat_clipping(plan), max_grad_norm=1.0, noise_multiplier=_Z)
    sampled = one_step(base, sample_rate=rate)
    taken = np.stack([_present(sampled, seats(SEATS)) for _ in range(steps)])
    yield from _rates(taken, rate)
    yield _batch_sizes(taken, rate)
    yield from _independence(taken, rate)
    yield _within_one_call(sampled, rate)
    yield _whole_patients(sampled, rate, steps // 2)
    yield _everybody(one_step(base, sample_rate=1.0))
    yield from _divisor(base)


def _released(plan: TrainingPlan, patients: Patients, *, expected: float = EXPECTED_PATIENTS) -> Floats:
    hall = int(patients["seat"].shape[-1])
    return movement(lambda: RollCall(hall), patients, plan, NoiseSource.secure(), expected_patients=expected)[
        "seats"
    ]


def _present(plan: TrainingPlan, patients: Patients) -> Floats:
    return np.round(_released(plan, patients))


def _rates(taken: Floats, rate: float) -> Iterator[Check]:
    steps, patients = taken.shape
    counts = np.sum(taken == 1, axis=0)
    low, high = binomial_limits(steps, rate, tests=patients)
    odd = int(np.sum((taken != 0) & (taken != 1)))
    yield Check(
        ATTACK,
        "Every patient is taken at the plan's rate, once or not at all.",
        f"{rate:g}; {low} to {high} of {steps} steps for each",
        f"{counts.mean() / steps:.4f}; {counts.min()} to {counts.max()}"
        + (f"; {odd} otherwise" if odd else ""),
        bool(low <= counts.min() and counts.max() <= high and odd == 0),
        numbers={"claimed": rate, "measured": float(counts.mean() / steps)},
    )


def _batch_sizes(taken: Floats, rate: float) -> Check:
    """Fixed batches have no variance, and no amplification by Poisson sampling."""
    patients = taken.shape[1]
    expected = patients * rate * (1 - rate)
    ratio, low, high = _variance(taken.sum(axis=1), patients * rate, expected, rate)
    return Check(
        ATTACK,
        "The size of a batch varies as in Poisson sampling.",
        f"variance {expected:.3g}; {low * expected:.3g} to {high * expected:.3g} allowed",
        f"{ratio * expected:.3g}",
        low <= ratio <= high,
        numbers={"claimed": expected, "measured": ratio * expected},
    )


def _variance(values: Floats, mean: float, variance: float, rate: float) -> tuple[float, float, float]:
    """Mean square about a known mean over the variance, and its limits: of as many normal draws as have its spread."""
    excess = max((1 - 6 * rate * (1 - rate)) / variance, 0.0)
    low, high = variance_ratio_limits(int(len(values) * 2 / (2 + excess)))
    return float(np.mean((values - mean) ** 2) / variance), low, high


def _independence(taken: Floats, rate: float) -> Iterator[Check]:
    centred = (taken - rate) / math.sqrt(rate * (1 - rate))
    largest, limit = largest_correlation(centred.T)
    # Coins are not normal draws; in hundreds of steps the tails differ by less than this.
    limit *= 1.25
    yield Check(
        ATTACK,
        "Any two patients are taken independently.",
        f"largest correlation <= {limit:.3f}",
        f"{largest:.3f}",
        largest <= limit,
        numbers={"claimed": limit, "measured": largest},
    )
    lags = range(1, min(len(taken) // 4, math.ceil(2 / rate)) + 1)
    scores = [float(np.sum(centred[lag:] * centred[:-lag]) / math.sqrt(centred[lag:].size)) for lag in lags]
    allowed = normal_limit(tests=len(scores))
    worst = max(scores, key=abs)
    yield Check(
        ATTACK,
        "One step says nothing about who is taken in another.",
        f"|z| <= {allowed:.2f}",
        f"{worst:.2f}, lags 1 to {len(scores)}",
        abs(worst) <= allowed,
        numbers={"claimed": allowed, "measured": worst},
    )


def _within_one_call(plan: TrainingPlan, rate: float) -> Check:
    """In one call of 1/q steps, shuffled batches take everybody exactly once; Poisson sampling does not."""
    steps = round(1 / rate)
    several = one_step(plan, local_steps=steps)
    counts = np.concatenate([_released(several, seats(SEATS)) for _ in range(12)])
    variance = steps * (rate * (1 - rate) + _Z**2)
    ratio, low, high = _variance(counts, steps * rate, variance, rate)
    return Check(
        ATTACK,
        f"In one call of {steps} steps, patients are taken independently in each.",
        f"variance of how often {variance:.3g}; {low * variance:.3g} to {high * variance:.3g} allowed",
        f"{ratio * variance:.3g}",
        low <= ratio <= high,
        numbers={"claimed": variance, "measured": ratio * variance},
    )


def _whole_patients(plan: TrainingPlan, rate: float, steps: int) -> Check:
    """With k visits to a patient, all k move together and their joint length is the bound of one."""
    hall = seats_of_visits(_PATIENTS_WITH_VISITS)
    apart, longest = 0, 0.0
    for _ in range(steps):
        released = _released(plan, hall).reshape(_PATIENTS_WITH_VISITS, VISITS)
        # A patient taken whole moves each of its seats by 1/sqrt(visits); rows on their own move by 1.
        apart += int(np.sum(released.max(axis=1) - released.min(axis=1) > _HALF))
        longest = max(longest, float(np.linalg.norm(released, axis=1).max()))
    # Six coordinates of noise beside a length of 1.
    allowed = 1 + _Z * normal_limit(tests=steps * _PATIENTS_WITH_VISITS) * 1.3
    return Check(
        ATTACK,
        "A patient is taken and clipped as one, whatever the number of visits.",
        f"0 patients in parts, length <= {allowed:.2f}",
        f"{apart} in parts, longest {longest:.2f}",
        apart == 0 and longest <= allowed,
        numbers={"claimed": allowed, "measured": longest, "apart": apart},
    )


def _everybody(plan: TrainingPlan) -> Check:
    missed = sum(int(np.sum(_present(plan, seats(SEATS)) != 1)) for _ in range(5))
    return Check(
        ATTACK,
        "At rate 1 every step takes everybody, once.",
        "0 missed",
        f"{missed} missed of {5 * SEATS}",
        missed == 0,
        numbers={"claimed": 0, "measured": missed},
    )


def _divisor(plan: TrainingPlan) -> Iterator[Check]:
    """The movement by one patient must follow the public number, and not how many patients there are."""
    sizes, repeats = (6, 24, SEATS), 20
    for rate in (1.0, 0.5):
        scale = []
        for count in sizes:
            calls = [_released(one_step(plan, sample_rate=rate), seats(count)) for _ in range(repeats)]
            seen = np.concatenate([call[:count] for call in calls])
            # At rate 1/2 the seats that were taken are those above one half.
            scale.append(float(np.mean(seen[seen > 0.5])) if np.any(seen > 0.5) else 0.0)
        off = max(abs(one - 1) for one in scale)
        yield Check(
            ATTACK,
            f"The sum is divided by the public number of patients, not by the true one (rate {rate:g}).",
            "1 for every size of the cohort",
            ", ".join(f"{one:.3f} ({count})" for one, count in zip(scale, sizes, strict=True)),
            off <= 0.15,
            numbers={"claimed": 1.0, "furthest": off},
        )
    doubled = float(np.mean(_released(plan_of_everybody(plan), seats(SEATS), expected=2 * EXPECTED_PATIENTS)))
    yield Check(
        ATTACK,
        "Twice the public number halves the movement.",
        "0.5",
        f"{doubled:.3f}",
        abs(doubled - 0.5) <= 0.1,
        numbers={"claimed": 0.5, "measured": doubled},
    )


def plan_of_everybody(plan: TrainingPlan) -> TrainingPlan:
    """The plan with everybody in every step."""
    return one_step(plan, sample_rate=1.0)
