"""The study document: data, never code. What it asks for, in which tasks, at what privacy price."""

from __future__ import annotations

import math
import re
from enum import StrEnum
from typing import Any

import msgspec

from gemel.core.canonical import document_hash
from gemel.core.errors import GemelError

SCHEMA = "gemel/study/1"
# A site's name becomes a file's name at the coordinator.
_SITE = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}", re.ASCII | re.IGNORECASE)
_PUBLIC_KEY = re.compile(r"[0-9a-f]{64}", re.ASCII)
# Less noise is no privacy, more is no result, and the accountant's time and memory grow without limit outside.
_LEAST_NOISE, _MOST_NOISE, _MOST_TABLE_NOISE = 0.1, 1e6, 1e4
# The sum of 1/σ² over all releases: at 150 it costs more than the largest ε that a study may state.
_MOST_PRECISION = 150.0


class MechanismKind(StrEnum):
    """The mechanisms that a plan may name; all others are refused."""

    GAUSSIAN = "gaussian"
    POISSON_GAUSSIAN = "poisson_gaussian"
    DISCRETE_GAUSSIAN = "discrete_gaussian"
    LAPLACE = "laplace"


class Mechanism(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One differentially private mechanism, run `count` times.

    `noise_multiplier` is the noise scale over the sensitivity of adding or removing one patient;
    `sample_rate` is the Poisson sampling rate (1 = everybody).
    """

    kind: MechanismKind
    noise_multiplier: float
    sample_rate: float = 1.0
    count: int = 1


class TrainingPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How each round trains: `local_steps` noisy gradient steps at each hospital."""

    rounds: int
    local_steps: int
    learning_rate: float
    momentum: float
    max_grad_norm: float
    sample_rate: float
    noise_multiplier: float


class PrivacyPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The price for each patient of each hospital, everything included: unit patient, add/remove one.

    The noise multipliers are those of single releases: one count, each metrics table, each marginal table.
    """

    epsilon: float
    delta: float
    count_noise_multiplier: float
    metrics_noise_multiplier: float
    marginals_noise_multiplier: float


class Study(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A proposal to hospitals. Its hash names it; `study_id` is for people."""

    schema: str
    study_id: str
    title: str
    purpose: str
    programme: str
    programme_version: str
    training: TrainingPlan
    privacy: PrivacyPlan
    metrics_tables: int
    marginal_tables: int
    minimum_patients: int
    quorum: int
    round_timeout_s: float
    sites: dict[str, str]  # site name -> the node's public key (hex)

    def to_payload(self) -> dict[str, Any]:
        """The JSON form that is signed and hashed."""
        payload: dict[str, Any] = msgspec.to_builtins(self)
        return payload

    @property
    def sha256(self) -> str:
        """The hash that names this study everywhere."""
        return document_hash(self.to_payload())

    @property
    def tasks(self) -> tuple[str, ...]:
        """Every task in order: count, train/1 … train/R, evaluate, synthesise."""
        rounds = tuple(f"train/{r}" for r in range(1, self.training.rounds + 1))
        return ("count", *rounds, "evaluate", "synthesise")

    def mechanisms(self, task: str) -> tuple[Mechanism, ...]:
        """What one task costs. The node reads it here, never from a message. Unknown task: GEM404."""
        if task not in self.tasks:
            raise GemelError("GEM404", f"The study has no task {task!r}.")
        return self._cost(task)

    def _cost(self, task: str) -> tuple[Mechanism, ...]:
        discrete = MechanismKind.DISCRETE_GAUSSIAN
        if task == "count":
            return (Mechanism(kind=discrete, noise_multiplier=self.privacy.count_noise_multiplier),)
        if task == "evaluate":
            z, tables = self.privacy.metrics_noise_multiplier, self.metrics_tables
            return (Mechanism(kind=discrete, noise_multiplier=z, count=tables),)
        if task == "synthesise":
            z, tables = self.privacy.marginals_noise_multiplier, self.marginal_tables
            return (Mechanism(kind=discrete, noise_multiplier=z, count=tables),)
        plan = self.training
        kind = MechanismKind.GAUSSIAN if plan.sample_rate == 1 else MechanismKind.POISSON_GAUSSIAN
        return (
            Mechanism(
                kind=kind,
                noise_multiplier=plan.noise_multiplier,
                sample_rate=plan.sample_rate,
                count=plan.local_steps,
            ),
        )

    def all_mechanisms(self) -> tuple[Mechanism, ...]:
        """What the whole study costs one patient."""
        return tuple(m for task in self.tasks for m in self._cost(task))


def parse_study(payload: object) -> Study:
    """Read a study from JSON values, checked to the last field. Raises GEM101 naming field and fault."""
    try:
        study = msgspec.convert(payload, Study)
    except msgspec.ValidationError as error:
        raise GemelError("GEM101", f"The study document is malformed: {error}.") from error
    _check(study)
    if document_hash(payload) != study.sha256:
        # 3 where 3.0 belongs: one study under two hashes could be charged under one and looked up under the other.
        raise GemelError("GEM101", "The study document is malformed: write it as `Study.to_payload` does.")
    return study


def _check(study: Study) -> None:
    plan, privacy = study.training, study.privacy
    conditions: tuple[tuple[bool, str], ...] = (
        (study.schema == SCHEMA, f"schema must be {SCHEMA}, got {study.schema}"),
        (1 <= plan.rounds <= 10_000, f"training.rounds must be 1 to 10000, got {plan.rounds}"),
        (1 <= plan.local_steps <= 10_000, f"training.local_steps: got {plan.local_steps}"),
        (0 < plan.learning_rate <= 100, f"training.learning_rate: got {plan.learning_rate}"),
        (0 <= plan.momentum < 1, f"training.momentum must be in [0, 1), got {plan.momentum}"),
        (0 < plan.max_grad_norm < 1e6, f"training.max_grad_norm: got {plan.max_grad_norm}"),
        (0 < plan.sample_rate <= 1, f"training.sample_rate: got {plan.sample_rate}"),
        (_noise(plan.noise_multiplier, _MOST_NOISE), "training.noise_multiplier must be 0.1 to 1e6"),
        (0 < privacy.epsilon <= 100, f"privacy.epsilon: got {privacy.epsilon}"),
        (0 < privacy.delta <= 1e-3, f"privacy.delta must be at most 1e-3, got {privacy.delta}"),
        (_noise(privacy.count_noise_multiplier), "privacy.count_noise_multiplier must be 0.1 to 1e4"),
        (_noise(privacy.metrics_noise_multiplier), "privacy.metrics_noise_multiplier must be 0.1 to 1e4"),
        (_noise(privacy.marginals_noise_multiplier), "privacy.marginals_noise_multiplier must be 0.1 to 1e4"),
        (1 <= study.metrics_tables <= 10_000, "metrics_tables must be 1 to 10000"),
        (1 <= study.marginal_tables <= 10_000, "marginal_tables must be 1 to 10000"),
        (1 <= study.minimum_patients <= 10**9, "minimum_patients must be 1 to 1e9"),
        (1 <= study.quorum <= len(study.sites), f"quorum {study.quorum} of {len(study.sites)} sites"),
        (0 < study.round_timeout_s <= 604_800, "round_timeout_s must be at most a week"),
        (all(map(_SITE.fullmatch, study.sites)), "sites: a name is letters, digits, - and _, at most 64"),
        (all(map(_PUBLIC_KEY.fullmatch, study.sites.values())), "sites: a key is 64 hex digits, lower case"),
        (len(set(study.sites.values())) == len(study.sites), "sites: two have the same key"),
    )
    for holds, message in conditions:
        if not holds:
            raise GemelError("GEM101", f"The study document is malformed: {message}.")
    if not _precision(study) <= _MOST_PRECISION:
        raise GemelError(
            "GEM101", "The study document is malformed: its noise is too small for all that it releases."
        )


def _noise(multiplier: float, most: float = _MOST_TABLE_NOISE) -> bool:
    return _LEAST_NOISE <= multiplier <= most


def _precision(study: Study) -> float:
    """Sum of 1/σ²; for sampled steps q² (exp(1/σ²) - 1), which they tend to (Bu, Dong, Long & Su, 2020)."""
    return sum(
        m.count * (m.noise_multiplier**-2 if m.sample_rate == 1 else _sampled(m))
        for m in study.all_mechanisms()
    )


def _sampled(mechanism: Mechanism) -> float:
    return mechanism.sample_rate**2 * math.expm1(mechanism.noise_multiplier**-2)
