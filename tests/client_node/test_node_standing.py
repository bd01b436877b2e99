"""An approval is for a time, for a number of runs, and by as many stewards as the hospital asks for."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from one_node import SITE, Talk

from gemel.cli.demo.federation import Federation
from gemel.client_node import approvals, permissions, standing
from gemel.client_node.approvals import Decision
from gemel.core.errors import GemelError
from gemel.core.messages import HELLO, Status
from gemel.core.signing import SigningKey
from gemel.core.study import Study

MakeStudy = Callable[..., Study]


@pytest.fixture
def talk(federation: Federation, make_study: MakeStudy) -> Talk:
    talk = Talk(federation, make_study())
    talk.propose()
    return talk


def second_steward(talk: Talk, folder: Path, name: str = "Second") -> SigningKey:
    permissions.add_steward(talk.home, name, folder / f"{name}.key")
    talk.reopen()
    return SigningKey.load(folder / f"{name}.key")


def two_needed(talk: Talk, folder: Path) -> SigningKey:
    talk.home = talk.home.changed(approvals_needed=2)
    return second_steward(talk, folder)


# --- for a time ----------------------------------------------------------------------------------


def test_an_approval_ends_at_its_time(talk: Talk) -> None:
    soon = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=3)
    talk.decide(until=soon.isoformat())
    assert talk.ask("count").status is Status.RELEASED
    time.sleep(max(0.0, (soon - dt.datetime.now(dt.UTC)).total_seconds()) + 0.01)
    assert talk.ask("count").code == "GEM412"  # what it kept does not leave either
    assert talk.ask(HELLO).code == "GEM412"
    talk.decide()
    assert talk.ask("count").status is Status.RELEASED


def test_a_clock_that_was_set_back_gives_an_approval_no_more_time(talk: Talk) -> None:
    class Later:
        """A ledger whose newest entry is of tomorrow."""

        def entries(self) -> list[object]:
            at = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
            return [type("Entry", (), {"written_at": at.isoformat(timespec="seconds")})()]

    talk.decide(until=(dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)).isoformat())
    with pytest.raises(GemelError, match="GEM412"):
        standing.admit(talk.home, Later(), talk.study.payload_sha256, run="")  # type: ignore[arg-type]


@pytest.mark.parametrize("until", ["2020-01-01", "yesterday", "2999-01-01T00:00:00", "2999-13-01"])
def test_an_end_that_is_past_or_no_time_is_no_decision(talk: Talk, until: str) -> None:
    with pytest.raises(GemelError, match="GEM412"):
        talk.decide(until=until)
    assert approvals.find(talk.home, talk.study.payload_sha256) is None


# --- for a number of runs ------------------------------------------------------------------------


def test_an_approval_is_used_up_by_as_many_runs_as_it_is_for(talk: Talk) -> None:
    talk.decide(runs=2)
    assert talk.ask(HELLO, run="one").status is Status.APPROVED
    assert talk.ask("count").status is Status.RELEASED
    assert talk.ask(HELLO, run="two").status is Status.APPROVED
    assert talk.ask("count").status is Status.RELEASED
    assert talk.ask(HELLO, run="three").code == "GEM412"
    assert talk.ask("count").code == "GEM412"


def test_a_run_that_goes_on_after_a_crash_is_the_same_run(talk: Talk) -> None:
    talk.decide(runs=1)
    for _ in range(3):
        assert talk.ask(HELLO, run="one").status is Status.APPROVED
        assert talk.ask("count").status is Status.RELEASED


def test_a_new_approval_counts_runs_anew(talk: Talk) -> None:
    talk.decide(runs=1)
    talk.ask(HELLO, run="one")
    assert talk.ask(HELLO, run="two").code == "GEM412"
    talk.decide(runs=1)
    assert talk.ask(HELLO, run="two").status is Status.APPROVED
    assert talk.ask(HELLO, run="three").code == "GEM412"


def test_tasks_without_a_hello_are_one_run(talk: Talk) -> None:
    talk.decide(runs=1)
    assert talk.ask("count").status is Status.RELEASED
    assert talk.ask(HELLO, run="another").code == "GEM412"


# --- by several stewards -------------------------------------------------------------------------


def test_one_of_two_stewards_is_not_enough(talk: Talk, tmp_path: Path) -> None:
    key = two_needed(talk, tmp_path)
    talk.decide()
    assert talk.ask(HELLO).status is Status.PENDING
    assert talk.ask("count").code == "GEM413"
    talk.decide(steward="Second", key=key)
    assert talk.ask(HELLO).status is Status.APPROVED
    assert talk.ask("count").status is Status.RELEASED


def test_a_steward_who_approves_twice_is_one(talk: Talk, tmp_path: Path) -> None:
    two_needed(talk, tmp_path)
    talk.decide()
    talk.decide()
    assert talk.ask("count").code == "GEM413"


def test_two_names_with_one_key_are_one_steward(talk: Talk, tmp_path: Path) -> None:
    two_needed(talk, tmp_path)
    mine = talk.federation.stewards[SITE]
    talk.home = talk.home.changed(stewards={**talk.home.config.stewards, "Alias": mine.public_hex})
    talk.decide()
    talk.decide(steward="Alias", key=mine)
    assert talk.ask("count").code == "GEM413"


def test_one_refusal_undoes_all_approvals_before_it(talk: Talk, tmp_path: Path) -> None:
    key = two_needed(talk, tmp_path)
    talk.decide()
    talk.decide(steward="Second", key=key)
    talk.decide(Decision.REFUSED)
    assert talk.ask("count").code == "GEM401"
    talk.decide(steward="Second", key=key)
    assert talk.ask("count").code == "GEM413"  # the first one's approval of before does not come back


def test_the_stricter_of_two_limits_holds(talk: Talk, tmp_path: Path) -> None:
    key = two_needed(talk, tmp_path)
    talk.decide(runs=1)
    talk.decide(steward="Second", key=key)
    assert talk.ask(HELLO, run="one").status is Status.APPROVED
    assert talk.ask(HELLO, run="two").code == "GEM412"


def test_a_clock_that_ran_ahead_at_an_approval_keeps_nobody_from_refusing(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = dt.datetime.now(dt.UTC) + dt.timedelta(days=2)
    with monkeypatch.context() as patch:
        patch.setattr(approvals, "_now", lambda: ahead.isoformat(timespec="milliseconds"))
        talk.decide()
    assert talk.ask("count").status is Status.RELEASED
    refused = talk.decide(Decision.REFUSED)
    assert refused.decided_at > ahead.isoformat(timespec="milliseconds")
    assert talk.ask("count").code == "GEM401"


# --- what decides is the newest decision ---------------------------------------------------------


def test_an_older_approval_put_back_does_not_undo_a_refusal(talk: Talk) -> None:
    talk.decide()
    path = talk.home.folder / "studies" / f"{talk.study.payload_sha256}.approval.json"
    approved = path.read_bytes()
    talk.decide(Decision.REFUSED)
    path.write_bytes(approved)
    assert talk.ask("count").code == "GEM401"
    path.unlink()
    assert talk.ask("count").code == "GEM401"


def test_what_a_former_steward_approved_counts_no_more(talk: Talk, tmp_path: Path) -> None:
    key = second_steward(talk, tmp_path)
    talk.decide(steward="Second", key=key)
    assert talk.ask("count").status is Status.RELEASED
    talk.home = permissions.remove_steward(talk.home, "Second")
    assert talk.ask("count").code == "GEM102"
    talk.decide()
    assert talk.ask("count").status is Status.RELEASED


def test_a_stewards_key_does_not_lie_with_the_node(talk: Talk) -> None:
    with pytest.raises(GemelError, match="GEM417"):
        permissions.add_steward(talk.home, "Second", talk.home.folder / "keys" / "second.key")
    with pytest.raises(GemelError, match="GEM419"):
        permissions.add_steward(talk.home, "demo steward", talk.home.folder.parent / "other.key")
    assert list(talk.home.config.stewards) == ["demo steward"]
