"""The twin of patients whose HbA1c, fasting glucose and weight were seen after the start: MAP with Laplace's approximation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gemel.core.programme import DAYS_PER_YEAR
from gemel.twins.assimilation import MaximumAPosteriori, MeasurementError, Measurements, measurements_of
from gemel.twins.course import predict
from gemel.twins.known_events import KnownEvents
from gemel.twins.prediction import Prediction
from gemel.twins.programmes.type_2_diabetes.physiology import Theta
from gemel.twins.programmes.type_2_diabetes.published_models import MG_DL_PER_MMOL_L, steady_hba1c
from gemel.twins.programmes.type_2_diabetes.twin import Believed, TypeTwoDiabetesTwin
from gemel.twins.treatment_plan import NOTHING_CHANGED, TreatmentPlan, planned_values
from gemel.twins.twin import Individual, Observations


class KnownPatient(Individual):
    """Patients with what was observed of them under what they were given at the start.

    A prediction under another plan keeps the person (glycaemia, response, lifestyle, weight) and changes what is given. A
    patient who was observed on a day was alive then, and the record holds what had come.
    """

    def __init__(
        self, twin: TypeTwoDiabetesTwin, values: NDArray[np.floating], observations: Observations
    ) -> None:
        self._twin, self._values = twin, np.asarray(values)
        self._measured = measurements_of(observations, twin.observables, persons=len(values))
        self._before = Believed.before(twin, self._values, NOTHING_CHANGED)
        posterior = MaximumAPosteriori(self._log_likelihood)(self._before.prior, self._measured)
        self._parameters = posterior.parameters
        self._mean, self._root = posterior.z, torch.linalg.cholesky(posterior.covariance)

    def predict(self, *, plan: TreatmentPlan = NOTHING_CHANGED) -> Prediction:
        """See `Individual`."""
        planned = planned_values(self._twin.programme, self._values, plan)
        before = Believed.before(self._twin, planned, plan)
        targets, courses = self._twin.told(replace(before, mean=self._mean, root=self._root))
        events = predict(self._twin, planned, plan, known=self._known_events())
        return replace(events, targets=targets, courses=courses)

    @property
    def parameters(self) -> Mapping[str, tuple[NDArray[np.float64], ...]]:  # type: ignore[override]
        """See `Individual`."""
        return self._parameters

    def _known_events(self) -> KnownEvents:
        last = torch.where(self._measured.known, self._measured.day, 0.0)
        until = last.amax(1).numpy() if last.shape[1] else np.zeros(len(self._values))
        never = np.full((len(self._values), len(self._twin.programme.outcomes)), np.inf)
        return KnownEvents(until / DAYS_PER_YEAR, never)

    def _log_likelihood(self, theta: Theta, measured: Measurements) -> Tensor:
        """(n,): of what was measured, each thing by the error that training found it to have."""
        days = np.array([0.0, *(day for day in measured.days if day > 0)])
        course = self._before.courses(theta, days)
        encoder = self._twin.encoder
        with torch.no_grad():
            deviation = self._twin.measurement.double().exp().tolist()
            by_glucose = float(encoder.deviation[2].exp())
            value = torch.where(
                measured.is_of("fasting_glucose"),
                encoder.by_glucose(steady_hba1c(measured.value / MG_DL_PER_MMOL_L).float()).double(),
                measured.value,
            )
        errors = {
            "hba1c": (course.hba1c_percent, MeasurementError(deviation[0])),
            "fasting_glucose": (steady_hba1c(course.fasting_mmol_l), MeasurementError(by_glucose)),
            "body_weight": (course.weight_kg, MeasurementError(deviation[1])),
        }
        place = torch.searchsorted(torch.from_numpy(days), measured.day.contiguous()).clamp(max=len(days) - 1)
        total = torch.zeros_like(course.hba1c_percent[:, 0])
        for name, (expected, error) in errors.items():
            mine = measured.is_of(name)
            density = error.log_density(value, expected.gather(1, place))
            density = torch.where(mine, density, 0.0).sum(1)
            if name == "fasting_glucose":
                # Where a person's glucose lies off WHIG's line, it does so each time: all of them count as one.
                density = density / mine.sum(1).clamp(min=1)
            total = total + density
        return total
