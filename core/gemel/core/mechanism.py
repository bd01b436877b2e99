"""What a release costs: mechanisms, whom they touch, and how those of a study add up for one patient."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import msgspec


class MechanismKind(StrEnum):
    """The mechanisms that a plan may name; all others are refused."""

    GAUSSIAN = "gaussian"
    POISSON_GAUSSIAN = "poisson_gaussian"
    DISCRETE_GAUSSIAN = "discrete_gaussian"
    LAPLACE = "laplace"
    DISCRETE_LAPLACE = "discrete_laplace"
    EXPONENTIAL = "exponential"


class Mechanism(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One differentially private mechanism, run `count` times.

    `noise_multiplier` is the noise scale over the sensitivity of adding or removing one patient: σ/Δ of a Gaussian,
    b/Δ of a Laplace, and 1/ε of an exponential selection with probabilities ∝ exp(ε·u/2Δ).
    `sample_rate` is the Poisson sampling rate (1 = everybody).
    """

    kind: MechanismKind
    noise_multiplier: float
    sample_rate: float = 1.0
    count: int = 1


class Share(StrEnum):
    """Which patients a task touches.

    Training and held-out patients are told apart by the hash of the pseudonym alone, so whatever the data are, no
    patient is in both, and nobody pays for both.
    """

    EVERYONE = "everyone"
    TRAINING = "training"
    HELD_OUT = "held_out"


# Of a hundred patients; the same everywhere and for ever, else somebody would change sides.
HELD_OUT_PERCENT = 20


class Charge(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one task of a study costs each patient that it touches."""

    task: str
    share: Share
    mechanisms: tuple[Mechanism, ...]


def share_of(task: str) -> Share:
    """Whom a task of a study touches: the count and what is described everybody, evaluations who is held out.

    >>> [share_of(task).value for task in ("count", "train/1", "evaluate", "synthesise/1")]
    ['everyone', 'training', 'held_out', 'training']
    """
    if task in ("count", "describe"):
        return Share.EVERYONE
    return Share.HELD_OUT if is_evaluation(task) else Share.TRAINING


def is_evaluation(task: str) -> bool:
    """True for the tasks that release metric tables of a twin: the last one, one under way, a personal, a site's own.

    >>> [is_evaluation(task) for task in ("evaluate", "validate/3", "personal", "cross/alpha", "train/3")]
    [True, True, True, True, False]
    """
    return task in ("evaluate", "personal") or task.startswith(("validate/", "cross/"))


def kind_of(task: str) -> str:
    """What tasks that release the same arrays have in common: rounds of training do, rounds of synthesis do not.

    >>> [kind_of(task) for task in ("count", "train/3", "cross/alpha", "synthesise/2")]
    ['count', 'train', 'cross', 'synthesise/2']
    """
    kind = task.partition("/")[0]
    return task if kind == "synthesise" else kind


def charge_for(task: str, *mechanisms: Mechanism) -> Charge:
    """What a task costs whom it touches."""
    return Charge(task=task, share=share_of(task), mechanisms=mechanisms)


def noisy_tables(noise_multiplier: float, count: int) -> Mechanism:
    """Tables of which one patient changes one cell by one, a discrete Gaussian in every cell."""
    return Mechanism(kind=MechanismKind.DISCRETE_GAUSSIAN, noise_multiplier=noise_multiplier, count=count)


def noisy_steps(noise_multiplier: float, count: int, *, sample_rate: float) -> Mechanism:
    """Steps of training, each with Gaussian noise on a sum over everybody, or over a Poisson sample."""
    return Mechanism(
        kind=MechanismKind.GAUSSIAN if sample_rate == 1 else MechanismKind.POISSON_GAUSSIAN,
        noise_multiplier=noise_multiplier,
        sample_rate=sample_rate,
        count=count,
    )


def mechanisms_by_patient(charges: Iterable[Charge]) -> dict[Share, tuple[Mechanism, ...]]:
    """What a training patient and a held-out patient pay; a patient of a hospital is one of the two.

    >>> one = Mechanism(kind=MechanismKind.GAUSSIAN, noise_multiplier=2.0)
    >>> charges = [Charge(task="count", share=Share.EVERYONE, mechanisms=(one,)),
    ...            Charge(task="train/1", share=Share.TRAINING, mechanisms=(one,))]
    >>> {share.value: len(paid) for share, paid in mechanisms_by_patient(charges).items()}
    {'training': 2, 'held_out': 1}
    """
    charges = tuple(charges)
    return {
        role: tuple(m for c in charges if c.share in (Share.EVERYONE, role) for m in c.mechanisms)
        for role in (Share.TRAINING, Share.HELD_OUT)
    }


def joint_noise_multiplier(*multipliers: float) -> float:
    """The multiplier of Gaussian queries that are answered together, on the same sample: (Σ z⁻²)^(-1/2).

    Each query divided by its noise's scale has sensitivity 1/z; the vector of all, with unit noise, has the root of
    the sum of their squares.

    >>> joint_noise_multiplier(3.0, 4.0)
    2.4
    """
    return float(sum(z**-2 for z in multipliers) ** -0.5)
