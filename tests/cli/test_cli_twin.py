"""`gemel twin`: one patient of any installed programme, from files or the programme's own example."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from gemel.cli.main import app
from gemel.cli.patient_files import first_observations, patient_row
from gemel.core.arrays import pack_arrays
from gemel.core.programme import FeatureKind, Programme
from gemel.twins.installed import definition_of, installed, make_twin

PROGRAMMES = pytest.mark.parametrize("programme", installed(), ids=lambda p: p.name)
OBSERVED = [p for p in installed() if definition_of(p).example.observations]
TREATED = [p for p in installed() if definition_of(p).example.plan.treatments]


def _gemel(verb: str, programme: Programme, *arguments: str | Path, code: int = 0) -> Result:
    line = ["twin", verb, "--programme", programme.name, *map(str, arguments)]
    result = CliRunner().invoke(app, line)
    assert result.exit_code == code, result.output
    return result


def _told(verb: str, programme: Programme, *arguments: str | Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(_gemel(verb, programme, *arguments, "--format", "json").stdout)
    return told


def _file(folder: Path, name: str, document: Any) -> Path:
    path = folder / name
    path.write_text(json.dumps(document))
    return path


@PROGRAMMES
def test_the_example_is_predicted_as_the_twin_does(programme: Programme) -> None:
    definition = definition_of(programme)
    told = _told("predict", programme, "--example")
    expected = make_twin(programme).predict(patient_row(programme, definition.example.values))
    for j, outcome in enumerate(programme.outcome_names):
        risk = told["prediction"]["outcomes"][outcome]["risk"]
        if expected.prevalent[0, j]:
            assert risk is None
        else:
            np.testing.assert_allclose(risk, expected.cumulative_incidence[0, :, j])
    assert told["twin"] == "public start"
    result = _gemel("predict", programme, "--example")
    assert "trained on nobody" in result.stderr
    assert "Not a medical device" in result.stdout
    assert definition.example.title in result.stdout


@PROGRAMMES
def test_a_patient_of_whom_age_alone_is_known_gets_an_interval_that_says_what_is_missing(
    programme: Programme, tmp_path: Path
) -> None:
    age = next(f.name for f in programme.columns if f.kind is FeatureKind.AGE)
    known = _file(tmp_path, "patient.json", {age: 66, programme.feature_names[-1]: None})
    told = _told("predict", programme, "--values", known)
    assert len(told["interval"]["missing"]) >= 1
    for risk in told["interval"]["risks"].values():
        for low, high in zip(risk["low"], risk["high"], strict=True):
            assert low is not None
            assert 0 <= low <= high <= 1
    assert "Not known:" in _gemel("predict", programme, "--values", known).stdout


def test_a_trained_twin_is_taken_from_its_file_and_another_files_is_refused(tmp_path: Path) -> None:
    programme = next(p for p in installed() if p.name == "fatty_liver")
    twin = make_twin(programme)
    arrays = {name: array + 0.1 for name, array in twin.to_arrays().items()}
    path = tmp_path / "twin.safetensors"
    path.write_bytes(pack_arrays(arrays))
    told = _told("predict", programme, "--example", "--twin", path)
    assert told["twin"] == str(path)
    assert (
        told["prediction"]["outcomes"] != _told("predict", programme, "--example")["prediction"]["outcomes"]
    )
    # A second model makes an interval of what was a number.
    both = _told("predict", programme, "--example", "--twin", path, "--twin", path)
    assert "parameters of the twin (2 models)" in both["interval"]["holds"]
    path.write_bytes(pack_arrays({"level": np.zeros(2, np.float32)}))
    assert "GEM602" in _gemel("predict", programme, "--example", "--twin", path, code=3).output
    assert "GEM806" in _gemel("predict", programme, "--example", "--twin", tmp_path / "none", code=2).output


@PROGRAMMES
def test_a_value_outside_the_public_bounds_is_refused(programme: Programme, tmp_path: Path) -> None:
    feature = next(f for f in programme.columns if f.kind is FeatureKind.AGE)
    beyond = _file(tmp_path, "patient.json", {feature.name: feature.high + 1})
    assert f"GEM601 {feature.name}" in _gemel("predict", programme, "--values", beyond, code=3).output


@pytest.mark.parametrize(
    "content",
    ["no json", "[1]", '{"nonsense": 1}', '{"age_years": "old"}', '{"male": 0.5}', '{"age_years": true}'],
)
def test_a_file_that_does_not_fit_says_what_it_should_hold(content: str, tmp_path: Path) -> None:
    path = tmp_path / "patient.json"
    path.write_text(content)
    assert "GEM806" in _gemel("predict", installed()[0], "--values", path, code=2).output


def test_the_patient_must_be_given_once() -> None:
    programme = installed()[0]
    _gemel("predict", programme, code=2)
    _gemel("predict", programme, "--example", "--values", "x.json", code=2)
    _gemel("simulate", programme, "--values", "x.json", code=2)


@pytest.mark.parametrize("programme", TREATED, ids=lambda p: p.name)
def test_two_plans_of_the_example_stand_side_by_side_or_are_refused_with_reasons(
    programme: Programme,
) -> None:
    definition = definition_of(programme)
    told = _told("simulate", programme, "--example")
    assert told["claim"]
    if told["refused"]:
        assert not told["predictions"]
        assert "Refused." in _gemel("simulate", programme, "--example").stdout
        return
    row, twin = patient_row(programme, definition.example.values), make_twin(programme)
    for plan, prediction in zip(
        (definition.example.plan, definition.example.other_plan), told["predictions"], strict=True
    ):
        death = twin.predict(row, plan=plan).cumulative_incidence[0, :, 0]
        np.testing.assert_allclose(prediction["outcomes"][programme.outcome_names[0]]["risk"], death)
    for line in told["differences"]:
        if line["difference"] is not None:
            assert line["difference"] == pytest.approx(line["plan"] - line["other"])
    shown = _gemel("simulate", programme, "--example").stdout
    assert "A minus B" in shown
    assert told["claim"].split(".")[0] in " ".join(shown.split())


@pytest.mark.parametrize("programme", TREATED, ids=lambda p: p.name)
def test_a_plan_of_a_file_is_compared_with_the_record_unless_another_is_given(
    programme: Programme, tmp_path: Path
) -> None:
    import msgspec

    definition = definition_of(programme)
    plan = _file(tmp_path, "plan.json", msgspec.to_builtins(definition.example.other_plan))
    alone = _told("simulate", programme, "--example", "--plan", plan)
    assert alone["plans"][1]["doses"] == []
    paired = _told("simulate", programme, "--example", "--plan", plan, "--against", plan)
    assert paired["plans"][0] == paired["plans"][1]
    assert paired["basis"] is None
    wrong = _file(tmp_path, "wrong.json", {"doses": [{"treatment": "leeches", "amount": 1}]})
    assert "GEM603" in _gemel("simulate", programme, "--example", "--plan", wrong, code=3).output


@pytest.mark.parametrize("programme", OBSERVED, ids=lambda p: p.name)
def test_observations_come_in_one_after_the_other(programme: Programme) -> None:
    observations = definition_of(programme).example.observations
    told = _told("assimilate", programme, "--example")
    total = sum(len(pairs) for pairs in observations.values())
    assert [step["observations"] for step in told["steps"]][-1] == total
    days = [line["day"] for line in told["observed"]]
    assert days == sorted(days)
    assert not told["steps"][0]["parameters"]
    assert told["steps"][-1]["parameters"]
    first, last = (told["steps"][i]["prediction"] for i in (0, -1))
    assert first != last
    assert "The patient's own parameters" in _gemel("assimilate", programme, "--example").stdout


@pytest.mark.parametrize("programme", OBSERVED, ids=lambda p: p.name)
@pytest.mark.parametrize("pairs", [[[-3, 1.0]], [[1, 1.0]]])
def test_what_the_twin_does_not_observe_is_refused(
    programme: Programme, pairs: list[list[float]], tmp_path: Path
) -> None:
    known = next(iter(definition_of(programme).example.observations))
    name = known if pairs[0][0] < 0 else "the_moon"
    path = _file(tmp_path, "observed.json", {name: pairs})
    result = _gemel("assimilate", programme, "--example", "--observations", path, code=3)
    assert "GEM604" in result.output


def test_observations_that_are_none_are_refused(tmp_path: Path) -> None:
    path = _file(tmp_path, "observed.json", {"hba1c": "high"})
    result = _gemel("assimilate", OBSERVED[0], "--example", "--observations", path, code=2)
    assert "GEM806" in result.output


def test_the_first_observations_by_day_are_taken_whatever_their_name() -> None:
    observed: Mapping[str, tuple[tuple[float, float], ...]] = {
        "a": ((30.0, 1.0), (90.0, 3.0)),
        "b": ((60.0, 2.0),),
    }
    assert first_observations(observed, 0) == {}
    two = first_observations(observed, 2)
    assert {name: series.values.tolist() for name, series in two.items()} == {"a": [1.0], "b": [2.0]}
    three = first_observations(observed, 3)
    assert three["a"].days.tolist() == [30.0, 90.0]
