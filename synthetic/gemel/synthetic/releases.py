"""What each task of a study may release, and nothing else: names, shapes and dtypes of its arrays."""

from __future__ import annotations

from collections.abc import Sequence

from gemel.core.arrays import ArraySpec
from gemel.core.errors import GemelError
from gemel.core.programme import Programme
from gemel.core.statistic_request import StatisticRequest
from gemel.privacy.statistics import declared
from gemel.synthetic.marginals import marginal_specs
from gemel.twins.hazard import HazardTwin
from gemel.twins.metrics import metric_tables


def declared_release(
    task: str, programme: Programme, *, statistics: Sequence[StatisticRequest] = ()
) -> dict[str, ArraySpec]:
    """The arrays that a node may send for a task. Raises GEM404 for a task that studies do not have.

    count: the noisy number of patients; describe: a table for each of the study's `statistics`; train/r: the twin's
    parameters; evaluate: risk tables; synthesise: marginal tables.
    """
    if task == "describe" and statistics:
        return declared(statistics)
    if task == "count":
        return {"patients": ArraySpec((1,), "int64")}
    if task == "evaluate":
        return metric_tables(programme)
    if task == "synthesise":
        return marginal_specs(programme)
    if task.startswith("train/"):
        return HazardTwin(programme).array_specs()
    raise GemelError("GEM404", f"No release is declared for {task!r}.")


def declared_inputs(task: str, programme: Programme) -> dict[str, ArraySpec]:
    """The arrays that a task takes from the coordinator: the global twin to train or evaluate, else none."""
    takes_twin = task == "evaluate" or task.startswith("train/")
    return HazardTwin(programme).array_specs() if takes_twin else {}
