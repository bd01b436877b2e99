import json

import pyarrow.parquet as pq
import pytest

from gemel.core.errors import GemelError
from gemel.data_adapters.reading.element_types import _table, derive_from_models
from gemel.data_adapters.views import fhirpath
from gemel.data_adapters.views.run import run_views, standard_views, write_views
from gemel.data_adapters.views.view_definition import load_view, parse_view

# The official cases (FHIR/sql-on-fhir-v2) that the compiler refuses today, by file and number of cases.
REFUSED: dict[str, int] = {}
OFFICIAL = [
    "basic",
    "collection",
    "combinations",
    "constant",
    "constant_types",
    "fhirpath",
    "fhirpath_numbers",
    "fn_boundary",
    "fn_empty",
    "fn_extension",
    "fn_first",
    "fn_join",
    "fn_oftype",
    "fn_reference_keys",
    "foreach",
    "logic",
    "repeat",
    "row_index",
    "union",
    "validate",
    "view_resource",
    "where",
]


def view_of(columns, **more):
    select = [{"column": [{"name": name, "path": path} for name, path in columns.items()]}]
    return parse_view({"resource": "Patient", "name": "test", "select": select, **more})


def rows_of(view, tmp_path, *resources):
    (tmp_path / "all.ndjson").write_text("\n".join(json.dumps(resource) for resource in resources))
    return run_views([view], tmp_path)[view.name].to_pylist()


def as_multiset(rows):
    # JSON has one kind of number: 5 and 5.0 are the same.
    whole = [
        {
            key: int(value) if isinstance(value, float) and value.is_integer() else value
            for key, value in row.items()
        }
        for row in rows
    ]
    present = [{key: value for key, value in row.items() if value is not None} for row in whole]
    return sorted(json.dumps(row, sort_keys=True) for row in present)


def table_or_refusal(definition, export):
    """The view's table, or the code with which it is refused."""
    try:
        view = parse_view(definition)
        return run_views([view], export)[view.name]
    except GemelError as error:
        return error.code


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_sql_on_fhir_cases_are_answered_right_or_refused(name, shared_data, tmp_path):
    path = shared_data / "sql-on-fhir" / f"{name}.json"
    if not path.exists():
        pytest.skip("the official SQL on FHIR cases are not in ../shared/data")
    suite = json.loads(path.read_text())
    # Some of them have no id, which every resource of an export has.
    resources = [{"id": f"r{i}"} | resource for i, resource in enumerate(suite["resources"])]
    (tmp_path / "resources.ndjson").write_text("\n".join(json.dumps(r) for r in resources))
    refused = 0
    for case in suite["tests"]:
        table = table_or_refusal(case["view"], tmp_path)
        if table == "GEM209":
            refused += not case.get("expectError", False)
            continue
        assert not case.get("expectError"), case["title"]
        assert as_multiset(table.to_pylist()) == as_multiset(case["expect"]), case["title"]
        assert table.column_names == case.get("expectColumns", table.column_names)
    assert refused == REFUSED.get(name, 0)


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("name.family.upper()", "upper()"),
        ("name.given.count() > 1", "count()"),
        ("nme.family", "no element nme"),
        ("deceased", "ofType"),
        ("deceased.ofType(string)", "never a string"),
        ("deceasedBoolean", "no element deceasedBoolean"),
        ("birthDate > @2000-01-01", "> between"),
        ("birthDate = '2000-01-01'", "comparing date with string"),
        ("gender & 'x'", "operator &"),
        ("name", "is a HumanName"),
        ("%nothing", "not defined"),
        ("name.where(family)", "criterion"),
        ("name.family = name.given", "two collections"),
        ("gender.", "expected a name"),
        ("'open", "unexpected"),
        ("((((" * 40, "deeply"),
    ],
)
def test_an_unsupported_expression_is_refused_by_name(path, named):
    view = view_of({"x": path})
    with pytest.raises(GemelError) as caught:
        run_views([view], "unused")
    assert caught.value.code == "GEM209"
    assert named in caught.value.message


@pytest.mark.parametrize(
    "change",
    [
        {"resource": "Pateint"},
        {"select": []},
        {"selects": [], "select": [{"column": [{"name": "a", "path": "id"}]}]},
        {"select": [{"column": [{"name": "a", "path": "id", "collction": True}]}]},
        {"select": [{"column": [{"name": "a", "path": "id"}, {"name": "a", "path": "gender"}]}]},
        {"select": [{"column": [{"name": 'a"; DROP TABLE', "path": "id"}]}]},
        {"name": "../up", "select": [{"column": [{"name": "a", "path": "id"}]}]},
        {"constant": [{"name": "c"}], "select": [{"column": [{"name": "a", "path": "id"}]}]},
    ],
)
def test_a_malformed_view_definition_is_refused(change):
    with pytest.raises(GemelError) as caught:
        parse_view({"resource": "Patient"} | change)
    assert caught.value.code == "GEM209"


def test_precedence_of_fhirpath_operators_is_kept():
    assert fhirpath.parse("a or b and c = d") == fhirpath.parse("a or (b and (c = d))")
    assert fhirpath.parse("a.b.where(c = 'it\\'s')") != fhirpath.parse("a.b.where(c = 'its')")


@pytest.mark.parametrize(
    ("reference", "key"),
    [
        ("Patient/p1", "p1"),
        ("https://fhir.example/r4/Patient/p1", "p1"),
        ("Patient/p1/_history/3", "p1"),
        ("urn:uuid:0a-b", "0a-b"),
        ("Group/g1", None),
        ("#contained", None),
    ],
)
def test_a_reference_key_is_the_id_of_a_patient(reference, key, tmp_path, fhir):
    observation = fhir.observation("x", "8480-6", 1, "mm[Hg]", "2020") | {"subject": {"reference": reference}}
    view = parse_view(
        {
            "resource": "Observation",
            "select": [{"column": [{"name": "key", "path": "subject.getReferenceKey(Patient)"}]}],
        }
    )
    assert rows_of(view, tmp_path, observation) == [{"key": key}]


@pytest.mark.parametrize(
    ("recorded", "asked", "same"),
    [
        ("2020-01-01T12:00:00+02:00", "2020-01-01T10:00:00Z", True),
        ("2020-01-01T12:00:00Z", "2020-01-01T12:00:01Z", False),
        ("2020-01", "2020-01-05", None),
        ("2020-02", "2020-01-05", False),
    ],
)
def test_times_are_compared_as_instants_and_by_precision(recorded, asked, same, tmp_path, fhir):
    view = view_of(
        {"same": "deceased.ofType(dateTime) = %t"}, constant=[{"name": "t", "valueDateTime": asked}]
    )
    rows = rows_of(view, tmp_path, fhir.patient("p", deceasedDateTime=recorded))
    assert rows == [{"same": same}]


def test_more_than_one_value_in_a_single_column_is_an_error_not_a_choice(tmp_path, fhir):
    patient = fhir.patient("p", name=[{"family": "A"}, {"family": "B"}])
    with pytest.raises(GemelError, match="more than one value") as caught:
        rows_of(view_of({"family": "name.family"}), tmp_path, patient)
    assert caught.value.code == "GEM209"


def test_text_in_a_view_cannot_leave_its_literal(tmp_path, fhir):
    view = view_of({"hit": "gender = 'x\\' OR 1=1 --'", "text": "'a\\'\\'; DROP'"})
    assert rows_of(view, tmp_path, fhir.patient("p")) == [{"hit": False, "text": "a''; DROP"}]


def test_one_view_sees_only_the_newest_version_of_a_resource(tmp_path, fhir):
    versions = [
        fhir.patient("p", gender="female", meta={"lastUpdated": "2020-01-01T00:00:00Z"}),
        fhir.patient("p", gender="male", meta={"lastUpdated": "2021-01-01T00:00:00+01:00"}),
        fhir.patient("p", gender="other", meta={"lastUpdated": "2020-06-01T00:00:00Z"}),
    ]
    assert rows_of(view_of({"gender": "gender"}), tmp_path, *versions) == [{"gender": "male"}]


def test_components_become_rows_of_the_standard_observation_view(tmp_path, fhir):
    fhir.write(tmp_path, {"o.ndjson": [fhir.pressure_panel("p", 120, 80, "2020-01-01")]})
    table = run_views(standard_views(), tmp_path)["observation"]
    found = {(row["code"], row["value"], row["unit_code"]) for row in table.to_pylist()}
    assert found == {("85354-9", None, None), ("8480-6", 120.0, "mm[Hg]"), ("8462-4", 80.0, "mm[Hg]")}


def test_views_are_written_as_one_parquet_file_each(tmp_path, fhir):
    export = fhir.write(tmp_path / "in", {"x.ndjson": [fhir.patient("p"), fhir.encounter("p", "2020-01-01")]})
    definition = {"resource": "Patient", "select": [{"column": [{"name": "id", "path": "id"}]}]}
    (tmp_path / "who.json").write_text(json.dumps(definition))
    views = [load_view(tmp_path / "who.json"), *standard_views()]
    paths = write_views(views, export, tmp_path / "out")
    names = ["who", "patient", "observation", "condition", "encounter"]
    assert [path.name for path in paths] == [f"{name}.parquet" for name in names]
    assert pq.read_table(paths[0]).to_pylist() == [{"id": "p"}]
    assert pq.read_table(paths[3]).num_rows == 0


def test_the_element_table_is_that_of_the_fhir_models():
    assert _table() == derive_from_models()
