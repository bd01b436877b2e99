"""What a twin says of patients: probabilities and expected courses on its programme's grid, and simulated courses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gemel.core.errors import GemelError
from gemel.core.programme import Endpoint, Programme, TargetKind

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ExpectedCourse:
    """The course of something measured: its mean and the standard deviation between what could happen, each (n, T).

    The spread is that of the patient (parameters and process), without the noise of a measurement.
    """

    unit: str
    mean: Floats
    spread: Floats


@dataclass(frozen=True)
class Prediction:
    """For n patients at the T times of the programme's grid (the first is 0), k outcomes (death first), s states.

    Attributes:
        outcomes: the k names.
        times_years: (T,).
        cumulative_incidence: (n, T, k), probability of the outcome by then; competing death counted. Zero throughout
            for a disease that the patient already had.
        state_names: the s names. state: (n, T, s), probability of being alive in each.
        prevalent: bool (n, k), diseases there at the start.
        targets: by name of the target. VALUE_AT: (n, 2), mean and standard deviation of the value. ORDINAL: (n, levels + 1),
            probabilities of the levels among the living. BINARY, DEATH: (n,), the risk.
        courses: by name, what the physiology expects of something measured.
    """

    outcomes: tuple[str, ...]
    times_years: tuple[float, ...]
    cumulative_incidence: Floats
    state_names: tuple[str, ...]
    state: Floats
    prevalent: NDArray[np.bool_]
    targets: Mapping[str, Floats] = field(default_factory=dict)
    courses: Mapping[str, ExpectedCourse] = field(default_factory=dict)

    @property
    def alive(self) -> Floats:
        """(n, T): probability of being alive."""
        return np.asarray(1.0 - self.cumulative_incidence[:, :, 0], dtype=np.float64)

    def risk(self, programme: Programme, endpoint: Endpoint) -> Floats:
        """The predicted risk of an endpoint's event: (n, horizons) of an outcome, (n, 1) of a target.

        Of a VALUE_AT target: its expected value, (n, 1). Raises GEM602 when the twin does not predict the target.
        """
        if endpoint.outcome:
            steps = [programme.step_at(day) for day in endpoint.horizons_days]
            return self.cumulative_incidence[:, steps, self.outcomes.index(endpoint.outcome)]
        target = next(target for target in programme.targets if target.name == endpoint.target)
        if target.name not in self.targets:
            raise GemelError("GEM602", f"The twin of {programme.name} does not predict {target.name}.")
        predicted = self.targets[target.name]
        if target.kind is TargetKind.VALUE_AT:
            return predicted[:, :1]
        reached = (
            predicted[:, endpoint.at_least :].sum(axis=1) if target.kind is TargetKind.ORDINAL else predicted
        )
        if endpoint.with_death:
            alive = self.alive[:, programme.step_at(float(target.at_days or 0))]
            reached = 1.0 - alive + alive * reached
        return np.asarray(reached[:, None], np.float64)


@dataclass(frozen=True)
class SimulatedCourse:
    """One possible future of each of n patients, in the conventions of `gemel.core.dataset.Dataset`.

    Attributes:
        time_years: float32 (n, k).
        event: int8 (n, k): 1 occurred, 0 censored by death or at the horizon, -1 prevalent (time 0).
        targets: float32 (n,) by name of the target: what would have been measured; NaN where the patient had died.
        courses: float32 (n, T) by name of what the physiology follows; NaN after death.
    """

    time_years: NDArray[np.float32]
    event: NDArray[np.int8]
    targets: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    courses: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
