"""Facts from FHIR: each trap of real exports as an example."""

import json
from dataclasses import replace
from datetime import date, datetime

import pytest

from gemel.core.concepts import ICD_10, LOINC, SNOMED_CT, Code, Concept
from gemel.core.errors import GemelError
from gemel.core.programme import CohortDefinition, Programme
from gemel.data_adapters.meaning.consent import Withheld
from gemel.data_adapters.meaning.facts import Facts
from gemel.data_adapters.meaning.fhir_facts import read_fhir, require_usable
from gemel.data_adapters.meaning.site_mapping import SiteMapping

ATC = "http://www.whocc.no/atc"


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
        concept("bmi", (LOINC, "39156-5"), unit="kg/m2", low=10, high=100),
        concept("systolic", (LOINC, "8480-6"), (LOINC, "85354-9"), unit="mm[Hg]", low=40, high=300),
        concept("crp", (LOINC, "1988-5"), unit="mg/L", low=0, high=1000),
        concept("hypertension", (ICD_10, "I10"), (SNOMED_CT, "38341003")),
        concept("metformin", (ATC, "A10BA02")),
        concept("insulin", (ATC, "A10AB01"), unit="[IU]", low=0, high=500),
        concept("colonoscopy", (SNOMED_CT, "73761001")),
    ),
    features=(),
    outcomes=(),
    horizon_years=5,
)
MARK = {"coding": [{"system": ATC, "code": "A10BA02"}]}


@pytest.fixture
def read(fhir, tmp_path):
    """Reads resources (a list, or a dict of files) to (account, facts as rows, visits, people)."""
    count = 0

    def run(resources, **options):
        nonlocal count
        count += 1
        files = resources if isinstance(resources, dict) else {"x.ndjson": resources}
        export = fhir.write(tmp_path / f"export-{count}", files)
        with Facts() as facts:
            account = read_fhir(export, PROGRAMME, facts, **options)
            order = "ORDER BY ALL"
            rows = facts.run(
                f'SELECT patient_id, concept, day, "at", end_day, value, bound FROM fact {order}'
            )
            return (
                account,
                rows,
                facts.run(f"SELECT * FROM visit {order}"),
                facts.run(f"SELECT * FROM person {order}"),
            )

    return run


def bmi(fhir, value=30.0, day="2010-02-03", **more):
    return fhir.observation("p", "39156-5", value, "kg/m2", day, **more)


def medication(kind, **more):
    resource = {"resourceType": kind, "id": f"m-{kind}", "status": "completed"}
    return resource | {"subject": {"reference": "Patient/p"}} | more


def test_a_person_has_sex_birth_and_death_with_partial_dates_in_their_middle(fhir, read):
    account, _, _, people = read(
        [
            fhir.patient("a", "1960", "female", deceasedDateTime="2001-05"),
            fhir.patient("b", "1970-03-04", "male", deceasedBoolean=True),
            fhir.patient("c", None, deceasedBoolean=False),
        ]
    )
    assert people == [
        ("a", "female", date(1960, 7, 2), date(2001, 5, 16), True),
        ("b", "male", date(1970, 3, 4), None, True),
        ("c", "male", None, None, False),
    ]
    assert account.partial_dates == {"Patient.birthDate": 1, "Patient.deceasedDateTime": 1}
    assert (account.patients, account.fhir_version) == (3, "R4")


def test_a_visit_that_was_cancelled_or_planned_is_none(fhir, read):
    account, _, visits, _ = read(
        [
            fhir.patient("p"),
            fhir.encounter("p", "2010-01-02T23:30:00-05:00", "2010-01-04"),
            fhir.encounter("p", "2011-01-01", status="in-progress"),
            fhir.encounter("p", "2012-01-01", status="cancelled"),
            fhir.encounter("p", "2013-01-01", status="planned"),
        ]
    )
    assert visits == [
        ("p", date(2010, 1, 2), date(2010, 1, 4), True),
        ("p", date(2011, 1, 1), date(2011, 1, 1), False),
    ]
    assert account.excluded == {"Encounter: status cancelled": 1, "Encounter: status planned": 1}


def test_a_value_is_a_fact_in_the_concepts_unit_with_its_local_time(fhir, read):
    lines = [
        bmi(fhir, day="2010-02-03T22:15:30.250+01:00"),
        fhir.observation("p", "8480-6", 16, "kPa", "2010-02"),
        fhir.observation("p", "1988-5", 0.5, "mg/dL", "2010-02-03T07:00Z"),
    ]
    account, rows, _, _ = read([fhir.patient("p"), *lines])
    assert [(row[1], row[2], row[3]) for row in rows] == [
        ("bmi", date(2010, 2, 3), datetime(2010, 2, 3, 22, 15, 30, 250_000)),
        ("crp", date(2010, 2, 3), datetime(2010, 2, 3, 7)),
        ("systolic", date(2010, 2, 16), datetime(2010, 2, 16)),
    ]
    assert [row[5] for row in rows] == pytest.approx([30, 5, 120.01], rel=1e-4)
    assert account.partial_dates == {"Observation.effective": 1}
    [crp] = [facts for facts in account.concepts if facts.concept == "crp"]
    assert (crp.low, crp.p50, crp.high, crp.units) == (5, 5, 5, {"mg/dL": 1})


def test_with_a_time_zone_of_the_site_an_instant_is_told_by_its_clock(fhir, read):
    lines = [
        bmi(fhir, 30.0, "2010-02-03T23:30:00Z"),
        bmi(fhir, 31.0, "2010-02-03T23:30:00"),
        bmi(fhir, 32.0, "2010-07-03T20:00:00-04:00"),
        bmi(fhir, 33.0, "2010-02-03"),
    ]
    zoned = SiteMapping(time_zone="Europe/Berlin")
    _, rows, _, _ = read([fhir.patient("p"), *lines], mapping=zoned)
    times = {row[5]: (row[2], row[3]) for row in rows}
    assert times == {
        30.0: (date(2010, 2, 4), datetime(2010, 2, 4, 0, 30)),
        31.0: (date(2010, 2, 3), datetime(2010, 2, 3, 23, 30)),
        32.0: (date(2010, 7, 4), datetime(2010, 7, 4, 2, 0)),
        33.0: (date(2010, 2, 3), datetime(2010, 2, 3)),
    }


def test_a_bound_is_kept_beside_its_value_and_counted_apart(fhir, read):
    line = fhir.observation(
        "p", "1988-5", None, None, "2010", valueQuantity=fhir.quantity(5, "mg/L", comparator="<")
    )
    account, rows, _, _ = read([fhir.patient("p"), line])
    [row] = rows
    assert row[5:] == (5.0, "<")
    assert (account.by_concept("bounds"), account.by_concept("values")) == ({"crp": 1}, {})
    odd = json.loads(json.dumps(line))
    odd["valueQuantity"]["comparator"] = "~"
    account, rows, _, _ = read([fhir.patient("p"), odd])
    assert (rows, account.rejects[0].path) == ([], "$.valueQuantity.comparator")


def test_a_panel_gives_its_own_value_and_its_components(fhir, read):
    panel = fhir.pressure_panel("p", 130, 80, "2010-02-03")
    panel["valueQuantity"] = fhir.quantity(97, "mm[Hg]")
    panel["component"].append({"code": {"text": "cuff"}, "valueString": "large"})
    account, rows, _, _ = read([fhir.patient("p"), panel])
    assert [(row[1], row[5]) for row in rows] == [("systolic", 97.0), ("systolic", 130.0)]
    assert {(code.system, code.code): code.count for code in account.unmapped} == {
        (LOINC, "8462-4"): 1,
        ("", "text only"): 1,
    }


def test_a_line_at_fault_in_a_component_that_the_programme_needs_gives_nothing(fhir, read):
    panel = fhir.pressure_panel("p", 130, 80, "2010-02-03")
    panel["valueQuantity"] = fhir.quantity(97, "mm[Hg]")
    del panel["component"][0]["valueQuantity"]["code"], panel["component"][0]["valueQuantity"]["unit"]
    account, rows, _, _ = read([fhir.patient("p"), panel])
    assert rows == []
    [reject] = account.rejects
    assert (reject.code, reject.path) == ("GEM202", "$.component[0].valueQuantity")
    assert account.files[0].accepted == 1
    assert account.files[0].types == {"Patient": 1, "Observation": 0}


def test_a_panel_is_not_lost_for_a_component_without_a_unit_that_no_concept_has(fhir, read):
    panel = fhir.pressure_panel("p", 130, 80, "2010-02-03")
    del panel["component"][1]["valueQuantity"]["code"], panel["component"][1]["valueQuantity"]["unit"]
    account, rows, _, _ = read([fhir.patient("p"), panel])
    assert [(row[1], row[5]) for row in rows] == [("systolic", 130.0)]
    assert not account.rejects


@pytest.mark.parametrize("status", ["unconfirmed", "provisional", "differential"])
def test_a_suspicion_is_no_diagnosis(fhir, read, status):
    line = fhir.condition("p", ICD_10, "K76.0", "2010-02-03")
    line["verificationStatus"] = {"coding": [{"code": status}]}
    account, rows, _, _ = read([fhir.patient("p"), line])
    assert rows == []
    assert account.excluded == {f"Condition: {status}": 1}


def test_what_is_dated_after_a_day_is_left_out_of_the_facts_and_counted():
    day = date(2026, 11, 22)
    rows = {
        "person": [
            {
                "patient_id": "a",
                "birth_day": date(1950, 1, 1),
                "death_day": date(2040, 1, 1),
                "deceased": True,
            },
            {"patient_id": "b", "birth_day": date(2030, 1, 1)},
        ],
        "visit": [
            {"patient_id": "a", "start_day": date(2020, 1, 1), "end_day": date(2028, 6, 1), "finished": True},
            {"patient_id": "a", "start_day": date(2028, 6, 1), "end_day": date(2028, 6, 2), "finished": True},
        ],
        "fact": [
            {"patient_id": "a", "concept": "x", "day": date(2026, 11, 22), "value": 1.0},
            {"patient_id": "a", "concept": "x", "day": date(2026, 11, 23), "value": 2.0},
        ],
    }
    with Facts() as facts:
        for name, values in rows.items():
            facts.add_rows(name, values)
        assert facts.leave_out_future(day) == {"fact": 1, "visit": 1, "death": 1, "birth": 1}
        assert facts.run("SELECT value FROM fact") == [(1.0,)]
        assert facts.run("SELECT start_day, end_day FROM visit") == [(date(2020, 1, 1), day)]
        assert facts.run("SELECT death_day, deceased FROM person WHERE patient_id = 'a'") == [(None, True)]
        assert facts.leave_out_future(day) == {}


def test_a_value_without_a_unit_gets_one_only_from_the_sites_mapping(fhir, read):
    line = fhir.observation("p", "x", 30, None, "2010-02-03")
    line["code"] = {"coding": [{"system": "urn:lab", "code": "BMI"}]}
    codes = {("urn:lab", "BMI"): ("bmi",)}
    without = SiteMapping(codes=codes)
    account, rows, _, _ = read([fhir.patient("p"), line], mapping=without)
    assert (rows, account.rejects_by_code) == ([], {"GEM202": 1})
    account, rows, _, _ = read(
        [fhir.patient("p"), line], mapping=replace(without, default_units={"urn:lab|BMI": "kg/m2"})
    )
    assert [row[5] for row in rows] == [30.0]
    assert account.default_units == {"bmi": 1}


def test_a_preliminary_observation_counts_by_option_only(fhir, read):
    line = bmi(fhir, status="preliminary")
    account, rows, _, _ = read([fhir.patient("p"), line])
    assert (rows, account.excluded) == ([], {"Observation: status preliminary": 1})
    assert len(read([fhir.patient("p"), line], mapping=SiteMapping(preliminary=True))[1]) == 1


def test_the_newest_version_decides_also_when_it_says_less(fhir, read):
    old = bmi(fhir, id="o", meta={"lastUpdated": "2011-01-01T00:00:00Z"})
    newer = {"lastUpdated": "2012-01-01T00:00:00Z"}
    for newest in (
        bmi(fhir, id="o", meta=newer, status="entered-in-error"),
        fhir.observation("p", "77-7", 1, "1", "2010", id="o", meta=newer),
        bmi(fhir, 31.0, id="o", meta=newer),
    ):
        expected = [31.0] if newest.get("valueQuantity", {}).get("value") == 31.0 else []
        for lines in ([old, newest], [newest, old]):
            account, rows, _, _ = read([fhir.patient("p"), *lines])
            assert [row[5] for row in rows] == expected
            assert account.superseded == {"Observation": 1}


def test_what_two_resources_say_alike_counts_once(fhir, read):
    account, rows, _, _ = read([fhir.patient("p"), bmi(fhir), bmi(fhir), bmi(fhir, 31.0)])
    assert len(rows) == 2
    assert account.by_concept("duplicates") == {"bmi": 1}


def test_a_diagnosis_lasts_until_it_abates(fhir, read):
    more = {"abatementDateTime": "2012-03-04"}
    account, rows, _, _ = read(
        [
            fhir.patient("p"),
            fhir.condition("p", ICD_10, "I10", "2010-01-01", **more),
            fhir.condition("p", SNOMED_CT, "38341003", "2013-01-01", **more),
            fhir.condition("p", LOINC, "39156-5", "2013-01-01"),
        ]
    )
    assert [(row[1], row[2], row[4], row[5]) for row in rows] == [
        ("hypertension", date(2010, 1, 1), date(2012, 3, 4), None),
        ("hypertension", date(2013, 1, 1), None, None),
    ]
    assert account.odd_ends == {"Condition": 1}
    assert account.unused == {"Condition: bmi": 1}


def test_a_diagnosis_without_a_date_takes_that_of_its_encounter(fhir, read):
    visit = fhir.encounter("p", "2010-05-06T10:00:00", "2010-05-07", id="e")
    dated = fhir.condition("p", ICD_10, "I10", None, encounter={"reference": "Encounter/e"})
    undated = fhir.condition("p", ICD_10, "I10", None, onsetAge={"value": 45})
    account, rows, _, _ = read([dated, undated, fhir.patient("p"), visit])
    assert [(row[2], row[3]) for row in rows] == [(date(2010, 5, 6), datetime(2010, 5, 6, 10))]
    assert (account.undated, account.rejects) == ({"Condition": 1}, [])


@pytest.mark.parametrize(
    ("resource", "day", "end"),
    [
        (medication("MedicationRequest", authoredOn="2010-01-02", medicationCodeableConcept=MARK), (2010, 1, 2), None),
        (
            medication("MedicationStatement", effectivePeriod={"start": "2010-01-02", "end": "2010-02-02"}, medicationCodeableConcept=MARK),
            (2010, 1, 2),
            (2010, 2, 2),
        ),
        (medication("MedicationAdministration", effectiveDateTime="2010-01-02T03:04:05Z", medication={"concept": MARK}), (2010, 1, 2), None),
        (medication("MedicationDispense", whenHandedOver="2010-01", medicationCodeableConcept=MARK), (2010, 1, 16), None),
        (medication("MedicationRequest", authoredOn="2010-01-02", medicationReference={"reference": "#c"}, contained=[{"resourceType": "Medication", "id": "c", "code": MARK}]), (2010, 1, 2), None),
        (medication("MedicationRequest", authoredOn="2010-01-02", medicationReference={"reference": "Medication/far"}), (2010, 1, 2), None),
        (medication("MedicationRequest", authoredOn="2010-01-02", medication={"reference": {"reference": "https://x/fhir/Medication/far/_history/3"}}), (2010, 1, 2), None),
    ],
)  # fmt: skip
def test_a_medication_is_found_wherever_its_code_stands(resource, day, end, fhir, read):
    far = {"resourceType": "Medication", "id": "far", "code": MARK}
    account, rows, _, _ = read({"a.ndjson": [resource], "z.ndjson": [fhir.patient("p"), far]})
    assert [row[:2] + row[4:] for row in rows] == [
        ("p", "metformin", date(*end) if end else None, None, None)
    ]
    assert rows[0][2] == date(*day)
    assert (account.rejects, account.unmapped_total) == ([], 0)


def test_a_dose_is_the_value_where_the_concept_has_its_unit(fhir, read):
    insulin = {"coding": [{"system": ATC, "code": "A10AB01"}]}
    given = medication(
        "MedicationAdministration",
        effectiveDateTime="2010-01-02",
        medicationCodeableConcept=insulin,
        dosage={"dose": {"value": 8, "code": "[IU]", "system": "http://unitsofmeasure.org"}},
    )
    unknown = medication(
        "MedicationStatement", effectiveDateTime="2010-01-03", medicationCodeableConcept=insulin
    )
    unknown["dosage"] = [{"doseAndRate": [{"doseQuantity": {"value": 1, "unit": "spoon"}}]}]
    _, rows, _, _ = read([fhir.patient("p"), given, unknown])
    assert [row[5] for row in rows] == [8.0, None]


@pytest.mark.parametrize(
    "resource",
    [
        medication("MedicationRequest", status="cancelled", authoredOn="2010", medicationCodeableConcept=MARK),
        medication("MedicationRequest", doNotPerform=True, authoredOn="2010", medicationCodeableConcept=MARK),
        medication("MedicationRequest", intent="proposal", authoredOn="2010", medicationCodeableConcept=MARK),
        medication("MedicationStatement", status="not-taken", effectiveDateTime="2010", medicationCodeableConcept=MARK),
        medication("MedicationAdministration", status="not-done", effectiveDateTime="2010", medicationCodeableConcept=MARK),
    ],
)  # fmt: skip
def test_a_medication_that_was_not_given_is_none(resource, fhir, read):
    account, rows, _, _ = read([fhir.patient("p"), resource])
    assert rows == []
    assert sum(account.excluded.values()) == 1


def test_procedures_are_facts_over_their_period(fhir, read):
    line = {
        "resourceType": "Procedure",
        "id": "x",
        "status": "completed",
        "code": {"coding": [{"system": SNOMED_CT, "code": "73761001"}]},
        "subject": {"reference": "Patient/p"},
        "performedPeriod": {"start": "2010-01-02", "end": "2010-01-03"},
    }
    _, rows, _, _ = read([fhir.patient("p"), line, line | {"id": "y", "status": "not-done"}])
    assert [(row[1], row[2], row[4]) for row in rows] == [("colonoscopy", date(2010, 1, 2), date(2010, 1, 3))]


def test_a_logical_reference_counts_when_one_patient_has_the_identifier(fhir, read):
    def named(value):
        return {"identifier": {"system": "urn:mrn", "value": value}}

    people = [
        fhir.patient(
            "p", identifier=[{"system": "urn:mrn", "value": "1"}, {"system": "urn:mrn", "value": "2"}]
        ),
        fhir.patient(
            "q", identifier=[{"system": "urn:mrn", "value": "2"}, {"system": "urn:other", "value": "1"}]
        ),
    ]
    lines = [bmi(fhir, 30 + i, subject=named(value)) for i, value in enumerate(("1", "2", "3"))]
    visit = fhir.encounter("p", "2010-01-01") | {"subject": named("1")}
    account, rows, visits, _ = read({"a.ndjson": [*lines, visit], "b.ndjson": people})
    assert [(row[0], row[5]) for row in rows] == [("p", 30.0)]
    assert [row[0] for row in visits] == ["p"]
    assert [(reject.code, reject.path, reject.line) for reject in account.rejects] == [
        ("GEM207", "$.subject", 2),
        ("GEM207", "$.subject", 3),
    ]
    assert account.files[0].read == account.files[0].accepted + account.files[0].rejected


def test_lines_of_withheld_patients_are_seen_by_nothing(fhir, read):
    lines = [
        fhir.patient("p", "1960", identifier=[{"value": "1"}]),
        fhir.encounter("p", "2010"),
        bmi(fhir),
        bmi(fhir, 3000.0),
        fhir.condition("p", "urn:local", "7", "2010"),
        bmi(fhir, subject={"identifier": {"value": "1"}}),
    ]
    other = [fhir.patient("q"), fhir.observation("q", "39156-5", 25, "kg/m2", "2010-01-01")]
    plain, *expected = read(other)
    for withheld in (Withheld(frozenset({"p"})), Withheld(only=frozenset({"q"}))):
        account, *tables = read([*lines, *other], withheld=withheld)
        assert tables == expected
        assert (account.withheld.patients, account.withheld.lines) == (1, 5)
        for name in ("concepts", "unmapped", "implausible_examples", "partial_dates", "orphans", "patients"):
            assert getattr(account, name) == getattr(plain, name)


def test_orphans_are_counted_and_give_no_facts(fhir, read):
    lines = [
        fhir.observation("nobody", "39156-5", 25, "kg/m2", "2010-01-01"),
        fhir.encounter("nobody", "2010"),
    ]
    group = bmi(fhir, subject={"reference": "Group/p"})
    account, rows, visits, _ = read([fhir.patient("p"), *lines, group])
    assert (rows, visits) == ([], [])
    assert account.orphans == {"Encounter": 1, "Observation": 2}


def r5_visit(fhir):
    visit = fhir.encounter("p", "2010-01-01", "2010-01-03", status="completed")
    return visit | {"actualPeriod": visit.pop("period")}


def test_an_r5_export_is_read_and_said_to_be_one(fhir, read):
    request = medication("MedicationRequest", authoredOn="2010-01-02", medication={"concept": MARK})
    procedure = {
        "resourceType": "Procedure",
        "id": "x",
        "status": "completed",
        "code": {"coding": [{"system": SNOMED_CT, "code": "73761001"}]},
        "subject": {"reference": "Patient/p"},
        "occurrenceDateTime": "2010-01-02",
    }
    account, rows, visits, _ = read([fhir.patient("p"), r5_visit(fhir), request, procedure, bmi(fhir)])
    assert [row[1] for row in rows] == ["bmi", "colonoscopy", "metformin"]
    assert visits == [("p", date(2010, 1, 1), date(2010, 1, 3), True)]
    assert (account.fhir_version, account.rejects) == ("R5", [])
    require_usable(account)


def test_versions_are_never_mixed_in_silence(fhir, read):
    account, *_ = read([fhir.patient("p"), fhir.encounter("p", "2010-01-01"), r5_visit(fhir)])
    assert account.fhir_version == "R4+R5"
    with pytest.raises(GemelError, match=r"R4: 1 lines, R5: 1 lines") as caught:
        require_usable(account)
    assert caught.value.code == "GEM213"


@pytest.mark.parametrize(
    "line",
    [
        lambda f: f.condition("p", ICD_10, "I10", "2010", clinicalStatus="active"),
        lambda f: f.condition("p", ICD_10, "I10", "2010", verificationStatus="confirmed"),
        lambda f: f.condition("p", ICD_10, "I10", None, assertedDate="2010"),
        lambda f: bmi(f, context={"reference": "Encounter/e"}),
        lambda f: medication("MedicationRequest", context={"reference": "Encounter/e"}, medicationCodeableConcept=MARK),
    ],
)  # fmt: skip
def test_stu3_is_refused_with_what_was_seen(line, fhir, read):
    account, rows, _, _ = read([fhir.patient("p"), fhir.encounter("p", "2010"), line(fhir)])
    assert (rows, account.fhir_version, account.rejects_by_code) == ([], "STU3", {"GEM213": 1})
    with pytest.raises(GemelError, match="STU3: 1 lines") as caught:
        require_usable(account)
    assert caught.value.code == "GEM213"


def test_deletions_take_their_resources_out(fhir, read, tmp_path):
    lines = [
        fhir.patient("p"),
        fhir.patient("q"),
        bmi(fhir, id="o"),
        bmi(fhir, 31.0),
        fhir.encounter("p", "2010", id="e"),
    ]
    export = fhir.write(tmp_path / "bulk", {"x.ndjson": lines})
    requests = [
        {"request": {"method": "DELETE", "url": url}} for url in ("Observation/o", "Encounter/e", "Patient/q")
    ]
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": requests}
    fhir.write(export / "deleted", {"gone.ndjson": [bundle]})
    with Facts() as facts:
        account = read_fhir(export, PROGRAMME, facts)
        assert facts.run("SELECT value FROM fact") == [(31.0,)]
        assert facts.run("SELECT * FROM visit") == []
        assert facts.run("SELECT patient_id FROM person") == [("p",)]
    assert account.deleted == {"Encounter": 1, "Observation": 1, "Patient": 1}


def test_synthetic_labels_are_counted_whatever_the_line(fhir, read):
    label = {"security": [{"code": "HTEST"}]}
    account, *_ = read([fhir.patient("p"), bmi(fhir, meta=label), fhir.encounter("p", "2010", meta=label)])
    assert account.synthetic == 2
    with pytest.raises(GemelError, match="2 resources") as caught:
        require_usable(account)
    assert caught.value.code == "GEM211"


def test_a_reject_in_a_bundle_is_named_by_its_entry(fhir, read):
    bundle = {
        "resourceType": "Bundle",
        "type": "collection",
        "entry": [{"resource": fhir.patient("p")}, {"resource": bmi(fhir, valueQuantity={"value": 3})}],
    }
    account, *_ = read([bundle])
    [reject] = account.rejects
    assert (reject.code, reject.place) == ("GEM202", "1 entry[1]")


def test_without_a_programme_lines_are_judged_and_no_facts_are_made(fhir, tmp_path):
    export = fhir.write(
        tmp_path, {"x.ndjson": [fhir.patient("p"), bmi(fhir), bmi(fhir, valueQuantity={"value": 3})]}
    )
    with Facts() as facts:
        account = read_fhir(export, None, facts)
        assert facts.run("SELECT count(*) FROM fact") == [(0,)]
    assert (account.concepts, account.unmapped_total, account.rejects_by_code) == ([], 0, {"GEM202": 1})


def test_patient_ids_and_values_are_in_no_reject(fhir, read):
    secret = "Mr-Secret-1950"
    lines = [
        fhir.patient(secret, gender="Mister"),
        fhir.observation(secret, "39156-5", 123.456, None, "2010-01-01"),
        fhir.encounter(secret, "2010-13-01"),
    ]
    account, *_ = read(lines)
    text = repr([(reject.path, reject.reason) for reject in account.rejects])
    assert account.rejects_by_code == {"GEM202": 1, "GEM210": 1, "GEM214": 1}
    assert secret not in text
    assert "123.456" not in text
    assert "Mister" not in text
