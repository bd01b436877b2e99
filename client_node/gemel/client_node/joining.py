"""A node made from a start kit, and the request to join that it writes for the coordinator."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

from gemel.client_node import audit_log
from gemel.client_node.home import SCHEMA, NodeConfig, NodeHome
from gemel.core.errors import GemelError
from gemel.core.files import write_durably
from gemel.core.signing import SigningKey, fingerprint
from gemel.core.software import software_versions
from gemel.core.start_kit import JoinRequest, StartKit, read_join, read_kit, sign_join

KIT_NAME = "kit.json"
JOIN_NAME = "join.json"


@dataclass(frozen=True)
class Limits:
    """What the hospital sets for itself when its node is made."""

    export: Path
    minimum_patients: int
    epsilon_cap: float
    delta: float
    approvals_needed: int = 1


def make_node(
    folder: Path, kit_bytes: bytes, limits: Limits, *, coordinator_fingerprint: str | None = None
) -> tuple[NodeHome, JoinRequest]:
    """Make a node's home, with keys made here, and its request to join (`join.json`).

    `coordinator_fingerprint`: of the coordinator's key, as it was read on the phone; compared when given.

    Raises:
        GemelError: GEM410 or GEM411 a kit that cannot be used, GEM102 of another coordinator than the fingerprint
            says, GEM208 no such export, GEM407 limits that cannot be or a folder that holds a node already.
    """
    kit = read_kit(kit_bytes)
    told = fingerprint(kit.coordinator_public_key)
    if coordinator_fingerprint is not None and coordinator_fingerprint.strip().lower() != told:
        raise GemelError("GEM102", f"The kit is signed by {told}, not by {coordinator_fingerprint}.")
    if not limits.export.exists():
        raise GemelError("GEM208", f"The export {limits.export} does not exist.")
    if (folder / "node.json").exists():
        raise GemelError("GEM407", f"{folder} already holds a node.")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / "tls").mkdir(exist_ok=True)
    write_durably(folder / "tls" / "ca.crt", kit.ca_certificate.encode())
    write_durably(folder / KIT_NAME, kit_bytes)
    home = NodeHome.create(folder, _config(kit, limits))
    return home, write_join(home)


def update_node(home: NodeHome, kit_bytes: bytes, *, coordinator_fingerprint: str | None = None) -> NodeHome:
    """Take over what a newer kit says of the coordinator: its address, its CA, its name, and its key.

    A kit that the known key signed needs nothing else. Another key is believed only with its fingerprint, as it was
    read on the phone. Start the node again afterwards.

    Raises:
        GemelError: GEM410 or GEM411 a kit that cannot be used, or of another site; GEM102 a key that is not known, or
            not the one of the fingerprint.
    """
    kit = read_kit(kit_bytes)
    if kit.site != home.config.site:
        raise GemelError("GEM410", f"The kit is for {kit.site}, this node is {home.config.site}.")
    told = fingerprint(kit.coordinator_public_key)
    known = kit.coordinator_public_key == home.config.coordinator_public_key
    if coordinator_fingerprint is None and not known:
        raise GemelError(
            "GEM102",
            f"The kit is signed by {told}, which is not the coordinator that this node knows.",
            hint="Call the coordinator, and give the fingerprint that they read out with --fingerprint.",
        )
    if coordinator_fingerprint is not None and coordinator_fingerprint.strip().lower() != told:
        raise GemelError("GEM102", f"The kit is signed by {told}, not by {coordinator_fingerprint}.")
    audit_log.record(home, audit_log.EventKind.CONFIGURED, coordinator=told, address=kit.address)
    home.ca_certificate.parent.mkdir(exist_ok=True)
    write_durably(home.ca_certificate, kit.ca_certificate.encode())
    write_durably(home.folder / KIT_NAME, kit_bytes)
    return home.changed(
        coordinator_public_key=kit.coordinator_public_key, address=kit.address, federation=kit.federation
    )


def write_join(home: NodeHome, *, previous: SigningKey | None = None) -> JoinRequest:
    """Write `join.json` for the node's present keys; `previous` is the key that they replace, if any."""
    key = home.key
    request = JoinRequest(
        site=home.config.site,
        node_public_key=key.public_hex,
        transport_public_key=(home.folder / "keys" / "transport.pub").read_text(),
        coordinator_public_key=home.config.coordinator_public_key,
        software=software_versions(),
        made_at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        succeeds="" if previous is None else previous.public_hex,
    )
    write_durably(home.folder / JOIN_NAME, sign_join(request, key, previous=previous).to_bytes())
    return request


def read_own_join(home: NodeHome) -> JoinRequest:
    """The request to join that stands in the home. Raises GEM407 when there is none, GEM410 for a damaged one."""
    try:
        return read_join((home.folder / JOIN_NAME).read_bytes())
    except OSError as error:
        raise GemelError("GEM407", f"{home.folder} holds no {JOIN_NAME}.") from error


def _config(kit: StartKit, limits: Limits) -> NodeConfig:
    return NodeConfig(
        schema=SCHEMA,
        site=kit.site,
        export=str(limits.export.resolve()),
        coordinator_public_key=kit.coordinator_public_key,
        stewards={},
        programmes=(),
        epsilon_cap=limits.epsilon_cap,
        delta=limits.delta,
        minimum_patients=limits.minimum_patients,
        federation=kit.federation,
        address=kit.address,
        approvals_needed=limits.approvals_needed,
    )
