"""`gemel data`: an error names the file and a next step that fits; --strict; what may be a lost denial is said aloud."""

import json

import pytest
from typer.testing import CliRunner

from gemel.cli.main import app

RUNNER = CliRunner()
VIEW = {
    "resourceType": "ViewDefinition",
    "name": "people",
    "resource": "Patient",
    "status": "active",
    "select": [{"column": [{"name": "id", "path": "id"}]}],
}


def _run(*arguments):
    return RUNNER.invoke(app, [str(argument) for argument in arguments])


def _write(folder, name, *resources):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("".join(json.dumps(resource) + "\n" for resource in resources))
    return folder


def _patient(key, **more):
    return {"resourceType": "Patient", "id": key, "gender": "female", "birthDate": "1950-01-01", **more}


@pytest.fixture
def export(tmp_path):
    return _write(tmp_path / "export", "Patient.ndjson", _patient("p0"))


def _view(tmp_path, file, **changes):
    path = tmp_path / file
    path.write_text(json.dumps(VIEW | changes))
    return path


BAD = [{"column": [{"name": "id", "path": "nonsense("}]}]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: p / "nope.json", ["nope.json cannot be read: No such file", "Check the path"]),
        (lambda p: p, ["cannot be read: Is a directory", "Check the path"]),
        (lambda p: _raw(p / "torn.json", "{"), ["torn.json is not JSON", "ViewDefinition as JSON"]),
        (lambda p: _raw(p / "deep.json", "[" * 99_999), ["deep.json is not JSON: it is nested too deeply"]),
        (lambda p: _view(p, "bad.json", name="bad", select=BAD), ["bad.json: Not a FHIRPath expression"]),
        (lambda p: _raw(p / "p.json", json.dumps(_patient("x"))), ["p.json: Expected a ViewDefinition, got"]),
        (lambda p: _view(p, "again.json"), ["good.json and", "again.json both define a view people"]),
    ],
)
def test_of_several_views_the_one_at_fault_is_named_with_a_step_that_fits(export, tmp_path, make, said):
    good, odd = _view(tmp_path, "good.json"), make(tmp_path)
    result = _run("data", "view", good, odd, export, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert result.stderr.startswith("GEM209")
    assert all(text in result.stderr for text in said), result.stderr
    assert "Rewrite the expression" not in result.stderr
    assert not (tmp_path / "out").exists()


def _raw(path, text):
    path.write_text(text)
    return path


def test_a_mapping_that_is_not_there_is_a_question_of_the_path(export, tmp_path):
    result = _run("data", "check", export, "--mapping", tmp_path / "nope.toml")
    assert result.exit_code == 2
    assert "GEM240" in result.stderr
    assert "Check the path" in result.stderr
    assert "Correct the line" not in result.stderr


def test_an_empty_folder_is_called_empty(tmp_path):
    (tmp_path / "empty").mkdir()
    result = _run("data", "check", tmp_path / "empty")
    assert result.stderr.startswith("GEM208")
    assert "is empty" in result.stderr
    assert "export was written" in result.stderr


def test_a_folder_that_cannot_be_made_leads_to_another_folder(export, tmp_path):
    (tmp_path / "file").write_text("")
    result = _run("data", "view", _view(tmp_path, "v.json"), export, "-o", tmp_path / "file" / "x")
    assert result.exit_code == 1
    assert "GEM234" in result.stderr
    assert "another folder with --out" in result.stderr
    assert "Free space" not in result.stderr


def test_the_exit_code_tells_whether_a_check_ran_and_strict_whether_something_must_be_done(export):
    assert _run("data", "check", export, "--strict").exit_code == 0
    _write(export, "More.ndjson", _patient("p1", gender="M"))
    assert _run("data", "check", export).exit_code == 0
    strict = _run("data", "check", export, "--strict", "--format", "json")
    assert strict.exit_code == 1
    assert any(item["weight"] == "must" for item in json.loads(strict.stdout)["to_do"])
    text = " ".join(_run("data", "check", "--help").stdout.replace("│", " ").split())
    assert "not whether the data are fit" in text


def test_a_consent_that_names_nobody_is_said_aloud_by_check_and_build(export, tmp_path):
    codes = {"system": "http://hl7.org/fhir/sid/icd-10", "code": "K76.0"}
    subject = {"reference": "Patient/p0"}
    liver = {
        "resourceType": "Condition",
        "id": "c",
        "subject": subject,
        "code": {"coding": [codes]},
        "onsetDateTime": "2010-01-01",
    }
    visits = [
        {
            "resourceType": "Encounter",
            "id": f"e{year}",
            "status": "finished",
            "class": {"code": "AMB"},
            "subject": subject,
            "period": {"start": f"{year}-02-01", "end": f"{year}-02-02"},
        }
        for year in (2010, 2011, 2020)
    ]
    denial = {"resourceType": "Consent", "id": "k", "status": "active", "provision": {"type": "deny"}}
    _write(export, "More.ndjson", liver, *visits, denial)
    checked = _run("data", "check", export, "--programme", "fatty_liver")
    assert "1 Consents name no patient of this export" in checked.stderr
    assert "each may be a denial that is lost" in " ".join(checked.stdout.split())
    built = _run("data", "build", export, "--programme", "fatty_liver", "-o", tmp_path / "out")
    assert built.exit_code == 0, built.stderr
    assert "ATTENTION: 1 Consents name no patient" in built.stderr
    assert json.loads((tmp_path / "out" / "card.json").read_text())["consents_of_nobody"] == 1


def test_the_table_says_why_there_are_more_patients_than_values(export):
    def low(key, **more):
        return {
            "resourceType": "Observation",
            "id": key,
            "status": "final",
            "code": {"coding": [{"system": "http://loinc.org", "code": "2085-9"}]},
            "subject": {"reference": "Patient/p0"},
            "effectiveDateTime": "2010-01-01",
            **more,
        }

    quantity = {"value": 20, "comparator": "<", "system": "http://unitsofmeasure.org", "code": "mg/dL"}
    absent = {"dataAbsentReason": {"coding": [{"code": "unknown"}]}}
    _write(export, "More.ndjson", low("a", valueQuantity=quantity), low("b", **absent), low("c", **absent))
    shown = _run("data", "check", export, "--programme", "fatty_liver").stdout
    [row] = [line.split() for line in shown.splitlines() if line.strip().startswith("hdl_cholesterol ")]
    assert row == ["hdl_cholesterol", "0", "1", "1", "100%", "2010-2010", "0", "2", "0"]
    [head] = [line.split() for line in shown.splitlines() if "Concept" in line and "Bounds" in line]
    assert head[:4] == ["Concept", "Values", "Bounds", "Patients"]
