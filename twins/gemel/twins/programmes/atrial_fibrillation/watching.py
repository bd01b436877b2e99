"""What watching a rhythm says of the burden behind it: single recordings, and the share of a longer one."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gemel.twins.assimilation import BinnedEmission, HiddenMarkovFilter, MeasurementError, Measurements
from gemel.twins.programmes.atrial_fibrillation import rhythm
from gemel.twins.solvers import planned_inputs
from gemel.twins.treatment_plan import NOTHING_CHANGED

# One recording in a hundred is read wrongly. Chosen: no source was at hand.
_MISREAD = 0.01
# The share of a patch's two weeks is the burden up to this much on the logarithmic odds. Chosen.
_OF_A_PATCH = MeasurementError(0.5)
_SHARE_LOW = 1e-4


def log_likelihood(measurements: Measurements, burdens: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, burdens): of what was seen of n patients, were their burden one of `burdens` and their episodes of typical length."""
    watched = HiddenMarkovFilter(
        rhythm.RhythmChain(),
        {
            "rhythm": BinnedEmission(
                (0.5,),
                torch.tensor([[1 - _MISREAD, _MISREAD], [_MISREAD, 1 - _MISREAD]], dtype=torch.float64),
            ),
            # A share says nothing of the state at one moment; `_share` has it.
            "atrial_fibrillation_burden": _nothing,
        },
        days=(),
        inputs=planned_inputs(("rhythm_control",), NOTHING_CHANGED),
    )
    episode = torch.full((len(measurements),), rhythm.EPISODE.value, dtype=torch.float64)
    found = [
        watched.log_likelihood({"burden": torch.full_like(episode, b), "episode_days": episode}, measurements)
        for b in burdens.tolist()
    ]
    return np.asarray(torch.stack(found, dim=1).numpy() + _share(measurements, burdens))


def _nothing(values: Tensor) -> Tensor:
    return torch.ones(*values.shape, 2, dtype=torch.float64)


def _share(measurements: Measurements, burdens: NDArray[np.float64]) -> NDArray[np.float64]:
    mine = measurements.is_of("atrial_fibrillation_burden")
    seen = torch.logit(measurements.value.clamp(_SHARE_LOW, 1 - _SHARE_LOW))[:, :, None]
    behind = torch.logit(torch.from_numpy(burdens).clamp(_SHARE_LOW, 1 - _SHARE_LOW))
    density = _OF_A_PATCH.log_density(seen, behind)
    return np.asarray((density * mine[:, :, None]).sum(dim=1).numpy())
