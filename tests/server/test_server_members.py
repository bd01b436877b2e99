"""The record of members, in SQLite and in PostgreSQL alike."""

import datetime as dt
import threading

import pytest
from postgresql import postgresql

from gemel.core.errors import GemelError
from gemel.server.members import Invitation, Members, MemberState
from gemel.server.store import open_store

KEY, OTHER = "11" * 32, "22" * 32


@pytest.fixture(scope="module")
def server():
    with postgresql() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def members(request, tmp_path):
    url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("server")
    engine = open_store(url)
    yield Members(engine)
    from gemel.server.store import metadata

    metadata.drop_all(engine)
    engine.dispose()


def _in(days):
    return (dt.datetime.now(dt.UTC) + dt.timedelta(days=days)).isoformat(timespec="seconds")


def _admit(members, key=KEY, site="alpha", days=365, node=2**64 - 1):
    return members.admit(
        site=site, public_key=key, transport_key=f"pem of {key}", flower_node=node, expires_at=_in(days)
    )


def test_what_is_admitted_is_read_as_it_was_written(members):
    member = _admit(members)
    assert members.of(KEY) == member
    assert member.flower_node == 2**64 - 1  # Flower's names need all 64 bits
    assert (member.site, member.state, member.ended_at) == ("alpha", MemberState.ADMITTED, "")
    assert member.days_left() == 364
    assert members.refusal(KEY) == ""
    assert _admit(members, OTHER, node=None).flower_node is None


def test_each_reason_for_which_no_study_reaches_a_key_has_its_code(members):
    assert members.refusal(KEY) == "GEM521"
    _admit(members, days=-1)
    assert members.refusal(KEY) == "GEM523"
    _admit(members)
    assert members.refusal(KEY) == ""
    members.end(KEY, MemberState.REVOKED)
    assert members.refusal(KEY) == "GEM522"
    with pytest.raises(GemelError) as caught:
        members.end(OTHER, MemberState.REVOKED)
    assert caught.value.code == "GEM521"


def test_a_key_that_ended_is_not_admitted_by_writing_it_again(members):
    _admit(members)
    members.end(KEY, MemberState.REPLACED)
    _admit(members)
    assert members.refusal(KEY) == "GEM522"
    assert members.admitted("alpha") == []


def test_the_newest_invitation_of_a_hospital_counts_until_it_is_withdrawn(members):
    for number in (1, 2):
        members.invite(Invitation("alpha", f"{number}" * 64, _in(0), _in(30)))
    members.invite(Invitation("beta", "3" * 64, _in(0), _in(30)))
    assert [(i.site, i.kit_sha256[0]) for i in members.invitations()] == [("alpha", "2"), ("beta", "3")]
    members.withdraw("alpha")
    assert [i.site for i in members.invitations()] == ["beta"]


def test_many_who_write_at_once_lose_nothing(members):
    errors = []

    def work(number):
        try:
            _admit(members, f"{number:02x}" * 32, site=f"site-{number}")
        except Exception as error:  # whatever it is, the test tells it
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert {member.site for member in members.all()} == {f"site-{number}" for number in range(16)}
