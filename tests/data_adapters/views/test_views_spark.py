import json
import shutil

import pytest

from gemel.core.errors import GemelError
from gemel.data_adapters.reading.intake import Intake
from gemel.data_adapters.views.run import parse_view, run_views, write_views
from gemel.data_adapters.views.spark_engine import open_session, run_on_spark

pytest.importorskip("pyspark", reason="PySpark is not installed")
if shutil.which("java") is None:
    pytest.skip("no Java runtime is installed", allow_module_level=True)
# A Java machine is started, and every case is a job of its own: two minutes on one core.
pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def spark():
    with open_session("local[1]") as session:
        yield session


def as_multiset(rows):
    whole = [
        {
            key: int(v) if isinstance(v, float) and v.is_integer() else v
            for key, v in row.items()
            if v is not None
        }
        for row in rows
    ]
    return sorted(json.dumps(row, sort_keys=True) for row in whole)


def on_spark(spark, view, export, made):
    made.mkdir()

    def as_tables(frames):
        return {name: frame.toArrow() for name, frame in frames.items()}

    return run_on_spark(spark, [view], export, made, as_tables, intake=Intake())[view.name]


def test_the_official_cases_are_answered_right_on_spark(spark, shared_data, tmp_path):
    suites = sorted((shared_data / "sql-on-fhir").glob("*.json"))
    if not suites:
        pytest.skip("the official SQL on FHIR cases are not in ../shared/data")
    answered = 0
    for path in suites:
        suite = json.loads(path.read_text())
        export = tmp_path / path.stem
        export.mkdir()
        resources = [{"id": f"r{i}"} | resource for i, resource in enumerate(suite["resources"])]
        (export / "r.ndjson").write_text("\n".join(json.dumps(resource) for resource in resources))
        for number, case in enumerate(suite["tests"]):
            try:
                table = on_spark(spark, parse_view(case["view"]), export, tmp_path / f"{path.stem}{number}")
            except GemelError:
                assert case.get("expectError"), f"{path.stem}: {case['title']}"
            else:
                assert not case.get("expectError"), f"{path.stem}: {case['title']}"
                if "expect" in case:
                    assert as_multiset(table.to_pylist()) == as_multiset(case["expect"]), case["title"]
                assert table.column_names == case.get("expectColumns", table.column_names)
            answered += 1
    assert answered == 134


def test_spark_writes_the_rows_that_duckdb_gives(spark, tmp_path):
    import pyarrow.parquet as pq

    export = tmp_path / "in"
    export.mkdir()
    lines = [{"resourceType": "Patient", "id": f"p{i % 9}", "meta": {"versionId": str(i)}} for i in range(12)]
    text = "\n".join(json.dumps(line) for line in lines)
    (export / "p.ndjson").write_text(text + '\n{"resourceType": "Patient", "id": 5}\n')
    columns = [{"name": "id", "path": "id"}, {"name": "version", "path": "meta.versionId"}]
    view = parse_view({"resource": "Patient", "name": "who", "select": [{"column": columns}]})
    intake = Intake()
    [path] = write_views([view], export, tmp_path / "out", engine="spark", intake=intake)
    assert as_multiset(pq.read_table(path).to_pylist()) == as_multiset(
        run_views([view], export)["who"].to_pylist()
    )
    assert (intake.files[0].accepted, intake.files[0].rejected) == (12, 1)
