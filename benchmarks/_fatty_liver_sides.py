"""What the fatty-liver twin is set beside: age and sex alone, the first cardiovascular disease, simulated liver panels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from gemel.core.dataset import CENSORED, OCCURRED, PREVALENT, Dataset
from gemel.core.programme import DAYS_PER_YEAR
from gemel.core.series import Series
from gemel.twins.programmes.fatty_liver import CARDIOVASCULAR, PROGRAMME, fibrosis
from gemel.twins.programmes.fatty_liver.cox import log_hazard_ratios
from gemel.twins.programmes.fatty_liver.twin import FattyLiverTwin
from gemel.twins.solvers import transition_matrices
from gemel.twins.twin import Observations

Floats = NDArray[np.float64]
FIRST = "first cardiovascular"


def column(dataset: Dataset, name: str) -> Floats:
    """A feature's values (n,)."""
    return dataset.values[:, PROGRAMME.feature_names.index(name)].astype(np.float64)


def with_first_cardiovascular(dataset: Dataset) -> Dataset:
    """The data set with the first of the four cardiovascular diseases as one outcome more, the last."""
    places = [PROGRAMME.outcome_names.index(name) for name in CARDIOVASCULAR]
    event, time = dataset.event[:, places], dataset.time_years[:, places]
    had = (event == PREVALENT).any(axis=1)
    came = (event == OCCURRED).any(axis=1)
    first = np.where(event == OCCURRED, time, np.inf).min(axis=1)
    mine = np.where(had, 0.0, np.where(came, first, time.max(axis=1)))
    kind = np.where(had, PREVALENT, np.where(came, OCCURRED, CENSORED))
    return replace(
        dataset,
        outcomes=(*dataset.outcomes, FIRST),
        time_years=np.column_stack([dataset.time_years, mine]).astype(np.float32),
        event=np.column_stack([dataset.event, kind]).astype(np.int8),
    )


def twin_incidence(twin: FattyLiverTwin, dataset: Dataset) -> Floats:
    """Cumulative incidence (n, T, k + 1): the programme's outcomes, then the first cardiovascular disease."""
    predicted = twin.predict(dataset.values).cumulative_incidence
    hazards = twin.hazards_by_state(dataset.values).astype(np.float64)
    diseases = PROGRAMME.outcome_names[1:]
    heart = [PROGRAMME.outcome_names.index(name) for name in CARDIOVASCULAR]
    sugar = 1 << diseases.index("diabetes")
    # Free of the four: with or without diabetes.
    had = twin.design.prevalent(dataset.values)[:, PROGRAMME.outcome_names.index("diabetes")]
    free = np.stack([~had, had], axis=1).astype(np.float64)
    mine = np.zeros((len(dataset), hazards.shape[3] + 1))
    for step in range(hazards.shape[3]):
        mine[:, step + 1] = mine[:, step]
        moved = np.zeros_like(free)
        for place, state in enumerate((0, sugar)):
            rate = hazards[:, state, :, step]
            of_heart, death = rate[:, heart].sum(axis=1), rate[:, 0]
            both = of_heart + death
            mine[:, step + 1] += free[:, place] * of_heart / both * -np.expm1(-both)
            left = free[:, place] * np.exp(-both)
            stays = np.exp(-rate[:, -1]) if place == 0 else np.ones(len(rate))
            moved[:, place] += left * stays
            if place == 0:
                moved[:, 1] += left * (1 - stays)
        free = moved
    return np.concatenate([predicted, mine[:, :, None]], axis=2)


def age_and_sex_incidence(training: Dataset, patients: Dataset, outcome: int) -> Floats:
    """Cumulative incidence (n, T) by Cox models on age and sex alone, of the outcome and of death before it.

    Hazards are constant within a year.
    """
    event, time = training.event[:, outcome], training.time_years[:, outcome]
    risk = event != PREVALENT
    own = _yearly_hazards(training, patients, time, event == OCCURRED, risk)
    other = np.zeros_like(own)
    if outcome > 0:
        first = (event == CENSORED) & (training.event[:, 0] == OCCURRED)
        other = _yearly_hazards(training, patients, time, first, risk)
    both = own + other
    there = np.exp(-np.cumsum(both, axis=1) + both)
    share = np.divide(own, both, out=np.zeros_like(own), where=both > 0)
    came = np.cumsum(there * share * -np.expm1(-both), axis=1)
    return np.concatenate([np.zeros((len(patients), 1)), came], axis=1)


def _yearly_hazards(
    training: Dataset,
    patients: Dataset,
    time: NDArray[np.float32],
    event: NDArray[np.bool_],
    risk: NDArray[np.bool_],
) -> Floats:
    fitted, asked = (
        np.column_stack([column(d, "age_years"), np.nan_to_num(column(d, "male"), nan=0.5)])
        for d in (training, patients)
    )
    centre = fitted[risk].mean(axis=0)
    ratios, _ = log_hazard_ratios(time[risk], event[risk], fitted[risk])
    weight = np.exp((fitted[risk] - centre) @ ratios)
    order = np.argsort(-time[risk].astype(np.float64), kind="stable")
    when, came = time[risk][order].astype(np.float64), event[risk][order]
    last = np.searchsorted(-when, -when[came], side="right") - 1
    steps = 1 / np.cumsum(weight[order])[last]
    years = np.arange(1, len(PROGRAMME.times_years))
    reached = (when[came][None, :] <= years[:, None] + 1e-6) * steps
    base = np.diff(reached.sum(axis=1), prepend=0.0)
    return np.exp((asked - centre) @ ratios)[:, None] * base


def hazard_ratio(dataset: Dataset, outcome: str) -> tuple[float, float, float]:
    """Of fatty liver at the same age and sex, with its 95 % interval: the Cox model of the pooled record."""
    place = PROGRAMME.outcome_names.index(outcome)
    columns = np.column_stack([column(dataset, name) for name in ("age_years", "male", "fatty_liver")])
    used = (dataset.event[:, place] != PREVALENT) & np.isfinite(columns).all(axis=1)
    event = dataset.event[used, place] == OCCURRED
    ratios, errors = log_hazard_ratios(dataset.time_years[used, place], event, columns[used])
    value, width = float(ratios[-1]), 1.96 * float(errors[-1])
    return float(np.exp(value)), float(np.exp(value - width)), float(np.exp(value + width))


def stage_panel(people: int, days: NDArray[np.floating], *, seed: int) -> NDArray[np.int64]:
    """Stages (people, days) of people with fatty liver, by the published rates; the first of `days` is the index date."""
    random = np.random.default_rng(seed)
    stages = [random.choice(len(fibrosis.STAGES), people, p=fibrosis.STAGE_MIX)]
    chain = fibrosis.FibrosisChain()
    rates = chain.rates({}, fibrosis.chain_prior(np.ones(1), np.ones(1)).same)
    for gap in np.diff(days):
        moves = transition_matrices(rates, float(gap) / DAYS_PER_YEAR)[0].numpy().cumsum(axis=1)
        stages.append((random.random(people)[:, None] > moves[stages[-1]]).sum(axis=1))
    return np.minimum(np.stack(stages, axis=1), len(fibrosis.STAGES) - 1)


def tested(stages: NDArray[np.int64], days: NDArray[np.floating], *, visits: int, seed: int) -> Observations:
    """FIB-4 and stiffness at the first `visits` of `days`, with the published blur: half of it a person's own."""
    random = np.random.default_rng([seed, 1])
    people, share = len(stages), fibrosis.OWN_SHARE.value
    found = {}
    for name in ("fib_4", "liver_stiffness"):
        test = fibrosis.TESTS[name]
        own = np.sqrt(share) * random.standard_normal((people, 1))
        each = np.sqrt(1 - share) * random.standard_normal(stages.shape)
        value = np.exp(np.array(test.means)[stages] + test.deviation * (own + each))
        offsets = np.arange(people + 1) * visits
        when = np.tile(np.asarray(days[:visits], np.float32), people)
        found[name] = Series(offsets, when, value[:, :visits].astype(np.float32).ravel())
    return found


def fitted_rates(stages: NDArray[np.int64], gap_days: float) -> dict[str, float]:
    """The chain's rates per year by maximum likelihood, from stages (people, visits) at visits equally far apart."""
    counts = torch.zeros(5, 5, dtype=torch.float64)
    pairs = np.stack([stages[:, :-1].ravel(), stages[:, 1:].ravel()])
    np.add.at(counts.numpy(), (pairs[0], pairs[1]), 1.0)
    chain = fibrosis.FibrosisChain()
    names = [p.name for p in chain.parameters if p.name.startswith(("up_", "down_"))]
    same = fibrosis.chain_prior(np.ones(1), np.ones(1)).same
    logarithms = torch.full((len(names),), float(np.log(0.1)), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([logarithms], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        theta = {**same, **{n: logarithms[i : i + 1].exp() for i, n in enumerate(names)}}
        moves = transition_matrices(chain.rates({}, theta), gap_days / DAYS_PER_YEAR)[0]
        value: torch.Tensor = -(counts * moves.clamp(min=1e-12).log()).sum() / counts.sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return dict(zip(names, logarithms.detach().exp().tolist(), strict=True))
