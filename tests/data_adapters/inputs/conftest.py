"""A programme and a hospital's people for the tests of other inputs."""

from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest

from gemel.core.concepts import LOINC, SNOMED_CT, Code, Concept
from gemel.core.programme import CohortDefinition, Programme
from gemel.data_adapters.inputs.genomics import DBSNP, HGNC, HGVS, HPO, OMIM
from gemel.data_adapters.meaning.facts import Facts


def measured(name: str, loinc: str, unit: str, low: float, high: float) -> Concept:
    return Concept(name=name, title=name, codes=(code(LOINC, loinc),), unit=unit, low=low, high=high)


def code(system: str, text: str) -> Code:
    return Code(system=system, code=text, verified=True, source="test")


def named(name: str, *codes: Code) -> Concept:
    return Concept(name=name, title=name, codes=codes)


CONCEPTS = (
    measured("heart_rate", "8867-4", "/min", 20, 250),
    measured("steps", "41950-7", "1", 0, 100_000),
    measured("sleep", "93832-4", "h", 0, 24),
    measured("spo2", "59408-5", "%", 50, 100),
    measured("sdnn", "80404-7", "ms", 0, 500),
    measured("bmi", "39156-5", "kg/m2", 10, 80),
    measured("weight", "29463-7", "kg", 2, 400),
    measured("systolic", "8480-6", "mm[Hg]", 40, 300),
    measured("diastolic", "8462-4", "mm[Hg]", 20, 200),
    Concept(
        name="tumour_volume", title="", codes=(code(SNOMED_CT, "108369006"),), unit="mL", low=0, high=2000
    ),
    named("neoplasm", code(SNOMED_CT, "108369006")),
    named("braf_v600e", code(HGVS, "NC_000007.14:g.140753336A>T")),
    named("braf_any", code(HGNC + "/geneId", "HGNC:1097")),
    named("kras_g12d", code(HGVS, "ENST00000311936.8:c.35G>A")),
    named("egfr_protein", code(HGVS, "NP_005219.2:p.(Leu858Arg)")),
    named("factor_v", code(DBSNP, "rs6025")),
    named("seizure", code(HPO, "HP:0001250")),
    named("hcm", code(OMIM, "192600")),
)


@pytest.fixture
def programme() -> Programme:
    cohort = CohortDefinition(minimum_age_years=18, maximum_age_years=90, minimum_follow_up_days=0)
    return Programme(
        name="test",
        version="1",
        title="",
        question="",
        cohort=cohort,
        concepts=CONCEPTS,
        features=(),
        outcomes=(),
        horizon_years=1,
    )


class Hospital(Facts):
    """Facts with three people: p1 (born 1960-01-01), p2, p3."""

    def __init__(self) -> None:
        super().__init__()
        rows = [{"patient_id": f"p{n}", "birth_day": date(1960, 1, 1)} for n in (1, 2, 3)]
        self.add_rows("person", rows)

    def of(self, *columns: str) -> list[tuple[Any, ...]]:
        names = ", ".join(f'"{column}"' for column in columns)
        return self.run(f"SELECT {names} FROM fact ORDER BY ALL")


@pytest.fixture
def hospital() -> Iterator[Hospital]:
    with Hospital() as facts:
        yield facts
