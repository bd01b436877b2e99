"""Several models that could have been the twin: what is not known of its parameters.

Either models that a run released (its hospitals' last, its last global ones), or draws around one twin from a stated covariance, such as
that of the noise which privacy put in. Each counts as likely as the others.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from gemel.core.errors import GemelError
from gemel.core.study import Clipping, TrainingPlan
from gemel.twins.twin import Twin


def drawn_models(
    twin: Twin, covariance: NDArray[np.floating] | Mapping[str, float], *, models: int, seed: int
) -> tuple[Twin, ...]:
    """Twins with parameters drawn around those of `twin`.

    `covariance` is (p, p) over all parameters, in the order of `to_arrays` (by name, each array row by row), or the standard
    deviation of every number of an array, by the array's name (others stay). Raises GEM631 for one that does not fit.
    """
    arrays = twin.to_arrays()
    sizes = {name: array.size for name, array in arrays.items()}
    deviation = _root(covariance, sizes)
    random = np.random.default_rng(seed)
    found = []
    for _ in range(models):
        moved = deviation @ random.standard_normal(deviation.shape[1])
        parts = np.split(moved, np.cumsum(list(sizes.values()))[:-1])
        drawn = copy.deepcopy(twin)
        drawn.load_arrays(
            {
                name: (array + part.reshape(array.shape)).astype(np.float32)
                for (name, array), part in zip(arrays.items(), parts, strict=True)
            }
        )
        found.append(drawn)
    return tuple(found)


def privacy_deviation(training: TrainingPlan, patients: Sequence[float]) -> float:
    """The standard deviation that the privacy noise of a whole training leaves in each parameter, at most.

    `patients` are the released numbers of training patients of the hospitals, whose updates are averaged by them. Each step adds noise
    of standard deviation z·C / (q·N) to a hospital's gradient; heavy-ball momentum carries it on to the round's end. What the loss
    pulls back is left out, so the truth is less. Raises GEM631 for adaptive clipping, whose bound C is not known beforehand.
    """
    if training.clipping is Clipping.ADAPTIVE or not patients or min(patients) <= 0:
        raise GemelError(
            "GEM631", "The noise is known for a fixed clipping bound and positive numbers of patients."
        )
    left = np.arange(1, training.local_steps + 1)
    momentum = training.momentum
    carried = left if momentum == 1 else (1 - momentum**left) / (1 - momentum)
    step = training.learning_rate * training.noise_multiplier * training.max_grad_norm / training.sample_rate
    of_round = step * float(np.sqrt((carried**2).sum()))
    return of_round * math.sqrt(training.rounds * len(patients)) / float(sum(patients))


def check_models(models: Sequence[Twin]) -> None:
    """Raises GEM631 unless there are models, all of one programme."""
    if len({(model.programme.name, model.programme.version) for model in models}) != 1:
        raise GemelError("GEM631", "An interval needs one or more models, all of one programme.")


def _root(
    covariance: NDArray[np.floating] | Mapping[str, float], sizes: Mapping[str, int]
) -> NDArray[np.float64]:
    """(p, p) whose product with its transpose is the covariance."""
    size = sum(sizes.values())
    if isinstance(covariance, Mapping):
        if set(covariance) - set(sizes) or any(not value >= 0 for value in covariance.values()):
            raise GemelError("GEM631", f"Standard deviations are given for {sorted(sizes)}, none below 0.")
        spread = [np.full(count, float(covariance.get(name, 0.0))) for name, count in sizes.items()]
        return np.diag(np.concatenate(spread))
    given = np.asarray(covariance, np.float64)
    if given.shape != (size, size) or not np.allclose(given, given.T):
        raise GemelError("GEM631", f"Expected a symmetric covariance ({size}, {size}), got {given.shape}.")
    values, vectors = np.linalg.eigh(given)
    if values.min() < -1e-8 * max(values.max(), 1e-300):
        raise GemelError("GEM631", "The covariance has a negative variance.")
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0)), np.float64)
