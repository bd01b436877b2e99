"""When training ends before its last round: a rule on released, noised validation tables.

Each validation is a release: the held-out patients pay for it, as the study says beforehand, whether or not it changes
anything; the rule reads what was released and costs nothing. Rounds that are not run were reserved and never began: a
steward can give them back (`docs/accounting.md`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gemel.core.arrays import Arrays
from gemel.core.programme import Programme
from gemel.core.strategy_plan import Pace
from gemel.synthetic.releases import whole_twin
from gemel.twins.installed import make_twin
from gemel.twins.metrics import Score, loss_of, metrics_from_tables


def validated_loss(
    releases: Sequence[Arrays], programme: Programme, model: Arrays, *, noise_sigma: float
) -> Score:
    """The loss that a validation saw (`metrics.loss_of`: from 0 to 1), averaged over the programme's endpoints.

    Args:
        releases: The hospitals' tables, or their one sum.
        programme: The installed programme.
        model: The parameters that were validated, those that travel.
        noise_sigma: The standard deviation of the noise in a cell of the sum.

    Returns:
        Value and standard error. The endpoints' errors are added as if they were one: the same patients are in all.
    """
    twin = make_twin(programme)
    twin.load_arrays(whole_twin(programme, model))
    summed = {name: np.sum([tables[name] for tables in releases], axis=0) for name in releases[0]}
    scores = metrics_from_tables(twin, summed, noise_sigma=noise_sigma)
    losses = [loss_of(programme, endpoint, scores[endpoint.name]) for endpoint in programme.endpoints]
    return Score(
        value=float(np.mean([loss.value for loss in losses])),
        standard_error=float(np.mean([loss.standard_error for loss in losses])),
    )


def stops(history: Sequence[float], pace: Pace) -> bool:
    """Whether the last `patience` validations brought no improvement by more than `least_improvement` on the best before.

    The noise of a validation does not shrink with rounds: a least improvement below its standard error lets luck decide.

    >>> from gemel.core.strategy_plan import Pace
    >>> patient = Pace(validate_every=1, patience=2, least_improvement=0.01)
    >>> [stops(losses, patient) for losses in ([0.5, 0.4], [0.5, 0.4, 0.395, 0.392], [0.5, 0.4, 0.395, 0.38])]
    [False, True, False]
    """
    if pace.patience == 0 or len(history) <= pace.patience:
        return False
    return min(history[-pace.patience :]) >= min(history[: -pace.patience]) - pace.least_improvement
