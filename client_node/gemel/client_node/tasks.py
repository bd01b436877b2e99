"""What each task computes on patients. Called only after the ledger was charged; the result goes to the gate."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from gemel.core.arrays import Arrays
from gemel.core.dataset import Dataset
from gemel.core.errors import GemelError
from gemel.core.mechanism import HELD_OUT_PERCENT, is_evaluation
from gemel.core.programme import Programme
from gemel.core.study import Study
from gemel.core.synthesis_plan import ROUNDS
from gemel.core.trajectory_plan import is_trajectory
from gemel.privacy.engine import DpTrainer, train_round
from gemel.privacy.noise import NoiseSource
from gemel.privacy.statistics import describe, noisy_counts
from gemel.synthetic import protocol
from gemel.synthetic.domain import domain_of
from gemel.synthetic.releases import CORRECTION, KEPT, travelling, whole_twin, without_prefix
from gemel.synthetic.trajectory import study_rounds
from gemel.twins.installed import make_twin
from gemel.twins.metrics import count_metric_tables
from gemel.twins.twin import Twin

# Far above what bounded gradients average to; far below what would overflow.
MOST_CORRECTION = 1e6


def compute(
    task: str,
    study: Study,
    programme: Programme,
    *,
    dataset: Dataset,
    inputs: Arrays,
    noisy_patients: float,
    noise: NoiseSource,
) -> dict[str, NDArray[np.generic]]:
    """Run one task of a study on the hospital's patients.

    Args:
        task: One of `study.tasks`.
        study: The approved study: it alone says how much noise.
        programme: The installed programme.
        dataset: All patients, whom count and describe see; training and synthesis see the training share, evaluation
            the held-out share.
        inputs: The global twin's parameters, for training and evaluation, with a correction where the study's strategy
            has one, and under `kept.NAME` what this hospital keeps for itself, where it has that already. For synthesis what
            earlier rounds led to, for visits the network of the round before.
        noisy_patients: The node's own released count (public), the denominator of its gradients.
        noise: Where the noise comes from.

    Returns the release, and beside it under `kept.NAME` what the hospital is to keep: see `local_state.split`. Raises
    GEM342 for a personal twin that was never trained, GEM341 for a correction out of bounds.
    """
    privacy = study.privacy
    training, held_out = dataset.split(held_out_percent=HELD_OUT_PERCENT)
    if task == "count":
        counts = {"patients": np.array([len(dataset)], dtype=np.int64)}
        return _noised(counts, privacy.count_noise_multiplier, noise)
    if task == "describe":
        return describe(study.statistics, dataset, noise=noise)
    if is_evaluation(task):
        twin = _evaluated(task, programme, inputs)
        tables = count_metric_tables(programme, twin.predict(held_out.values), held_out)
        return _noised(_exactly(tables, study.metrics_tables), privacy.metrics_noise_multiplier, noise)
    if task in ROUNDS:
        # The held-out patients stay out of the virtual cohort too: they are the control of its report.
        domain, whole = domain_of(programme), privacy.synthesis_noise_multiplier
        return protocol.release(
            task, domain, domain.encode(training), whole=whole, choice=inputs, noise=noise
        )
    expected = noisy_patients * (100 - HELD_OUT_PERCENT) / 100
    if is_trajectory(task):
        return study_rounds.release(
            task, study, programme, training, inputs=inputs, expected_patients=expected, noise=noise
        )
    if task.startswith("train/"):
        trainer = DpTrainer(study.training, noise=noise, expected_patients=expected)
        return _train(study, programme, trainer, training, inputs)
    raise GemelError("GEM404", f"The study has no task {task!r}.")


def _train(
    study: Study, programme: Programme, trainer: DpTrainer, training: Dataset, inputs: Arrays
) -> dict[str, NDArray[np.generic]]:
    """A round's steps; for Ditto as many again on the personal twin, which the study charges too."""
    correction = without_prefix(inputs, CORRECTION)
    _check_correction(correction)
    leaves, stays = train_round(
        study.strategy,
        trainer,
        lambda arrays: _twin(programme, arrays),
        make_twin(programme).tensors(training),
        shared={name: inputs[name] for name in travelling(programme, study.strategy)},
        kept=without_prefix(inputs, KEPT),
        correction=correction,
    )
    return {**leaves, **{f"{KEPT}{name}": array for name, array in stays.items()}}


def _evaluated(task: str, programme: Programme, inputs: Arrays) -> Twin:
    """The twin that a task evaluates: what came, completed by what is kept; or the personal one."""
    kept = without_prefix(inputs, KEPT)
    if task == "personal" and not kept:
        raise GemelError("GEM342", "No personal twin was trained here.")
    came = {name: array for name, array in inputs.items() if not name.startswith(KEPT)}
    return _twin(programme, {**came, **kept})


def _check_correction(correction: Arrays) -> None:
    """Refuse (GEM341) what no honest round leads to, before a patient is touched."""
    most = max((float(np.abs(array).max(initial=0)) for array in correction.values()), default=0.0)
    if not most <= MOST_CORRECTION:
        raise GemelError("GEM341", f"A correction of {most}, at most {MOST_CORRECTION} is taken.")


def _twin(programme: Programme, arrays: Arrays) -> Twin:
    """A twin with these parameters; the others are at their public start values."""
    twin = make_twin(programme)
    twin.load_arrays(whole_twin(programme, arrays))
    return twin


def _exactly(tables: Mapping[str, NDArray[np.int64]], charged: int) -> Mapping[str, NDArray[np.int64]]:
    """Refuse (GEM307) to release another number of tables than the study was charged for."""
    if len(tables) != charged:
        raise GemelError("GEM307", f"{len(tables)} tables, but the study charges for {charged}.")
    return tables


def _noised(
    tables: Mapping[str, NDArray[np.int64]], noise_multiplier: float, noise: NoiseSource
) -> dict[str, NDArray[np.generic]]:
    return {
        name: noisy_counts(table, noise_multiplier=noise_multiplier, noise=noise)
        for name, table in tables.items()
    }
