"""A small programme with treatments, plain twins of it, and made-up people whose treatment effect is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from gemel.core.concepts import load_concepts
from gemel.core.dataset import Dataset
from gemel.core.programme import (
    Assignment,
    CohortDefinition,
    Endpoint,
    Feature,
    FeatureKind,
    Outcome,
    OutcomeKind,
    Programme,
    Target,
    TargetKind,
    Treatment,
    TreatmentKind,
)
from gemel.twins.design import design_of
from gemel.twins.prediction import Prediction, SimulatedCourse
from gemel.twins.treatment_plan import NOTHING_CHANGED, TreatmentPlan, planned_values
from gemel.twins.twin import Twin

DAY = 180


def _flag(name: str, concept: str) -> Feature:
    return Feature(
        name=name,
        title=name,
        kind=FeatureKind.PRESENT,
        unit="1",
        low=0,
        high=1,
        reference_mean=0,
        scale=1,
        bin_edges=(0.0, 0.5, 1.0),
        source="a test",
        concepts=(concept,),
    )


def _programme() -> Programme:
    library = load_concepts()
    concepts = (
        "systolic_blood_pressure",
        "diabetes",
        "hypertension",
        "atrial_fibrillation",
        "fatty_liver",
        "heart_failure",
    )
    return Programme(
        name="treated",
        version="1",
        title="Treated people",
        question="Does it help?",
        cohort=CohortDefinition(minimum_age_years=18, maximum_age_years=100, minimum_follow_up_days=0),
        concepts=tuple(library[name] for name in concepts),
        features=(
            Feature(
                name="age_years",
                title="Age",
                kind=FeatureKind.AGE,
                unit="a",
                low=18,
                high=100,
                reference_mean=60,
                scale=12,
                bin_edges=(18, 40, 50, 60, 70, 80, 100),
                source="a test",
            ),
            Feature(
                name="pressure",
                title="Pressure",
                kind=FeatureKind.LAST,
                unit="mm[Hg]",
                low=80,
                high=220,
                reference_mean=140,
                scale=20,
                bin_edges=(80, 120, 140, 160, 220),
                source="a test",
                concepts=("systolic_blood_pressure",),
                window_days=30,
            ),
            _flag("bleeding", "hypertension"),
            _flag("lot", "diabetes"),
            _flag("drug", "fatty_liver"),
        ),
        outcomes=(
            Outcome(name="death", title="Death", kind=OutcomeKind.DEATH),
            Outcome(
                name="relapse", title="Relapse", kind=OutcomeKind.FIRST_DIAGNOSIS, concepts=("heart_failure",)
            ),
        ),
        grid_days=(30, 90, DAY),
        targets=(
            Target(
                name="walks",
                title="Walks",
                kind=TargetKind.BINARY,
                concepts=("atrial_fibrillation",),
                at_days=DAY,
            ),
            Target(
                name="pressure_later",
                title="Pressure later",
                kind=TargetKind.VALUE_AT,
                unit="mm[Hg]",
                concepts=("systolic_blood_pressure",),
                at_days=DAY,
                tolerance_days=10,
            ),
        ),
        endpoints=(
            Endpoint(name="death", title="Death", outcome="death", horizons_days=(90, DAY)),
            Endpoint(name="relapse", title="Relapse", outcome="relapse", horizons_days=(DAY,)),
            Endpoint(name="walks", title="Walks", target="walks"),
            Endpoint(name="pressure", title="Pressure", target="pressure_later", value_edges=(80, 140, 220)),
        ),
        treatments=(
            Treatment(
                name="lot",
                title="Given by lot",
                kind=TreatmentKind.BINARY,
                assignment=Assignment.RANDOMISED,
                feature="lot",
                chance=0.5,
                contraindications=("bleeding",),
            ),
            Treatment(
                name="drug",
                title="Given by indication",
                kind=TreatmentKind.BINARY,
                assignment=Assignment.OBSERVED,
                feature="drug",
            ),
            Treatment(
                name="published",
                title="Known from papers",
                kind=TreatmentKind.DOSE,
                assignment=Assignment.OBSERVED,
                unit="mg",
                high=10,
                source="a paper",
            ),
        ),
    )


PROGRAMME = _programme()
GIVEN = {
    name: TreatmentPlan.always({name: 1.0}, name=f"with {name}") for name in ("lot", "drug", "published")
}
WITHOUT = {
    name: TreatmentPlan.always({name: 0.0}, name=f"without {name}") for name in ("lot", "drug", "published")
}


class PlainTwin(Twin):
    """Logistic regression of `walks` and linear regression of the pressure later, on the design's columns; nobody dies.

    A test may set `published_effect` (mm[Hg] per mg) for the treatment that no column records.
    """

    published_effect = 0.0

    def __init__(self, programme: Programme = PROGRAMME) -> None:
        super().__init__(programme)
        self.design = design_of(programme)
        columns = len(self.design.names)
        self.level = nn.Parameter(torch.zeros(2))
        self.weights = nn.Parameter(torch.zeros(2, columns))
        self.log_deviation = nn.Parameter(torch.zeros(1))

    def tensors(self, dataset: Dataset) -> dict[str, Tensor]:
        given = {"columns": self.design.columns(dataset.values)}
        walks, pressure = dataset.targets.T
        for name, target in (("walks", walks), ("pressure", (pressure - 140) / 20)):
            known = np.isfinite(target)
            given[name], given[f"{name}_known"] = np.where(known, target, 0), known
        return {name: torch.from_numpy(np.asarray(array, np.float32)) for name, array in given.items()}

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        eta = self.level + batch["columns"] @ self.weights.T
        walks = nn.functional.binary_cross_entropy_with_logits(eta[:, 0], batch["walks"], reduction="none")
        log_deviation = self.log_deviation.clamp(-5, 5)
        away = (batch["pressure"] - eta[:, 1]) * torch.exp(-log_deviation)
        return batch["walks_known"] * walks + batch["pressure_known"] * (away.square() / 2 + log_deviation)

    def _expected(self, values: np.ndarray, plan: TreatmentPlan) -> tuple[np.ndarray, np.ndarray, float]:
        columns = torch.from_numpy(self.design.columns(planned_values(self.programme, values, plan)))
        with torch.no_grad():
            eta = (self.level + columns @ self.weights.T).numpy().astype(np.float64)
            deviation = 20 * float(torch.exp(self.log_deviation))
        published = self.published_effect * plan.start_amount("published")
        return 1 / (1 + np.exp(-eta[:, 0])), 140 + 20 * eta[:, 1] + published, deviation

    def predict(self, values: np.ndarray, *, plan: TreatmentPlan = NOTHING_CHANGED) -> Prediction:
        walks, pressure, deviation = self._expected(values, plan)
        n, times, k = len(values), self.programme.times_years, len(self.programme.outcomes)
        return Prediction(
            self.programme.outcome_names,
            times,
            np.zeros((n, len(times), k)),
            ("alive",),
            np.ones((n, len(times), 1)),
            np.zeros((n, k), bool),
            {"walks": walks, "pressure_later": np.stack([pressure, np.full(n, deviation)], axis=1)},
        )

    def simulate(
        self, values: np.ndarray, *, seed: int, plan: TreatmentPlan = NOTHING_CHANGED, paths: int = 1
    ) -> SimulatedCourse:
        walks, pressure, deviation = (
            np.repeat(part, paths) if np.ndim(part) else part for part in self._expected(values, plan)
        )
        random = np.random.default_rng(seed)
        n, k = len(walks), len(self.programme.outcomes)
        luck, noise = random.random(n), random.standard_normal(n)
        return SimulatedCourse(
            np.full((n, k), self.programme.times_years[-1], np.float32),
            np.zeros((n, k), np.int8),
            {
                "walks": (luck < walks).astype(np.float32),
                "pressure_later": (pressure + deviation * noise).astype(np.float32),
            },
        )


@dataclass(frozen=True)
class Truth:
    """Effects of `drug` and `lot` on `walks` (log odds) and on the pressure later, and who gets the drug."""

    drug_walks: float = 0.8
    drug_pressure: float = -10.0
    lot_walks: float = 0.4
    confounding: float = 1.5  # how much more often the old and those of high pressure get the drug


def people(n: int, truth: Truth, *, seed: int) -> tuple[Dataset, dict[str, float]]:
    """Made-up people, and the true mean effects of the drug and the lot among very many such people.

    The old, and those of high pressure, get the drug more often and walk less often.
    """
    dataset, _ = _drawn(n, truth, np.random.default_rng(seed))
    _, effects = _drawn(400_000, truth, np.random.default_rng(12345))
    return dataset, effects


def _drawn(n: int, truth: Truth, random: np.random.Generator) -> tuple[Dataset, dict[str, float]]:
    age = np.clip(random.normal(60, 12, n), 18, 100)
    pressure = np.clip(random.normal(140, 20, n), 80, 220)
    old, high = (age - 60) / 12, (pressure - 140) / 20
    bleeding = random.random(n) < 0.1
    lot = random.random(n) < 0.5
    drug = random.random(n) < _expit(truth.confounding * (0.6 * old + 0.6 * high))

    def eta(drug: np.ndarray, lot: np.ndarray) -> np.ndarray:
        return 0.3 - 0.7 * old - 0.6 * high - 0.5 * bleeding + truth.drug_walks * drug + truth.lot_walks * lot

    walks = random.random(n) < _expit(eta(drug, lot))
    later = 120 + 0.8 * (pressure - 120) + truth.drug_pressure * drug + random.normal(0, 12, n)
    yes, no = np.ones(n), np.zeros(n)
    effects = {
        "drug_walks": float((_expit(eta(yes, lot)) - _expit(eta(no, lot))).mean()),
        "lot_walks": float((_expit(eta(drug, yes)) - _expit(eta(drug, no))).mean()),
        "drug_pressure": truth.drug_pressure,
    }
    dataset = Dataset(
        PROGRAMME.name,
        PROGRAMME.version,
        PROGRAMME.feature_names,
        PROGRAMME.outcome_names,
        tuple(f"{i:08x}" for i in range(n)),
        np.stack([age, pressure, bleeding, lot, drug], axis=1).astype(np.float32),
        np.full((n, 2), DAY / 365.25, np.float32),
        np.zeros((n, 2), np.int8),
        PROGRAMME.target_names,
        np.stack([walks, later], axis=1).astype(np.float32),
    )
    return dataset, effects


def fitted(dataset: Dataset, *, ridge: float = 1e-4) -> PlainTwin:
    """The plain twin at the optimum of its loss and a ridge."""
    twin = PlainTwin()
    batch = twin.tensors(dataset)
    optimiser = torch.optim.LBFGS(
        twin.parameters(),
        max_iter=200,
        tolerance_grad=1e-7,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def loss() -> float:
        optimiser.zero_grad()
        total = twin(batch).mean()
        for name, parameter in twin.named_parameters():
            if name != "level":
                total = total + ridge * parameter.square().sum()
        total.backward()
        return float(total.detach())

    optimiser.step(loss)
    return twin


def _expit(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))
