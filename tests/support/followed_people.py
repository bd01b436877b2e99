"""People of the made-up programme of six weeks whose blood pressure is measured again and again: some are high, and stay high."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gemel.cli.demo.federation import Federation, create
from gemel.client_node import patients
from gemel.client_node.audit.people import made_up_dataset
from gemel.core.dataset import Dataset
from gemel.core.programme import DAYS_PER_YEAR, Programme
from gemel.core.series import Series

SERIES = "pressures_after"


def followed_people(programme: Programme, *, people: int, seed: int) -> Dataset:
    """Whoever is followed; nine of ten periods have one measurement, around 120 or 160 mmHg for good."""
    made_up = made_up_dataset(programme, patients=people, seed=seed)
    random = np.random.default_rng(seed)
    level = np.where(random.random(people) < 0.4, 160.0, 120.0)
    follow_up = made_up.time_years[:, 0] * DAYS_PER_YEAR
    days, values, lengths = [], [], []
    for person in range(people):
        own = np.array(
            [day for day in range(3, 43, 10) if day <= follow_up[person] and random.random() < 0.9]
        )
        days.append(own)
        values.append(level[person] + 8 * random.standard_normal(len(own)))
        lengths.append(len(own))
    series = Series(
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.concatenate(days).astype(np.float32),
        np.concatenate(values).astype(np.float32),
    )
    return Dataset(
        made_up.programme,
        made_up.programme_version,
        made_up.features,
        made_up.outcomes,
        tuple(f"{seed:04x}{number:08x}" for number in range(people)),
        made_up.values,
        made_up.time_years,
        made_up.event,
        made_up.target_names,
        made_up.targets,
        {**made_up.series, SERIES: series},
    )


def lent_federation(folder: Path, programme: Programme, parts: dict[str, Dataset]) -> Federation:
    """A coordinator and nodes with fresh keys, each lent its part of such people; nothing runs."""
    exports = {}
    for site in parts:
        exports[site] = folder / "exports" / site
        exports[site].mkdir(parents=True)
    federation = create(
        folder / "federation", exports, programme, epsilon_cap=3.0, delta=1e-5, minimum_patients=50
    )
    for site, home in federation.nodes.items():
        (home.folder / patients.VIRTUAL).write_text("A test's.\n")
        patients.lend(home, programme, parts[site])
    return federation
