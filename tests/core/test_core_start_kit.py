"""Start kits and requests to join: read as they were signed, refused for any field that is not what it must be."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import msgspec
import pytest

from gemel.core.errors import GemelError
from gemel.core.pki import create_tls, create_transport_key
from gemel.core.signing import SigningKey, fingerprint, sign_document
from gemel.core.start_kit import (
    JoinRequest,
    StartKit,
    read_join,
    read_kit,
    sign_join,
    sign_kit,
    transport_fingerprint,
)

NOW = dt.datetime.now(dt.UTC)
COORDINATOR, NODE, OLD = (SigningKey.generate() for _ in range(3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("keys")
    create_tls(made, hosts=["10.0.0.1"])
    create_transport_key(made)
    return made


@pytest.fixture
def kit(folder: Path) -> StartKit:
    return StartKit(
        federation="Liver of the north",
        site="alpha",
        address="10.0.0.1:8443",
        service="https://gemel.example.org",
        ca_certificate=(folder / "ca.crt").read_text(),
        coordinator_public_key=COORDINATOR.public_hex,
        issued_at=NOW.isoformat(),
        expires_at=(NOW + dt.timedelta(days=30)).isoformat(),
    )


@pytest.fixture
def join(folder: Path) -> JoinRequest:
    return JoinRequest(
        site="alpha",
        node_public_key=NODE.public_hex,
        transport_public_key=(folder / "transport.pub").read_text(),
        coordinator_public_key=COORDINATOR.public_hex,
        software={"gemel": "0.1.0"},
        made_at=NOW.isoformat(),
    )


def test_a_kit_is_read_as_it_was_signed(kit: StartKit) -> None:
    assert read_kit(sign_kit(kit, COORDINATOR).to_bytes()) == kit


def test_a_request_to_join_is_read_as_it_was_signed(join: JoinRequest) -> None:
    assert read_join(sign_join(join, NODE).to_bytes()) == join
    assert join.fingerprint == fingerprint(NODE.public_hex)
    assert transport_fingerprint(join.transport_public_key).count("-") == 3


def test_a_kit_holds_no_secret(kit: StartKit, folder: Path) -> None:
    content = sign_kit(kit, COORDINATOR).to_bytes()
    assert b"PRIVATE" not in content
    assert (folder / "ca.key").read_text()[30:60] not in content.decode()


WRONG_KIT = {
    "schema": "gemel/start-kit/2",
    "federation": "",
    "site": "../alpha",
    "address": "10.0.0.1",
    "service": "http://gemel.example.org",
    "ca_certificate": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    "coordinator_public_key": "ab",
    "previous_keys": ["x"],
    "issued_at": "yesterday",
    "expires_at": "2000-01-01T00:00:00+00:00",
    "more": 1,
}


@pytest.mark.parametrize("field", WRONG_KIT)
def test_a_kit_with_a_wrong_field_is_refused(kit: StartKit, field: str) -> None:
    payload = {**msgspec.to_builtins(kit), field: WRONG_KIT[field]}
    with pytest.raises(GemelError, match="GEM410"):
        read_kit(sign_document("start-kit", payload, COORDINATOR, role="coordinator").to_bytes())


@pytest.mark.parametrize(
    "address", ["host:0", "host:70000", "ho st:1", "user@host:1", "host:1/path", ":1", "h:1e3"]
)
def test_an_address_is_a_host_and_a_port(kit: StartKit, address: str) -> None:
    with pytest.raises(GemelError, match="GEM410"):
        sign_kit(msgspec.structs.replace(kit, address=address), COORDINATOR)


def test_a_private_key_beside_the_certificate_is_refused(kit: StartKit, folder: Path) -> None:
    both = kit.ca_certificate + (folder / "server.key").read_text()
    with pytest.raises(GemelError, match="GEM410"):
        sign_kit(msgspec.structs.replace(kit, ca_certificate=both), COORDINATOR)


@pytest.mark.parametrize("days", [-2, 31])
def test_a_kit_has_its_time(kit: StartKit, days: int) -> None:
    with pytest.raises(GemelError, match="GEM411"):
        read_kit(sign_kit(kit, COORDINATOR).to_bytes(), at=NOW + dt.timedelta(days=days))


def test_a_kit_of_another_signer_than_it_names_is_refused(kit: StartKit) -> None:
    with pytest.raises(GemelError, match="GEM410"):
        sign_kit(kit, SigningKey.generate())


def test_a_kit_that_was_changed_is_refused(kit: StartKit) -> None:
    told = json.loads(sign_kit(kit, COORDINATOR).to_bytes())
    told["payload"]["address"] = "evil.example.org:8443"
    with pytest.raises(GemelError, match="GEM103"):
        read_kit(json.dumps(told).encode())


WRONG_JOIN = {
    "schema": "x",
    "site": "",
    "node_public_key": "0" * 63,
    "transport_public_key": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
    "coordinator_public_key": "",
    "software": {"gemel": "\n"},
    "made_at": "2026-01-01",
    "succeeds": "z" * 64,
    "more": [],
}


@pytest.mark.parametrize("field", WRONG_JOIN)
def test_a_request_to_join_with_a_wrong_field_is_refused(join: JoinRequest, field: str) -> None:
    payload = {**msgspec.to_builtins(join), field: WRONG_JOIN[field]}
    with pytest.raises(GemelError, match="GEM410"):
        read_join(sign_document("join", payload, NODE, role="node").to_bytes())


def test_a_new_key_is_vouched_for_by_the_one_of_before(join: JoinRequest) -> None:
    join = msgspec.structs.replace(join, succeeds=OLD.public_hex)
    assert read_join(sign_join(join, NODE, previous=OLD).to_bytes()) == join
    for previous in (None, SigningKey.generate()):
        with pytest.raises(GemelError, match="GEM410"):
            sign_join(join, NODE, previous=previous)
    with pytest.raises(GemelError, match="GEM410"):
        sign_join(msgspec.structs.replace(join, succeeds=""), NODE, previous=OLD)
