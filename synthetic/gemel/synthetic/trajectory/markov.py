"""Tier 3: noisy tables of what follows what, with the mean of what came before. A fallback where nothing may be trained, and
what the other tiers are audited against.

Three integer tables: strata by first visit; visit by next visit or none; and of the first field: mean so far and last level by
next level. A patient has one cell of the first. Of the others a patient has a weight of `WEIGHT`, divided evenly among their steps
and rounded down, so that however long the history, the table moves by at most `WEIGHT` in L1, hence in L2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gemel.core.errors import GemelError
from gemel.core.mechanism import Mechanism, MechanismKind
from gemel.privacy import renyi
from gemel.privacy.noise import NoiseSource
from gemel.synthetic.provenance import PrivacyStatement
from gemel.synthetic.trajectory.drawing import (
    Chances,
    draw,
    levels_by,
    log_likelihood_by,
    trajectories_of,
)
from gemel.synthetic.trajectory.histories import NO_VISIT, Histories, Levels, Panel
from gemel.synthetic.trajectory.model import Randomness, Trajectories
from gemel.synthetic.trajectory.policy import Policy

WEIGHT = 120
# Of the precision of the release.
_SHARES = {"first": 0.15, "next": 0.45, "history": 0.40}
_BISECTIONS = 60

Tables = dict[str, NDArray[np.int64]]


def count_steps(histories: Histories) -> Tables:
    """The exact tables of one place, before noise.

    first (strata, tokens): one patient, one cell, 1. next (tokens, tokens + 1), the last column for who comes no more, and
    history (levels, levels, levels) of the first field, [mean so far, last, next]: one patient adds at most `WEIGHT` in all.
    """
    panel, tokens, here = histories.panel, histories.tokens(), histories.here
    many, size = math.prod(panel.sizes), panel.sizes[0]
    tables = {
        "first": np.zeros((panel.strata, many), np.int64),
        "next": np.zeros((many, many + 1), np.int64),
        "history": np.zeros((size, size, size), np.int64),
    }
    np.add.at(tables["first"], (histories.strata, tokens[:, 0]), 1)
    # A last visit is a step too, to none, unless the panel ends there.
    steps, moves = here[:, :-1].sum(axis=1), here[:, 1:].sum(axis=1)
    for visit in range(1, panel.visits):
        was, comes = here[:, visit - 1], here[:, visit]
        to = np.where(comes, tokens[:, visit], many)
        np.add.at(tables["next"], (tokens[was, visit - 1], to[was]), WEIGHT // steps[was])
        means = mean_levels(histories.levels[comes, :visit, 0])
        last, then = histories.levels[comes, visit - 1, 0], histories.levels[comes, visit, 0]
        np.add.at(tables["history"], (means, last, then), WEIGHT // moves[comes])
    return tables


def mean_levels(before: Levels) -> Levels:
    """(n,): the mean of the levels so far (n, t), to the nearest level."""
    return np.asarray(np.rint(before.mean(axis=1)), np.int64)


@dataclass(frozen=True)
class MarkovModel:
    """The noisy tables and what they cost."""

    panel: Panel
    tables: Tables
    privacy: PrivacyStatement

    def baselines(self, patients: int, rng: np.random.Generator) -> Levels:
        """Strata (patients,) drawn as the noisy table has them."""
        weights = _shares(self.tables["first"].sum(axis=1))
        return rng.choice(len(weights), patients, p=weights)

    def trajectory(
        self, baseline: NDArray[np.generic], horizon_days: int, policy: Policy, rng: Randomness
    ) -> Trajectories:
        """Draw a history for each stratum (n,). Raises GEM705, GEM603 as `drawing.draw`."""
        random, strata, visits, assigned, forced = draw(self.panel, baseline, horizon_days, policy, rng)
        return trajectories_of(self._histories(strata, visits, forced, random), assigned)

    def histories(self, strata: Levels, rng: np.random.Generator) -> Histories:
        """Whole histories in the panel's levels, under no policy."""
        nothing = np.full((len(strata), self.panel.visits, len(self.panel.fields)), NO_VISIT, np.int64)
        return self._histories(strata, self.panel.visits, nothing, rng)

    def statement(self) -> PrivacyStatement:
        """What the tables cost."""
        return self.privacy

    def log_likelihood(self, histories: Histories) -> NDArray[np.float64]:
        """(n,): the log of how likely each history is, given its stratum."""
        return log_likelihood_by(histories, self._chances(histories.strata))

    def _histories(
        self, strata: Levels, visits: int, forced: Levels, random: np.random.Generator
    ) -> Histories:
        return Histories(
            self.panel, strata, levels_by(self.panel, self._chances(strata), random, visits, forced)
        )

    def _chances(self, strata: Levels) -> Chances:
        panel = self.panel
        first, following = _shares(self.tables["first"]), _shares(self.tables["next"])
        history = _mixed(self.tables["history"], following, panel)

        def chances(visit: int, part: int, rows: NDArray[np.int64], levels: Levels) -> NDArray[np.float64]:
            if not visit:
                tokens = first[strata[rows]]
            else:
                before = levels[rows, :visit]
                was = _token(panel, before[:, -1])
                if part == 0:
                    gone = following[was, -1]
                    return np.stack([gone, 1 - gone], axis=1)
                tokens = following[was, :-1] * history[mean_levels(before[:, :, 0]), was]
            return _of_field(panel, tokens, levels[rows, visit], part - 1)

        return chances


def fit_markov(histories: Histories, *, epsilon: float, delta: float, noise: NoiseSource) -> MarkovModel:
    """Measure the tables under (epsilon, delta)-DP, one patient more or fewer. Raises GEM305 for an impossible budget.

    Two of the tables move by a vector, not in one cell: the guarantee is the concentrated one of the discrete Gaussian
    (Canonne, Kamath & Steinke 2020, theorem 4 for vectors), so the price is Rényi's bound.
    """
    precision = _precision(epsilon, delta)
    sigmas = {name: (share * precision) ** -0.5 for name, share in _SHARES.items()}
    exact = count_steps(histories)
    tables = {
        name: table + noise.discrete_gaussian(sigmas[name] * (1 if name == "first" else WEIGHT), table.shape)
        for name, table in exact.items()
    }
    mechanisms = tuple(_gaussian(sigma) for sigma in sigmas.values())
    statement = PrivacyStatement(
        epsilon=_epsilon(mechanisms, delta),
        delta=delta,
        mechanisms=mechanisms,
        unit="patient",
        neighbouring="add or remove one patient",
        noise="secure" if noise.is_secure else "test",
    )
    return MarkovModel(histories.panel, tables, statement)


def _precision(epsilon: float, delta: float) -> float:
    """The sum of 1/sigma^2, sigma over its sensitivity, that (epsilon, delta) pays for."""
    if not (0 < epsilon < math.inf and 0 < delta < 1):
        raise GemelError("GEM305", f"epsilon {epsilon:g} and delta {delta:g} are no budget.")
    low, high = 1e-8, (epsilon + 1.0) ** 2
    for _ in range(_BISECTIONS):
        middle = math.sqrt(low * high)
        low, high = (
            (middle, high) if _epsilon((_gaussian(middle**-0.5),), delta) <= epsilon else (low, middle)
        )
    return low


def _gaussian(sigma: float) -> Mechanism:
    return Mechanism(kind=MechanismKind.GAUSSIAN, noise_multiplier=sigma)


def _epsilon(mechanisms: tuple[Mechanism, ...], delta: float) -> float:
    return float(renyi.epsilon(np.sum([renyi.curve(m) for m in mechanisms], axis=0), delta=delta))


def _shares(table: NDArray[np.integer]) -> NDArray[np.float64]:
    """Noisy counts (..., levels) as chances; a row of which noise left nothing is even."""
    counts = np.maximum(table, 0).astype(np.float64)
    totals = counts.sum(axis=-1, keepdims=True)
    even = np.full_like(counts, 1 / counts.shape[-1])
    shares: NDArray[np.float64] = np.where(totals > 0, counts / np.maximum(totals, 1), even)
    return shares


def _mixed(table: NDArray[np.int64], following: NDArray[np.float64], panel: Panel) -> NDArray[np.float64]:
    """(means, tokens, tokens): by what the history changes the chances of the next token, of each mean so far and last token."""
    level = np.arange(math.prod(panel.sizes)) // math.prod(panel.sizes[1:])
    by_level = np.stack(
        [following[:, :-1][:, level == one].sum(axis=1) for one in range(panel.sizes[0])], axis=1
    )
    by_level /= np.maximum(by_level.sum(axis=1, keepdims=True), 1e-9)
    told = _shares(table)[:, level]
    changed: NDArray[np.float64] = (told / np.maximum(by_level, 1e-3)[None])[:, :, level]
    return changed


def _token(panel: Panel, levels: Levels) -> Levels:
    token = np.zeros(len(levels), np.int64)
    for j, size in enumerate(panel.sizes):
        token = token * size + levels[:, j]
    return token


def _of_field(panel: Panel, tokens: NDArray[np.float64], levels: Levels, number: int) -> NDArray[np.float64]:
    """(n, levels): chances of field `number` from those of whole tokens (n, tokens), given the fields before it."""
    joint = tokens.reshape(len(tokens), *panel.sizes)
    rows = np.arange(len(tokens))
    for j in range(number):
        joint = joint[rows, levels[:, j]]
    marginal = joint.reshape(len(tokens), panel.sizes[number], -1).sum(axis=2) + 1e-12
    return np.asarray(marginal / marginal.sum(axis=1, keepdims=True))
