"""`gemel synth`: a run's folder, a model, a report, the gate, cohorts; as a researcher and an officer type it."""

from __future__ import annotations

import csv
import itertools
import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_process import start
from small_study import small_study
from typer.testing import CliRunner, Result

from gemel.cli.demo.federation import Federation, create
from gemel.cli.main import app
from gemel.cli.synth import FORMATS
from gemel.cli.synth_conditions import read_conditions
from gemel.cli.synth_steps import examine, write_reports
from gemel.core.errors import GemelError
from gemel.core.signing import SigningKey, fingerprint, sign_document
from gemel.synthetic.columns import Numbers
from gemel.synthetic.domain import domain_of
from gemel.synthetic.export import Format
from gemel.synthetic.model_file import read_model
from gemel.synthetic.report.attacks import QUICK
from gemel.synthetic.report.gate import REQUIRED
from gemel.twins.programmes.fatty_liver import PROGRAMME

DOMAIN = domain_of(PROGRAMME)


def _gemel(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def _json(*arguments: object, code: int = 0) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(_gemel(*arguments, "--format", "json", code=code).stdout)
    return told


@pytest.fixture(scope="module")
def federation(exports: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """Three small hospitals after a whole run."""
    folder = tmp_path_factory.mktemp("synth") / "federation"
    made = create(folder, exports, PROGRAMME, epsilon_cap=3.0, delta=1e-5, minimum_patients=50)
    coordinator, _, _ = start(made, small_study(made.site_keys))
    coordinator.run()
    return made


@pytest.fixture(scope="module")
def run(federation: Federation) -> Path:
    (folder,) = (federation.coordinator.folder / "runs").iterdir()
    return folder


@pytest.fixture(scope="module")
def fitted(run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The model's file, and what `fit` said of it."""
    path = tmp_path_factory.mktemp("fitted") / "cohorts.safetensors"
    return path, _json("synth", "fit", run, "-o", path)


@pytest.fixture(scope="module")
def model(fitted: tuple[Path, dict[str, Any]]) -> Path:
    return fitted[0]


@pytest.fixture(scope="module")
def officer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "officer.key"
    SigningKey.generate().save(path)
    return path


@pytest.fixture(scope="module")
def public(model: Path, officer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report for which no patients were given and no attack was made; the officer signed it."""
    folder = tmp_path_factory.mktemp("public") / "report"
    report = examine(read_model(model), None, seeds=range(5), effort=replace(QUICK, shadows=0, releases=0))
    write_reports(report, folder, internal=False, key=SigningKey.load(officer))
    return folder / "public"


@pytest.fixture
def passed(public: Path, tmp_path: Path) -> Path:
    """What an internal report says of a model whose every row passed."""
    document = json.loads((public / "report.json").read_bytes())
    rows = [row | {"verdict": "pass", "gates": True} for row in document["findings"]]
    blocks = {row["block"] for row in rows}
    rows += [
        rows[0] | {"block": block, "measure": "as it should be"} for block in REQUIRED if block not in blocks
    ]
    path = tmp_path / "internal.json"
    path.write_text(
        json.dumps({**document, "audience": "internal", "findings": rows, "salt": "00", "attacks": 2000})
    )
    return path


def test_fit_says_what_the_model_promises_and_what_it_was_fitted_to(
    fitted: tuple[Path, dict[str, Any]], run: Path
) -> None:
    path, told = fitted
    assert told["bytes"] == path.stat().st_size
    assert told["hospitals"] == 3
    about = told["patients_about"]
    assert about == float(f"{about:.2g}"), "no more figures than an estimate has"
    assert 0 < told["privacy"]["epsilon_synthesis"] < told["privacy"]["epsilon_whole"] <= 3.0
    assert "also of a person who is a patient at 2 of the hospitals" in told["promise"][0]
    linked = {frozenset((line["column"], other)) for line in told["together"] for other in line["with"]}
    assert linked
    assert all(pair <= set(PROGRAMME.feature_names) for pair in linked)
    page = _gemel("synth", "fit", run, "-o", path).stdout
    assert told["model_sha256"] in page, "fitted again, the file is the same"
    assert "(from noisy tables; nobody here knows the number)" in page


def test_a_folder_that_holds_no_finished_run_is_refused_by_its_code(tmp_path: Path) -> None:
    refused = _json("synth", "fit", tmp_path, "-o", tmp_path / "m.safetensors", code=3)
    assert refused["error"]["code"] == "GEM764"
    assert not (tmp_path / "m.safetensors").exists()


def test_a_published_page_refers_to_nothing_outside_itself(public: Path) -> None:
    assert {path.name for path in public.iterdir()} == {"report.html", "report.json", "report.signed.json"}
    page = (public / "report.html").read_text()
    assert "<script" not in page
    assert not any(reference in page for reference in ('src="', "url(", 'href="http'))
    assert "PUBLIC" in page


def test_a_cohort_without_a_report_that_passed_is_not_written(
    model: Path, public: Path, tmp_path: Path
) -> None:
    report = public / "report.json"
    refused = _json("synth", "sample", model, "--report", report, "-o", tmp_path / "out", code=3)
    assert refused["error"]["code"] == "GEM755"
    assert not (tmp_path / "out").exists()
    half = ("--override", "to look at it")
    assert (
        "name"
        in _gemel("synth", "sample", model, "--report", report, "-o", tmp_path / "out", *half, code=2).stderr
    )


def test_a_named_override_is_in_the_manifest_and_verify_says_so(
    model: Path, public: Path, officer: Path, tmp_path: Path
) -> None:
    out, report = tmp_path / "out", public / "report.json"
    override = ("--override", "to look at it", "--by", "Ada Lovelace")
    told = _json(
        "synth", "sample", model, "--report", report, "-o", out, "--patients", 60, "--key", officer, *override
    )
    assert told["decision"]["override"]["by"] == "Ada Lovelace"
    assert told["decision"]["untested"]
    manifest = json.loads((out / "cohort.json").read_bytes())
    assert manifest["decision"]["override"]["reason"] == "to look at it"
    checked = _json("verify", out, "--signer", fingerprint(SigningKey.load(officer).public_hex))
    assert checked["kind"] == "virtual_cohort"
    assert "Ada Lovelace" in json.dumps(checked["checks"])
    (out / "cohort.csv").write_text("age_years\n1\n")
    assert _json("verify", out, code=3)["error"]["code"] == "GEM741"


def test_every_virtual_patient_meets_the_conditions_and_each_cohort_is_another(
    model: Path, passed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    told = _json(
        *("synth", "sample", model, "--report", passed, "-o", out, "--patients", 40, "--cohorts", 2),
        *(
            "--seed",
            5,
            "--where",
            "age_years>=60",
            "--where",
            "age_years<75",
            "--where",
            "male=0",
            "--as",
            "csv",
        ),
    )
    assert told["decision"]["outcome"] == "passed"
    assert told["where"]["age_years"] == ["60 to 65", "65 to 70", "70 to 75"]
    tables = [(out / str(number) / "cohort.csv").read_text() for number in (1, 2)]
    assert tables[0] != tables[1]
    for table in tables:
        rows = list(csv.DictReader(table.splitlines()))
        assert len(rows) == 40
        assert all(60 <= float(row["age_years"]) < 75 and float(row["male"]) == 0 for row in rows)
    assert [one["seed"] for one in told["cohorts"]] == [5, 6]
    again = tmp_path / "again"
    _json(
        *("synth", "sample", model, "--report", passed, "-o", again, "--patients", 40, "--seed", 6),
        *("--where", "male=0", "--where", "age_years>=60", "--where", "age_years<75", "--as", "csv"),
    )
    assert (again / "cohort.csv").read_text() == tables[1], "equal seeds and conditions, equal cohorts"
    unsigned = _json("verify", again)
    assert unsigned["signatures"] == []
    assert "anybody could have made it" in json.dumps(unsigned["checks"])
    assert _json("verify", again, "--signer", "ab" * 32, code=3)["error"]["code"] == "GEM102"


def test_a_report_on_another_model_opens_nothing(model: Path, passed: Path, tmp_path: Path) -> None:
    document = json.loads(passed.read_bytes())
    passed.write_text(json.dumps({**document, "model_sha256": "ab" * 32}))
    arguments = ("synth", "sample", model, "--report", passed, "-o", tmp_path / "out")
    override = ("--override", "why not", "--by", "Ada")
    assert _json(*arguments, *override, code=3)["error"]["code"] == "GEM756"
    passed.write_text("[]")
    assert _json(*arguments, *override, code=3)["error"]["code"] == "GEM756"
    assert not (tmp_path / "out").exists()


def test_an_officers_signed_public_report_counts_for_who_believes_that_key(
    model: Path, public: Path, officer: Path, tmp_path: Path
) -> None:
    key = SigningKey.load(officer)
    signed = public / "report.signed.json"
    drawing = ("-o", tmp_path / "out", "--patients", 20, "--as", "csv")
    arguments = ("synth", "sample", model, "--report", signed, *drawing)
    assert _json(*arguments, code=3)["error"]["code"] == "GEM102"
    assert _json(*arguments, "--officer", "ab" * 32, code=3)["error"]["code"] == "GEM102"
    assert _json(*arguments, "--officer", fingerprint(key.public_hex), code=3)["error"]["code"] == "GEM755"
    document = json.loads(signed.read_bytes())["payload"]
    document["gate"] |= {"passed": True, "failed": [], "untested": []}
    signed = tmp_path / "signed.json"
    signed.write_bytes(sign_document("cohort_report", document, key, role="officer").to_bytes())
    arguments = ("synth", "sample", model, "--report", signed, *drawing)
    told = _json(*arguments, "--officer", key.public_hex)
    assert told["decision"]["report_sha256"] == document["gate"]["internal_report_sha256"]


def test_verify_of_a_model_names_the_coordinator_and_fits_again(
    model: Path, federation: Federation, run: Path
) -> None:
    key = federation.coordinator.key.public_hex
    told = _json("verify", model, "--signer", fingerprint(key), "--run", run)
    assert told["kind"] == "cohort_model"
    assert {"potentials", "released tables", "provenance", "synthesis"} <= {
        line["check"] for line in told["checks"]
    }
    assert _json("verify", model, "--signer", "ab" * 32, code=3)["error"]["code"] == "GEM102"


@pytest.mark.heavy
@pytest.mark.timeout(900)
def test_without_patients_nothing_internal_is_written_and_the_report_does_not_pass(
    model: Path, tmp_path: Path
) -> None:
    told = _json("synth", "report", model, "--quick", "-o", tmp_path, code=3)
    assert not told["passed"]
    assert {path.name for path in tmp_path.iterdir()} == {"public"}
    untested = {row["block"] for row in told["against"] if row["verdict"] == "not tested"}
    assert {"membership", "singling out", "linkability", "inference"} <= untested


@pytest.mark.heavy
@pytest.mark.timeout(900)
def test_with_patients_the_officers_page_is_written_for_their_eyes_only(
    model: Path, federation: Federation, tmp_path: Path
) -> None:
    homes = [argument for home in federation.nodes.values() for argument in ("--data", home.folder)]
    told = _json("synth", "report", model, *homes, "--quick", "-o", tmp_path, code=3)
    internal = tmp_path / "internal" / "report.json"
    assert stat.S_IMODE(internal.stat().st_mode) == 0o600
    document = json.loads(internal.read_bytes())
    assert {row["block"] for row in document["findings"]} >= {"membership", "pairs", "survival"}
    published = json.loads((tmp_path / "public" / "report.json").read_bytes())
    assert not any(row["internal"] for row in published["findings"])
    assert all(figure["training"] is None for figure in published["figures"])
    assert any(figure["training"] is not None for figure in document["figures"])
    assert told["files"] == [str(tmp_path / name / "report.html") for name in ("public", "internal")]


def test_data_that_are_not_the_models_are_refused(model: Path, tmp_path: Path) -> None:
    arguments = ("synth", "report", model, "-o", tmp_path / "out")
    assert _json(*arguments, "--data", tmp_path, code=1)["error"]["code"] == "GEM765"
    both = ("--data", tmp_path, "--training", tmp_path)
    assert _json(*arguments, *both, code=1)["error"]["code"] == "GEM765"


def test_the_formats_are_those_of_the_export() -> None:
    assert tuple(format.value for format in Format) == FORMATS


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_conditions_hold_together_whatever_their_bounds(data: st.DataObject) -> None:
    columns = [column for column in DOMAIN.columns if isinstance(column.form, Numbers)]
    column = data.draw(st.sampled_from(columns))
    assert isinstance(column.form, Numbers)
    edges = column.form.edges
    low, high = sorted(data.draw(st.lists(st.sampled_from(edges), min_size=2, max_size=2, unique=True)))
    given_ = read_conditions(DOMAIN, [f"{column.name}>={low:g}", f" {column.name} < {high:g} "])
    found = {column.levels[level] for level in given_[column.name]}
    inside = {f"{a:g} to {b:g}" for a, b in itertools.pairwise(edges) if low <= a and b <= high}
    assert found == inside


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        ("age_years", "is no condition"),
        ("age_years>=61", "no run of the public bins"),
        ("age_years<=60", "say < a bound"),
        ("age_years>60", "say >= a bound"),
        ("age_years>=old", "is no number"),
        ("male=3", "no level"),
        ("shoe_size=43", "no column"),
        ("death=never", "no level"),
    ],
)
def test_what_is_no_condition_on_public_levels_is_refused(typed: str, why: str) -> None:
    with pytest.raises(GemelError, match="GEM704") as caught:
        read_conditions(DOMAIN, [typed])
    assert why in caught.value.message


def test_conditions_name_outcomes_shortly_and_leave_levels_out() -> None:
    size = DOMAIN.sizes["outcome/death"]
    alive = read_conditions(DOMAIN, ["death=no event"])["outcome/death"]
    assert [DOMAIN.column("outcome/death").levels[level] for level in alive] == ["no event"]
    others = read_conditions(DOMAIN, ["outcome/death!=no event"])["outcome/death"]
    assert np.array_equal(np.sort([*alive, *others]), np.arange(size))
    with pytest.raises(GemelError, match="No level of male meets all"):
        read_conditions(DOMAIN, ["male=0", "male=1"])
