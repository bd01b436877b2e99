"""Who takes part: hospitals are invited, admitted after a phone call, replaced and revoked.

A hospital has one admitted key. The record of members decides whom a study may reach; the SuperLink's registrations, who may
connect at all. `reconcile` brings the second in line with the first, whatever was interrupted or restored.
"""

from __future__ import annotations

import datetime as dt
import hmac
from dataclasses import dataclass
from typing import Protocol

from gemel.core.errors import GemelError
from gemel.core.signing import SignedDocument, SigningKey
from gemel.core.start_kit import JoinRequest, StartKit, read_join, sign_kit
from gemel.server.federation_config import FederationConfig
from gemel.server.members import FleetNode, Invitation, Member, Members, MemberState

KIT_DAYS = 30
MEMBER_DAYS = 365
MOST_DAYS = 1100


class Registrar(Protocol):
    """What a SuperLink does for members (`gemel.server.flower.superlink.SuperLink`); every call may raise GEM505."""

    def admit_node(self, public_key: bytes) -> int:
        """Register a transport key (PEM); returns the SuperLink's name for the node."""

    def remove_node(self, flower_node: int) -> None:
        """Take a registration back, for good."""

    def nodes(self) -> list[FleetNode]:
        """Every node that was ever registered."""


@dataclass(frozen=True)
class Admission:
    """What an admission did: the member now, and the keys that it put an end to."""

    member: Member
    replaced: tuple[str, ...]
    software: dict[str, str]


def invite(
    members: Members,
    config: FederationConfig,
    key: SigningKey,
    *,
    site: str,
    ca_certificate: str,
    days: int = KIT_DAYS,
) -> SignedDocument:
    """Make and sign a hospital's start kit, and put the invitation on record. Raises GEM410 for a name that is none."""
    _check_days(days)
    now = dt.datetime.now(dt.UTC)
    kit = StartKit(
        federation=config.name,
        site=site,
        address=config.fleet_address,
        service=config.service_url,
        ca_certificate=ca_certificate,
        coordinator_public_key=key.public_hex,
        issued_at=now.isoformat(timespec="seconds"),
        expires_at=(now + dt.timedelta(days=days)).isoformat(timespec="seconds"),
    )
    document = sign_kit(kit, key)
    members.invite(Invitation(site, document.payload_sha256, kit.issued_at, kit.expires_at))
    return document


def admit(
    members: Members,
    registrar: Registrar,
    content: bytes,
    *,
    coordinator: str,
    fingerprint: str,
    days: int = MEMBER_DAYS,
) -> Admission:
    """Admit the keys of a request to join; those that the hospital had before end.

    May be repeated after any interruption; the same request again gives the key a new end.

    Args:
        members: The record.
        registrar: The SuperLink.
        content: The request to join, as the hospital sent it.
        coordinator: This coordinator's public key.
        fingerprint: What the hospital read out on the phone.
        days: How long the key is admitted for.

    Raises:
        GemelError: GEM410 and GEM101-GEM103 for the request itself; GEM526 when it does not belong here; GEM527 when the
            fingerprint is another; GEM522 when its keys were ended before; GEM505 when the SuperLink does not run.
    """
    _check_days(days)
    request = read_join(content)
    _check_belongs(members, request, coordinator)
    if not hmac.compare_digest(_plain(request.fingerprint), _plain(fingerprint)):
        raise GemelError(
            "GEM527",
            f"The request of {request.site} has the fingerprint {request.fingerprint}; on the phone it was {fingerprint}.",
        )
    _check_keys(members, request)
    expires = dt.datetime.now(dt.UTC) + dt.timedelta(days=days)
    member = members.admit(
        site=request.site,
        public_key=request.node_public_key,
        transport_key=request.transport_public_key,
        flower_node=_register(registrar, request.transport_public_key),
        expires_at=expires.isoformat(timespec="seconds"),
    )
    replaced = [m.public_key for m in members.admitted(request.site) if m.public_key != member.public_key]
    for public_key in replaced:
        members.end(public_key, MemberState.REPLACED)
    reconcile(members, registrar)
    return Admission(member, tuple(replaced), request.software)


def revoke(members: Members, registrar: Registrar, site: str) -> list[Member]:
    """End a hospital's membership and invitation: on record at once, then at the SuperLink. Raises GEM521, or GEM505 after the first step."""
    if not any(member.site == site for member in members.all()):
        raise GemelError("GEM521", f"No hospital {site!r} was ever admitted.")
    members.withdraw(site)
    for member in members.admitted(site):
        members.end(member.public_key, MemberState.REVOKED)
    reconcile(members, registrar)
    return [member for member in members.all() if member.site == site]


def reconcile(members: Members, registrar: Registrar) -> list[str]:
    """Register at the SuperLink who is a member, and take back the registration of everybody else; says what it did.

    An expired key stays registered: its end can be moved, and no study reaches it meanwhile.
    """
    at_superlink = {node.transport_key: node for node in registrar.nodes()}
    admitted = [member for member in members.all() if member.state is MemberState.ADMITTED]
    done = []
    for member in admitted:
        node = at_superlink.get(member.transport_key)
        if node is not None and not node.registered:
            done.append(
                f"{member.site}: its transport key was ended at the SuperLink and cannot connect; it must rotate"
            )
            continue
        flower_node = node.flower_node if node else registrar.admit_node(member.transport_key.encode())
        if flower_node != member.flower_node:
            members.admit(
                site=member.site,
                public_key=member.public_key,
                transport_key=member.transport_key,
                flower_node=flower_node,
                expires_at=member.expires_at,
            )
            done.append(f"{member.site}: registered at the SuperLink")
    wanted = {member.transport_key for member in admitted}
    for key, node in at_superlink.items():
        if key not in wanted and node.registered:
            registrar.remove_node(node.flower_node)
            done.append(f"node {node.flower_node} of the SuperLink: no member's, taken back")
    return done


def _check_belongs(members: Members, request: JoinRequest, coordinator: str) -> None:
    if request.coordinator_public_key != coordinator:
        raise GemelError("GEM526", f"The request of {request.site} is for another coordinator.")
    invited = {invitation.site for invitation in members.invitations()}
    if request.site not in invited and not members.admitted(request.site):
        names = ", ".join(sorted(invited)) or "nobody"
        raise GemelError("GEM526", f"{request.site!r} is not invited; invited: {names}.")


def _check_keys(members: Members, request: JoinRequest) -> None:
    for member in members.all():
        same_key = member.public_key == request.node_public_key
        same_transport = member.transport_key == request.transport_public_key
        if not (same_key or same_transport):
            continue
        if member.state is not MemberState.ADMITTED:
            raise GemelError(
                "GEM522",
                f"A key of this request was {member.state} on {member.ended_at}; {request.site} makes new ones.",
            )
        if member.site != request.site or not (same_key and same_transport):
            raise GemelError(
                "GEM526",
                f"A key of this request is already admitted, for {member.site}; new keys are made together.",
            )
    if request.succeeds:
        before = members.of(request.succeeds)
        if before is None or before.site != request.site:
            raise GemelError("GEM526", f"The key that {request.site} says it replaces is none of its own.")
        if before.state is MemberState.REVOKED:
            raise GemelError(
                "GEM522",
                f"{request.site} was revoked: it joins again with `gemel node init`, not by rotation.",
            )


def _register(registrar: Registrar, transport_key: str) -> int:
    for node in registrar.nodes():
        if node.transport_key == transport_key:
            if node.registered:
                return node.flower_node
            raise GemelError(
                "GEM522", "The transport key was ended at the SuperLink; the hospital makes new ones."
            )
    return registrar.admit_node(transport_key.encode())


def _check_days(days: int) -> None:
    if not 1 <= days <= MOST_DAYS:
        raise GemelError("GEM524", f"{days} days; from 1 to {MOST_DAYS} are possible.")


def _plain(fingerprint: str) -> bytes:
    """Without what people put between the groups, whatever the case."""
    return "".join(character for character in fingerprint.lower() if character.isalnum()).encode()
