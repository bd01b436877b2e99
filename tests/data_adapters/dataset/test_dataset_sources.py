"""`build` over whole sources: a real export with a made-up programme, a CDM, and people who are withheld."""

import gzip
import json
from datetime import date, datetime, timedelta

import msgspec
import numpy as np
import pytest
from made_up_hospital import DEATH, KEY, feature, programme

from gemel.core.concepts import load_concepts
from gemel.core.errors import GemelError
from gemel.core.programme import (
    Comparison,
    Criterion,
    IndexEvent,
    IndexKind,
    Occurrence,
    Outcome,
    OutcomeKind,
    Target,
    TargetKind,
    Threshold,
)
from gemel.data_adapters.dataset.build import DatasetCard, build, pseudonym
from gemel.data_adapters.inputs.read import FurtherInputs
from gemel.data_adapters.meaning.site_mapping import SiteMapping

SYSTOLIC, BMI = "8480-6", "39156-5"
HIGH = Threshold(comparison=Comparison.AT_LEAST, value=140)


def blood_pressure_programme():
    """Adults at their last visit with a year behind and a year ahead of them, and what their pressure does."""
    library = load_concepts()
    names = ("systolic_blood_pressure", "body_mass_index", "diabetes", "stroke")
    pressure = {"unit": "mm[Hg]"}
    return programme(
        feature("age", "age"),
        feature("mean", "mean", "systolic_blood_pressure", **pressure, window_days=1826),
        feature("slope", "slope", "body_mass_index"),
        feature("visits", "count", "systolic_blood_pressure", window_days=1826),
        feature("course", "series", "systolic_blood_pressure", **pressure),
        cohort={
            "index": IndexEvent(which=Occurrence.LAST),
            "maximum_age_years": 130,
            "minimum_look_back_days": 365,
            "minimum_follow_up_days": 365,
            "exclusions": (Criterion(name="stroke before", reason="A stroke before.", concepts=("stroke",)),),
        },
        concepts=tuple(library[name] for name in names),
        outcomes=(
            DEATH,
            Outcome(
                name="high",
                title="",
                kind=OutcomeKind.FIRST_MEASUREMENT,
                concepts=("systolic_blood_pressure",),
                threshold=HIGH,
            ),
        ),
        targets=(
            Target(
                name="pressure in a year",
                title="",
                kind=TargetKind.VALUE_AT,
                unit="mm[Hg]",
                concepts=("systolic_blood_pressure",),
                at_days=365,
                tolerance_days=180,
            ),
        ),
    )


class SlowReading:
    """Visits and two measurements of an export, by json and loops."""

    def __init__(self, export):
        self.visits, self.measured, self.death = {}, {}, {}
        for line in self._lines(export, "Patient"):
            if "deceasedDateTime" in line:
                self.death[line["id"]] = self._day(line["deceasedDateTime"])
        for line in self._lines(export, "Encounter"):
            period = line["period"]
            pair = (self._day(period["start"]), self._day(period["end"]), line["status"] == "finished")
            self.visits.setdefault(self._who(line), []).append(pair)
        for line in self._lines(export, "Observation"):
            for part in line.get("component", [line]):
                code = part["code"]["coding"][0]["code"]
                # 343 of the export's pressures have no unit: no value.
                if code in (SYSTOLIC, BMI) and "unit" in part.get("valueQuantity", {}):
                    at = datetime.fromisoformat(line["effectiveDateTime"]).replace(tzinfo=None)
                    key = (self._who(line), code)
                    self.measured.setdefault(key, set()).add((at, part["valueQuantity"]["value"]))

    @staticmethod
    def _lines(export, name):
        with gzip.open(export / f"{name}.ndjson.gz") as lines:
            yield from map(json.loads, lines)

    @staticmethod
    def _day(text):
        return date.fromisoformat(text[:10])

    @staticmethod
    def _who(line):
        return line["subject"]["reference"].removeprefix("Patient/")

    def values(self, who, code, start, end):
        """Sorted (time, value) from one day to another, both in."""
        found = self.measured.get((who, code), ())
        return sorted((at, value) for at, value in found if start <= at.date() <= end)

    def index(self, who):
        """The last finished visit with a year of record before and of follow-up after it."""
        visits = self.visits[who]
        end = self.death.get(who, max(end for _, end, _ in visits))
        year = timedelta(365)
        first = min(start for start, _, _ in visits)
        return max(start for start, _, done in visits if done and start - first >= year <= end - start)


def test_a_whole_export_gives_what_a_slow_reading_of_it_gives(shared_data):
    export = shared_data / "fhir" / "site_a_smart_r4_2019"
    if not export.exists():
        pytest.skip("the public FHIR sites are not in ../shared/data")
    dataset, card = build(export, blood_pressure_programme(), pseudonym_key=KEY)
    slow = SlowReading(export)
    names = {pseudonym(KEY, who): who for who in slow.visits}
    assert len(dataset) > 100
    assert card.cohort.patients == 615 == len(dataset) + sum(card.cohort.excluded.values())
    years_5 = timedelta(1826)
    checked = 0
    for row, name in enumerate(dataset.patient_ids):
        who = names[name]
        index = slow.index(who)
        values = [value for _, value in slow.values(who, SYSTOLIC, index - years_5, index)]
        _, mean, slope, visits = dataset.values[row]
        assert visits == len(values)
        np.testing.assert_allclose(mean, np.mean(values) if values else np.nan, rtol=1e-6)
        points = [(at.timestamp() / 86_400 / 365.25, v) for at, v in slow.values(who, BMI, date.min, index)]
        if len({x for x, _ in points}) > 1:
            # A line through years since 1970 costs the oracle digits: it is centred first.
            x, y = (np.array(part) - np.mean(part) for part in zip(*points, strict=True))
            np.testing.assert_allclose(slope, (x * y).sum() / (x * x).sum(), rtol=1e-3, atol=1e-5)
            checked += 1
        else:
            assert np.isnan(slope)
        course = slow.values(who, SYSTOLIC, date.min, index)
        np.testing.assert_array_equal(dataset.series["course"].of(row)[1], np.float32([v for _, v in course]))
        wanted = index + timedelta(365)
        later = slow.values(who, SYSTOLIC, wanted - timedelta(180), wanted + timedelta(180))
        nearest = min(
            later, key=lambda pair: (abs((pair[0].date() - wanted).days), pair), default=(None, np.nan)
        )
        np.testing.assert_equal(dataset.targets[row, 0], np.float32(nearest[1]))
    assert checked > 100


def test_the_card_says_how_values_lie_and_survives_json(shared_data):
    export = shared_data / "fhir" / "site_b_bulkserver_r4"
    if not export.exists():
        pytest.skip("the public FHIR sites are not in ../shared/data")
    dataset, card = build(export, blood_pressure_programme(), pseudonym_key=KEY)
    assert msgspec.json.decode(msgspec.json.encode(card), type=DatasetCard) == card
    mean = card.distributions["mean"]
    column = dataset.values[:, 1]
    found = np.sort(column[np.isfinite(column)])
    assert (mean.lowest, mean.highest) == (found[0], found[-1])
    assert mean.median in found
    assert (found < mean.median).mean() <= 0.5 <= (found <= mean.median).mean()
    assert mean.values == len(found) == card.coverage["mean"]
    assert mean.share_missing == pytest.approx(1 - len(found) / len(dataset))
    course = card.series["course"]
    assert course.pairs == dataset.series["course"].days.size == course.values.values
    assert course.most_pairs == dataset.series["course"].lengths.max()
    assert course.last_day <= 1
    assert card.target_coverage["pressure in a year"] == np.isfinite(dataset.targets).sum()
    assert card.reasons == {"stroke before": "A stroke before."}
    assert card.source == "FHIR R4"


def people(fhir):
    resources = []
    for name in ("ann", "bob", "eve"):
        identifier = [{"system": "urn:mrn", "value": f"mrn-{name}"}]
        resources.append(fhir.patient(name, identifier=identifier))
        resources.append(fhir.encounter(name, "2010-01-01", "2012-01-01"))
    return resources


def test_who_opted_out_or_denies_is_in_neither_data_set_nor_counts(fhir, tmp_path):
    denial = {
        "resourceType": "Consent",
        "id": "c",
        "status": "active",
        "scope": {"coding": [{"code": "research"}]},
        "category": [{"text": "research"}],
        "patient": {"reference": "Patient/bob"},
        "provision": {"type": "deny"},
    }
    export = fhir.write(tmp_path / "e", {"x.ndjson": [*people(fhir), denial]})
    (tmp_path / "out.txt").write_text("urn:mrn|mrn-eve\n")
    dataset, card = build(export, programme(), pseudonym_key=KEY, opt_out=tmp_path / "out.txt")
    assert dataset.patient_ids == (pseudonym(KEY, "ann"),)
    assert card.cohort.patients == 1
    assert sum(card.withheld.values()) == 2
    everybody, _ = build(
        fhir.write(tmp_path / "f", {"x.ndjson": people(fhir)}), programme(), pseudonym_key=KEY
    )
    assert len(everybody) == 3


def cdm(folder):
    tables = {
        "person": "person_id,gender_concept_id,year_of_birth,month_of_birth,day_of_birth,birth_datetime,"
        "person_source_value\n1,8507,1960,1,1,,mrn-ann\n2,8532,1970,1,1,,mrn-eve\n",
        "visit_occurrence": "visit_occurrence_id,person_id,visit_concept_id,visit_start_date,visit_end_date\n"
        "1,1,9202,2010-01-01,2012-01-01\n2,2,9202,2010-01-01,2012-01-01\n",
        "concept": "concept_id,concept_name,domain_id,vocabulary_id,concept_class_id,standard_concept,concept_code\n"
        "8507,MALE,Gender,Gender,Gender,S,M\n8532,FEMALE,Gender,Gender,Gender,S,F\n",
    }
    folder.mkdir()
    for name, content in tables.items():
        (folder / f"{name}.csv").write_text(content)
    return folder


def test_a_cdm_is_recognised_and_built_without_those_who_opted_out(tmp_path):
    source = cdm(tmp_path / "cdm")
    parts = programme(feature("male", "male"))
    dataset, card = build(source, parts, pseudonym_key=KEY)
    assert dataset.values[dataset.patient_ids.index(pseudonym(KEY, "1")), 0] == 1
    assert card.source.startswith("OMOP CDM")
    (tmp_path / "out.txt").write_text("urn:mrn|mrn-eve\n")
    dataset, card = build(source, parts, pseudonym_key=KEY, opt_out=tmp_path / "out.txt")
    assert dataset.patient_ids == (pseudonym(KEY, "1"),)
    assert sum(card.withheld.values()) == 1
    (tmp_path / "out.txt").write_text("1\n2\n")
    with pytest.raises(GemelError) as caught:
        build(source, parts, pseudonym_key=KEY, opt_out=tmp_path / "out.txt")
    assert caught.value.code == "GEM205"


def test_a_cdm_cannot_show_the_consent_that_a_mapping_requires(tmp_path):
    mapping = SiteMapping(require_consent=True)
    with pytest.raises(GemelError) as caught:
        build(cdm(tmp_path / "cdm"), programme(), pseudonym_key=KEY, mapping=mapping)
    assert caught.value.code == "GEM241"


@pytest.mark.parametrize("kind", [IndexKind.DIAGNOSIS, IndexKind.TREATMENT])
def test_the_first_diagnosis_of_an_export_sets_the_index_date(kind, fhir, tmp_path):
    diabetes = load_concepts()["diabetes"]
    resources = [*people(fhir), fhir.condition("ann", fhir.ICD_10, "E11.9", "2010-06-01")]
    parts = programme(concepts=(diabetes,), cohort={"index": IndexEvent(kind=kind, concepts=("diabetes",))})
    dataset, card = build(fhir.write(tmp_path, {"x.ndjson": resources}), parts, pseudonym_key=KEY)
    assert dataset.patient_ids == (pseudonym(KEY, "ann"),)
    assert dataset.time_years[0, 0] == np.float32((date(2012, 1, 1) - date(2010, 6, 1)).days / 365.25)
    assert card.cohort.excluded == {"no index event": 2}


def test_the_card_of_a_cdm_names_rejected_rows_and_says_who_is_out_and_which_entries_are_nobodys(tmp_path):
    source = cdm(tmp_path / "cdm")
    with (source / "visit_occurrence.csv").open("a") as file:
        file.write("3,1,9202,SECRET,2012-01-01\n")
    with (source / "person.csv").open("a") as file:
        file.write("3,8532,1970,13,1,,mrn-bob\n")
    (tmp_path / "out.txt").write_text("# objections\nurn:mrn|mrn-eve\n\nurn:mrn|mrn-ev\nPatient/77\n")
    _, card = build(source, programme(), pseudonym_key=KEY, opt_out=tmp_path / "out.txt")
    assert card.withheld == {"on the opt-out list": 1}
    assert (card.opt_out_unmatched, card.opt_out_unmatched_lines) == (2, [4, 5])
    assert [(one.file, one.place, one.code) for one in card.rejected] == [
        ("person.csv", "3", "GEM210"),
        ("visit_occurrence.csv", "3", "GEM210"),
    ]
    assert card.rejected[1].reason == "visit_occurrence visit_start_date: not a date YYYY-MM-DD"
    assert b"SECRET" not in msgspec.json.encode(card)


def test_a_person_of_two_source_values_is_out_by_either(tmp_path):
    source = cdm(tmp_path / "cdm")
    with (source / "person.csv").open("a") as file:
        file.write("2,8532,1970,1,1,,mrn-other\n")
    (tmp_path / "out.txt").write_text("mrn-eve\nmrn-other\n2\n")
    _, card = build(source, programme(), pseudonym_key=KEY, opt_out=tmp_path / "out.txt")
    assert (card.withheld, card.opt_out_unmatched) == ({"on the opt-out list": 1}, 0)


def test_the_card_of_an_export_names_rejected_lines_and_entries_of_the_opt_out_list(fhir, tmp_path):
    export = fhir.write(tmp_path / "e", {"x.ndjson": [*people(fhir), {"resourceType": "Patient"}]})
    (tmp_path / "out.txt").write_text("https://x.example/fhir/Patient/bob\nPatient/eve/_history/2\nEvee\n")
    _, card = build(export, programme(), pseudonym_key=KEY, opt_out=tmp_path / "out.txt")
    assert card.withheld == {"on the opt-out list": 2}
    assert (card.opt_out_unmatched, card.opt_out_unmatched_lines) == (1, [3])
    assert [(one.file, one.place, one.code) for one in card.rejected] == [("x.ndjson", "7", "GEM207")]


def test_a_refused_input_and_links_that_nothing_is_called_by_are_named(fhir, tmp_path):
    export = fhir.write(tmp_path / "e", {"x.ndjson": people(fhir)})
    inputs = tmp_path / "watches"
    inputs.mkdir()
    for name in ("ann", "bob"):
        (inputs / f"{name}.xml").write_text("<!DOCTYPE HealthData []><HealthData></HealthData>")
    (inputs / "bob.xml").write_text("<!DOCTYPE HealthData []><HealthData><cut")
    (tmp_path / "links.csv").write_text("patient,file,subject\nann,ann.xml,\nbob,,bob\neve,evee.xml,\n")
    further = FurtherInputs((inputs,), (tmp_path / "links.csv",))
    _, card = build(export, programme(), pseudonym_key=KEY, further=further)
    [one] = card.inputs
    assert one.files_rejected == 1
    assert [(reject.file, reject.place, reject.code) for reject in one.rejected] == [
        ("bob.xml", "", "GEM254")
    ]
    assert (card.links_unused, card.links_unused_total) == (["links.csv:4"], 1)
