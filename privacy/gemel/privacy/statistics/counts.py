"""Noisy counts: integer tables of which one patient can change one cell by one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gemel.core.errors import GemelError
from gemel.privacy.noise import NoiseSource


def noisy_counts(
    counts: NDArray[np.int64], *, noise_multiplier: float, noise: NoiseSource
) -> NDArray[np.int64]:
    """Add discrete Gaussian noise of parameter `noise_multiplier` to every cell.

    Sensitivity is 1: adding or removing one patient changes one cell of the table by one, so the release costs
    one discrete Gaussian mechanism whatever the number of cells. Nothing is clipped at zero: that is for
    whoever reads the table. Shapes: any, kept. Raises GEM305 on an impossible multiplier or on non-integers.
    """
    if counts.dtype.kind not in "iu":
        raise GemelError("GEM305", f"Counts must be integers, got {counts.dtype.name}.")
    return counts.astype(np.int64) + noise.discrete_gaussian(noise_multiplier, counts.shape)
