"""Who is served worse: the same scores by sex, age, what is missing and whatever else is given, with a flag by a stated rule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from gemel.core.dataset import Dataset
from gemel.core.programme import FeatureKind, Programme
from gemel.twins.evaluation.calibration import observed_over_expected
from gemel.twins.evaluation.discrimination import auc
from gemel.twins.evaluation.estimate import Z95, Estimate
from gemel.twins.evaluation.observed import Flags, Floats, Observed

# By what patients are grouped -> each patient's group (n,); an empty name is no group.
Groups = Mapping[str, NDArray[np.str_]]

AGE_LIMITS_YEARS = (50.0, 65.0, 75.0, 85.0)
ACCEPTED = (0.9, 1.1)  # of observed over expected
FEWEST_EXPECTED = 10.0
ACCEPTED_BIAS = 0.2  # of the standard deviation of the measured values
RULE = (
    "A group is flagged when its observed over expected events lie outside 0.9 to 1.1, its whole 95 % interval, widened for the "
    "number of groups compared (Bonferroni), lies on one side of 1, and at least 10 events were expected there. Of a measured "
    "value: when the mean error exceeds a fifth of the values' standard deviation and its interval, so widened, excludes 0. "
    "A group that is not flagged was not shown to be served well: it may be too small to tell."
)


@dataclass(frozen=True)
class Subgroup:
    """One group of patients: `ratio` is observed over expected, or for a measured value `bias` is the mean error."""

    by: str
    name: str
    patients: int
    events: int
    auc: Estimate
    ratio: Estimate
    bias: Estimate
    flagged: bool


def groups_of(
    programme: Programme, dataset: Dataset, more: Groups | None = None
) -> dict[str, NDArray[np.str_]]:
    """Sex, age band, how much is missing, each feature that some lack, and `more`."""
    found: dict[str, NDArray[np.str_]] = {}
    missing = ~np.isfinite(dataset.values)
    for i, feature in enumerate(programme.columns):
        column = dataset.values[:, i]
        if feature.kind is FeatureKind.MALE:
            sex = np.where(column > 0.5, "men", "women")
            found["sex"] = np.where(missing[:, i], "not known", sex)
        if feature.kind is FeatureKind.AGE:
            found["age"] = np.where(missing[:, i], "not known", age_bands(column))
    share = missing.mean(axis=1) if missing.shape[1] else np.zeros(len(dataset))
    found["missing features"] = np.select(
        [share == 0, share <= 1 / 3], ["none", "up to a third"], "more than a third"
    )
    for i, feature in enumerate(programme.columns):
        if missing[:, i].any() and not missing[:, i].all():
            found[f"{feature.name} known"] = np.where(missing[:, i], "no", "yes")
    return found | {name: np.asarray(group, np.str_) for name, group in (more or {}).items()}


def age_bands(age: NDArray[np.floating]) -> NDArray[np.str_]:
    """Of ages in years: "under 50", "50 to 64", ..., "85 and over".

    >>> age_bands(np.array([49.9, 50.0, 90.0])).tolist()
    ['under 50', '50 to 64', '85 and over']
    """
    limits = [int(limit) for limit in AGE_LIMITS_YEARS]
    between = [f"{low} to {high - 1}" for low, high in pairwise(limits)]
    names = np.array([f"under {limits[0]}", *between, f"{limits[-1]} and over"])
    band = np.searchsorted(AGE_LIMITS_YEARS, np.nan_to_num(age.astype(np.float64)), side="right")
    return names[band]


def risk_subgroups(observed: Observed, risk: Floats, groups: Groups) -> tuple[Subgroup, ...]:
    """Of a risk (n,), by each grouping."""
    found, compared = [], number(groups)
    for by, name, mine in each(groups, observed.at_risk):
        part = observed.only(mine)
        ratio = observed_over_expected(part, risk)
        expected = float(risk[part.at_risk].sum())
        flagged = expected >= FEWEST_EXPECTED and is_flagged_ratio(ratio, compared=compared)
        events = int(np.count_nonzero(part.known & part.case))
        found.append(
            Subgroup(by, name, int(mine.sum()), events, auc(part, risk), ratio, Estimate.none(), flagged)
        )
    return tuple(found)


def value_subgroups(measured: Floats, mean: Floats, groups: Groups) -> tuple[Subgroup, ...]:
    """Of a measured value (n,), NaN where there is none."""
    known, found, z = np.isfinite(measured), [], _z(number(groups))
    spread = float(measured[known].std()) if known.any() else math.nan
    for by, name, mine in each(groups, known):
        error = (mean - measured)[mine]
        if len(error) < 2:
            continue
        bias = Estimate.plain(float(error.mean()), float(error.std(ddof=1) / math.sqrt(len(error))))
        half = (bias.high - bias.value) / Z95 * z
        flagged = abs(bias.value) > max(ACCEPTED_BIAS * spread, half)
        found.append(Subgroup(by, name, len(error), 0, Estimate.none(), Estimate.none(), bias, bool(flagged)))
    return tuple(found)


def is_flagged_ratio(ratio: Estimate, *, compared: int) -> bool:
    """Whether observed over expected is off by the rule's words; `compared` groups were looked at."""
    if not math.isfinite(ratio.value) or ACCEPTED[0] <= ratio.value <= ACCEPTED[1]:
        return False
    if ratio.value == 0:
        # No case where ten were expected: the exact upper end is far below 1.
        return ratio.high < 1
    widening = _z(compared) / Z95
    log = math.log(ratio.value)
    return abs(log) > (math.log(ratio.high) - log) * widening


def each(groups: Groups, of: Flags) -> Sequence[tuple[str, str, Flags]]:
    """(grouping, group, its members among `of`), without groups of nobody and without a grouping of one group."""
    found = []
    for by, group in groups.items():
        names = [str(name) for name in np.unique(group[of]) if name]
        if len(names) > 1:
            found += [(by, name, of & (group == name)) for name in names]
    return found


def number(groups: Groups) -> int:
    """How many groups there are."""
    return max(1, sum(int((np.unique(group) != "").sum()) for group in groups.values()))


def _z(compared: int) -> float:
    return float(norm.isf(0.025 / compared))
