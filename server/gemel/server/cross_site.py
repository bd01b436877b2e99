"""The cross-site validation matrix: each hospital's own model, scored at every hospital, from released tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from gemel.core.arrays import Arrays
from gemel.core.programme import Programme
from gemel.synthetic.releases import whole_twin
from gemel.twins.hazard import HazardTwin
from gemel.twins.metrics import ReleasedScores, metrics_from_tables


def matrix(
    tables: Mapping[str, Mapping[str, Arrays]],
    models: Mapping[str, Arrays],
    programme: Programme,
    *,
    noise_sigma: float,
) -> list[dict[str, Any]]:
    """Rows of the matrix, ready for JSON: model, hospital, outcome, metric, value, standard_error.

    Args:
        tables: Whose model -> at which hospital -> its released tables.
        models: Whose -> the last parameters that it released.
        programme: The installed programme.
        noise_sigma: The standard deviation of the noise in each cell, of one hospital's release.

    Where local parameters stay at hospitals, each evaluated a model with its own; predicted risks in the Brier scores are
    then those of the part that travels.
    """
    rows: list[dict[str, Any]] = []
    for owner in sorted(tables):
        twin = HazardTwin(programme)
        twin.load_arrays(whole_twin(programme, models[owner]))
        for hospital, released in sorted(tables[owner].items()):
            counts = {name: table.astype(np.int64) for name, table in released.items()}
            scores = metrics_from_tables(twin, counts, noise_sigma=noise_sigma)
            for outcome, of in scores.items():
                rows += _cells(owner, hospital, outcome, of)
    return rows


def _cells(owner: str, hospital: str, outcome: str, scores: ReleasedScores) -> list[dict[str, Any]]:
    return [
        {
            "model": owner,
            "hospital": hospital,
            "outcome": outcome,
            "metric": field.name,
            "value": round(getattr(scores, field.name).value, 4),
            "standard_error": round(getattr(scores, field.name).standard_error, 4),
        }
        for field in fields(scores)
    ]
