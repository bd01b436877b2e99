"""Tier 1 fitted to hospitals by a few private numbers: free scalars of a twin that make its virtual patients' summaries those released.

Hospitals release, as statistics of an ordinary study, when events come (survival at five times) and what is measured at visits (mean
and spread of each target that is a value, shares of those that are levels or switches). The twin is simulated on baselines, and its
patients are counted by the very same code. The scalars are fitted by Gauss-Newton, each number weighted by its whole error, sampling
and noise; a normal prior around where they stand keeps what the numbers do not tell. All of that is post-processing.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from gemel.core.errors import GemelError
from gemel.core.mechanism import Mechanism
from gemel.core.programme import Programme, Target, TargetKind
from gemel.core.statistic_request import (
    Binned,
    HistogramRequest,
    MomentsRequest,
    StatisticRequest,
    SurvivalRequest,
)
from gemel.privacy.accounting import epsilon as epsilon_of
from gemel.privacy.accounting import merged
from gemel.privacy.statistics import estimates
from gemel.privacy.statistics.distribution import HistogramResult, MomentsResult
from gemel.privacy.statistics.estimates import Result
from gemel.privacy.statistics.survival import SurvivalResult
from gemel.privacy.statistics.tables import tabulate
from gemel.privacy.statistics.uncertainty import Estimate
from gemel.synthetic.provenance import PrivacyStatement
from gemel.twins.reference_cohort import sample_cohort
from gemel.twins.twin import Twin

Floats = NDArray[np.float64]

# What may be asked and fitted at most, and how much of a study's precision (1/sigma^2) goes to it.
MOST_NUMBERS, MOST_SCALARS, SHARE = 200, 32, 0.30
_TIMES = 5
_STEP, _ITERATIONS, _LONGEST = 0.2, 4, 1.0
# So many are simulated at each step; that they are no more is in each number's error.
_PEOPLE = 5_000
_HARDLY_ANY = 1e-6
# Less than this, in squared standard errors, and the fit is there.
_ENOUGH = 0.5


@dataclass(frozen=True)
class Calibrated:
    """A twin whose free scalars were fitted, and how.

    Attributes:
        twin: A new one; that which was given is not changed.
        moved: By array, how far each of its entries went, and the standard error of where it is now.
        misfit_before, misfit: Mean squared error of the numbers, in their own standard errors: about 1 where all that
            is left is chance.
        numbers: How many numbers were fitted to; those too noisy to tell anything are not.
    """

    twin: Twin
    moved: dict[str, tuple[Floats, Floats]]
    misfit_before: float
    misfit: float
    numbers: int


def summaries_asked(programme: Programme, *, precision: float) -> tuple[StatisticRequest, ...]:
    """What a study asks for, dividing a precision (1/sigma^2) evenly among its tables.

    Raises GEM731 for a programme of which more than `MOST_NUMBERS` numbers would be asked.
    """
    end = programme.times_years[-1]
    edges = (0.0, *(float(time) for time in end * np.arange(1, _TIMES + 1) / _TIMES))
    wanted: list[StatisticRequest] = [
        SurvivalRequest(
            name=f"survival_{outcome.name}", noise_multiplier=1.0, outcome=outcome.name, edges_years=edges
        )
        for outcome in programme.outcomes
    ]
    wanted += [
        request for target in programme.targets if (request := _of_target(programme, target)) is not None
    ]
    sigma = math.sqrt(len(wanted) / precision)
    asked = tuple(msgspec.structs.replace(request, noise_multiplier=sigma) for request in wanted)
    if sum(math.prod(request.shape) for request in asked) > MOST_NUMBERS:
        raise GemelError("GEM731", f"{programme.name} would be asked for more than {MOST_NUMBERS} numbers.")
    return asked


def _of_target(programme: Programme, target: Target) -> StatisticRequest | None:
    """Mean and spread of a value, shares of levels or of a switch; None of what is neither, or has no public bounds."""
    name = f"at_{target.name}"
    if target.kind is TargetKind.VALUE_AT:
        concept = programme.concept(target.concepts[0])
        if concept.low is None or concept.high is None:
            return None
        return MomentsRequest(
            name=name, noise_multiplier=1.0, variable=target.name, low=concept.low, high=concept.high
        )
    if target.kind not in (TargetKind.BINARY, TargetKind.ORDINAL):
        return None
    levels = 2 if target.kind is TargetKind.BINARY else len(target.levels) + 1
    bins = Binned(variable=target.name, edges=tuple(level - 0.5 for level in range(levels + 1)))
    return HistogramRequest(name=name, noise_multiplier=1.0, of=bins)


def summaries_statement(asked: Sequence[StatisticRequest], *, delta: float) -> PrivacyStatement:
    """What releasing the summaries costs a patient; goes into `TwinSimulated.trained` by `whole_statement`."""
    spent: list[Mechanism] = [mechanism for request in asked for mechanism in request.mechanisms()]
    return PrivacyStatement(
        epsilon=epsilon_of(spent, delta=delta),
        delta=delta,
        mechanisms=merged(spent),
        unit="patient",
        neighbouring="add or remove one patient",
        noise="secure",
    )


def calibrate(
    twin: Twin,
    values: NDArray[np.floating],
    asked: Sequence[StatisticRequest],
    found: Sequence[Result],
    *,
    free: Sequence[str] = ("level",),
    prior: float = 1.0,
    seed: int = 0,
) -> Calibrated:
    """Fit the entries of the twin's arrays `free` to released summaries.

    Args:
        twin: Where the fit starts, and what the prior is around.
        values: Baselines, raw (n, d), of virtual or public people.
        asked: What hospitals were asked.
        found: What that brought, in its order, with errors (`privacy.statistics.estimates`).
        free: Names of the twin's arrays.
        prior: The standard deviation of the prior, in the arrays' units (log hazards of `level`).
        seed: Of the simulations. The same luck at every step, so that the fit sees the scalars alone.

    Raises GEM731 where there is nothing to fit, or too much.
    """
    start = twin.to_arrays()
    if unknown := sorted(set(free) - set(start)):
        raise GemelError("GEM731", f"The twin has no {', '.join(unknown)}: {sorted(start)}.")
    theta = np.concatenate([start[name].reshape(-1) for name in free]).astype(np.float64)
    told = _numbers(found)
    known = np.isfinite(told[:, 1])
    if not (1 <= len(theta) <= MOST_SCALARS and known.any()):
        raise GemelError("GEM731", f"{len(theta)} scalars to be fitted to {int(known.sum())} numbers.")
    people = np.asarray(values, np.float32)
    people = people[np.arange(_PEOPLE) % len(people)]
    moved = copy.deepcopy(twin)

    def simulated(at: Floats) -> Floats:
        moved.load_arrays({**start, **_arrays(start, free, at)})
        cohort = sample_cohort(moved, people, seed=seed)
        tables = {name: table for request in asked for name, table in tabulate(request, cohort).items()}
        return _numbers(estimates(asked, tables, hospitals=1, noise_share=_HARDLY_ANY))[known]

    own = np.nan_to_num(simulated(theta)[:, 1])
    error = np.hypot(told[known, 1], own)
    best, errors, before, after = _gauss_newton(
        lambda at: simulated(at)[:, 0], theta, told[known, 0], error, prior=prior
    )
    moved.load_arrays({**start, **_arrays(start, free, best)})
    ways, spreads = _arrays(start, free, best - theta), _arrays(start, free, errors)
    return Calibrated(
        moved,
        {name: (ways[name].astype(np.float64), spreads[name].astype(np.float64)) for name in free},
        before,
        after,
        int(known.sum()),
    )


def _gauss_newton(
    simulated: Callable[[Floats], Floats], theta: Floats, told: Floats, error: Floats, *, prior: float
) -> tuple[Floats, Floats, float, float]:
    """Where the numbers and the prior agree best, its standard errors, and the mean squared misfit before and after."""
    precision = np.eye(len(theta)) / prior**2
    at, off = theta.copy(), (simulated(theta) - told) / error
    first = float(np.mean(off**2))
    for _ in range(_ITERATIONS):
        slopes = np.stack(
            [((simulated(at + step) - told) / error - off) / _STEP for step in _STEP * np.eye(len(theta))],
            axis=1,
        )
        curvature = slopes.T @ slopes + precision
        way = -np.linalg.solve(curvature, slopes.T @ off + precision @ (at - theta))
        way *= min(1.0, _LONGEST / max(float(np.abs(way).max()), 1e-12))
        tried = at + way
        newer = (simulated(tried) - told) / error
        cost, pulled = (
            float(o @ o + (where - theta) @ precision @ (where - theta))
            for o, where in ((off, at), (newer, tried))
        )
        if pulled < cost:
            at, off = tried, newer
        if pulled > cost - _ENOUGH:
            break
    return at, np.sqrt(np.diag(np.linalg.inv(curvature))), first, float(np.mean(off**2))


def _arrays(
    start: Mapping[str, NDArray[np.float32]], free: Sequence[str], flat: Floats
) -> dict[str, NDArray[np.float32]]:
    found, begin = {}, 0
    for name in free:
        size = start[name].size
        found[name] = flat[begin : begin + size].reshape(start[name].shape).astype(np.float32)
        begin += size
    return found


def _numbers(results: Sequence[Result]) -> Floats:
    """(m, 2): each number that results tell, and its standard error; NaN where it tells nothing."""
    told: list[tuple[float, float]] = []
    for result in results:
        if isinstance(result, SurvivalResult):
            told += _increments(result.curves[0].survival)
        elif isinstance(result, MomentsResult):
            told += [_pair(result.mean), _pair(result.variance)]
        elif isinstance(result, HistogramResult):
            told += _shares(result)
    return np.array(told, np.float64).reshape(-1, 2)


def _pair(estimate: Estimate) -> tuple[float, float]:
    error = estimate.standard_error
    return (estimate.value, math.nan if error is None or not estimate.reliable or error <= 0 else error)


def _increments(survival: Sequence[Estimate]) -> list[tuple[float, float]]:
    """Of each interval: how much the cumulative hazard, -log of survival, grows.

    The points of one curve err together; what happens in each interval does not (Greenwood), so its variance is what it adds.
    """
    told, before, known = [], 0.0, 0.0
    for number, estimate in enumerate(survival):
        value, error = _pair(estimate)
        level = -math.log(max(value, 1e-3))
        variance = (error / max(value, 1e-3)) ** 2
        added = max(variance - known, variance / (4 * (number + 1)))
        told.append((level - before, math.sqrt(added) if math.isfinite(added) else math.nan))
        before = level
        known = variance
    return told


def _shares(result: HistogramResult) -> list[tuple[float, float]]:
    """Of each level but the lowest: its share of those whose level is known."""
    counts = np.array([estimate.value for estimate in result.patients])
    sigma = result.patients[0].standard_error or 0.0
    total = max(float(counts.sum()), 1.0)
    shares = counts / total
    # Sampling; noise in the count, and in the total, which is a sum of all of them.
    noise = sigma**2 * ((1 - shares) ** 2 + (len(counts) - 1) * shares**2)
    errors = np.sqrt(np.maximum(shares * (1 - shares), 1 / total) / total + noise / total**2)
    return [(float(share), float(error)) for share, error in zip(shares[1:], errors[1:], strict=True)]
