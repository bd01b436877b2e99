"""A trial of virtual patients that says what it cost the real ones: both arms are the same people, with the same luck."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gemel.synthetic.provenance import PrivacyStatement
from gemel.synthetic.trajectory.twin_simulated import TwinSimulated, whole_statement
from gemel.twins.causal.estimand import Estimand
from gemel.twins.causal.precision import Parameters
from gemel.twins.causal.virtual_trial import VirtualTrial, virtual_trial


@dataclass(frozen=True)
class StatedTrial:
    """A trial, and the statement of its sources together; None where both come from publications alone."""

    trial: VirtualTrial
    privacy: PrivacyStatement | None


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
        parameters: Retrained twins, for the interval, as in `population_effect`.

    Raises GEM702, and simulates nobody, where a source learnt from patients without a guarantee.
    """
    privacy = whole_statement([model.statement(), baselines])
    return StatedTrial(virtual_trial(model.twin, values, estimand, seed=seed, parameters=parameters), privacy)
