"""Apple Health, Open mHealth and SampledData: values, times, totals, and everything that must not count."""

import json
import zipfile
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemel.core.errors import GemelError
from gemel.data_adapters.inputs import fact_writer
from gemel.data_adapters.inputs.account import InputAccount, Outcome
from gemel.data_adapters.inputs.links import Link, Links, SeriesLink, load_links
from gemel.data_adapters.inputs.read import read_input
from gemel.data_adapters.inputs.sampled_data import Origin, SampledData, TimedValue, expand
from gemel.data_adapters.inputs.wearables import _union_hours, wearable_kinds
from gemel.data_adapters.meaning.site_mapping import SiteMapping
from gemel.data_adapters.reading.intake import Fault

DTD = (
    "<!DOCTYPE HealthData [<!ELEMENT HealthData (ExportDate,Me,(Record|Correlation)*)>"
    "<!ATTLIST Record type CDATA #REQUIRED>]>"
)
LINKS = Links(subjects={"s1": Link("p1"), "s2": Link("p2"), "stranger": Link("p9")})


def record(kind: str, value: str, unit: str, start: str, end: str = "", source: str = "Watch") -> str:
    return (
        f'<Record type="{kind}" sourceName="{source}" unit="{unit}" creationDate="{start}" '
        f'startDate="{start}" endDate="{end or start}" value="{value}"/>'
    )


def hr(value: str, start: str = "2020-01-01 08:00:00 +0100") -> str:
    return record("HKQuantityTypeIdentifierHeartRate", value, "count/min", start)


def export(*parts: str, dtd: str = DTD) -> str:
    me = '<Me HKCharacteristicTypeIdentifierDateOfBirth="1980-01-01"/>'
    return f'<?xml version="1.0"?>\n{dtd}<HealthData locale="en">{me}{"".join(parts)}</HealthData>'


def balanced(account: InputAccount) -> bool:
    return account.read == account.outcomes.total()


@pytest.fixture
def read(hospital: Any, programme: Any, tmp_path: Path) -> Any:
    def run(
        text: str | bytes, name: str = "s1/export.xml", links: Links = LINKS, **more: Any
    ) -> InputAccount:
        file = tmp_path / "in" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        account = read_input(tmp_path / "in", programme, hospital, links=links, **more)
        assert balanced(account)
        return account

    return run


def test_a_heart_rate_keeps_the_wall_clock_of_the_recording(read: Any, hospital: Any) -> None:
    account = read(export(hr("61", "2020-01-01 00:30:00 +0100")))
    assert hospital.of("patient_id", "concept", "at", "day", "value") == [
        ("p1", "heart_rate", datetime(2020, 1, 1, 0, 30), date(2020, 1, 1), 61.0)
    ]
    assert account.outcomes == {Outcome.USED: 1}


def test_apples_percent_is_a_fraction_and_pounds_are_pounds(read: Any, hospital: Any) -> None:
    at = "2020-01-01 08:00:00 +0100"
    read(
        export(
            record("HKQuantityTypeIdentifierOxygenSaturation", "0.97", "%", at),
            record("HKQuantityTypeIdentifierBodyMass", "150", "lb", at),
        )
    )
    values = dict(hospital.of("concept", "value"))
    assert values["spo2"] == pytest.approx(97)
    assert values["weight"] == pytest.approx(150 * 0.45359237)


def test_steps_that_telephone_and_watch_both_count_are_not_added_up(read: Any, hospital: Any) -> None:
    kind = "HKQuantityTypeIdentifierStepCount"
    parts = [
        record(kind, "100", "count", f"2020-01-01 {h:02}:00:00 +0000", source="Watch") for h in range(8, 12)
    ]
    parts += [
        record(kind, "150", "count", f"2020-01-01 {h:02}:00:00 +0000", source="Phone") for h in range(8, 10)
    ]
    parts += [record(kind, "7", "count", "2020-01-02 08:00:00 +0000")]
    account = read(export(*parts))
    assert hospital.of("day", "value") == [(date(2020, 1, 1), 400.0), (date(2020, 1, 2), 7.0)]
    assert account.outcomes == {Outcome.USED: 5, Outcome.EXCLUDED: 2}


def test_sleep_is_the_union_of_what_devices_say_and_belongs_to_the_day_of_waking(
    read: Any, hospital: Any
) -> None:
    kind, asleep = "HKCategoryTypeIdentifierSleepAnalysis", "HKCategoryValueSleepAnalysisAsleepCore"
    account = read(
        export(
            record(kind, asleep, "", "2020-01-01 23:00:00 +0000", "2020-01-02 03:00:00 +0000"),
            record(kind, asleep, "", "2020-01-02 01:00:00 +0000", "2020-01-02 05:00:00 +0000", "Phone"),
            record(kind, "HKCategoryValueSleepAnalysisInBed", "", "2020-01-01 22:00:00 +0000"),
        )
    )
    assert hospital.of("concept", "day", "value") == [("sleep", date(2020, 1, 2), 6.0)]
    assert account.excluded == {"in bed or awake": 1}


def test_parts_of_a_correlation_are_the_records_that_stand_beside_it(read: Any, hospital: Any) -> None:
    at = "2020-01-01 08:00:00 +0100"
    systolic = record("HKQuantityTypeIdentifierBloodPressureSystolic", "120", "mmHg", at)
    parts = [systolic, f'<Correlation type="x">{systolic}</Correlation>', systolic.replace('"120"', '"130"')]
    account = read(export(*parts))
    assert account.read == 2
    assert hospital.of("concept", "value") == [("systolic", 120.0), ("systolic", 130.0)]


def test_what_is_at_fault_is_counted_with_its_reason_and_the_rest_is_used(read: Any, hospital: Any) -> None:
    account = read(
        export(
            hr("61"),
            hr("900"),
            hr("much"),
            hr("62", "yesterday"),
            record("HKQuantityTypeIdentifierHeartRate", "62", "count/h/kg", "2020-01-01 08:00:00 +0100"),
            record("HKQuantityTypeIdentifierFlightsClimbed", "3", "count", "2020-01-01 08:00:00 +0100"),
        )
    )
    assert len(hospital.of("value")) == 1
    assert account.outcomes == {Outcome.USED: 1, Outcome.REJECTED: 4, Outcome.NOT_COVERED: 1}
    assert sorted(code for code, _ in account.reasons) == ["GEM203", "GEM206", "GEM210", "GEM214"]


@pytest.mark.parametrize(
    ("subject", "withheld", "outcome"),
    [
        ("nobody", frozenset(), Outcome.ORPHAN),
        ("stranger", frozenset(), Outcome.ORPHAN),
        ("s1", frozenset({"p1"}), Outcome.WITHHELD),
    ],
)
def test_records_of_people_who_are_not_in_are_dropped_and_counted(
    read: Any, hospital: Any, subject: str, withheld: frozenset[str], outcome: Outcome
) -> None:
    account = read(export(hr("61"), hr("62")), f"{subject}/export.xml", withheld=withheld)
    assert hospital.of("value") == []
    assert account.outcomes == {outcome: 2}


def test_a_folder_called_as_the_patient_links_only_where_the_hospital_says_so(
    read: Any, hospital: Any
) -> None:
    assert read(export(hr("61")), "p2/export.xml").outcomes == {Outcome.ORPHAN: 1}
    assert read(export(hr("61")), "p2/export.xml", Links(subject_is_patient=True)).outcomes == {
        Outcome.USED: 1
    }


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-30],
        lambda text: text.replace("</HealthData>", "<Record></HealthData>"),
        lambda text: text.replace("]>", '<!ENTITY a "b">]>'),
        lambda text: text.replace("]>", '<!ENTITY % a SYSTEM "file:///etc/passwd">]>'),
        lambda text: text.replace("<Record ", "\0<Record ", 1),
        lambda text: text + "x" * 50,
    ],
)
def test_of_a_damaged_or_hostile_export_nothing_is_used(read: Any, hospital: Any, damage: Any) -> None:
    account = read(damage(export(*[hr(str(50 + i % 100)) for i in range(500)])))
    assert hospital.of("value") == []
    assert account.files_rejected == 1
    assert [reject.code for reject in account.rejects] == ["GEM254"]


def test_what_was_already_written_of_a_damaged_file_is_taken_back(
    read: Any, hospital: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fact_writer, "_BATCH_ROWS", 10)
    text = export(*[hr(str(60 + i)) for i in range(95)])
    assert read(text[:-30]).files_rejected == 1
    assert hospital.of("value") == []
    assert read(text).outcomes == {Outcome.USED: 95}
    assert len(hospital.of("value")) == 95


def test_entities_cannot_multiply(read: Any, hospital: Any) -> None:
    bombs = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 9))
    text = export(hr("&a8;"), dtd=f'<!DOCTYPE HealthData [<!ENTITY a0 "lol">{bombs}]>')
    assert read(text).files_rejected == 1


def test_one_endless_attribute_is_refused_before_it_fills_the_memory(read: Any) -> None:
    account = read(export(hr("6" * (4 << 20))))
    assert account.rejects[0].reason.endswith("a piece of text of more than 1 MiB.")


def test_the_zip_of_the_telephone_is_read_and_a_cut_one_refused(
    read: Any, hospital: Any, tmp_path: Path
) -> None:
    archive = tmp_path / "s2.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("apple_health_export/export.xml", export(*[hr(str(50 + i)) for i in range(50)]))
        out.writestr("apple_health_export/workout-routes/route.gpx", "<gpx/>")
    content = archive.read_bytes()
    assert read(content, "s2.zip").outcomes == {Outcome.USED: 50}
    assert {row[0] for row in hospital.of("patient_id")} == {"p2"}
    broken = bytearray(content)
    broken[200] ^= 0xFF
    account = read(bytes(broken), "s2.zip")
    assert account.files_rejected == 1
    assert len(hospital.of("value")) == 50


def omh(name: str, body: dict[str, Any], user: str = "s1", **header: Any) -> dict[str, Any]:
    schema = {"namespace": "omh", "name": name, "version": "2.0"}
    head = {"id": "1", "creation_date_time": "2020-01-01T00:00:00Z", "schema_id": schema, "user_id": user}
    return {"header": head | header, "body": body}


AT = {"effective_time_frame": {"date_time": "2020-02-05T07:25:00-08:00"}}
POINTS = [
    omh("heart-rate", {"heart_rate": {"value": 50, "unit": "beats/min"}} | AT),
    omh(
        "blood-pressure",
        {
            "systolic_blood_pressure": {"value": 140, "unit": "mmHg"},
            "diastolic_blood_pressure": {"value": 90, "unit": "mmHg"},
        }
        | AT,
        user="s2",
    ),
    omh("body-weight", {"body_weight": {"value": 150, "unit": "lb"}} | AT),
    omh(
        "step-count",
        {
            "step_count": 6000,
            "effective_time_frame": {
                "time_interval": {
                    "end_date_time": "2020-02-05T20:00:00Z",
                    "duration": {"value": 10, "unit": "h"},
                }
            },
        },
    ),
    omh(
        "sleep-duration",
        {
            "sleep_duration": {"value": 420, "unit": "min"},
            "effective_time_frame": {
                "time_interval": {
                    "start_date_time": "2020-02-04T23:00:00Z",
                    "end_date_time": "2020-02-05T07:00:00Z",
                }
            },
        },
    ),
    omh(
        "heart-rate",
        {"heart_rate": {"value": 90, "unit": "beats/min"}, "descriptive_statistic": "maximum"} | AT,
    ),
    omh("heart-rate", {"heart_rate": "fast"} | AT),
    omh("heart-rate", {"heart_rate": {"value": 60, "unit": "beats/min"}}),
    omh("mood", {"mood": 1} | AT),
    omh("heart-rate", {"heart_rate": {"value": 50, "unit": "beats/min"}} | AT, user="nobody"),
]


@pytest.mark.parametrize("form", ["lines", "array", "pretty"])
def test_open_mhealth_is_read_in_every_form(read: Any, hospital: Any, form: str) -> None:
    lines = "\n".join(json.dumps(point) for point in POINTS)
    text = {"lines": lines, "array": json.dumps(POINTS), "pretty": json.dumps(POINTS, indent=1)}[form]
    account = read(text, "points.json")
    rows = {(row[0], row[1]): row[2:] for row in hospital.of("patient_id", "concept", "at", "value")}
    morning = datetime(2020, 2, 5, 7, 25)
    assert rows == {
        ("p1", "heart_rate"): (morning, 50.0),
        ("p2", "systolic"): (morning, 140.0),
        ("p2", "diastolic"): (morning, 90.0),
        ("p1", "weight"): (morning, pytest.approx(68.0388555)),
        ("p1", "steps"): (datetime(2020, 2, 5), 6000.0),
        ("p1", "sleep"): (datetime(2020, 2, 5), pytest.approx(7)),
    }
    assert account.outcomes == {
        Outcome.USED: 6,
        Outcome.EXCLUDED: 1,
        Outcome.REJECTED: 2,
        Outcome.NOT_COVERED: 1,
        Outcome.ORPHAN: 1,
    }


def test_a_single_pretty_data_point_is_read(read: Any, hospital: Any) -> None:
    read(json.dumps(POINTS[0], indent=2), "one.json")
    assert hospital.of("value") == [(50.0,)]


def test_an_array_that_is_cut_is_rejected_as_a_whole(read: Any, hospital: Any) -> None:
    account = read(json.dumps(POINTS)[:-5], "points.json")
    assert account.files_rejected == 1
    assert hospital.of("value") == []


def test_every_code_of_the_shipped_table_says_where_it_was_checked() -> None:
    kinds = wearable_kinds()
    assert len({kind.loinc for kind in kinds}) == len(kinds) == 13
    assert all(kind.mark and set(kind.mark.split(",")) <= {"M", "D", "S", "L"} for kind in kinds)


spans = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 9)), min_size=1, max_size=12)


@given(spans)
def test_the_union_of_spans_is_the_set_of_their_hours(pairs: list[tuple[int, int]]) -> None:
    start = datetime(2020, 1, 1)
    times = [(start + timedelta(hours=a), start + timedelta(hours=a + n)) for a, n in pairs]
    assert _union_hours(times) == pytest.approx(len({a + i for a, n in pairs for i in range(n)}))


START = datetime(2020, 1, 1, 8)


def sampled(data: str, **more: Any) -> SampledData:
    return SampledData(origin=Origin(value=0.0, code="/min"), period=1000.0, dimensions=1, data=data, **more)


@given(
    st.lists(st.one_of(st.integers(-999, 999), st.sampled_from("EUL")), min_size=1, max_size=30),
    st.integers(1, 10_000),
    st.integers(-50, 50),
)
def test_each_number_of_a_series_is_a_value_a_bound_or_an_error(
    tokens: list[int | str], period: int, origin: int
) -> None:
    series = SampledData(
        origin=Origin(value=float(origin)),
        period=float(period),
        factor=2.0,
        lowerLimit=-3000.0,
        upperLimit=3000.0,
        dimensions=1,
        data=" ".join(str(token) for token in tokens),
    )
    result = expand(series, START)
    assert not isinstance(result, Fault)
    points, errors = result
    assert errors == tokens.count("E")
    expected = [
        TimedValue(START + timedelta(milliseconds=period * i), *_meaning(token, origin))
        for i, token in enumerate(tokens)
        if token != "E"
    ]
    assert points == expected


def _meaning(token: int | str, origin: int) -> tuple[float, str | None]:
    if isinstance(token, int):
        return origin + 2.0 * token, None
    return (3000.0, ">") if token == "U" else (-3000.0, "<")


@pytest.mark.parametrize(
    ("series", "code"),
    [
        (sampled("1 U"), "GEM207"),
        (sampled("1 UL", upperLimit=2.0, lowerLimit=0.0), "GEM214"),
        (sampled("1 nan"), "GEM214"),
        (sampled("1 1_0"), "GEM214"),
        (sampled("9", upperLimit=5.0), "GEM214"),
        (sampled(""), "GEM207"),
        (SampledData(origin=Origin(value=0.0), period=1.0, dimensions=3, data="1 2 3"), "GEM215"),
        (SampledData(origin=Origin(value=0.0), interval=1.0, dimensions=1, data="1"), "GEM213"),
        (SampledData(origin=Origin(value=0.0), period=1e13, dimensions=1, data="1 2"), "GEM214"),
    ],
)
def test_a_series_that_contradicts_itself_is_no_series(series: SampledData, code: str) -> None:
    result = expand(series, START)
    assert isinstance(result, Fault)
    assert result.code == code


def test_the_standards_own_example_contradicts_itself_and_is_refused() -> None:
    # hl7.org/fhir/R4/observation-example-sample-data.json: with its origin of 2048 every value lies above upperLimit.
    example = SampledData(
        origin=Origin(value=2048.0),
        period=10.0,
        factor=1.612,
        lowerLimit=-3300.0,
        upperLimit=3300.0,
        dimensions=1,
        data="2041 2043 2037 2047 2060 2062",
    )
    assert isinstance(expand(example, START), Fault)


def observation(data: str, **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": "w1",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
        "subject": {"reference": "Patient/p1"},
        "effectiveDateTime": "2020-01-01T23:59:30+02:00",
        "valueSampledData": {
            "origin": {
                "value": 0,
                "unit": "beats/min",
                "system": "http://unitsofmeasure.org",
                "code": "/min",
            },
            "period": 30000,
            "lowerLimit": 30,
            "upperLimit": 220,
            "dimensions": 1,
            "data": data,
        },
    } | more


def test_sampled_data_of_an_export_becomes_facts_over_midnight(read: Any, hospital: Any) -> None:
    from fhir.resources.R4B.observation import Observation

    Observation.model_validate(observation("61 E U"))
    lines = [observation("61 E U"), {"resourceType": "Patient", "id": "p1", "text": {"x": "SampledData"}}]
    account = read("\n".join(json.dumps(line) for line in lines), "Observation.ndjson")
    assert hospital.of("at", "value", "bound") == [
        (datetime(2020, 1, 1, 23, 59, 30), 61.0, None),
        (datetime(2020, 1, 2, 0, 0, 30), 220.0, ">"),
    ]
    assert account.bounds == {"heart_rate": 1}
    assert account.outcomes[Outcome.USED] == 2


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ({"versionId": "9"}, {"versionId": "10"}),
        ({"lastUpdated": "2020-01-01T01:00:00+02:00"}, {"lastUpdated": "2020-01-01T00:00:00Z"}),
        ({"versionId": "9"}, {"lastUpdated": "2020-01-01T00:00:00Z"}),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_of_two_versions_of_a_series_the_newest_counts_in_any_order_and_file(
    read: Any, hospital: Any, tmp_path: Path, older: dict[str, str], newer: dict[str, str], turned: bool
) -> None:
    lines = [json.dumps(observation("61", meta=older)), json.dumps(observation("62", meta=newer))]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.ndjson").write_text(lines[turned])
    account = read(lines[not turned], "b.ndjson")
    assert hospital.of("value") == [(62.0,)]
    assert account.excluded == {"an older version, or a copy": 1}


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        ({"status": "entered-in-error"}, Outcome.EXCLUDED),
        ({"subject": {"reference": "Patient/p9"}}, Outcome.ORPHAN),
        ({"subject": {"reference": "Group/p1"}}, Outcome.ORPHAN),
        ({"effectiveDateTime": "2020-01"}, Outcome.REJECTED),
        ({"modifierExtension": [{"url": "x"}]}, Outcome.REJECTED),
        ({"code": {"coding": [{"system": "http://loinc.org", "code": "1-8"}]}}, Outcome.NOT_COVERED),
    ],
)
def test_a_series_that_does_not_count_gives_no_fact(
    read: Any, hospital: Any, change: dict[str, Any], outcome: Outcome
) -> None:
    account = read(json.dumps(observation("61", **change)), "Observation.ndjson")
    assert account.outcomes == {outcome: 1}
    assert hospital.of("value") == []


@pytest.mark.parametrize(
    "table",
    [
        "who,patient\ns1,p1\n",
        "subject,patient\ns1,\n",
        "subject,patient\ns1,p1\ns1,p2\n",
        "subject,patient,day\ns1,p1,tomorrow\n",
        "subject,patient\ns1\n",
        "subject,patient\ns1,p1,p2\n",
        "",
    ],
)
def test_a_link_table_is_used_whole_or_not_at_all(tmp_path: Path, table: str) -> None:
    file = tmp_path / "links.csv"
    file.write_text(table)
    with pytest.raises(GemelError) as caught:
        load_links(file)
    assert caught.value.code == "GEM257"


def test_link_tables_of_all_kinds_are_read_together(tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text("\ufeffsubject,patient\ns1,Patient/p1\n", encoding="utf-8")
    table = "file,series_uid,patient,day,kind\nt1.nii.gz,1.2.3.4,p2,2020-01-02,labels\n,1.2.3.5,p3,,\n"
    (tmp_path / "images.csv").write_text(table)
    (tmp_path / "labels.csv").write_text("label,concept\n1,tumour_volume\n")
    (tmp_path / "kinds.csv").write_text("concept,modality\nct,CT\n")
    links = load_links(*sorted(tmp_path.iterdir()))
    assert links.find_subject("other", "s1") == Link("p1")
    assert links.find_file("deep/down/t1.nii.gz") == Link("p2", date(2020, 1, 2), "1.2.3.4", "labels")
    assert links.find_series("1.2.3.5") == SeriesLink("p3", None)
    assert links.find_sample("S1") is None
    assert (links.labels, links.modalities) == ({"1": "tumour_volume"}, {"CT": "ct"})


def test_an_input_of_no_known_kind_is_named(hospital: Any, programme: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(GemelError) as caught:
        read_input(tmp_path, programme, hospital, links=Links())
    assert caught.value.code == "GEM254"


def _body_mass_index(value: str) -> str:
    return record("HKQuantityTypeIdentifierBodyMassIndex", value, "count", "2017-02-01 10:00:00 +0100")


def test_the_count_of_a_body_mass_index_is_kg_per_square_metre(read: Any, hospital: Any) -> None:
    account = read(export(_body_mass_index("26.5")))
    assert account.outcomes == {Outcome.USED: 1}
    assert hospital.of("concept", "value") == [("bmi", 26.5)]


def test_a_unit_is_told_as_recorded_and_the_sites_word_for_it_comes_first(read: Any, hospital: Any) -> None:
    weight = record("HKQuantityTypeIdentifierBodyMass", "80", "count", "2017-02-01 10:00:00 +0100")
    account = read(export(weight))
    assert [reject.reason for reject in account.rejects] == ["'count' cannot become kg (weight)"]
    mapping = SiteMapping(concept_units={"weight": {"count": "kg"}})
    assert read(export(weight), mapping=mapping).outcomes == {Outcome.USED: 1}
    assert hospital.of("concept", "value") == [("weight", 80.0)]
