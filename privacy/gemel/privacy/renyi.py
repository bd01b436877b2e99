"""Rényi curves of mechanisms: a quick upper bound on ε for many patients at once, and a filter for adaptive plans.

What is enforced and stated is the accountant's ε (`gemel.privacy.accounting`); the bound here is never below it. The
filter is for mechanisms whose parameters are chosen after private outputs were seen, where privacy loss distributions
do not compose: Feldman & Zrnic, "Individual privacy accounting via a Rényi filter", NeurIPS 2021.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

from gemel.core.errors import GemelError
from gemel.core.mechanism import Mechanism, MechanismKind
from gemel.privacy.accounted import check_mechanism

Float = NDArray[np.float64]

_FRACTIONAL = (1.25, 1.5, 1.75, 2.25, 2.5, 2.75, 3.25, 3.5, 3.75, 4.5, 5.5, 6.5, 7.5)
_WHOLE = (*range(2, 33), 36, 40, 45, 50, 56, 64, 80, 100, 128, 192, 256, 384, 512, 768, 1024)
ORDERS: Float = np.array(sorted((*_FRACTIONAL, *_WHOLE)), dtype=np.float64)
ORDERS.setflags(write=False)
# Of δ, to the order that is chosen beforehand; the rest is divided among the others.
_MAIN_PART = 0.9
_MARGIN = 2e-6


def curve(mechanism: Mechanism) -> Float:
    """Rényi divergence of all runs of a mechanism, at each of `ORDERS`: shape (orders,), read-only.

    The larger of adding and removing a patient. Exact, but an upper bound for two kinds: the discrete Gaussian has the
    continuous one's curve (Canonne, Kamath & Steinke 2020, theorem 4), and the sampled Gaussian's is exact at whole
    orders only. Raises GEM303 as the accountant does.
    """
    check_mechanism(mechanism)
    z, q = float(mechanism.noise_multiplier), float(mechanism.sample_rate)
    total = _single(str(mechanism.kind), z, q) * mechanism.count
    total.setflags(write=False)
    return total


def epsilon(curves: Float, *, delta: float, margin: float = _MARGIN) -> Float:
    """ε of composed curves at δ: shape (..., orders) to (...). Curves of one patient's mechanisms are added first.

    The conversion is that of Canonne, Kamath & Steinke 2020, proposition 12, at the best of `ORDERS`. Nothing run (a
    curve of zeros) costs 0. Never below the accountant's ε, which takes this bound where its own is looser: `margin`
    makes up for the step that it rounds up to. Raises GEM303 for an impossible δ.
    """
    if not 0 < delta < 1:
        raise GemelError("GEM303", f"delta must lie in (0, 1), got {delta}.")
    best: Float = np.maximum(np.min(curves + _surcharge(delta), axis=-1), 0.0) + margin
    return np.where(np.all(curves == 0, axis=-1), 0.0, best)


class RenyiFilter:
    """Admits mechanisms one by one, each chosen with all earlier outputs in view, while (ε, δ) holds for the whole.

    Order α has a part δ_α of δ, Σ δ_α = δ, and the budget B_α = ε - (what converting order α at δ_α adds). A mechanism
    is admitted while at some order all that was admitted, and it, stay within B_α; once every order's budget would be
    exceeded it is refused. A patient's total is then (ε, δ)-DP however the parameters were chosen: under the other data
    set exp(αL - (α-1)·Σ curve) is a supermartingale for each α, so the runs that end within B_α add at most δ_α.

    The order that is left at the end may itself be chosen by the outputs, hence the division: to try all orders at the
    whole δ, as with parameters fixed beforehand, has no proof. Nine tenths of δ belong to the order that suits Gaussians
    best, which leaves it almost all of the budget.
    """

    def __init__(self, *, epsilon: float, delta: float) -> None:
        """Raises GEM305 when no order leaves a budget at this (ε, δ)."""
        if not (math.isfinite(epsilon) and epsilon > 0 and 0 < delta < 1):
            raise GemelError("GEM305", f"Not a limit: epsilon {epsilon}, delta {delta}.")
        main = int(np.argmax((epsilon - _surcharge(_MAIN_PART * delta)) / ORDERS))
        parts = np.full(len(ORDERS), (1 - _MAIN_PART) * delta / (len(ORDERS) - 1))
        parts[main] = _MAIN_PART * delta
        self._budgets = epsilon - _surcharge(parts)
        if not np.any(self._budgets > 0):
            raise GemelError("GEM305", f"No order of the filter has a budget at {epsilon=}, {delta=}.")
        self._spent: Float = np.zeros(len(ORDERS))
        self._admitted: list[Mechanism] = []

    def admits(self, mechanism: Mechanism) -> bool:
        """Whether the mechanism may still run. Raises GEM303 for one that is not accounted for."""
        return bool(np.any(self._spent + curve(mechanism) <= self._budgets))

    def spend(self, mechanism: Mechanism) -> None:
        """Charge the mechanism, before it runs. Raises GEM301, and charges nothing, when it is not admitted."""
        if not self.admits(mechanism):
            raise GemelError("GEM301", f"The filter's budget does not admit {mechanism}.")
        self._spent = self._spent + curve(mechanism)
        self._admitted.append(mechanism)

    @property
    def admitted(self) -> tuple[Mechanism, ...]:
        """All that was charged, in order: a filter of the same limits that spends them again is in the same state."""
        return tuple(self._admitted)

    @property
    def used(self) -> float:
        """The used part of the budget at the order that has most left, 0 to 1."""
        possible = self._budgets > 0
        return float(np.min(self._spent[possible] / self._budgets[possible]))


def _surcharge(delta: float | Float) -> Float:
    """What converting a divergence at each order to ε adds to it."""
    excess: Float = np.log1p(-1 / ORDERS) - (np.log(delta) + np.log(ORDERS)) / (ORDERS - 1)
    return excess


@lru_cache(maxsize=4096)
def _single(kind: str, z: float, q: float) -> Float:
    if kind in (MechanismKind.DISCRETE_GAUSSIAN, MechanismKind.GAUSSIAN) or (
        kind == MechanismKind.POISSON_GAUSSIAN and q == 1
    ):
        return ORDERS / (2 * z**2)
    if kind == MechanismKind.DISCRETE_LAPLACE:
        return _randomised_response(1 / z)
    if kind == MechanismKind.EXPONENTIAL:
        return _bounded_range(1 / z)
    if kind == MechanismKind.LAPLACE:
        return _laplace(1 / z)
    return _sampled_gaussian(z, q)


def _sampled_gaussian(z: float, q: float) -> Float:
    """Mironov, Talwar & Zhang 2019: at whole orders a finite sum; between them (α-1)·D is convex, so its chord is above.

    The series for orders between (as in dp-accounting) does not always converge, and this is quicker.
    """
    moments = _log_moments(z, q)
    chord = np.interp(ORDERS, (1.0, *_WHOLE), (0.0, *moments))
    return np.asarray(chord / (ORDERS - 1) * (1 + 1e-10), dtype=np.float64)


def _log_moments(z: float, q: float) -> Float:
    """log E[ratio^α] at the whole orders, from E - 1 = Σ C(α,i) q^i (1-q)^(α-i) (exp((i²-i)/2z²) - 1), all terms >= 0."""
    order = np.array(_WHOLE, dtype=np.float64)[:, None]
    i = np.arange(2, _WHOLE[-1] + 1, dtype=np.float64)[None, :]
    rest = np.maximum(order - i, 0.0)
    binomial = special.gammaln(order + 1) - special.gammaln(i + 1) - special.gammaln(rest + 1)
    gain = (i**2 - i) / (2 * z**2)
    terms = binomial + i * math.log(q) + rest * math.log1p(-q) + gain + np.log(-np.expm1(-gain))
    excess = special.logsumexp(np.where(i <= order, terms, -np.inf), axis=1)
    return np.asarray(np.logaddexp(0.0, excess), dtype=np.float64)


def _laplace(epsilon: float) -> Float:
    """Mironov 2017, proposition 6."""
    order = 2 * ORDERS - 1
    log_moment = np.logaddexp(
        np.log(ORDERS / order) + (ORDERS - 1) * epsilon, np.log((ORDERS - 1) / order) - ORDERS * epsilon
    )
    return _not_negative(log_moment / (ORDERS - 1))


def _randomised_response(epsilon: float) -> Float:
    """Truth with odds exp(ε), which is what a discrete Laplace of sensitivity 1 is: its loss is ε or -ε."""
    truth = -np.log1p(np.exp(-epsilon))
    lie = truth - epsilon
    one, other = ORDERS * truth + (1 - ORDERS) * lie, ORDERS * lie + (1 - ORDERS) * truth
    return _not_negative(np.logaddexp(one, other) / (ORDERS - 1))


def _bounded_range(epsilon: float) -> Float:
    """An exponential selection: the pair that `accounting` composes (density ∝ exp(±x/2) of the loss x in [-ε, ε]), or ε²/8.

    The latter is the concentrated bound of a loss that lies in an interval of width ε, by Hoeffding's lemma (Cesar &
    Rogers 2021): smaller at low orders, and valid at each order by itself.
    """
    order = 2 * ORDERS - 1
    log_moment = _log_sinh(order * epsilon / 2) - _log_sinh(np.array(epsilon / 2)) - np.log(order)
    return np.minimum(_not_negative(log_moment / (ORDERS - 1)), ORDERS * epsilon**2 / 8)


def _log_sinh(x: Float) -> Float:
    value: Float = x + np.log(-np.expm1(-2 * x)) - math.log(2)
    return value


def _not_negative(values: Float) -> Float:
    # Differences of logarithms near 1 are exact to some 1e-15 only: rounded up.
    padded: Float = np.maximum(values, 0.0) + 1e-14
    return padded
