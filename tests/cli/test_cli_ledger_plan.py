"""`gemel ledger plan`: the price of a study, and the noise of a budget, before anything runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import Result
from typer.testing import CliRunner

from gemel.cli.demo.federation import Federation
from gemel.cli.main import app
from gemel.client_node import patients
from gemel.client_node.home import NodeHome
from gemel.core.mechanism import mechanisms_by_patient
from gemel.core.signing import SigningKey, sign_document
from gemel.core.study import PrivacyPlan, Study
from gemel.privacy.accounting import epsilon, price
from gemel.privacy.planning import delta_for
from gemel.twins.programmes.fatty_liver import PROGRAMME

RUNNER = CliRunner()
MakeStudy = Callable[..., Study]
BUDGET = ("--epsilon", 2, "--rounds", 3, "--local-steps", 2, "--cohort", 740)


def run(*arguments: object) -> Result:
    return RUNNER.invoke(app, ["ledger", "plan", *map(str, arguments)])


def answer(*arguments: object, code: int = 0) -> dict[str, Any]:
    result = run(*arguments, "--format", "json")
    assert result.exit_code == code, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.fixture
def study(make_study: MakeStudy) -> Study:
    return make_study()


@pytest.fixture
def signed(study: Study, tmp_path: Path) -> Path:
    path = tmp_path / "study.json"
    path.write_bytes(
        sign_document("study", study.to_payload(), SigningKey.generate(), role="proposer").to_bytes()
    )
    return path


def plain(study: Study, folder: Path) -> Path:
    path = folder / "plain.json"
    path.write_text(json.dumps(study.to_payload()))
    return path


def alpha(federation: Federation) -> NodeHome:
    return NodeHome.open(federation.folder / "nodes" / "alpha")


# --- a study ---------------------------------------------------------------------------------------


def test_a_study_is_priced_for_both_halves_task_by_task(signed: Path, study: Study) -> None:
    told = answer(signed)
    assert told["epsilon"] == price(study.charges(), delta=1e-5)
    by_share = {s.value: epsilon(m, delta=1e-5) for s, m in mechanisms_by_patient(study.charges()).items()}
    assert told["epsilon_by_share"] == by_share
    assert [row["tasks"] for row in told["tasks"]] == [
        "count",
        "train/1 … train/2",
        "evaluate",
        "synthesise/1",
        "synthesise/2",
        "synthesise/3",
    ]
    assert sum(row["charged"] for row in told["tasks"]) == len(study.tasks)
    assert told["tasks"][-1]["epsilon_after"] == by_share
    assert told["budget"] is None
    assert told["admitted"] is True


def test_a_plain_document_costs_what_the_signed_one_costs(signed: Path, study: Study, tmp_path: Path) -> None:
    assert answer(plain(study, tmp_path)) == answer(signed)


def test_the_table_ends_in_what_a_patient_pays(signed: Path, study: Study) -> None:
    result = run(signed)
    assert result.exit_code == 0
    assert (
        f"would cost each patient epsilon {price(study.charges(), delta=1e-5)} at delta 1e-05"
        in result.stdout
    )


def test_a_study_that_costs_more_than_it_states_would_be_refused(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    study = make_study()
    cheap = msgspec.structs.replace(study.privacy, epsilon=0.5)
    told = answer(plain(make_study(privacy=cheap), tmp_path), code=3)
    assert told["admitted"] is False
    assert "GEM305" in run(tmp_path / "plain.json").stderr


def test_a_home_says_what_its_worst_off_patient_would_have_spent(
    federation: Federation, signed: Path, study: Study
) -> None:
    home = alpha(federation)
    budget = answer(signed, home.folder)["budget"]
    assert budget["epsilon_before"] == 0
    assert budget["epsilon_after"] == price(study.charges(), delta=1e-5)
    assert budget["epsilon_left"] == pytest.approx(3 - budget["epsilon_after"], abs=1e-6)
    assert not budget["reserved"]
    with home.open_ledger() as ledger:
        assert len(ledger.entries()) == 1  # nothing was written


def reserve(home: NodeHome, study: Study) -> None:
    dataset = patients.load(home, PROGRAMME)
    with home.open_ledger() as ledger:
        ledger.reserve(
            study_sha256=study.sha256,
            programme=f"{PROGRAMME.name}@{PROGRAMME.version}",
            snapshot=dataset.snapshot,
            charges=study.charges(),
            people=dataset.people(),
        )


def test_what_was_spent_before_counts_and_a_reserved_study_costs_nothing_more(
    federation: Federation, make_study: MakeStudy, signed: Path, study: Study, tmp_path: Path
) -> None:
    home = alpha(federation)
    reserve(home, make_study(study_id="earlier"))
    both = (*study.charges(), *study.charges())
    budget = answer(signed, home.folder)["budget"]
    assert budget["epsilon_before"] == price(study.charges(), delta=1e-5)
    assert budget["epsilon_after"] == price(both, delta=1e-5)
    reserve(home, study)
    again = answer(signed, home.folder)["budget"]
    assert again["reserved"] is True
    assert again["epsilon_after"] == again["epsilon_before"] == price(both, delta=1e-5)
    exported = tmp_path / "ledger.json"
    with home.open_ledger() as ledger:
        exported.write_bytes(ledger.export().to_bytes())
    assert answer(signed, exported)["budget"]["epsilon_after"] == price(both, delta=1e-5)


def test_a_study_over_the_cap_exits_with_three_and_says_by_how_much(
    federation: Federation, make_study: MakeStudy, tmp_path: Path
) -> None:
    dear = PrivacyPlan(
        epsilon=50.0,
        delta=1e-5,
        count_noise_multiplier=0.5,
        metrics_noise_multiplier=1.0,
        synthesis_noise_multiplier=1.2,
    )
    path = plain(make_study(privacy=dear), tmp_path)
    told = answer(path, alpha(federation).folder, code=3)
    assert told["admitted"] is False
    assert told["budget"]["epsilon_left"] == 0
    assert "the cap is 3.0" in run(path, alpha(federation).folder).stderr


def test_a_home_without_data_is_answered_for_a_patient_in_everything(
    federation: Federation, signed: Path, study: Study
) -> None:
    home = alpha(federation)
    gone = home.folder / "no_export"
    (home.folder / "node.json").write_bytes(
        msgspec.json.encode(msgspec.structs.replace(home.config, export=str(gone)))
    )
    result = run(signed, home.folder)
    assert result.exit_code == 0
    assert "GEM208" in result.stderr
    assert "a patient who was in everything" in result.stdout


def test_a_delta_above_the_hospital_s_is_refused(
    federation: Federation, make_study: MakeStudy, tmp_path: Path
) -> None:
    study = make_study()
    looser = msgspec.structs.replace(study.privacy, delta=1e-4)
    told = answer(plain(make_study(privacy=looser), tmp_path), alpha(federation).folder, code=3)
    assert told["budget"]["delta_allowed"] is False


@pytest.mark.parametrize("content", ["", "no json", "[" * 100_000])
def test_a_file_that_is_no_study_exits_with_two(tmp_path: Path, content: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(content)
    assert answer(path, code=2)["error"]["code"] == "GEM106"


def test_another_document_and_a_missing_file_are_no_study(tmp_path: Path) -> None:
    path = tmp_path / "certificate.json"
    path.write_bytes(sign_document("certificate", {}, SigningKey.generate(), role="x").to_bytes())
    assert answer(path, code=2)["error"]["code"] == "GEM106"
    assert answer(tmp_path / "absent.json", code=2)["error"]["code"] == "GEM106"


def test_a_changed_study_is_refused(signed: Path) -> None:
    signed.write_bytes(signed.read_bytes().replace(b'"A test"', b'"B test"'))
    assert answer(signed, code=3)["error"]["code"] == "GEM103"


# --- a budget --------------------------------------------------------------------------------------


def test_noise_is_solved_for_and_what_would_be_left_is_said() -> None:
    told = answer(*BUDGET, "--batch", 100, "--cap", 5)
    assert told["delta"] == delta_for(740)
    assert told["sample_rate"] == 0.1
    assert 1.999 <= told["epsilon_spent"] <= 2
    assert told["epsilon_left"] == pytest.approx(5 - told["epsilon_spent"], abs=1e-6)
    assert set(told["noise_multipliers"]) == {"training_step", "count", "metrics_table", "synthesis"}


def test_the_table_of_a_budget_names_delta_and_epsilon() -> None:
    result = run(*BUDGET)
    assert result.exit_code == 0
    assert "At delta 0.0001" in result.stdout
    assert "all patients" in result.stdout


def test_a_budget_over_the_cap_exits_with_three() -> None:
    assert answer(*BUDGET, "--cap", 1, code=3)["admitted"] is False


def test_a_budget_that_no_noise_meets_exits_with_two() -> None:
    assert answer(*BUDGET, "--delta", 0.5, code=2)["error"]["code"] == "GEM305"


@pytest.mark.parametrize("arguments", [("--epsilon", 3), ("study.json", "--epsilon", 3)])
def test_half_a_request_and_both_forms_at_once_are_wrong_usage(arguments: tuple[object, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
