"""What a run certificate must fulfil to be true of itself; anybody can check it with nothing but the document."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NoReturn

import msgspec

from gemel.core.canonical import canonical_bytes, document_hash, sha256_hex
from gemel.core.certificate_form import SCHEMA, Certificate, Contribution, Move, Part, Release, Task
from gemel.core.error_catalogue import CATALOGUE
from gemel.core.errors import GemelError
from gemel.core.messages import Reply, Request, Status
from gemel.core.signing import SCHEMA as SIGNED
from gemel.core.signing import Signature, SignedDocument, read_signed
from gemel.core.strategy_plan import Algorithm
from gemel.core.study import Masking, Study, parse_study
from gemel.core.synthesis_plan import ROUNDS
from gemel.core.trajectory_plan import chosen_by, is_trajectory

_NOTHING_SHA256 = sha256_hex(b"")


def read_certificate(document: SignedDocument) -> tuple[Certificate, Study]:
    """The certificate in a verified document, with the study that it holds. Raises GEM512, GEM101-103 for the study."""
    try:
        certificate = msgspec.convert(document.payload, Certificate)
    except msgspec.ValidationError as error:
        _untrue(f"it is malformed: {error}")
    if document.kind != "certificate" or certificate.schema != SCHEMA:
        _untrue(f"expected {SCHEMA}, got {document.kind} {certificate.schema}")
    if [signature.role for signature in document.signatures] != ["coordinator"]:
        _untrue("it is not signed by one coordinator")
    signed = read_signed(canonical_bytes(certificate.study), kind="study")
    study = parse_study(signed.payload)
    _same("the study's hash", certificate.study_sha256, study.sha256)
    return certificate, study


def check_certificate(document: SignedDocument) -> list[tuple[str, str]]:
    """Check every claim that follows from others; returns what was found to hold, as (what, detail).

    Raises:
        GemelError: GEM512 naming the claim; GEM101 to GEM103 for the study inside.
    """
    certificate, study = read_certificate(document)
    _check_head(certificate, study)
    _check_progress(certificate, study)
    for task in certificate.tasks:
        _check_task(task, certificate, study)
    _check_models(certificate, study)
    _check_late(certificate, study)
    counted = sum(len(task.contributions) for task in certificate.tasks)
    found = [
        (
            "study",
            f"{study.study_id}, signed, {study.sha256[:16]}…, {len(study.sites)} sites, quorum {study.quorum}",
        ),
        ("status", _status(certificate, study)),
        (
            "tasks",
            f"{len(certificate.tasks)} of {len(study.tasks)}, {counted} releases, each signed by its site, for the request that follows from the study",
        ),
        (
            "models",
            f"{_moves(certificate)} versions, each from the one before; last {certificate.model_sha256[:16] or 'none'}",
        ),
        ("late", f"{len(certificate.late)} releases came late: charged, none is counted"),
    ]
    return found


def _check_head(certificate: Certificate, study: Study) -> None:
    _same("the study's name", certificate.study_id, study.study_id)
    _same("the programme", certificate.programme, f"{study.programme}@{study.programme_version}")
    _same("the quorum", certificate.quorum, study.quorum)
    _same("the sites' keys", {s: f.public_key for s, f in certificate.sites.items()}, dict(study.sites))
    for name, site in certificate.sites.items():
        if site.code and site.code not in CATALOGUE:
            _untrue(f"{name} has a code outside the closed list")
        if site.epsilon_spent is not None and not 0 <= site.epsilon_spent < math.inf:
            _untrue(f"{name} spent {site.epsilon_spent}")


def _check_progress(certificate: Certificate, study: Study) -> None:
    """The tasks are the study's, in its order, all of them or the stop says why."""
    skipped = _skipped(certificate, study)
    expected = [task for task in study.tasks if task not in skipped]
    done = [task.task for task in certificate.tasks]
    _same("the tasks", done, expected[: len(done)])
    complete = not certificate.code and len(done) == len(expected)
    _same("the status", certificate.status, "complete" if complete else "stopped")
    if not complete and certificate.code not in CATALOGUE:
        _untrue("it stopped without a reason")


def _skipped(certificate: Certificate, study: Study) -> Sequence[str]:
    """What early stopping leaves out: every round and validation after the one that it names."""
    stop = certificate.early_stop
    if stop is None:
        return ()
    if not study.pace.patience or not stop.after.startswith("validate/") or stop.after not in study.tasks:
        _untrue(f"training cannot end early after {stop.after}")
    later = study.tasks[study.tasks.index(stop.after) + 1 :]
    _same("what is skipped", list(stop.skipped), [t for t in later if t.startswith(("train/", "validate/"))])
    if stop.after not in [task.task for task in certificate.tasks]:
        _untrue(f"{stop.after}, which ended training, is not there")
    return stop.skipped


def _check_task(task: Task, certificate: Certificate, study: Study) -> None:
    here, away = [c.site for c in task.contributions], [m.site for m in task.missing]
    if task.skipped:
        if not task.task.startswith("cross/") or here or task.skipped not in CATALOGUE:
            _untrue(f"{task.task} cannot be skipped")
        return
    if len({*here, *away}) != len(here) + len(away) or {*here, *away} != set(study.sites):
        _untrue(f"{task.task}: each site is there once or missing once, got {here} and {away}")
    # Of hospitals that train at their own pace the quorum is over all their rounds.
    if len(here) < study.quorum and not _own_pace(task.task, study):
        _untrue(f"{task.task}: {len(here)} of {study.quorum} sites")
    for missing in task.missing:
        if missing.code not in CATALOGUE:
            _untrue(f"{task.task}: {missing.site} is missing without a reason")
    if bool(task.synthesis_sha256) != (task.task in ROUNDS or is_trajectory(task.task)):
        _untrue(f"{task.task}: what follows from a round of virtual cohorts is not named")
    for contribution in task.contributions:
        _check_contribution(task, contribution, certificate, study)


def _check_contribution(
    task: Task, contribution: Contribution, certificate: Certificate, study: Study
) -> None:
    masked = study.aggregation.masking is Masking.SECURE
    request = Request(
        study_sha256=study.sha256,
        task=task.task,
        inputs_sha256=contribution.inputs_sha256,
        phase="mask" if masked else "",
        attempt=task.masked_attempt,
    )
    where = f"{task.task}, {contribution.site}"
    _same(f"{where}: the request", contribution.request_sha256, document_hash(msgspec.to_builtins(request)))
    _check_signature(contribution, task.task, study)
    if certificate.sites[contribution.site].epsilon_spent is None:
        _untrue(f"{where}: nothing says what it spent")
    expected = inputs_sha256(task, certificate, study)
    if expected is not None and not masked:
        _same(f"{where}: the inputs", contribution.inputs_sha256, expected)


def _check_signature(release: Release, task: str, study: Study) -> None:
    """The site's key signed that it released this for that request."""
    reply = Reply(
        site=release.site,
        study_sha256=study.sha256,
        task=task,
        request_sha256=release.request_sha256,
        status=Status.RELEASED,
        code="",
        payload_sha256=release.payload_sha256,
        epsilon_spent=release.epsilon_spent,
        ledger_seq=release.ledger_seq,
        ledger_head=release.ledger_head,
    )
    payload = msgspec.to_builtins(reply)
    signature = Signature("node", study.sites[release.site], release.signature)
    try:
        read_signed(SignedDocument(SIGNED, "reply", payload, document_hash(payload), (signature,)).to_bytes())
    except GemelError:
        _untrue(f"{task}: {release.site} did not sign the release that it names")


def inputs_sha256(task: Task, certificate: Certificate, study: Study) -> str | None:
    """The hash of what every site was sent, where it follows from the certificate."""
    name = task.task
    if name.startswith("train/"):
        plain = study.strategy.algorithm is not Algorithm.SCAFFOLD and not study.pace.buffer
        return task.from_model_sha256 if plain else None
    if name.startswith("cross/"):
        target = name.removeprefix("cross/")
        return _last_update(certificate.tasks, target)
    if name == "evaluate" or name.startswith("validate/"):
        earlier = certificate.tasks[: certificate.tasks.index(task)]
        moves = [move for entry in earlier for move in _moves_of(entry)]
        return moves[-1].model_sha256 if moves else certificate.start_model_sha256
    if (earlier_round := chosen_by(name)) is not None:
        # What is counted, or trained on, follows from the round before.
        return next((t.synthesis_sha256 for t in certificate.tasks if t.task == earlier_round), "")
    return _NOTHING_SHA256


def _last_update(tasks: Sequence[Task], site: str) -> str:
    for entry in reversed(tasks):
        for contribution in entry.contributions if entry.task.startswith("train/") else ():
            if contribution.site == site:
                return contribution.payload_sha256
    _untrue(f"{site} released no update that could be evaluated")


def _check_models(certificate: Certificate, study: Study) -> None:
    """Each version starts from the one before it; each round makes one."""
    sha256, version = certificate.start_model_sha256, 0
    for task in certificate.tasks:
        moves = list(_moves_of(task))
        if task.task.startswith("train/") and not study.pace.buffer and len(moves) != 1:
            _untrue(f"{task.task} made no twin")
        for move in moves:
            _same(f"{task.task}: the twin that it starts from", move.from_model_sha256, sha256)
            _same(f"{task.task}: the version", move.version, version + 1)
            sha256, version = move.model_sha256, move.version
    _same("the last twin", certificate.model_sha256, sha256 if version else "")
    if study.pace.buffer:
        _check_versions(certificate, study)


def _check_versions(certificate: Certificate, study: Study) -> None:
    """Each update that came is in one version, or unused; each version has as many as the buffer, none from the future."""
    came = {(c.site, t.task) for t in certificate.tasks if _own_pace(t.task, study) for c in t.contributions}
    parts: list[Part] = []
    for task in certificate.tasks:
        for version in task.versions or ():
            parts += version.contributions
            _same(f"version {version.version}: updates", len(version.contributions), study.pace.buffer)
            for part in version.contributions:
                _same("staleness", part.staleness, version.version - 1 - part.started_from)
                if part.staleness < 0:
                    _untrue(f"{part.task} of {part.site} is from the future")
        parts += task.unused
    listed = [(part.site, part.task) for part in parts]
    if len(set(listed)) != len(listed) or set(listed) != came:
        _untrue("the updates in the versions are not those that came, each once")


def _check_late(certificate: Certificate, study: Study) -> None:
    tasks = {task.task: task for task in certificate.tasks}
    seen = set()
    for late in certificate.late:
        task = tasks.get(late.task)
        missed = {(m.site, m.request_sha256) for m in task.missing} if task else set()
        if (late.site, late.request_sha256) not in missed or (late.site, late.request_sha256) in seen:
            _untrue(f"the late release of {late.site} in {late.task} was not missed, or is there twice")
        _check_signature(late, late.task, study)
        seen.add((late.site, late.request_sha256))


def _moves_of(task: Task) -> Iterator[Move]:
    yield from task.versions or ()
    if task.version is not None:
        yield Move(
            version=task.version,
            from_model_sha256=task.from_model_sha256,
            model_sha256=task.model_sha256,
            strategy_sha256=task.strategy_sha256,
        )


def _moves(certificate: Certificate) -> int:
    return sum(1 for task in certificate.tasks for _ in _moves_of(task))


def _own_pace(task: str, study: Study) -> bool:
    return bool(study.pace.buffer) and task.startswith("train/")


def _status(certificate: Certificate, study: Study) -> str:
    if certificate.status == "complete":
        early = certificate.early_stop
        return "complete" if early is None else f"complete; training ended early after {early.after}"
    return f"stopped with {certificate.code} after {len(certificate.tasks)} tasks"


def _same(what: str, told: object, expected: object) -> None:
    if told != expected:
        _untrue(f"{what}: it says {told}, expected {expected}")


def _untrue(claim: str) -> NoReturn:
    raise GemelError("GEM512", f"The certificate does not hold: {claim}.")
