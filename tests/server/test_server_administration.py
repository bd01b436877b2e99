"""Who takes part: invited, admitted after a phone call, replaced, revoked; and what the SuperLink knows of it."""

import datetime as dt
import itertools

import pytest
from running_coordinator import make_coordinator, make_keys

from gemel.core.errors import GemelError
from gemel.core.signing import SigningKey
from gemel.core.start_kit import read_kit
from gemel.server import administration
from gemel.server.home import CoordinatorHome
from gemel.server.members import FleetNode, MemberState


class Register:
    """What Flower's SuperLink does with registrations (1.41): a key is registered once, and never again after its end."""

    def __init__(self):
        self.known: dict[str, FleetNode] = {}
        self.numbers = itertools.count(2**64 - 1000)
        self.down = False

    def _check(self):
        if self.down:
            raise GemelError("GEM505", "down")

    def admit_node(self, public_key: bytes) -> int:
        self._check()
        key = public_key.decode()
        assert key not in self.known, "Flower refuses a key that it has seen"
        self.known[key] = FleetNode(next(self.numbers), key, "registered")
        return self.known[key].flower_node

    def remove_node(self, flower_node: int) -> None:
        self._check()
        (node,) = (node for node in self.known.values() if node.flower_node == flower_node)
        assert node.registered
        self.known[node.transport_key] = FleetNode(flower_node, node.transport_key, "unregistered")

    def nodes(self):
        self._check()
        return list(self.known.values())

    def connectable(self):
        return {node.transport_key for node in self.known.values() if node.registered}


@pytest.fixture
def place(tmp_path):
    """A coordinator's home, its members, its key, and a register."""
    coordinator = make_coordinator(tmp_path / "home")
    with coordinator.members() as members:
        yield coordinator, members, CoordinatorHome(coordinator.folder).key, Register()


def _invite(place, site):
    coordinator, members, key, _ = place
    return administration.invite(
        members, coordinator.config, key, site=site, ca_certificate=coordinator.ca.read_text()
    )


def _admit(place, keys, **changes):
    _, members, key, register = place
    arguments = {"coordinator": key.public_hex, "fingerprint": keys.request.fingerprint, **changes}
    return administration.admit(members, register, keys.join, **arguments)


def _joined(place, tmp_path, site="alpha"):
    _invite(place, site)
    keys = make_keys(tmp_path / f"{site}-{len(place[3].known)}", site, place[2].public_hex)
    _admit(place, keys)
    return keys


def test_a_kit_says_where_and_who_the_coordinator_is_and_holds_no_secret(place):
    coordinator, _, key, _ = place
    content = _invite(place, "alpha").to_bytes()
    kit = read_kit(content)
    assert kit.site == "alpha"
    assert kit.address == coordinator.config.fleet_address
    assert kit.coordinator_public_key == key.public_hex
    assert kit.ca_certificate == coordinator.ca.read_text()
    assert b"PRIVATE" not in content


def test_an_admitted_hospital_is_on_record_and_may_connect(place, tmp_path):
    keys = _joined(place, tmp_path)
    _, members, _, register = place
    member = members.of(keys.key.public_hex)
    assert (member.site, member.state) == ("alpha", MemberState.ADMITTED)
    assert member.flower_node == register.known[keys.request.transport_public_key].flower_node
    assert member.flower_node > 2**63  # as Flower's names are
    assert member.days_left() == administration.MEMBER_DAYS - 1
    assert members.refusal(member.public_key) == ""


@pytest.mark.parametrize(
    "written", [str.upper, lambda text: text.replace("-", " "), lambda text: text.replace("-", "")]
)
def test_a_fingerprint_may_be_written_down_in_any_way(place, tmp_path, written):
    _invite(place, "alpha")
    keys = make_keys(tmp_path / "alpha", "alpha", place[2].public_hex)
    assert _admit(place, keys, fingerprint=written(keys.request.fingerprint)).member.site == "alpha"


@pytest.mark.parametrize("fingerprint", ["", "0000-0000-0000-0000", None])
def test_keys_whose_fingerprint_was_not_read_out_are_not_admitted(place, tmp_path, fingerprint):
    _invite(place, "alpha")
    ours, theirs = (make_keys(tmp_path / name, "alpha", place[2].public_hex) for name in ("ours", "theirs"))
    with pytest.raises(GemelError) as caught:
        _admit(place, theirs, fingerprint=ours.request.fingerprint if fingerprint is None else fingerprint)
    assert caught.value.code == "GEM527"
    assert place[1].all() == []
    assert place[3].known == {}


def test_a_part_of_a_fingerprint_is_not_one(place, tmp_path):
    _invite(place, "alpha")
    keys = make_keys(tmp_path / "alpha", "alpha", place[2].public_hex)
    with pytest.raises(GemelError) as caught:
        _admit(place, keys, fingerprint=keys.request.fingerprint[:9])
    assert caught.value.code == "GEM527"


def test_who_was_not_invited_or_asks_another_coordinator_is_not_admitted(place, tmp_path):
    _invite(place, "alpha")
    stranger = make_keys(tmp_path / "stranger", "mallory", place[2].public_hex)
    elsewhere = make_keys(tmp_path / "elsewhere", "alpha", SigningKey.generate().public_hex)
    for keys in (stranger, elsewhere):
        with pytest.raises(GemelError) as caught:
            _admit(place, keys)
        assert caught.value.code == "GEM526"
    assert place[3].known == {}


def test_a_changed_request_is_refused(place, tmp_path):
    _invite(place, "alpha")
    keys = make_keys(tmp_path / "alpha", "alpha", place[2].public_hex)
    changed = keys.join.replace(b'"gemel":"0"', b'"gemel":"9"')
    assert changed != keys.join
    _, members, key, register = place
    with pytest.raises(GemelError) as caught:
        administration.admit(
            members, register, changed, coordinator=key.public_hex, fingerprint=keys.request.fingerprint
        )
    assert caught.value.code == "GEM103"


def test_the_same_request_again_moves_the_end_and_nothing_else(place, tmp_path):
    keys = _joined(place, tmp_path)
    first = place[1].of(keys.key.public_hex)
    again = _admit(place, keys, days=10)
    assert again.replaced == ()
    assert again.member.flower_node == first.flower_node
    assert again.member.days_left() == 9
    assert len(place[1].all()) == 1


def test_a_new_key_of_a_hospital_ends_the_one_before(place, tmp_path):
    old = _joined(place, tmp_path)
    new = make_keys(tmp_path / "new", "alpha", place[2].public_hex, previous=old.key)
    admission = _admit(place, new)
    assert admission.replaced == (old.key.public_hex,)
    _, members, _, register = place
    assert members.refusal(old.key.public_hex) == "GEM522"
    assert members.refusal(new.key.public_hex) == ""
    assert register.connectable() == {new.request.transport_public_key}
    # Repeated, as after an answer that was lost: nothing more happens.
    assert _admit(place, new).replaced == ()
    # The old request does not bring the old keys back.
    with pytest.raises(GemelError) as caught:
        _admit(place, old)
    assert caught.value.code == "GEM522"


def test_a_key_cannot_be_replaced_by_a_hospital_whose_it_is_not(place, tmp_path):
    alpha = _joined(place, tmp_path)
    _invite(place, "beta")
    thief = make_keys(tmp_path / "thief", "beta", place[2].public_hex, previous=alpha.key)
    with pytest.raises(GemelError) as caught:
        _admit(place, thief)
    assert caught.value.code == "GEM526"
    assert place[1].refusal(alpha.key.public_hex) == ""


def test_a_revoked_hospital_neither_connects_nor_comes_back_with_its_old_keys(place, tmp_path):
    alpha, beta = _joined(place, tmp_path, "alpha"), _joined(place, tmp_path, "beta")
    _, members, _, register = place
    administration.revoke(members, register, "alpha")
    assert members.refusal(alpha.key.public_hex) == "GEM522"
    assert register.connectable() == {beta.request.transport_public_key}
    for keys in (alpha, make_keys(tmp_path / "rotated", "alpha", place[2].public_hex, previous=alpha.key)):
        with pytest.raises(GemelError) as caught:
            _admit(place, keys)
        assert caught.value.code in ("GEM522", "GEM526")
    # A new node of the same hospital is welcome, after another invitation and phone call.
    fresh = make_keys(tmp_path / "fresh", "alpha", place[2].public_hex)
    with pytest.raises(GemelError) as caught:
        _admit(place, fresh)
    assert caught.value.code == "GEM526"
    _invite(place, "alpha")
    _admit(place, fresh)
    assert members.refusal(fresh.key.public_hex) == ""


def test_revoking_holds_at_once_though_the_superlink_is_down_and_is_finished_later(place, tmp_path):
    keys = _joined(place, tmp_path)
    _, members, _, register = place
    register.down = True
    with pytest.raises(GemelError) as caught:
        administration.revoke(members, register, "alpha")
    assert caught.value.code == "GEM505"
    assert members.refusal(keys.key.public_hex) == "GEM522"
    register.down = False
    assert register.connectable()
    administration.revoke(members, register, "alpha")
    assert register.connectable() == set()


def test_revoking_who_was_never_admitted_says_so(place):
    with pytest.raises(GemelError) as caught:
        administration.revoke(place[1], place[3], "alpha")
    assert caught.value.code == "GEM521"


def test_a_member_expires_stays_registered_and_is_renewed_by_the_same_request(place, tmp_path):
    keys = _joined(place, tmp_path)
    _, members, _, register = place
    later = dt.datetime.now(dt.UTC) + dt.timedelta(days=administration.MEMBER_DAYS)
    assert members.refusal(keys.key.public_hex, now=later) == "GEM523"
    administration.reconcile(members, register)
    assert register.connectable() == {keys.request.transport_public_key}


def test_a_superlink_that_lost_its_registrations_gets_them_back(place, tmp_path):
    keys = _joined(place, tmp_path)
    _, members, _, register = place
    register.known.clear()
    assert administration.reconcile(members, register) == ["alpha: registered at the SuperLink"]
    assert register.connectable() == {keys.request.transport_public_key}
    assert (
        members.of(keys.key.public_hex).flower_node
        == register.known[keys.request.transport_public_key].flower_node
    )
    assert administration.reconcile(members, register) == []


def test_a_registration_that_is_no_members_is_taken_back(place, tmp_path):
    keys = _joined(place, tmp_path)
    _, members, _, register = place
    register.admit_node(b"of somebody who reached the Control API")
    assert len(administration.reconcile(members, register)) == 1
    assert register.connectable() == {keys.request.transport_public_key}


def test_an_admission_interrupted_anywhere_is_completed_by_repeating_it(place, tmp_path, monkeypatch):
    old = _joined(place, tmp_path)
    _, members, key, register = place
    new = make_keys(tmp_path / "new", "alpha", key.public_hex, previous=old.key)
    calls = itertools.count()

    def dying(at, call):
        def wrapped(*arguments, **named):
            if next(calls) == at:
                raise KeyboardInterrupt
            return call(*arguments, **named)

        return wrapped

    for at in range(5):
        calls = itertools.count()
        with monkeypatch.context() as patch:
            patch.setattr(register, "admit_node", dying(at, register.admit_node))
            patch.setattr(register, "remove_node", dying(at, register.remove_node))
            patch.setattr(register, "nodes", dying(at, register.nodes))
            try:
                _admit(place, new)
            except KeyboardInterrupt:
                continue
    _admit(place, new)
    assert register.connectable() == {new.request.transport_public_key}
    assert [member.public_key for member in members.admitted("alpha")] == [new.key.public_hex]
