"""A population whose every statistic is known, samples of it, and requests for all kinds of statistics."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from gemel.core.dataset import Dataset
from gemel.core.statistic_request import (
    Binned,
    ContingencyRequest,
    CountRequest,
    HistogramRequest,
    MomentsRequest,
    PredictionRequest,
    SurvivalRequest,
)
from gemel.privacy.noise import NoiseSource
from gemel.privacy.statistics import estimates, sum_tables, tabulate
from gemel.privacy.statistics.release import add_noise

HORIZON, DEATH_YEARS = 10.0, 200.0
LEVELS = np.array([0.05, 0.15, 0.25, 0.35, 0.5, 0.7])  # what the score may be; each in a bin of its own
SCORE_EDGES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 1.0)
LEVEL_SHARES = np.array([0.25, 0.25, 0.2, 0.15, 0.1, 0.05])
YEARS = tuple(float(t) for t in range(11))
PROBABILITIES = (0.1, 0.25, 0.5, 0.75, 0.9)


def draw(patients: int, *, seed: int, censored: bool = True) -> Dataset:
    """Independent patients: a skewed laboratory value, sex, a treatment that hangs on sex, a score that tells."""
    random = np.random.default_rng(seed)
    creatinine = random.lognormal(0.0, 0.35, patients)
    male = (random.random(patients) < 0.45).astype(float)
    treated = (random.random(patients) < np.where(male > 0, 0.6, 0.4)).astype(float)
    score = random.choice(LEVELS, size=patients, p=LEVEL_SHARES)
    time = random.exponential(1 / (-np.log1p(-score) / HORIZON))
    follow_up = random.uniform(1.0, 16.0, patients) if censored else np.full(patients, 1e6)
    died = random.exponential(DEATH_YEARS, patients) if censored else np.full(patients, 1e6)
    ends = np.minimum(follow_up, died)
    creatinine[random.random(patients) < 0.1] = np.nan
    return Dataset(
        "made_up",
        "1",
        ("creatinine", "male", "treated", "score"),
        ("death", "stroke"),
        tuple(f"{seed:016x}{i:016x}" for i in range(patients)),
        np.stack([creatinine, male, treated, score], axis=1).astype(np.float32),
        np.stack([ends, np.minimum(time, ends)], axis=1).astype(np.float32),
        np.stack([died <= follow_up, time <= ends], axis=1).astype(np.int8),
        ("stroke_by_horizon",),
        (time <= HORIZON).astype(np.float32)[:, None],
    )


def requests(noise_multiplier: float):
    """One of each kind, and of each way to ask."""
    z = noise_multiplier
    lab = Binned(variable="creatinine", edges=tuple(np.round(np.arange(0.2, 3.01, 0.1), 1).tolist()))
    halves = (0.0, 0.5, 1.0)
    male, treated = Binned(variable="male", edges=halves), Binned(variable="treated", edges=halves)
    score = Binned(variable="score", edges=SCORE_EDGES)
    predicted = tuple(LEVELS.tolist())
    return (
        CountRequest(name="patients", noise_multiplier=z),
        HistogramRequest(name="lab", noise_multiplier=z, of=lab, probabilities=PROBABILITIES),
        MomentsRequest(name="moments", noise_multiplier=z, variable="creatinine", low=0.0, high=3.0),
        ContingencyRequest(name="table", noise_multiplier=z, of=(male, treated)),
        SurvivalRequest(name="curve", noise_multiplier=z, outcome="stroke", edges_years=YEARS),
        PredictionRequest(
            name="timed", noise_multiplier=z, score=score, outcome="stroke",
            edges_years=(0.0, 2.5, 5.0, 7.5, 10.0), predicted=predicted,
        ),
        PredictionRequest(
            name="binary", noise_multiplier=z, score=score, outcome="stroke_by_horizon", predicted=predicted
        ),
    )  # fmt: skip


def released(requests, samples, *, seed: int):
    """What the hospitals' noisy tables sum to, with noise that a seed gives away."""
    noise = NoiseSource.for_tests(seed)
    tables = [
        {r.name: add_noise(r, tabulate(r, sample)[r.name], noise) for r in requests} for sample in samples
    ]
    return estimates(requests, sum_tables(requests, tables), hospitals=len(samples))


def named(results):
    """Every estimate of the population by a name, flattened."""
    _, lab, moments, table, curve, timed, binary = results
    found = {f"quantile {q.probability}": q.value for q in lab.quantiles}
    found |= {"mean": moments.mean, "variance": moments.variance}
    found |= {"odds ratio": table.odds_ratios[0].value}
    ends = zip(curve.ends_years, curve.curves[0].survival, strict=True)
    found |= {f"survival {end:g}": value for end, value in ends if end in (1, 3, 5, 10)}
    for name, result in (("timed", timed), ("binary", binary)):
        found |= {f"{name} auc": result.auc, f"{name} brier": result.brier}
        found |= {f"{name} observed {b.predicted:g}": b.observed for b in result.calibration}
    return found | {"timed c_index": timed.c_index}


def truth():
    """The same numbers of the population, by formula (the clamped moments: by four million draws)."""
    normal, values = NormalDist(), np.random.default_rng(12_345).lognormal(0.0, 0.35, 4_000_000)
    clamped = np.clip(values, 0, 3)
    found = {f"quantile {p}": float(np.exp(0.35 * normal.inv_cdf(p))) for p in PROBABILITIES}
    found |= {"mean": float(clamped.mean()), "variance": float(clamped.var()), "odds ratio": 1.5**2}
    hazard = -np.log1p(-LEVELS) / HORIZON
    found |= {f"survival {t}": float((LEVEL_SHARES * np.exp(-hazard * t)).sum()) for t in (1, 3, 5, 10)}
    # Deaths compete with strokes in the timed tables, and do not in the binary ones.
    ended = hazard + 1 / DEATH_YEARS
    for name, risk in (
        ("timed", hazard / ended * -np.expm1(-ended * HORIZON)),
        ("binary", LEVELS),
    ):
        cases, controls = LEVEL_SHARES * risk, LEVEL_SHARES * (1 - risk)
        found |= {f"{name} auc": _concordance(cases, controls) / (cases.sum() * controls.sum())}
        found |= {f"{name} brier": float((cases * (1 - LEVELS) ** 2 + controls * LEVELS**2).sum())}
        found |= {f"{name} observed {p:g}": float(r) for p, r in zip(LEVELS, risk, strict=True)}
    return found | {"timed c_index": _harrell(hazard)}


def _concordance(first, second):
    below = np.cumsum(second) - second
    return float((first * (below + second / 2)).sum())


def _harrell(hazard):
    """Of pairs whose first stroke is seen by the horizon: integrated over its time."""
    concordant = pairs = 0.0
    for t in np.linspace(0, HORIZON, 2_001)[1:] - HORIZON / 4_000:
        followed = min(1.0, 1 - (t - 1) / 15) * np.exp(-t / DEATH_YEARS)
        present = LEVEL_SHARES * np.exp(-hazard * t) * followed
        strokes = present * hazard
        concordant += _concordance(strokes, present)
        pairs += strokes.sum() * present.sum()
    return float(concordant / pairs)
