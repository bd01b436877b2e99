"""A trial of virtual patients that says what it cost the real ones: both arms are the same people, with the same luck."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gemel.synthetic.provenance import PrivacyStatement
from gemel.synthetic.trajectory.twin_simulated import TwinSimulated, whole_statement
from gemel.twins.causal.estimand import Estimand
from gemel.twins.causal.population_effect import error_and_reach, expected_under, moved_twins
from gemel.twins.causal.precision import Parameters
from gemel.twins.causal.virtual_trial import VirtualTrial, virtual_trial
from gemel.twins.twin import Twin

# Parameter draws are averaged over at most so many people: their spread does not need all of them.
_PEOPLE_FOR_PARAMETERS = 4000


@dataclass(frozen=True)
class StatedTrial:
    """A trial, and the statement of its sources together; None where both come from publications alone.

    Attributes:
        parameter_error: How far the twin's parameters may put the difference off, as a standard error: sampling of the patients that
            it learnt from, noise, and what early stopping does. None where no draws of them were given.
        interval: 95 % of the trial's difference, with both that and the error of drawing people and courses. None without the
            former: an interval that left it out would look surer than anybody is.
    """

    trial: VirtualTrial
    privacy: PrivacyStatement | None
    parameter_error: float | None = None
    interval: tuple[float, float] | None = None


def two_arms(
    model: TwinSimulated,
    values: NDArray[np.floating],
    estimand: Estimand,
    *,
    seed: int,
    baselines: PrivacyStatement | None,
    parameters: Sequence[Parameters] = (),
) -> StatedTrial:
    """Put virtual people, raw values (n, d), under both plans; it shows what the twin says, and is no new evidence.

    Args:
        model: The twin, with what its training cost.
        values: The virtual people.
        estimand: What is compared (`twins.causal.estimand.declare`).
        seed: Equal seeds give equal trials.
        baselines: What drawing the people cost; None where they come from public numbers alone.
        parameters: How far the twin's parameters may be off, for the interval: draws of them, as `causal.precision.retrained` makes
            from what was released.

    Raises GEM702, and simulates nobody, where a source learnt from patients without a guarantee.
    """
    privacy = whole_statement([model.statement(), baselines])
    trial = virtual_trial(model.twin, values, estimand, seed=seed, parameters=parameters)
    if len(parameters) < 2 or trial.expected.refusal is not None or not np.isfinite(trial.difference):
        return StatedTrial(trial, privacy)
    people = np.asarray(values)[trial.expected.included][:_PEOPLE_FOR_PARAMETERS]
    centre = _difference(model.twin, people, estimand)
    away = [_difference(moved, people, estimand) - centre for moved in moved_twins(model.twin, parameters)]
    error, reach = error_and_reach(away, trial.paired_error)
    return StatedTrial(trial, privacy, error, (trial.difference - reach, trial.difference + reach))


def _difference(twin: Twin, values: NDArray[np.floating], estimand: Estimand) -> float:
    """What the twin expects of these people under the plan, minus that under the other."""
    here, there = expected_under(twin, values, estimand)
    return float((here - there).mean())
