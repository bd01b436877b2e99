"""Bytes that run code in a reader that trusts them, put wherever we read bytes.

Stands for CVE-2022-31604, CVE-2022-31605, CVE-2022-34668, CVE-2026-24186 (NVFlare: pickle, YAML, a class that the wire
names), CVE-2023-23930 (vantage6: pickled results), CVE-2026-5536 (FedML), CVE-2025-32434 (torch.load).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hostile_bytes import hostile_bytes
from in_process import certificate, missing, start
from one_node import SITE, Talk
from typer.testing import CliRunner

from gemel.core.arrays import pack_arrays
from gemel.core.canonical import sha256_hex
from gemel.core.dataset import Dataset
from gemel.core.errors import GemelError
from gemel.core.messages import Envelope, read_reply, sign_reply
from gemel.core.start_kit import read_join, read_kit
from gemel.twins.installed import make_twin
from gemel.twins.programmes.fatty_liver import PROGRAMME

if TYPE_CHECKING:
    from gemel.cli.demo.federation import Federation

KINDS = tuple(hostile_bytes(Path("canary")))
MakeStudy = Callable[..., Any]


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A folder that appears when somebody obeyed."""
    return tmp_path / "obeyed"


def test_the_bytes_do_run_in_a_reader_that_trusts_them(canary: Path) -> None:
    """Otherwise what follows would prove nothing."""
    import pickle

    pickle.loads(hostile_bytes(canary)["pickle 5"])
    assert canary.exists()


def test_no_field_of_a_message_to_a_node_is_obeyed(
    federation: Federation, make_study: MakeStudy, canary: Path
) -> None:
    """NVFlare CVE-2022-34668, CVE-2026-24186; FedML CVE-2026-5536."""
    talk = Talk(federation, make_study())
    good = talk.envelope("hello")
    for kind, content in hostile_bytes(canary).items():
        for field in ("document", "study", "payload"):
            parts = {"document": good.document, "study": good.study, "payload": good.payload, field: content}
            reply = read_reply(talk.send(Envelope(**parts)).document)[0]
            assert str(reply.status) == "refused", (kind, field)
            assert reply.code in ("GEM101", "GEM103"), (kind, field)
    assert not canary.exists()


def test_inputs_that_the_coordinator_itself_signed_are_not_obeyed_and_cost_nothing(
    federation: Federation, make_study: MakeStudy, canary: Path
) -> None:
    """PyTorch CVE-2025-32434: a model file that runs code where it is loaded."""
    talk = Talk(federation, make_study())
    talk.propose()
    talk.decide()
    assert str(talk.ask("count").status) == "released"
    with talk.home.open_ledger() as ledger:
        before = ledger.entries()[-1].seq
    for kind, content in hostile_bytes(canary).items():
        reply = talk.ask("train/1", content)
        assert (str(reply.status), reply.code) == ("refused", "GEM403"), kind
    assert not canary.exists()
    with talk.home.open_ledger() as ledger:
        assert ledger.entries()[-1].seq == before


@pytest.mark.parametrize("kind", ["pickle 5", "json that names a class"])
def test_a_release_that_a_hospital_signed_is_not_obeyed_and_costs_it_the_round(
    federation: Federation, make_study: MakeStudy, canary: Path, kind: str
) -> None:
    """vantage6 CVE-2023-23930: pickled results."""
    content = hostile_bytes(canary)[kind]

    def spoil(site: str, task: str, envelope: Envelope) -> Envelope:
        if (site, task) != (SITE, "train/1"):
            return envelope
        import msgspec

        reply = msgspec.structs.replace(read_reply(envelope.document)[0], payload_sha256=sha256_hex(content))
        key = federation.nodes[site].key
        return Envelope(document=sign_reply(reply, key).to_bytes(), payload=content)

    coordinator, run, _ = start(federation, make_study(), spoil)
    coordinator.run()
    first = next(task for task in certificate(run)["tasks"] if task["task"] == "train/1")
    assert missing(first) == {SITE: "GEM403"}
    assert not canary.exists()


READERS: dict[str, Callable[[Path, bytes], object]] = {
    "start kit": lambda _path, content: read_kit(content),
    "request to join": lambda _path, content: read_join(content),
    "data set": lambda path, _content: Dataset.load(path),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", READERS)
def test_no_file_that_is_read_from_outside_is_obeyed(
    tmp_path: Path, canary: Path, reader: str, kind: str
) -> None:
    """CVE-2022-31604 and CVE-2022-31605: keys and configuration as pickle and YAML."""
    content = hostile_bytes(canary)[kind]
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(GemelError):
        READERS[reader](path, content)
    assert not canary.exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "command",
    [
        ["verify", "{file}"],
        [
            "node",
            "init",
            "{file}",
            "{folder}/node",
            "--export",
            "{folder}",
            "--floor",
            "20",
            "--epsilon-cap",
            "3",
            "--delta",
            "1e-5",
        ],
        ["study", "simulate", "{file}", "--hospitals", "2"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_no_file_that_a_command_is_given_is_obeyed(
    tmp_path: Path, canary: Path, command: list[str], kind: str
) -> None:
    """OpenMed GHSA-m3v4-v5gx-7wf5: code injection by a file that is loaded."""
    from gemel.cli.main import app

    path = tmp_path / "file.json"
    path.write_bytes(hostile_bytes(canary)[kind])
    result = CliRunner().invoke(app, [part.format(file=path, folder=tmp_path) for part in command])
    assert result.exit_code in (1, 2, 3), result.output
    assert isinstance(result.exception, SystemExit), result.exception
    assert "GEM1" in result.output or "GEM41" in result.output, result.output
    assert not canary.exists()
    assert not (tmp_path / "node").exists(), "what was refused left a home behind"


@pytest.mark.parametrize("kind", ["pickle 5", "json that names a class"])
@pytest.mark.parametrize("file", ["node.json", "studies", "outbox"])
def test_a_home_with_such_a_file_in_it_refuses_to_go_on(
    federation: Federation, make_study: MakeStudy, canary: Path, kind: str, file: str
) -> None:
    content = hostile_bytes(canary)[kind]
    talk = Talk(federation, make_study())
    talk.propose()
    talk.decide()
    talk.ask("count")
    folder = talk.home.folder
    targets = (
        [folder / file]
        if file == "node.json"
        else sorted(p for p in (folder / file).rglob("*") if p.is_file())
    )
    assert targets
    for path in targets:
        path.write_bytes(content)
    try:
        talk.reopen()
        reply = talk.ask("count")
        assert str(reply.status) in ("refused", "failed")
        assert reply.payload_sha256 == ""
    except GemelError as error:
        assert error.code == "GEM407"  # noqa: PT017  # a home that is none does not answer at all
    assert not canary.exists()


def test_a_twin_of_the_right_form_is_taken(federation: Federation, make_study: MakeStudy) -> None:
    """The refusals above are of the bytes, and not of everything."""
    talk = Talk(federation, make_study())
    talk.propose()
    talk.decide()
    talk.ask("count")
    reply = talk.ask("train/1", pack_arrays(make_twin(PROGRAMME).to_arrays()))
    assert str(reply.status) == "released"
