import gzip
import json
import random
from datetime import date

import numpy as np
import pytest
from cardiometabolic import PROGRAMME

from gemel.core.dataset import Dataset
from gemel.core.errors import GemelError
from gemel.data_adapters.dataset.build import build, pseudonym

KEY = b"0123456789abcdef"
TEST_LABEL = {"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "HTEST"}


def years(days):
    return np.float32(days / 365.25)


@pytest.fixture(scope="module")
def small_hospital(fhir):
    """Two patients in the cohort, with everything that must and must not count; and one patient out for each reason."""
    ann, bob = "ann", "bob"
    resources = [
        # Ann: index 2010-01-10, alive, followed to 2020-01-10 (3652 days).
        fhir.patient(ann, "1950-01-10", "female"),
        fhir.encounter(ann, "1960-05-01"),  # as a child: not the index
        fhir.encounter(ann, "2005-01-01", status="cancelled"),
        fhir.encounter(ann, "2010-01-10T08:00:00+01:00", "2010-01-12T09:00:00+01:00"),
        fhir.encounter(ann, "2020-01-08", "2020-01-10"),
        fhir.observation(ann, "39156-5", 30.0, "kg/m2", "2009-06-01"),
        fhir.observation(ann, "39156-5", 31.5, "kg/m2", "2010-01-10T07:00:00+01:00"),  # last, on the day
        fhir.observation(ann, "39156-5", 35.0, "kg/m2", "2010-01-11"),  # after the index
        fhir.observation(ann, "39156-5", 300.0, "kg/m2", "2010-01-10T23:00:00+01:00"),  # implausible
        fhir.observation(ann, "39156-5", 28.0, "kg/m2", "2010-01-10", status="entered-in-error"),
        fhir.observation(ann, "2085-9", 1.3, "mmol/L", "2009-12-24"),
        fhir.observation(
            ann, "2085-9", None, None, "2010-01-05", valueQuantity=fhir.quantity(9, "mg/dL", comparator="<")
        ),
        fhir.observation(ann, "2085-9", None, None, "2010-01-06", dataAbsentReason={"text": "lost"}),
        fhir.pressure_panel(ann, 142, 88, "2010-01-09"),
        fhir.condition(ann, fhir.ICD_10, "K76.0", "2009-03"),
        fhir.condition(ann, fhir.SNOMED_CT, "38341003", None, recordedDate="2010-01-10"),  # on the index date
        fhir.condition(ann, fhir.ICD_10, "I48.1", "2015-01-10"),  # 1826 days after; a child of I48
        fhir.condition(ann, fhir.ICD_10, "I21.9", "2016-01-10"),  # not the first
        fhir.condition(
            ann,
            fhir.ICD_10,
            "E11.9",
            "2012-01-01",
            verificationStatus={"coding": [{"code": "refuted"}]},
        ),
        # Bob: index 2001-03-01, dies 2004-03-01 (1096 days); diabetes before, heart failure coded after death.
        fhir.patient(bob, "1940", "male", deceasedDateTime="2004-03-01T10:00:00Z"),
        fhir.encounter(bob, "2001-03-01"),
        fhir.encounter(bob, "2002-03-01"),
        fhir.observation(
            bob, "39156-5", 27.0, "kg/m2", "1996-02-28"
        ),  # one day too old for the window of 1826
        fhir.observation(bob, "8480-6", 130, "mmHg", "1996-03-01"),  # the first day of the window
        fhir.condition(bob, fhir.SNOMED_CT, "44054006", "1999-01-01"),
        fhir.condition(bob, fhir.ICD_10, "I50.0", "2004-04-01"),
        # Out, each for its reason.
        fhir.patient("no-birth", None),
        fhir.encounter("no-birth", "2010-01-01"),
        fhir.patient("no-visit"),
        fhir.patient("planned"),
        fhir.encounter("planned", "2010-01-01", status="planned"),
        fhir.patient("child", "2005-01-02"),
        fhir.encounter("child", "2010-01-01", "2023-01-01"),
        fhir.patient("old", "1900-01-01"),
        fhir.encounter("old", "2001-01-01", "2002-01-01"),
        fhir.patient("dead-undated", deceasedBoolean=True),
        fhir.encounter("dead-undated", "2010-01-01", "2011-01-01"),
        fhir.patient("dead-before", deceasedDateTime="2009-01-01"),
        fhir.encounter("dead-before", "2010-01-01", "2011-01-01"),
        fhir.patient("one-day"),
        fhir.encounter("one-day", "2010-01-01"),
        fhir.observation("stranger", "39156-5", 30.0, "kg/m2", "2009-06-01"),
        {"resourceType": "Organization", "id": "o", "name": "H"},
    ]
    return resources


def test_a_small_export_gives_the_known_answer_value_for_value(small_hospital, fhir, tmp_path):
    dataset, card = build(fhir.write(tmp_path, {"all.ndjson": small_hospital}), PROGRAMME, pseudonym_key=KEY)
    ann, bob = (dataset.patient_ids.index(pseudonym(KEY, name)) for name in ("ann", "bob"))
    assert len(dataset) == 2
    assert list(dataset.patient_ids) == sorted(dataset.patient_ids)
    nan = np.nan
    # age, male, bmi, systolic, hdl, fatty liver, hypertension, dyslipidaemia, diabetes, ischaemic, cardiovascular
    expected = np.full((2, 11), nan, dtype=np.float32)
    expected[ann] = [21915 / 365.25, 0, 31.5, 142, 1.3 * 38.665, 1, 1, 0, 0, 0, 0]
    expected[bob] = [22157 / 365.25, 1, nan, 130, nan, 0, 0, 0, 1, 0, 0]
    np.testing.assert_array_equal(dataset.values, expected)
    times = np.zeros((2, 3), dtype=np.float32)
    times[ann] = [years(3652), years(1826), years(3652)]
    times[bob] = [years(1096), years(1096), 0]
    np.testing.assert_array_equal(dataset.time_years, times)
    events = np.zeros((2, 3), dtype=np.int8)
    events[ann] = [0, 1, 0]
    events[bob] = [1, 0, -1]
    np.testing.assert_array_equal(dataset.event, events)
    assert card.cohort.excluded == {
        "no birth date": 1,
        "no finished encounter": 2,
        "too young at every encounter": 1,
        "too old at the index date": 1,
        "death without a date": 1,
        "death before the index date": 1,
        "follow-up too short": 1,
    }
    assert card.cohort.patients == 10
    assert card.implausible == {"body_mass_index": 1}
    assert card.bounds == {"hdl_cholesterol": 1}
    assert card.absent == {"hdl_cholesterol": 1}
    assert card.excluded_resources["Observation: status entered-in-error"] == 1
    assert card.excluded_resources["Condition: refuted"] == 1
    assert card.orphans == {"Observation": 1}
    assert card.partial_dates == {"Condition.onsetDateTime": 1, "Patient.birthDate": 1}
    assert card.unmapped == {"http://loinc.org|8462-4": 1}
    assert card.rejects == {}
    assert card.coverage["body_mass_index_kg_m2"] == 1
    assert card.events["cardiovascular"] == {"occurred": 1, "censored": 1, "prevalent": 0}
    assert card.snapshot == dataset.snapshot


def test_the_snapshot_depends_on_neither_order_nor_files_nor_old_versions(small_hospital, fhir, tmp_path):
    reference, _ = build(
        fhir.write(tmp_path / "a", {"all.ndjson": small_hospital}), PROGRAMME, pseudonym_key=KEY
    )
    chance = random.Random(1)
    lines = list(small_hospital)
    for resource in small_hospital[:20]:
        old = json.loads(json.dumps(resource))
        old["meta"] = {"lastUpdated": "2019-01-01T00:00:00Z"}
        old["birthDate" if old["resourceType"] == "Patient" else "status"] = (
            "1930-01-01" if old["resourceType"] == "Patient" else "entered-in-error"
        )
        resource["meta"] = {"lastUpdated": "2020-01-01T00:00:00Z"}
        lines.append(old)
    for turn in range(3):
        chance.shuffle(lines)
        files = {"1.ndjson": lines[:13], "2.ndjson.gz": lines[13:40], "3.ndjson": lines[40:]}
        export = fhir.write(tmp_path / f"b{turn}", files)
        dataset, card = build(export, PROGRAMME, pseudonym_key=KEY)
        assert dataset.snapshot == reference.snapshot
        assert sum(card.superseded.values()) == 20
    for resource in small_hospital[:20]:
        del resource["meta"]


def test_two_versions_without_a_date_give_the_same_snapshot_in_both_orders(fhir, tmp_path):
    rest = [fhir.encounter("p", "2010-01-01", "2011-01-01")]
    one, other = fhir.patient("p", "1960-01-01"), fhir.patient("p", "1961-01-01")
    snapshots = {
        build(fhir.write(tmp_path / str(i), {"x.ndjson": [*pair, *rest]}), PROGRAMME, pseudonym_key=KEY)[
            0
        ].snapshot
        for i, pair in enumerate([(one, other), (other, one)])
    }
    assert len(snapshots) == 1


def test_another_key_gives_other_pseudonyms_and_no_id_is_left(small_hospital, fhir, tmp_path):
    export = fhir.write(tmp_path, {"all.ndjson": small_hospital})
    first, _ = build(export, PROGRAMME, pseudonym_key=KEY)
    second, _ = build(export, PROGRAMME, pseudonym_key=KEY[::-1])
    assert not set(first.patient_ids) & set(second.patient_ids)
    assert all(len(p) == 32 and set(p) <= set("0123456789abcdef") for p in first.patient_ids)
    with pytest.raises(ValueError, match="16 bytes"):
        build(export, PROGRAMME, pseudonym_key=b"short")


def test_a_data_set_can_be_saved_and_read_back(small_hospital, fhir, tmp_path):
    dataset, _ = build(fhir.write(tmp_path, {"all.ndjson": small_hospital}), PROGRAMME, pseudonym_key=KEY)
    dataset.save(tmp_path / "d.safetensors")
    assert Dataset.load(tmp_path / "d.safetensors").snapshot == dataset.snapshot


@pytest.mark.parametrize(
    ("code", "make"),
    [
        ("GEM205", lambda fhir: [fhir.encounter("p", "2010-01-01")]),
        ("GEM212", lambda fhir: [fhir.patient("p")]),
        (
            "GEM211",
            lambda fhir: [
                fhir.patient("p", meta={"security": [TEST_LABEL]}),
                fhir.encounter("p", "2010-01-01", "2012-01-01"),
            ],
        ),
        (
            "GEM213",
            lambda fhir: [
                fhir.patient("p"),
                fhir.encounter("p", "2010-01-01", "2012-01-01"),
                fhir.condition("p", fhir.ICD_10, "I10", "2010", clinicalStatus="active"),
            ],
        ),
    ],
)
def test_an_export_that_cannot_train_is_refused_with_its_code(code, make, fhir, tmp_path):
    with pytest.raises(GemelError) as caught:
        build(fhir.write(tmp_path, {"x.ndjson": make(fhir)}), PROGRAMME, pseudonym_key=KEY)
    assert caught.value.code == code


def test_on_the_eighteenth_birthday_a_patient_enters_the_cohort(fhir, tmp_path):
    resources = [fhir.patient("p", "1990-06-15"), fhir.encounter("p", "2008-06-15", "2010-01-01")]
    dataset, _ = build(fhir.write(tmp_path, {"x.ndjson": resources}), PROGRAMME, pseudonym_key=KEY)
    assert len(dataset) == 1


def naive_index_and_bmi(export):
    """The same answer the slow way: json and loops, for a hospital whose dates are all complete."""
    lines = {
        name: [
            json.loads(line)
            for line in gzip.decompress((export / f"{name}.ndjson.gz").read_bytes()).splitlines()
        ]
        for name in ("Patient", "Encounter", "Observation")
    }
    birth = {p["id"]: date.fromisoformat(p["birthDate"]) for p in lines["Patient"]}
    index, bmi = {}, {}
    for encounter in lines["Encounter"]:
        who = encounter["subject"]["reference"].removeprefix("Patient/")
        day = date.fromisoformat(encounter["period"]["start"][:10])
        born = birth[who]
        age = day.year - born.year - ((day.month, day.day) < (born.month, born.day))
        if encounter["status"] == "finished" and 18 <= age <= 99:
            index[who] = min(index.get(who, day), day)
    for observation in lines["Observation"]:
        who = observation["subject"]["reference"].removeprefix("Patient/")
        if observation["code"]["coding"][0]["code"] != "39156-5" or who not in index:
            continue
        when = observation["effectiveDateTime"]
        late = (index[who] - date.fromisoformat(when[:10])).days
        if 0 <= late <= 1826 and when > bmi.get(who, ("", 0))[0]:
            bmi[who] = (when, observation["valueQuantity"]["value"])
    ages = {who: (day - birth[who]).days / 365.25 for who, day in index.items()}
    return ages, {who: value for who, (_, value) in bmi.items()}


def test_ages_and_last_values_are_those_of_a_naive_reading(shared_data):
    export = shared_data / "fhir" / "site_b_bulkserver_r4"
    if not export.exists():
        pytest.skip("the public FHIR sites are not in ../shared/data")
    ages, bmi = naive_index_and_bmi(export)
    dataset, card = build(export, PROGRAMME, pseudonym_key=KEY)
    rows = {patient: row for row, patient in enumerate(dataset.patient_ids)}
    names = {pseudonym(KEY, who): who for who in ages}
    assert len(names) == len(dataset) + card.cohort.excluded["follow-up too short"]
    for patient, row in rows.items():
        who = names[patient]
        assert dataset.values[row, 0] == np.float32(ages[who])
        np.testing.assert_equal(dataset.values[row, 2], np.float32(bmi.get(who, np.nan)))


def test_a_synthetic_hospital_of_another_maker_is_built_in_full(shared_data):
    export = shared_data / "fhir" / "site_b_bulkserver_r4"
    if not export.exists():
        pytest.skip("the public FHIR sites are not in ../shared/data")
    dataset, card = build(export, PROGRAMME, pseudonym_key=KEY)
    assert card.rejects == {}
    assert card.cohort.patients == 100
    assert len(dataset) == card.cohort.included == 100 - sum(card.cohort.excluded.values())
    assert (dataset.time_years[dataset.event != -1] > 0).all()
    assert card.orphans == {}
