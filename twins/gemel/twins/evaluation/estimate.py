"""A number with its 95 % interval, and the intervals that follow from a standard error."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Z95 = 1.959963984540054
# Upper 97.5 % limit of a Poisson mean when nothing was seen: -log(0.025).
NOTHING_SEEN = 3.688879454113936


@dataclass(frozen=True)
class Estimate:
    """An estimate with its 95 % interval; NaN where the data do not support one."""

    value: float
    low: float
    high: float

    @classmethod
    def plain(cls, value: float, error: float) -> Estimate:
        """Symmetric on its own scale."""
        return cls(value, value - Z95 * error, value + Z95 * error)

    @classmethod
    def of_share(cls, value: float, error: float) -> Estimate:
        """Of something between 0 and 1: symmetric on the logit scale. No interval at 0 or 1, where the error says nothing."""
        if not 0 < value < 1 or not math.isfinite(error):
            return cls(value, math.nan, math.nan)
        middle, width = math.log(value / (1 - value)), Z95 * error / (value * (1 - value))
        low, high = (1 / (1 + math.exp(-x)) for x in (middle - width, middle + width))
        return cls(value, low, high)

    @classmethod
    def of_ratio(cls, value: float, error: float) -> Estimate:
        """Of something positive: symmetric on the log scale."""
        if not value > 0 or not math.isfinite(error):
            return cls(value, math.nan, math.nan)
        width = math.exp(Z95 * error / value)
        return cls(float(value), float(value / width), float(value * width))

    @classmethod
    def none(cls) -> Estimate:
        """Nothing can be said."""
        return cls(math.nan, math.nan, math.nan)

    def excludes(self, value: float) -> bool:
        """Whether the interval lies wholly on one side of a value."""
        return self.low > value or self.high < value


def standard_error(influence: Floats) -> float:
    """From each patient's influence on a number, by the infinitesimal jackknife (Efron & Stein, Ann Stat 1981;9:586).

    The estimated weights of censoring count as known, which makes an interval too wide rather than too narrow.
    """
    return float(np.sqrt(np.square(influence).sum()))


def wilson(covered: float, people: float, *, z: float = Z95) -> Estimate:
    """A share with its interval (Wilson, JASA 1927;22:209); of weighted counts give the effective number.

    >>> wilson(9, 10).low.__round__(3)
    0.596
    """
    if people <= 0:
        return Estimate.none()
    share, squared = covered / people, z * z
    middle = (share + squared / (2 * people)) / (1 + squared / people)
    half = z / (1 + squared / people) * math.sqrt(share * (1 - share) / people + squared / (4 * people**2))
    return Estimate(share, max(0.0, middle - half), min(1.0, middle + half))


def effective_number(weight: Floats) -> float:
    """How many equally weighted patients say as much (Kish)."""
    total = float(np.square(weight).sum())
    return float(weight.sum()) ** 2 / total if total > 0 else 0.0
