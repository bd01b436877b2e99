"""What each task of a study may take and release, and nothing else: names, shapes and dtypes of its arrays.

Three kinds of arrays meet at a node. The coordinator sends inputs: the part of the twin that travels, and a correction
beside it (SCAFFOLD). The node keeps arrays for itself: local parameters, or a personal twin. What it releases has none
of those. Nothing here is computed from patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from gemel.core.arrays import Arrays, ArraySpec
from gemel.core.errors import GemelError
from gemel.core.mechanism import is_evaluation
from gemel.core.programme import Programme
from gemel.core.statistic_request import StatisticRequest
from gemel.core.strategy_plan import Algorithm, Personalisation, StrategyPlan
from gemel.core.study import Study
from gemel.core.synthesis_plan import ROUNDS
from gemel.core.trajectory_plan import STRATA, chosen_by, is_visits
from gemel.privacy.statistics import declared
from gemel.synthetic.domain import domain_of
from gemel.synthetic.protocol import check_choice, declared_choice, declared_tables
from gemel.synthetic.trajectory.study_rounds import declared_network, declared_strata
from gemel.twins.installed import make_twin
from gemel.twins.metrics import metric_tables

# In the names of arrays: a correction that is sent, and what a node keeps and never sends.
CORRECTION, KEPT = "correction.", "kept."
_PLAIN = StrategyPlan()


def declared_release(
    task: str,
    programme: Programme,
    *,
    study: Study | None = None,
    statistics: Sequence[StatisticRequest] = (),
) -> dict[str, ArraySpec]:
    """The arrays that a node may send for a task. Raises GEM404 for a task that studies do not have.

    count: the noisy number of patients; describe: a table for each of the study's statistics; train/r: the twin's
    parameters but those that stay at hospitals; evaluate, validate/r, personal, cross/SITE: risk tables; synthesise/r:
    the tables of the round; visits/r: the network of visits; strata: one table. Without a `study`: that of a plain one with these `statistics`.
    """
    statistics = statistics if study is None else study.statistics
    if task == "describe" and statistics:
        return declared(statistics)
    if task == "count":
        return {"patients": ArraySpec((1,), "int64")}
    if is_evaluation(task):
        return metric_tables(programme)
    if task in ROUNDS:
        return declared_tables(task, domain_of(programme))
    if task.startswith("train/"):
        return travelling(programme, _strategy(study))
    if study is not None and is_visits(task):
        return declared_network(study, programme)
    if task == STRATA:
        return declared_strata(programme)
    raise GemelError("GEM404", f"No release is declared for {task!r}.")


def declared_inputs(task: str, programme: Programme, *, study: Study | None = None) -> dict[str, ArraySpec]:
    """The arrays that a task takes from the coordinator: the twin to train or evaluate, a correction, pairs to count, the network of visits of the
    round before; else none.

    A personal twin is at the hospital already.
    """
    if task in ROUNDS:
        return declared_choice(task, domain_of(programme))
    if study is not None and is_visits(task):
        return declared_network(study, programme) if chosen_by(task) is not None else {}
    training = task.startswith("train/")
    if not training and (task == "personal" or not is_evaluation(task)):
        return {}
    specs = travelling(programme, _strategy(study))
    if training and _strategy(study).algorithm is Algorithm.SCAFFOLD:
        return {**specs, **{f"{CORRECTION}{name}": spec for name, spec in specs.items()}}
    return specs


def check_inputs(task: str, programme: Programme, inputs: Arrays) -> None:
    """Refuse (GEM720) pairs to count that are not the programme's, before anything is charged for them."""
    if task in ROUNDS:
        check_choice(task, domain_of(programme), inputs)


def declared_kept(task: str, programme: Programme, *, study: Study) -> dict[str, ArraySpec]:
    """The arrays that a node keeps for itself after a training task, and takes for the next and for evaluations.

    `kept.NAME`: the local parameters, or a whole personal twin. Empty for other tasks and studies.
    """
    plan, specs = study.strategy, make_twin(programme).array_specs()
    if not (task.startswith("train/") or is_evaluation(task)):
        return {}
    if plan.personalisation is Personalisation.DITTO:
        takes = task == "personal" or task.startswith("train/")
        return {f"{KEPT}{name}": spec for name, spec in specs.items()} if takes else {}
    check_strategy(programme, plan)
    return {f"{KEPT}{name}": specs[name] for name in sorted(plan.local_parameters)}


def check_strategy(programme: Programme, plan: StrategyPlan) -> None:
    """Refuse (GEM340) local parameters that the twin does not have, or that leave nothing to share."""
    names, local = set(make_twin(programme).array_specs()), set(plan.local_parameters)
    if not local < names:
        raise GemelError("GEM340", f"Local parameters {sorted(local)} of a twin with {sorted(names)}.")


def travelling(programme: Programme, plan: StrategyPlan) -> dict[str, ArraySpec]:
    """The twin's parameters that leave hospitals: all but the local ones. Raises GEM340."""
    check_strategy(programme, plan)
    specs = make_twin(programme).array_specs()
    return {name: spec for name, spec in specs.items() if name not in plan.local_parameters}


def starting_model(study: Study, programme: Programme) -> dict[str, NDArray[np.float32]]:
    """The twin's public start values, of the parameters that travel."""
    shared = travelling(programme, study.strategy)
    return {name: array for name, array in make_twin(programme).to_arrays().items() if name in shared}


def whole_twin(programme: Programme, shared: Arrays) -> dict[str, NDArray[np.generic]]:
    """Parameters that travelled as a whole twin: those that did not are at their public start values."""
    return {**make_twin(programme).to_arrays(), **shared}


def without_prefix(arrays: Mapping[str, NDArray[np.generic]], prefix: str) -> dict[str, NDArray[np.generic]]:
    """The arrays under a prefix, by the names behind it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _strategy(study: Study | None) -> StrategyPlan:
    return _PLAIN if study is None else study.strategy
