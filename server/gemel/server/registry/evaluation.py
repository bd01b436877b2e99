"""How good a run's twin is, as the hospitals themselves let it be known: scores with error bars that hold the noise."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np

from gemel.core.arrays import Arrays
from gemel.core.errors import GemelError
from gemel.core.study import Masking, Study
from gemel.server.home import RunFolder
from gemel.synthetic.releases import declared_release
from gemel.twins.hazard import HazardTwin
from gemel.twins.installed import find
from gemel.twins.metrics import metrics_from_tables

Scores = dict[str, dict[str, dict[str, float]]]


def loaded_twin(study: Study, arrays: Arrays) -> HazardTwin | None:
    """The twin with these parameters; None when parts of it stay at the hospitals. Raises GEM602 for a misfit, GEM104."""
    twin = HazardTwin(find(study.programme, study.programme_version))
    if study.strategy.local_parameters:
        return None
    twin.load_arrays(arrays)
    return twin


def released_scores(
    run: RunFolder, study: Study, twin: HazardTwin, *, task: str = "evaluate"
) -> Scores | None:
    """Outcome -> score -> value and standard error, from the tables of an evaluation; None before they are there.

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
    # With shares of noise, it is the sum that has the study's noise.
    shared = study.aggregation.distributed_noise
    sigma = study.privacy.metrics_noise_multiplier * (1.0 if shared else math.sqrt(len(sites)))
    scores = metrics_from_tables(twin, summed, noise_sigma=sigma)
    return {
        outcome: {
            field.name: {
                "value": float(getattr(of, field.name).value),
                "standard_error": float(getattr(of, field.name).standard_error),
            }
            for field in fields(of)
        }
        for outcome, of in scores.items()
    }
