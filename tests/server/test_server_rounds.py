"""Which nodes are asked, when a round closes, who is late, and what peers of other versions are told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from in_process import certificate, missing, start
from light_nodes import Delivery, LightFederation, at_once, light_federation

from gemel.cli.demo.federation import Federation
from gemel.client_node.node import answer
from gemel.core.certificate import check_certificate
from gemel.core.errors import GemelError
from gemel.core.messages import HELLO, PROTOCOL, Envelope, Request, read_reply
from gemel.core.signing import read_signed, sign_document
from gemel.core.software import software_versions
from gemel.core.strategy_plan import Pace
from gemel.core.study import Study
from gemel.server.coordinator import Coordinator
from gemel.server.directory import MemberDirectory
from gemel.server.members import Members, MemberState

MakeStudy = Callable[..., Study]


def _done(run: Any) -> dict[str, dict[str, Any]]:
    return {task["task"]: task for task in certificate(run)["tasks"]}


# --- who is asked --------------------------------------------------------------------------------


def _put_on_record(federation: LightFederation, *, leave_out: str = "") -> Members:
    members = Members(federation.home.open_store())
    for number, (site, node) in enumerate(federation.nodes.items()):
        if site != leave_out:
            members.admit(
                site=site,
                public_key=node.key.public_hex,
                transport_key=f"key of {site}",
                flower_node=number,
                expires_at="2099-01-01T00:00:00+00:00",
            )
    return members


def _with_members(federation: LightFederation, members: Members, schedule: Any = at_once) -> Any:
    coordinator, run, network = federation.start(schedule)
    coordinator = Coordinator(
        federation.home,
        federation.study.sha256,
        network,
        approval_timeout_s=60,
        clock=federation.clock,
        sleep=federation.clock.sleep,
    )
    assert isinstance(coordinator._directory, MemberDirectory), "the members on record are the default"
    return coordinator, run, network


def test_a_node_that_is_not_in_the_study_never_gets_a_message(tmp_path: Path) -> None:
    everyone = light_federation(tmp_path, sites=4)
    three = {s: k for s, k in everyone.study.sites.items() if s != "site3"}
    everyone.study = msgspec.structs.replace(everyone.study, sites=three)
    members = _put_on_record(everyone)
    coordinator, run, network = _with_members(everyone, members)
    coordinator.run()
    assert certificate(run)["status"] == "complete"
    assert {site for site, _ in network.asked} == set(three)


@pytest.mark.parametrize("code", ["GEM521", "GEM522", "GEM523"])
def test_a_member_that_is_not_admitted_revoked_or_expired_is_missing_with_its_code_and_never_asked(
    tmp_path: Path, code: str
) -> None:
    federation = light_federation(tmp_path)
    key = federation.nodes["site1"].key.public_hex
    members = _put_on_record(federation, leave_out="site1" if code == "GEM521" else "")
    if code == "GEM522":
        members.end(key, MemberState.REVOKED)
    if code == "GEM523":
        members.admit(
            site="site1",
            public_key=key,
            transport_key="key of site1",
            flower_node=1,
            expires_at="2020-01-01T00:00:00+00:00",
        )
    coordinator, run, network = _with_members(federation, members)
    coordinator.run()
    assert all(missing(task) == {"site1": code} for task in certificate(run)["tasks"])
    assert "site1" not in {site for site, _ in network.asked}
    assert federation.clock.now < 5, "nobody waits for a site that is not to be asked"


def test_a_key_revoked_while_its_reply_is_on_the_way_is_not_believed(tmp_path: Path) -> None:
    federation = light_federation(tmp_path)
    members = _put_on_record(federation)

    def revoke(site: str, request: Request, reply: Envelope) -> Sequence[Delivery]:
        if (site, request.task) == ("site1", "train/2"):
            members.end(federation.nodes["site1"].key.public_hex, MemberState.REVOKED)
        return [(0.01, reply)]

    coordinator, run, network = _with_members(federation, members, revoke)
    coordinator.run()
    done = _done(run)
    assert missing(done["train/1"]) == {}
    assert all(missing(done[task]) == {"site1": "GEM522"} for task in ("train/2", "train/3", "evaluate"))
    assert ("site1", "train/3") not in network.asked
    after_train_1 = done["train/1"]["contributions"][1]
    assert certificate(run)["sites"]["site1"]["ledger_seq"] == after_train_1["ledger_seq"], "nor is it quoted"
    check_certificate(run.certificate)


def test_a_key_revoked_after_its_reply_came_but_before_the_round_closed_is_not_averaged(
    tmp_path: Path,
) -> None:
    federation = light_federation(tmp_path)
    members = _put_on_record(federation)

    def slow(site: str, request: Request, reply: Envelope) -> Sequence[Delivery]:
        if request.task != "train/2":
            return [(0.01, reply)]
        if site == "site2":
            members.end(federation.nodes["site1"].key.public_hex, MemberState.REVOKED)
        return [(0.01 if site == "site1" else 3.0, reply)]

    coordinator, run, _ = _with_members(federation, members, slow)
    coordinator.run()
    assert missing(_done(run)["train/2"]) == {"site1": "GEM522"}
    check_certificate(run.certificate)


# --- when a round closes -------------------------------------------------------------------------


def test_a_round_closes_when_enough_answered_and_the_late_update_is_charged_but_not_averaged(
    tmp_path: Path,
) -> None:
    federation = light_federation(tmp_path, sites=4, pace=Pace(enough=3))

    def slow(site: str, request: Request, reply: Envelope) -> Sequence[Delivery]:
        return [(5.0 if (site, request.task) == ("site3", "train/1") else 1.0, reply)]

    coordinator, run, _ = federation.start(slow)
    coordinator.run()
    payload, done = certificate(run), _done(run)
    (absence,) = done["train/1"]["missing"]
    assert (absence["site"], absence["code"]) == ("site3", "GEM511")
    assert 1.0 <= absence["seconds"] < 1.2
    (late,) = payload["late"]
    assert (late["site"], late["task"]) == ("site3", "train/1")
    assert late["request_sha256"] == absence["request_sha256"]
    assert late["epsilon_spent"] == pytest.approx(0.2)
    kept = read_signed((run.folder / "late" / "train" / "1" / "site3.json").read_bytes(), kind="reply")
    assert kept.payload["payload_sha256"] == late["payload_sha256"]
    assert [c["site"] for c in done["train/1"]["contributions"]] == ["site0", "site1", "site2"]
    assert payload["sites"]["site3"]["epsilon_spent"] == pytest.approx(0.1 * len(federation.study.tasks))
    check_certificate(run.certificate)


def test_a_late_update_is_recorded_once_though_it_comes_twice_and_survives_a_restart(tmp_path: Path) -> None:
    federation = light_federation(tmp_path, pace=Pace(enough=2))

    def twice(site: str, request: Request, reply: Envelope) -> Sequence[Delivery]:
        if (site, request.task) == ("site2", "train/1"):
            return [(3.0, reply), (3.0, reply), (4.0, reply)]
        return [(1.0, reply)]

    coordinator, run, _ = federation.start(twice)
    coordinator.run()
    assert [(late["site"], late["task"]) for late in certificate(run)["late"]] == [("site2", "train/1")]
    restarted, _, _ = federation.start()
    restarted.run()
    assert len(certificate(run)["late"]) == 1


def test_a_site_that_is_silent_costs_the_round_its_time_and_is_named_with_it(tmp_path: Path) -> None:
    federation = light_federation(tmp_path, round_timeout_s=7.0)

    def silent(site: str, request: Request, reply: Envelope) -> Sequence[Delivery]:
        return [] if (site, request.task) == ("site1", "train/2") else [(0.01, reply)]

    coordinator, run, _ = federation.start(silent)
    coordinator.run()
    (absence,) = _done(run)["train/2"]["missing"]
    assert (absence["site"], absence["code"]) == ("site1", "GEM502")
    assert absence["seconds"] == pytest.approx(7.0, abs=0.2)


def test_a_site_that_was_away_is_asked_again_within_seconds(tmp_path: Path) -> None:
    federation = light_federation(tmp_path)
    sent: list[str] = []

    def away_once(site: str, request: Request, reply: Envelope) -> Sequence[Delivery]:
        if (site, request.task) == ("site1", "train/1") and not sent:
            sent.append(site)
            return [(0.5, None)]
        return [(0.01, reply)]

    coordinator, run, network = federation.start(away_once)
    coordinator.run()
    assert missing(_done(run)["train/1"]) == {}
    assert network.asked.count(("site1", "train/1")) == 2
    assert federation.clock.now < 5, "not after the ten seconds that a silent one gets"


def test_a_run_that_is_asked_to_stop_ends_with_a_certificate_and_can_be_resumed(tmp_path: Path) -> None:
    federation = light_federation(tmp_path)
    run = federation.start()[1]

    def stop(_site: str, request: Request, reply: Envelope) -> Sequence[Delivery]:
        if request.task == "train/2":
            run.ask_to_stop()
        return [(5.0, reply)]

    with pytest.raises(GemelError, match="GEM510"):
        federation.start(stop)[0].run()
    payload = certificate(run)
    assert (payload["status"], payload["code"]) == ("stopped", "GEM510")
    assert [task["task"] for task in payload["tasks"]] == ["count", "train/1"]
    with pytest.raises(GemelError, match="GEM510"):
        federation.start()[0].run()
    run.clear_stop()
    federation.start()[0].run()
    assert certificate(run)["status"] == "complete"
    assert certificate(run)["run"] != payload["run"], "another start by people"


def test_a_run_that_is_complete_stays_so_though_no_node_is_there_any_more(tmp_path: Path) -> None:
    federation = light_federation(tmp_path)
    federation.start()[0].run()
    coordinator, run, network = federation.start()
    document = run.certificate
    network.connected.clear()
    coordinator.run()
    assert run.certificate == document
    (run.folder / "certificate.json").unlink()  # as if it had died before it wrote it
    coordinator, _, network = federation.start()
    network.connected.clear()
    coordinator.run()
    assert certificate(run)["status"] == "complete"
    assert network.asked == []


def test_others_see_whether_a_run_has_a_living_process(tmp_path: Path) -> None:
    federation = light_federation(tmp_path)
    coordinator, run, _ = federation.start()
    seen: list[bool] = [run.is_running]

    def look(_site: str, _request: Request, reply: Envelope) -> Sequence[Delivery]:
        seen.append(run.is_running)
        return [(0.01, reply)]

    coordinator, run, _ = federation.start(look)
    coordinator.run()
    seen.append(run.is_running)
    assert (seen[0], set(seen[1:-1]), seen[-1]) == (False, {True}, False)


# --- versions ------------------------------------------------------------------------------------


def _newer(envelope: Envelope, federation: LightFederation, site: str) -> Envelope:
    """The same answer in a protocol to come, with fields that nobody knows yet."""
    payload = msgspec.to_builtins(read_reply(envelope.document)[0])
    changed = {**payload, "protocol": PROTOCOL + 1, "mood": {"of": "the node"}, "status": "delighted"}
    document = sign_document("reply", changed, federation.nodes[site].key, role="node")
    return Envelope(document=document.to_bytes())


def test_a_node_of_a_newer_protocol_is_named_with_what_it_runs_and_the_others_go_on(tmp_path: Path) -> None:
    federation = light_federation(tmp_path)

    def newer(site: str, request: Request, reply: Envelope) -> Sequence[Delivery]:
        if (site, request.task) == ("site1", HELLO):
            return [(0.01, _newer(reply, federation, site))]
        return [(0.01, reply)]

    coordinator, run, network = federation.start(newer)
    coordinator.run()
    facts = certificate(run)["sites"]["site1"]
    assert (facts["status"], facts["code"], facts["protocol"]) == ("refused", "GEM409", PROTOCOL + 1)
    assert facts["software"] == software_versions()
    assert all(missing(task) == {"site1": "GEM409"} for task in certificate(run)["tasks"])
    assert {task for site, task in network.asked if site == "site1"} == {HELLO}
    check_certificate(run.certificate)


def test_a_node_tells_a_coordinator_of_a_newer_protocol_so_whatever_else_its_hello_says(
    federation: Federation, make_study: MakeStudy
) -> None:
    home, key = federation.nodes["alpha"], federation.coordinator.key
    payload = {
        "study_sha256": make_study().sha256,
        "task": HELLO,
        "inputs_sha256": "",
        "protocol": PROTOCOL + 1,
        "weather": ["not", "known", "here"],
    }
    document = sign_document("request", payload, key, role="coordinator")
    got = answer(home, Envelope(document=document.to_bytes()))
    reply, _ = read_reply(got.document)
    assert (str(reply.status), reply.code) == ("refused", "GEM409")
    assert (reply.protocol, dict(reply.software)) == (PROTOCOL, software_versions())
    assert reply.request_sha256 == document.payload_sha256


def test_the_certificate_names_the_software_of_both_sides(
    federation: Federation, make_study: MakeStudy
) -> None:
    coordinator, run, _ = start(federation, make_study())
    coordinator.run()
    payload = certificate(run)
    assert (payload["protocol"], payload["software"]) == (PROTOCOL, software_versions())
    for facts in payload["sites"].values():
        assert (facts["protocol"], facts["software"]) == (PROTOCOL, software_versions())


def test_a_forged_claim_of_another_protocol_does_not_exclude_a_site_for_good(tmp_path: Path) -> None:
    federation = light_federation(tmp_path)
    sent: list[str] = []

    def forged(site: str, request: Request, reply: Envelope) -> Sequence[Delivery]:
        if (site, request.task) == ("site1", HELLO) and not sent:
            sent.append(site)
            payload = {**read_signed(reply.document).payload, "protocol": PROTOCOL + 1}
            document = sign_document("reply", payload, federation.nodes["site2"].key, role="node")
            return [(0.01, Envelope(document=document.to_bytes()))]
        return [(0.01, reply)]

    coordinator, run, _ = federation.start(forged)
    coordinator.run()
    assert all(missing(task) == {} for task in certificate(run)["tasks"])
