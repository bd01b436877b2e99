"""The one path by which a request is answered: verify, approve, charge, compute, gate, keep, send."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import msgspec

from gemel.client_node import (
    anchors,
    approvals,
    audit_log,
    gate,
    journal,
    local_state,
    masking,
    outbox,
    patients,
    standing,
    tasks,
)
from gemel.client_node.approvals import Approval
from gemel.client_node.home import NodeHome
from gemel.client_node.key_dates import read_dates
from gemel.core.arrays import Arrays, pack_arrays, unpack_arrays
from gemel.core.canonical import sha256_hex
from gemel.core.dataset import Dataset
from gemel.core.errors import GemelError
from gemel.core.files import takes_no_writes
from gemel.core.messages import (
    HELLO,
    PROTOCOL,
    Envelope,
    Reply,
    Request,
    Status,
    parse_request,
    read_reply,
    sign_reply,
)
from gemel.core.programme import Programme
from gemel.core.signing import SignedDocument, read_signed, signed_by
from gemel.core.software import software_versions
from gemel.core.study import Study, parse_study
from gemel.privacy.ledger import Ledger, LedgerEntry
from gemel.privacy.noise import NoiseSource
from gemel.privacy.secure_aggregation import plan
from gemel.synthetic.releases import check_inputs, declared_inputs, declared_release
from gemel.twins.installed import find

logger = logging.getLogger(__name__)

# Computes a task on patients, as `tasks.compute` does: in this process, or in a worker that can do nothing else.
Compute = Callable[..., Arrays]


@dataclass(frozen=True)
class Work:
    """One verified request with all that is needed to answer it, and what computes on patients."""

    request: Request
    request_sha256: str
    study: Study
    study_document: SignedDocument
    programme: Programme
    compute: Compute


def answer(home: NodeHome, envelope: Envelope, *, compute: Compute | None = None) -> Envelope:
    """Answer one request, one at a time. A fault becomes a code; its text stays in the hospital's log.

    Raises only when there is no ledger to answer from (GEM302, GEM309, GEM310): then nothing can be said that is true.
    """
    with home.locked(), home.open_ledger() as ledger:
        began = time.monotonic()
        reply = _answer(home, ledger, envelope, compute or tasks.compute)
        try:
            journal.note_answer(home, reply, seconds=time.monotonic() - began)
        except (GemelError, OSError) as error:  # what cannot be written down is not sent
            logger.warning("not answered: %s", error)
            code = error.code if isinstance(error, GemelError) else "GEM416"
            said = read_reply(reply.document)[0]
            request = Request(study_sha256=said.study_sha256, task=said.task, inputs_sha256="")
            return _reply(
                home,
                ledger,
                request,
                said.request_sha256,
                status=Status.REFUSED,
                code=code,
                payload=b"",
            )
        return reply


def _answer(home: NodeHome, ledger: Ledger, envelope: Envelope, compute: Compute) -> Envelope:
    request, request_sha256 = Request(study_sha256="", task="", inputs_sha256=""), ""
    try:
        document = read_signed(envelope.document, kind="request")
        request_sha256 = document.payload_sha256
        request = parse_request(document)
        work = _verify(home, request, document, envelope, compute)
        anchors.require(home, ledger, request)
        if request.task == HELLO:
            status, code, payload = _hello(home, ledger, work), "", b""
        else:
            return _release(home, ledger, work, envelope)
    except GemelError as error:
        logger.warning("%s refused: %s", request.task, error)
        status, code, payload = Status.REFUSED, error.code, b""
    except Exception as error:
        logger.exception("task %s failed", request.task)
        status, code, payload = Status.FAILED, "GEM424" if takes_no_writes(error) else "GEM406", b""
    return _reply(home, ledger, request, request_sha256, status=status, code=code, payload=payload)


def _verify(
    home: NodeHome, request: Request, document: SignedDocument, envelope: Envelope, compute: Compute
) -> Work:
    config = home.config
    audit_log.check(home)
    gate.admit_keys(read_dates(home.folder / "keys"))
    if not signed_by(document, config.coordinator_public_key):
        raise GemelError("GEM102", "The request is not signed by this node's coordinator.")
    study_document, study = _read_study(envelope.study)
    if study_document.payload_sha256 != request.study_sha256:
        raise GemelError("GEM103", "The request names another study than the one it brings.")
    gate.admit_study(study, config, node_public_key=home.key.public_hex)
    if sha256_hex(envelope.payload) != request.inputs_sha256:
        raise GemelError("GEM103", "The inputs differ from the hash in the request.")
    programme = find(study.programme, study.programme_version)
    gate.admit_statistics(study, programme)
    gate.admit_synthesis(study, programme)
    return Work(request, document.payload_sha256, study, study_document, programme, compute)


@lru_cache(maxsize=8)
def _read_study(content: bytes) -> tuple[SignedDocument, Study]:
    """A verified study. Every request of a study brings the same bytes: with many sites they take milliseconds to read."""
    document = read_signed(content, kind="study")
    return document, parse_study(document.payload)


def _hello(home: NodeHome, ledger: Ledger, work: Work) -> Status:
    """Put the study before the stewards, with the data that it would touch; say how far it got."""
    gate.admit_price(work.study)
    masking.admit_plan(work.study, work.programme)
    dataset = patients.load(home, work.programme)
    gate.admit_people(home.config, patients=len(dataset))
    gate.admit_plan(work.study, ledger, people=dataset.people())
    sha256 = work.request.study_sha256
    if not approvals.is_proposed(home, sha256):
        journal.note_arrival(home, work.study_document)  # first: else a crash would leave it out of the log
    approvals.propose(home, work.study_document, snapshot=dataset.snapshot, patients=len(dataset))
    approval = approvals.find(home, sha256)
    if approval is None:
        return Status.PENDING
    gate.admit_data(gate.admit_approved(sha256, approval), snapshot=dataset.snapshot)
    if standing.lacks_stewards(home, sha256):
        return Status.PENDING
    standing.admit(home, ledger, sha256, run=work.request.run)
    return Status.APPROVED


def _release(home: NodeHome, ledger: Ledger, work: Work, envelope: Envelope) -> Envelope:
    """What a task asks for, made durable before it is sent. The same request again gets the same bytes at no cost."""
    request, study = work.request, work.study
    approval = gate.admit_approved(request.study_sha256, approvals.find(home, request.study_sha256))
    standing.admit(home, ledger, request.study_sha256, run=None)
    masking.admit_request(study, request)
    if request.phase:
        return _masked_step(home, ledger, work, envelope, approval=approval)
    if (kept := outbox.get(home, work.request_sha256)) is not None:
        return _again(ledger, work, kept)
    arrays, begun = _compute(
        home, ledger, work, envelope.payload, approval=approval, charged_as=work.request_sha256
    )
    payload = pack_arrays(arrays)
    reply = _reply(
        home, ledger, request, work.request_sha256, status=Status.RELEASED, code="", payload=payload
    )
    outbox.put(home, work.request_sha256, reply)
    ledger.record_release(begun, release_sha256=sha256_hex(payload))
    return reply


def _compute(
    home: NodeHome, ledger: Ledger, work: Work, content: bytes, *, approval: Approval, charged_as: str
) -> tuple[Arrays, LedgerEntry]:
    """Charge the study whole, begin, compute, pass the gate. `content` holds the task's inputs."""
    request, study = work.request, work.study
    if ledger.released(request.study_sha256, request.task) is not None:
        raise GemelError("GEM304", f"The release of {request.task} is on record but no longer kept here.")
    dataset = patients.load(home, work.programme)
    gate.admit_data(approval, snapshot=dataset.snapshot)
    gate.admit_people(home.config, patients=len(dataset))
    inputs = unpack_arrays(content, declared_inputs(request.task, work.programme, study=study))
    check_inputs(request.task, work.programme, inputs)
    inputs |= local_state.load(home, ledger, study, work.programme, request.task)
    noisy_patients = _own_count(home, ledger, study) if request.task != "count" else 0.0
    reserved = _reserve(ledger, study, dataset)
    begun = ledger.begin(
        study_sha256=request.study_sha256,
        task=request.task,
        request_sha256=charged_as,
        snapshot=reserved.snapshot,
    )
    computed = work.compute(
        request.task,
        plan.as_added(study),
        work.programme,
        dataset=dataset,
        inputs=inputs,
        noisy_patients=noisy_patients,
        noise=NoiseSource.secure(),
    )
    arrays, stays = local_state.split(computed)
    _admit(ledger, work, arrays, charged_as=charged_as)
    local_state.save(home, ledger, study, work.programme, request.task, charged_as=charged_as, kept=stays)
    return arrays, begun


def _admit(ledger: Ledger, work: Work, arrays: Arrays, *, charged_as: str) -> None:
    """The gate, for a release that is about to leave, plain or under a mask."""
    study, task = work.study, work.request.task
    gate.admit_release(
        arrays,
        declared_release(task, work.programme, study=study),
        reserved=ledger.reserved(study.sha256),
        begun=ledger.charged(study.sha256, task),
        study=study,
        task=task,
        request_sha256=charged_as,
    )


def _masked_step(
    home: NodeHome, ledger: Ledger, work: Work, envelope: Envelope, *, approval: Approval
) -> Envelope:
    """One step of a masked release; only the vector's step touches patients, and only in its first attempt."""
    request, study = work.request, work.study
    declared = declared_release(request.task, work.programme, study=study)

    def compute(inputs: bytes) -> tuple[Arrays, float]:
        charged_as = masking.charged_as(study, request.task, inputs)
        arrays = masking.kept(home, study.sha256, request.task, declared)
        if arrays is None:
            arrays, _ = _compute(home, ledger, work, inputs, approval=approval, charged_as=charged_as)
            masking.keep(home, study.sha256, request.task, arrays)
        _admit(ledger, work, arrays, charged_as=charged_as)
        return arrays, _own_count(home, ledger, study) if request.task != "count" else 0.0

    reply = outbox.get(home, work.request_sha256)
    if reply is None:
        masking.give_up_others(home, study, request.task)
        payload = masking.answer(home, request, study, envelope.payload, declared=declared, compute=compute)
        reply = _reply(
            home, ledger, request, work.request_sha256, status=Status.RELEASED, code="", payload=payload
        )
        outbox.put(home, work.request_sha256, reply)
    if request.phase == masking.VECTOR and ledger.released(study.sha256, request.task) is None:
        begun = ledger.charged(study.sha256, request.task)
        if begun is None:
            raise GemelError("GEM307", f"No ledger entry covers {request.task}.")
        # Once, whatever the attempt: the hash is of random words, so it tells nothing of what they hide.
        ledger.record_release(begun, release_sha256=sha256_hex(reply.payload))
    if request.phase == masking.UNMASKING:
        masking.finish(home, study.sha256, request.task)
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
    declared = declared_release(work.request.task, work.programme, study=work.study)
    arrays = unpack_arrays(kept.payload, declared)
    _admit(ledger, work, arrays, charged_as=work.request_sha256)
    begun = ledger.charged(work.request.study_sha256, work.request.task)
    if begun is not None:  # the gate saw to it
        ledger.record_release(begun, release_sha256=sha256_hex(kept.payload))
    return kept


def _own_count(home: NodeHome, ledger: Ledger, study: Study) -> float:
    """The noisy count that this node released for the study; GEM404 without one, GEM402 below the study's floor."""
    declared = declared_release("count", find(study.programme, study.programme_version))
    begun = ledger.charged(study.sha256, "count")
    if plan.is_masked(study):
        arrays = masking.kept(home, study.sha256, "count", declared)
    else:
        kept = outbox.get(home, begun.request_sha256) if begun is not None else None
        arrays = None if kept is None else unpack_arrays(kept.payload, declared)
    if begun is None or arrays is None:
        raise GemelError("GEM404", "The count comes first.")
    count = float(arrays["patients"][0])
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
    if request.task == HELLO or not request.task:
        reply = msgspec.structs.replace(reply, protocol=PROTOCOL, software=software_versions())
    return Envelope(document=sign_reply(reply, home.key).to_bytes(), payload=payload)
