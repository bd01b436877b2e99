"""The cross-site validation matrix: each hospital's own model, scored at every hospital, from released tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gemel.core.arrays import Arrays
from gemel.core.programme import Programme
from gemel.synthetic.releases import whole_twin
from gemel.twins.installed import make_twin
from gemel.twins.metrics import ReleasedScores, expected_risks, metrics_from_tables
from gemel.twins.recalibration import Recalibration, recalibrate


def matrix(
    tables: Mapping[str, Mapping[str, Arrays]],
    models: Mapping[str, Arrays],
    programme: Programme,
    *,
    noise_sigma: float,
) -> list[dict[str, Any]]:
    """Rows of the matrix, ready for JSON: model, hospital, outcome, metric, value, standard_error.

    Of each endpoint that is a risk one row more, with its metric `observed_over_expected`: value, low, high (95 %), and
    the flag, which says whether the hospital needs to recalibrate that model before it uses it.

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
        twin = make_twin(programme)
        twin.load_arrays(whole_twin(programme, models[owner]))
        expected = expected_risks(twin)
        for hospital, released in sorted(tables[owner].items()):
            counts = {name: table.astype(np.int64) for name, table in released.items()}
            scores = metrics_from_tables(twin, counts, noise_sigma=noise_sigma, expected=expected)
            fits = recalibrate(twin, counts, noise_sigma=noise_sigma, expected=expected)
            for endpoint, of in scores.items():
                cell = {"model": owner, "hospital": hospital, "outcome": endpoint}
                rows += [{**cell, **score} for score in _scores(of)]
                if endpoint in fits:
                    rows.append({**cell, "metric": "observed_over_expected", **told(fits[endpoint])})
    return rows


def told(found: Recalibration) -> dict[str, Any]:
    """What a recalibration says for people: observed over expected with its interval, and the flag."""
    ratio = found.observed_over_expected
    return {
        "value": round(ratio.value, 4),
        "low": round(ratio.low, 4),
        "high": round(ratio.high, 4),
        "flag": str(found.flag),
    }


def _scores(scores: ReleasedScores) -> list[dict[str, Any]]:
    return [
        {
            "metric": name,
            "value": round(score.value, 4),
            "standard_error": round(score.standard_error, 4),
        }
        for name, score in scores.items()
    ]
