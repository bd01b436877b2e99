"""A small programme, and ways to read a CDM into rows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gemel.core.concepts import ATC, ICD_10, LOINC, SNOMED_CT, Code, Concept
from gemel.core.programme import CohortDefinition, Feature, FeatureKind, Outcome, OutcomeKind, Programme
from gemel.data_adapters.meaning.facts import Facts
from gemel.data_adapters.omop.account import OmopAccount
from gemel.data_adapters.omop.read import read_omop

Rows = dict[str, list[tuple[Any, ...]]]


def _code(system: str, code: str, *, prefix: bool = False) -> Code:
    return Code(system, code, verified=True, source="test", prefix=prefix)


_SCALE: dict[str, Any] = {"reference_mean": 0.0, "scale": 1.0, "source": "test"}

PROGRAMME = Programme(
    name="two-forms",
    version="1",
    title="Test",
    question="Do two forms of one record give one data set?",
    cohort=CohortDefinition(minimum_age_years=18, maximum_age_years=100, minimum_follow_up_days=30),
    concepts=(
        Concept(
            name="hdl",
            title="HDL cholesterol",
            codes=(_code(LOINC, "2085-9"), _code(LOINC, "14646-4")),
            unit="mg/dL",
            low=5,
            high=200,
            molar_mass_g_mol=386.65,
            source="test",
        ),
        Concept(
            name="pressure",
            title="Systolic blood pressure",
            codes=(_code(LOINC, "8480-6"),),
            unit="mm[Hg]",
            low=50,
            high=270,
            source="test",
        ),
        Concept(
            name="diabetes",
            title="Diabetes",
            codes=(_code(ICD_10, "E11", prefix=True), _code(SNOMED_CT, "44054006")),
        ),
        Concept(
            name="stroke",
            title="Stroke",
            codes=(_code(ICD_10, "I63", prefix=True), _code(SNOMED_CT, "422504002")),
        ),
        Concept(name="biopsy", title="Liver biopsy", codes=(_code(SNOMED_CT, "86259008"),)),
        Concept(
            name="metformin", title="Blood glucose lowering drugs", codes=(_code(ATC, "A10B", prefix=True),)
        ),
    ),
    features=(
        Feature(
            name="age",
            title="Age",
            kind=FeatureKind.AGE,
            unit="a",
            low=18,
            high=100,
            bin_edges=(18, 100),
            **_SCALE,
        ),
        Feature(
            name="male",
            title="Male",
            kind=FeatureKind.MALE,
            unit="1",
            low=0,
            high=1,
            bin_edges=(0, 1),
            **_SCALE,
        ),
        *(
            Feature(
                name=f"{name}_{kind}",
                title=name,
                kind=kind,
                unit=unit,
                low=0,
                high=300,
                bin_edges=(0, 300),
                concepts=(name,),
                **_SCALE,
            )
            for name, unit in (("hdl", "mg/dL"), ("pressure", "mm[Hg]"))
            for kind in (FeatureKind.LAST, FeatureKind.MEAN, FeatureKind.COUNT)
        ),
        *(
            Feature(
                name=name,
                title=name,
                kind=FeatureKind.PRESENT,
                unit="1",
                low=0,
                high=1,
                bin_edges=(0, 1),
                concepts=(name,),
                **_SCALE,
            )
            for name in ("diabetes", "biopsy", "metformin")
        ),
    ),
    outcomes=(
        Outcome(name="death", title="Death", kind=OutcomeKind.DEATH),
        Outcome(name="stroke", title="Stroke", kind=OutcomeKind.FIRST_DIAGNOSIS, concepts=("stroke",)),
    ),
    horizon_years=10,
)


def rows_of(facts: Facts) -> Rows:
    """All rows of the three tables, in an order of their content."""
    return {name: facts.run(f"SELECT * FROM {name} ORDER BY ALL") for name in ("person", "visit", "fact")}


@pytest.fixture(scope="session")
def programme() -> Programme:
    return PROGRAMME


@pytest.fixture(scope="session")
def read() -> Callable[..., tuple[Rows, OmopAccount]]:
    """Reads a source into rows and its account; in the account each table's rows add up."""

    def reading(source: Path | str, **options: Any) -> tuple[Rows, OmopAccount]:
        with Facts() as facts:
            account = read_omop(source, options.pop("programme", PROGRAMME), facts, **options)
            assert all(file.read == file.accepted + file.rejected for file in account.files)
            assert sum(account.rejects_by_code.values()) == sum(file.rejected for file in account.files)
            return rows_of(facts), account

    return reading
