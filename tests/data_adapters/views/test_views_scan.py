import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemel.core.errors import GemelError
from gemel.data_adapters.reading import versions as versions_module
from gemel.data_adapters.reading.intake import Intake
from gemel.data_adapters.reading.versions import Versions
from gemel.data_adapters.sources import files as files_module
from gemel.data_adapters.views import output
from gemel.data_adapters.views import run as run_module
from gemel.data_adapters.views.run import read_views, run_views, scan, view_schemas, write_views
from gemel.data_adapters.views.view_definition import parse_view

VIEW = parse_view(
    {
        "resource": "Patient",
        "name": "who",
        "select": [{"column": [{"name": "id", "path": "id"}, {"name": "gender", "path": "gender"}]}],
    }
)


def write(folder, resources, name="p.ndjson"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(json.dumps(resource) for resource in resources) + "\n")
    return folder


def patients(number):
    return [{"resourceType": "Patient", "id": f"p{i}", "gender": "male"} for i in range(number)]


def questionnaire(depth, branch="item"):
    item = {"linkId": str(depth)}
    for level in range(depth - 1, 0, -1):
        inner = {"item": [item]} if branch == "item" else {"answer": [{"item": [item]}]}
        item = {"linkId": str(level)} | inner
    return {"resourceType": "QuestionnaireResponse", "id": "q", "status": "completed", "item": [item]}


def links_view(*paths):
    return parse_view(
        {
            "resource": "QuestionnaireResponse",
            "name": "links",
            "select": [
                {
                    "repeat": list(paths),
                    "column": [{"name": "at", "path": "%rowIndex"}, {"name": "link", "path": "linkId"}],
                }
            ],
        }
    )


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_rows_carry_their_line_and_come_in_order_whatever_the_workers(tmp_path, monkeypatch, workers):
    monkeypatch.setattr(files_module, "_BLOCK_BYTES", 500)
    monkeypatch.setattr(run_module, "_GROUP_BYTES", 1000)
    export = write(tmp_path / "in", patients(100))
    write(export, patients(7), "q.ndjson")
    intake = Intake()
    batches = list(scan([VIEW], export, intake=intake, workers=workers))
    assert len(batches) > 5
    lines = [
        (batch.file, line) for batch in batches for line in batch.tables["who"].column("_line").to_pylist()
    ]
    assert lines == [(0, i) for i in range(1, 101)] + [(1, i) for i in range(1, 8)]
    assert [(file.read, file.accepted) for file in intake.files] == [(100, 100), (7, 7)]
    assert sum(read.read for batch in batches for read in batch.read) == 107


def test_a_scan_counts_rejected_lines_by_their_number(tmp_path):
    export = write(tmp_path / "in", patients(3))
    with (export / "p.ndjson").open("a") as file:
        file.write('{"resourceType": "Patient", "id": "x", "gender": 5}\n\n{"resourceType": "Pat\n')
    intake = Intake()
    list(scan([VIEW], export, intake=intake))
    assert [(reject.line, reject.code) for reject in intake.rejects] == [(4, "GEM214"), (6, "GEM201")]
    assert (intake.files[0].read, intake.files[0].accepted, intake.files[0].rejected) == (5, 3, 2)


@pytest.mark.parametrize("depth", [1, 4, 5, 13])
@pytest.mark.parametrize("workers", [1, 2])
def test_repeat_follows_a_resource_as_deep_as_it_goes(tmp_path, depth, workers):
    export = write(tmp_path / "in", [questionnaire(depth)])
    rows = run_views([links_view("item")], export, workers=workers)["links"].to_pylist()
    assert rows == [{"at": i, "link": str(i + 1)} for i in range(depth)]


def test_repeat_over_two_paths_goes_through_each_item_before_the_next(tmp_path):
    tree = questionnaire(5, "answer")
    tree["item"].append({"linkId": "last", "item": [{"linkId": "below"}]})
    rows = run_views([links_view("item", "answer.item")], write(tmp_path / "in", [tree]))["links"].to_pylist()
    assert [row["link"] for row in rows] == ["1", "2", "3", "4", "5", "last", "below"]


def test_repeat_deeper_than_any_query_is_refused_not_cut(tmp_path):
    with pytest.raises(GemelError) as caught:
        run_views([links_view("item")], write(tmp_path / "in", [questionnaire(14)]))
    assert caught.value.code == "GEM232"


def test_a_slip_in_a_path_of_repeat_is_refused(tmp_path):
    with pytest.raises(GemelError, match="itm"):
        run_views([links_view("itm")], write(tmp_path / "in", [questionnaire(1)]))


@pytest.mark.parametrize(
    ("written", "low", "high"),
    [
        ("1.50", 1.495, 1.505),
        ("1.5", 1.45, 1.55),
        ("-2", -2.5, -1.5),
        ("1e2", 50, 150),
        ("1.2E-1", 0.115, 0.125),
    ],
)
def test_the_boundary_of_a_decimal_is_that_of_its_written_digits(tmp_path, written, low, high):
    export = tmp_path / "in"
    export.mkdir()
    (export / "o.ndjson").write_text(
        '{"resourceType": "Observation", "id": "o", "valueQuantity": {"value": ' + written + "}}\n"
    )
    path = "value.ofType(Quantity).value"
    columns = {"low": f"{path}.lowBoundary()", "plain": path, "high": f"{path}.highBoundary()"}
    select = [{"column": [{"name": name, "path": path} for name, path in columns.items()]}]
    view = parse_view({"resource": "Observation", "name": "o", "select": select})
    assert run_views([view], export)["o"].to_pylist() == [{"low": low, "plain": float(written), "high": high}]


def test_null_items_of_a_list_are_no_items(tmp_path):
    patient = {"resourceType": "Patient", "id": "p", "name": [{"given": [None, "B"]}, {"family": "C"}]}
    columns = {"first": "name.given.first()", "all": "name.given.join('+')", "families": "name.family"}
    select = [{"column": [{"name": name, "path": path} for name, path in columns.items()]}]
    view = parse_view({"resource": "Patient", "name": "n", "select": select})
    rows = run_views([view], write(tmp_path / "in", [patient]))["n"].to_pylist()
    assert rows == [{"first": "B", "all": "B", "families": "C"}]


def older_lines(export, resources):
    intake = Intake()
    with Versions(export) as versions:
        for batch in scan([VIEW], export, intake=intake):
            for read in batch.read:
                versions.add(batch.file, read)
        return {(row["file"], row["line"]) for row in versions.superseded().to_pylist()}


_IDS = st.sampled_from(["a", "b", "a-long-id-of-more-than-eight", "c" * 64])
_UPDATED = st.sampled_from(
    [None, "2020-01-01T00:00:00Z", "2020-01-01T01:00:00+01:00", "2021-05-05T00:00:00Z"]
)
_VERSION = st.sampled_from([None, "1", "2", "10", "x"])
_LINES = st.lists(st.tuples(_IDS, _UPDATED, _VERSION, st.sampled_from(["male", "female"])), max_size=12)


@settings(max_examples=25, deadline=None)
@given(lines=_LINES, seed=st.integers(0, 99))
def test_one_line_of_each_id_stays_and_the_order_of_lines_does_not_matter(tmp_path_factory, lines, seed):
    def resource(line):
        meta = {key: value for key, value in (("lastUpdated", line[1]), ("versionId", line[2])) if value}
        return {"resourceType": "Patient", "id": line[0], "gender": line[3]} | (
            {"meta": meta} if meta else {}
        )

    resources = [resource(line) for line in lines] or patients(1)
    shuffled = random.Random(seed).sample(resources, len(resources))
    stay = []
    for ordered in (resources, shuffled):
        export = write(tmp_path_factory.mktemp("versions") / "in", ordered)
        older = older_lines(export, ordered)
        kept = [one for i, one in enumerate(ordered, start=1) if (0, i) not in older]
        stay.append(sorted(json.dumps(one, sort_keys=True) for one in kept))
        assert len(kept) == len({one["id"] for one in ordered})
    assert stay[0] == stay[1]


def test_versions_are_found_in_parts_when_there_are_many(tmp_path, monkeypatch):
    monkeypatch.setattr(versions_module, "_ROWS_AT_ONCE", 16)
    resources = [*patients(100), *patients(5)]
    older = older_lines(write(tmp_path / "in", resources), resources)
    assert len(older) == 5
    assert {line % 100 for _, line in older} <= {1, 2, 3, 4, 5}


def test_an_export_that_changes_before_versions_are_compared_is_an_error(tmp_path):
    export = write(tmp_path / "in", [*patients(2), *patients(2)])
    with Versions(export) as versions:
        for batch in scan([VIEW], export, intake=Intake()):
            for read in batch.read:
                versions.add(batch.file, read)
        write(export, patients(1))
        with pytest.raises(GemelError) as caught:
            versions.superseded()
    assert caught.value.code == "GEM208"


@pytest.mark.parametrize("workers", [1, 2])
def test_written_rows_are_those_of_the_newest_versions(tmp_path, monkeypatch, workers):
    monkeypatch.setattr(files_module, "_BLOCK_BYTES", 700)
    monkeypatch.setattr(run_module, "_GROUP_BYTES", 1400)
    monkeypatch.setattr(output, "_GROUP_ROWS", 10)
    newer = {"resourceType": "Patient", "id": "p3", "gender": "other", "meta": {"versionId": "2"}}
    export = write(tmp_path / "in", [*patients(50), newer])
    [path] = write_views([VIEW], export, tmp_path / "out", workers=workers)
    rows = pq.read_table(path).to_pylist()
    assert len(rows) == 50
    assert rows[-1] == {"id": "p3", "gender": "other"}
    assert read_views([VIEW], export)[0]["who"].to_pylist() == rows
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["who.parquet"]


def test_a_full_disk_leaves_neither_half_a_file_nor_the_temporary_one(tmp_path, monkeypatch):
    export = write(tmp_path / "in", patients(50))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "who.parquet").write_bytes(b"as before")

    def full(*arguments, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(output.pq.ParquetWriter, "write_table", full)
    with pytest.raises(GemelError, match="No space left") as caught:
        write_views([VIEW], export, tmp_path / "out")
    assert caught.value.code == "GEM234"
    assert [(entry.name, entry.read_bytes()) for entry in (tmp_path / "out").iterdir()] == [
        ("who.parquet", b"as before")
    ]


def test_a_view_without_rows_has_its_columns_and_types(tmp_path):
    table = run_views([links_view("item")], write(tmp_path / "in", patients(1)))["links"]
    assert table.schema == pa.schema([("at", pa.int64()), ("link", pa.string())])
    assert view_schemas([VIEW])["who"].names == ["_line", "id", "gender"]
