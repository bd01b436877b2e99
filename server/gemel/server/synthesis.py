"""What rounds of synthesis lead to, from a run's kept releases; the same when a run goes on, and when it is verified."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from gemel.core.arrays import Arrays, ArraySpec
from gemel.core.programme import Programme
from gemel.core.study import Study
from gemel.privacy.secure_aggregation import plan
from gemel.server.home import RunFolder
from gemel.synthetic.domain import domain_of
from gemel.synthetic.protocol import Summed, outcome
from gemel.synthetic.releases import declared_release


def synthesised(
    run: RunFolder, study: Study, programme: Programme, counted: Mapping[str, Sequence[str]]
) -> Arrays:
    """What the last of some rounds led to. `counted`: round -> the sites that are in its sum, for all rounds so far."""
    sums = {task: summed(run, study, programme, task, sites) for task, sites in counted.items()}
    return outcome(study, domain_of(programme), sums)


def summed(run: RunFolder, study: Study, programme: Programme, task: str, sites: Sequence[str]) -> Summed:
    """A round's releases added up, or their masked sum."""
    if plan.is_masked(study):
        declared = {
            name: ArraySpec(spec.shape, "int64")
            for name, spec in declared_release(task, programme, study=study).items()
        }
        return Summed(run.load_sum(task, declared), len(sites))
    releases = [run.map_release(task, site) for site in sites]
    total: dict[str, NDArray[np.generic]] = {
        name: np.sum([release[name] for release in releases], axis=0, dtype=np.int64) for name in releases[0]
    }
    return Summed(total, len(sites))
