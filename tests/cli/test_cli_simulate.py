"""`gemel study simulate`: many virtual hospitals, the code of real ones, and a certificate that holds."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from small_study import small_study
from typer.testing import CliRunner

from gemel.cli.main import app
from gemel.cli.virtual_hospitals import divide, read_study, site_names, throwaway_folder, with_virtual_sites
from gemel.client_node import patients
from gemel.client_node.audit.people import made_up_dataset
from gemel.core.canonical import canonical_bytes
from gemel.core.certificate import check_certificate
from gemel.core.errors import GemelError
from gemel.core.signing import SigningKey, read_signed, sign_document
from gemel.server.flower.in_process_grid import InProcessGrid
from gemel.twins.programmes.fatty_liver import PROGRAMME

SITES = {"north": "00" * 32, "lake": "01" * 32, "valley": "02" * 32}


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    """An unsigned study of three hospitals, of whom two are enough."""
    path = tmp_path / "study.json"
    path.write_bytes(canonical_bytes(small_study(SITES, minimum_patients=1).to_payload()))
    return path


def _simulate(*arguments: str | Path, code: int = 0) -> dict[str, object]:
    result = CliRunner().invoke(app, ["study", "simulate", *map(str, arguments), "--format", "json"])
    assert result.exit_code == code, result.output
    told: dict[str, object] = json.loads(result.stdout)
    return told


def test_a_study_runs_over_virtual_hospitals_to_a_certificate_that_holds(
    study_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    before = {name: value for name, value in os.environ.items() if name.startswith("GEMEL")}
    told = _simulate(study_file, "--hospitals", "6", "--patients", "30", "--out", out)
    assert told["virtual"] is True
    assert (told["hospitals"], told["patients"]) == (6, 180)
    assert [task["task"] for task in told["tasks"]] == [
        "count",
        "train/1",
        "train/2",
        "evaluate",
        "synthesise/1",
        "synthesise/2",
        "synthesise/3",
    ]
    assert all(task["sites"] == 6 for task in told["tasks"])
    assert told["scores"]["death"]["auc_5y"]["standard_error"] > 0
    certificate = read_signed((out / "certificate.json").read_bytes(), kind="certificate")
    check_certificate(certificate)
    assert certificate.payload["status"] == "complete"
    assert set(certificate.payload["sites"]) == set(site_names(6))
    for site in certificate.payload["sites"].values():
        assert site["epsilon_spent"] > 0, "each virtual hospital charged its patients"
    after = {name: value for name, value in os.environ.items() if name.startswith("GEMEL")}
    assert after == before


def test_an_export_is_divided_so_that_each_patient_is_in_one_hospital(
    study_file: Path, write_export: Callable[..., Path], tmp_path: Path
) -> None:
    export = write_export(tmp_path / "export", patients=90)
    told = _simulate(study_file, "--hospitals", "3", "--export", export, "--seed", "4")
    # Not all people of an export are of the cohort.
    assert 45 < told["patients"] <= 90
    again = _simulate(study_file, "--hospitals", "3", "--export", export, "--seed", "4")
    assert again["patients"] == told["patients"]


def test_a_file_may_say_who_goes_where(
    study_file: Path, write_export: Callable[..., Path], tmp_path: Path
) -> None:
    export = write_export(tmp_path / "export", patients=90)
    split = {"big": [f"p0-{n}" for n in range(60)], "small": [f"p0-{n}" for n in range(60, 90)]}
    listed = tmp_path / "split.json"
    listed.write_text(json.dumps(split))
    told = _simulate(study_file, "--export", export, "--split", listed)
    assert told["hospitals"] == 2
    for wrong in ({"a": ["p0-1"], "b": ["p0-1"]}, {"a": ["nobody"]}, {"../a": ["p0-1"]}, ["p0-1"]):
        listed.write_text(json.dumps(wrong))
        refusal = _simulate(study_file, "--export", export, "--split", listed, code=2)
        assert refusal["error"]["code"] == "GEM530"


def test_a_run_that_stops_says_so_and_leaves_with_an_error(study_file: Path) -> None:
    told = _simulate(
        study_file, "--hospitals", "4", "--patients", "30", "--minimum-patients", "100000", code=1
    )
    assert told["certificate"]["status"] == "stopped"
    assert told["certificate"]["code"] == "GEM501"


def test_a_study_keeps_its_share_of_hospitals_that_are_enough() -> None:
    study = small_study(SITES)
    sites = {name: f"{number:064x}" for number, name in enumerate(site_names(1000))}
    virtual = with_virtual_sites(study, sites)
    assert virtual.quorum == 667
    assert virtual.privacy == study.privacy
    assert virtual.training == study.training


def test_a_signed_study_that_was_changed_is_not_simulated(tmp_path: Path) -> None:
    document = sign_document("study", small_study(SITES).to_payload(), SigningKey.generate(), role="proposer")
    path = tmp_path / "study.json"
    path.write_bytes(document.to_bytes())
    assert read_study(path).study_id == "test"
    path.write_bytes(document.to_bytes().replace(b'"quorum":2', b'"quorum":3'))
    with pytest.raises(GemelError, match="GEM103"):
        read_study(path)


def test_patients_are_divided_whole_and_once() -> None:
    dataset = made_up_dataset(PROGRAMME, patients=101, seed=0)
    parts = divide(dataset, 10, seed=1)
    everyone = [patient for part in parts for patient in part.patient_ids]
    assert sorted(everyone) == sorted(dataset.patient_ids)
    assert {len(part) for part in parts} == {10, 11}
    with pytest.raises(GemelError, match="GEM530"):
        divide(dataset, 102, seed=1)


def test_a_real_home_is_lent_no_patients(federation) -> None:
    """What a simulation does to its own homes cannot be done to a hospital's."""
    dataset = made_up_dataset(PROGRAMME, patients=60, seed=0)
    with pytest.raises(GemelError, match="GEM407"):
        patients.lend(federation.nodes["alpha"], PROGRAMME, dataset)


def test_nothing_of_a_simulation_is_left() -> None:
    with throwaway_folder(3) as folder:
        (folder / "x").write_text("x")
    assert not folder.exists()


def _ask(grid: InProcessGrid, node: int) -> Message:
    return Message(RecordDict({"x": ConfigRecord({"node": node})}), dst_node_id=node, message_type="query")


def test_the_grid_hands_each_message_to_its_node_and_back_once() -> None:
    asked: list[int] = []

    def client(message: Message, context: Context) -> Message:
        asked.append(context.node_id)
        assert message.content["x"]["node"] == context.node_id
        return Message(message.content, reply_to=message)

    grid = InProcessGrid(client, 5)
    assert list(grid.get_node_ids()) == [1, 2, 3, 4, 5]
    ids = list(grid.push_messages([_ask(grid, node) for node in (3, 1, 5)]))
    assert asked == []
    replies = list(grid.pull_messages(ids))
    assert asked == [3, 1, 5]
    assert [reply.metadata.src_node_id for reply in replies] == [3, 1, 5]
    assert [reply.metadata.reply_to_message_id for reply in replies] == ids
    assert list(grid.pull_messages(ids)) == []


def test_what_a_node_raises_becomes_an_error_without_its_text() -> None:
    def client(_message: Message, _context: Context) -> Message:
        raise ValueError("patient 4711")

    grid = InProcessGrid(client, 1)
    (reply,) = grid.send_and_receive([_ask(grid, 1)])
    assert reply.has_error()
    assert "4711" not in str(reply.error.reason)


def test_replies_are_handed_over_in_parts_so_that_they_need_not_all_be_held() -> None:
    now = np.arange(0, 1e6, 1.0).tolist()
    grid = InProcessGrid(
        lambda message, _: Message(message.content, reply_to=message), 10, clock=lambda: now.pop(0)
    )
    ids = list(grid.push_messages([_ask(grid, node) for node in range(1, 11)]))
    first = list(grid.pull_messages(ids))
    assert 1 <= len(first) < 10
    rest: list[Message] = []
    while len(first) + len(rest) < 10:
        rest += grid.pull_messages(ids)
    assert {m.metadata.src_node_id for m in [*first, *rest]} == set(range(1, 11))
