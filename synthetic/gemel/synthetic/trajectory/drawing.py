"""Drawing a panel's histories level by level, under a policy: what tiers 2 and 3 share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gemel.core.errors import GemelError
from gemel.synthetic.trajectory.histories import NO_VISIT, Histories, Levels, Panel
from gemel.synthetic.trajectory.model import Randomness, Trajectories, generator
from gemel.synthetic.trajectory.policy import Policy

# Chances (m, levels) at one visit of rows (m,): of coming (part 0: no, yes) or of field part - 1, from the levels so far
# (n, visits, fields), of which the visit's earlier fields are there already.
Chances = Callable[[int, int, NDArray[np.int64], Levels], NDArray[np.float64]]

# What noise says never happens.
_HARDLY = 1e-9


def draw(
    panel: Panel, strata: NDArray[np.generic], horizon_days: int, policy: Policy, rng: Randomness
) -> tuple[np.random.Generator, Levels, int, NDArray[np.int64], Levels]:
    """What a draw begins with: randomness, strata (n,), visits until the horizon, assigned plans (n,), forced levels.

    Forced levels (n, visits, fields) are `NO_VISIT` where the policy says nothing. Raises GEM705 for strata or a horizon that the
    panel does not have, GEM603 for a treatment that is none of its fields.
    """
    random, patients = generator(rng), np.asarray(strata).astype(np.int64)
    if patients.ndim != 1 or np.any((patients < 0) | (patients >= panel.strata)):
        raise GemelError("GEM705", f"A baseline of this panel is one of {panel.strata} strata.")
    visits = horizon_days // panel.days_between + 1
    if not 1 <= visits <= panel.visits:
        raise GemelError(
            "GEM705", f"The panel reaches {(panel.visits - 1) * panel.days_between} days, not {horizon_days}."
        )
    assigned = policy.assign(patients, random)
    return random, patients, visits, assigned, _forced(panel, policy, assigned)


def levels_by(
    panel: Panel, chances: Chances, random: np.random.Generator, visits: int, forced: Levels
) -> Levels:
    """Levels (n, visits of the panel, fields), drawn visit by visit; everybody makes the first, and nobody returns."""
    patients = len(forced)
    levels = np.full((patients, panel.visits, len(panel.fields)), NO_VISIT, np.int64)
    coming = np.arange(patients)
    for visit in range(visits):
        # Everybody's numbers are drawn, also of who has gone: a patient's luck does not hang on the others.
        luck = random.random((patients, 1 + len(panel.fields)))
        if visit:
            stays = chances(visit, 0, coming, levels)[:, 1]
            coming = coming[luck[coming, 0] < stays]
        for number in range(len(panel.fields)):
            found = _level(chances(visit, number + 1, coming, levels), luck[coming, number + 1])
            ordered = forced[coming, visit, number]
            levels[coming, visit, number] = np.where(ordered == NO_VISIT, found, ordered)
    return levels


def log_likelihood_by(histories: Histories, chances: Chances) -> NDArray[np.float64]:
    """(n,): the log of how likely each history is, given its stratum, under the chances by which `levels_by` draws."""
    levels, here = histories.levels, histories.here
    total = np.zeros(len(histories))
    for visit in range(histories.panel.visits):
        if visit:
            asked = np.flatnonzero(here[:, visit - 1])
            came = here[asked, visit].astype(np.int64)
            stays = chances(visit, 0, asked, levels)
            total[asked] += np.log(np.maximum(stays[np.arange(len(asked)), came], _HARDLY))
        there = np.flatnonzero(here[:, visit])
        for number in range(len(histories.panel.fields)):
            found = chances(visit, number + 1, there, levels)
            chosen = found[np.arange(len(there)), levels[there, visit, number]]
            total[there] += np.log(np.maximum(chosen, _HARDLY))
    return total


def trajectories_of(histories: Histories, assigned: NDArray[np.int64]) -> Trajectories:
    """Histories as trajectories: each level is told as the value that it stands for."""
    panel = histories.panel
    rows, visits = np.nonzero(histories.here)
    values = {
        field.name: np.asarray(field.values, np.float64)[histories.levels[rows, visits, j]]
        for j, field in enumerate(panel.fields)
    }
    return Trajectories(
        len(histories),
        rows.astype(np.int64),
        visits.astype(np.int64) * panel.days_between,
        values,
        assigned,
    )


def _level(chances: NDArray[np.float64], luck: NDArray[np.float64]) -> Levels:
    return np.asarray((np.cumsum(chances, axis=1)[:, :-1] <= luck[:, None]).sum(axis=1), np.int64)


def _forced(panel: Panel, policy: Policy, assigned: NDArray[np.int64]) -> Levels:
    names = [field.name for field in panel.fields]
    unknown = {t for plan in policy.plans for t in plan.treatments} - set(names)
    if unknown:
        raise GemelError("GEM603", f"The panel has no treatment {', '.join(sorted(unknown))}: {names}.")
    forced = np.full((len(policy.plans), panel.visits, len(names)), NO_VISIT, np.int64)
    for number, plan in enumerate(policy.plans):
        for name in plan.treatments:
            field = panel.fields[names.index(name)]
            for visit in range(panel.visits):
                amount = plan.amount(name, float(visit * panel.days_between))
                forced[number, visit, names.index(name)] = field.level_of(amount)
    return np.asarray(forced[assigned], np.int64)
