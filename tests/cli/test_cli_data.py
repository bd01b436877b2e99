"""`gemel data`: what a steward sees of an export, and what a script gets."""

import json

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from gemel.cli.main import app
from gemel.twins.programmes.fatty_liver import PROGRAMME

RUNNER = CliRunner()
PATIENTS = [
    {"resourceType": "Patient", "id": f"p{i}", "gender": "female", "birthDate": "1950-01-01"}
    for i in range(3)
]
VIEW = {
    "resourceType": "ViewDefinition",
    "name": "people",
    "resource": "Patient",
    "status": "active",
    "select": [{"column": [{"name": "id", "path": "id"}, {"name": "gender", "path": "gender"}]}],
}


def _run(*arguments):
    return RUNNER.invoke(app, [str(argument) for argument in arguments])


def _observation(**changes):
    return {
        "resourceType": "Observation",
        "id": "o1",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "39156-5"}]},
        "subject": {"reference": "Patient/p0"},
        "effectiveDateTime": "2010-01-01",
        "valueQuantity": {"value": 31.0, "system": "http://unitsofmeasure.org", "code": "kg/m2"},
        **changes,
    }


@pytest.fixture
def export(tmp_path):
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "Patient.ndjson").write_text("".join(json.dumps(p) + "\n" for p in PATIENTS))
    (folder / "Observation.ndjson").write_text(json.dumps(_observation()) + "\n")
    return folder


@pytest.fixture
def view(tmp_path):
    path = tmp_path / "people.json"
    path.write_text(json.dumps(VIEW))
    return path


def test_check_counts_every_line_of_every_file(export):
    result = _run("data", "check", export, "--format", "json")
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    counted = {f["file"]: (f["read"], f["accepted"], f["rejected"]) for f in answer["files"]}
    assert counted == {"Patient.ndjson": (3, 3, 0), "Observation.ndjson": (1, 1, 0)}
    assert answer["fhir_version"] == "R4"
    assert answer["rejects"] == []
    assert {"coverage", "rejects", "files", "fhir_version"} <= set(answer)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ('{"resourceType": "Observation", "id"', "GEM201"),
        (json.dumps(_observation(valueQuantity={"value": 31.0})), "GEM202"),
        (json.dumps({"resourceType": "Observation"}), "GEM207"),
    ],
)
def test_a_bad_line_is_rejected_by_file_line_and_code_and_nothing_else_is_lost(export, line, code):
    with (export / "Observation.ndjson").open("a") as file:
        file.write(line + "\n")
    result = _run("data", "check", export, "--programme", "fatty_liver", "--format", "json")
    answer = json.loads(result.stdout)
    reject = answer["rejects"][0]
    assert (reject["file"], reject["line"], reject["code"]) == ("Observation.ndjson", 2, code)
    assert (answer["accepted"], answer["rejected_total"]) == (4, 1)
    shown = _run("data", "check", export, "--programme", "fatty_liver").stdout
    assert "Observation.ndjson:2" in shown
    assert code in shown


def test_coverage_names_the_programmes_concepts(export):
    answer = json.loads(
        _run(
            "data",
            "check",
            export,
            "--programme",
            f"{PROGRAMME.name}@{PROGRAMME.version}",
            "--format",
            "json",
        ).stdout
    )
    coverage = {concept["concept"]: concept["patients"] for concept in answer["coverage"]}
    assert coverage["body_mass_index"] == 1
    assert coverage["stroke"] == 0
    assert "body_mass_index" in _run("data", "check", export, "--programme", "fatty_liver").stdout


@pytest.mark.parametrize("name", ["no_such_programme", "fatty_liver@99"])
def test_a_programme_that_is_not_installed_exits_with_three(export, name):
    result = _run("data", "check", export, "--programme", name)
    assert result.exit_code == 3
    assert result.stderr.startswith("GEM104")
    assert "fatty_liver" in result.stderr


def test_an_export_without_patients_is_gem205_beside_its_account(export):
    (export / "Patient.ndjson").unlink()
    result = _run("data", "check", export, "--format", "json")
    assert result.exit_code == 1
    assert result.stderr.startswith("GEM205")
    assert json.loads(result.stdout)["patients"] == 0


def test_a_path_that_is_no_export_exits_with_two_and_one_object(tmp_path):
    result = _run("data", "check", tmp_path / "absent", "--format", "json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"]["code"] == "GEM208"


def test_full_validation_names_what_the_fhir_models_refuse(export):
    with (export / "Patient.ndjson").open("a") as file:
        file.write(json.dumps({**PATIENTS[0], "id": "p9", "maritalStatus": "single"}) + "\n")
    answer = json.loads(_run("data", "check", export, "--validate", "full", "--format", "json").stdout)
    assert (answer["validation"]["checked"], answer["validation"]["failed"]) == (5, 1)
    assert json.loads(_run("data", "check", export, "--validate", "off", "--format", "json").stdout)["validation"][
        "checked"
    ] == 0  # fmt: skip


def test_a_view_becomes_a_parquet_file_of_its_name(export, view, tmp_path):
    result = _run("data", "view", view, export, "-o", tmp_path / "tables", "--format", "json")
    assert result.exit_code == 0, result.stderr
    written = json.loads(result.stdout)["files"]
    assert [(file["view"], file["rows"]) for file in written] == [("people", 3)]
    rows = pq.read_table(tmp_path / "tables" / "people.parquet").to_pylist()
    assert rows[0] == {"id": "p0", "gender": "female"}


def test_a_view_without_an_export_is_usage(view, tmp_path):
    result = _run("data", "view", view, "-o", tmp_path / "tables")
    assert result.exit_code == 2
    assert "GEM209" in result.stderr


@pytest.mark.parametrize("content", [None, "not json", "{}", json.dumps({**VIEW, "select": []})])
def test_a_file_that_is_no_view_is_gem209(export, tmp_path, content):
    path = tmp_path / "view.json"
    if content is not None:
        path.write_text(content)
    result = _run("data", "view", path, export, "-o", tmp_path / "tables")
    assert result.exit_code == 2, result.stderr
    assert result.stderr.startswith("GEM209")


def _write(folder, name, *resources):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("".join(json.dumps(resource) + "\n" for resource in resources))
    return folder


def test_check_says_what_to_do_about_unknown_codes_and_units(export):
    local = {"coding": [{"system": "http://hospital.example/lab", "code": "BMI-7"}]}
    stone = {"value": 5, "unit": "stone"}
    more = [_observation(id=f"s{i}", valueQuantity=stone) for i in range(3)]
    _write(
        export,
        "More.ndjson",
        *more,
        _observation(id="l", code=local),
        _observation(id="n", valueQuantity={"value": 1}),
    )
    shown = _run("data", "check", export, "--programme", "fatty_liver").stdout
    units, codes = (
        shown.index("Units that cannot be used"),
        shown.index("Codes that the programme does not know (1)"),
    )
    assert "stone" in shown[units:codes]
    assert "More.ndjson:1" in shown[units:codes]
    assert "write UCUM in valueQuantity.code" in shown[units:codes]
    assert "BMI-7" in shown[codes:]
    assert "http://hospital.example/lab" in shown[codes:]
    assert "further coding beside the local one" in shown[codes:]


def test_check_names_what_it_did_not_read_and_whose_patient_is_missing(export):
    (export / "Labs.csv").write_text("a,b\n")
    (export / "2023").mkdir()
    _write(export, "More.ndjson", _observation(id="o", subject={"reference": "Patient/other"}))
    result = _run("data", "check", export, "--programme", "fatty_liver")
    assert result.exit_code == 0
    assert "whose patient is not in the export: Observation 1" in result.stdout
    assert "2023: a folder" in result.stdout
    assert "Labs.csv: its name does not end in" in result.stdout
    answer = json.loads(_run("data", "check", export, "--format", "json").stdout)
    assert len(answer["unread"]) == 2


@pytest.mark.parametrize("command", ["check", "view"])
@pytest.mark.parametrize("kind", ["absent", "no NDJSON", "broken gzip", "long name", "text file", "link out"])
def test_an_export_that_cannot_be_read_says_so_by_code_and_exit_code(command, kind, view, tmp_path):
    export = tmp_path / ("x" * 300 if kind == "long name" else "bad")
    if kind not in ("absent", "long name"):
        export.mkdir()
    if kind == "broken gzip":
        (export / "a.ndjson.gz").write_bytes(b"nope")
    if kind == "text file":
        export = export / "notes.txt"
        export.write_text("x")
    if kind == "link out":
        (tmp_path / "secret.ndjson").write_text("{}")
        (export / "a.ndjson").symlink_to(tmp_path / "secret.ndjson")
    arguments = [export] if command == "check" else [view, export, "-o", tmp_path / "out"]
    result = _run("data", command, *arguments, "--format", "json")
    # A damaged file is not the call's fault, and what stands before the damage may be looked at by hand.
    code, exit_code = ("GEM220", 1) if kind == "broken gzip" else ("GEM208", 2)
    assert result.exit_code == exit_code
    assert result.stderr.startswith(code)
    assert json.loads(result.stdout)["error"]["code"] == code
    assert not (tmp_path / "out").exists()


def test_a_view_says_how_many_lines_it_left_out_and_why(export, view, tmp_path):
    with (export / "Patient.ndjson").open("a") as file:
        file.write(
            '{"resourceType": "Patient", "id": "a", "id": "b"}\n{"resourceType": "Patient", "id": "c", "gender": 1}\n'
        )
    (export / "more.xml").write_text("<x/>")
    result = _run("data", "view", view, export, "-o", tmp_path / "tables", "--format", "json")
    assert result.exit_code == 0
    answer = json.loads(result.stdout)
    assert (answer["read"], answer["accepted"], answer["rejected"]) == (6, 4, 2)
    assert answer["unread"][0].startswith("more.xml")
    assert "2 of 6 lines were left out (GEM201 1, GEM214 1)" in result.stderr
    assert "more.xml" in result.stderr


def test_a_view_cannot_be_written_where_a_file_is(export, view, tmp_path):
    (tmp_path / "taken").write_text("x")
    result = _run("data", "view", view, export, "-o", tmp_path / "taken")
    assert result.exit_code == 2
    assert "is no folder" in result.stderr
    assert (tmp_path / "taken").read_text() == "x"


@pytest.mark.parametrize("arguments", [(), ("--validate", "all"), ("--format", "xml"), ("--nothing",)])
def test_a_wrong_call_of_check_exits_with_two(export, arguments):
    given = [export] if arguments else []
    assert _run("data", "check", *given, *arguments).exit_code == 2


def test_the_result_of_a_long_view_is_json_alone(export, view, tmp_path):
    # The engine draws a progress bar on stdout after two seconds unless it is told not to.
    from gemel.data_adapters.views.duckdb_engine import SETTINGS

    assert "SET enable_progress_bar = false" in SETTINGS
