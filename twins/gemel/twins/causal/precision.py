"""How far the parameters of a twin may be off: draws of parameters that an interval is made of.

Two ways, for two situations:
- `sandwich_draws`: a twin fitted to a hospital's own people to the optimum, without privacy. M-estimation (Huber 1967;
  Stefanski & Boos, Am Stat 2002;56:29): V = A⁻¹ B A⁻¹ with A the curvature and B the spread of the patients' scores. Local.
- `retrained`: a released twin, trained by rounds of noisy, clipped steps that no formula follows to the end. The parametric
  bootstrap (Efron & Tibshirani 1993, ch. 6): draw people's courses from the twin, train again in the same way on those, and
  see how far the new twins lie from the one that drew them. That holds the sampling of patients, the privacy noise, and what
  clipping and stopping early pull towards the public start. It uses what was released, so it costs no privacy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call, grad, vmap

from gemel.core.dataset import Dataset
from gemel.core.errors import GemelError
from gemel.twins.baselines import RIDGE
from gemel.twins.reference_cohort import sample_cohort
from gemel.twins.twin import Twin

Parameters = Mapping[str, NDArray[np.float32]]
Floats = NDArray[np.float64]

# How far from the optimum, in squared standard errors over all parameters, a twin may be for the sandwich to hold.
FARTHEST_FROM_OPTIMUM = 0.5
_CHUNK = 512


def sandwich_draws(
    twin: Twin,
    dataset: Dataset,
    *,
    draws: int = 200,
    seed: int,
    ridge: float = RIDGE,
    held_to: Parameters | None = None,
) -> tuple[Parameters, ...]:
    """Parameters drawn from the sandwich distribution of a twin that was fitted to these people.

    The fit had a ridge that held all parameters but the level to those of `held_to` (None: to 0), as
    `gemel.twins.baselines.fit_without_privacy` does with the public start.

    Raises GEM627 when the twin is not at its optimum on them: trained elsewhere, or with privacy, or not to the end.
    """
    names, start = _flat(twin)
    covariance = sandwich(twin, dataset, ridge=ridge, held_to=held_to)
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    normal = np.random.default_rng(seed).standard_normal((draws, len(start)))
    return tuple(_unflat(twin, names, start + root @ z) for z in normal)


def sandwich(
    twin: Twin, dataset: Dataset, *, ridge: float = RIDGE, held_to: Parameters | None = None
) -> Floats:
    """The covariance (p, p) of the flattened parameters, by name in order. Raises GEM627 as `sandwich_draws`."""
    names, start = _flat(twin)
    people = len(dataset)
    batch = twin.tensors(dataset)
    flat = torch.from_numpy(start.astype(np.float32))
    scores = _scores(twin, names, flat, batch).numpy().astype(np.float64)
    penalty = (
        2
        * ridge
        * np.concatenate([np.full(_size(twin, name), 0.0 if name == "level" else 1.0) for name in names])
    )
    curvature = _curvature(twin, names, flat, batch) / people + np.diag(penalty)
    centre = np.zeros(len(start)) if held_to is None else _concatenated(held_to)
    slope = scores.mean(axis=0) + penalty * (start - centre)
    inverse = np.linalg.pinv(curvature, rcond=1e-8, hermitian=True)
    if np.linalg.eigvalsh(curvature)[0] < -1e-5:
        raise GemelError("GEM627", "The loss curves downward at its parameters: no optimum.")
    distance = people * float(slope @ inverse @ slope)
    if not distance <= FARTHEST_FROM_OPTIMUM:
        raise GemelError(
            "GEM627", f"Its parameters lie {np.sqrt(distance):.2g} standard errors from the optimum."
        )
    spread = np.cov(scores, rowvar=False)
    covariance: Floats = inverse @ np.atleast_2d(spread) @ inverse / people
    return covariance


def retrained(
    twin: Twin,
    sites: Sequence[NDArray[np.floating]],
    train: Callable[[Sequence[Dataset]], Parameters],
    *,
    replicas: int,
    seed: int,
) -> tuple[Parameters, ...]:
    """Parameters of twins that `train` makes of people drawn from the released twin, anew for each replica.

    Args:
        twin: The released twin; it is not changed.
        sites: By hospital, raw values (n, d): a hospital's own, or virtual people from released tables.
        train: The very training that the twin had (rounds, steps, clipping, noise), from one data set for each hospital.
        replicas: 20 give the interval's length within about a third; 100 within 15 %.
        seed: Of people's courses. Privacy noise inside `train` has its own source.
    """
    seeds = np.random.SeedSequence(seed).generate_state(replicas * len(sites))
    return tuple(
        train(
            [
                sample_cohort(twin, values, seed=int(seeds[replica * len(sites) + site]))
                for site, values in enumerate(sites)
            ]
        )
        for replica in range(replicas)
    )


def _flat(twin: Twin) -> tuple[list[str], Floats]:
    arrays = twin.to_arrays()
    return sorted(arrays), _concatenated(arrays)


def _concatenated(arrays: Parameters) -> Floats:
    return np.concatenate([arrays[name].reshape(-1) for name in sorted(arrays)]).astype(np.float64)


def _size(twin: Twin, name: str) -> int:
    return int(np.prod(twin.array_specs()[name].shape))


def _unflat(twin: Twin, names: Sequence[str], flat: Floats) -> Parameters:
    specs, found, at = twin.array_specs(), {}, 0
    for name in names:
        size = _size(twin, name)
        found[name] = flat[at : at + size].reshape(specs[name].shape).astype(np.float32)
        at += size
    return found


def _losses(twin: Twin, names: Sequence[str], flat: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    parts, at = {}, 0
    for name in names:
        size = _size(twin, name)
        parts[name] = flat[at : at + size].reshape(twin.array_specs()[name].shape)
        at += size
    losses: Tensor = functional_call(twin, parts, (batch,))
    return losses


def _scores(twin: Twin, names: Sequence[str], flat: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """The gradient of each patient's loss: (n, p)."""

    def loss(parameters: Tensor, patient: dict[str, Tensor]) -> Tensor:
        return _losses(twin, names, parameters, {k: v[None] for k, v in patient.items()}).sum()

    scores: Tensor = vmap(grad(loss), in_dims=(None, 0), chunk_size=_CHUNK)(flat, dict(batch))
    return scores.detach()


def _curvature(twin: Twin, names: Sequence[str], flat: Tensor, batch: Mapping[str, Tensor]) -> Floats:
    """The second derivatives of the summed loss: (p, p)."""
    point = flat.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(_losses(twin, names, point, batch).sum(), point, create_graph=True)
    rows = [torch.autograd.grad(one, point, retain_graph=True)[0] for one in slope]
    curvature = torch.stack(rows).numpy().astype(np.float64)
    return np.asarray((curvature + curvature.T) / 2)
