"""Tier 2 over hospitals: what a study's rounds of visits take and release, and what follows from them.

A hospital trains the network on its own patients' histories, whole patients being the unit, with all the noise of each step; the
coordinator averages the hospitals' networks by their noisy counts, round after round. At last each counts its strata with noise. What
trajectories are drawn from is the mean of the networks of the second half of the rounds: that costs nothing, and anybody can do it
again from what the run kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from gemel.core.arrays import Arrays, ArraySpec
from gemel.core.dataset import Dataset
from gemel.core.errors import GemelError
from gemel.core.mechanism import Mechanism
from gemel.core.programme import Programme
from gemel.core.study import Study, TrainingPlan
from gemel.core.trajectory_plan import STRATA, TrajectoryPlan, is_visits
from gemel.privacy.accounting import epsilon as epsilon_of
from gemel.privacy.accounting import merged
from gemel.privacy.engine import DpTrainer
from gemel.privacy.noise import NoiseSource
from gemel.privacy.statistics import noisy_counts
from gemel.synthetic.provenance import PrivacyStatement
from gemel.synthetic.trajectory.autoregressive import VisitNetwork, tensors
from gemel.synthetic.trajectory.network_model import NetworkModel, rules_for
from gemel.synthetic.trajectory.programme_panel import histories_of, panel_of

# A larger network than any rule gives: refused before anything is trained.
MOST_PARAMETERS = 50_000
_ANY_NOISE = 1e4


def trajectory_plan(*, patients: int, epsilon: float, hospitals: int) -> TrajectoryPlan:
    """A study's plan by the fixed rules, with a noise that is still to be solved for (`planning.planned_study`).

    Args:
        patients: About how many all hospitals have together, declared: never the exact number.
        epsilon: What trajectories alone may cost.
        hospitals: Each adds the whole noise: that of the mean is larger by the root of their number than in one place.
    """
    rules = rules_for(patients=patients, epsilon=epsilon / math.sqrt(hospitals))
    return TrajectoryPlan(
        classes=rules.classes,
        hidden=rules.hidden,
        rounds=rules.rounds,
        local_steps=rules.local_steps,
        learning_rate=rules.learning_rate,
        momentum=rules.momentum,
        max_grad_norm=rules.max_grad_norm,
        noise_multiplier=_ANY_NOISE,
        strata_noise_multiplier=_ANY_NOISE,
    )


def check_trajectories(study: Study, programme: Programme) -> None:
    """Refuse (GEM730) trajectories of a programme without visits, or a network that is too large."""
    if study.trajectories is None:
        return
    size = sum(p.numel() for p in start_network(study, programme).parameters())
    if size > MOST_PARAMETERS:
        raise GemelError("GEM730", f"A network of {size} parameters, at most {MOST_PARAMETERS} are trained.")


def start_network(study: Study, programme: Programme) -> VisitNetwork:
    """The network at its public start values."""
    plan = _plan(study)
    return VisitNetwork(panel_of(programme), classes=plan.classes, hidden=plan.hidden)


def declared_network(study: Study, programme: Programme) -> dict[str, ArraySpec]:
    """What a round of visits releases, and all but the first takes."""
    network = start_network(study, programme)
    return {name: ArraySpec(tuple(p.shape), "float32") for name, p in network.named_parameters()}


def declared_strata(programme: Programme) -> dict[str, ArraySpec]:
    """The table of strata."""
    return {STRATA: ArraySpec((panel_of(programme).strata,), "int64")}


def release(
    task: str,
    study: Study,
    programme: Programme,
    training: Dataset,
    *,
    inputs: Arrays,
    expected_patients: float,
    noise: NoiseSource,
) -> dict[str, NDArray[np.generic]]:
    """What one hospital releases for a task of trajectories.

    Args:
        task: One of `TrajectoryPlan.tasks`.
        study: With the noise that this hospital adds (`secure_aggregation.plan.as_added`).
        programme: The installed programme.
        training: Its patients of the training share.
        inputs: The network that came; nothing in the first round, which starts at public values.
        expected_patients: A noisy or public number of them, never the true one.
        noise: Where noise comes from.
    """
    plan, histories = _plan(study), histories_of(programme, training)
    if not is_visits(task):
        exact = np.bincount(histories.strata, minlength=histories.panel.strata).astype(np.int64)
        return {STRATA: noisy_counts(exact, noise_multiplier=plan.strata_noise_multiplier, noise=noise)}
    network = loaded(start_network(study, programme), inputs)
    DpTrainer(steps_of(plan), noise=noise, expected_patients=expected_patients).train(
        network, tensors(histories)
    )
    return arrays_of(network)


def steps_of(plan: TrajectoryPlan) -> TrainingPlan:
    """The plan as the trainer takes it: everybody in every step."""
    return TrainingPlan(
        rounds=plan.rounds,
        local_steps=plan.local_steps,
        learning_rate=plan.learning_rate,
        momentum=plan.momentum,
        max_grad_norm=plan.max_grad_norm,
        sample_rate=1.0,
        noise_multiplier=plan.noise_multiplier,
    )


def mean_of_networks(networks: Sequence[Arrays], weights: Sequence[float]) -> dict[str, NDArray[np.float32]]:
    """The hospitals' networks, averaged by their noisy counts."""
    share = np.asarray(weights, np.float64) / math.fsum(weights)
    return {
        name: np.tensordot(share, np.stack([one[name] for one in networks]).astype(np.float64), 1).astype(
            np.float32
        )
        for name in networks[0]
    }


def outcome_of_strata(
    study: Study, networks: Mapping[str, Arrays], *, strata: NDArray[np.generic], hospitals: int
) -> dict[str, NDArray[np.generic]]:
    """All that trajectories are drawn from.

    Args:
        study: The study.
        networks: What the rounds named by `averaged_rounds` led to.
        strata: The hospitals' tables, added up.
        hospitals: How many are in that sum.
    """
    kept = [networks[task] for task in averaged_rounds(study)]
    return {
        **mean_of_networks(kept, [1.0] * len(kept)),
        STRATA: np.asarray(strata, np.int64),
        "hospitals": np.array([hospitals], np.int64),
    }


def averaged_rounds(study: Study) -> tuple[str, ...]:
    """The rounds of the second half, whose networks are averaged at last."""
    rounds = [task for task in _plan(study).tasks if is_visits(task)]
    return tuple(rounds[len(rounds) // 2 :])


def trajectory_model(study: Study, programme: Programme, measured: Arrays, *, noise: str) -> NetworkModel:
    """The model that trajectories are drawn from, by what the last task led to; it states what trajectories cost.

    `noise`: "secure" or "test", as the hospitals reported it.
    """
    network = start_network(study, programme)
    loaded(network, {name: measured[name] for name, _ in network.named_parameters()})
    spent = trajectory_mechanisms(study)
    statement = PrivacyStatement(
        epsilon=epsilon_of(spent, delta=study.privacy.delta),
        delta=study.privacy.delta,
        mechanisms=merged(spent),
        unit="patient",
        neighbouring="add or remove one patient",
        noise="secure" if noise == "secure" else "test",
    )
    return NetworkModel(network, np.asarray(measured[STRATA], np.int64), statement)


def trajectory_mechanisms(study: Study) -> list[Mechanism]:
    """All that a study charges for trajectories."""
    return [mechanism for task in _plan(study).tasks for mechanism in study.charge(task).mechanisms]


def loaded(network: VisitNetwork, arrays: Arrays) -> VisitNetwork:
    """The network with these parameters; those of none given stay as they are."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name in arrays:
                parameter.copy_(torch.from_numpy(np.array(arrays[name], np.float32)))
    return network


def arrays_of(network: VisitNetwork) -> dict[str, NDArray[np.generic]]:
    """Its parameters by name, float32."""
    return {name: p.detach().numpy().copy() for name, p in network.named_parameters()}


def _plan(study: Study) -> TrajectoryPlan:
    if study.trajectories is None:
        raise GemelError("GEM404", "The study asks for no trajectories.")
    return study.trajectories
