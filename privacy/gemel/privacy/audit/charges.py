"""Does a charge cost what it should? Recomputed by other means than those of the accountant."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from dp_accounting import dp_event
from dp_accounting.pld import pld_privacy_accountant
from dp_accounting.privacy_accountant import NeighboringRelation
from scipy import stats

from gemel.core.mechanism import Charge, Mechanism, MechanismKind, mechanisms_by_patient
from gemel.core.study import Study
from gemel.privacy.accounting import epsilon
from gemel.privacy.audit.report import Check

ATTACK = "accounting"
_GRID = 1e-3
# The coarse grid rounds up: by at most this (measured 0.013 at the largest, for thousands of steps).
_SLACK = 0.03


def attack(study: Study) -> Iterator[Check]:
    """The price of a study, task by task: against a recomputation, and never less than its parts."""
    delta = study.privacy.delta
    charges: list[Charge] = []
    previous, price, falls, furthest = 0.0, 0.0, 0, 0.0
    tasks = study.tasks
    # Every prefix of a long study would take minutes: its ends and a few between.
    looked_at = {0, 1, 2, len(tasks) // 2, len(tasks) - 2, len(tasks) - 1}
    for number, task in enumerate(tasks):
        charges.append(study.charge(task))
        if number not in looked_at:
            continue
        roles = mechanisms_by_patient(charges).values()
        price = max(epsilon(paid, delta=delta) for paid in roles)
        furthest = max(furthest, agreement(price, max(recompute(paid, delta=delta) for paid in roles)))
        whole = epsilon([m for charge in charges for m in charge.mechanisms], delta=delta)
        falls += whole <= previous
        previous = whole
    yield Check(
        ATTACK,
        "A charge is what the mechanisms cost, composed over all rounds.",
        f"ε = {price:.4f} for the patient who pays most",
        f"within {furthest:.4f} of a recomputation after each of {len(looked_at)} tasks",
        furthest <= _SLACK,
        numbers={"claimed": price, "furthest": furthest},
    )
    yield Check(
        ATTACK,
        "What a study states is what it costs, or more.",
        f"ε = {study.privacy.epsilon:g}",
        f"{price:.4f}",
        price <= study.privacy.epsilon,
        numbers={"claimed": study.privacy.epsilon, "measured": price},
    )
    yield Check(
        ATTACK,
        "Every task costs something more.",
        "ε rises",
        "it rises" if falls == 0 else f"it does not rise at {falls} tasks",
        falls == 0,
    )
    yield from _gaussian(study)


def agreement(claimed: float, recomputed: float) -> float:
    """By how much two values of ε differ, over one where they are large."""
    return abs(claimed - recomputed) / max(1.0, recomputed)


def recompute(mechanisms: Sequence[Mechanism], *, delta: float) -> float:
    """ε by dp-accounting's own accountant from events; a discrete Gaussian as the continuous one of its variance.

    For z >= 1 the two differ by less than 1e-4 (Canonne, Kamath & Steinke, 2020).
    """
    accountant = pld_privacy_accountant.PLDAccountant(
        NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=_GRID
    )
    for one in mechanisms:
        accountant.compose(_event(one), one.count)
    return float(accountant.get_epsilon(delta))


def _event(one: Mechanism) -> dp_event.DpEvent:
    if one.kind == MechanismKind.LAPLACE:
        return dp_event.LaplaceDpEvent(one.noise_multiplier)
    gaussian = dp_event.GaussianDpEvent(one.noise_multiplier)
    if one.sample_rate < 1:
        return dp_event.PoissonSampledDpEvent(one.sample_rate, gaussian)
    return gaussian


def _gaussian(study: Study) -> Iterator[Check]:
    """All rounds with everybody in them are one Gaussian mechanism, whose ε has a closed form."""
    plan = study.training
    steps = plan.rounds * plan.local_steps
    z = plan.step_noise_multiplier
    whole = Mechanism(kind=MechanismKind.GAUSSIAN, noise_multiplier=z, count=steps)
    claimed = epsilon((whole,), delta=study.privacy.delta)
    exact = gaussian_epsilon(math.sqrt(steps) / z, delta=study.privacy.delta)
    yield Check(
        ATTACK,
        f"{steps} steps with everybody cost what the closed form says (Balle & Wang, 2018).",
        f"ε = {exact:.4f}",
        f"{claimed:.4f}",
        agreement(claimed, exact) <= 1e-3 and claimed >= exact - 1e-5,
        numbers={"claimed": exact, "measured": claimed},
    )


def gaussian_epsilon(mu: float, *, delta: float) -> float:
    """The ε of a Gaussian mechanism of sensitivity over noise μ, by bisection of its exact δ(ε)."""

    def spent(eps: float) -> float:
        upper = stats.norm.cdf(mu / 2 - eps / mu)
        lower = eps + stats.norm.logcdf(-mu / 2 - eps / mu)
        return float(upper - math.exp(lower))

    low, high = 0.0, 1.0
    if spent(0.0) <= delta:
        return 0.0
    while spent(high) > delta:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if spent(middle) > delta else (low, middle)
    return high
