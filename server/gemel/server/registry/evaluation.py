"""How good a run's twin is, as the hospitals themselves let it be known: scores with error bars that hold the noise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gemel.core.errors import GemelError
from gemel.core.study import Masking, Study
from gemel.server.home import RunFolder
from gemel.synthetic.releases import declared_release
from gemel.twins.hazard import HazardTwin
from gemel.twins.installed import find
from gemel.twins.metrics import metrics_from_tables

Scores = dict[str, dict[str, dict[str, float]]]


def trained_rounds(run: RunFolder) -> list[dict[str, Any]]:
    """What the run's state says of each round whose twin is kept, in order."""
    tasks: list[dict[str, Any]] = run.load_state().get("tasks", [])
    return [entry for entry in tasks if "model_sha256" in entry]


def load_twin(run: RunFolder, study: Study, entry: dict[str, Any]) -> HazardTwin:
    """The global twin that a completed round left."""
    twin = HazardTwin(find(study.programme, study.programme_version))
    name = f"model-{int(str(entry['task']).removeprefix('train/')):04d}"
    twin.load_arrays(run.load_model(name, twin.array_specs()))
    return twin


def released_scores(run: RunFolder, study: Study, task: str, twin: HazardTwin) -> Scores | None:
    """Outcome -> score -> value and standard error, from the tables of `evaluate` or `validate/r`; None before they are there.

    The standard error covers sampling and the noise of every hospital that contributed.
    """
    sites = run.contributors(task)
    if not sites:
        return None
    declared = declared_release(task, twin.programme)
    try:
        if study.aggregation.masking is Masking.SECURE:
            tables = [run.load_sum(task, declared)]
        else:
            tables = [run.load_release(task, site, declared) for site in sites]
    except (OSError, GemelError):
        return None
    summed = {name: np.sum([table[name] for table in tables], axis=0) for name in tables[0]}
    # Of a masked sum with shares of noise, the sum alone has the study's noise.
    shared = study.aggregation.distributed_noise
    sigma = study.privacy.metrics_noise_multiplier * (1.0 if shared else math.sqrt(len(sites)))
    scores = metrics_from_tables(twin, summed, noise_sigma=sigma)
    return {
        outcome: {
            name: {"value": float(score.value), "standard_error": float(score.standard_error)}
            for name, score in _named(of)
        }
        for outcome, of in scores.items()
    }


def _named(of: Any) -> list[tuple[str, Any]]:
    return [(name, getattr(of, name)) for name in of.__dataclass_fields__]
