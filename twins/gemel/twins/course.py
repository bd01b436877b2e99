"""A patient's course: exact propagation of the state's probabilities, and simulated courses.

Within a year hazards are constant, given the state at its start, and outcomes compete as independent clocks: death
comes with probability 1 - exp(-λ_death), a disease before death and the year's end with
λ/(λ + λ_death) · (1 - exp(-(λ + λ_death))).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from gemel.twins.hazard import HazardTwin

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Prediction:
    """Probabilities at the yearly grid 0 … horizon for n patients, k outcomes (death first), m = k - 1 diseases.

    Attributes:
        outcomes: the k names.
        cumulative_incidence: (n, horizon + 1, k), probability of the outcome by then; competing death counted.
            Zero throughout for a disease that the patient already had.
        state: (n, horizon + 1, 2**m), probability of being alive with a set of diseases: bit i is disease i + 1.
        prevalent: bool (n, k), diseases there at the start.
    """

    outcomes: tuple[str, ...]
    cumulative_incidence: Floats
    state: Floats
    prevalent: NDArray[np.bool_]

    @property
    def alive(self) -> Floats:
        """(n, horizon + 1): probability of being alive."""
        return np.asarray(self.state.sum(axis=2), dtype=np.float64)


@dataclass(frozen=True)
class SimulatedCourse:
    """Event times of virtual patients, in the conventions of `gemel.core.dataset.Dataset`.

    Attributes:
        time_years: float32 (n, k).
        event: int8 (n, k): 1 occurred, 0 censored by death or at the horizon, -1 prevalent (time 0).
    """

    time_years: NDArray[np.float32]
    event: NDArray[np.int8]


def predict(twin: HazardTwin, values: NDArray[np.floating]) -> Prediction:
    """The course of each patient from raw values (n, d); values beyond the public bounds are clipped to them.

    Call `gemel.twins.design.check_support` first where an individual is told the result.
    """
    programme, prevalent = twin.programme, twin.design.prevalent(values)
    patients, outcomes = prevalent.shape
    diseases, horizon = outcomes - 1, programme.horizon_years
    hazards = [state_hazards(twin, values, state) for state in range(1 << diseases)]
    state = np.zeros((patients, horizon + 1, 1 << diseases))
    state[np.arange(patients), 0, prevalent[:, 1:] @ (1 << np.arange(diseases))] = 1.0
    incidence = np.zeros((patients, horizon + 1, outcomes))
    for year in range(horizon):
        incidence[:, year + 1] = incidence[:, year]
        for start, hazard in enumerate(hazards):
            occupied, rate = state[:, year, start], hazard[:, :, year]
            death, survived = rate[:, 0], np.exp(-rate[:, 0])
            incidence[:, year + 1, 0] += occupied * -np.expm1(-death)
            open_diseases = [i for i in range(diseases) if not start >> i & 1]
            for i in open_diseases:
                both = rate[:, i + 1] + death
                incidence[:, year + 1, i + 1] += occupied * rate[:, i + 1] / both * -np.expm1(-both)
            for new in _subsets(open_diseases):
                moved = occupied * survived
                for i in open_diseases:
                    stays_free = np.exp(-rate[:, i + 1])
                    moved = moved * ((1 - stays_free) if new >> i & 1 else stays_free)
                state[:, year + 1, start | new] += moved
    return Prediction(programme.outcome_names, incidence, state, prevalent)


def simulate(twin: HazardTwin, values: NDArray[np.floating], *, seed: int) -> SimulatedCourse:
    """One random course for each row of raw values (n, d): equal seeds give equal courses."""
    random = np.random.default_rng(seed)
    prevalent = twin.design.prevalent(values)
    patients, outcomes = prevalent.shape
    horizon = twin.programme.horizon_years
    by_state = np.stack([state_hazards(twin, values, s) for s in range(1 << (outcomes - 1))])
    time = np.where(prevalent, 0.0, float(horizon))
    event = np.where(prevalent, -1, 0).astype(np.int8)
    alive, everyone = np.ones(patients, dtype=bool), np.arange(patients)
    for year in range(horizon):
        state = (event[:, 1:] != 0) @ (1 << np.arange(outcomes - 1))
        rate = by_state[state, everyone, :, year]
        # Clocks with a constant hazard within the year; one beyond the year's end has not rung.
        clock = random.standard_exponential((patients, outcomes)) / rate
        end = np.minimum(clock[:, :1], 1.0)
        rings = alive[:, None] & (event == 0) & (clock <= end)
        event[rings] = 1
        time = np.where(rings, year + clock, time)
        died = rings[:, 0]
        time = np.where(died[:, None] & (event == 0), year + clock[:, :1], time)
        alive &= ~died
    return SimulatedCourse(time.astype(np.float32), event)


def state_hazards(twin: HazardTwin, values: NDArray[np.floating], state: int) -> Floats:
    """λ (n, k, years) of patients who are all in one state (bit i: disease i + 1) in every year."""
    diseases = len(twin.programme.outcomes) - 1
    bits = torch.tensor([float(state >> i & 1) for i in range(diseases)])
    columns = torch.from_numpy(twin.design.columns(values))
    age = torch.from_numpy(twin.design.age(values))
    held = bits.expand(len(values), twin.programme.horizon_years, diseases)
    with torch.no_grad():
        hazards: Floats = torch.exp(twin.log_hazard(columns, age, held)).numpy().astype(np.float64)
    return hazards


def _subsets(members: list[int]) -> list[int]:
    """Every set of the members, as bits."""
    subsets = [0]
    for member in members:
        subsets += [subset | 1 << member for subset in subsets]
    return subsets
