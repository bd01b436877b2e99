"""The stochastic ensemble Kalman filter: members are shifted by what they correlate with the observation.

For nearly normal states and parameters of an ODE and many observations. Exact for linear models as the ensemble grows.
Source: Evensen, Ocean Dynamics 2003;53:343; observations are disturbed after Burgers et al., Mon Weather Rev 1998;126:1719.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gemel.twins.assimilation.ensemble import OBSERVATION, EnsembleFilter, Members
from gemel.twins.assimilation.measurements import MeasurementError


@dataclass(frozen=True)
class EnsembleKalmanFilter(EnsembleFilter):
    """State, parameters and past course are one vector, shifted at each observation, one scalar after the other.

    `inflation` widens the ensemble before an observation is taken in (1: not at all): it makes up for the spread that a
    small ensemble loses.
    """

    inflation: float = 1.0

    def _taken_in(
        self, members: Members, expected: Tensor, value: Tensor, error: MeasurementError, slots: Tensor
    ) -> Members:
        middle = expected.mean(1, keepdim=True)
        away = (expected - middle) * self.inflation
        variance = error.variance(middle)
        # Centred, so that the disturbance moves no mean.
        noise = self._noise(OBSERVATION, slots, (self.members,))
        noise = noise - noise.mean(1, keepdim=True)
        surprise = value[:, None] - (middle + away) + variance.sqrt() * noise
        total = (away**2).sum(1, keepdim=True) / (self.members - 1) + variance

        def shifted(part: Tensor) -> Tensor:
            flat = part.reshape(*part.shape[:2], -1)
            mean = flat.mean(1, keepdim=True)
            wide = (flat - mean) * self.inflation
            gain = (wide * away[:, :, None]).sum(1, keepdim=True) / ((self.members - 1) * total[:, :, None])
            return (mean + wide + gain * surprise[:, :, None]).reshape(part.shape)

        return Members(shifted(members.z), shifted(members.state), shifted(members.past), members.log_weight)
