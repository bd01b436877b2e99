"""`gemel programme`: what is installed, what each declares, and claims held against numbers from outside."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import gemel.cli.programme as command
from gemel.cli.main import app
from gemel.cli.programme_record import record_of
from gemel.core.programme import Programme
from gemel.twins.claims import Claim, Gate
from gemel.twins.definition import TwinDefinition
from gemel.twins.installed import definition_of, installed
from gemel.twins.parameters import Mark


def _gemel(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["programme", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def test_every_installed_programme_is_listed_with_its_grade_and_the_number_of_its_claims() -> None:
    listed = json.loads(_gemel("list", "--format", "json").stdout)["programmes"]
    assert [(line["name"], line["version"]) for line in listed] == [(p.name, p.version) for p in installed()]
    table = _gemel("list").stdout
    for line, programme in zip(listed, installed(), strict=True):
        definition = definition_of(programme)
        assert line["grade"] == definition.validation.grade.value
        assert sum(line["gates"].values()) == len(definition.claims)
        assert f"{programme.name} {programme.version}" in table


@pytest.mark.parametrize("programme", installed(), ids=lambda p: p.name)
def test_a_programme_shows_all_that_it_declares(programme: Programme) -> None:
    definition = definition_of(programme)
    told = json.loads(_gemel("show", programme.name, "--format", "json").stdout)
    assert told == json.loads(json.dumps(record_of(definition)))
    assert [feature["name"] for feature in told["features"]] == [f.name for f in programme.features]
    shown = " ".join(_gemel("show", programme.name).stdout.split())
    assert programme.question in shown
    assert definition.context.role in shown
    for named in (
        *(feature.name for feature in programme.features),
        *(treatment.name for treatment in programme.treatments),
        *definition.validation.limits,
    ):
        assert named in shown


def test_each_parameter_of_a_physiology_is_shown_with_value_unit_mark_and_source() -> None:
    for programme in installed():
        told = record_of(definition_of(programme))
        for physiology, declared in zip(told["physiology"], definition_of(programme).physiology, strict=True):
            assert [p["name"] for p in physiology["parameters"]] == [p.name for p in declared.parameters]
            for parameter in physiology["parameters"]:
                assert parameter["mark"] in {"V", "2", "C", "U"}
                assert parameter["source"]


def test_an_unknown_programme_is_gem104_and_no_name_at_all_is_wrong_usage() -> None:
    for verb in ("show", "check"):
        assert "GEM104" in _gemel(verb, "nonsense", code=3).output
    assert "--all" in _gemel("check", code=2).output
    _gemel("check", "fatty_liver", "--all", code=2)


def _claim(name: str, computed: float, *, mark: Mark = Mark.VERIFIED, needs: str = "") -> Claim:
    return Claim(
        name=name,
        statement=f"What {name} says.",
        gate=Gate.G0,
        value=2.0,
        low=1.9,
        high=2.1,
        unit="1",
        source="a table, page 3",
        mark=mark,
        compute=lambda _data: computed,
        needs=needs,
    )


def _with_claims(monkeypatch: pytest.MonkeyPatch, *claims: Claim) -> TwinDefinition:
    definition = replace(definition_of(installed()[0]), claims=claims)
    monkeypatch.setattr(command, "find_definition", lambda _name: definition)
    return definition


def test_claims_that_hold_exit_with_0_and_show_the_number_beside_the_published_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _with_claims(monkeypatch, _claim("one", 2.05), _claim("memory", 2.0, mark=Mark.UNVERIFIED))
    shown = _gemel("check", "it").stdout
    for part in ("What one says.", "2.05", "1.9", "2.1", "a table, page 3", "holds", "unsupported"):
        assert part in shown
    assert "G0: 1 holds, 1 unsupported" in shown
    assert "G1: no claim" in shown


@pytest.mark.parametrize("computed", [2.2, float("nan")])
def test_a_claim_that_fails_exits_with_1(monkeypatch: pytest.MonkeyPatch, computed: float) -> None:
    _with_claims(monkeypatch, _claim("one", 2.0), _claim("wrong", computed))
    shown = _gemel("check", "it", code=1).stdout
    assert "G0: 1 holds, 1 fails" in shown


def test_a_claim_without_its_data_is_skipped_and_names_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _with_claims(monkeypatch, _claim("open", 2.0, needs="trial/data.csv"))
    told = json.loads(_gemel("check", "it", "--data", tmp_path, "--format", "json").stdout)
    assert told["programmes"][0]["claims"][0]["verdict"] == "skipped"
    assert "no trial/data.csv" in " ".join(_gemel("check", "it").stdout.split())
    (tmp_path / "trial").mkdir()
    (tmp_path / "trial" / "data.csv").touch()
    told = json.loads(_gemel("check", "it", "--data", tmp_path, "--format", "json").stdout)
    assert told["programmes"][0]["claims"][0]["verdict"] == "holds"
    assert told["failed"] == 0
