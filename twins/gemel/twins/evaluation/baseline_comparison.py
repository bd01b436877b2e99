"""The twin beside each published baseline, on the patients who have the baseline's inputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from gemel.core.dataset import Dataset
from gemel.core.programme import Programme
from gemel.twins.evaluation.accuracy import brier_difference, rmse_difference, root_mean_squared
from gemel.twins.evaluation.calibration import observed_over_expected
from gemel.twins.evaluation.decision_curve import THRESHOLDS, net_benefit_difference
from gemel.twins.evaluation.discrimination import auc, auc_difference
from gemel.twins.evaluation.estimate import Estimate
from gemel.twins.evaluation.observed import Flags, Floats, Observed
from gemel.twins.published_score import PublishedScore

if TYPE_CHECKING:
    from gemel.twins.definition import Baseline

# A published risk by a year goes with a horizon of as many days, a leap day more or less.
_SAME_DAY = 3.0


@dataclass(frozen=True)
class BaselineComparison:
    """One baseline against the twin, on the same patients.

    Attributes:
        measure: "AUC", or "RMSE" for a measured value. mark: how far the baseline's numbers were checked (V, 2, C, U).
        patients, events: with the baseline's inputs, and known. share: of all who are known.
        difference: twin minus baseline. Of AUC above 0, of RMSE below 0 the twin is better.
        brier_difference, observed_over_expected: where the baseline has a published risk for that day, else None.
        net_benefit: (threshold, twin minus baseline), likewise; else empty.
    """

    name: str
    title: str
    source: str
    mark: str
    measure: str
    patients: int
    events: int
    share: float
    twin: Estimate
    baseline: Estimate
    difference: Estimate
    brier_difference: Estimate | None = None
    observed_over_expected: Estimate | None = None
    net_benefit: tuple[tuple[float, Estimate], ...] = ()


def compare_risk(
    baseline: Baseline, programme: Programme, dataset: Dataset, observed: Observed, risk: Floats, *, day: int
) -> BaselineComparison:
    """The twin's risk (n,) by a day beside a baseline."""
    score = baseline(dataset.values, programme)
    computable = np.isfinite(score)
    both = observed.only(computable)
    of_all = np.count_nonzero(observed.known)
    found = BaselineComparison(
        name=baseline.name,
        title=baseline.title,
        source=baseline.source,
        mark=str(baseline.mark),
        measure="AUC",
        patients=int(np.count_nonzero(both.known)),
        events=int(np.count_nonzero(both.known & both.case)),
        share=float(np.count_nonzero(both.known) / of_all) if of_all else float("nan"),
        twin=auc(both, risk),
        baseline=auc(both, score),
        difference=auc_difference(both, risk, score),
    )
    published = _published_risk(baseline, programme, dataset, day)
    if published is None:
        return found
    both = both.only(np.isfinite(published))
    filled = np.where(both.at_risk, published, 0.0)
    return _with_risk_scores(found, both, risk, filled)


def _with_risk_scores(
    found: BaselineComparison, both: Observed, risk: Floats, published: Floats
) -> BaselineComparison:
    """With what a published risk allows beside the order of patients."""
    if not both.known.any():
        return found
    return replace(
        found,
        brier_difference=brier_difference(both, risk, published),
        observed_over_expected=observed_over_expected(both, published),
        net_benefit=tuple((t, net_benefit_difference(both, risk, published, t)) for t in THRESHOLDS),
    )


def compare_value(
    baseline: Baseline, programme: Programme, dataset: Dataset, measured: Floats, mean: Floats
) -> BaselineComparison:
    """The twin's expected value (n,) beside a baseline's; `measured` is NaN where there is none."""
    other = baseline(dataset.values, programme)
    known = np.isfinite(measured)
    both: Flags = known & np.isfinite(other)
    return BaselineComparison(
        name=baseline.name,
        title=baseline.title,
        source=baseline.source,
        mark=str(baseline.mark),
        measure="RMSE",
        patients=int(both.sum()),
        events=0,
        share=float(both.sum() / known.sum()) if known.any() else float("nan"),
        twin=root_mean_squared(mean[both] - measured[both]),
        baseline=root_mean_squared(other[both] - measured[both]),
        difference=rmse_difference(measured[both], mean[both], other[both]),
    )


def _published_risk(baseline: Baseline, programme: Programme, dataset: Dataset, day: int) -> Floats | None:
    if not isinstance(baseline, PublishedScore) or baseline.risk_days is None:
        return None
    if abs(baseline.risk_days - day) > _SAME_DAY:
        return None
    return baseline.risk(dataset.values, programme)
