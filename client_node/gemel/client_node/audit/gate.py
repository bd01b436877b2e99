"""Replay and forgery: what an unfriendly coordinator, proposer or program sends, and what the node must say to it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from gemel.client_node import tasks
from gemel.client_node.approvals import Decision
from gemel.client_node.audit.throwaway import SITE, STEWARD, Throwaway, signed
from gemel.core.arrays import pack_arrays, unpack_arrays
from gemel.core.canonical import sha256_hex
from gemel.core.messages import HELLO, Envelope, Reply, Status, sign_reply
from gemel.core.signing import SignedDocument, SigningKey, sign_document
from gemel.core.study import Study
from gemel.privacy.audit.report import Check
from gemel.synthetic.releases import declared_release
from gemel.twins.installed import make_twin

ATTACK = "gate"
_Said = tuple[Reply, Envelope]


@dataclass(frozen=True)
class Forgery:
    """Something that must not get an answer: what it is, the codes it may be refused with, and how it is done."""

    what: str
    codes: tuple[str, ...]
    attempt: Callable[[Throwaway, Study], _Said]


def attack(node: Throwaway, template: Study) -> Iterator[Check]:
    """Try every forgery, each under a study of its own, and the replay of an honest request."""
    yield from attack_replay(node, template)
    for forgery in FORGERIES:
        yield attempt(node, template, forgery)


def attempt(node: Throwaway, template: Study, forgery: Forgery) -> Check:
    """Try one forgery, under a study of its own."""
    reply, got = forgery.attempt(node, node.study(template, study_id=forgery.what))
    refused = reply.status in (Status.REFUSED, Status.FAILED) and got.payload == b""
    return Check(
        ATTACK,
        f"Refused: {forgery.what}.",
        " or ".join(forgery.codes),
        f"{reply.status.value} {reply.code}".strip() + (f", {len(got.payload)} bytes" if got.payload else ""),
        refused and reply.code in forgery.codes,
    )


def forgery(what: str) -> Forgery:
    """The forgery of that name. Raises KeyError."""
    return {one.what: one for one in FORGERIES}[what]


def attack_replay(node: Throwaway, template: Study) -> Iterator[Check]:
    """Send an honest request again, and again."""
    document = signed(node.study(template, study_id="replay"))
    node.approve(document)
    envelope = node.envelope(document, "count")
    first, got = node.send(envelope)
    again = [node.send(envelope) for _ in range(3)]
    equal = sum(other == got for _, other in again)
    yield Check(
        ATTACK,
        "A request that is sent again gets the same bytes.",
        "3 of 3, released",
        f"{equal} of 3, {first.status.value}",
        equal == 3 and first.status is Status.RELEASED and got.payload != b"",
    )
    spent = {reply.epsilon_spent for reply, _ in again} | {first.epsilon_spent}
    yield Check(
        ATTACK,
        "A request that is sent again costs nothing more.",
        "one ε",
        f"{len(spent)} different ε",
        len(spent) == 1,
    )


# --- who asks, and for what ----------------------------------------------------------------------


def _approved(node: Throwaway, study: Study) -> SignedDocument:
    document = signed(study)
    node.approve(document)
    return document


def _counted(node: Throwaway, study: Study) -> SignedDocument:
    document = _approved(node, study)
    node.ask(document, "count")
    return document


def _unapproved(node: Throwaway, study: Study) -> _Said:
    document = signed(study)
    node.ask(document, HELLO)
    return node.ask(document, "count")


def _refused_since(node: Throwaway, study: Study) -> _Said:
    document = _counted(node, study)
    node.approve(document, Decision.REFUSED)
    return node.ask(document, "count")


def _other_coordinator(node: Throwaway, study: Study) -> _Said:
    document = _approved(node, study)
    return node.send(node.envelope(document, "count", key=SigningKey.generate()))


def _unsigned(node: Throwaway, study: Study) -> _Said:
    envelope = node.envelope(_approved(node, study), "count")
    bare = json.loads(envelope.document)
    bare["signatures"] = []
    return node.send(Envelope(json.dumps(bare).encode(), envelope.study, envelope.payload))


def _request_changed(node: Throwaway, study: Study) -> _Said:
    envelope = node.envelope(_approved(node, study), "count")
    changed = json.loads(envelope.document)
    changed["payload"]["task"] = "synthesise/1"
    return node.send(Envelope(json.dumps(changed).encode(), envelope.study, envelope.payload))


def _study_changed(node: Throwaway, study: Study) -> _Said:
    envelope = node.envelope(_approved(node, study), "count")
    changed = json.loads(envelope.study)
    changed["payload"]["privacy"]["count_noise_multiplier"] = 0.5
    return node.send(Envelope(envelope.document, json.dumps(changed).encode(), envelope.payload))


def _other_study(node: Throwaway, study: Study) -> _Said:
    envelope = node.envelope(_approved(node, study), "count")
    other = signed(msgspec.structs.replace(study, study_id="other"))
    return node.send(Envelope(envelope.document, other.to_bytes(), envelope.payload))


def _other_site_key(node: Throwaway, study: Study) -> _Said:
    sites = {**study.sites, SITE: SigningKey.generate().public_hex}
    return node.ask(signed(msgspec.structs.replace(study, sites=sites)), HELLO)


def _programme_not_allowed(node: Throwaway, study: Study) -> _Said:
    return node.with_config(programmes=()).ask(signed(study), HELLO)


def _unknown_task(node: Throwaway, study: Study) -> _Said:
    document = _counted(node, study)
    return node.send(node.envelope(document, f"train/{study.training.rounds + 1}", _twin(node)))


def _before_the_count(node: Throwaway, study: Study) -> _Said:
    return node.ask(_approved(node, study), "train/1")


# --- price and people ----------------------------------------------------------------------------


def _over_the_cap(node: Throwaway, study: Study) -> _Said:
    return node.with_config(epsilon_cap=1e-6).ask(signed(study), HELLO)


def _cap_lowered_since(node: Throwaway, study: Study) -> _Said:
    document = _approved(node, study)
    return node.with_config(epsilon_cap=1e-6).ask(document, "count")


def _price_understated(node: Throwaway, study: Study) -> _Said:
    privacy = msgspec.structs.replace(study.privacy, epsilon=1e-3)
    return node.ask(signed(msgspec.structs.replace(study, privacy=privacy)), HELLO)


def _delta_too_large(node: Throwaway, study: Study) -> _Said:
    return node.with_config(delta=study.privacy.delta / 10).ask(signed(study), HELLO)


def _too_few_people(node: Throwaway, study: Study) -> _Said:
    document = _approved(node, study)
    return node.with_config(minimum_patients=10**6).ask(document, "count")


# --- inputs and data -----------------------------------------------------------------------------


def _twin(node: Throwaway) -> bytes:
    return node.inputs("train/1")


def _inputs_not_named(node: Throwaway, study: Study) -> _Said:
    document = _counted(node, study)
    return node.send(node.envelope(document, "train/1", _twin(node), inputs_sha256=sha256_hex(b"other")))


def _inputs_changed_since(node: Throwaway, study: Study) -> _Said:
    document = _counted(node, study)
    node.ask(document, "train/1")
    moved = {name: array + 1 for name, array in make_twin(node.programme).to_arrays().items()}
    return node.send(node.envelope(document, "train/1", pack_arrays(moved)))


def _inputs_of_another_shape(node: Throwaway, study: Study) -> _Said:
    document = _counted(node, study)
    return node.send(node.envelope(document, "train/1", pack_arrays({"weights": np.zeros(3, np.float32)})))


def _inputs_no_arrays(node: Throwaway, study: Study) -> _Said:
    return node.send(node.envelope(_counted(node, study), "train/1", b"\x80\x04K\x01."))


def _other_snapshot(node: Throwaway, study: Study) -> _Said:
    document = _approved(node, study)
    with _fewer_patients(node):
        return node.ask(document, "count")


@contextmanager
def _fewer_patients(node: Throwaway) -> Iterator[None]:
    path = node.home.export / "Patient.ndjson"
    before = path.read_bytes()
    lines = before.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[: len(lines) * 3 // 4]))
    try:
        yield
    finally:
        path.write_bytes(before)


# --- what was approved, kept, computed -----------------------------------------------------------


def _forged_approval(node: Throwaway, study: Study) -> _Said:
    document = signed(study)
    node.ask(document, HELLO)
    approval = {
        "site": SITE,
        "study_sha256": document.payload_sha256,
        "snapshot": node.dataset().snapshot,
        "decision": "approved",
        "steward": STEWARD,
        "reason": "forged",
        "decided_at": "2026-01-01T00:00:00+00:00",
    }
    forged = sign_document("approval", approval, SigningKey.generate(), role="steward")
    path = node.home.folder / "studies" / f"{document.payload_sha256}.approval.json"
    path.write_bytes(forged.to_bytes())
    return node.ask(document, "count")


def _release_lost(node: Throwaway, study: Study) -> _Said:
    document = _counted(node, study)
    for file in (node.home.folder / "outbox").iterdir():
        file.unlink()
    return node.ask(document, "count")


def _release_swapped(key: str) -> Callable[[Throwaway, Study], _Said]:
    def attempt(node: Throwaway, study: Study) -> _Said:
        document = _approved(node, study)
        reply, _ = node.ask(document, "count")
        payload = pack_arrays({"patients": np.array([1]), "names": np.array([2])})
        signer = node.home.key if key == "node" else SigningKey.generate()
        forged = sign_reply(msgspec.structs.replace(reply, payload_sha256=sha256_hex(payload)), signer)
        stem = node.home.folder / "outbox" / reply.request_sha256
        stem.with_suffix(".json").write_bytes(forged.to_bytes())
        stem.with_suffix(".safetensors").write_bytes(payload)
        return node.ask(document, "count")

    return attempt


def _computed(
    change: Callable[[dict[str, Any]], dict[str, Any]], task: str
) -> Callable[[Throwaway, Study], _Said]:
    def attempt(node: Throwaway, study: Study) -> _Said:
        # One study for all of these: nothing of it is ever released.
        document = _counted(node, msgspec.structs.replace(study, study_id="outputs"))
        with in_place_of_compute(lambda compute, *args, **named: change(compute(*args, **named))):
            return node.ask(document, task)

    return attempt


@contextmanager
def in_place_of_compute(replacement: Callable[..., Any]) -> Iterator[None]:
    """While it lasts, `replacement(compute, ...)` is what this process' nodes compute."""
    compute = tasks.compute
    tasks.compute = lambda *args, **named: replacement(compute, *args, **named)
    try:
        yield
    finally:
        tasks.compute = compute


def _extra(arrays: dict[str, Any]) -> dict[str, Any]:
    return {**arrays, "birth_dates": np.arange(3)}


def _missing(arrays: dict[str, Any]) -> dict[str, Any]:
    return dict(list(arrays.items())[1:])


def _wider(arrays: dict[str, Any]) -> dict[str, Any]:
    return {name: array.astype(np.float64) for name, array in arrays.items()}


def _longer(arrays: dict[str, Any]) -> dict[str, Any]:
    return {name: np.concatenate([array, array]) for name, array in arrays.items()}


def _with(value: float) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def change(arrays: dict[str, Any]) -> dict[str, Any]:
        name, array = next(iter(arrays.items()))
        spoilt = np.array(array)
        spoilt.flat[0] = value
        return {**arrays, name: spoilt}

    return change


FORGERIES = (
    Forgery("a task of a study that waits for the steward", ("GEM401",), _unapproved),
    Forgery("a study that the steward has refused since, from what was kept", ("GEM401",), _refused_since),
    Forgery("an approval that no steward signed", ("GEM102",), _forged_approval),
    Forgery("a request by an unknown coordinator", ("GEM102",), _other_coordinator),
    Forgery("a request without a signature", ("GEM102",), _unsigned),
    Forgery("a request that was changed after signing", ("GEM102", "GEM103"), _request_changed),
    Forgery("a study that was changed after signing", ("GEM102", "GEM103"), _study_changed),
    Forgery("another study than the one that is named", ("GEM103",), _other_study),
    Forgery("a study that names another key for this hospital", ("GEM404",), _other_site_key),
    Forgery("a programme that the hospital does not allow", ("GEM104",), _programme_not_allowed),
    Forgery("a task that the study does not have", ("GEM404", "GEM307"), _unknown_task),
    Forgery("training before the count", ("GEM404",), _before_the_count),
    Forgery("a study over the hospital's cap", ("GEM301",), _over_the_cap),
    Forgery("a task over a cap that was lowered since", ("GEM301",), _cap_lowered_since),
    Forgery("a study that understates its price", ("GEM305",), _price_understated),
    Forgery("a study with a larger δ than the hospital's", ("GEM301",), _delta_too_large),
    Forgery("a task on fewer people than the hospital's floor", ("GEM402",), _too_few_people),
    Forgery("inputs that the request does not name", ("GEM103",), _inputs_not_named),
    Forgery("other inputs for a task that was charged", ("GEM304",), _inputs_changed_since),
    Forgery("inputs of another shape", ("GEM403",), _inputs_of_another_shape),
    Forgery("inputs that are a pickle", ("GEM403",), _inputs_no_arrays),
    Forgery("patients that differ from those approved", ("GEM405",), _other_snapshot),
    Forgery("a second draw for a release that was lost", ("GEM304",), _release_lost),
    Forgery("a kept release that somebody swapped", ("GEM102", "GEM103"), _release_swapped("somebody")),
    Forgery("a kept release that the node's own key swapped", ("GEM403", "GEM304"), _release_swapped("node")),
    Forgery("an extra array in an update", ("GEM403",), _computed(_extra, "train/1")),
    Forgery("an array missing from an update", ("GEM403",), _computed(_missing, "train/1")),
    Forgery("an update of another dtype", ("GEM403",), _computed(_wider, "train/1")),
    Forgery("an update of another shape", ("GEM403",), _computed(_longer, "train/1")),
    Forgery("NaN in an update", ("GEM403",), _computed(_with(float("nan")), "train/1")),
    Forgery("infinity in an update", ("GEM403",), _computed(_with(float("inf")), "train/1")),
    Forgery("an extra table beside the marginals", ("GEM403",), _computed(_extra, "synthesise/1")),
)


def payload_of(node: Throwaway, task: str, got: Envelope) -> dict[str, np.ndarray]:
    """The arrays of a release."""
    return dict(unpack_arrays(got.payload, declared_release(task, node.programme)))


@contextmanager
def quiet_log() -> Iterator[None]:
    """Refusals are what is wanted here; the node's log would be full of them."""
    log = logging.getLogger("gemel.client_node.node")
    before = log.disabled
    log.disabled = True
    try:
        yield
    finally:
        log.disabled = before
