"""Invented patients in two forms: FHIR resources, and tables of the OMOP CDM. It shares no code with the readers."""

import csv
import gzip
import json
import random
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Row = dict[str, Any]

LOINC, SNOMED, ICD_10 = "http://loinc.org", "http://snomed.info/sct", "http://hl7.org/fhir/sid/icd-10"
ATC, RXNORM = "http://www.whocc.no/atc", "http://www.nlm.nih.gov/research/umls/rxnorm"
VOCABULARIES = {
    LOINC: "LOINC",
    SNOMED: "SNOMED",
    ICD_10: "ICD10",
    ATC: "ATC",
    RXNORM: "RxNorm",
    "ucum": "UCUM",
}
GENDERS = {"male": 8507, "female": 8532, "other": 8521, "unknown": 8551}
OPERATORS = {"<": 4171756, "<=": 4171754, ">": 4172704, ">=": 4171755}
Code = tuple[str, str]


@dataclass(frozen=True)
class Person:
    """`born` has one to three parts: year, month, day."""

    number: int
    sex: str | None
    born: tuple[int, ...]
    died: date | None = None
    dead: bool = False


@dataclass(frozen=True)
class Visit:
    person: int
    start: date
    end: date | None
    over: bool = True


@dataclass(frozen=True)
class Statement:
    """A diagnosis, procedure or drug with its standard code, and the source's."""

    person: int
    kind: str  # "condition", "procedure" or "drug"
    standard: Code | None
    source: Code | None
    at: date | datetime
    end: date | None = None


@dataclass(frozen=True)
class Value:
    person: int
    code: Code
    number: float | None
    unit: str | None
    at: date | datetime
    bound: str | None = None
    unit_is_text: bool = False


@dataclass
class Hospital:
    people: list[Person] = field(default_factory=list)
    visits: list[Visit] = field(default_factory=list)
    statements: list[Statement] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)


def _when(at: date | datetime) -> str:
    """A FHIR date or dateTime; the zone is as good as any, for days are those of the hospital's clock."""
    return f"{at.isoformat()}+02:00" if isinstance(at, datetime) else at.isoformat()


def _partial(parts: tuple[int, ...]) -> str:
    return "-".join(f"{part:04d}" if i == 0 else f"{part:02d}" for i, part in enumerate(parts))


CODES: tuple[Code, ...] = (
    (ICD_10, "E11.9"),
    (ICD_10, "I63.1"),
    (SNOMED, "44054006"),
    (SNOMED, "422504002"),
    (SNOMED, "86259008"),
    (ATC, "A10BA02"),
    (ICD_10, "Z00.0"),
)
UNITS: dict[Code, tuple[tuple[str | None, bool, float], ...]] = {
    (LOINC, "2085-9"): (
        ("mg/dL", False, 55.5),
        ("mmol/L", False, 1.44),
        ("MG/DL", True, 48.0),
        (None, False, 50.0),
    ),
    (LOINC, "14646-4"): (("mmol/L", False, 1.21), ("kg", False, 3.0)),
    (LOINC, "8480-6"): (("mm[Hg]", False, 131.0), ("mmHg", True, 122.3), ("mm[Hg]", False, 1310.0)),
    (LOINC, "9999-9"): (("mg/dL", False, 1.0),),
}


def invented(number: int, *, seed: int = 7) -> Hospital:
    """A larger hospital, the same every time."""
    chance = random.Random(seed)
    hospital = Hospital()
    for person in range(1, number + 1):
        born = date(1930, 1, 1) + timedelta(days=chance.randrange(18_000))
        parts = (born.year, born.month, born.day)[: chance.choice((1, 2, 3, 3, 3))]
        start = date(2000, 1, 1) + timedelta(days=chance.randrange(3000))
        died = start + timedelta(days=chance.randrange(200, 6000)) if chance.random() < 0.3 else None
        hospital.people.append(
            Person(person, chance.choice(("male", "female", "female", "other")), parts, died)
        )
        for _ in range(chance.randrange(1, 5)):
            day = start + timedelta(days=chance.randrange(4000))
            hospital.visits.append(Visit(person, day, day + timedelta(days=chance.randrange(9))))
        for _ in range(chance.randrange(4)):
            at = datetime.combine(start, datetime.min.time()) + timedelta(minutes=chance.randrange(4_000_000))
            kind = chance.choice(("condition", "condition", "procedure", "drug"))
            hospital.statements.append(
                Statement(person, kind, chance.choice(CODES), chance.choice(CODES), at)
            )
        for _ in range(chance.randrange(8)):
            at = datetime.combine(start, datetime.min.time()) + timedelta(minutes=chance.randrange(4_000_000))
            code = chance.choice(list(UNITS))
            unit, is_text, near = chance.choice(UNITS[code])
            bound = chance.choice((None, None, None, None, "<", ">"))
            hospital.values.append(
                Value(person, code, round(near * chance.uniform(0.5, 1.6), 2), unit, at, bound, is_text)
            )
    return hospital


# --- FHIR -------------------------------------------------------------------------------------------


def write_fhir(hospital: Hospital, folder: Path) -> Path:
    """One NDJSON file for each resource type."""
    folder.mkdir(parents=True)
    resources = [*_people(hospital), *_visits(hospital), *_statements(hospital), *_values(hospital)]
    for kind in sorted({resource["resourceType"] for resource in resources}):
        lines = [json.dumps(resource) for resource in resources if resource["resourceType"] == kind]
        (folder / f"{kind}.ndjson").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def _people(hospital: Hospital) -> list[Row]:
    found = []
    for person in hospital.people:
        resource: Row = {
            "resourceType": "Patient",
            "id": str(person.number),
            "birthDate": _partial(person.born),
        }
        if person.sex is not None:
            resource["gender"] = person.sex
        if person.died is not None:
            resource["deceasedDateTime"] = person.died.isoformat()
        elif person.dead:
            resource["deceasedBoolean"] = True
        found.append(resource)
    return found


def _subject(person: int) -> Row:
    return {"reference": f"Patient/{person}"}


def _visits(hospital: Hospital) -> list[Row]:
    return [
        {
            "resourceType": "Encounter",
            "id": f"e{i}",
            "status": "finished" if visit.over else "in-progress",
            "class": {"code": "AMB"},
            "subject": _subject(visit.person),
            "period": {"start": visit.start.isoformat()}
            | ({"end": visit.end.isoformat()} if visit.end else {}),
        }
        for i, visit in enumerate(hospital.visits)
    ]


def _concept(*codes: Code | None) -> Row:
    return {"coding": [{"system": code[0], "code": code[1]} for code in codes if code is not None]}


def _statements(hospital: Hospital) -> list[Row]:
    found = []
    for i, said in enumerate(hospital.statements):
        code, subject = _concept(said.standard, said.source), _subject(said.person)
        resource: Row = {"id": f"s{i}", "subject": subject}
        if said.kind == "condition":
            resource |= {"resourceType": "Condition", "code": code, "onsetDateTime": _when(said.at)}
            if said.end is not None:
                resource["abatementDateTime"] = said.end.isoformat()
        elif said.kind == "procedure":
            resource |= {"resourceType": "Procedure", "status": "completed", "code": code}
            resource["performedDateTime"] = _when(said.at)
        else:
            resource |= {
                "resourceType": "MedicationStatement",
                "status": "completed",
                "medicationCodeableConcept": code,
                "effectivePeriod": {"start": _when(said.at)}
                | ({"end": said.end.isoformat()} if said.end else {}),
            }
        found.append(resource)
    return found


def _values(hospital: Hospital) -> list[Row]:
    found = []
    for i, value in enumerate(hospital.values):
        quantity = {
            "value": value.number,
            "unit": value.unit,
            "code": None if value.unit_is_text else value.unit,
            "system": None if value.unit_is_text or value.unit is None else "http://unitsofmeasure.org",
            "comparator": value.bound,
        }
        resource: Row = {
            "resourceType": "Observation",
            "id": f"o{i}",
            "status": "final",
            "code": _concept(value.code),
            "subject": _subject(value.person),
            "effectiveDateTime": _when(value.at),
        }
        if value.number is not None:
            resource["valueQuantity"] = {k: v for k, v in quantity.items() if v is not None}
        found.append(resource)
    return found


# --- OMOP -------------------------------------------------------------------------------------------

COLUMNS: dict[str, dict[str, str]] = {
    "person": {
        "person_id": "integer",
        "gender_concept_id": "integer",
        "year_of_birth": "integer",
        "month_of_birth": "integer",
        "day_of_birth": "integer",
        "birth_datetime": "timestamp",
        "race_concept_id": "integer",
        "person_source_value": "varchar",
    },
    "death": {"person_id": "integer", "death_date": "date", "death_datetime": "timestamp"},
    "visit_occurrence": {
        "visit_occurrence_id": "integer",
        "person_id": "integer",
        "visit_concept_id": "integer",
        "visit_start_date": "date",
        "visit_start_datetime": "timestamp",
        "visit_end_date": "date",
    },
    **{
        table: {
            f"{table}_id": "integer",
            "person_id": "integer",
            f"{stem}_concept_id": "integer",
            f"{day}_date": "date",
            f"{day}_datetime": "timestamp",
            **({end: "date"} if end else {}),
            f"{stem}_source_value": "varchar",
            f"{stem}_source_concept_id": "integer",
        }
        for table, stem, day, end in (
            ("condition_occurrence", "condition", "condition_start", "condition_end_date"),
            ("procedure_occurrence", "procedure", "procedure", ""),
            ("drug_exposure", "drug", "drug_exposure_start", "drug_exposure_end_date"),
        )
    },
    "measurement": {
        "measurement_id": "integer",
        "person_id": "integer",
        "measurement_concept_id": "integer",
        "measurement_date": "date",
        "measurement_datetime": "timestamp",
        "operator_concept_id": "integer",
        "value_as_number": "numeric",
        "value_as_concept_id": "integer",
        "unit_concept_id": "integer",
        "measurement_source_value": "varchar",
        "measurement_source_concept_id": "integer",
        "unit_source_value": "varchar",
        "value_source_value": "varchar",
    },
    "observation": {
        "observation_id": "integer",
        "person_id": "integer",
        "observation_concept_id": "integer",
        "observation_date": "date",
        "observation_datetime": "timestamp",
        "value_as_number": "numeric",
        "value_as_string": "varchar",
        "value_as_concept_id": "integer",
        "unit_concept_id": "integer",
        "observation_source_value": "varchar",
        "observation_source_concept_id": "integer",
        "unit_source_value": "varchar",
    },
    "concept": {
        "concept_id": "integer",
        "concept_name": "varchar",
        "domain_id": "varchar",
        "vocabulary_id": "varchar",
        "concept_code": "varchar",
    },
    "concept_ancestor": {"ancestor_concept_id": "integer", "descendant_concept_id": "integer"},
    "cdm_source": {"cdm_source_name": "varchar", "cdm_version": "varchar"},
}
Tables = dict[str, list[Row]]


class Vocabulary:
    """Gives each code an invented concept_id, as a site's own concepts have (from 2,000,000,001)."""

    def __init__(self) -> None:
        self.ids: dict[Code, int] = {}

    def __call__(self, code: Code | None) -> int:
        if code is None:
            return 0
        return self.ids.setdefault(code, 2_000_000_001 + len(self.ids))

    def rows(self) -> list[Row]:
        own = [
            {
                "concept_id": number,
                "concept_name": 'a "name"',
                "vocabulary_id": VOCABULARIES[s],
                "concept_code": c,
            }
            for (s, c), number in self.ids.items()
        ]
        genders = [
            {
                "concept_id": n,
                "concept_name": name,
                "vocabulary_id": "Gender",
                "concept_code": name[0].upper(),
            }
            for name, n in GENDERS.items()
        ]
        return own + genders


def omop_tables(hospital: Hospital, vocabulary: Vocabulary | None = None) -> Tables:
    """The tables as rows; a column that a row lacks is NULL."""
    vocabulary = vocabulary or Vocabulary()
    tables: Tables = {name: [] for name in COLUMNS}
    for person in hospital.people:
        parts = ("year_of_birth", "month_of_birth", "day_of_birth")
        row = {
            "person_id": person.number,
            "gender_concept_id": GENDERS.get(person.sex or "", 0),
            "race_concept_id": 0,
            "person_source_value": f"mrn-{person.number}",
        }
        tables["person"].append(row | dict(zip(parts, person.born, strict=False)))
        if person.died is not None or person.dead:
            tables["death"].append({"person_id": person.number, "death_date": person.died})
    for i, visit in enumerate(hospital.visits, 1):
        end = (visit.end or visit.start) if visit.over else None
        row = {"visit_occurrence_id": i, "person_id": visit.person, "visit_concept_id": 9202}
        tables["visit_occurrence"].append(row | {"visit_start_date": visit.start, "visit_end_date": end})
    for i, said in enumerate(hospital.statements, 1):
        _add_statement(tables, i, said, vocabulary)
    for i, value in enumerate(hospital.values, 1):
        unit = None if value.unit is None or value.unit_is_text else ("ucum", value.unit)
        row = {
            "measurement_id": i,
            "person_id": value.person,
            "measurement_concept_id": vocabulary(value.code),
            "operator_concept_id": OPERATORS.get(value.bound or "", 0),
            "value_as_number": value.number,
            "unit_concept_id": vocabulary(unit),
            "unit_source_value": value.unit,
            "measurement_source_value": value.code[1],
            "measurement_source_concept_id": 0,
        }
        tables["measurement"].append(row | _day("measurement", value.at))
    tables["concept"] = vocabulary.rows()
    tables["cdm_source"] = [{"cdm_source_name": "invented", "cdm_version": "v5.4.0"}]
    return tables


def _day(stem: str, at: date | datetime) -> Row:
    if isinstance(at, datetime):
        return {f"{stem}_date": at.date(), f"{stem}_datetime": at}
    return {f"{stem}_date": at}


def _add_statement(tables: Tables, number: int, said: Statement, vocabulary: Vocabulary) -> None:
    table, stem, day, end = {
        "condition": ("condition_occurrence", "condition", "condition_start", "condition_end_date"),
        "procedure": ("procedure_occurrence", "procedure", "procedure", ""),
        "drug": ("drug_exposure", "drug", "drug_exposure_start", "drug_exposure_end_date"),
    }[said.kind]
    row = {
        f"{table}_id": number,
        "person_id": said.person,
        f"{stem}_concept_id": vocabulary(said.standard),
        f"{stem}_source_concept_id": vocabulary(said.source),
        f"{stem}_source_value": said.source[1] if said.source else None,
    }
    tables[table].append(row | _day(day, said.at) | ({end: said.end} if end else {}))


def write_csv(
    tables: Tables, folder: Path, *, upper: bool = False, tab: bool = False, zipped: bool = False
) -> Path:
    """CSV files, NULL as nothing between the commas."""
    folder.mkdir(parents=True)
    for name, rows in tables.items():
        columns = list(COLUMNS[name])
        path = folder / f"{name.upper() if upper else name}.csv{'.gz' if zipped else ''}"
        with (
            gzip.open(path, "wt", newline="")
            if zipped
            else path.open("w", newline="", encoding="utf-8") as file
        ):
            if tab and name.startswith("concept"):  # as Athena writes: no quoting at all
                writer = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None)
            else:
                writer = csv.writer(file, delimiter="\t" if tab else ",")
            writer.writerow([column.upper() if upper else column for column in columns])
            writer.writerows([[_cell(row.get(column)) for column in columns] for row in rows])
    return folder


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value.isoformat(sep=" ") if isinstance(value, datetime) else str(value)


_ARROW = {
    "integer": pa.int64(),
    "varchar": pa.string(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us"),
    "numeric": pa.float64(),
}


def write_parquet(tables: Tables, folder: Path) -> Path:
    """Parquet files with the CDM's types."""
    folder.mkdir(parents=True)
    for name, rows in tables.items():
        schema = pa.schema([(column, _ARROW[kind]) for column, kind in COLUMNS[name].items()])
        full = [{column: row.get(column) for column in COLUMNS[name]} for row in rows]
        pq.write_table(pa.Table.from_pylist(full, schema=schema), folder / f"{name}.parquet")
    return folder
