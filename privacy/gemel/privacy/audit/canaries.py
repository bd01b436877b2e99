"""The one-run audit of the real trainer: canaries in spare coordinates, each in or out by a coin."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gemel.core.mechanism import Mechanism, MechanismKind
from gemel.core.study import TrainingPlan
from gemel.privacy.accounting import epsilon
from gemel.privacy.audit import one_run
from gemel.privacy.audit.charges import gaussian_epsilon
from gemel.privacy.audit.intervals import normal_limit
from gemel.privacy.audit.report import Check
from gemel.privacy.audit.subject import Patients, Subject, rows, together
from gemel.privacy.engine import DpTrainer
from gemel.privacy.noise import NoiseSource

ATTACK = "canaries"
# A canary's gradient is longer than the bound, so that what it adds went through the clipping.
_LOUDNESS = 10.0
_FINITE = 1e30
# Of the control: a canary that is in stands this many standard deviations out.
_LOUD_AND_CLEAR = 6.0


class WithSpareInputs(nn.Module):
    """A model beside `count` inputs that no patient has: a canary's gradient is one coordinate of them.

    Canaries do not interfere with one another or with patients, so what is found is the trainer's, not the model's.
    """

    def __init__(self, model: nn.Module, count: int, loudness: float) -> None:
        super().__init__()
        self.model = model
        self.spare = nn.Parameter(torch.zeros(count))
        self.loudness = loudness

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The model's loss for a patient, the canary's alone for a canary, (B,)."""
        canary = batch["canary"]
        own = {name: tensor for name, tensor in batch.items() if name != "canary"}
        patient = 1 - canary.sum(dim=1)
        loss: Tensor = patient * self.model(own) + self.loudness * (canary @ self.spare)
        return loss


def attack(subject: Subject, *, canaries: int = 1000, seed: int = 0) -> Iterator[Check]:
    """Train once with a random half of the canaries among the patients, and guess which half it was.

    With everybody in every step a score is a normal number about 0 or about the canary's part; how far the two halves
    lie apart then says more than guesses do (Nasr et al., "Tight auditing of differentially private machine learning",
    USENIX Security 2023): enough to see noise that is half of what it should be.
    """
    scores, present = run(subject, canaries=canaries, seed=seed)
    guesses, right = one_run.guess(scores, present)
    bound = one_run.lower_bound(canaries=canaries, guesses=guesses, correct=right, delta=subject.delta)
    claimed = claim(subject.plan, delta=subject.delta)
    yield Check(
        ATTACK,
        f"Who was in the training cannot be guessed better than ε allows ({subject.name}).",
        f"ε = {claimed:.3f}",
        f"ε >= {bound:.3f} (95 %): {right} of {guesses} guesses right",
        bound <= claimed,
        numbers={"claimed": claimed, "measured": bound, "guesses": guesses, "right": right},
    )
    if subject.plan.sample_rate == 1:
        apart = distance_at_least(scores, present)
        least = gaussian_epsilon(apart, delta=subject.delta) if apart > 0 else 0.0
        yield Check(
            ATTACK,
            f"Taken for normal, the canaries' scores lie no further apart than ε allows ({subject.name}).",
            f"ε = {claimed:.3f}",
            f"ε >= {least:.3f}: {apart:.3f} standard deviations at least",
            least <= claimed,
            numbers={"claimed": claimed, "measured": least, "distance": apart},
        )


def distance_at_least(scores: NDArray[np.float64], present: NDArray[np.bool_]) -> float:
    """A lower limit, once in ten million too high, of how many standard deviations two groups of scores lie apart."""
    groups = scores[present], scores[~present]
    sizes = [len(group) for group in groups]
    spread = math.sqrt(sum(float(np.sum((g - g.mean()) ** 2)) for g in groups) / (sum(sizes) - 2))
    if spread == 0:
        return 0.0
    distance = float(groups[0].mean() - groups[1].mean()) / spread
    error = math.sqrt(1 / sizes[0] + 1 / sizes[1] + distance**2 / (2 * sum(sizes)))
    return max(0.0, distance - normal_limit() * error)


def control(subject: Subject, *, canaries: int = 1000, seed: int = 0) -> Iterator[Check]:
    """The same attack where everybody is in every step and the noise is next to none: it has to guess who was in."""
    steps = subject.plan.rounds * subject.plan.local_steps
    quiet = msgspec.structs.replace(
        subject.plan, sample_rate=1.0, noise_multiplier=math.sqrt(steps) / _LOUD_AND_CLEAR
    )
    scores, present = run(replace(subject, plan=quiet), canaries=canaries, seed=seed)
    guesses, right = one_run.guess(scores, present)
    bound, ceiling = (
        one_run.lower_bound(canaries=canaries, guesses=guesses, correct=number, delta=subject.delta)
        for number in (right, guesses)
    )
    yield Check(
        ATTACK,
        f"The attack sees who was in where there is next to no noise ({subject.name}).",
        f"ε >= {ceiling / 2:.3f} (half of what so many guesses can show)",
        f"ε >= {bound:.3f} (95 %): {right} of {guesses} guesses right",
        bound >= ceiling / 2,
        control=True,
        numbers={"claimed": ceiling / 2, "measured": bound},
    )


def run(subject: Subject, *, canaries: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(scores, who was in) of one run of all rounds, each trained by a fresh trainer as on a node."""
    coins = np.random.default_rng(seed).random(canaries) < 0.5
    model = WithSpareInputs(subject.make_model(), canaries, _LOUDNESS * subject.plan.max_grad_norm)
    everybody = _with_canaries(subject.patients, np.flatnonzero(coins), canaries)
    expected = float(subject.count + canaries // 2)
    for _ in range(subject.plan.rounds):
        trainer = DpTrainer(subject.plan, noise=NoiseSource.secure(), expected_patients=expected)
        trainer.train(model, everybody)
    # A canary that is in pulls its coordinate down, step after step.
    scores = -model.spare.detach().cpu().double().numpy()
    return np.clip(np.nan_to_num(scores), -_FINITE, _FINITE), coins


def claim(plan: TrainingPlan, *, delta: float) -> float:
    """The ε of all rounds of training."""
    kind = MechanismKind.GAUSSIAN if plan.sample_rate == 1 else MechanismKind.POISSON_GAUSSIAN
    step = Mechanism(
        kind=kind,
        noise_multiplier=plan.step_noise_multiplier,
        sample_rate=plan.sample_rate,
        count=plan.rounds * plan.local_steps,
    )
    return epsilon((step,), delta=delta)


def _with_canaries(patients: Patients, present: np.ndarray, canaries: int) -> dict[str, Tensor]:
    count = len(next(iter(patients.values())))
    # A canary has the features of the first patient; its loss does not read them.
    stand_in = rows(patients, np.zeros(len(present), dtype=np.intp))
    everybody = together(patients, stand_in)
    marks = torch.zeros(count + len(present), canaries)
    marks[count + torch.arange(len(present)), torch.from_numpy(present)] = 1.0
    return {**everybody, "canary": marks}
