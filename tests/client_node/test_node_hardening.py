"""What an unfriendly coordinator, a damaged home or an unlucky crash may not get out of a node."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict

from gemel.cli.demo.federation import STEWARD, Federation
from gemel.client_node import approvals, outbox, patients, tasks
from gemel.client_node.approvals import Decision
from gemel.client_node.flower import HOME_VARIABLE, client_app
from gemel.client_node.home import NodeHome
from gemel.client_node.node import answer
from gemel.core.arrays import pack_arrays
from gemel.core.canonical import sha256_hex
from gemel.core.messages import HELLO, Envelope, Reply, Request, Status, read_reply, sign_reply, sign_request
from gemel.core.signing import SigningKey, sign_document
from gemel.core.study import Study
from gemel.privacy.ledger import Ledger
from gemel.privacy.noise import NoiseSource
from gemel.twins.installed import make_twin
from gemel.twins.programmes.fatty_liver import PROGRAMME

MakeStudy = Callable[..., Study]
SITE = "beta"


class Conversation:
    """A coordinator's half of the talk with one node, about any study document."""

    def __init__(self, federation: Federation, payload: dict[str, Any]) -> None:
        self.federation = federation
        self.home = federation.nodes[SITE]
        self.study = sign_document("study", payload, SigningKey.generate(), role="proposer")

    def ask(self, task: str, payload: bytes = b"") -> tuple[Reply, Envelope]:
        request = Request(
            study_sha256=self.study.payload_sha256, task=task, inputs_sha256=sha256_hex(payload)
        )
        document = sign_request(request, self.federation.coordinator.key)
        got = answer(
            self.home, Envelope(document=document.to_bytes(), study=self.study.to_bytes(), payload=payload)
        )
        return read_reply(got.document)[0], got

    def decide(self, decision: Decision) -> None:
        approvals.decide(
            self.home,
            approvals.proposal_of(self.home, self.study.payload_sha256),
            decision,
            steward=STEWARD,
            key=self.federation.stewards[SITE],
            reason="said",
        )

    def approve(self) -> None:
        assert self.ask(HELLO)[0].status is Status.PENDING
        self.decide(Decision.APPROVED)

    def charged(self) -> list[str]:
        with self.home.open_ledger() as ledger:
            return [entry.task for entry in ledger.entries() if entry.kind == "begun"]


@pytest.fixture
def talk(federation: Federation, make_study: MakeStudy) -> Conversation:
    return Conversation(federation, make_study().to_payload())


# --- counts leave with noise, or not at all ------------------------------------------------------


def test_a_studys_own_floor_cannot_be_used_to_search_for_the_exact_count(
    federation: Federation, make_study: MakeStudy
) -> None:
    exact = len(patients.load(federation.nodes[SITE], PROGRAMME))
    answers = {
        (reply.status, reply.code)
        for floor in (exact - 1, exact, exact + 1, 10 * exact)
        for reply, _ in [Conversation(federation, make_study(minimum_patients=floor).to_payload()).ask(HELLO)]
    }
    assert answers == {(Status.PENDING, "")}


def test_the_studys_floor_holds_for_the_count_that_was_released(
    federation: Federation, make_study: MakeStudy
) -> None:
    talk = Conversation(federation, make_study(minimum_patients=10_000).to_payload())
    talk.approve()
    assert talk.ask("count")[0].status is Status.RELEASED
    twin = pack_arrays(make_twin(PROGRAMME).to_arrays())
    for task, inputs in (("train/1", twin), ("evaluate", twin), ("synthesise/1", b"")):
        assert talk.ask(task, inputs)[0].code == "GEM402"
    assert talk.charged() == ["count"]


# --- what leaves a second time passes the door a second time -------------------------------------


def test_a_kept_release_does_not_leave_once_the_steward_has_refused(talk: Conversation) -> None:
    talk.approve()
    assert talk.ask("count")[0].status is Status.RELEASED
    talk.decide(Decision.REFUSED)
    reply, got = talk.ask("count")
    assert (reply.code, got.payload) == ("GEM401", b"")


def test_a_release_that_was_lost_from_the_outbox_is_not_drawn_again(
    talk: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk.approve()
    reply, _ = talk.ask("count")
    for file in (talk.home.folder / "outbox").iterdir():
        file.unlink()
    monkeypatch.setattr(tasks, "compute", lambda *_a, **_k: pytest.fail("a second draw for one charge"))
    second, got = talk.ask("count")
    assert (second.code, got.payload) == ("GEM304", b"")
    assert outbox.get(talk.home, reply.request_sha256) is None


@pytest.mark.parametrize(
    "payload",
    [
        b"name=Jane Doe",
        pack_arrays({"patients": np.array([1.5])}),
        pack_arrays({"patients": np.array([1]), "more": np.array([1])}),
    ],
    ids=["not arrays", "another dtype", "an extra array"],
)
@pytest.mark.parametrize("signer", ["the node", "somebody"])
def test_what_was_slipped_into_the_outbox_does_not_leave(
    talk: Conversation, payload: bytes, signer: str
) -> None:
    talk.approve()
    released, got = talk.ask("count")
    key = talk.home.key if signer == "the node" else SigningKey.generate()
    forged = sign_reply(msgspec.structs.replace(released, payload_sha256=sha256_hex(payload)), key)
    folder = talk.home.folder / "outbox"
    (folder / f"{released.request_sha256}.json").write_bytes(forged.to_bytes())
    (folder / f"{released.request_sha256}.safetensors").write_bytes(payload)
    reply, got = talk.ask("count")
    assert reply.status is not Status.RELEASED
    assert got.payload == b""


def test_a_release_that_a_crash_left_unrecorded_passes_the_gate_before_it_leaves(
    talk: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_args: object, **_named: object) -> None:
        raise KeyboardInterrupt

    talk.approve()
    monkeypatch.setattr(Ledger, "record_release", crash)
    with pytest.raises(KeyboardInterrupt):
        talk.ask("count")
    monkeypatch.undo()
    (document,) = (talk.home.folder / "outbox").glob("*.json")
    reply, _ = read_reply(document.read_bytes())
    payload = pack_arrays({"patients": np.array([1]), "names": np.array([2])})
    forged = sign_reply(msgspec.structs.replace(reply, payload_sha256=sha256_hex(payload)), talk.home.key)
    document.write_bytes(forged.to_bytes())
    document.with_suffix(".safetensors").write_bytes(payload)
    refused, got = talk.ask("count")
    assert (refused.code, got.payload) == ("GEM403", b"")


def test_a_release_kept_for_one_request_does_not_answer_another(talk: Conversation) -> None:
    talk.approve()
    counted, _ = talk.ask("count")
    folder = talk.home.folder / "outbox"
    asked = Request(
        study_sha256=talk.study.payload_sha256, task="synthesise/1", inputs_sha256=sha256_hex(b"")
    )
    other = sign_request(asked, talk.federation.coordinator.key).payload_sha256
    for suffix in ("json", "safetensors"):
        (folder / f"{counted.request_sha256}.{suffix}").rename(folder / f"{other}.{suffix}")
    reply, got = talk.ask("synthesise/1")
    assert reply.status is not Status.RELEASED
    assert got.payload == b""


# --- studies that are not what they seem ---------------------------------------------------------


def test_a_study_that_costs_more_than_it_says_is_refused(
    federation: Federation, make_study: MakeStudy
) -> None:
    privacy = msgspec.structs.replace(make_study().privacy, epsilon=0.1)
    reply, _ = Conversation(federation, make_study(privacy=privacy).to_payload()).ask(HELLO)
    assert (reply.status, reply.code) == (Status.REFUSED, "GEM305")


def test_a_study_that_is_written_in_two_ways_is_refused_before_it_is_charged(
    federation: Federation, make_study: MakeStudy
) -> None:
    payload = make_study().to_payload()
    payload["privacy"]["epsilon"] = 3  # the same study, another hash
    talk = Conversation(federation, payload)
    assert talk.ask(HELLO)[0].code == "GEM101"
    assert talk.charged() == []


@pytest.mark.parametrize("noise_multiplier", [1e-200, 1e-4, 0.01, 1e200])
def test_noise_that_nobody_can_account_for_is_a_refusal_and_not_a_fault(
    federation: Federation, make_study: MakeStudy, noise_multiplier: float
) -> None:
    training = msgspec.structs.replace(make_study().training, noise_multiplier=noise_multiplier)
    reply, _ = Conversation(federation, make_study(training=training).to_payload()).ask(HELLO)
    assert (reply.status, reply.code) == (Status.REFUSED, "GEM101")


def test_an_approval_of_another_hospital_does_not_count(talk: Conversation) -> None:
    talk.approve()
    path = talk.home.folder / "studies" / f"{talk.study.payload_sha256}.approval.json"
    approval = {**json.loads(path.read_bytes())["payload"], "site": "alpha"}
    document = sign_document("approval", approval, talk.federation.stewards[SITE], role="steward")
    path.write_bytes(document.to_bytes())
    assert talk.ask("count")[0].code == "GEM102"


def test_patients_are_not_read_for_a_task_that_nobody_approved(
    talk: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk.ask(HELLO)
    monkeypatch.setattr(patients, "load", lambda *_a: pytest.fail("patients were read"))
    assert talk.ask("count")[0].code == "GEM401"


# --- noise, secrets, processes -------------------------------------------------------------------


def test_the_noise_of_a_release_comes_from_the_operating_system(
    talk: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    compute = tasks.compute

    def spy(*args: Any, noise: NoiseSource, **named: Any) -> Any:
        seen.append(noise.is_secure)
        return compute(*args, noise=noise, **named)

    monkeypatch.setattr(tasks, "compute", spy)
    talk.approve()
    talk.ask("count")
    assert seen == [True]


@pytest.mark.parametrize("fault", ["no home", "no envelope", "a fault before the answer"])
def test_what_goes_wrong_around_an_answer_leaves_without_a_word(
    talk: Conversation, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    def fail(*_args: object) -> None:
        raise ValueError("patient 4711 has a secret")

    empty = {"document": b"", "study": b"", "payload": b""}
    content = RecordDict({} if fault == "no envelope" else {"gemel": ConfigRecord(empty)})
    home = talk.home.folder / "4711" if fault == "no home" else talk.home.folder
    monkeypatch.setenv(HOME_VARIABLE, str(home))
    if fault == "a fault before the answer":
        monkeypatch.setattr(client_app, "answer", fail)
    assert dict(client_app.said(content)["gemel"]) == empty


def test_a_home_with_patients_in_it_is_open_to_its_user_only(talk: Conversation) -> None:
    assert talk.home.folder.stat().st_mode & 0o077 == 0
    for secret in (talk.home.folder / "keys").iterdir():
        if secret.suffix == ".key":
            assert secret.stat().st_mode & 0o077 == 0


def test_two_tasks_at_once_for_one_hospital_wait_for_each_other(
    talk: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk.approve()
    inside, most = 0, 0
    compute = tasks.compute
    together = threading.Barrier(2)

    def slow(*args: Any, **named: Any) -> Any:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait(timeout=1.0)  # passes only if both are in here at once
        result = compute(*args, **named)
        inside -= 1
        return result

    monkeypatch.setattr(tasks, "compute", slow)
    payloads: list[bytes] = []
    threads = [threading.Thread(target=lambda: payloads.append(talk.ask("count")[1].payload)) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert payloads[0] == payloads[1] != b""


def test_an_older_home_is_refused_with_its_schema(talk: Conversation) -> None:
    path = talk.home.folder / "node.json"
    path.write_bytes(path.read_bytes().replace(b"gemel/node/1", b"gemel/node/0"))
    with pytest.raises(Exception, match="GEM407"):
        NodeHome.open(talk.home.folder)
