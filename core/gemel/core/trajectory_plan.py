"""The part of a study that virtual trajectories are made from: noisy rounds of a network of visits, and a table of strata."""

from __future__ import annotations

import msgspec

from gemel.core.mechanism import Mechanism, noisy_steps, noisy_tables
from gemel.core.synthesis_plan import CHOSEN_BY

STRATA = "strata"
_VISITS = "visits/"
_MOST_ROUNDS, _MOST_STEPS, _MOST_UNITS = 1000, 1000, 256


class TrajectoryPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a study trains its network of visits; `synthetic.trajectory.network_model.rules_for` gives all but the noise.

    Attributes:
        classes, hidden: The network's hidden classes of patients, and units.
        rounds, local_steps, learning_rate, momentum, max_grad_norm: As in `TrainingPlan`; every step takes everybody.
        noise_multiplier: Of one step. strata_noise_multiplier: of the one table of who there is at the start.
    """

    classes: int
    hidden: int
    rounds: int
    local_steps: int
    learning_rate: float
    momentum: float
    max_grad_norm: float
    noise_multiplier: float
    strata_noise_multiplier: float

    @property
    def tasks(self) -> tuple[str, ...]:
        """visits/1 … visits/R, then strata."""
        return (*(f"{_VISITS}{number + 1}" for number in range(self.rounds)), STRATA)

    def mechanism(self, task: str) -> Mechanism:
        """What one of `tasks` costs."""
        if task == STRATA:
            return noisy_tables(self.strata_noise_multiplier, 1)
        return noisy_steps(self.noise_multiplier, self.local_steps, sample_rate=1.0)


def is_trajectory(task: str) -> bool:
    """True for the tasks of virtual trajectories.

    >>> [is_trajectory(task) for task in ("visits/3", "strata", "train/3")]
    [True, True, False]
    """
    return task == STRATA or is_visits(task)


def is_visits(task: str) -> bool:
    """True for the rounds that train the network of visits."""
    return task.startswith(_VISITS)


def chosen_by(task: str) -> str | None:
    """The task whose outcome is what a task of virtual cohorts is sent; None where it is sent nothing, or something else.

    >>> [chosen_by(task) for task in ("synthesise/3", "visits/2", "visits/1", "strata")]
    ['synthesise/2', 'visits/1', None, None]
    """
    if not is_visits(task):
        return CHOSEN_BY.get(task)
    number = int(task.removeprefix(_VISITS))
    return f"{_VISITS}{number - 1}" if number > 1 else None


def trajectory_conditions(plan: TrajectoryPlan | None, *, robust: bool) -> tuple[tuple[bool, str], ...]:
    """What must hold, and what is wrong otherwise. Noise is bounded where all noise of a study is."""
    if plan is None:
        return ()
    return (
        (not robust, "trajectories: their rounds are averaged, and a robust rule is none"),
        (2 <= plan.classes <= _MOST_UNITS, f"trajectories.classes must be 2 to {_MOST_UNITS}"),
        (1 <= plan.hidden <= _MOST_UNITS, f"trajectories.hidden must be 1 to {_MOST_UNITS}"),
        (2 <= plan.rounds <= _MOST_ROUNDS, f"trajectories.rounds must be 2 to {_MOST_ROUNDS}"),
        (1 <= plan.local_steps <= _MOST_STEPS, f"trajectories.local_steps must be 1 to {_MOST_STEPS}"),
        (0 < plan.learning_rate <= 100, f"trajectories.learning_rate: got {plan.learning_rate}"),
        (0 <= plan.momentum < 1, f"trajectories.momentum must be in [0, 1), got {plan.momentum}"),
        (0 < plan.max_grad_norm < 1e6, f"trajectories.max_grad_norm: got {plan.max_grad_norm}"),
    )
