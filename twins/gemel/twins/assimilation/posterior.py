"""What all assimilators have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gemel.twins.assimilation.measurements import Measurements
from gemel.twins.person_prior import PersonPrior


class Posterior(Protocol):
    """What is believed of n patients once their observations are known. It stays at the hospital."""

    @property
    def parameters(self) -> Mapping[str, tuple[NDArray[np.float64], ...]]:
        """Of each parameter that may be moved: mean and standard deviation, (n,) each, in its unit."""

    def draw(self, count: int, *, seed: int) -> dict[str, Tensor]:
        """`count` draws of everybody's parameters: (n * count,) by name, a patient's one after the other."""


class Assimilator(Protocol):
    """Takes the measurements of n patients into what was believed of them."""

    def __call__(self, prior: PersonPrior, measurements: Measurements) -> Posterior:
        """The posterior; the prior where nothing was measured. Raises GEM610 where measurements are impossible."""
