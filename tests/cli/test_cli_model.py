"""`gemel model`, from a coordinator's home: list, show, card, pull; what was pulled verifies offline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from in_process import start
from small_study import small_study
from typer.testing import CliRunner, Result

from gemel.cli.demo.federation import create
from gemel.cli.main import app
from gemel.core.arrays import unpack_arrays
from gemel.core.canonical import sha256_hex
from gemel.core.error_catalogue import CATALOGUE
from gemel.twins.installed import make_twin
from gemel.twins.programmes.fatty_liver import PROGRAMME


def _gemel(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def home(exports: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a coordinator after a whole run."""
    folder = tmp_path_factory.mktemp("model") / "federation"
    federation = create(folder, exports, PROGRAMME, epsilon_cap=3.0, delta=1e-5, minimum_patients=50)
    coordinator, _, _ = start(federation, small_study(federation.site_keys))
    coordinator.run()
    return federation.coordinator.folder


def test_the_twins_of_a_home_are_listed_and_shown(home: Path) -> None:
    listed = json.loads(_gemel("model", "list", "--home", home, "--format", "json").stdout)["models"]
    assert [model["state"] for model in listed] == ["checkpoint", "final"]
    name = listed[-1]["model_sha256"][:12]
    assert name in _gemel("model", "list", "--home", home).stdout
    shown = json.loads(_gemel("model", "show", name, "--home", home, "--format", "json").stdout)
    assert shown["scores"]["death"]["auc_5y"]["standard_error"] > 0
    assert "ONNX" in _gemel("model", "show", name, "--home", home).stdout
    assert PROGRAMME.question in _gemel("model", "card", "test", "--home", home).stdout


def test_what_is_pulled_is_whole_and_verifies_offline(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "twin"
    _gemel("model", "pull", "test", "--home", home, "--out", out)
    record = json.loads((out / "model.json").read_bytes())["payload"]
    for name, listed in record["files"].items():
        assert sha256_hex((out / name).read_bytes()) == listed["sha256"]
    for name in ("model.json", "study.json", "certificate.json"):
        _gemel("verify", out / name)
    twin = make_twin(PROGRAMME)
    twin.load_arrays(unpack_arrays((out / "model.safetensors").read_bytes(), twin.array_specs()))


def test_what_is_not_there_is_said_with_a_code(home: Path, tmp_path: Path) -> None:
    assert "GEM531" in _gemel("model", "show", "nothing", "--home", home, code=1).output
    code = int(CATALOGUE["GEM524"].exit_code)
    assert "GEM524" in _gemel("model", "list", "--home", tmp_path, code=code).output
