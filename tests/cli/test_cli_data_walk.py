"""A hospital never seen before: check, suggested mapping, filled in, data set; no code touched. And the other verbs."""

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from fhir_stub import Reply, as_json, serving
from typer.testing import CliRunner
from unseen_hospital import PATIENTS, fill_in, write_export

from gemel.cli.main import app
from gemel.core.dataset import Dataset

RUNNER = CliRunner()


def _run(*arguments):
    return RUNNER.invoke(app, [str(argument) for argument in arguments])


def _check(export, *options):
    result = _run("data", "check", export, "--programme", "fatty_liver", "--format", "json", *options)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def _with(paths):
    return [part for path in paths for part in ("--mapping", path)]


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """The walk of a data steward: (folder, reports of the rounds, mappings)."""
    folder = tmp_path_factory.mktemp("unseen")
    export = write_export(folder / "export")
    reports, mappings = [], []
    for i in (1, 2, 3):
        suggested = folder / f"suggested-{i}.toml"
        report = _check(
            export,
            *("--suggest-mapping", suggested, "--html", folder / f"report-{i}.html", "--validate", "off"),
            *_with(mappings),
        )
        reports.append(report)
        if i < 3:
            mappings.append(folder / f"filled-{i}.toml")
            mappings[-1].write_text(fill_in(suggested.read_text("utf-8")), "utf-8")
    return folder, reports, mappings


def test_the_first_report_says_what_is_not_known_and_loses_no_line(walked):
    _, [report, *_], _ = walked
    assert all(file["read"] == file["accepted"] + file["rejected"] for file in report["files"])
    assert report["rejects_by_code"] == {"GEM201": 2, "GEM202": PATIENTS, "GEM207": 1}
    called = {code["code"]: code["display"] for code in report["unmapped"]}
    assert (called["HDLC"], called["FETTL"]) == ("HDL-Cholesterin", "Fettleber")
    assert not any(concept["patients"] for concept in report["coverage"])
    assert "map them under [codes]" in report["to_do"][0]["fix"]


def test_once_codes_are_mapped_the_units_and_the_lines_that_solve_them_are_named(walked):
    _, [_, report, _], _ = walked
    units = {(u["concept"], u["unit"]): u["count"] for u in report["unit_examples"]}
    assert units == {
        ("body_mass_index", ""): PATIENTS,
        ("hdl_cholesterol", "MG PRO DL"): PATIENTS,
        ("systolic_blood_pressure", "mmHg art."): PATIENTS,
    }
    fixes = {reject["reason"]: reject["fix"] for reject in report["rejects"]}
    assert "[default_units]" in fixes["the quantity has a value and no unit (body_mass_index)"]
    spelling = fixes["'MG PRO DL' cannot become mg/dL (hdl_cholesterol)"]
    assert "[units_of.hdl_cholesterol]" in spelling
    assert '"MG PRO DL" = ' in spelling


def test_with_the_mapping_filled_in_every_usable_value_is_used(walked):
    _, [*_, report], _ = walked
    patients = {concept["concept"]: concept["patients"] for concept in report["coverage"]}
    assert patients["hdl_cholesterol"] == patients["body_mass_index"] == PATIENTS
    assert patients["fatty_liver"] == PATIENTS // 2
    assert report["rejects_by_code"] == {"GEM201": 2, "GEM207": 1}
    assert report["default_units"] == {"body_mass_index": PATIENTS}
    assert (report["mapping"]["skipped"], report["mapping"]["never_seen"]) == ([], [])
    assert report["orphans"] == {"Condition": 1}


def test_and_a_data_set_is_built_of_it(walked):
    folder, _, mappings = walked
    arguments = ["data", "build", "--programme", "fatty_liver", folder / "export", *_with(mappings)]
    result = _run(*arguments, "-o", folder / "built", "--format", "json")
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    dataset = Dataset.load(Path(answer["dataset"]))
    assert (len(dataset), answer["patients"], answer["snapshot"]) == (PATIENTS, PATIENTS, dataset.snapshot)
    column = dataset.values[:, dataset.features.index("hdl_cholesterol_mg_dl")]
    assert np.array_equal(np.sort(column), np.arange(35, 35 + PATIENTS, dtype=np.float32))
    card = json.loads((folder / "built" / "card.json").read_text("utf-8"))
    assert card["snapshot"] == dataset.snapshot
    assert {path.stat().st_mode & 0o077 for path in (folder / "built").iterdir()} == {0}
    assert "Müller" not in (folder / "built" / "card.json").read_text("utf-8")
    # The same key gives the same pseudonyms, and another key others.
    again = _run(*arguments, "-o", folder / "again", "--key", folder / "built" / "pseudonym.key")
    assert again.exit_code == 0
    assert dataset.snapshot in again.stdout
    assert f"in the data set   {PATIENTS:>6}" in again.stdout or str(PATIENTS) in again.stdout
    other = _run(*arguments, "-o", folder / "other", "--format", "json", "--workers", 2)
    assert json.loads(other.stdout)["snapshot"] != dataset.snapshot


def test_the_page_of_the_unseen_hospital_shows_hostile_displays_as_text(walked):
    folder, _, _ = walked
    page = (folder / "report-1.html").read_text("utf-8")
    assert "Kalzium &lt;i&gt;frei&lt;/i&gt;" in page
    assert "<i>frei</i>" not in page
    assert (folder / "report-1.html").stat().st_mode & 0o077 == 0


def test_a_suggested_mapping_never_replaces_one_that_somebody_filled_in(walked):
    folder, _, _ = walked
    before = (folder / "suggested-1.toml").read_text("utf-8")
    options = ["data", "check", folder / "export", "--programme", "fatty_liver"]
    result = _run(*options, "--suggest-mapping", folder / "suggested-1.toml")
    assert result.exit_code == 2
    assert (folder / "suggested-1.toml").read_text("utf-8") == before
    result = _run("data", "check", folder / "export", "--suggest-mapping", folder / "new.toml")
    assert result.exit_code == 2
    assert "--programme" in result.stderr


def test_an_opt_out_takes_the_person_out_and_an_entry_of_nobody_is_said_loudly(walked, tmp_path):
    folder, _, mappings = walked
    (tmp_path / "out.txt").write_text("P003\nP999\n")
    options = ["--programme", "fatty_liver", "--opt-out", tmp_path / "out.txt", *_with(mappings)]
    result = _run("data", "check", folder / "export", *options, "--format", "json", "--validate", "full")
    answer = json.loads(result.stdout)
    assert (answer["patients"], answer["consent"]["unmatched"]) == (PATIENTS - 1, 1)
    assert answer["withheld"]["patients"] == 1
    assert "1 entries of the opt-out list name no patient" in result.stderr
    assert answer["to_do"][0]["weight"] == "must"
    assert answer["validation"]["checked"] == answer["accepted"] - answer["withheld"]["lines"]
    built = _run("data", "build", folder / "export", *options, "-o", tmp_path / "built", "--format", "json")
    assert json.loads(built.stdout)["patients"] == PATIENTS - 1


@pytest.mark.parametrize("kind", ["absent", "open to others", "too short"])
def test_a_key_that_hides_nobody_is_refused(walked, tmp_path, kind):
    folder, _, _ = walked
    key = tmp_path / "key"
    if kind != "absent":
        key.write_bytes(b"k" * (31 if kind == "too short" else 32))
        key.chmod(0o644 if kind == "open to others" else 0o600)
    result = _run(
        "data", "build", "--programme", "fatty_liver", folder / "export", "-o", tmp_path / "o", "--key", key
    )
    assert result.exit_code == 2
    assert result.stderr.startswith("GEM246")


def test_the_terminal_shows_brackets_and_control_characters_of_an_export_as_text(tmp_path):
    export = tmp_path / "export"
    export.mkdir()
    code = {"coding": [{"code": "[red]x[/red]\u001b[31m", "display": "[bold]d[/bold]\u009b"}]}
    lines = [
        {"resourceType": "Patient", "id": "p"},
        {"resourceType": "Condition", "id": "c", "subject": {"reference": "Patient/p"}, "code": code},
    ]
    (export / "[b]x.ndjson").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = _run("data", "check", export, "--programme", "fatty_liver")
    assert result.exit_code == 0
    for text in ("[red]x[/red]", "[bold]d[/bold]", "[b]x.ndjson"):
        assert text in result.stdout
    assert not {"\u001b", "\u009b"} & set(result.stdout)


def _bulk(stub):
    stub.routes["GET", "/fhir/$export"] = Reply(202, headers={"Content-Location": f"{stub.url}/job"})
    output = [{"type": "Patient", "url": f"{stub.url}/f/p", "count": 1}]
    stub.routes["GET", "/job"] = as_json(
        {
            "transactionTime": "2024-01-01T00:00:00Z",
            "request": "x",
            "requiresAccessToken": False,
            "output": output,
            "error": [],
        }
    )
    body = msgspec.json.encode({"resourceType": "Patient", "id": "p"}) + b"\n"
    stub.routes["GET", "/f/p"] = Reply(200, body, {"Content-Type": "application/fhir+ndjson"})
    stub.routes["DELETE", "/job"] = Reply(202)


def test_an_export_is_fetched_from_a_server_and_goes_on_from_an_earlier_one(tmp_path):
    with serving() as stub:
        _bulk(stub)
        result = _run(
            "data",
            "export",
            f"{stub.url}/fhir/",
            "-o",
            tmp_path / "one",
            "--type",
            "Patient",
            "--format",
            "json",
        )
        assert result.exit_code == 0, result.stderr
        answer = json.loads(result.stdout)
        assert (answer["lines"], answer["transaction_time"]) == ({"Patient": 1}, "2024-01-01T00:00:00Z")
        assert _run("data", "check", tmp_path / "one").exit_code == 0
        shown = _run(
            "data", "export", f"{stub.url}/fhir", "-o", tmp_path / "two", "--since", tmp_path / "one"
        )
        assert shown.exit_code == 0, shown.stderr
        assert "Patient" in shown.stdout
        first, second = (asked.query for asked in stub.asked("/fhir/$export"))
    assert first["_type"] == ["Patient"]
    assert second["_since"] == ["2024-01-01T00:00:00Z"]


@pytest.mark.parametrize(
    "options", [["--since", "yesterday"], ["--type", "patient"], ["--search", "?x"], ["--group", "a b"]]
)
def test_a_wrong_wish_is_refused_before_anything_is_asked(options, tmp_path):
    with serving() as stub:
        result = _run(
            "data", "export", f"{stub.url}/fhir", "-o", tmp_path / "o", *options, "--format", "json"
        )
        assert stub.log == []
    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"]["code"] == "GEM228"


_WITH_LITTLE_ROOM = """
import resource, sys
from typer.testing import CliRunner
from gemel.cli.main import app
from gemel.core.dataset import Dataset
save = Dataset.save
def with_little_room(self, path):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
    save(self, path)
Dataset.save = with_little_room
result = CliRunner().invoke(app, sys.argv[2:])
sys.stderr.write(result.stderr)
print(type(result.exception).__name__, result.exit_code)
"""


@pytest.mark.parametrize("holds", ["nothing", "the data set without its card"])
def test_a_full_disk_is_said_and_leaves_the_pair_that_was_there(walked, tmp_path, holds):
    folder, _, mappings = walked
    arguments = [
        "data",
        "build",
        "--programme",
        "fatty_liver",
        folder / "export",
        *_with(mappings),
        "-o",
        tmp_path,
    ]
    assert _run(*arguments).exit_code == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    [dataset] = (name for name in before if name.endswith(".safetensors"))
    card, data = len(before["card.json"]), len(before[dataset])
    assert card > data + 200
    room_bytes = 100 if holds == "nothing" else (card + data) // 2
    command = [sys.executable, "-c", _WITH_LITTLE_ROOM, room_bytes, *arguments]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
    assert "GEM234" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.split()[0] == "SystemExit"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_cdm_names_rejected_rows_and_shouts_about_an_opt_out_list_that_names_nobody(tmp_path):
    tables = {
        "person": "person_id,gender_concept_id,year_of_birth\n1,8507,1960\n2,8532,1900000\n3,8532,1950\n",
        "visit_occurrence": "visit_occurrence_id,person_id,visit_concept_id,visit_start_date,visit_end_date\n"
        "1,1,0,2010-01-01,2018-01-01\n2,1,0,SECRET,2018-01-01\n3,3,0,2010-01-01,2018-01-01\n",
        "concept": "concept_id,vocabulary_id,concept_code\n",
    }
    (tmp_path / "cdm").mkdir()
    for name, content in tables.items():
        (tmp_path / "cdm" / f"{name}.csv").write_text(content)
    (tmp_path / "opt.txt").write_text("3\nEVE\n")
    programme = ("--programme", "fatty_liver", "--opt-out", tmp_path / "opt.txt")
    result = _run("data", "build", tmp_path / "cdm", *programme, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    shown = " ".join(result.stdout.split())
    assert "2 rows were left out" in shown
    assert "card.json lists" in shown
    assert "gemel data check" not in shown
    assert "visit_occurrence.csv:2 GEM210 visit_occurrence visit_start_date" in shown
    assert "ATTENTION: 1 entries of the opt-out list name nobody in this source (lines 2)" in shown
    assert "SECRET" not in shown
    assert "EVE" not in shown
