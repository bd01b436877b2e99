"""Membership inference on released models, after LiRA: is a patient's loss that of a model that saw the patient?

Source: Carlini et al., "Membership inference attacks from first principles", IEEE S&P 2022 (the online attack).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from gemel.privacy.audit.canaries import claim
from gemel.privacy.audit.intervals import at_least, at_most, epsilon_of_rates, most_true_positives
from gemel.privacy.audit.report import Check
from gemel.privacy.audit.subject import Floats, Patients, Subject, rows
from gemel.privacy.engine import DpTrainer
from gemel.privacy.noise import NoiseSource

ATTACK = "membership"
RATES = (0.01, 0.001)
# An AUC that chance does not give: five standard errors of some thousand scores.
TEETH = 0.6
_LEAST_SPREAD = 1e-4
_FEW = 60

Train = Callable[[nn.Module, Patients], None]


@dataclass(frozen=True)
class Attacked:
    """What an attack on many shadow models achieved.

    Attributes:
        scores: Log likelihood ratios, one for each shadow and patient; higher says "was in".
        present: Whether the patient was.
    """

    scores: Floats
    present: NDArray[np.bool_]

    @property
    def auc(self) -> float:
        """P(a member's score is above a stranger's); ties count half."""
        order = np.argsort(self.scores, kind="stable")
        ranks = np.empty(len(order))
        ranks[order] = np.arange(1, len(order) + 1)
        members = int(self.present.sum())
        others = len(self.present) - members
        return float((ranks[self.present].sum() - members * (members + 1) / 2) / (members * others))

    def true_positives_at(self, rate: float) -> tuple[int, int, int, int]:
        """(hits, members, alarms, strangers) at the lowest threshold with at most this rate of false alarms."""
        strangers = np.sort(self.scores[~self.present])[::-1]
        allowed = int(rate * len(strangers))
        threshold = strangers[allowed] if allowed < len(strangers) else -np.inf
        hits = int(np.sum(self.scores[self.present] > threshold))
        alarms = int(np.sum(strangers > threshold))
        return hits, int(self.present.sum()), alarms, len(strangers)


def attack(subject: Subject, *, shadows: int = 64, seed: int = 0) -> Iterator[Check]:
    """Train shadows by the plan on random halves of the patients and attack each with the rest."""
    attacked = lira(subject, _privately(subject), shadows=shadows, seed=seed)
    claimed = claim(subject.plan, delta=subject.delta)
    for rate in RATES:
        yield _within(subject, attacked, rate, claimed)


def control(subject: Subject, *, shadows: int = 16, steps: int = 120, seed: int = 0) -> Iterator[Check]:
    """The same attack on a model of few patients, trained without privacy to the end: it has to find its members."""
    few = rows(subject.patients, slice(0, _FEW))
    subject = Subject(subject.name, subject.make_model, few, subject.plan, subject.delta)
    attacked = lira(subject, _without_privacy(steps), shadows=shadows, seed=seed)
    hits, members, _, _ = attacked.true_positives_at(RATES[0])
    yield Check(
        ATTACK,
        f"The attack finds the members of a model without privacy ({subject.name}).",
        f"AUC > {TEETH}",
        f"AUC {attacked.auc:.3f}, TPR {hits / members:.3f} at FPR {RATES[0]:g}",
        attacked.auc > TEETH,
        control=True,
        numbers={"claimed": TEETH, "measured": attacked.auc},
    )


def lira(subject: Subject, train: Train, *, shadows: int, seed: int) -> Attacked:
    """Losses of all patients under each shadow; each shadow is attacked with Gaussians fitted to the others."""
    generator = np.random.default_rng(seed)
    # Balanced for each patient: half of the shadows saw it.
    present = np.argsort(generator.random((shadows, subject.count)), axis=0) < shadows // 2
    losses = np.stack([_losses(subject, train, np.flatnonzero(seen)) for seen in present])
    scores = np.stack([_ratio(losses, present, target) for target in range(shadows)])
    return Attacked(scores.reshape(-1), present.reshape(-1))


def _losses(subject: Subject, train: Train, seen: NDArray[np.intp]) -> Floats:
    model = subject.make_model()
    train(model, rows(subject.patients, seen))
    model.eval()
    with torch.no_grad():
        losses = model(dict(subject.patients)).double().numpy()
    # The logit of exp(-loss): near to normal where the loss itself is not (Carlini et al., section V).
    clipped = np.clip(np.nan_to_num(losses, nan=50.0, posinf=50.0), 1e-6, 50.0)
    logits: Floats = -clipped - np.log(-np.expm1(-clipped))
    return logits


def _ratio(losses: Floats, present: NDArray[np.bool_], target: int) -> Floats:
    others = np.arange(len(losses)) != target
    seen, left = losses[others], present[others]
    inside, outside = (np.where(mask, seen, np.nan) for mask in (left, ~left))
    score = np.zeros(losses.shape[1])
    for sign, group in ((1.0, inside), (-1.0, outside)):
        mean = np.nanmean(group, axis=0)
        # One spread for all patients: their own is too rough from a few dozen shadows (Carlini et al., section VI).
        spread = np.sqrt(np.nanmean((group - mean) ** 2)) + _LEAST_SPREAD
        score += sign * (-0.5 * ((losses[target] - mean) / spread) ** 2 - np.log(spread))
    return score


def _privately(subject: Subject) -> Train:
    def train(model: nn.Module, patients: Patients) -> None:
        for _ in range(subject.plan.rounds):
            trainer = DpTrainer(subject.plan, noise=NoiseSource.secure(), expected_patients=subject.count / 2)
            trainer.train(model, patients)

    return train


def _without_privacy(steps: int) -> Train:
    def train(model: nn.Module, patients: Patients) -> None:
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        for _ in range(steps):
            optimizer.zero_grad()
            model(dict(patients)).mean().backward()
            optimizer.step()

    return train


def _within(subject: Subject, attacked: Attacked, rate: float, claimed: float) -> Check:
    hits, members, alarms, strangers = attacked.true_positives_at(rate)
    # Each rate from its own side of its interval: the sampling error is on the claim's side.
    lower, upper = at_least(hits, members, confidence=0.99), at_most(alarms, strangers, confidence=0.99)
    allowed = most_true_positives(upper, claimed, subject.delta)
    return Check(
        ATTACK,
        f"Members of a released model are found no better than ε allows, at FPR {rate:g} ({subject.name}).",
        f"TPR <= {most_true_positives(rate, claimed, subject.delta):.4f} (ε = {claimed:.3f})",
        f"TPR {hits / members:.4f}, AUC {attacked.auc:.3f}, "
        f"ε >= {epsilon_of_rates(lower, upper, subject.delta):.3f}",
        lower <= allowed,
        numbers={"claimed": allowed, "measured": hits / members, "lower": lower, "auc": attacked.auc},
    )
