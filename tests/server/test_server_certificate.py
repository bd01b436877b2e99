"""A certificate is checked offline to its last claim, and against the run's folder to the last bit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_process import certificate, start
from light_nodes import Delivery, light_federation
from typer.testing import CliRunner

from gemel.cli.demo.federation import Federation
from gemel.cli.main import app
from gemel.core.certificate import check_certificate
from gemel.core.errors import GemelError
from gemel.core.messages import Envelope, Request
from gemel.core.signing import SignedDocument, SigningKey, sign_document
from gemel.core.strategy_plan import Algorithm, Pace, StrategyPlan
from gemel.core.study import AggregationPlan, AggregationRule, Masking, Study
from gemel.server.home import RunFolder
from gemel.server.run_check import check_run

MakeStudy = Callable[..., Study]
Change = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def a_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A complete run with one late release and one refusal's worth of missing; read only."""
    federation = light_federation(tmp_path_factory.mktemp("run"), sites=4, pace=Pace(enough=3))

    def slow(site: str, request: Request, reply: Envelope) -> Sequence[Delivery]:
        if (site, request.task) == ("site2", "evaluate"):
            return []
        return [(5.0 if (site, request.task) == ("site3", "train/1") else 1.0, reply)]

    coordinator, run, _ = federation.start(slow)
    coordinator.run()
    return run


def _document(run: RunFolder) -> SignedDocument:
    document = run.certificate
    assert document is not None
    return document


def _signed_anew(run: RunFolder, change: Change) -> SignedDocument:
    """What a coordinator would sign that does not tell the truth."""
    payload = json.loads(json.dumps(_document(run).payload))
    change(payload)
    return sign_document("certificate", payload, SigningKey.generate(), role="coordinator")


def _task(payload: dict[str, Any], name: str) -> dict[str, Any]:
    return next(task for task in payload["tasks"] if task["task"] == name)


def _set(name: str, value: object) -> Change:
    return lambda payload: payload.update({name: value})


def _move_missing_to_here(payload: dict[str, Any]) -> None:
    task = _task(payload, "evaluate")
    task["contributions"].append({**task["contributions"][0], "site": "site2"})
    task["missing"] = []


def _count_twice(payload: dict[str, Any]) -> None:
    task = _task(payload, "train/2")
    task["contributions"].append(dict(task["contributions"][0]))


def _leave_out_a_site(payload: dict[str, Any]) -> None:
    _task(payload, "train/2")["contributions"].pop()


def _below_quorum(payload: dict[str, Any]) -> None:
    task = _task(payload, "train/2")
    for gone in task["contributions"][1:]:
        task["missing"].append({"site": gone["site"], "code": "GEM502", "seconds": 1.0, "request_sha256": ""})
    del task["contributions"][1:]


def _other_inputs(payload: dict[str, Any]) -> None:
    _task(payload, "train/2")["contributions"][0]["inputs_sha256"] = "ab" * 32


def _break_the_chain(payload: dict[str, Any]) -> None:
    _task(payload, "train/2")["from_model_sha256"] = "ab" * 32


def _forget_a_late_one(payload: dict[str, Any]) -> None:
    payload["late"][0]["request_sha256"] = "ab" * 32


def _late_and_counted(payload: dict[str, Any]) -> None:
    payload["late"].append({**payload["late"][0], "site": "site0"})


@pytest.mark.parametrize(
    "change",
    [
        lambda payload: payload["tasks"].pop(2),
        lambda payload: payload["tasks"].pop(),
        lambda payload: payload["tasks"].reverse(),
        _set("status", "stopped"),
        _set("code", "GEM501"),
        _set("quorum", 1),
        _set("study_sha256", "ab" * 32),
        _set("study_id", "another"),
        _set("model_sha256", "ab" * 32),
        _set("early_stop", {"after": "validate/1", "skipped": ["train/2"]}),
        _set("schema", "gemel/certificate/1"),
        lambda payload: payload["study"]["payload"].update(quorum=1),
        lambda payload: payload["sites"].pop("site3"),
        lambda payload: payload["sites"]["site0"].update(public_key="ab" * 32),
        lambda payload: payload["sites"]["site0"].pop("epsilon_spent"),
        lambda payload: _task(payload, "evaluate")["missing"][0].update(code="because"),
        _move_missing_to_here,
        _count_twice,
        _leave_out_a_site,
        _below_quorum,
        _other_inputs,
        _break_the_chain,
        _forget_a_late_one,
        _late_and_counted,
    ],
)
def test_a_certificate_that_claims_what_cannot_be_is_refused(a_run: RunFolder, change: Change) -> None:
    check_certificate(_signed_anew(a_run, lambda _payload: None))
    with pytest.raises(GemelError, match="^GEM512 |^GEM103 "):
        check_certificate(_signed_anew(a_run, change))


def _damage_release(folder: Path) -> None:
    path = folder / "releases" / "train" / "1" / "site0.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _swap_replies(folder: Path) -> None:
    releases = folder / "releases" / "train" / "1"
    for end in ("json", "safetensors"):
        shutil.copy(releases / f"site1.{end}", releases / f"site0.{end}")


@pytest.mark.parametrize(
    "damage",
    [
        _damage_release,
        _swap_replies,
        lambda folder: shutil.copy(folder / "model-0001.safetensors", folder / "model-0002.safetensors"),
        lambda folder: (folder / "model-0003.safetensors").unlink(),
        lambda folder: (folder / "late" / "train" / "1" / "site3.json").unlink(),
        lambda folder: shutil.copy(
            folder / "releases" / "train" / "1" / "site0.json", folder / "late" / "train" / "1" / "site3.json"
        ),
        lambda folder: (folder / "releases" / "evaluate" / "site0.json").unlink(),
        lambda folder: (folder / "study.json").write_bytes(b"{}"),
    ],
)
def test_a_folder_that_differs_from_its_certificate_is_named(
    a_run: RunFolder, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(a_run.folder, copy)
    assert ("made again", "3 twins from the kept releases, bit for bit") in check_run(_document(a_run), copy)
    damage(copy)
    with pytest.raises(GemelError, match="^GEM513 "):
        check_run(_document(a_run), copy)


def test_a_twin_that_does_not_follow_from_the_releases_is_found_though_every_hash_is_right(
    a_run: RunFolder, tmp_path: Path
) -> None:
    """What a coordinator would do that averages something else and certifies it."""
    from gemel.core.arrays import pack_arrays
    from gemel.core.canonical import sha256_hex
    from gemel.server.mapped import map_arrays

    copy = tmp_path / "run"
    shutil.copytree(a_run.folder, copy)
    last = copy / "model-0003.safetensors"
    other = pack_arrays({name: array + np.float32(1e-3) for name, array in map_arrays(last).items()})
    last.write_bytes(other)

    def lie(payload: dict[str, Any]) -> None:
        _task(payload, "train/3")["model_sha256"] = payload["model_sha256"] = sha256_hex(other)
        del payload["tasks"][4:]
        payload.update(status="stopped", code="GEM510", late=payload["late"])

    document = _signed_anew(a_run, lie)
    check_certificate(document)
    with pytest.raises(GemelError, match="^GEM513 .*move 3"):
        check_run(document, copy)


@pytest.mark.parametrize(
    "changes",
    [
        {"strategy": StrategyPlan(algorithm=Algorithm.SCAFFOLD)},
        {"strategy": StrategyPlan(algorithm=Algorithm.FEDADAM, server_learning_rate=0.1)},
        {"aggregation": AggregationPlan(rule=AggregationRule.MEDIAN)},
        {"cross_site_validation": True},
        {"pace": Pace(validate_every=1)},
        {"pace": Pace(validate_every=1, patience=1, least_improvement=10.0)},
        {"pace": Pace(buffer=2)},
        {"pace": Pace(buffer=3), "cross_site_validation": True},
    ],
    ids=[
        "scaffold",
        "fedadam",
        "median",
        "cross-site",
        "validations",
        "early",
        "own pace",
        "own pace, cross",
    ],
)
def test_every_kind_of_study_ends_with_a_certificate_that_its_folder_bears_out(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    federation = light_federation(tmp_path, **changes)
    coordinator, run, _ = federation.start()
    coordinator.run()
    assert certificate(run)["status"] == "complete"
    check_run(_document(run), run.folder)


def test_the_masks_of_a_masked_run_are_lifted_again_to_the_same_sums_and_twins(
    federation: Federation, make_study: MakeStudy
) -> None:
    study = make_study(aggregation=AggregationPlan(masking=Masking.SECURE))
    coordinator, run, _ = start(federation, study)
    coordinator.run()
    check_certificate(_document(run))
    checks = dict(check_run(_document(run), run.folder))
    assert checks["made again"] == "2 twins from the kept releases, bit for bit"
    unmask = run.folder / "releases" / "evaluate" / "attempt-1" / "unmask"
    shutil.copy(unmask / "alpha.safetensors", unmask / "beta.safetensors")
    with pytest.raises(GemelError, match="^GEM513 "):
        check_run(_document(run), run.folder)


def test_gemel_verify_checks_a_certificate_and_its_run(a_run: RunFolder, tmp_path: Path) -> None:
    file = a_run.folder / "certificate.json"
    result = CliRunner().invoke(app, ["verify", str(file), "--run", str(a_run.folder), "--format", "json"])
    assert result.exit_code == 0, result.output
    checks = {line["check"]: line["detail"] for line in json.loads(result.stdout)["checks"]}
    assert checks["status"] == "complete"
    assert checks["made again"] == "3 twins from the kept releases, bit for bit"
    false = tmp_path / "false.json"
    false.write_bytes(_signed_anew(a_run, _count_twice).to_bytes())
    result = CliRunner().invoke(app, ["verify", str(false), "--format", "json"])
    assert result.exit_code == 3
    assert "GEM512" in result.output
