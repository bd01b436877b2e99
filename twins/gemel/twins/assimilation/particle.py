"""The bootstrap particle filter: members are weighed by each observation, and resampled when few of them count.

For states and parameters of an ODE that are far from normal. Exact for any model as the number of particles grows, but for
the parameters' kernel. Sources: Gordon et al., IEE Proc F 1993;140:107; parameters after Liu & West, in Sequential Monte
Carlo Methods in Practice (2001), 197; systematic resampling after Kitagawa, J Comput Graph Stat 1996;5:1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gemel.twins.assimilation.ensemble import KERNEL, OBSERVATION, EnsembleFilter, Members, picked
from gemel.twins.assimilation.measurements import MeasurementError


@dataclass(frozen=True)
class ParticleFilter(EnsembleFilter):
    """Resamples a patient's particles when their effective number falls below `resample_below` of all.

    Resampled parameters are drawn from a kernel around each, shrunk towards the mean so that mean and variance stay (Liu &
    West's `discount`, 1 for no kernel).
    """

    members: int = 2000
    resample_below: float = 0.5
    discount: float = 0.98

    def _taken_in(
        self, members: Members, expected: Tensor, value: Tensor, error: MeasurementError, slots: Tensor
    ) -> Members:
        weight = members.log_weight + error.log_density(value[:, None], expected)
        weight = weight - weight.logsumexp(1, keepdim=True)
        share = weight.exp()
        poor = 1 / (share**2).sum(1) < self.resample_below * self.members
        # One normal number makes the one uniform number that systematic resampling needs.
        uniform = torch.special.ndtr(self._noise(OBSERVATION, slots, (1,)))
        chosen = systematic(share, uniform)
        kept = torch.arange(self.members).expand_as(chosen)
        chosen = torch.where(poor[:, None], chosen, kept)
        z = torch.where(poor[:, None, None], self._redrawn(members.z, share, chosen, slots), members.z)
        equal = torch.full_like(weight, -math.log(self.members))
        return Members(
            z,
            picked(members.state, chosen),
            picked(members.past, chosen),
            torch.where(poor[:, None], equal, weight),
        )

    def _redrawn(self, z: Tensor, share: Tensor, chosen: Tensor, slots: Tensor) -> Tensor:
        """Parameters of the chosen particles, each from its kernel."""
        parameters = z.shape[2]
        kept = (3 * self.discount - 1) / (2 * self.discount)
        mean = (share[:, :, None] * z).sum(1, keepdim=True)
        away = z - mean
        covariance = (share[:, :, None] * away).transpose(1, 2) @ away
        # Where all weight is on one particle there is no variance left to keep.
        root = torch.linalg.cholesky(covariance + 1e-10 * torch.eye(parameters, dtype=z.dtype))
        noise = self._noise(KERNEL, slots, (self.members, parameters)) @ root.transpose(1, 2)
        redrawn: Tensor = mean + kept * picked(away, chosen) + math.sqrt(1 - kept**2) * noise
        return redrawn


def systematic(share: Tensor, uniform: Tensor) -> Tensor:
    """Numbers (n, N) of particles drawn by their shares (n, N) with one uniform number (n, 1) for all.

    A particle with the share s is drawn N s times, rounded down or up.
    """
    size = share.shape[1]
    at = (torch.arange(size, dtype=share.dtype) + uniform) / size
    return torch.searchsorted(share.cumsum(1), at).clamp(max=size - 1)
