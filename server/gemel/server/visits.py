"""What tasks of virtual trajectories lead to, from a run's kept releases; the same when a run goes on, and when it is verified."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gemel.core.arrays import Arrays, ArraySpec
from gemel.core.programme import Programme
from gemel.core.study import Study
from gemel.core.trajectory_plan import STRATA, is_visits
from gemel.privacy.secure_aggregation import encoding, plan
from gemel.server.home import RunFolder
from gemel.server.masked import mean_of
from gemel.server.synthesis import summed
from gemel.synthetic.trajectory.study_rounds import (
    averaged_rounds,
    declared_network,
    mean_of_networks,
    outcome_of_strata,
)


def followed(
    run: RunFolder,
    study: Study,
    programme: Programme,
    task: str,
    sites: Sequence[str],
    *,
    weight: Callable[[str], float],
) -> Arrays:
    """What a task led to: of a round the mean network, of the last task all that trajectories are drawn from.

    `sites` are those in the sum; `weight` is each one's noisy count, of releases that are seen one by one.
    """
    if not is_visits(task):
        networks = {earlier: run.load_synthesis(earlier) for earlier in averaged_rounds(study)}
        total = summed(run, study, programme, task, sites)
        return outcome_of_strata(study, networks, strata=total.arrays[STRATA], hospitals=total.hospitals)
    if plan.is_masked(study):
        declared = {
            name: ArraySpec(spec.shape, "float64")
            for name, spec in declared_network(study, programme).items()
        }
        declared[encoding.WEIGHT] = ArraySpec((1,), "float64")
        return mean_of(run.load_sum(task, declared))
    return mean_of_networks([run.map_release(task, site) for site in sites], [weight(site) for site in sites])
