"""The ledger on the node's real path: charged before computing, composed over all, one draw for one charge."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from gemel.client_node import outbox
from gemel.client_node.audit.gate import in_place_of_compute
from gemel.client_node.audit.throwaway import Throwaway, signed, throwaway_node
from gemel.core.errors import GemelError
from gemel.core.mechanism import Mechanism, mechanisms_by_patient
from gemel.core.messages import Status
from gemel.core.signing import SignedDocument
from gemel.core.study import Study
from gemel.privacy.accounting import EPSILON_STEP
from gemel.privacy.audit.charges import recompute
from gemel.privacy.audit.report import Check

ATTACK = "ledger"
# The recomputation rounds up on a coarser grid: it may lie this much above the ledger.
_SLACK = 0.03
_LOOKED_AT = 6
# What differs between two nodes by key, clock and chance alone; all other fields of an entry have to be equal.
_CHANCE = {
    "previous",
    "written_at",
    "public_key",
    "sha256",
    "signature",
    "study_sha256",
    "request_sha256",
    "snapshot",
    "reservation",
    "follows",
    "release_sha256",
    "people",
}


def attack(node: Throwaway, template: Study) -> Iterator[Check]:
    """Run studies to their ends on throwaway nodes and read their ledgers."""
    for one in (attack_order, attack_composition, attack_cap, attack_crash, attack_neighbours):
        yield from one(node, template)


def recomputed(mechanisms: Mapping[Any, tuple[Mechanism, ...]], *, delta: float) -> float:
    """ε of the patient who pays most, by the audit's own accountant."""
    return max(recompute(paid, delta=delta) for paid in mechanisms.values())


# --- charged before computed ---------------------------------------------------------------------


def attack_order(node: Throwaway, template: Study) -> Iterator[Check]:
    """Look into the ledger, from a second connection, at the moment at which patients are touched."""
    study = node.study(template, study_id="order")
    document = signed(study)
    node.approve(document)
    late: list[str] = []

    def watched(compute: Callable[..., Any], task: str, *args: Any, **named: Any) -> Any:
        with node.home.open_ledger() as ledger:
            if ledger.charged(study.sha256, task) is None:
                late.append(task)
        return compute(task, *args, **named)

    released, uncovered = [], []
    with in_place_of_compute(watched):
        for task in study.tasks:
            reply, got = node.ask(document, task)
            with node.home.open_ledger() as ledger:
                covered = ledger.charged(study.sha256, task) and ledger.released(study.sha256, task)
            if reply.status is Status.RELEASED:
                released.append(task)
            if got.payload and not covered:
                uncovered.append(task)
    yield Check(
        ATTACK,
        "The charge of a task is on disk before a patient is touched.",
        "0 tasks late",
        f"{len(late)} late of {len(study.tasks)}" + (f": {late[0]}" if late else ""),
        not late,
    )
    yield Check(
        ATTACK,
        "Every task of an approved study is released, and every release is in the ledger.",
        f"{len(study.tasks)} released, 0 uncovered",
        f"{len(released)} released, {len(uncovered)} uncovered" + (f": {uncovered[0]}" if uncovered else ""),
        len(released) == len(study.tasks) and not uncovered,
    )
    yield _failure(node, msgspec.structs.replace(study, study_id="failure"))


def _failure(node: Throwaway, study: Study) -> Check:
    document = signed(study)
    node.approve(document)

    def broken(_compute: Callable[..., Any], *_args: Any, **_named: Any) -> Any:
        raise ValueError("patient 4711")

    with in_place_of_compute(broken):
        reply, got = node.ask(document, "count")
    with node.home.open_ledger() as ledger:
        charged = ledger.charged(study.sha256, "count") is not None
    silent = b"4711" not in got.document + got.payload
    return Check(
        ATTACK,
        "A task that fails stays charged, and says nothing but a code.",
        "charged, GEM406",
        f"{'charged' if charged else 'not charged'}, {reply.code}{'' if silent else ', with its text'}",
        charged and silent and reply.code == "GEM406",
    )


# --- composed ------------------------------------------------------------------------------------


def attack_composition(node: Throwaway, template: Study) -> Iterator[Check]:
    """ε on record after each task, and after a second study, against what was released so far."""
    furthest, behind = 0.0, 0
    delta = node.home.config.delta
    with throwaway_node(node.programme, delta=delta, like=node) as fresh:
        studies = [fresh.study(template, study_id=f"composition-{number}") for number in range(2)]
        answered: list[tuple[Study, str]] = []
        for number, one in enumerate(studies):
            document = signed(one)
            fresh.approve(document)
            for position, task in enumerate(one.tasks):
                reply, _ = fresh.ask(document, task)
                answered.append((one, task))
                if number and position + 1 < len(one.tasks):
                    continue
                if not number and position >= _LOOKED_AT and position + 1 < len(one.tasks):
                    continue
                gap = _owed(answered, delta) - reply.epsilon_spent
                furthest = max(furthest, gap)
                behind += gap > _SLACK
        with fresh.home.open_ledger() as ledger:
            spent, worst = ledger.epsilon_spent(), ledger.epsilon_of_worst_person()
        whole = _owed(answered, delta)
    yield Check(
        ATTACK,
        "ε on record covers all that was released so far, over rounds, tasks and studies.",
        "never behind",
        f"{behind} times behind, by {max(furthest, 0):.4f} at most",
        behind == 0,
        numbers={"claimed": 0, "measured": max(furthest, 0.0)},
    )
    most = recompute([m for one in studies for c in one.charges() for m in c.mechanisms], delta=delta)
    yield Check(
        ATTACK,
        "ε of two whole studies is what their mechanisms cost.",
        f"{whole:.4f}, at most {most:.4f} (all of it on one patient)",
        f"{spent:.4f}",
        whole - _SLACK <= spent <= most + _SLACK,
        numbers={"claimed": whole, "measured": spent},
    )
    yield Check(
        ATTACK,
        "The patient who has spent most, of two studies on the same people, has spent that.",
        f"{whole:.4f}",
        f"{worst:.4f}",
        whole - _SLACK <= worst <= most + _SLACK,
        numbers={"claimed": whole, "measured": worst},
    )


def _owed(answered: list[tuple[Study, str]], delta: float) -> float:
    paid = mechanisms_by_patient(study.charge(task) for study, task in answered)
    return recomputed(paid, delta=delta)


def attack_cap(node: Throwaway, template: Study) -> Iterator[Check]:
    """Ask for one count after another under new studies: averaging them ends where the cap says."""
    config = node.home.config
    one = node.study(template, study_id="cap-0")
    price = recomputed(mechanisms_by_patient(one.charges()), delta=config.delta)
    cap = 1.6 * price + EPSILON_STEP
    with throwaway_node(node.programme, epsilon_cap=cap, delta=config.delta, like=node) as fresh:
        counts, code = 0, ""
        asked = ("count", "synthesise/1")
        for number in range(12):
            document = signed(fresh.study(template, study_id=f"cap-{number}"))
            try:
                fresh.approve(document)
            except GemelError as error:
                code = error.code
                break
            replies = [fresh.ask(document, task)[0] for task in asked]
            code = next((reply.code for reply in replies if reply.code), "")
            if code:
                break
            counts += 1
    answered = [(one, task) for _ in range(counts) for task in asked]
    spent = _owed(answered, config.delta) if answered else 0.0
    yield Check(
        "differencing",
        "Asking again under new studies, to average the noise away, ends at the cap.",
        f"GEM301 before ε = {cap:.3f}",
        f"{code or 'no refusal'} after {counts} studies, ε = {spent:.3f}",
        code == "GEM301" and counts >= 1 and spent <= cap + _SLACK,
        numbers={"claimed": cap, "measured": spent, "studies": counts},
    )


# --- one draw for one charge ---------------------------------------------------------------------


def attack_crash(node: Throwaway, template: Study) -> Iterator[Check]:
    """Die after the release was made durable and before it was recorded: the retry says what was kept."""
    study = node.study(template, study_id="crash")
    document = signed(study)
    node.approve(document)
    kept = outbox.put
    durable: list[bytes] = []

    def last_words(home: Any, request_sha256: str, envelope: Any) -> None:
        kept(home, request_sha256, envelope)
        durable.append(envelope.payload)
        raise _DeadError

    outbox.put = last_words
    try:
        node.ask(document, "count")
    except _DeadError:
        pass
    finally:
        outbox.put = kept
    again = [node.ask(document, "count")[1].payload for _ in range(2)]
    same = bool(durable) and all(payload == durable[0] for payload in again)
    yield Check(
        ATTACK,
        "After a crash the same draw is sent, and no second one is made.",
        "the bytes that were kept",
        "the same bytes" if same else "other bytes" if durable else "nothing was kept",
        same,
    )


class _DeadError(BaseException):
    """The process ended here."""


# --- nothing but the noisy arrays tells of patients ----------------------------------------------


def attack_neighbours(node: Throwaway, template: Study) -> Iterator[Check]:
    """Two nodes, one with a quarter of its patients gone: what they say beside the arrays has to be equal."""
    said = []
    for kept in (1.0, 0.75):
        with throwaway_node(node.programme, delta=node.home.config.delta, like=node, keep=kept) as fresh:
            document = signed(fresh.study(template, study_id="neighbours"))
            fresh.approve(document)
            said.append(_said(fresh, document))
    different = sorted(
        {key for key in said[0].keys() | said[1].keys() if said[0].get(key) != said[1].get(key)}
    )
    yield Check(
        ATTACK,
        "Replies and ledger say the same of two hospitals that differ in their patients, but for the noisy arrays.",
        "0 fields differ",
        f"{len(different)} of {len(said[0])} differ" + (f": {', '.join(different[:3])}" if different else ""),
        not different,
    )


def _said(node: Throwaway, document: SignedDocument) -> dict[str, Any]:
    said: dict[str, Any] = {}
    for task in ("count", "synthesise/1"):
        reply, got = node.ask(document, task)
        said[f"{task} status"] = (reply.status, reply.code)
        said[f"{task} ε"] = reply.epsilon_spent
        said[f"{task} size"] = len(got.payload)
    with node.home.open_ledger() as ledger:
        exported = ledger.export().payload
    for entry in exported.pop("entries"):
        for name, value in entry.items():
            if name not in _CHANCE:
                said[f"entry {entry['seq']} {name}"] = value
    said |= {name: value for name, value in exported.items() if name not in ("public_key", "head")}
    return said
