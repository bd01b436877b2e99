"""Is a twin right about risks at one hospital, and how to correct it there.

Logistic recalibration (Cox, Biometrika 1958;45:562; Steyerberg, Clinical Prediction Models, ch. 15 and 20): with p the risk
that the twin predicts, logit(risk) = intercept + slope · logit(p). How much is corrected follows the closed test of Vergouwe
et al. (Stat Med 2017;36:4529): nothing where the twin cannot be told from right, the intercept alone where that is enough,
both where it is not.

It is read either from a hospital's released tables (`recalibrate`), by anybody, or from its own patients
(`recalibrate_locally`), exactly, by the hospital: that costs no budget as long as the numbers stay there. Of a table the p
of a bin is the twin's mean at public reference patients, so that what bins hide has a margin of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from gemel.core.dataset import Dataset
from gemel.twins.endpoint_tables import RiskTable, table_of
from gemel.twins.metrics import ReleasedTable, released_tables
from gemel.twins.scores import Followed, followed_to
from gemel.twins.twin import Twin

Floats = NDArray[np.float64]
# Observed over expected within these needs no correction, nor does a slope within those.
ACCEPTABLE_RATIO, ACCEPTABLE_SLOPE = (0.9, 1.1), (0.8, 1.25)
# An interval wider than this cannot tell that the twin fits.
TELLING_RATIO = (0.8, 1.25)
# How far a bin's mean risk may be from that of the reference patients, in widths of the bin: with five bins it moves the
# intercept of a twin that is right by 0.2 and its slope by 0.15 (measured on virtual patients: 0.18 and 0.10).
OFF_IN_A_BIN = 1 / 8
_STEPS = 25
_FARTHEST = 3.0  # of intercept and slope: beyond, the data say nothing
_NORMAL_95 = 1.959964


class Correction(StrEnum):
    """What a hospital's patients support."""

    NONE = "none"
    INTERCEPT = "intercept"
    INTERCEPT_AND_SLOPE = "intercept_and_slope"


class Flag(StrEnum):
    """What a hospital is told before it uses a twin: never that it fits where observed over expected is not acceptable."""

    FITS = "fits"
    NEEDS_LOCAL_RECALIBRATION = "needs local recalibration"
    UNCLEAR = "too few patients to tell"


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval: of sampling patients and of the noise together."""

    value: float
    low: float
    high: float

    def reaches(self, value: float, *, within: float) -> bool:
        """Whether the interval comes as near to a value as `within`."""
        return self.low <= value + within and self.high >= value - within

    def inside(self, limits: tuple[float, float]) -> bool:
        """Whether the whole interval lies within limits."""
        return limits[0] <= self.low and self.high <= limits[1]


@dataclass(frozen=True)
class Recalibration:
    """What one hospital's patients say of a twin's risk at an endpoint's last horizon.

    Attributes:
        observed_over_expected: Of all patients; by_bin: of each bin of risk, nothing where too few are expected.
        intercept: With slope 1: calibration in the large.
        intercept_with_slope, slope: Of both fitted together.
        correction: How much of it to apply.
        flag: Whether the twin needs a correction here before it is used.
    """

    observed_over_expected: Interval
    by_bin: tuple[Interval | None, ...]
    intercept: Interval
    intercept_with_slope: Interval
    slope: Interval
    correction: Correction
    flag: Flag

    def apply(self, risk: NDArray[np.floating]) -> Floats:
        """The corrected risks, in the same order (both coefficients keep it): any shape, 0 to 1."""
        if self.correction is Correction.NONE:
            return np.asarray(risk, np.float64)
        alone = self.correction is Correction.INTERCEPT
        slope = 1.0 if alone else self.slope.value
        intercept = self.intercept.value if alone else self.intercept_with_slope.value
        return _expit(intercept + slope * _logit(np.asarray(risk, np.float64)))


def recalibrate(
    twin: Twin,
    tables: Mapping[str, NDArray[np.integer]],
    *,
    noise_sigma: float,
    expected: Mapping[str, Floats] | None = None,
) -> dict[str, Recalibration]:
    """By endpoint that is a risk, from one hospital's released tables; `noise_sigma` is the standard deviation of a cell's noise.

    `expected` is `metrics.expected_risks(twin)`, for whoever asks about many hospitals. Raises GEM403 when the tables are not
    the declared ones. The same tables give the same numbers.
    """
    return {
        released.table.endpoint.name: _from_table(released.table, released)
        for released in released_tables(twin, tables, noise_sigma=noise_sigma, expected=expected)
        if isinstance(released.table, RiskTable)
    }


def recalibrate_locally(twin: Twin, dataset: Dataset) -> dict[str, Recalibration]:
    """By endpoint that is a risk, exactly, from a hospital's own patients: no release, so it stays there and costs nothing."""
    programme, prediction = twin.programme, twin.predict(dataset.values)
    found: dict[str, Recalibration] = {}
    for endpoint in programme.endpoints:
        table = table_of(programme, endpoint)
        if isinstance(table, RiskTable):
            group = followed_to(programme, endpoint, dataset)[-1]
            found[endpoint.name] = from_patients(
                group, prediction.risk(programme, endpoint)[:, -1], edges=table.edges
            )
    return found


def from_patients(
    group: Followed, risk: NDArray[np.floating], *, edges: NDArray[np.floating]
) -> Recalibration:
    """From individual risks (n,) and what became of these patients; `edges` are the bins of `by_bin`."""
    mine = group.at_risk
    given: Floats = np.clip(np.asarray(risk, np.float64)[mine], 0, 1)
    people, cases = group.weight[mine], (group.weight * group.case)[mine]
    bins = np.digitize(given, edges[1:-1])
    by_bin = (_ratio_of(cases[bins == b], given[bins == b]) for b in range(len(edges) - 1))
    one, both = (_fitted(cases[None], people[None], given, free_slope=free)[0] for free in (False, True))
    error = _standard_errors(cases, people, given, one, free_slope=False)
    errors = _standard_errors(cases, people, given, both, free_slope=True)
    return _decided(
        ratio=_ratio_of(cases, given) or Interval(1.0, 0.0, np.inf),
        by_bin=tuple(by_bin),
        alone=_around(one[0], error[0]),
        with_slope=_around(both[0], errors[0]),
        slope=_around(both[1], errors[1]),
        margins=(0.0, 0.0, 0.0),
        unsure=0.0,
    )


def _from_table(table: RiskTable, released: ReleasedTable) -> Recalibration:
    """From weighted cases and people (1 + replicas, bins): the first is the hospital's own table."""
    last = len(table.labels) - 1
    counts = np.concatenate([released.counts[None], released.replicas])
    cases, controls = table.cases_and_controls(counts, last)
    people, predicted = np.maximum(cases + controls, 0), released.expected[:, last]
    cases = np.clip(cases, 0, people)
    expected = people * predicted
    ratio = _interval(_ratio(cases.sum(axis=1), expected.sum(axis=1)))
    by_bin = tuple(
        _interval(_ratio(cases[:, b], expected[:, b])) if expected[0, b] >= 1 else None
        for b in range(len(predicted))
    )
    both = _fitted(cases, people, predicted, free_slope=True)
    return _decided(
        ratio=ratio,
        by_bin=by_bin,
        alone=_interval(_fitted(cases, people, predicted, free_slope=False)[:, 0]),
        with_slope=_interval(both[:, 0]),
        slope=_interval(both[:, 1]),
        margins=_hidden_by_bins(cases[:1], people[:1], predicted, widths=np.diff(table.edges)),
        unsure=_hidden_by_leaving(released),
    )


def _hidden_by_leaving(released: ReleasedTable) -> float:
    """By how much the ratio may be wrong by when people left: cases of an interval count as half-way through those who did."""
    totals = np.maximum(released.counts.sum(axis=0), 0)
    left = totals[[name.startswith("left") for name in released.table.columns]].sum()
    return float(left / max(totals.sum(), 1.0)) / 2


def _hidden_by_bins(
    cases: Floats, people: Floats, predicted: Floats, *, widths: Floats
) -> tuple[float, float, float]:
    """By how much what bins hide may move ratio, intercept and slope: refitted with each bin's risk moved."""
    ratio, intercept = 0.0, 0.0
    first = _fitted(cases, people, predicted, free_slope=False)[0, 0]
    for sign in (-1, 1):
        moved = np.clip(predicted + sign * OFF_IN_A_BIN * widths, 1e-3, 1 - 1e-3)
        totals = (people * predicted).sum(), (people * moved).sum()
        ratio = max(ratio, abs(float(_ratio(totals[0], totals[1])) - 1))
        shifted = _fitted(cases, people, moved, free_slope=False)[0, 0]
        intercept = max(intercept, abs(float(shifted - first)))
    steep, slope = _fitted(cases, people, predicted, free_slope=True)[0, 1], 0.0
    for sign in (-1, 1):
        apart = sign * OFF_IN_A_BIN * widths * np.linspace(-1, 1, len(widths))
        moved = np.clip(predicted + apart, 1e-3, 1 - 1e-3)
        turned = _fitted(cases, people, moved, free_slope=True)[0, 1]
        slope = max(slope, abs(float(turned - steep)))
    return ratio, intercept, slope


def _decided(
    *,
    ratio: Interval,
    by_bin: tuple[Interval | None, ...],
    alone: Interval,
    with_slope: Interval,
    slope: Interval,
    margins: tuple[float, float, float],
    unsure: float,
) -> Recalibration:
    """The closed test, with the margins of ratio, intercept and slope within which nothing is told; then the flag.

    That a twin fits is said only where the ratio is near 1 with its margin, and with `unsure`, on top of its interval.
    """
    straight = slope.reaches(1.0, within=margins[2])
    correction = Correction.INTERCEPT if straight else Correction.INTERCEPT_AND_SLOPE
    if straight and alone.reaches(0.0, within=margins[1]):
        correction = Correction.NONE
    # A slope that is not positive would turn the order of patients round: the data do not support that.
    if correction is Correction.INTERCEPT_AND_SLOPE and slope.value <= 0:
        correction = Correction.INTERCEPT
    off = not ratio.reaches(1.0, within=margins[0]) and not _between(ratio.value, ACCEPTABLE_RATIO)
    bent = not straight and not _between(slope.value, ACCEPTABLE_SLOPE)
    more = margins[0] + unsure
    widest = Interval(ratio.value, ratio.low * (1 - more), ratio.high * (1 + more))
    fits = widest.inside(TELLING_RATIO) and _between(ratio.value, ACCEPTABLE_RATIO)
    flag = Flag.FITS if fits else Flag.UNCLEAR
    if off or bent:
        flag = Flag.NEEDS_LOCAL_RECALIBRATION
    return Recalibration(ratio, by_bin, alone, with_slope, slope, correction, flag)


def _between(value: float, limits: tuple[float, float]) -> bool:
    return limits[0] <= value <= limits[1]


def _fitted(cases: Floats, people: Floats, predicted: Floats, *, free_slope: bool) -> Floats:
    """Intercept and slope (tables, 2) by Newton steps of the binomial likelihood, with a weak pull to (0, 1).

    The pull (a normal prior of standard deviation 3) keeps a table without cases from running off.
    """
    x = _logit(predicted)
    found = np.tile([0.0, 1.0], (len(cases), 1))
    prior = 1 / _FARTHEST**2
    for _ in range(_STEPS):
        p = _expit(found[:, :1] + found[:, 1:] * x)
        residual, weight = cases - people * p, people * p * (1 - p)
        g0 = residual.sum(1) - prior * found[:, 0]
        h00 = weight.sum(1) + prior
        if not free_slope:
            found[:, 0] = np.clip(found[:, 0] + np.clip(g0 / h00, -1, 1), -_FARTHEST, _FARTHEST)
            continue
        g1 = (residual * x).sum(1) - prior * (found[:, 1] - 1)
        h01, h11 = (weight * x).sum(1), (weight * x * x).sum(1) + prior
        determinant = h00 * h11 - h01**2
        step = np.stack([h11 * g0 - h01 * g1, h00 * g1 - h01 * g0], axis=1) / determinant[:, None]
        found = np.clip(found + np.clip(step, -1, 1), -_FARTHEST, [_FARTHEST, 1 + _FARTHEST])
    return found


def _standard_errors(
    cases: Floats, people: Floats, risk: Floats, found: Floats, *, free_slope: bool
) -> Floats:
    """Of intercept and slope, or of the intercept alone: the sandwich, as patients with a weight stand for others."""
    terms = np.stack([np.ones_like(risk), _logit(risk)])[: 1 + free_slope]
    p = _expit(found[0] + found[1] * _logit(risk))
    scores = terms * (cases - people * p)
    curvature = (terms * (people * p * (1 - p))) @ terms.T + np.eye(len(terms)) / _FARTHEST**2
    inverse = np.linalg.inv(curvature)
    variance = inverse @ (scores @ scores.T + np.eye(len(terms)) / _FARTHEST**2) @ inverse
    return np.asarray(np.sqrt(np.diag(variance)))


def _ratio_of(cases: Floats, risk: Floats) -> Interval | None:
    """Observed over expected of some patients, by the delta method; None where less than one case is expected."""
    if risk.sum() < 1:
        return None
    ratio = float(cases.sum() / risk.sum())
    error = float(np.sqrt(((cases - ratio * risk) ** 2).sum()) / risk.sum())
    # Without a case the spread is not seen: three are the most that "none" allows (the rule of three).
    none = 3.0 / float(risk.sum()) if not cases.any() else 0.0
    return Interval(ratio, max(0.0, ratio - _NORMAL_95 * error), max(ratio + _NORMAL_95 * error, none))


def _around(value: float, error: float) -> Interval:
    return Interval(float(value), float(value - _NORMAL_95 * error), float(value + _NORMAL_95 * error))


def _interval(values: Floats) -> Interval:
    """The first value, and where 95 of 100 of the others lie around it."""
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return Interval(float(values[0]), float(min(low, values[0])), float(max(high, values[0])))


def _ratio(observed: Floats, expected: Floats) -> Floats:
    return np.asarray(observed / np.maximum(expected, 1e-9))


def _logit(p: Floats) -> Floats:
    p = np.clip(p, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(p / (1 - p)))


def _expit(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-x)))
