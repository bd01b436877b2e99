"""How close a virtual cohort is to real patients: distances of marginals, survival, nearest neighbours.

The comparison is exact, so it is itself a release without noise. It is for data that are open anyway (the
demo). A hospital would publish hold-out based, noised numbers only: exact distances alone can give people away
(ReconSyn, arXiv:2312.05114).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from gemel.core.dataset import OCCURRED, PREVALENT, Dataset
from gemel.core.errors import GemelError
from gemel.core.programme import Programme
from gemel.synthetic.cohort import VirtualCohort
from gemel.synthetic.domain import Domain, domain_of

NOTE = "exact comparison with open data; a hospital would publish hold-out based, noised numbers only"

Levels = Mapping[str, NDArray[np.intp]]
Floats = NDArray[np.float64]

_STEPS_PER_YEAR, _FEWEST_STEPS = 4, 60
_FEWEST_AT_RISK = 20
_ROWS_AT_ONCE = 250


class FeatureDistance(msgspec.Struct, frozen=True, kw_only=True):
    """Total variation of one feature's levels: virtual against real, and hold-out against real of equal size."""

    feature: str
    title: str
    virtual: float
    holdout: float


class TargetDistance(msgspec.Struct, frozen=True, kw_only=True):
    """Between the distributions of a target among those in whom it is known: the largest difference of the shares below a value.

    NaN-free: 0 where nobody has it.
    """

    target: str
    title: str
    virtual: float
    holdout: float


class SurvivalCurve(msgspec.Struct, frozen=True, kw_only=True):
    """Kaplan-Meier: the share still free of an outcome, on a common grid; all at risk at the index date."""

    outcome: str
    title: str
    years: tuple[float, ...]
    real: tuple[float, ...]
    virtual: tuple[float, ...]
    holdout: tuple[float, ...]

    @property
    def largest_difference(self) -> float:
        """Between virtual and real, over the grid."""
        return float(np.max(np.abs(np.subtract(self.virtual, self.real))))

    @property
    def holdout_difference(self) -> float:
        """The same between hold-out and real patients: what chance alone does."""
        return float(np.max(np.abs(np.subtract(self.holdout, self.real))))

    @property
    def mean_survival_difference(self) -> float:
        """Relative difference of the restricted mean time free of the outcome."""
        real, virtual = (float(np.trapezoid(curve, self.years)) for curve in (self.real, self.virtual))
        return abs(virtual - real) / real


class Neighbours(msgspec.Struct, frozen=True, kw_only=True):
    """A smoke test for memorisation, no evidence of privacy: nearest neighbours in scaled features.

    `share_nearer_to_real` is of virtual patients nearer to the patients used than to as many held out (0.5 is
    right). Copies are shares of rows at distance zero from a patient used.
    """

    share_nearer_to_real: float
    median_virtual_to_real: float
    median_holdout_to_real: float
    copies_virtual: float
    copies_holdout: float


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """An exact comparison with open data. `rank_correlation_error` is of Spearman's matrix, mean absolute."""

    note: str
    features: tuple[FeatureDistance, ...]
    pairs_virtual: float
    pairs_holdout: float
    curves: tuple[SurvivalCurve, ...]
    rank_correlation_error: float
    rank_correlation_error_holdout: float
    neighbours: Neighbours
    targets: tuple[TargetDistance, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        document: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        return document


def compare(cohort: VirtualCohort, reference: Dataset, holdout: Dataset) -> Comparison:
    """Compare exactly with `reference`, the open data that hospitals counted, and `holdout`, which they did not.

    Distances of virtual patients stand beside those of as many held-out patients: what chance alone does.
    Raises GEM701 when the columns differ.
    """
    programme = cohort.programme
    for dataset in (reference, holdout):
        if dataset.features != programme.feature_names or dataset.outcomes != programme.outcome_names:
            raise GemelError("GEM701", "The data set to compare with is not of the cohort's programme.")
    size = min(len(cohort), len(holdout))
    # A fixed public choice of equally many rows: distances of small samples are larger for no other reason.
    held = holdout.take(np.sort(np.random.default_rng(0).permutation(len(holdout))[:size]))
    domain = domain_of(programme)
    real = domain.encode_features(reference.values)
    virtual, other = domain.encode_features(cohort.values[:size]), domain.encode_features(held.values)
    return Comparison(
        note=NOTE,
        features=tuple(
            FeatureDistance(
                feature=f.name,
                title=f.title,
                virtual=_distance(domain, (f.name,), virtual, real),
                holdout=_distance(domain, (f.name,), other, real),
            )
            for f in programme.columns
        ),
        targets=tuple(
            _target_distance(cohort, reference, held, t) for t in range(len(programme.target_names))
        ),
        pairs_virtual=_mean_pair_distance(domain, virtual, real),
        pairs_holdout=_mean_pair_distance(domain, other, real),
        curves=tuple(_curve(cohort, reference, held, j) for j in range(len(programme.outcomes))),
        rank_correlation_error=_rank_error(virtual, real),
        rank_correlation_error_holdout=_rank_error(other, real),
        neighbours=_neighbours(programme, cohort.values, reference.values, holdout.values),
    )


def kaplan_meier(time_years: NDArray[Any], event: NDArray[Any], grid_years: Floats) -> tuple[Floats, Floats]:
    """(share still free of the event, number at risk) at each time of the grid; the prevalent are left out.

    Kaplan & Meier 1958; those censored at a time are at risk of the events of that time.
    """
    at_risk = event != PREVALENT
    time, occurred = time_years[at_risk].astype(np.float64), event[at_risk] == OCCURRED
    moments, events = np.unique(time[occurred], return_counts=True)
    ordered = np.sort(time)
    remaining = len(ordered) - np.searchsorted(ordered, moments, side="left")
    survival = np.concatenate([[1.0], np.cumprod(1.0 - events / remaining)])
    present = len(ordered) - np.searchsorted(ordered, grid_years, side="left")
    return survival[np.searchsorted(moments, grid_years, side="right")], present.astype(np.float64)


def _curve(cohort: VirtualCohort, reference: Dataset, holdout: Dataset, j: int) -> SurvivalCurve:
    """Curves up to the last time at which enough people of each group are still observed."""
    programme = cohort.programme
    horizon = programme.times_years[-1]
    grid = np.linspace(0, horizon, max(_FEWEST_STEPS, round(horizon * _STEPS_PER_YEAR)) + 1)
    groups = (cohort, reference, holdout)
    found = [kaplan_meier(g.time_years[:, j], g.event[:, j], grid) for g in groups]
    observed = np.all([at_risk >= _FEWEST_AT_RISK for _, at_risk in found], axis=0)
    observed[0] = True
    virtual, real, held = (tuple(map(float, survival[observed])) for survival, _ in found)
    outcome = programme.outcomes[j]
    return SurvivalCurve(
        outcome=outcome.name,
        title=outcome.title,
        years=tuple(map(float, grid[observed])),
        real=real,
        virtual=virtual,
        holdout=held,
    )


def _target_distance(cohort: VirtualCohort, reference: Dataset, holdout: Dataset, t: int) -> TargetDistance:
    name = cohort.programme.target_names[t]
    target = next(target for target in cohort.programme.targets if target.name == name)
    real, virtual, held = (g.targets[:, t] for g in (reference, cohort, holdout))
    return TargetDistance(
        target=name,
        title=target.title,
        virtual=_kolmogorov(virtual, real),
        holdout=_kolmogorov(held, real),
    )


def _kolmogorov(one: NDArray[Any], other: NDArray[Any]) -> float:
    """The largest difference of two empirical distribution functions."""
    first, second = (np.sort(values[np.isfinite(values)]) for values in (one, other))
    if not first.size or not second.size:
        return 0.0
    at = np.concatenate([first, second])
    shares = (np.searchsorted(group, at, side="right") / group.size for group in (first, second))
    return float(np.abs(np.subtract(*shares)).max())


def _distance(domain: Domain, names: tuple[str, ...], one: Levels, other: Levels) -> float:
    """Total variation between the joint distributions of some features' levels."""
    shape = tuple(domain.sizes[name] for name in names)
    shares = []
    for codes in (one, other):
        flat = np.ravel_multi_index(tuple(codes[name] for name in names), shape)
        shares.append(np.bincount(flat, minlength=int(np.prod(shape))) / len(flat))
    return float(0.5 * np.abs(shares[0] - shares[1]).sum())


def _mean_pair_distance(domain: Domain, one: Levels, other: Levels) -> float:
    pairs = combinations(sorted(one), 2)
    return float(np.mean([_distance(domain, pair, one, other) for pair in pairs]))


def _rank_error(one: Levels, other: Levels) -> float:
    """Mean absolute difference of Spearman's correlations of levels; a constant column counts as unrelated."""
    first, second = _rank_correlation(one), _rank_correlation(other)
    above = np.triu_indices(len(first), 1)
    return float(np.abs(first - second)[above].mean())


def _rank_correlation(codes: Levels) -> Floats:
    columns = []
    for column in codes.values():
        _, inverse, counts = np.unique(column, return_inverse=True, return_counts=True)
        rank = (np.cumsum(counts) - (counts - 1) / 2.0)[inverse]
        spread = rank.std()
        columns.append((rank - rank.mean()) / spread if spread > 0 else np.zeros(len(rank)))
    stacked = np.stack(columns)
    correlation: Floats = stacked @ stacked.T / stacked.shape[1]
    return correlation


def _neighbours(
    programme: Programme, virtual: NDArray[Any], real: NDArray[Any], holdout: NDArray[Any]
) -> Neighbours:
    points, used, held = (_scaled(programme, values) for values in (virtual, real, holdout))
    size = min(len(used), len(held))
    random = np.random.default_rng(0)
    equal = (used[random.permutation(len(used))[:size]], held[random.permutation(len(held))[:size]])
    to_used, to_held = (_nearest(points, group) for group in equal)
    virtual_to_real, holdout_to_real = _nearest(points, used), _nearest(held, used)
    return Neighbours(
        share_nearer_to_real=float(np.mean((to_used < to_held) + 0.5 * (to_used == to_held))),
        median_virtual_to_real=float(np.median(virtual_to_real)),
        median_holdout_to_real=float(np.median(holdout_to_real)),
        copies_virtual=float(np.mean(virtual_to_real == 0)),
        copies_holdout=float(np.mean(holdout_to_real == 0)),
    )


def _scaled(programme: Programme, values: NDArray[Any]) -> Floats:
    """Features on their public scales, a missing one as zero beside a flag."""
    center = np.array([f.reference_mean for f in programme.columns])
    scale = np.array([f.scale for f in programme.columns])
    missing = np.isnan(values)
    return np.concatenate([np.where(missing, 0.0, (values - center) / scale), missing], axis=1)


def _nearest(points: Floats, among: Floats) -> Floats:
    """Distance of each point to the nearest of the others, a few rows at a time."""
    squares = (among**2).sum(axis=1)
    nearest = []
    for start in range(0, len(points), _ROWS_AT_ONCE):
        rows = points[start : start + _ROWS_AT_ONCE]
        distance = (rows**2).sum(axis=1)[:, None] + squares - 2.0 * rows @ among.T
        smallest = distance.min(axis=1)
        # Cancellation leaves some 1e-13 between equal rows; they must count as copies.
        nearest.append(np.sqrt(np.where(smallest < 1e-9, 0.0, smallest)))
    return np.concatenate(nearest)
