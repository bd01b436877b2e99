"""People of no hospital: drawn from a programme's public reference numbers, and the courses that a twin gives them.

They show what a twin does, and carry what a literature twin says. They are not the population of any hospital: features are
drawn one by one, so that nothing hangs together but by the twin's own course.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from gemel.core.dataset import Dataset
from gemel.core.errors import GemelError
from gemel.core.programme import Feature, FeatureKind, Programme
from gemel.twins.treatment_plan import NOTHING_CHANGED, TreatmentPlan, planned_values
from gemel.twins.twin import Twin

_FLAGS = (FeatureKind.MALE, FeatureKind.PRESENT)


def reference_values(
    programme: Programme, patients: int, *, seed: int, prevalence: Mapping[str, float] | None = None
) -> NDArray[np.float32]:
    """Raw values (n, d) from public numbers alone: normal by reference mean and scale, clipped to the bounds.

    A flag is drawn by its share in `prevalence`, else by its reference mean (sex: one half). Nothing is missing. What a
    programme counts or dates is kept at whole numbers. Raises GEM629 for a share of no flag of the programme, or out of 0 to 1.
    """
    shares = dict(prevalence or {})
    flags = {feature.name for feature in programme.columns if feature.kind in _FLAGS}
    for name, share in shares.items():
        if name not in flags or not 0 <= share <= 1:
            raise GemelError("GEM629", f"{name} = {share:g} is no share of a flag of {programme.name}.")
    # Spawned, so that the twin's own draws under the same seed are of another stream.
    random = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(3,)))
    columns = [_drawn(f, patients, random, shares.get(f.name)) for f in programme.columns]
    return np.stack(columns, axis=1).astype(np.float32)


def sample_cohort(
    twin: Twin, values: NDArray[np.floating], *, seed: int, plan: TreatmentPlan = NOTHING_CHANGED
) -> Dataset:
    """The courses of virtual people under a plan, as a data set: raw values (n, d), followed to the horizon.

    What the plan gives at the index date stands in their values. The names of the people begin with "virtual-". Raises GEM603
    for a plan that does not fit the programme.
    """
    programme = twin.programme
    given = planned_values(programme, values, plan)
    course = twin.simulate(values, seed=seed, plan=plan)
    missing = np.full(len(values), np.nan, np.float32)
    targets = [course.targets.get(name, missing) for name in programme.target_names]
    return Dataset(
        programme.name,
        programme.version,
        programme.feature_names,
        programme.outcome_names,
        tuple(f"virtual-{i:08d}" for i in range(len(values))),
        np.asarray(given, np.float32),
        np.asarray(course.time_years, np.float32),
        np.asarray(course.event, np.int8),
        programme.target_names,
        np.stack(targets, axis=1).astype(np.float32) if targets else np.zeros((len(values), 0), np.float32),
    )


def _drawn(
    feature: Feature, patients: int, random: np.random.Generator, share: float | None
) -> NDArray[np.float64]:
    if feature.kind in _FLAGS:
        usual = 0.5 if feature.kind is FeatureKind.MALE else float(np.clip(feature.reference_mean, 0, 1))
        return (random.random(patients) < (usual if share is None else share)).astype(np.float64)
    values = np.clip(
        random.normal(feature.reference_mean, feature.scale, patients), feature.low, feature.high
    )
    return np.round(values) if feature.kind is FeatureKind.COUNT else values
