"""How a study's rounds become one twin: the federated optimiser, what stays personal, and the pace of rounds."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from enum import StrEnum

import msgspec

_NAME = re.compile(r"[A-Za-z0-9_.]{1,128}", re.ASCII)


class Algorithm(StrEnum):
    """How releases move the global twin."""

    FEDAVG = "fedavg"  # McMahan et al., AISTATS 2017
    FEDPROX = "fedprox"  # Li et al., MLSys 2020
    SCAFFOLD = "scaffold"  # Karimireddy et al., ICML 2020
    FEDADAM = "fedadam"  # Reddi et al., ICLR 2021
    FEDYOGI = "fedyogi"  # Reddi et al., ICLR 2021


class Personalisation(StrEnum):
    """What each hospital keeps for itself."""

    NONE = "none"
    LOCAL_PARAMETERS = (
        "local_parameters"  # named parameters never leave: FedBN (Li et al., ICLR 2021), local heads
    )
    DITTO = "ditto"  # a personal twin beside the global one (Li et al., ICML 2021)


class StrategyPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The federated optimiser.

    Attributes:
        algorithm: Which.
        proximal_mu: FedProx: each local step is pulled to the global twin by mu · (w - w_global).
        server_learning_rate, beta_1, beta_2, tau: FedAdam and FedYogi; SCAFFOLD uses the first.
        personalisation: What stays at each hospital.
        local_parameters: Names of the twin's parameters that are trained and kept at each hospital, and never leave.
        ditto_lambda: How strongly a personal twin is pulled to the global one. It takes as many noisy steps as the global
            twin does, and they are charged too.
    """

    algorithm: Algorithm = Algorithm.FEDAVG
    proximal_mu: float = 0.0
    server_learning_rate: float = 1.0
    beta_1: float = 0.9
    beta_2: float = 0.99
    tau: float = 1e-3
    personalisation: Personalisation = Personalisation.NONE
    local_parameters: tuple[str, ...] = ()
    ditto_lambda: float = 0.0


class Pace(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When a round closes, and when training does.

    Attributes:
        enough: A round closes as soon as so many releases came, and who is later is recorded as late; 0 waits for all,
            up to the study's `round_timeout_s`.
        buffer: 0 for rounds that all take together; else hospitals train each at their own pace (FedBuff, Nguyen et al.,
            AISTATS 2022), and the twin moves whenever so many updates are there.
        staleness_exponent: An update that is s moves old weighs (1 + s)^-this.
        validate_every: A charged validation on the held-out patients after each so many rounds; 0 for none.
        patience: Training ends early after so many validations in a row without an improvement; 0 never.
        least_improvement: What counts as one, in units of the validated loss.
    """

    enough: int = 0
    buffer: int = 0
    staleness_exponent: float = 0.5
    validate_every: int = 0
    patience: int = 0
    least_improvement: float = 0.0


def strategy_conditions(plan: StrategyPlan, *, masked: bool, robust: bool) -> tuple[tuple[bool, str], ...]:
    """What a strategy must fulfil, each with what to say when it does not."""
    prox, ditto = plan.algorithm is Algorithm.FEDPROX, plan.personalisation is Personalisation.DITTO
    local = plan.personalisation is Personalisation.LOCAL_PARAMETERS
    averages = plan.algorithm in (Algorithm.FEDAVG, Algorithm.FEDPROX)
    return (
        (
            _positive(plan.proximal_mu, 1e3) if prox else plan.proximal_mu == 0,
            "strategy.proximal_mu is for fedprox",
        ),
        (_positive(plan.server_learning_rate, 100), "strategy.server_learning_rate must be in (0, 100]"),
        (0 <= plan.beta_1 < 1, "strategy.beta_1 must be in [0, 1)"),
        (0 <= plan.beta_2 < 1, "strategy.beta_2 must be in [0, 1)"),
        (_positive(plan.tau, 1), "strategy.tau must be in (0, 1]"),
        (
            bool(plan.local_parameters) == local,
            "strategy.local_parameters are named for that personalisation, and only",
        ),
        (_distinct_names(plan.local_parameters), "strategy.local_parameters must be distinct names"),
        (
            _positive(plan.ditto_lambda, 1e3) if ditto else plan.ditto_lambda == 0,
            "strategy.ditto_lambda is for ditto",
        ),
        (averages or not robust, "strategy: a robust rule goes with fedavg and fedprox"),
        (
            plan.algorithm is not Algorithm.SCAFFOLD or not masked,
            "strategy: scaffold needs to see what masking hides",
        ),
    )


def pace_conditions(
    pace: Pace, *, sites: int, quorum: int, rounds: int, masked: bool
) -> tuple[tuple[bool, str], ...]:
    """What a pace must fulfil, each with what to say when it does not."""
    return (
        (
            pace.enough == 0 or quorum <= pace.enough <= sites,
            "pace.enough must be 0, or from quorum to all sites",
        ),
        (0 <= pace.buffer <= sites, "pace.buffer must be 0 to the number of sites"),
        (not (pace.buffer and masked), "pace: masks need rounds that all take together"),
        (not (pace.buffer and pace.validate_every), "pace: validation needs rounds that all take together"),
        (0 <= pace.staleness_exponent <= 10, "pace.staleness_exponent must be 0 to 10"),
        (0 <= pace.validate_every <= rounds, "pace.validate_every must be 0 to the number of rounds"),
        (
            pace.patience >= 0 and (pace.patience == 0 or pace.validate_every > 0),
            "pace.patience needs validate_every",
        ),
        (0 <= pace.least_improvement < math.inf, "pace.least_improvement must be at least 0"),
    )


def _positive(value: float, most: float) -> bool:
    return 0 < value <= most


def _distinct_names(names: Collection[str]) -> bool:
    return len(set(names)) == len(names) and all(map(_NAME.fullmatch, names))
