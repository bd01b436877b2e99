"""Facts by hand, and a programme to build from them, for the tests of data sets."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any

from gemel.core.concepts import LOINC, Code, Concept
from gemel.core.programme import CohortDefinition, Feature, FeatureKind, Outcome, OutcomeKind, Programme
from gemel.data_adapters.dataset.assemble import assemble
from gemel.data_adapters.dataset.cohort import pseudonym
from gemel.data_adapters.meaning.facts import Facts

KEY = b"0123456789abcdef"
INDEX = date(2010, 1, 1)


def concept(
    name: str, unit: str | None = None, low: float | None = None, high: float | None = None
) -> Concept:
    code = Code(LOINC, f"test-{name}", verified=False, source="made up for a test")
    return Concept(name=name, title=name, codes=(code,), unit=unit, low=low, high=high)


CONCEPTS = (
    concept("sodium", "mmol/L", 0, 1000),
    concept("potassium", "mmol/L", 0, 20),
    concept("troponin", "ng/L", 0, 100_000),
    concept("diabetes"),
    concept("stroke"),
    concept("statin"),
)
DEATH = Outcome(name="death", title="Death", kind=OutcomeKind.DEATH)


def feature(name: str, kind: str, *concepts: str, **more: Any) -> Feature:
    numbers = dict(low=0, high=1000, reference_mean=0, scale=1, unit="mmol/L", source="a test")
    return Feature(name=name, title=name, kind=FeatureKind(kind), concepts=concepts, **{**numbers, **more})


def programme(*features: Feature, cohort: dict[str, Any] | None = None, **more: Any) -> Programme:
    bounds = dict(minimum_age_years=18, maximum_age_years=100, minimum_follow_up_days=1)
    parts: dict[str, Any] = {"concepts": CONCEPTS, "outcomes": (DEATH,), "horizon_years": 5, **more}
    return Programme(
        name="made_up",
        version="1",
        title="Made up",
        question="None",
        cohort=CohortDefinition(**{**bounds, **(cohort or {})}),
        features=features,
        **parts,
    )


class Hospital:
    """Collects rows of the three tables; days are counted from INDEX."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict[str, Any]]] = {"person": [], "visit": [], "fact": []}

    def person(
        self, key: str, *, birth: date | None = date(1960, 1, 1), death: int | None = None, **more: Any
    ) -> None:
        died = INDEX + timedelta(death) if death is not None else None
        row = {
            "patient_id": key,
            "sex": "male",
            "birth_day": birth,
            "death_day": died,
            "deceased": died is not None,
        }
        self.rows["person"].append(row | more)

    def visit(self, key: str, start: int, end: int | None = None, *, finished: bool | None = True) -> None:
        last = INDEX + timedelta(start if end is None else end)
        row = {
            "patient_id": key,
            "start_day": INDEX + timedelta(start),
            "end_day": last,
            "finished": finished,
        }
        self.rows["visit"].append(row)

    def patient(self, key: str = "p", *, until: int = 1000, **person: Any) -> None:
        """A person whose first visit is on INDEX, and the last `until` days later."""
        self.person(key, **person)
        self.visit(key, 0)
        self.visit(key, until)

    def fact(
        self, concept: str, day: float, value: float | None = None, *, key: str = "p", until: int | None = None,
        bound: str | None = None,
    ) -> None:  # fmt: skip
        at = datetime.combine(INDEX, datetime.min.time()) + timedelta(day)
        end = INDEX + timedelta(until) if until is not None else None
        row = {
            "patient_id": key,
            "concept": concept,
            "day": at.date(),
            "at": at,
            "end_day": end,
            "value": value,
        }
        self.rows["fact"].append({**row, "bound": bound})

    @staticmethod
    def pseudonym(key: str) -> str:
        return pseudonym(KEY, key)

    def facts(self) -> Facts:
        facts = Facts()
        for name, rows in self.rows.items():
            facts.add_rows(name, rows)
        return facts

    def build(self, programme: Programme, *, key: bytes = KEY) -> Any:
        """(data set, counts) of a programme."""
        with self.facts() as facts:
            return assemble(facts, programme, pseudonym_key=key)
