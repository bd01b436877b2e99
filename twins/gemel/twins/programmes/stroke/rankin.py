"""The modified Rankin Scale as a likelihood of levels: six among the living, each known exactly or by a range.

A hospital that scored the scale writes whole numbers. Where only coarse answers are known, a value between two levels says
which range is meant; the loss of a patient is then minus the log of the range's probability (interval censoring).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LEVELS = 6
# What a written value between two levels stands for: the lowest and the highest level, both in.
RANGES: Mapping[float, tuple[int, int]] = MappingProxyType({1.5: (1, 2), 3.5: (3, 5)})


def possible_levels(written: NDArray[np.floating]) -> NDArray[np.float32]:
    """float32 (n, 6): 1 for each level that a written value (n,) leaves possible; all 0 where none is known.

    >>> possible_levels(np.array([2.0, 1.5, np.nan])).tolist()
    [[0.0, 0.0, 1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]]
    """
    known = np.isfinite(written)
    reached = np.clip(np.floor(np.where(known, written, 0.0)), 0, LEVELS - 1)
    low, high = reached.copy(), reached.copy()
    for value, (first, last) in RANGES.items():
        meant = known & (written == value)
        low[meant], high[meant] = first, last
    levels = np.arange(LEVELS)
    possible = (levels >= low[:, None]) & (levels <= high[:, None]) & known[:, None]
    return np.asarray(possible, np.float32)


def level_probabilities(place: Tensor, cuts: Tensor) -> Tensor:
    """(B, 6) from a patient's place (B,) on a logistic scale and five increasing cuts: P(level >= l) = σ(place - cut_l).

    The proportional-odds model (McCullagh, J R Stat Soc B 1980;42:109).
    """
    reached = torch.sigmoid(place[:, None] - cuts)
    whole = torch.ones_like(reached[:, :1])
    return torch.cat([whole, reached], dim=1) - torch.cat([reached, torch.zeros_like(whole)], dim=1)


def level_loss(probabilities: Tensor, possible: Tensor) -> Tensor:
    """(B,): minus the log of the probability of what is possible; 0 for whom nothing is known."""
    # Where nothing is known the sum is 0, and its logarithm has no gradient: such a row counts as certain.
    unknown = 1 - possible.amax(dim=1)
    inside = (probabilities * possible).sum(dim=1) + unknown
    return -torch.log(inside.clamp(min=1e-7))
