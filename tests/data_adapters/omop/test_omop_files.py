"""Files of a CDM: what is opened, what is refused, and that no record is lost in silence."""

import csv
import gzip
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import two_forms as form
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gemel.core.errors import GemelError
from gemel.data_adapters.meaning.site_mapping import SiteMapping
from gemel.data_adapters.omop.folder import FolderSource
from gemel.data_adapters.omop.source import is_omop

DAY = date(2010, 5, 6)
HDL = (form.LOINC, "2085-9")
HOSPITAL = form.Hospital(
    [form.Person(1, "male", (1950, 2, 3)), form.Person(2, "female", (1960,))],
    [form.Visit(1, DAY, DAY)],
    [],
    [form.Value(1, HDL, 50, "mg/dL", DAY), form.Value(2, HDL, 60, "mg/dL", DAY)],
)
Read = Callable[..., Any]


@pytest.fixture
def cdm(tmp_path: Path) -> Path:
    return form.write_csv(form.omop_tables(HOSPITAL), tmp_path / "cdm")


@pytest.mark.parametrize("name", ["person.csv", "PERSON.parquet", "Person.CSV.gz"])
def test_a_folder_with_a_person_table_is_a_cdm(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert is_omop(tmp_path)


def test_a_folder_of_fhir_resources_and_a_file_are_no_cdm(tmp_path: Path, cdm: Path) -> None:
    (tmp_path / "Patient.ndjson").touch()
    assert not is_omop(tmp_path)
    assert not is_omop(cdm / "person.csv")
    assert is_omop("postgresql://localhost/cdm")


def test_what_is_no_table_of_facts_is_named(read: Read, cdm: Path) -> None:
    (cdm / "note.csv").write_text("note_id\n1\n")
    (cdm / "notes.txt").write_text("x")
    (cdm / "death.csv").unlink()
    _, account = read(cdm)
    assert [entry.partition(":")[0] for entry in account.unread] == ["note.csv", "notes.txt", "death"]


@pytest.mark.parametrize("table", ["person", "visit_occurrence", "concept"])
def test_a_table_that_everything_rests_on_must_be_there(read: Read, cdm: Path, table: str) -> None:
    (cdm / f"{table}.csv").unlink()
    with pytest.raises(GemelError) as caught:
        read(cdm)
    assert caught.value.code == "GEM250"


def test_a_missing_column_is_named(read: Read, cdm: Path) -> None:
    (cdm / "measurement.csv").write_text("measurement_id;person_id\n1;1\n")
    with pytest.raises(
        GemelError, match=r"measurement\.csv has no column measurement_id, person_id, measurement"
    ):
        read(cdm)


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe\n", b"person_id,PERSON_ID\n"])
def test_a_file_without_a_sound_header_is_refused(read: Read, cdm: Path, content: bytes) -> None:
    (cdm / "person.csv").write_bytes(content)
    with pytest.raises(GemelError) as caught:
        read(cdm)
    assert caught.value.code == "GEM250"


def test_two_files_of_one_table_are_refused(read: Read, cdm: Path) -> None:
    (cdm / "PERSON.parquet").write_bytes(b"")
    with pytest.raises(GemelError, match="are one table"):
        read(cdm)


def test_a_link_out_of_the_folder_is_refused_and_one_within_is_followed(
    read: Read, cdm: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside.csv"
    (cdm / "person.csv").rename(outside)
    (cdm / "person.csv").symlink_to(outside)
    with pytest.raises(GemelError, match="leads out of the folder"):
        read(cdm)
    (cdm / "person.csv").unlink()
    outside.rename(cdm / "people.csv")
    (cdm / "person.csv").symlink_to(cdm / "people.csv")
    assert len(read(cdm)[0]["person"]) == 2


def test_no_other_file_can_be_opened_by_the_reader(cdm: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_text("a\n1\n")
    with FolderSource(cdm) as source, pytest.raises(Exception, match="disabled by configuration"):
        source._connection.execute(f"SELECT * FROM read_csv('{tmp_path / 'secret.csv'}')")


@pytest.mark.parametrize("name", ["measurement.csv", "measurement.csv.gz", "measurement.parquet"])
def test_a_file_that_breaks_off_is_refused(read: Read, cdm: Path, tmp_path: Path, name: str) -> None:
    whole = (cdm / "measurement.csv").read_bytes() * 40
    (cdm / "measurement.csv").unlink()
    if name.endswith("parquet"):
        pq.write_table(pa.table({"measurement_id": list(range(1000))}), cdm / name)
        whole = (cdm / name).read_bytes()
    elif name.endswith("gz"):
        whole = gzip.compress(whole)
    if name.endswith(".csv"):
        # The last record has lost its end: it is rejected, and counted.
        (cdm / name).write_bytes(b"".join(whole.splitlines(keepends=True)[:2]) + b"7,1,20")
        _, account = read(cdm)
        assert [(r.code, r.line) for r in account.rejects] == [("GEM251", 2)]
        return
    (cdm / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(GemelError) as caught:
        read(cdm)
    assert caught.value.code == "GEM250"


def test_a_damaged_record_is_rejected_with_its_number_and_others_keep_theirs(read: Read, cdm: Path) -> None:
    header, first, second = (cdm / "measurement.csv").read_bytes().splitlines()
    bad_number = second.replace(b"2,2,", b"3,2,", 1).replace(b",60,", b",sixty,")
    lines = [header, first, b"too,few", second, b"\xff" + second, second + b",more", bad_number]
    (cdm / "measurement.csv").write_bytes(b"\r\n".join(lines) + b"\r\n")
    rows, account = read(cdm)
    assert [row[5] for row in rows["fact"]] == [50.0, 60.0]
    assert [(r.code, r.line) for r in account.rejects] == [
        ("GEM214", 6),
        ("GEM251", 2),
        ("GEM251", 4),
        ("GEM251", 5),
    ]


def test_a_byte_order_mark_and_the_null_of_postgresql_are_understood(read: Read, cdm: Path) -> None:
    person = (cdm / "person.csv").read_text(encoding="utf-8").replace(",,", ",\\N,")
    (cdm / "person.csv").write_text("\ufeff" + person, encoding="utf-8")
    rows, _ = read(cdm)
    assert [row[2] for row in rows["person"]] == [date(1950, 2, 3), date(1960, 7, 2)]


def test_a_damaged_vocabulary_is_refused(read: Read, cdm: Path) -> None:
    with (cdm / "concept.csv").open("ab") as file:
        file.write(b"12,too few\r\n")
    with pytest.raises(GemelError, match="a vocabulary has to be whole"):
        read(cdm)


def test_parquet_types_do_not_matter_and_instants_are_told_by_the_sites_clock(
    read: Read, tmp_path: Path
) -> None:
    folder = form.write_parquet(form.omop_tables(HOSPITAL), tmp_path / "cdm")
    table = pq.read_table(folder / "measurement.parquet")
    instant = pa.array([datetime(2010, 5, 6, 21, 30)] * 2, pa.timestamp("us", "UTC"))
    for name, column in {
        "measurement_datetime": instant,
        "value_as_number": pa.array([50.1, 60], pa.float32()),
        "measurement_id": table["measurement_id"].cast(pa.int32()),
        "person_id": table["person_id"].cast(pa.float64()),
    }.items():
        table = table.set_column(table.schema.get_field_index(name), name, column)
    pq.write_table(table, folder / "measurement.parquet")
    rows, _ = read(folder, mapping=SiteMapping(time_zone="Europe/Berlin"))
    assert [(row[3], row[5]) for row in rows["fact"]] == [
        (datetime(2010, 5, 6, 23, 30), 50.1),
        (datetime(2010, 5, 6, 23, 30), 60.0),
    ]


@pytest.mark.parametrize("rows_behind", [3, 200_000])
def test_an_open_quote_refuses_the_file_for_nobody_knows_what_it_swallowed(
    read: Read, cdm: Path, rows_behind: int
) -> None:
    rows = "".join(f"{i},2,0\n" for i in range(rows_behind))
    (cdm / "visit_occurrence.csv").write_text(
        'visit_occurrence_id,person_id,visit_concept_id\n1,1,"0\n' + rows
    )
    with FolderSource(cdm) as source, pytest.raises(GemelError, match="cannot be told apart"):
        list(source.batches("visit_occurrence", ["person_id"]))


@pytest.mark.parametrize("content", [b'1,"a"\r\n2\n3,b\r\n', b"1,a\n2,b\r\n3,c\n", b'1,"a"\n2,"b"\r\n3,c\n'])
def test_line_ends_of_two_kinds_are_refused_or_read_whole(cdm: Path, content: bytes) -> None:
    (cdm / "death.csv").write_bytes(b"person_id,death_date\r\n" + content)
    with FolderSource(cdm) as source:
        refusal, rows = None, 0
        try:
            rows = sum(batch.num_rows for batch in source.batches("death", ["person_id"]))
        except GemelError as error:
            refusal = error.code
        assert refusal == "GEM250" or rows + len(source.damaged("death")) == 3


# A cell may hold a quoted comma, quote or nothing; open quotes are refused (above).
_CELLS = st.sampled_from(["", "1", "2", "x", '""', '"a,b"', '"a""b"', "\u00e9", "\\N", " 7 ", 'a"b'])


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(
    records=st.lists(st.lists(_CELLS, min_size=1, max_size=4).filter(any), max_size=12),
    end=st.sampled_from(["\n", "\r\n"]),
    zipped=st.booleans(),
)
def test_each_record_of_any_csv_file_is_a_row_or_is_damaged(
    records: list[list[str]], end: str, zipped: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("csv")
    lines = [",".join(cells) for cells in records]
    content = ("person_id,year_of_birth" + end + "".join(line + end for line in lines)).encode()
    path = folder / ("person.csv.gz" if zipped else "person.csv")
    path.write_bytes(gzip.compress(content) if zipped else content)
    with FolderSource(folder) as source:
        names = ["person_id", "year_of_birth"]
        rows = [row for batch in source.batches("person", names) for row in batch.to_pylist()]
        damaged = source.damaged("person")
    assert len(rows) + len(damaged) == len(lines)
    # Python's reader is the oracle. Empty cells behind the last column lose nothing, and are let through.
    parsed = [record for record in csv.reader(lines) if len(record) >= 2 and not any(record[2:])]
    assert [[row[name] or "" for name in names] for row in rows] == [record[:2] for record in parsed]
