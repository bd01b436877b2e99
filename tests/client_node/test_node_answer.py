"""The promises of a node, seen from outside: requests in, replies out, ledger beside."""

from __future__ import annotations

import json
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from any_synthesis import a_choice

from gemel.cli.demo.federation import STEWARD, Federation
from gemel.client_node import approvals, outbox, tasks
from gemel.client_node.approvals import Decision
from gemel.client_node.home import NodeHome
from gemel.client_node.node import answer
from gemel.core.arrays import pack_arrays, unpack_arrays
from gemel.core.canonical import sha256_hex
from gemel.core.errors import GemelError
from gemel.core.messages import HELLO, Envelope, Reply, Request, Status, read_reply, sign_request
from gemel.core.signing import SigningKey, sign_document
from gemel.core.study import Study
from gemel.core.synthesis_plan import ROUNDS
from gemel.privacy.accounting import price
from gemel.synthetic.domain import domain_of
from gemel.synthetic.releases import declared_release
from gemel.twins.installed import make_twin
from gemel.twins.programmes.fatty_liver import PROGRAMME

MakeStudy = Callable[..., Study]
SITE = "beta"


class Asker:
    """A coordinator's half of the conversation with one node."""

    def __init__(self, federation: Federation, study: Study) -> None:
        self.federation, self.study = federation, study
        self.home = federation.nodes[SITE]
        self.key = federation.coordinator.key
        self.document = sign_document("study", study.to_payload(), SigningKey.generate(), role="proposer")

    def envelope(self, task: str, payload: bytes = b"") -> Envelope:
        request = Request(study_sha256=self.study.sha256, task=task, inputs_sha256=sha256_hex(payload))
        document = sign_request(request, self.key)
        return Envelope(document=document.to_bytes(), study=self.document.to_bytes(), payload=payload)

    def ask(self, task: str, payload: bytes = b"") -> tuple[Reply, Envelope]:
        return self.send(self.envelope(task, payload))

    def send(self, envelope: Envelope) -> tuple[Reply, Envelope]:
        got = answer(self.home, envelope)
        return read_reply(got.document)[0], got

    def approve(self) -> None:
        assert self.ask(HELLO)[0].status is Status.PENDING
        self.federation.approve(SITE, self.study.sha256)

    def charged(self) -> list[str]:
        with self.home.open_ledger() as ledger:
            return [entry.task for entry in ledger.entries() if entry.kind == "begun"]

    def twin(self) -> bytes:
        return pack_arrays(make_twin(PROGRAMME).to_arrays())


@pytest.fixture
def asker(federation: Federation, make_study: MakeStudy) -> Asker:
    return Asker(federation, make_study())


def test_a_study_waits_until_a_steward_approves_it(asker: Asker) -> None:
    assert asker.ask(HELLO)[0].status is Status.PENDING
    reply, got = asker.ask("count")
    assert (reply.status, reply.code, got.payload) == (Status.REFUSED, "GEM401", b"")
    asker.federation.approve(SITE, asker.study.sha256)
    assert asker.ask(HELLO)[0].status is Status.APPROVED
    assert asker.ask("count")[0].status is Status.RELEASED


def test_a_study_that_a_steward_refused_stays_refused(asker: Asker) -> None:
    asker.ask(HELLO)
    key = asker.federation.stewards[SITE]
    shown = approvals.proposal_of(asker.home, asker.study.sha256)
    approvals.decide(asker.home, shown, Decision.REFUSED, steward=STEWARD, key=key, reason="not now")
    assert asker.ask(HELLO)[0].code == "GEM401"
    assert asker.ask("count")[0].code == "GEM401"
    assert asker.charged() == []


def test_an_approval_signed_by_nobody_on_record_is_refused(asker: Asker) -> None:
    asker.approve()
    path = asker.home.folder / "studies" / f"{asker.study.sha256}.approval.json"
    forged = json.loads(path.read_bytes())["payload"]
    path.write_bytes(sign_document("approval", forged, SigningKey.generate(), role="steward").to_bytes())
    assert asker.ask("count")[0].code == "GEM102"
    assert asker.charged() == []


def test_every_task_is_charged_exactly_what_the_study_says(asker: Asker) -> None:
    asker.approve()
    twin = asker.twin()
    for task in asker.study.tasks:
        payload = twin if task.startswith("train/") or task == "evaluate" else b""
        if task in ROUNDS[1:]:
            payload = pack_arrays(a_choice(domain_of(PROGRAMME), task))
        reply, got = asker.ask(task, payload)
        assert reply.status is Status.RELEASED, (task, reply.code)
        unpack_arrays(got.payload, declared_release(task, PROGRAMME))
    assert asker.charged() == list(asker.study.tasks)
    expected = price(asker.study.charges(), delta=1e-5)
    assert reply.epsilon_spent == expected


def test_the_same_request_again_gets_the_same_bytes_at_no_cost(asker: Asker) -> None:
    asker.approve()
    first_reply, first = asker.ask("count")
    second_reply, second = asker.ask("count")
    assert first == second
    assert asker.charged() == ["count"]
    assert second_reply.epsilon_spent == first_reply.epsilon_spent


def test_another_input_for_a_task_already_charged_is_refused(asker: Asker) -> None:
    asker.approve()
    asker.ask("count")
    assert asker.ask("train/1", asker.twin())[0].status is Status.RELEASED
    other = {name: array + 1 for name, array in make_twin(PROGRAMME).to_arrays().items()}
    reply, got = asker.ask("train/1", pack_arrays(other))
    assert (reply.code, got.payload) == ("GEM304", b"")
    assert asker.charged() == ["count", "train/1"]


def test_a_budget_that_would_be_exceeded_is_refused_before_anything_is_computed(
    asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    asker.approve()
    asker.home = NodeHome(asker.home.folder, msgspec.structs.replace(asker.home.config, epsilon_cap=0.01))
    monkeypatch.setattr(tasks, "compute", lambda *_a, **_k: pytest.fail("patients were touched"))
    reply, got = asker.ask("count")
    assert (reply.status, reply.code, got.payload) == (Status.REFUSED, "GEM301", b"")
    assert asker.charged() == []


def test_a_study_that_the_budget_cannot_carry_to_its_end_is_refused_at_the_door(
    federation: Federation, make_study: MakeStudy
) -> None:
    privacy = msgspec.structs.replace(make_study().privacy, synthesis_noise_multiplier=0.7, epsilon=100.0)
    reply, _ = Asker(federation, make_study(privacy=privacy)).ask(HELLO)
    assert (reply.status, reply.code) == (Status.REFUSED, "GEM301")


def test_a_hospital_below_the_minimum_takes_no_part_and_spends_nothing(
    asker: Asker,
) -> None:
    config = msgspec.structs.replace(asker.home.config, minimum_patients=10_000)
    asker.home = NodeHome(asker.home.folder, config)
    reply, got = asker.ask(HELLO)
    assert (reply.status, reply.code, got.payload) == (Status.REFUSED, "GEM402", b"")
    assert reply.epsilon_spent == 0


def test_a_study_cannot_lower_the_hospitals_own_floor(federation: Federation, make_study: MakeStudy) -> None:
    asker = Asker(federation, make_study(minimum_patients=1))
    config = msgspec.structs.replace(asker.home.config, minimum_patients=10_000)
    asker.home = NodeHome(asker.home.folder, config)
    assert asker.ask(HELLO)[0].code == "GEM402"


def test_the_charge_is_on_disk_before_patients_are_touched(
    asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    asker.approve()
    seen: list[list[str]] = []

    def compute(*_args: object, **_kwargs: object) -> dict[str, np.ndarray]:
        seen.append(asker.charged())
        return {"patients": np.array([1], dtype=np.int64)}

    monkeypatch.setattr(tasks, "compute", compute)
    assert asker.ask("count")[0].status is Status.RELEASED
    assert seen == [["count"]]


def test_a_failure_leaves_as_a_code_and_never_as_its_text(
    asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    asker.approve()

    def fail(*_args: object, **_kwargs: object) -> None:
        raise ValueError("patient 4711 has a secret")

    monkeypatch.setattr(tasks, "compute", fail)
    reply, got = asker.ask("count")
    assert (reply.status, reply.code) == (Status.FAILED, "GEM406")
    assert b"4711" not in got.document + got.payload
    assert asker.charged() == ["count"], "the reservation stands"
    monkeypatch.undo()
    assert asker.ask("count")[0].status is Status.RELEASED, "one reservation pays for one release"
    assert asker.charged() == ["count"]


@pytest.mark.parametrize(
    "arrays",
    [
        {"patients": np.array([1.0])},
        {"patients": np.array([1, 2])},
        {"patients": np.array([1]), "names": np.array([2])},
        {},
    ],
    ids=["dtype", "shape", "extra array", "nothing"],
)
def test_the_gate_lets_out_only_what_the_task_declares(
    asker: Asker, monkeypatch: pytest.MonkeyPatch, arrays: dict[str, np.ndarray]
) -> None:
    asker.approve()
    monkeypatch.setattr(tasks, "compute", lambda *_a, **_k: arrays)
    reply, got = asker.ask("count")
    assert (reply.code, got.payload) == ("GEM403", b"")


def test_the_gate_stops_a_value_that_is_not_finite(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    asker.approve()
    asker.ask("count")
    arrays = {n: np.full_like(a, np.nan) for n, a in make_twin(PROGRAMME).to_arrays().items()}
    monkeypatch.setattr(tasks, "compute", lambda *_a, **_k: arrays)
    assert asker.ask("train/1", asker.twin())[0].code == "GEM403"


def _with_fewer_patients(home: NodeHome) -> NodeHome:
    """The same home, pointed at an export that lost its last five patients."""
    copy = home.folder / "export"
    copy.mkdir()
    for file in home.export.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    lines = (copy / "Patient.ndjson").read_text().splitlines()
    (copy / "Patient.ndjson").write_text("\n".join(lines[:-5]) + "\n")
    return NodeHome(home.folder, msgspec.structs.replace(home.config, export=str(copy)))


def test_data_that_changed_since_approval_are_refused(asker: Asker) -> None:
    asker.approve()
    asker.home = _with_fewer_patients(asker.home)
    assert asker.ask("count")[0].code == "GEM405"
    assert asker.charged() == []


def test_an_approval_is_of_the_data_that_the_steward_was_shown(asker: Asker) -> None:
    asker.ask(HELLO)
    shown = approvals.proposal_of(asker.home, asker.study.sha256)
    asker.home = _with_fewer_patients(asker.home)
    asker.ask(HELLO)  # the proposal now shows the newer data
    key = asker.federation.stewards[SITE]
    approvals.decide(asker.home, shown, Decision.APPROVED, steward=STEWARD, key=key, reason="as shown")
    assert asker.ask("count")[0].code == "GEM405"
    assert asker.charged() == []


def test_a_study_that_never_arrived_cannot_be_decided_on(asker: Asker) -> None:
    with pytest.raises(GemelError, match="GEM401"):
        approvals.proposal_of(asker.home, asker.study.sha256)


def test_a_request_by_another_coordinator_is_refused(asker: Asker) -> None:
    asker.key = SigningKey.generate()
    reply, _ = asker.ask(HELLO)
    assert (reply.status, reply.code) == (Status.REFUSED, "GEM102")


def test_a_study_changed_after_signing_is_refused(asker: Asker) -> None:
    envelope = asker.envelope(HELLO)
    tampered = json.loads(envelope.study)
    tampered["payload"]["minimum_patients"] = 1
    reply, _ = asker.send(
        Envelope(document=envelope.document, study=json.dumps(tampered).encode(), payload=b"")
    )
    assert reply.code == "GEM103"


def test_a_study_other_than_the_one_requested_is_refused(asker: Asker, make_study: MakeStudy) -> None:
    other = Asker(asker.federation, make_study(study_id="other"))
    envelope = asker.envelope(HELLO)
    reply, _ = asker.send(Envelope(document=envelope.document, study=other.document.to_bytes()))
    assert reply.code == "GEM103"


def test_a_study_that_names_another_key_for_the_site_is_refused(
    federation: Federation, make_study: MakeStudy
) -> None:
    sites = {**federation.site_keys, SITE: SigningKey.generate().public_hex}
    assert Asker(federation, make_study(sites=sites)).ask(HELLO)[0].code == "GEM404"


def test_a_programme_that_the_hospital_does_not_allow_is_refused(
    federation: Federation, make_study: MakeStudy
) -> None:
    asker = Asker(federation, make_study(programme_version="0"))
    assert asker.ask(HELLO)[0].code == "GEM104"


def test_inputs_of_another_shape_are_refused_uncharged(asker: Asker) -> None:
    asker.approve()
    asker.ask("count")
    reply, _ = asker.ask("train/1", pack_arrays({"weights": np.zeros(3, np.float32)}))
    assert reply.code == "GEM403"
    assert asker.charged() == ["count"]


def test_training_before_the_count_is_refused_uncharged(asker: Asker) -> None:
    asker.approve()
    assert asker.ask("train/1", asker.twin())[0].code == "GEM404"
    assert asker.charged() == []


def test_a_task_that_is_not_in_the_study_is_refused(asker: Asker) -> None:
    asker.approve()
    assert asker.ask("train/99", asker.twin())[0].code == "GEM404"
    assert asker.charged() == []


def test_a_damaged_outbox_is_noticed(asker: Asker) -> None:
    asker.approve()
    reply, _ = asker.ask("count")
    stored = asker.home.folder / "outbox" / f"{reply.request_sha256}.safetensors"
    content = bytearray(stored.read_bytes())
    content[-1] ^= 1
    stored.write_bytes(bytes(content))
    assert asker.ask("count")[0].code == "GEM103"
    assert outbox.get(asker.home, "0" * 64) is None
