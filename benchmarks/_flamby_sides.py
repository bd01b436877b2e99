"""One federated run over FLamby's hospitals: our strategies at the coordinator, our trainer at each hospital."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import msgspec
import numpy as np
import torch
from _flamby_data import Hospital
from _flamby_models import Model, model_of

from gemel.core.arrays import Arrays
from gemel.core.strategy_plan import Personalisation, StrategyPlan
from gemel.core.study import (
    SCHEMA,
    AggregationPlan,
    AggregationRule,
    PrivacyPlan,
    Study,
    TrainingPlan,
    parse_study,
)
from gemel.core.synthesis_plan import Measurement, SynthesisPlan
from gemel.privacy.accounting import price
from gemel.privacy.engine import DpTrainer, train_round
from gemel.privacy.noise import NoiseSource
from gemel.privacy.planning import Shares, plan
from gemel.privacy.statistics import noisy_counts
from gemel.server.flower.strategies import strategy_of
from gemel.server.strategy import Update
from gemel.synthetic.releases import CORRECTION, without_prefix

# A hospital whose noisy count is lower counts as so many.
FLOOR = 20.0
DELTA = 1e-5
# A patient of the training half pays for the count, the steps, and for virtual cohorts; a study has all three.
_THIRD = Measurement(tables=1, share=1 / 3)
SYNTHESIS = SynthesisPlan(levels=_THIRD, scores=_THIRD, tables=_THIRD)
SHARES = Shares(training=0.9, synthesis=0.02, count=0.08)
# What stands for no bound in runs without privacy.
NO_BOUND = 1e5
PLAIN = StrategyPlan()


@dataclass(frozen=True)
class Side:
    """A strategy with its hyper-parameters."""

    name: str
    strategy: StrategyPlan = PLAIN
    rule: AggregationRule = AggregationRule.MEAN
    rounds: int = 15
    local_steps: int = 20
    learning_rate: float = 0.1
    momentum: float = 0.0
    sample_rate: float = 0.5
    epsilon: float = 0.0  # 0: no privacy
    max_grad_norm: float = NO_BOUND

    @property
    def evaluates_personal(self) -> bool:
        """Whether hospitals are scored by their personal models."""
        return self.strategy.personalisation is not Personalisation.NONE


def study_of(side: Side, names: list[str]) -> Study:
    """The study that a side is, with the noise that makes the whole of it cost its ε."""
    twins = 2 if side.strategy.personalisation is Personalisation.DITTO else 1
    noise = plan(
        epsilon=side.epsilon or 1.0,
        delta=DELTA,
        rounds=side.rounds,
        local_steps=side.local_steps * twins,
        metrics_tables=1,
        synthesis=SYNTHESIS,
        shares=SHARES,
        sample_rate=side.sample_rate if side.epsilon else 1.0,
    )
    study = Study(
        schema=SCHEMA,
        study_id="flamby",
        title="FLamby",
        purpose="benchmark",
        programme="none",
        programme_version="1",
        training=TrainingPlan(
            rounds=side.rounds,
            local_steps=side.local_steps,
            learning_rate=float(side.learning_rate),
            momentum=side.momentum,
            max_grad_norm=float(side.max_grad_norm),
            sample_rate=float(side.sample_rate),
            noise_multiplier=noise.training,
        ),
        privacy=noise.privacy_plan(epsilon=side.epsilon or 1.0, delta=DELTA),
        metrics_tables=1,
        synthesis=SYNTHESIS,
        minimum_patients=int(FLOOR),
        quorum=1,
        round_timeout_s=60.0,
        sites={name: f"{i:064x}" for i, name in enumerate(names)},
        aggregation=AggregationPlan(rule=side.rule),
        strategy=side.strategy,
    )
    return parse_study(study.to_payload())


def priced(side: Side, names: list[str]) -> float:
    """ε of the whole study for the patient who pays most, by the accountant that nodes enforce with."""
    return price(study_of(side, names).charges(), delta=DELTA)


def run(task: str, side: Side, hospitals: list[Hospital], *, seed: int) -> list[Model]:
    """The model by which each hospital is scored, after all rounds."""
    study = study_of(side, [hospital.name for hospital in hospitals])
    noise = NoiseSource.secure() if side.epsilon else NoiseSource.for_tests(seed)
    if not side.epsilon:
        study = msgspec.structs.replace(
            study, training=msgspec.structs.replace(study.training, noise_multiplier=0.0)
        )
    patients = {
        hospital.name: {name: torch.from_numpy(rows) for name, rows in hospital.part(True).items()}
        for hospital in hospitals
    }
    counts = {name: float(len(next(iter(rows.values())))) for name, rows in patients.items()}
    if side.epsilon:
        counts = _noisy(counts, study.privacy, noise)
    trainers = {
        name: DpTrainer(study.training, noise=noise, expected_patients=counts[name]) for name in patients
    }
    return _rounds(task, study, patients, counts, trainers)


def _rounds(
    task: str,
    study: Study,
    patients: dict[str, dict[str, torch.Tensor]],
    counts: dict[str, float],
    trainers: dict[str, DpTrainer],
) -> list[Model]:
    strategy, personal = strategy_of(study), study.strategy.personalisation
    start = _arrays(model_of(task))
    model: Arrays = {n: a for n, a in start.items() if n not in study.strategy.local_parameters}
    state, kept = strategy.start(model), {name: {} for name in patients}
    # One model for each hospital, so that its program is recorded once.
    models = {name: model_of(task) for name in patients}
    for _ in range(study.training.rounds):
        updates = []
        for name, rows in patients.items():
            sent = strategy.inputs(model, state, name)
            shared = {n: a for n, a in sent.items() if not n.startswith(CORRECTION)}
            trained, kept[name] = train_round(
                study.strategy,
                trainers[name],
                partial(_load, models[name], start),
                rows,
                shared=shared,
                kept=kept[name],
                correction=without_prefix(sent, CORRECTION),
            )
            updates.append(Update(name, trained, counts[name], model))
        model, state = strategy.aggregate(model, updates, state)
    if personal is Personalisation.DITTO:
        return [_load(models[name], start, kept[name]) for name in patients]
    return [_load(models[name], start, {**model, **kept[name]}) for name in patients]


def local(task: str, side: Side, hospitals: list[Hospital], *, seed: int) -> list[Model]:
    """Each hospital alone."""
    return [run(task, side, [hospital], seed=seed)[0] for hospital in hospitals]


def pooled(task: str, side: Side, hospitals: list[Hospital], *, seed: int) -> list[Model]:
    """All patients in one place."""
    names = hospitals[0].columns
    everyone = Hospital(
        "pooled",
        {name: np.concatenate([h.columns[name] for h in hospitals]) for name in names},
        np.concatenate([h.trains for h in hospitals]),
    )
    return run(task, side, [everyone], seed=seed) * len(hospitals)


def _noisy(counts: dict[str, float], privacy: PrivacyPlan, noise: NoiseSource) -> dict[str, float]:
    true = np.array([int(count) for count in counts.values()], dtype=np.int64)
    drawn = noisy_counts(true, noise_multiplier=privacy.count_noise_multiplier, noise=noise)
    return {name: max(FLOOR, float(count)) for name, count in zip(counts, drawn, strict=True)}


def _arrays(model: Model) -> dict[str, np.ndarray]:
    return {name: p.detach().numpy().copy() for name, p in model.named_parameters()}


def _load(model: Model, start: Arrays, arrays: Arrays) -> Model:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(np.asarray({**start, **arrays}[name])))
    return model
