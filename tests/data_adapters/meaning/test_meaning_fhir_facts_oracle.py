"""Facts from FHIR against a slow reading by hand, and what facts must not depend on."""

import copy
import gzip
import json
import random
import tempfile
from collections import Counter
from datetime import date, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemel.core.concepts import LOINC, SNOMED_CT, Code, Concept
from gemel.core.programme import CohortDefinition, Programme
from gemel.data_adapters.meaning.facts import Facts
from gemel.data_adapters.meaning.fhir_facts import read_fhir

RXNORM = "http://www.nlm.nih.gov/research/umls/rxnorm"
TABLES = ("person", "visit", "fact")


def concept(name, *codes, **more):
    listed = tuple(Code(system, code, True, "test") for system, code in codes)
    return Concept(name=name, title=name, codes=listed, source="test", **more)


PROGRAMME = Programme(
    name="test",
    version="1",
    title="t",
    question="q",
    cohort=CohortDefinition(minimum_age_years=18, maximum_age_years=99, minimum_follow_up_days=1),
    concepts=(
        concept("bmi", (LOINC, "39156-5"), unit="kg/m2", low=14, high=40),
        concept("weight", (LOINC, "29463-7"), unit="kg", low=1, high=500),
        concept("diastolic", (LOINC, "8462-4"), unit="mm[Hg]", low=40, high=200),
        concept("hypertension", (SNOMED_CT, "38341003"), (SNOMED_CT, "59621000")),
        concept("sinusitis", (SNOMED_CT, "444814009"), (SNOMED_CT, "40055000")),
        concept("reconciliation", (SNOMED_CT, "430193006")),
        concept("ibuprofen", (RXNORM, "310965")),
        concept("acetaminophen", (RXNORM, "313782")),
    ),
    features=(),
    outcomes=(),
    horizon_years=5,
)


def tables_of(export, programme=PROGRAMME, **options):
    with Facts() as facts:
        account = read_fhir(export, programme, facts, **options)
        return account, {name: facts.run(f"SELECT * FROM {name} ORDER BY ALL") for name in TABLES}


def coded(concept):
    return [(coding.get("system"), coding.get("code")) for coding in (concept or {}).get("coding", [])]


def clock(text):
    return datetime.fromisoformat(text[:19])


def facts_by_hand(export):
    """What complete and regular resources say, with json and loops: dates are whole, units are the concept's."""
    names = {(code.system, code.code): c for c in PROGRAMME.concepts for code in c.codes}
    found = set()

    def say(resource, code, start, value, end=None):
        for wanted in {names[key].name: names[key] for key in coded(code) if key in names}.values():
            if (wanted.unit is None) != (value is None):
                continue
            if value is not None and not wanted.low <= value <= wanted.high:
                continue
            who = resource["subject"]["reference"].removeprefix("Patient/")
            last = None if end is None else date.fromisoformat(end[:10])
            found.add((who, wanted.name, clock(start), last, value))

    for path in sorted(export.glob("*.ndjson.gz")):
        for line in gzip.decompress(path.read_bytes()).splitlines():
            resource = json.loads(line)
            match resource["resourceType"]:
                case "Observation":
                    parts = [resource, *resource.get("component", [])]
                    quantities = [part.get("valueQuantity") for part in parts]
                    if any(
                        q is not None and "value" in q and not (q.get("code") or q.get("unit"))
                        for q in quantities
                    ):
                        continue
                    for part, quantity in zip(parts, quantities, strict=True):
                        if quantity is not None:
                            say(
                                resource,
                                part["code"],
                                resource["effectiveDateTime"],
                                float(quantity["value"]),
                            )
                case "Condition":
                    say(
                        resource,
                        resource["code"],
                        resource["onsetDateTime"],
                        None,
                        resource.get("abatementDateTime"),
                    )
                case "Procedure":
                    period = resource["performedPeriod"]
                    say(resource, resource["code"], period["start"], None, period["end"])
                case "MedicationRequest":
                    say(resource, resource.get("medicationCodeableConcept"), resource["authoredOn"], None)
    return found


@pytest.mark.parametrize("site", ["site_a_smart_r4_2019", "site_b_bulkserver_r4"])
def test_facts_of_public_exports_are_those_of_a_reading_by_hand(site):
    export = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "fhir" / site
    if not export.exists():
        pytest.skip("the public FHIR sites are not in ../shared/data")
    account, tables = tables_of(export, workers=2)
    expected = facts_by_hand(export)
    found = {(who, name, at, end, value) for who, name, _, at, end, value, _ in tables["fact"]}
    assert found == expected
    assert len(tables["fact"]) == len(expected)
    counts = Counter(name for _, name, *_ in expected)
    assert account.by_concept("values") == dict(counts)
    assert {name for name, number in counts.items() if number > 20} >= {"bmi", "weight", "diastolic"}
    assert all(file.read == file.accepted + file.rejected for file in account.files)
    assert (account.orphans, account.superseded, account.undated) == ({}, {}, {})


def hospital(fhir):
    """Resources of two patients that touch every table, in every way of naming a patient."""
    named = {"identifier": {"system": "urn:mrn", "value": "7"}}
    tablet = {"coding": [{"system": RXNORM, "code": "310965"}]}
    request = {"resourceType": "MedicationRequest", "status": "active", "subject": {"reference": "Patient/q"}}
    lines = [
        fhir.patient("p", "1950-02", identifier=[{"system": "urn:mrn", "value": "7"}]),
        fhir.patient("q", "1960-01-01", deceasedDateTime="2020"),
        fhir.encounter("p", "2010-01-01", "2010-01-05", id="e1"),
        fhir.encounter("q", "2011-01-01T10:00:00Z", id="e2"),
        *(fhir.observation("p", "39156-5", 20 + i, "kg/m2", f"2010-01-{i + 1:02}") for i in range(9)),
        fhir.observation("q", "29463-7", 80, "kg", "2010-01-01", subject=named),
        fhir.observation("q", "29463-7", 80, "stone", "2010-01-01"),
        fhir.pressure_panel("q", 120, 80, "2010"),
        fhir.condition("q", SNOMED_CT, "38341003", None, encounter={"reference": "Encounter/e2"}),
        fhir.condition("p", SNOMED_CT, "38341003", "2011-01-01"),
        {"resourceType": "Medication", "id": "m", "code": tablet},
        request
        | {"id": "r1", "authoredOn": "2012-01-01", "medicationReference": {"reference": "Medication/m"}},
        request | {"id": "r2", "authoredOn": "2013-01-01", "medicationCodeableConcept": tablet},
    ]
    for line in lines:
        line["meta"] = {"lastUpdated": "2020-01-01T00:00:00Z"}
    return lines


def older(line):
    """An earlier version that says something else."""
    old = copy.deepcopy(line)
    old["meta"] = {"lastUpdated": "2019-01-01T00:00:00Z"}
    if "birthDate" in old:
        old["birthDate"] = "1901-01-01"
    if "valueQuantity" in old:
        old["valueQuantity"]["value"] = 33
    if "code" in old and old["resourceType"] != "Medication":
        old["code"] = {"coding": [{"system": LOINC, "code": "39156-5"}]}
    return old


@pytest.fixture(scope="module")
def plain(fhir, tmp_path_factory):
    """(resources, account, tables) of a small hospital in one file."""
    lines = hospital(fhir)
    export = fhir.write(tmp_path_factory.mktemp("plain"), {"x.ndjson": lines})
    return lines, *tables_of(export)


@settings(max_examples=8, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 4), st.integers(1, 3), st.booleans())
def test_facts_depend_on_neither_order_nor_files_nor_older_versions_nor_threads(
    fhir, plain, chance, parts, workers, small
):
    lines, account_before, expected = plain
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        if small:
            patch.setattr("gemel.data_adapters.meaning.fhir_facts._CHUNK_LINES", 4)
        repeated = chance.sample(lines, 6)
        mixed = [*lines, *(older(line) for line in repeated), *chance.sample(lines, 3)]
        chance.shuffle(mixed)
        files = {f"{i}.ndjson": mixed[i::parts] for i in range(parts)}
        account, found = tables_of(fhir.write(Path(folder) / "mixed", files), workers=workers)
    assert found == expected
    assert [concept.values for concept in account.concepts] == [
        concept.values for concept in account_before.concepts
    ]
    assert all(file.read == file.accepted + file.rejected for file in account.files)
    assert sum(file.read for file in account.files) == len(mixed)


def test_two_exports_that_differ_in_nothing_give_equal_accounts(fhir, tmp_path):
    lines = hospital(fhir)
    random.Random(3).shuffle(lines)
    export = fhir.write(tmp_path, {"x.ndjson": lines})
    one, many = tables_of(export), tables_of(export, workers=2)
    assert one == many
