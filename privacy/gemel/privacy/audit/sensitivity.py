"""How far one patient can move what is released: at noise 0, worst-case patients included."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from gemel.core.study import Clipping
from gemel.privacy.audit.report import Check
from gemel.privacy.audit.subject import (
    Floats,
    Patients,
    Subject,
    Watched,
    flat,
    movement,
    one_step,
    parameters,
    rows,
    together,
)
from gemel.privacy.noise import NoiseSource

ATTACK = "sensitivity"
# float32 parameters hold a movement to about this part of max_grad_norm.
ROUNDING = 1e-3
# A rate at which everybody is taken, all the same through the sampler: nobody is missed once in 10^9.
ALMOST_EVERYBODY = 1 - 1e-9
_BYSTANDERS = 6
# Shorter gradients are lost in the rounding of float32 parameters.
_SEEN = 0.05
_VICTIMS_OF_A_TRAINER = 16
# What a worst-case patient may hold. Larger ones overflow float32 somewhere, which is a case too.
_FILLS = (0.0, 1.0, -1.0, 1e3, -1e3, 1e8)
_NOT_FINITE = (float("nan"), float("inf"), float("-inf"))


def attack(subject: Subject, *, victims: int = 40, seed: int = 0) -> Iterator[Check]:
    """Add one patient to a few others, in many ways, and see how far the released sum moves.

    Claimed: at most max_grad_norm in all (and so in every layer); by not a bit for a patient whose gradient is not
    finite; also on the path of the sampler. The `reach` of the victims is checked too: for every layer there has to be
    one whose gradient, taken here without the trainer, is longer than the bound, or nothing was tried on that layer.
    """
    bystanders = rows(subject.patients, slice(0, _BYSTANDERS))
    tried = list(_victims(subject, victims, seed))
    raw = [_raw_gradient(subject, victim) for victim in tried]
    for rate in (1.0, ALMOST_EVERYBODY):
        where = "with everybody" if rate == 1 else "through the sampler"
        moved = _moved(subject, bystanders, [*tried, *_not_finite(subject)], rate)
        yield from _bounded(subject, moved[: len(tried)], raw, where)
        yield _nothing(subject, moved[len(tried) :], where)
    yield _reach(subject, raw)


def _plan_without_noise(subject: Subject, rate: float) -> dict[str, float]:
    # The noise of adaptive clipping's count stays: it acts on the next step's bound only.
    return {"noise_multiplier": 0.0, "sample_rate": rate}


def _moved(
    subject: Subject, bystanders: Patients, victims: list[dict[str, Tensor]], rate: float
) -> list[dict[str, Floats]]:
    """By how much each victim moves the sum. Now and then a fresh trainer is prepared with the victim in its data."""
    plan = one_step(subject.plan, **_plan_without_noise(subject, rate))
    alone = movement(subject.make_model, bystanders, plan, NoiseSource.for_tests(0))
    moved = []
    for number, victim in enumerate(victims):
        if number % _VICTIMS_OF_A_TRAINER == 0:
            watched = Watched(subject.make_model, plan, NoiseSource.for_tests(0))
        # First, where a trainer may look for what the data are like.
        both = watched.release(together(victim, bystanders))
        moved.append({name: both[name] - alone[name] for name in alone})
    return moved


def _bounded(
    subject: Subject, moved: list[dict[str, Floats]], raw: list[dict[str, Floats]], where: str
) -> Iterator[Check]:
    totals = np.array([np.linalg.norm(flat(one)) for one in moved])
    # NaN is no number that is small enough.
    worst = float(np.max(np.where(np.isfinite(totals), totals, np.inf)))
    bound = subject.plan.max_grad_norm
    yield Check(
        ATTACK,
        f"One patient moves the sum by at most max_grad_norm ({subject.name}, {where}).",
        f"<= {bound:g}",
        f"{worst * bound:.6g} at worst, over {len(moved)} patients",
        worst <= 1 + ROUNDING,
        numbers={"claimed": bound, "measured": worst * bound},
    )
    if subject.plan.clipping is not Clipping.FLAT or where != "with everybody":
        return
    ratio = [
        float(np.linalg.norm(flat(m))) / min(1.0, float(np.linalg.norm(flat(g))) / bound)
        for m, g in zip(moved, raw, strict=True)
        if _SEEN * bound < float(np.linalg.norm(flat(g))) < np.inf
    ]
    low, high = min(ratio), max(ratio)
    yield Check(
        ATTACK,
        f"A patient's part is the gradient, scaled down to the bound and no further ({subject.name}).",
        "1",
        f"{low:.4f} to {high:.4f}",
        0.99 <= low <= high <= 1.01,
        numbers={"claimed": 1.0, "lowest": low, "highest": high},
    )


def _not_finite(subject: Subject) -> list[dict[str, Tensor]]:
    victim = rows(subject.patients, slice(0, 1))
    return [{name: _filled(tensor, fill) for name, tensor in victim.items()} for fill in _NOT_FINITE]


def _nothing(subject: Subject, moved: list[dict[str, Floats]], where: str) -> Check:
    flattened = [flat(one) for one in moved]
    poisoned = sum(not np.isfinite(one).all() for one in flattened)
    bound = subject.plan.max_grad_norm
    furthest = max(float(np.linalg.norm(np.nan_to_num(one))) for one in flattened) * bound
    return Check(
        ATTACK,
        f"A patient whose gradient is not finite neither moves nor poisons the sum ({subject.name}, {where}).",
        f"finite, <= {bound:g}",
        f"{'not finite' if poisoned else 'finite'}, {furthest:.3g}",
        poisoned == 0 and furthest <= bound * (1 + ROUNDING),
        numbers={"measured": furthest, "poisoned": poisoned},
    )


def _reach(subject: Subject, raw: list[dict[str, Floats]]) -> Check:
    bound = subject.plan.max_grad_norm
    longest = {
        name: max(float(np.linalg.norm(np.nan_to_num(one[name], posinf=0, neginf=0))) for one in raw)
        for name in raw[0]
    }
    shortest = min(longest, key=lambda name: longest[name])
    return Check(
        ATTACK,
        f"The worst-case patients would move every layer by more than the bound ({subject.name}).",
        f"> {bound:g} in each of {len(longest)}",
        f"{longest[shortest]:.3g} in {shortest}, without clipping",
        longest[shortest] > bound,
        control=True,
        numbers={"claimed": bound, "measured": longest[shortest]},
    )


def _raw_gradient(subject: Subject, victim: Patients) -> dict[str, Floats]:
    """The victim's gradient by plain autograd: an oracle that shares nothing with the trainer."""
    model = subject.make_model()
    model.zero_grad()
    model(dict(victim)).sum().backward()
    return {
        name: (p.grad if p.grad is not None else torch.zeros_like(p)).double().numpy().copy()
        for name, p in model.named_parameters()
        if name in parameters(model)
    }


def _victims(subject: Subject, count: int, seed: int) -> Iterator[dict[str, Tensor]]:
    """Ordinary patients, enlarged ones, and ones with every tensor scaled or filled at random."""
    generator = np.random.default_rng(seed)
    for number in range(count):
        chosen = int(generator.integers(subject.count))
        victim = rows(subject.patients, slice(chosen, chosen + 1))
        if number >= 2:
            victim = {name: _distorted(tensor, generator) for name, tensor in victim.items()}
        yield victim


def _distorted(tensor: Tensor, generator: np.random.Generator) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    way = generator.integers(4)
    if way == 0:
        return tensor
    if way == 1:
        return tensor * float(generator.choice([-1.0, 10.0, 1e4]))
    if way == 2:
        return _filled(tensor, float(generator.choice(_FILLS)))
    drawn = generator.choice([1.0, 100.0]) * generator.standard_normal(tuple(tensor.shape))
    return torch.from_numpy(drawn.astype(np.float32)).to(tensor.dtype)


def _filled(tensor: Tensor, value: float) -> Tensor:
    return torch.full_like(tensor, value) if tensor.is_floating_point() else tensor
