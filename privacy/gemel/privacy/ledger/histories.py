"""Judging histories: does every composition stay under the cap, with as few exact computations as possible."""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from gemel.core.mechanism import Mechanism, MechanismKind
from gemel.privacy import renyi
from gemel.privacy.accounting import epsilon

# An exact computation takes up to a second; a plan that needs more of them is refused rather than waited for.
_MOST_EXACT = 64
# Beyond need, to state the worst-off patient's ε instead of a bound on it: so many distributions may be composed.
_MOST_FOR_THE_RECORD = 32

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Verdict:
    """Whether all stay under the cap, and ε of the worst-off before and after.

    The latter is never understated for who is admitted; for who is refused it may be what already proves the refusal.
    """

    admitted: bool
    epsilon_before: float
    epsilon_after: float


@dataclass(frozen=True)
class Histories:
    """How often each mechanism touched people: `before` and `after` a plan, each of shape (histories, mechanisms)."""

    mechanisms: tuple[Mechanism, ...]
    before: Counts
    after: Counts

    def curves(self, counts: Counts) -> NDArray[np.float64]:
        """Rényi curves of rows of counts, shape (rows, orders)."""
        curves = np.array([renyi.curve(m) for m in self.mechanisms]).reshape(-1, len(renyi.ORDERS))
        summed: NDArray[np.float64] = counts.astype(np.float64) @ curves
        return summed

    def exact(self, counts: Counts, *, delta: float) -> float:
        """ε of one history, a row of counts."""
        return epsilon(
            [
                msgspec.structs.replace(mechanism, count=count)
                for mechanism, count in zip(self.mechanisms, counts.tolist(), strict=True)
                if count
            ],
            delta=delta,
        )

    def exact_of_all(self, rows: Counts, *, delta: float) -> float:
        """ε of a history that none of the rows exceeds in anything.

        Full-batch Gaussians count by their precision, Σ n / σ²: many of one kind and few of another are not taken
        together as many of both.
        """
        gaussian = np.array([m.kind is MechanismKind.GAUSSIAN for m in self.mechanisms], dtype=bool)
        precision = np.array([m.noise_multiplier**-2 for m in self.mechanisms])
        most = np.where(gaussian, 0, rows.max(axis=0))
        found = [
            msgspec.structs.replace(mechanism, count=count)
            for mechanism, count in zip(self.mechanisms, most.tolist(), strict=True)
            if count
        ]
        joint = float((rows @ np.where(gaussian, precision, 0.0)).max())
        if joint > 0:
            found.append(Mechanism(kind=MechanismKind.GAUSSIAN, noise_multiplier=joint**-0.5))
        return epsilon(found, delta=delta)


def judge(histories: Histories, *, cap: float, delta: float, for_the_record: bool) -> Verdict:
    """Whether ε of every history after the plan is at most `cap`.

    Whoever the Rényi bound clears is cleared. Then the history of the largest bound is accounted for exactly, so that
    what is refused is refused at once; the others alone, or many at once through one history that dominates them. When
    that takes more than 64 computations the plan is refused, though it might fit.

    With `for_the_record` a few more computations go into the ε of the worst-off; else it may be a bound.
    """
    few = len(histories.mechanisms) <= _MOST_FOR_THE_RECORD
    return _Court(histories, cap=cap, delta=delta).judge(for_the_record=for_the_record and few)


class _Court:
    def __init__(self, histories: Histories, *, cap: float, delta: float) -> None:
        bounds = renyi.epsilon(histories.curves(histories.after), delta=delta)
        bounds = np.where(np.isnan(bounds), np.inf, bounds)  # what is not a number clears nobody
        order = np.argsort(-bounds, kind="stable")
        self._histories = histories
        self._before, self._after = histories.before[order], histories.after[order]
        self._values = bounds[order].copy()  # the best known upper bound of each
        self._exact = np.zeros(len(order), dtype=bool)
        self._cap, self._delta, self._computed = cap, delta, 0

    def judge(self, *, for_the_record: bool) -> Verdict:
        if not len(self._values):
            return Verdict(True, 0.0, 0.0)
        if not for_the_record and self._gaussians_alone_refuse():
            return self._verdict(admitted=False, for_the_record=False)
        if self._values[0] > self._cap and not self._clear_all():
            return self._verdict(admitted=False, for_the_record=for_the_record)
        if for_the_record:
            self._find_the_worst()
        return self._verdict(admitted=True, for_the_record=for_the_record)

    def _gaussians_alone_refuse(self) -> bool:
        """Whether the full-batch Gaussians of the worst-off alone, whose ε is a closed form, pass the cap."""
        mechanisms = self._histories.mechanisms
        precision = [
            n * m.noise_multiplier**-2
            for n, m in zip(self._after[0].tolist(), mechanisms, strict=True)
            if m.kind is MechanismKind.GAUSSIAN
        ]
        least = _gaussian_epsilon(math.fsum(precision), self._delta)
        if least <= self._cap:
            return False
        self._values[0], self._exact[0] = least, True
        return True

    def _clear_all(self) -> bool:
        if self._account(0) > self._cap:
            return False
        return self._clear(np.flatnonzero(self._values > self._cap))

    def _account(self, row: int) -> float:
        """Exact ε of one history; all that it dominates cost no more."""
        self._computed += 1
        value = self._histories.exact(self._after[row], delta=self._delta)
        dominated = np.all(self._after <= self._after[row], axis=1)
        self._values[dominated] = np.minimum(self._values[dominated], value)
        self._values[row], self._exact[row] = value, True
        return value

    def _clear(self, rows: NDArray[np.intp]) -> bool:
        """Show that some histories stay under the cap; False when one does not, or it takes too long."""
        if not len(rows):
            return True
        if self._computed >= _MOST_EXACT:
            return False
        if len(rows) == 1:
            return self._account(int(rows[0])) <= self._cap
        self._computed += 1
        together = self._histories.exact_of_all(self._after[rows], delta=self._delta)
        if together <= self._cap:
            self._values[rows] = np.minimum(self._values[rows], together)
            return True
        middle = len(rows) // 2
        if not self._clear(rows[:middle]):
            return False
        rest = rows[middle:]
        return self._clear(rest[self._values[rest] > self._cap])

    def _find_the_worst(self) -> None:
        for _ in range(_MOST_FOR_THE_RECORD // max(1, len(self._histories.mechanisms))):
            row = int(self._values.argmax())
            if self._exact[row]:
                return
            self._account(row)

    def _verdict(self, *, admitted: bool, for_the_record: bool) -> Verdict:
        known = self._exact & (self._values > self._cap)  # rather what is sure than what may be
        row = int(np.where(known, self._values, -1.0).argmax() if known.any() else self._values.argmax())
        before = self._before[row]
        if for_the_record:
            spent = self._histories.exact(before, delta=self._delta)
        else:
            spent = float(renyi.epsilon(self._histories.curves(before[None, :]), delta=self._delta)[0])
        after = float(self._values[row])
        return Verdict(admitted, min(spent, after), after)  # a bound may be above what is exact


def _gaussian_epsilon(precision: float, delta: float) -> float:
    """ε of Gaussians of that joint precision Σ 1/σ², rounded down: Balle & Wang 2018, theorem 8."""
    if precision <= 0:
        return 0.0
    mu = math.sqrt(precision)

    def excess(epsilon: float) -> float:
        near, far = stats.norm.logcdf([mu / 2 - epsilon / mu, -mu / 2 - epsilon / mu])
        return float(math.exp(near) - math.exp(epsilon + far)) - delta

    if excess(0.0) <= 0:
        return 0.0
    most = mu * mu / 2 + 40 * mu
    return float(optimize.brentq(excess, 0.0, most)) * (1 - 1e-6) if excess(most) < 0 else 0.0
