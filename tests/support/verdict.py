"""What must hold after any fault: a true certificate, nothing counted twice, ledgers that cover what left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from consortium import DELTA, Consortium

from gemel.client_node import audit_log
from gemel.core.arrays import pack_arrays
from gemel.core.canonical import sha256_hex
from gemel.core.certificate import check_certificate
from gemel.core.messages import Status, read_reply
from gemel.core.signing import signed_by
from gemel.core.study import Study
from gemel.privacy.accounting import price
from gemel.server.home import RunFolder
from gemel.server.run_check import check_run
from gemel.synthetic.releases import declared_release
from gemel.twins.installed import find

Tasks = dict[str, dict[str, Any]]


def judge(
    consortium: Consortium,
    study: Study,
    run: RunFolder,
    *,
    complete: bool = True,
    liars: tuple[str, ...] = (),
) -> Tasks:
    """Assert all that must hold of a run that ended; returns the certificate's tasks by name.

    Args:
        complete: Whether the study was to be done; else it must have stopped with a code.
        liars: Sites whose late releases are not what their own ledgers say, because they were spoiled on the way out.
    """
    document = run.certificate
    assert document is not None, "a run ends with a certificate"
    assert signed_by(document, consortium.home.key.public_hex)
    claims = document.payload
    assert claims["study_sha256"] == study.sha256
    assert (claims["status"] == "complete") == complete, (claims["status"], claims["code"])
    assert bool(claims["code"]) != complete
    check_certificate(document)
    check_run(document, run.folder)
    tasks = {entry["task"]: entry for entry in claims["tasks"]}
    if complete:
        assert list(tasks) == list(study.tasks)
    _nothing_is_counted_twice(tasks, claims)
    for task, entry in tasks.items():
        _contributions_are_kept(study, run, task, entry)
        assert len(entry["contributions"]) >= study.quorum
    _twins_follow(study, run, tasks)
    for site in consortium.sites:
        _ledger_covers(consortium, study, site, claims, lies=site in liars)
        audit_log.check(consortium.nodes[site])
    return tasks


def _nothing_is_counted_twice(tasks: Tasks, claims: Mapping[str, Any]) -> None:
    payloads: set[tuple[str, str]] = set()  # two hospitals may draw the same noisy count
    for task, entry in tasks.items():
        sites = [c["site"] for c in entry["contributions"]]
        missing = [m["site"] for m in entry["missing"]]
        assert len(sites) == len(set(sites)), f"{task} counts a hospital twice"
        assert not set(sites) & set(missing), f"{task} counts who is missing"
        assert {*sites, *missing} == set(claims["sites"]), f"{task} forgets a hospital"
        for contribution in entry["contributions"]:
            update = (contribution["site"], contribution["payload_sha256"])
            assert update not in payloads, f"{task} counts an update twice"
            payloads.add(update)
    for late in claims.get("late", []):
        assert (late["site"], late["payload_sha256"]) not in payloads, "a late update is counted all the same"


def _contributions_are_kept(study: Study, run: RunFolder, task: str, entry: Mapping[str, Any]) -> None:
    """Each is what its hospital signed, in answer to the request that it names."""
    for contribution in entry["contributions"]:
        site = contribution["site"]
        envelope = run.load_envelope(task, site)
        reply, document = read_reply(envelope.document)
        assert signed_by(document, study.sites[site])
        assert (reply.site, reply.task, reply.status) == (site, task, Status.RELEASED)
        assert reply.request_sha256 == contribution["request_sha256"]
        assert reply.payload_sha256 == contribution["payload_sha256"] == sha256_hex(envelope.payload)


def _twins_follow(study: Study, run: RunFolder, tasks: Tasks) -> None:
    """Each round's twin is, bit by bit, what an undisturbed run makes of the same releases: added up here by hand."""
    programme = find(study.programme, study.programme_version)
    counts = {c["site"] for c in tasks["count"]["contributions"]} if "count" in tasks else set()
    floor = float(study.minimum_patients)
    weights = {
        site: max(
            floor,
            float(run.load_release("count", site, declared_release("count", programme))["patients"][0]),
        )
        for site in counts
    }
    for task, entry in tasks.items():
        if not task.startswith("train/"):
            continue
        declared = declared_release(task, programme)
        updates = {c["site"]: run.load_release(task, c["site"], declared) for c in entry["contributions"]}
        total = sum(weights.get(site, floor) for site in sorted(updates))
        mean = {
            name: np.sum(
                [
                    updates[s][name].astype(np.float64) * (weights.get(s, floor) / total)
                    for s in sorted(updates)
                ],
                axis=0,
            ).astype(np.float32)
            for name in declared
        }
        assert sha256_hex(pack_arrays(mean)) == entry["model_sha256"], f"the twin after {task} is another"


def _ledger_covers(
    consortium: Consortium, study: Study, site: str, claims: Mapping[str, Any], *, lies: bool
) -> None:
    """What was released is charged, once, with the hash that left; the chain holds; the certificate does not say less."""
    entries = [*claims["tasks"], *([claims["stopped_in"]] if claims.get("stopped_in") else [])]
    left = {
        entry["task"]: contribution["payload_sha256"]
        for entry in entries
        for contribution in entry["contributions"]
        if contribution["site"] == site
    }
    late = {entry["task"]: entry["payload_sha256"] for entry in claims["late"] if entry["site"] == site}
    left |= {} if lies else late
    with consortium.nodes[site].open_ledger() as ledger:
        ledger.verify()
        begun = [e.task for e in ledger.entries() if e.kind == "begun" and e.study_sha256 == study.sha256]
        assert len(begun) == len(set(begun)), f"{site} was charged twice for a task"
        assert set(left) <= set(begun), f"{site} let out what was not charged"
        for task, payload_sha256 in left.items():
            released = ledger.released(study.sha256, task)
            assert released is not None, f"{site}: {task} left and is not on record as released"
            assert released.release_sha256 == payload_sha256, f"{site} drew noise twice for {task}"
        if begun:
            assert ledger.reserved(study.sha256) is not None
            assert ledger.epsilon_spent() >= price(study.charges(), delta=DELTA)


def missing(tasks: Tasks) -> dict[str, dict[str, str]]:
    """task -> site -> code, of who is missing."""
    found = {task: {m["site"]: m["code"] for m in entry["missing"]} for task, entry in tasks.items()}
    return {task: who for task, who in found.items() if who}
