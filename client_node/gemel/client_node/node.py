"""The one path by which a request is answered: verify, approve, charge, compute, gate, keep, send."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from gemel.client_node import anchors, approvals, gate, outbox, patients, tasks
from gemel.client_node.home import NodeHome
from gemel.core.arrays import pack_arrays, unpack_arrays
from gemel.core.canonical import sha256_hex
from gemel.core.dataset import Dataset
from gemel.core.errors import GemelError
from gemel.core.messages import HELLO, Envelope, Reply, Request, Status, read_request, sign_reply
from gemel.core.programme import Programme
from gemel.core.signing import SignedDocument, read_signed, signed_by
from gemel.core.study import Study, parse_study
from gemel.privacy.ledger import Ledger, LedgerEntry
from gemel.privacy.noise import NoiseSource
from gemel.synthetic.releases import declared_inputs, declared_release
from gemel.twins.installed import find

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """One verified request with all that is needed to answer it."""

    request: Request
    request_sha256: str
    study: Study
    study_document: SignedDocument
    programme: Programme


def answer(home: NodeHome, envelope: Envelope) -> Envelope:
    """Answer one request, one at a time. A fault becomes a code; its text stays in the hospital's log.

    Raises only when there is no ledger to answer from (GEM302, GEM309, GEM310): then nothing can be said that is true.
    """
    with home.locked(), home.open_ledger() as ledger:
        return _answer(home, ledger, envelope)


def _answer(home: NodeHome, ledger: Ledger, envelope: Envelope) -> Envelope:
    request, request_sha256 = Request(study_sha256="", task="", inputs_sha256=""), ""
    try:
        request, document = read_request(envelope.document)
        request_sha256 = document.payload_sha256
        work = _verify(home, request, document, envelope)
        anchors.require(home, ledger, request)
        if request.task == HELLO:
            status, code, payload = _hello(home, ledger, work), "", b""
        else:
            return _release(home, ledger, work, envelope)
    except GemelError as error:
        logger.warning("%s refused: %s", request.task, error)
        status, code, payload = Status.REFUSED, error.code, b""
    except Exception:
        logger.exception("task %s failed", request.task)
        status, code, payload = Status.FAILED, "GEM406", b""
    return _reply(home, ledger, request, request_sha256, status=status, code=code, payload=payload)


def _verify(home: NodeHome, request: Request, document: SignedDocument, envelope: Envelope) -> Work:
    config = home.config
    if not signed_by(document, config.coordinator_public_key):
        raise GemelError("GEM102", "The request is not signed by this node's coordinator.")
    study_document = read_signed(envelope.study, kind="study")
    if study_document.payload_sha256 != request.study_sha256:
        raise GemelError("GEM103", "The request names another study than the one it brings.")
    study = parse_study(study_document.payload)
    gate.admit_study(study, config, node_public_key=home.key.public_hex)
    if sha256_hex(envelope.payload) != request.inputs_sha256:
        raise GemelError("GEM103", "The inputs differ from the hash in the request.")
    programme = find(study.programme, study.programme_version)
    return Work(request, document.payload_sha256, study, study_document, programme)


def _hello(home: NodeHome, ledger: Ledger, work: Work) -> Status:
    """Put the study before the stewards, with the data that it would touch; say how far it got."""
    gate.admit_price(work.study)
    dataset = patients.load(home, work.programme)
    gate.admit_people(home.config, patients=len(dataset))
    gate.admit_plan(work.study, ledger, people=dataset.people())
    approvals.propose(home, work.study_document, snapshot=dataset.snapshot, patients=len(dataset))
    approval = approvals.find(home, work.request.study_sha256)
    if approval is None:
        return Status.PENDING
    gate.admit_data(gate.admit_approved(work.request.study_sha256, approval), snapshot=dataset.snapshot)
    return Status.APPROVED


def _release(home: NodeHome, ledger: Ledger, work: Work, envelope: Envelope) -> Envelope:
    """Charge the study whole, begin, compute, pass the gate, make durable.

    The same request again gets the same bytes at no cost.
    """
    request, study = work.request, work.study
    approval = gate.admit_approved(request.study_sha256, approvals.find(home, request.study_sha256))
    if (kept := outbox.get(home, work.request_sha256)) is not None:
        return _again(ledger, work, kept)
    if ledger.released(request.study_sha256, request.task) is not None:
        raise GemelError("GEM304", f"The release of {request.task} is on record but no longer kept here.")
    dataset = patients.load(home, work.programme)
    gate.admit_data(approval, snapshot=dataset.snapshot)
    gate.admit_people(home.config, patients=len(dataset))
    inputs = unpack_arrays(envelope.payload, declared_inputs(request.task, work.programme))
    noisy_patients = _own_count(home, ledger, study) if request.task != "count" else 0.0
    reserved = _reserve(ledger, study, dataset)
    begun = ledger.begin(
        study_sha256=request.study_sha256,
        task=request.task,
        request_sha256=work.request_sha256,
        snapshot=reserved.snapshot,
    )
    arrays = tasks.compute(
        request.task,
        study,
        work.programme,
        dataset=dataset,
        inputs=inputs,
        noisy_patients=noisy_patients,
        noise=NoiseSource.secure(),
    )
    gate.admit_release(
        arrays,
        declared_release(request.task, work.programme),
        reserved=reserved,
        begun=begun,
        study=study,
        task=request.task,
        request_sha256=work.request_sha256,
    )
    payload = pack_arrays(arrays)
    reply = _reply(
        home, ledger, request, work.request_sha256, status=Status.RELEASED, code="", payload=payload
    )
    outbox.put(home, work.request_sha256, reply)
    ledger.record_release(begun, release_sha256=sha256_hex(payload))
    return reply


def _reserve(ledger: Ledger, study: Study, dataset: Dataset) -> LedgerEntry:
    """The reservation of the whole study, made at its first task: later ones cannot be refused for want of budget."""
    reserved = ledger.reserved(study.sha256)
    if reserved is not None and reserved.snapshot == dataset.snapshot:
        return reserved
    return ledger.reserve(
        study_sha256=study.sha256,
        programme=f"{study.programme}@{study.programme_version}",
        snapshot=dataset.snapshot,
        charges=study.charges(),
        people=dataset.people(),
    )


def _again(ledger: Ledger, work: Work, kept: Envelope) -> Envelope:
    """What was made durable for this request, through the gate once more."""
    declared = declared_release(work.request.task, work.programme)
    begun = ledger.charged(work.request.study_sha256, work.request.task)
    gate.admit_release(
        unpack_arrays(kept.payload, declared),
        declared,
        reserved=ledger.reserved(work.request.study_sha256),
        begun=begun,
        study=work.study,
        task=work.request.task,
        request_sha256=work.request_sha256,
    )
    if begun is not None:  # the gate saw to it
        ledger.record_release(begun, release_sha256=sha256_hex(kept.payload))
    return kept


def _own_count(home: NodeHome, ledger: Ledger, study: Study) -> float:
    """The noisy count that this node released for the study; GEM404 without one, GEM402 below the study's floor."""
    begun = ledger.charged(study.sha256, "count")
    kept = outbox.get(home, begun.request_sha256) if begun is not None else None
    if kept is None:
        raise GemelError("GEM404", "The count comes first.")
    programme = find(study.programme, study.programme_version)
    count = float(unpack_arrays(kept.payload, declared_release("count", programme))["patients"][0])
    gate.admit_count(study, noisy_patients=count)
    return count


def _reply(
    home: NodeHome,
    ledger: Ledger,
    request: Request,
    request_sha256: str,
    *,
    status: Status,
    code: str,
    payload: bytes,
) -> Envelope:
    newest = ledger.entries()[-1]
    reply = Reply(
        site=home.config.site,
        study_sha256=request.study_sha256,
        task=request.task,
        request_sha256=request_sha256,
        status=status,
        code=code,
        payload_sha256=sha256_hex(payload) if payload else "",
        epsilon_spent=newest.epsilon_after,
        ledger_seq=newest.seq,
        ledger_head=newest.sha256,
    )
    return Envelope(document=sign_reply(reply, home.key).to_bytes(), payload=payload)
