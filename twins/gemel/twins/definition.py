"""All that an installed programme is, beyond its declaration: `gemel/twins/programmes/NAME/definition.py` holds one.

`PROGRAMME` in the folder's `__init__.py` is light: data, without torch. `DEFINITION` brings the twin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gemel.core.programme import Programme
from gemel.twins.claims import Claim, Grade
from gemel.twins.parameters import Mark
from gemel.twins.physiology import Physiology
from gemel.twins.treatment_plan import TreatmentPlan
from gemel.twins.twin import Twin


@dataclass(frozen=True)
class DefaultTraining:
    """Numbers of a `gemel.core.study.TrainingPlan` before its noise is solved for, and the budget's division.

    Shares are of 1/σ², which is what Gaussian releases add up in. Those of training, synthesis and count sum to 1: what a
    training patient pays; a held-out patient pays the count, and all that is left for metrics.
    """

    rounds: int
    local_steps: int
    learning_rate: float
    momentum: float
    max_grad_norm: float
    sample_rate: float
    training_share: float
    synthesis_share: float
    count_share: float


class Baseline(Protocol):
    """A published score or rule that every evaluation is set beside: exact, and applied to who has its inputs."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def title(self) -> str: ...  # noqa: D102

    @property
    def source(self) -> str: ...  # noqa: D102

    @property
    def mark(self) -> Mark: ...  # noqa: D102

    @property
    def endpoint(self) -> str:
        """The programme's endpoint that it is compared on."""

    def __call__(self, values: NDArray[np.floating], programme: Programme) -> NDArray[np.float64]:
        """The score (n,), higher for a higher risk (a value of its own for a continuous endpoint); NaN where an input is missing."""


@dataclass(frozen=True)
class ContextOfUse:
    """What the twin is for, in the words of ASME V&V 40 (2018): the question, and the risk of deciding by it.

    `influence` and `consequence` are low, medium or high; `credibility` names the evidence for each factor.
    """

    question: str
    role: str
    users: str
    influence: str
    consequence: str
    credibility: Mapping[str, str]
    not_for: tuple[str, ...]


@dataclass(frozen=True)
class Validation:
    """How far the programme is validated, and what is missing for more: the table of `docs/programmes.md`."""

    grade: Grade
    data: str
    missing: tuple[str, ...]
    limits: tuple[str, ...]


@dataclass(frozen=True)
class Example:
    """A patient of no hospital, for demo, help and tests: values by feature (others missing), and plans to compare."""

    title: str
    values: Mapping[str, float]
    plan: TreatmentPlan
    other_plan: TreatmentPlan
    # By observable: (day, value) pairs that are taken in one after the other.
    observations: Mapping[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Recorded:
    """Something recorded of an open-data person: a concept of the programme, a day, and a value where it is measured.

    `value` is in the concept's unit; `until` is the last day of a treatment or visit.
    """

    concept: str
    day: date
    value: float | None = None
    until: date | None = None


@dataclass(frozen=True)
class OpenPerson:
    """A person of an open (or simulated) data set, ready to be written as FHIR: see `gemel demo`.

    Attributes:
        hospital: Which hospital of the source; people of one are never split between nodes.
        visits: First and last day of each visit; the first starts the record.
    """

    identity: str
    hospital: str
    birth: date
    male: bool
    died: date | None
    visits: tuple[tuple[date, date], ...]
    recorded: tuple[Recorded, ...]


class OpenData(Protocol):
    """The people that a programme is shown with: real ones where their file is at hand, else simulated."""

    title: str
    file: str  # below the folder of open data; empty when it comes with an installed package
    licence: str
    simulated_title: str

    def people(self, data: Path | None, *, seed: int) -> Iterator[OpenPerson]:
        """Everybody, in an order that depends on the seed alone. Without the file: simulated people, and only those."""


@dataclass(frozen=True)
class TwinDefinition:
    """A programme with its twin, and with all that says what it is worth."""

    programme: Programme
    twin: Callable[[Programme], Twin]
    training: DefaultTraining
    physiology: tuple[Physiology, ...]
    baselines: tuple[Baseline, ...]
    claims: tuple[Claim, ...]
    context: ContextOfUse
    validation: Validation
    example: Example
    open_data: OpenData
