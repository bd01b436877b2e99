"""Tier 2: the network of visits with its hidden class, trained by noisy steps; one patient's whole history is one example."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from gemel.core.errors import GemelError
from gemel.core.mechanism import Mechanism, noisy_steps, noisy_tables
from gemel.core.study import TrainingPlan
from gemel.privacy.accounting import epsilon as epsilon_of
from gemel.privacy.engine import DpTrainer
from gemel.privacy.noise import NoiseSource
from gemel.privacy.statistics import noisy_counts
from gemel.synthetic.provenance import PrivacyStatement
from gemel.synthetic.trajectory.autoregressive import VisitNetwork, features_of, tensors
from gemel.synthetic.trajectory.drawing import draw, levels_by, trajectories_of
from gemel.synthetic.trajectory.histories import Histories, Levels, Panel
from gemel.synthetic.trajectory.model import Randomness, Trajectories
from gemel.synthetic.trajectory.policy import Policy

# Of the precision of all releases (the sum of 1/sigma^2), what the table of strata gets; training has the rest.
_STRATA_SHARE = 0.05
_BISECTIONS = 24
# Patients times epsilon from which there is enough to learn for fewer, bolder steps.
_MUCH = 2500


@dataclass(frozen=True)
class NetworkRules:
    """The hyper-parameters of one training: `rules_for` gives them, from public numbers only."""

    classes: int
    hidden: int
    rounds: int
    local_steps: int
    learning_rate: float
    momentum: float
    max_grad_norm: float


def rules_for(*, patients: int, epsilon: float) -> NetworkRules:
    """The rules, by a public number of patients (declared, or counted with noise) and the budget; never by data.

    All steps take everybody. After a path of length L = steps * rate, the noise in each parameter is about L * C / (n epsilon): the
    rate grows with n epsilon, between bounds, and the hidden layer is used where there is enough to learn. Where there is little, more
    steps at a bound that nearly every patient's gradient meets: noise is made for the bound, and what stays below it is lost. With fewer
    steps the classes are not learnt. Chosen on public panels (`benchmarks/trajectories.py --part rules`). Raises GEM305.
    """
    strength = patients * epsilon
    if not (patients >= 1 and math.isfinite(strength) and epsilon > 0):
        raise GemelError(
            "GEM305", f"{patients} patients and epsilon {epsilon:g} are nothing to plan a training by."
        )
    much = strength >= _MUCH
    return NetworkRules(
        classes=5,
        hidden=16 if strength >= 9000 else 4 if much else 1,
        rounds=20,
        local_steps=5 if much else 20,
        learning_rate=min(max(strength / 7000, 0.05), 4.0) * (1 if much else 2),
        momentum=0.8,
        max_grad_norm=1.0 if much else 0.25,
    )


@dataclass(frozen=True)
class NetworkModel:
    """A trained network, the noisy table of strata (strata,), and what both cost."""

    network: VisitNetwork
    strata: NDArray[np.int64]
    privacy: PrivacyStatement

    @property
    def panel(self) -> Panel:
        """The public domain."""
        return self.network.panel

    def baselines(self, patients: int, rng: np.random.Generator) -> Levels:
        """Strata (patients,) drawn as the noisy table has them."""
        weights = np.maximum(self.strata, 0).astype(np.float64) + 1e-9
        return rng.choice(len(weights), patients, p=weights / weights.sum())

    def trajectory(
        self, baseline: NDArray[np.generic], horizon_days: int, policy: Policy, rng: Randomness
    ) -> Trajectories:
        """Draw a history for each stratum (n,). Plans of the policy set the fields that are named like their treatments.

        A what-if of such a plan is an association within these data, not an effect. Raises GEM705, GEM603 as `drawing.draw`.
        """
        random, strata, visits, assigned, forced = draw(self.panel, baseline, horizon_days, policy, rng)
        return trajectories_of(self._histories(strata, visits, forced, random), assigned)

    def histories(self, strata: Levels, rng: np.random.Generator) -> Histories:
        """Whole histories in the panel's levels, under no policy."""
        nothing = np.full((len(strata), self.panel.visits, len(self.panel.fields)), -1, np.int64)
        return self._histories(strata, self.panel.visits, nothing, rng)

    def statement(self) -> PrivacyStatement:
        """What table and training cost."""
        return self.privacy

    def log_likelihood(self, histories: Histories) -> NDArray[np.float64]:
        """(n,): the log of how likely each history is, given its stratum, whatever the patient's class."""
        with torch.no_grad():
            loss = self.network(tensors(histories))
        return np.asarray(-self.panel.visits * loss.numpy(), np.float64)

    def _histories(
        self, strata: Levels, visits: int, forced: Levels, random: np.random.Generator
    ) -> Histories:
        panel, network = self.panel, self.network
        shares = network.class_shares(strata)
        kinds = (np.cumsum(shares, axis=1)[:, :-1] <= random.random((len(strata), 1))).sum(axis=1)

        def chances(visit: int, part: int, rows: NDArray[np.int64], levels: Levels) -> NDArray[np.float64]:
            features = features_of(panel, strata[rows], levels[rows, :visit])
            done = [
                torch.eye(panel.sizes[j])[torch.as_tensor(levels[rows, visit, j])]
                for j in range(max(part - 1, 0))
            ]
            return network.chances(part, features, kinds[rows], done)

        return Histories(panel, strata, levels_by(panel, chances, random, visits, forced))


def fit_network(
    histories: Histories, *, patients: int, epsilon: float, delta: float, noise: NoiseSource
) -> NetworkModel:
    """Train under (epsilon, delta)-DP, one patient more or fewer.

    Args:
        histories: Of the patients of one place.
        patients: About how many they are: a public number, never the exact one.
        epsilon: For the table of strata and the training together, by the accountant.
        delta: The other half of that guarantee.
        noise: Where all randomness of the releases comes from.
    """
    panel, rules = histories.panel, rules_for(patients=patients, epsilon=epsilon)
    steps = rules.rounds * rules.local_steps
    table, training = noise_for(epsilon, delta, steps)
    exact = np.bincount(histories.strata, minlength=panel.strata).astype(np.int64)
    strata = noisy_counts(exact, noise_multiplier=table.noise_multiplier, noise=noise)
    network = VisitNetwork(panel, classes=rules.classes, hidden=rules.hidden)
    trainer = DpTrainer(
        TrainingPlan(
            rounds=rules.rounds,
            local_steps=rules.local_steps,
            learning_rate=rules.learning_rate,
            momentum=rules.momentum,
            max_grad_norm=rules.max_grad_norm,
            sample_rate=1.0,
            noise_multiplier=training.noise_multiplier,
        ),
        noise=noise,
        expected_patients=float(patients),
    )
    _train(network, trainer, histories, rules.rounds)
    statement = PrivacyStatement(
        epsilon=epsilon_of((table, training), delta=delta),
        delta=delta,
        mechanisms=(table, training),
        unit="patient",
        neighbouring="add or remove one patient",
        noise="secure" if noise.is_secure else "test",
    )
    return NetworkModel(network, strata, statement)


def _train(network: VisitNetwork, trainer: DpTrainer, histories: Histories, rounds: int) -> None:
    """All rounds; what stays is the mean of the models after the second half of them, which costs nothing."""
    batch = tensors(histories)
    means = [torch.zeros_like(p) for p in network.parameters()]
    kept = rounds - rounds // 2
    for number in range(rounds):
        trainer.train(network, batch)
        if number >= rounds // 2:
            for mean, parameter in zip(means, network.parameters(), strict=True):
                mean += parameter.detach() / kept
    with torch.no_grad():
        for mean, parameter in zip(means, network.parameters(), strict=True):
            parameter.copy_(mean)


@lru_cache(maxsize=64)
def noise_for(epsilon: float, delta: float, steps: int) -> tuple[Mechanism, Mechanism]:
    """The mechanisms of the table of strata and of all steps that cost at most (epsilon, delta), by the accountant. Raises GEM305."""
    if not (0 < epsilon < math.inf and 0 < delta < 1):
        raise GemelError("GEM305", f"epsilon {epsilon:g} and delta {delta:g} are no budget.")

    def at(precision: float) -> tuple[Mechanism, Mechanism]:
        table = noisy_tables((_STRATA_SHARE * precision) ** -0.5, 1)
        training = ((1 - _STRATA_SHARE) * precision / steps) ** -0.5
        return table, noisy_steps(training, steps, sample_rate=1.0)

    low, high = 1e-8, (epsilon + 1.0) ** 2
    for _ in range(_BISECTIONS):
        middle = math.sqrt(low * high)
        if epsilon_of(at(middle), delta=delta) <= epsilon:
            low = middle
        else:
            high = middle
    return at(low)
