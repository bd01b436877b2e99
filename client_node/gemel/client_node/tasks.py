"""What each task computes on patients. Called only after the ledger was charged; the result goes to the gate."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from gemel.core.arrays import Arrays
from gemel.core.dataset import Dataset
from gemel.core.errors import GemelError
from gemel.core.mechanism import HELD_OUT_PERCENT
from gemel.core.programme import Programme
from gemel.core.study import Study
from gemel.privacy.engine import DpTrainer
from gemel.privacy.noise import NoiseSource
from gemel.privacy.statistics import describe, noisy_counts
from gemel.synthetic.marginals import count_marginals
from gemel.twins.hazard import HazardTwin
from gemel.twins.metrics import count_metric_tables


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
        dataset: All patients, whom count and describe see; training and marginals see the training share, evaluation
            the held-out share.
        inputs: The global twin's parameters, for training and evaluation.
        noisy_patients: The node's own released count (public), the denominator of its gradients.
        noise: Where the noise comes from.
    """
    privacy = study.privacy
    training, held_out = dataset.split(held_out_percent=HELD_OUT_PERCENT)
    if task == "count":
        counts = {"patients": np.array([len(dataset)], dtype=np.int64)}
        return _noised(counts, privacy.count_noise_multiplier, noise)
    if task == "describe":
        return describe(study.statistics, dataset, noise=noise)
    if task == "evaluate":
        twin = _twin(programme, inputs)
        prediction = twin.predict(held_out.values)
        tables = count_metric_tables(programme, prediction.cumulative_incidence, held_out)
        return _noised(_exactly(tables, study.metrics_tables), privacy.metrics_noise_multiplier, noise)
    if task == "synthesise":
        # The held-out patients stay out of the virtual cohort too: they are the control of its report.
        tables = count_marginals(programme, training)
        return _noised(_exactly(tables, study.marginal_tables), privacy.marginals_noise_multiplier, noise)
    if task.startswith("train/"):
        twin = _twin(programme, inputs)
        share = (100 - HELD_OUT_PERCENT) / 100
        trainer = DpTrainer(study.training, noise=noise, expected_patients=noisy_patients * share)
        trainer.train(twin, twin.tensors(training))
        return dict(twin.to_arrays())
    raise GemelError("GEM404", f"The study has no task {task!r}.")


def _twin(programme: Programme, inputs: Arrays) -> HazardTwin:
    twin = HazardTwin(programme)
    twin.load_arrays(inputs)
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
