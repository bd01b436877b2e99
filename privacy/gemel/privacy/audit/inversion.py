"""Gradient inversion: from a released update back to the patient whose gradient is in it.

The attacker knows everybody else, and has taken their part away; only one patient is left in the sum. (Zhu, Liu & Han,
"Deep leakage from gradients", NeurIPS 2019; for a linear layer the answer is a quotient.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from gemel.core.study import TrainingPlan
from gemel.privacy.audit.probes import logistic_subject
from gemel.privacy.audit.report import Check
from gemel.privacy.audit.subject import (
    Floats,
    Patients,
    Subject,
    Watched,
    flat,
    flat_clipping,
    one_step,
    rows,
)
from gemel.privacy.noise import NoiseSource

ATTACK = "inversion"
# Without noise nearly all of a patient is there; with it, at most this little better than guessing is chance.
SUCCESS, NO_BETTER = 0.5, 0.9


def attack(plan: TrainingPlan, *, delta: float, victims: int = 12, seed: int = 0) -> Iterator[Check]:
    """Invert a logistic regression by its quotient: with the noise of all rounds, and without as the control."""
    subject = logistic_subject(plan, delta=delta, seed=seed)
    errors = _errors(subject, "x", victims, lambda _victim, update: _quotient(update))
    yield from _verdicts("a logistic regression, by the quotient of weight and bias", *errors)


def attack_by_search(
    subject: Subject, *, victims: int = 4, steps: int = 150, seed: int = 0
) -> Iterator[Check]:
    """Search for the patient whose gradient points where the update points; all but `subject.features` is known.

    The loss has to be differentiable in that tensor, of which 0 is the public mean.
    """
    errors = _errors(
        subject,
        subject.features,
        victims,
        lambda victim, update: _searched(subject, victim, update, steps, seed),
    )
    yield from _verdicts(f"{subject.name}, by search for the {subject.features}", *errors)


def _errors(
    subject: Subject,
    unknown: str,
    victims: int,
    invert: Callable[[dict[str, Tensor], dict[str, Floats]], Floats],
) -> tuple[list[float], list[float]]:
    """Errors of inverting updates without and with noise, in units of guessing the public mean."""
    found: tuple[list[float], list[float]] = ([], [])
    watched = (_watched(subject, noise_free=True), _watched(subject, noise_free=False))
    for number in range(victims):
        victim = rows(subject.patients, slice(number, number + 1))
        truth = victim[unknown][0].double().numpy()
        for kept, one in zip(found, watched, strict=True):
            kept.append(_error(invert(victim, one.release(victim)), truth))
    return found


def _watched(subject: Subject, *, noise_free: bool) -> Watched:
    """Releases of the sum of all that the plan tells of one patient, looked at as often as the plan allows.

    The model is held where it starts, so that every step tells of the same gradient: the best that an attacker can get.
    """
    plan = subject.plan
    # T looks at one gradient, averaged, are one look at noise that is smaller by sqrt(T).
    z = 0.0 if noise_free else plan.noise_multiplier / math.sqrt(plan.rounds * plan.local_steps)
    still = one_step(flat_clipping(plan), noise_multiplier=z, sample_rate=1.0)
    return Watched(
        subject.make_model, still, NoiseSource.for_tests(0) if noise_free else NoiseSource.secure()
    )


def _verdicts(how: str, plain: list[float], noisy: list[float]) -> Iterator[Check]:
    """Errors in units of guessing the public mean: the control's near 0, the attack's near 1 or above."""
    yield Check(
        ATTACK,
        f"Without noise the attack recovers a patient ({how}).",
        f"error < {SUCCESS} of guessing",
        f"{np.median(plain):.3g} (median of {len(plain)})",
        float(np.median(plain)) < SUCCESS,
        control=True,
        numbers={"claimed": SUCCESS, "measured": float(np.median(plain))},
    )
    yield Check(
        ATTACK,
        f"From what is released a patient is recovered no better than by the public mean ({how}).",
        f"error >= {NO_BETTER} of guessing",
        f"{np.median(noisy):.3g} (median of {len(noisy)})",
        float(np.median(noisy)) >= NO_BETTER,
        numbers={"claimed": NO_BETTER, "measured": float(np.median(noisy))},
    )


def _error(found: Floats, truth: Floats) -> float:
    """Distance over the distance of the public mean, 0."""
    return float(np.linalg.norm(np.nan_to_num(found) - truth) / max(float(np.linalg.norm(truth)), 1e-9))


def _quotient(update: dict[str, Floats]) -> Floats:
    weight, bias = update["linear.weight"][0], float(update["linear.bias"][0])
    return np.clip(weight / bias, -4.0, 4.0) if bias else np.zeros_like(weight)


def _searched(subject: Subject, victim: Patients, update: dict[str, Floats], steps: int, seed: int) -> Floats:
    model, unknown = subject.make_model(), subject.features
    trained = [p for p in model.parameters() if p.requires_grad]
    target = torch.from_numpy(flat(update)).float()
    generator = torch.Generator().manual_seed(seed)
    guess = (0.1 * torch.randn(victim[unknown].shape, generator=generator)).requires_grad_()
    optimizer = torch.optim.Adam([guess], lr=0.1)
    best, lowest = guess.detach().clone(), math.inf
    for _ in range(steps):
        gradients = torch.autograd.grad(model({**victim, unknown: guess}).sum(), trained, create_graph=True)
        vector = torch.cat([g.reshape(-1) for g in gradients])
        apart = 1 - torch.nn.functional.cosine_similarity(vector, target, dim=0)
        if float(apart.detach()) < lowest:
            best, lowest = guess.detach().clone(), float(apart.detach())
        optimizer.zero_grad()
        _backward(apart, guess)
        optimizer.step()
        with torch.no_grad():
            guess.clamp_(-4.0, 4.0)
    found: Floats = best[0].double().numpy()
    return found


def _backward(loss: Tensor, guess: Tensor) -> None:
    (guess.grad,) = torch.autograd.grad(loss, [guess])
