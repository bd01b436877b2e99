"""The study document: data, never code. What it asks for, in which tasks, at what privacy price."""

from __future__ import annotations

import math
import re
from enum import StrEnum
from functools import cached_property
from typing import Any

import msgspec

from gemel.core.canonical import document_hash
from gemel.core.errors import GemelError
from gemel.core.mechanism import (
    Charge,
    Mechanism,
    charge_for,
    is_evaluation,
    joint_noise_multiplier,
    mechanisms_by_patient,
    noisy_steps,
    noisy_tables,
)
from gemel.core.statistic_request import StatisticRequest, check_statistics
from gemel.core.strategy_plan import (
    Algorithm,
    Pace,
    Personalisation,
    StrategyPlan,
    pace_conditions,
    strategy_conditions,
)
from gemel.core.synthesis_plan import ROUNDS, SynthesisPlan, synthesis_conditions
from gemel.core.trajectory_plan import TrajectoryPlan, is_trajectory, trajectory_conditions

SCHEMA = "gemel/study/1"
# A site's name becomes a file's name at the coordinator.
_SITE = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}", re.ASCII | re.IGNORECASE)
_PUBLIC_KEY = re.compile(r"[0-9a-f]{64}", re.ASCII)
# Less noise is no privacy, more is no result, and the accountant's time and memory grow without limit outside.
_LEAST_NOISE, _MOST_NOISE, _MOST_TABLE_NOISE, _MOST_STRATA_NOISE = 0.1, 1e6, 1e4, 1e3
# The sum of 1/σ² over all releases: at 150 it costs more than the largest ε that a study may state.
_MOST_PRECISION = 150.0


class Clipping(StrEnum):
    """How a patient's gradient is bounded; each way bounds it to `max_grad_norm` over all parameters, or adapts that."""

    FLAT = "flat"
    PER_LAYER = "per_layer"  # max_grad_norm / sqrt(layers) for each layer
    ADAPTIVE = "adaptive"  # Andrew et al. 2021: the bound follows a quantile of the norms, for a price


class Masking(StrEnum):
    """What the coordinator sees of each hospital: its release, or one under a mask that only the sum lifts."""

    NONE = "none"
    SECURE = "secure"


class AggregationRule(StrEnum):
    """How the hospitals' updates become one model; all but the mean need to see each update."""

    MEAN = "mean"
    TRIMMED_MEAN = "trimmed_mean"
    MEDIAN = "median"
    KRUM = "krum"
    MULTI_KRUM = "multi_krum"


class AggregationPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How releases are brought together (`docs/secure_aggregation.md`).

    Attributes:
        masking: Whether the coordinator sees single hospitals' releases.
        rule: For updates that it sees; a masked sum is always a mean.
        threshold: How many hospitals it takes to lift masks; 0 for the least that is safe, more than two thirds.
        distributed_noise: For masked tables: each hospital adds a share of the noise, and only the sum is private at
            the study's multiplier. Else each release is private by itself.
        dropouts, colluders: How many hospitals may be missing from a sum, and how many may tell what noise they
            added, with the shares of the others still enough.
        malicious: How many poisoned updates a robust rule is to withstand.
    """

    masking: Masking = Masking.NONE
    rule: AggregationRule = AggregationRule.MEAN
    threshold: int = 0
    distributed_noise: bool = False
    dropouts: int = 0
    colluders: int = 0
    malicious: int = 0


class TrainingPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How each round trains: `local_steps` noisy gradient steps at each hospital.

    The last three are those of adaptive clipping: the bound moves so that `target_quantile` of the norms lie under it,
    by exp(-`clip_learning_rate` · error); `quantile_noise_multiplier` is the standard deviation of the noise on the
    centred count Σ(b_i − ½) over its sensitivity ½. Sum and count are answered together on one sample, so a step costs
    a Gaussian of `joint_noise_multiplier(noise_multiplier, quantile_noise_multiplier)`.
    """

    rounds: int
    local_steps: int
    learning_rate: float
    momentum: float
    max_grad_norm: float
    sample_rate: float
    noise_multiplier: float
    clipping: Clipping = Clipping.FLAT
    target_quantile: float = 0.5
    quantile_noise_multiplier: float = 0.0
    clip_learning_rate: float = 0.2

    @property
    def step_noise_multiplier(self) -> float:
        """The multiplier that one step is charged at."""
        if self.clipping is Clipping.ADAPTIVE:
            return joint_noise_multiplier(self.noise_multiplier, self.quantile_noise_multiplier)
        return self.noise_multiplier


class PrivacyPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The price for each patient of each hospital, everything included: unit patient, add/remove one.

    The noise multipliers are those of single releases: one count, each metrics table. All of synthesis together is one
    Gaussian of its multiplier, which `SynthesisPlan` divides among its tables.
    """

    epsilon: float
    delta: float
    count_noise_multiplier: float
    metrics_noise_multiplier: float
    synthesis_noise_multiplier: float


class Study(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, dict=True):
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
    synthesis: SynthesisPlan
    minimum_patients: int
    quorum: int
    round_timeout_s: float
    sites: dict[str, str]  # site name -> the node's public key (hex)
    aggregation: AggregationPlan = msgspec.field(default_factory=AggregationPlan)
    statistics: tuple[StatisticRequest, ...] = ()
    strategy: StrategyPlan = msgspec.field(default_factory=StrategyPlan)
    pace: Pace = msgspec.field(default_factory=Pace)
    # Each hospital's last release, evaluated at every hospital: one more charged evaluation for each site.
    cross_site_validation: bool = False
    # Of a programme that declares visits: a network of them, for virtual trajectories.
    trajectories: TrajectoryPlan | None = None

    def to_payload(self) -> dict[str, Any]:
        """The JSON form that is signed and hashed."""
        payload: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))  # lists, not tuples
        if self.trajectories is None:
            # A study without them keeps the hash that it was signed under before there were any.
            del payload["trajectories"]
        return payload

    @cached_property  # a node asks a dozen times for each task, and a study may name a thousand hospitals
    def sha256(self) -> str:
        """The hash that names this study everywhere."""
        return document_hash(self.to_payload())

    @property
    def tasks(self) -> tuple[str, ...]:
        """Every task in order.

        count, describe (where statistics are asked), train/1 … train/R with validate/r among them (where validations are
        asked), evaluate, personal (the personal twins, where there are), cross/SITE (where asked), synthesise/1 … synthesise/3,
        visits/1 … visits/R and strata (where trajectories are asked).
        """
        every, last = self.pace.validate_every, self.training.rounds
        rounds: list[str] = []
        for number in range(1, last + 1):
            rounds.append(f"train/{number}")
            if every and number % every == 0:
                rounds.append(f"validate/{number}")
        describe = ("describe",) if self.statistics else ()
        personal = ("personal",) if self.strategy.personalisation is Personalisation.DITTO else ()
        cross = tuple(f"cross/{site}" for site in sorted(self.sites)) if self.cross_site_validation else ()
        trajectories = () if self.trajectories is None else self.trajectories.tasks
        return ("count", *describe, *rounds, "evaluate", *personal, *cross, *ROUNDS, *trajectories)

    def charge(self, task: str) -> Charge:
        """What one task costs, and whom. The node reads it here, never from a message. Unknown task: GEM404."""
        if task not in self.tasks:
            raise GemelError("GEM404", f"The study has no task {task!r}.")
        return self._charge(task)

    def charges(self) -> tuple[Charge, ...]:
        """What every task costs, in the order of the tasks."""
        return tuple(self._charge(task) for task in self.tasks)

    def _charge(self, task: str) -> Charge:
        privacy, plan = self.privacy, self.training
        if task == "count":
            return charge_for(task, noisy_tables(privacy.count_noise_multiplier, 1))
        if task == "describe":
            return charge_for(task, *(m for request in self.statistics for m in request.mechanisms()))
        if is_evaluation(task):
            return charge_for(task, noisy_tables(privacy.metrics_noise_multiplier, self.metrics_tables))
        if task in ROUNDS:
            return charge_for(task, self.synthesis.mechanism(task, privacy.synthesis_noise_multiplier))
        if self.trajectories is not None and is_trajectory(task):
            return charge_for(task, self.trajectories.mechanism(task))
        # A personal twin takes steps of its own, on the same patients.
        twins = 2 if self.strategy.personalisation is Personalisation.DITTO else 1
        step = noisy_steps(plan.step_noise_multiplier, twins * plan.local_steps, sample_rate=plan.sample_rate)
        return charge_for(task, step)


def parse_study(payload: object) -> Study:
    """Read a study from JSON values, checked to the last field. Raises GEM101 (GEM311 for a statistic) naming the fault."""
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
    masked = study.aggregation.masking is Masking.SECURE
    robust = study.aggregation.rule is not AggregationRule.MEAN
    pace = pace_conditions(
        study.pace, sites=len(study.sites), quorum=study.quorum, rounds=study.training.rounds, masked=masked
    )
    conditions = (
        *_document(study),
        *_training(study.training),
        *_privacy(study),
        *_aggregation(study),
        *synthesis_conditions(study.synthesis),
        *trajectory_conditions(study.trajectories, robust=robust),
        *_trajectory_noise(study.trajectories),
        *strategy_conditions(study.strategy, masked=masked, robust=robust),
        *pace,
        (
            not (study.cross_site_validation and masked),
            "cross_site_validation needs to see what masking hides",
        ),
        (not (study.pace.buffer and robust), "pace: a robust rule needs rounds that all take together"),
        (
            not (study.pace.buffer and study.strategy.algorithm is Algorithm.SCAFFOLD),
            "pace: scaffold needs rounds that all take together",
        ),
    )
    for holds, message in conditions:
        if not holds:
            raise GemelError("GEM101", f"The study document is malformed: {message}.")
    check_statistics(study.statistics)
    if not _precision(study) <= _MOST_PRECISION:
        raise GemelError(
            "GEM101", "The study document is malformed: its noise is too small for all that it releases."
        )


_Conditions = tuple[tuple[bool, str], ...]


def _document(study: Study) -> _Conditions:
    return (
        (study.schema == SCHEMA, f"schema must be {SCHEMA}, got {study.schema}"),
        (1 <= study.metrics_tables <= 10_000, "metrics_tables must be 1 to 10000"),
        (1 <= study.minimum_patients <= 10**9, "minimum_patients must be 1 to 1e9"),
        (1 <= study.quorum <= len(study.sites), f"quorum {study.quorum} of {len(study.sites)} sites"),
        (0 < study.round_timeout_s <= 604_800, "round_timeout_s must be at most a week"),
        (all(map(_SITE.fullmatch, study.sites)), "sites: a name is letters, digits, - and _, at most 64"),
        (all(map(_PUBLIC_KEY.fullmatch, study.sites.values())), "sites: a key is 64 hex digits, lower case"),
        (len(set(study.sites.values())) == len(study.sites), "sites: two have the same key"),
    )


def _training(plan: TrainingPlan) -> _Conditions:
    adaptive = plan.clipping is Clipping.ADAPTIVE
    z_b = plan.quantile_noise_multiplier
    return (
        (1 <= plan.rounds <= 10_000, f"training.rounds must be 1 to 10000, got {plan.rounds}"),
        (1 <= plan.local_steps <= 10_000, f"training.local_steps: got {plan.local_steps}"),
        (0 < plan.learning_rate <= 100, f"training.learning_rate: got {plan.learning_rate}"),
        (0 <= plan.momentum < 1, f"training.momentum must be in [0, 1), got {plan.momentum}"),
        (0 < plan.max_grad_norm < 1e6, f"training.max_grad_norm: got {plan.max_grad_norm}"),
        (0 < plan.sample_rate <= 1, f"training.sample_rate: got {plan.sample_rate}"),
        (_noise(plan.noise_multiplier, _MOST_NOISE), "training.noise_multiplier must be 0.1 to 1e6"),
        (0 < plan.target_quantile < 1, f"training.target_quantile: got {plan.target_quantile}"),
        (0 < plan.clip_learning_rate <= 1, f"training.clip_learning_rate: got {plan.clip_learning_rate}"),
        (
            _noise(z_b, _MOST_NOISE) if adaptive else z_b == 0,
            "training.quantile_noise_multiplier must be 0.1 to 1e6 for adaptive clipping, else 0",
        ),
    )


def _privacy(study: Study) -> _Conditions:
    privacy = study.privacy
    return (
        (0 < privacy.epsilon <= 100, f"privacy.epsilon: got {privacy.epsilon}"),
        (0 < privacy.delta <= 1e-3, f"privacy.delta must be at most 1e-3, got {privacy.delta}"),
        (_noise(privacy.count_noise_multiplier), "privacy.count_noise_multiplier must be 0.1 to 1e4"),
        (_noise(privacy.metrics_noise_multiplier), "privacy.metrics_noise_multiplier must be 0.1 to 1e4"),
        (_noise(privacy.synthesis_noise_multiplier), "privacy.synthesis_noise_multiplier must be 0.1 to 1e4"),
    )


def _trajectory_noise(plan: TrajectoryPlan | None) -> _Conditions:
    if plan is None:
        return ()
    steps, strata = plan.noise_multiplier, plan.strata_noise_multiplier
    return (
        (_noise(steps, _MOST_NOISE), "trajectories.noise_multiplier must be 0.1 to 1e6"),
        # Made for people at several hospitals it is larger, and is still to be drawn.
        (_noise(strata, _MOST_STRATA_NOISE), "trajectories.strata_noise_multiplier must be 0.1 to 1e3"),
    )


def _aggregation(study: Study) -> _Conditions:
    plan, sites = study.aggregation, len(study.sites)
    secure = plan.masking is Masking.SECURE
    robust = plan.rule is not AggregationRule.MEAN
    least = sites // 2 + 1  # two disjoint halves must not both lift masks
    return (
        (not (secure and robust), "aggregation: a robust rule needs to see what masking hides"),
        (secure or not plan.distributed_noise, "aggregation: shares of noise need masking"),
        (not secure or sites >= 3, "aggregation: masking needs at least 3 sites"),
        (
            plan.threshold == 0 or (secure and least <= plan.threshold <= sites),
            f"aggregation.threshold must be 0, or {least} to {sites} with masking, got {plan.threshold}",
        ),
        (min(plan.dropouts, plan.colluders, plan.malicious) >= 0, "aggregation: a number below 0"),
        (
            plan.distributed_noise or plan.dropouts == plan.colluders == 0,
            "aggregation: dropouts and colluders are for shares of noise",
        ),
        (
            not plan.distributed_noise or plan.dropouts + plan.colluders < sites - 1,
            "aggregation: too few honest sites are left",
        ),
        (robust or plan.malicious == 0, "aggregation: malicious is for robust rules"),
        (
            not robust or sites >= 2 * plan.malicious + 3,
            f"aggregation: {plan.malicious} malicious of {sites} sites cannot be withstood",
        ),
    )


def _noise(multiplier: float, most: float = _MOST_TABLE_NOISE) -> bool:
    return _LEAST_NOISE <= multiplier <= most


def _precision(study: Study) -> float:
    """Most that a patient pays as the sum of 1/σ²; for sampled steps q² (exp(1/σ²) - 1), which they tend to.

    Source of the latter: Bu, Dong, Long & Su, 2020.
    """
    by_patient = mechanisms_by_patient(study.charges()).values()
    return max(
        sum(m.count * (m.noise_multiplier**-2 if m.sample_rate == 1 else _sampled(m)) for m in paid)
        for paid in by_patient
    )


def _sampled(mechanism: Mechanism) -> float:
    return mechanism.sample_rate**2 * math.expm1(mechanism.noise_multiplier**-2)
