"""How good a run's twin is, as the hospitals themselves let it be known: scores with error bars that hold the noise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemel.core.arrays import Arrays
from gemel.core.errors import GemelError
from gemel.core.study import Masking, Study
from gemel.server.cross_site import told
from gemel.server.home import RunFolder
from gemel.synthetic.releases import declared_release
from gemel.twins.installed import find, make_twin
from gemel.twins.metrics import expected_risks, metrics_from_tables
from gemel.twins.recalibration import recalibrate
from gemel.twins.twin import Twin

Scores = dict[str, dict[str, dict[str, float]]]
Calibration = dict[str, dict[str, dict[str, Any]]]
ALL_HOSPITALS = "all hospitals together"


def loaded_twin(study: Study, arrays: Arrays) -> Twin | None:
    """The twin with these parameters; None when parts of it stay at the hospitals. Raises GEM602 for a misfit, GEM104."""
    twin = make_twin(find(study.programme, study.programme_version))
    if study.strategy.local_parameters:
        return None
    twin.load_arrays(arrays)
    return twin


def released_scores(run: RunFolder, study: Study, twin: Twin, *, task: str = "evaluate") -> Scores | None:
    """Endpoint -> score -> value and standard error, from the tables of an evaluation; None before they are there.

    The standard error covers sampling and the noise of every hospital that contributed.
    """
    tables = _tables(run, study, twin, task)
    if not tables:
        return None
    summed = {
        name: np.sum([table[name] for table in tables.values()], axis=0)
        for name in next(iter(tables.values()))
    }
    # With shares of noise, it is the sum that has the study's noise.
    shared = study.aggregation.distributed_noise
    hospitals = 1.0 if shared else math.sqrt(len(run.contributors(task)))
    scores = metrics_from_tables(twin, summed, noise_sigma=study.privacy.metrics_noise_multiplier * hospitals)
    return {
        endpoint: {
            name: {"value": float(score.value), "standard_error": float(score.standard_error)}
            for name, score in of.items()
        }
        for endpoint, of in scores.items()
    }


def released_calibration(
    run: RunFolder, study: Study, twin: Twin, *, task: str = "evaluate"
) -> Calibration | None:
    """Hospital -> endpoint -> observed over expected (value, low, high) and the flag; None before an evaluation is there.

    Under masks only the sum is known: it stands under `ALL_HOSPITALS`.
    """
    tables = _tables(run, study, twin, task)
    if not tables:
        return None
    sigma, expected = study.privacy.metrics_noise_multiplier, expected_risks(twin)
    found: Calibration = {}
    for hospital, table in tables.items():
        together = hospital == ALL_HOSPITALS and not study.aggregation.distributed_noise
        noise = sigma * (math.sqrt(len(run.contributors(task))) if together else 1.0)
        fits = recalibrate(twin, table, noise_sigma=noise, expected=expected)
        found[hospital] = {endpoint: told(of) for endpoint, of in fits.items()}
    return found


def _tables(run: RunFolder, study: Study, twin: Twin, task: str) -> dict[str, dict[str, NDArray[np.int64]]]:
    """What was released of an evaluation, by hospital; under masks the one sum. Empty when it cannot be read."""
    declared = declared_release(task, twin.programme)
    sites = run.contributors(task)
    try:
        if sites and study.aggregation.masking is Masking.SECURE:
            released = {ALL_HOSPITALS: run.load_sum(task, declared)}
        else:
            released = {site: run.load_release(task, site, declared) for site in sites}
    except (OSError, GemelError):
        return {}
    return {of: {n: table.astype(np.int64) for n, table in tables.items()} for of, tables in released.items()}
