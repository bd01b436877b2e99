"""Visits of a virtual cohort's patients, from a model of trajectories: what `gemel synth sample --trajectories` writes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gemel.core.concepts import Concept
from gemel.core.dataset import OCCURRED
from gemel.core.programme import DAYS_PER_YEAR, Programme, TargetKind
from gemel.synthetic.cohort import VirtualCohort
from gemel.synthetic.export.records import Visits
from gemel.synthetic.trajectory.model import Trajectories, TrajectoryModel
from gemel.synthetic.trajectory.policy import Policy, everybody
from gemel.synthetic.trajectory.programme_panel import strata_of
from gemel.synthetic.trajectory.twin_simulated import TwinSimulated


def trajectories_of(
    model: TrajectoryModel,
    cohort: VirtualCohort,
    *,
    horizon_days: int,
    policy: Policy | None = None,
    seed: int,
) -> tuple[VirtualCohort, Visits]:
    """The cohort with visits, as `export.write` takes both. Equal seeds give equal visits.

    A twin (tier 1) simulates events too: the cohort's outcomes and targets become those, so that a patient has one fate. From a
    panel (tiers 2, 3) come visits alone; the cohort's outcomes stay, and nobody is visited after their follow-up ends. Privacy is
    the caller's: `whole_statement` of `model.statement()` and the cohort's provenance.

    Raises GEM603, GEM702, GEM705, GEM730 as `model.trajectory` and `strata_of` do.
    """
    model.statement()  # a model that cannot say what it cost draws nothing
    programme, plans = cohort.programme, policy or everybody()
    if isinstance(model, TwinSimulated):
        drawn = model.trajectory(cohort.values, horizon_days, plans, seed)
        targets = cohort.targets.copy()
        for j, name in enumerate(programme.target_names):
            if name in drawn.targets:
                targets[:, j] = drawn.targets[name]
        followed = replace(cohort, time_years=drawn.time_years, event=drawn.event, targets=targets)
    else:
        drawn = model.trajectory(strata_of(programme, cohort.values), horizon_days, plans, seed)
        followed = cohort
    return followed, visits_of(programme, followed, drawn)


def visits_of(programme: Programme, cohort: VirtualCohort, drawn: Trajectories) -> Visits:
    """Trajectories as visits: after the index date, before follow-up ends, by measured concept.

    What measured nothing is no visit. Values are left out where a target or an outcome of the programme is read from them: one more
    would change what the cohort says of it.
    """
    values: dict[str, NDArray[np.float64]] = {}
    for name, given in drawn.values.items():
        concept = measured_concept(programme, name)
        if concept is not None:
            free = np.isfinite(given) & ~_read_then(programme, concept.name, drawn.days)
            values[concept.name] = np.where(free, np.clip(given, concept.low, concept.high), np.nan)
    end = np.rint(cohort.time_years[:, 0].astype(np.float64) * DAYS_PER_YEAR)
    died = cohort.event[:, 0] == OCCURRED
    kept = (drawn.days >= 1) & (drawn.days <= end[drawn.rows] - died[drawn.rows])
    kept &= np.any([np.isfinite(each) for each in values.values()] or [np.zeros(len(kept), bool)], axis=0)
    return Visits(drawn.rows[kept], drawn.days[kept], {name: each[kept] for name, each in values.items()})


def measured_concept(programme: Programme, name: str) -> Concept | None:
    """The measured concept that something in a trajectory is a value of, by its own name or that of a feature or series."""
    concepts = {concept.name: concept for concept in programme.concepts if concept.unit is not None}
    named = {one.name: one.concepts[0] for one in programme.features if len(one.concepts) == 1}
    series = [one for one in programme.targets if one.kind is TargetKind.SERIES and len(one.concepts) == 1]
    named |= {one.name: one.concepts[0] for one in series}
    return concepts.get(name) or concepts.get(named.get(name, ""))


def _read_then(programme: Programme, concept: str, days: NDArray[np.int64]) -> NDArray[np.bool_]:
    """At which days something of the programme is read from a concept's values."""
    if any(concept in outcome.concepts for outcome in programme.outcomes):
        return np.ones(len(days), bool)
    read = np.zeros(len(days), bool)
    for target in programme.targets:
        if concept in target.concepts and target.kind is not TargetKind.SERIES:
            last = (target.at_days or 0) + target.tolerance_days
            first = 0 if target.kind is TargetKind.BINARY else (target.at_days or 0) - target.tolerance_days
            read |= (days >= first) & (days <= last)
    return read
