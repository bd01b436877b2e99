"""The twin: an encoder gives a person's parameters and spread, WHIG with drugs moves them, heads tell what is measured.

What the physiology does not say, a linear part of at most `MOST_BESIDE` % of HbA1c does. How far a person may be from what is
expected follows from the physiology: every parameter in which people differ is moved up and down by its spread, and the
squares of what that does to HbA1c and weight add up. Death and cardiovascular events are the hazards of `HazardTwin`, which
see the expected HbA1c.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gemel.core.dataset import OCCURRED, Dataset
from gemel.core.errors import GemelError
from gemel.core.programme import DAYS_PER_YEAR, Programme
from gemel.twins.hazard import HazardTwin
from gemel.twins.parameters import Parameter
from gemel.twins.person_prior import PersonPrior, from_scale, person_prior, to_scale
from gemel.twins.prediction import ExpectedCourse, Floats, SimulatedCourse
from gemel.twins.programmes.type_2_diabetes import DRUG_CLASSES
from gemel.twins.programmes.type_2_diabetes.encoder import (
    SPREAD_HBA1C,
    TYPICAL_HBA1C,
    Encoder,
    PersonEncoding,
    encoder_inputs,
)
from gemel.twins.programmes.type_2_diabetes.physiology import (
    LIFESTYLE_DAYS,
    SEEN_DAYS,
    Courses,
    DiabetesPhysiology,
    Theta,
    courses,
    days_needed,
    diet_part,
)
from gemel.twins.treatment_plan import NOTHING_CHANGED, TreatmentPlan, planned_values
from gemel.twins.twin import Individual, Observations

MOST_BESIDE = 1.0
# The standard deviation of one HbA1c (%) and one weight (kg) as they are measured: laboratory, day and scales. Chosen (U).
HBA1C_ERROR, WEIGHT_ERROR_KG = 0.3, 1.5
# Two parts of one loss: what is measured, and events; weight is shared by two correlated days each.
SHARE_OF_WEIGHT = 0.25
TARGET_DAYS = np.array([182.0, 365.0])
# A diet is followed for so long; by then weight has settled, whatever it is.
DIET_DAYS = 1461.0
DIFFERING: dict[str, Parameter] = {
    parameter.name: parameter
    for parameter in DiabetesPhysiology.parameters
    if parameter.name
    in ("beta_cell_function", "beta_cell_decline", "body_weight", "response", "lifestyle", "weight_drift")
}


@dataclass(frozen=True)
class Expected:
    """HbA1c and weight on T days: means and variances between persons, (B, T) each."""

    hba1c: Tensor
    hba1c_variance: Tensor
    weight: Tensor
    weight_variance: Tensor


class TypeTwoDiabetesTwin(HazardTwin):
    """See the module. Beside the parameters of `HazardTwin` and of the encoder: beside (p + 1,), the linear part."""

    observables: Mapping[str, str] = {"hba1c": "%", "fasting_glucose": "mg/dL", "body_weight": "kg"}
    covariate_count = 1
    measurement: Tensor

    def __init__(self, programme: Programme) -> None:
        super().__init__(programme)
        self.encoder = Encoder()
        self.beside = nn.Parameter(torch.zeros(len(self.design.names) + 1))
        self.register_buffer(
            "measurement", torch.tensor([HBA1C_ERROR, WEIGHT_ERROR_KG]).log(), persistent=False
        )

    def inputs(
        self, values: NDArray[np.floating], plan: TreatmentPlan = NOTHING_CHANGED
    ) -> dict[str, NDArray[np.float32]]:
        """Those of `HazardTwin` and of the encoder; diet (n, ...), what the plan's diet does to weight.

        Raises GEM655 for a plan that takes away what a patient takes: nothing was learned of that.
        """
        self._check_nothing_stops(values, plan)
        given = {**super().inputs(values, plan), **encoder_inputs(self.programme, values)}
        part = self.diet(plan, self._hazard_days())
        given["diet"] = np.broadcast_to(part, (len(values), len(part))).astype(np.float32)
        return given

    def tensors(self, dataset: Dataset) -> dict[str, Tensor]:
        """Those of `HazardTwin`; target (n, 4) and whether it is known."""
        known = np.isfinite(dataset.targets)
        arrays = {"target": np.nan_to_num(dataset.targets), "target_known": known}
        return {
            **super().tensors(dataset),
            **{name: torch.from_numpy(array.astype(np.float32)) for name, array in arrays.items()},
        }

    def covariates(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The HbA1c that is expected at the start of each step, scaled: (B, steps, 1)."""
        days = self._hazard_days()
        person = self.encoder(batch)
        hba1c = courses(person.theta, batch["given"], days, diet=batch["diet"]).hba1c_percent
        hba1c = hba1c + self.beside_physiology(batch["columns"], days)
        return ((hba1c - TYPICAL_HBA1C) / SPREAD_HBA1C).clamp(-3, 3)[:, :, None]

    def target_loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Squared errors of the HbA1c and weights that were measured, each over its expected variance.

        The variance is not trained: clipping takes most from the patients who are furthest off, so that private steps
        make every spread too small (measured: 90 % intervals that held 70 %).
        """
        found = self.expect(batch, TARGET_DAYS)
        error = (2 * self.measurement).exp()
        mean = torch.cat([found.hba1c, found.weight], dim=1)
        variance = torch.cat([found.hba1c_variance + error[0], found.weight_variance + error[1]], dim=1)
        loss = 0.5 * (batch["target"] - mean) ** 2 / variance.detach()
        share = loss.new_tensor([1.0, 1.0, SHARE_OF_WEIGHT, SHARE_OF_WEIGHT])
        return (loss * share * batch["target_known"]).sum(1)

    def expect(self, batch: Mapping[str, Tensor], days: NDArray[np.float64]) -> Expected:
        """What is expected of B persons on T days before anything is observed: `Believed.expected` for training."""
        person = self.encoder(batch)
        theta = _around(person)
        given = batch["given"]
        variants = len(theta["response"]) // len(given)
        found = courses(theta, given.repeat(variants, 1), days)
        hba1c, weight = (
            _moments(course.reshape(variants, len(given), len(days)))
            for course in (found.hba1c_percent, found.weight_kg)
        )
        beside = self.beside_physiology(batch["columns"], days)
        return Expected(hba1c[0] + beside, hba1c[1], *weight)

    def expected(
        self, values: NDArray[np.floating], plan: TreatmentPlan
    ) -> tuple[Mapping[str, Floats], Mapping[str, ExpectedCourse]]:
        """HbA1c and weight after 6 and 12 months, and their courses."""
        return self.told(Believed.before(self, values, plan))

    def told(self, believed: Believed) -> tuple[Mapping[str, Floats], Mapping[str, ExpectedCourse]]:
        """Targets and courses of what is believed of patients' parameters."""
        grid = np.array(self.programme.times_years) * DAYS_PER_YEAR
        with torch.no_grad():
            error = (2 * self.measurement.double()).exp()
            both = believed.expected(np.concatenate([TARGET_DAYS, grid]))
        found: dict[str, Floats] = {}
        for i, day in enumerate(TARGET_DAYS):
            found[f"hba1c_{day:g}"] = _pair(both.hba1c[:, i], both.hba1c_variance[:, i] + error[0])
            found[f"weight_{day:g}"] = _pair(both.weight[:, i], both.weight_variance[:, i] + error[1])
        first = len(TARGET_DAYS)
        return found, {
            "hba1c": _course("%", both.hba1c[:, first:], both.hba1c_variance[:, first:]),
            "body_weight": _course("kg", both.weight[:, first:], both.weight_variance[:, first:]),
        }

    def simulate(
        self,
        values: NDArray[np.floating],
        *,
        seed: int,
        plan: TreatmentPlan = NOTHING_CHANGED,
        paths: int = 1,
    ) -> SimulatedCourse:
        """Events of `HazardTwin`; HbA1c and weight of a person drawn for each path, as they would be measured."""
        events = super().simulate(values, seed=seed, plan=plan, paths=paths)
        believed = Believed.before(self, planned_values(self.programme, values, plan), plan)
        persons = len(values) * paths
        random = np.random.default_rng([seed, 1])
        z = torch.from_numpy(random.standard_normal((len(values), paths, len(DIFFERING))))
        noise = torch.from_numpy(random.standard_normal((2, persons, 2)))
        grid = np.array(self.programme.times_years) * DAYS_PER_YEAR
        died = np.where(events.event[:, 0] == OCCURRED, events.time_years[:, 0], np.inf) * DAYS_PER_YEAR
        with torch.no_grad():
            error = self.measurement.double().exp()
            hba1c, weight = believed.drawn(z, np.concatenate([TARGET_DAYS, grid]))
            measured = {
                "hba1c": hba1c[:, :2] + error[0] * noise[0],
                "weight": weight[:, :2] + error[1] * noise[1],
            }
        targets = {
            f"{name}_{day:g}": _until(died, np.array([day]), values_[:, [i]])[:, 0]
            for name, values_ in measured.items()
            for i, day in enumerate(TARGET_DAYS)
        }
        courses_ = {
            "hba1c": _until(died, grid, hba1c[:, 2:]),
            "body_weight": _until(died, grid, weight[:, 2:]),
        }
        return replace(events, targets=targets, courses=courses_)

    def assimilate(self, values: NDArray[np.floating], observations: Observations) -> Individual:
        """See `gemel.twins.programmes.type_2_diabetes.individual`."""
        from gemel.twins.programmes.type_2_diabetes.individual import KnownPatient

        return KnownPatient(self, values, observations)

    def _check_nothing_stops(self, values: NDArray[np.floating], plan: TreatmentPlan) -> None:
        names = self.programme.feature_names
        for name in plan.treatments & set(DRUG_CLASSES):
            taken = np.nan_to_num(values[:, names.index(f"earlier_{name}")]) > 0.5
            if plan.start_amount(name) == 0 and taken.any():
                raise GemelError("GEM655", f"{name} is taken already, and the plan stops it.")

    @staticmethod
    def diet(plan: TreatmentPlan, days: NDArray[np.float64]) -> NDArray[np.float64]:
        """What the plan's diet does to weight on `days_needed(days)`, as a part of it."""
        return _diet(plan, tuple(days.tolist()))

    def beside_physiology(self, columns: Tensor, days: NDArray[np.float64]) -> Tensor:
        """(B, T) % of HbA1c: what the linear part adds, 0 at the start and whole after 6 months."""
        linear = self.beside[0] + columns @ self.beside[1:]
        bounded = MOST_BESIDE * torch.tanh(linear / MOST_BESIDE)
        settled = (1 - np.exp(-days / LIFESTYLE_DAYS)) / (1 - np.exp(-182 / LIFESTYLE_DAYS))
        return bounded[:, None] * columns.new_tensor(settled)

    def _hazard_days(self) -> NDArray[np.float64]:
        """The starts of the steps; the person stays as they are after what WHIG has seen."""
        return np.minimum(np.array(self.programme.times_years[:-1]) * DAYS_PER_YEAR, 2 * SEEN_DAYS)


@dataclass(frozen=True)
class Believed:
    """What is believed of n persons' parameters: normal deviates with a mean (n, p) and a root of their covariance (n, p, p)."""

    twin: TypeTwoDiabetesTwin
    prior: PersonPrior
    mean: Tensor
    root: Tensor
    plan: TreatmentPlan
    given: Tensor
    columns: Tensor

    @classmethod
    def before(cls, twin: TypeTwoDiabetesTwin, values: NDArray[np.floating], plan: TreatmentPlan) -> Believed:
        """Before anything is observed, from raw values in which the plan is set."""
        batch = {name: torch.from_numpy(array) for name, array in twin.inputs(values, plan).items()}
        with torch.no_grad():
            person = twin.encoder(batch)
        known = {p.name: p for p in DiabetesPhysiology.parameters}
        prior = person_prior(
            tuple(
                known[name] if name in person.spread else replace(known[name], spread=0.0)
                for name in person.theta
            ),
            len(values),
            typical=person.theta,
            spread=person.spread,
        )
        n, p = prior.location.shape
        root = torch.eye(p, dtype=torch.float64).expand(n, p, p)
        return cls(
            twin, prior, torch.zeros(n, p, dtype=torch.float64), root, plan, batch["given"], batch["columns"]
        )

    def courses(self, theta: Theta, days: NDArray[np.float64]) -> Courses:
        """What persons with these parameters, (n * m,), do on T days; the linear part is in HbA1c."""
        times = len(next(iter(theta.values()))) // max(len(self.given), 1)
        diet = torch.from_numpy(self.twin.diet(self.plan, days))[None]
        found = courses(theta, self.given.double().repeat_interleave(times, dim=0), days, diet=diet)
        with torch.no_grad():
            beside = self.twin.beside_physiology(self.columns, days).double()
        return replace(found, hba1c_percent=found.hba1c_percent + beside.repeat_interleave(times, dim=0))

    def expected(self, days: NDArray[np.float64]) -> Expected:
        """Means and variances on T days."""
        n, p = self.mean.shape
        columns = self.root.transpose(1, 2)
        moved = torch.cat([torch.zeros(n, 1, p, dtype=self.mean.dtype), columns, -columns], dim=1)
        found = self.courses(self.prior.theta(self.mean[:, None] + moved), days)
        hba1c, weight = (
            _moments(course.reshape(n, 2 * p + 1, len(days)).transpose(0, 1))
            for course in (found.hba1c_percent, found.weight_kg)
        )
        return Expected(*hba1c, *weight)

    def drawn(self, z: Tensor, days: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
        """HbA1c and weight (n * m, T) of persons drawn by standard normal numbers (n, m, p)."""
        place = self.mean[:, None] + z @ self.root.transpose(1, 2)
        found = self.courses(self.prior.theta(place), days)
        return found.hba1c_percent, found.weight_kg


def _around(person: PersonEncoding) -> Theta:
    """Parameters of the persons, then with each of those that differ moved up by its spread, then down: (B * variants,)."""
    names = tuple(person.spread)
    moved = {
        sign: {
            name: from_scale(DIFFERING[name], to_scale(DIFFERING[name], person.theta[name]) + sign * spread)
            for name, spread in person.spread.items()
        }
        for sign in (1.0, -1.0)
    }
    return {
        name: torch.cat(
            [value, *(moved[s][name] if other == name else value for s in (1.0, -1.0) for other in names)]
        )
        for name, value in person.theta.items()
    }


def _moments(course: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (B, T) from (variants, B, T): the middle, p steps up, p steps down; to the second order."""
    steps = (len(course) - 1) // 2
    middle, up, down = course[0], course[1 : steps + 1], course[steps + 1 :]
    mean = middle + ((up + down) / 2 - middle).sum(0)
    return mean, (((up - down) / 2) ** 2).sum(0)


@lru_cache(maxsize=64)
def _diet(plan: TreatmentPlan, days: tuple[float, ...]) -> NDArray[np.float64]:
    needed = days_needed(np.array(days))
    if "diet" not in plan.treatments:
        return np.zeros_like(needed)
    return diet_part(plan.amounts("diet", np.arange(DIET_DAYS)), needed)


def _pair(mean: Tensor, variance: Tensor) -> Floats:
    return torch.stack([mean, variance.sqrt()], dim=1).numpy().astype(np.float64)


def _course(unit: str, mean: Tensor, variance: Tensor) -> ExpectedCourse:
    return ExpectedCourse(unit, mean.numpy().astype(np.float64), variance.sqrt().numpy().astype(np.float64))


def _until(died: Floats, days: Floats, value: Tensor) -> NDArray[np.float32]:
    """Values (n, T) on days (T,), none after the day of death (n,)."""
    return np.where(days[None, :] > died[:, None], np.nan, value.numpy()).astype(np.float32)
