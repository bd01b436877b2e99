"""A federation's settings at its coordinator: one frozen document, `federation.json`, read once at the door."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

import msgspec

from gemel.core.canonical import canonical_bytes
from gemel.core.errors import GemelError
from gemel.core.files import write_durably

SCHEMA = "gemel/federation/1"
FILE = "federation.json"

# A DNS name: what stands in certificates, kits and nginx's configuration must be nothing else.
_DNS_NAME = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*"
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")


class FederationConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a coordinator is called and where it is reached.

    `host` is the DNS name or IP address that hospitals and people connect to; `port` (hospitals) and `people_port` are
    nginx's, on `listen`; `superlink_port` and `service_port` are on loopback only. `aliases` are further names of the host.
    `largest_update_mb`: no hospital can send more at once; it must exceed the largest twin.
    """

    schema: str
    name: str
    host: str
    port: int
    people_port: int
    superlink_port: int
    service_port: int
    listen: str
    aliases: tuple[str, ...] = ()
    largest_update_mb: int = 64

    @property
    def fleet_address(self) -> str:
        """host:port that nodes connect to, as it stands in start kits."""
        return f"{bracketed(self.host)}:{self.port}"

    @property
    def service_url(self) -> str:
        """The address that people use."""
        suffix = "" if self.people_port == 443 else f":{self.people_port}"
        return f"https://{bracketed(self.host)}{suffix}"

    @property
    def certificate_names(self) -> tuple[str, ...]:
        """The names that the certificate on the outer ports is for."""
        return (self.host, *self.aliases)


def checked(config: FederationConfig) -> FederationConfig:
    """The same settings, found sound. Raises GEM524."""
    if config.schema != SCHEMA:
        raise GemelError("GEM524", f"The settings have schema {config.schema}, expected {SCHEMA}.")
    if not _NAME.fullmatch(config.name):
        raise GemelError(
            "GEM524", f"The federation's name {config.name!r} is not letters, digits, space, . _ -."
        )
    for host in (config.host, *config.aliases):
        if not is_host(host):
            raise GemelError("GEM524", f"{host!r} is neither a DNS name in lower case nor an IP address.")
    if not _is_address(config.listen):
        raise GemelError(
            "GEM524", f"nginx listens on an IP address of this machine, not on {config.listen!r}."
        )
    ports = (config.port, config.people_port, config.superlink_port, config.service_port)
    if any(not 0 < port < 65536 for port in ports) or len(set(ports)) != len(ports):
        raise GemelError("GEM524", f"Four different ports from 1 to 65535 are needed, got {ports}.")
    if not 1 <= config.largest_update_mb <= 2000:
        raise GemelError("GEM524", f"An update is at most 1 to 2000 MB, not {config.largest_update_mb}.")
    return config


def load(folder: Path) -> FederationConfig:
    """The settings in a coordinator's home. Raises GEM524 when it is none, or they are not sound."""
    try:
        content = (folder / FILE).read_bytes()
        return checked(msgspec.json.decode(content, type=FederationConfig))
    except (OSError, msgspec.DecodeError) as error:
        raise GemelError("GEM524", f"{folder} is not a coordinator's home: {error}.") from error


def save(folder: Path, config: FederationConfig) -> None:
    """Write the settings, checked, into a coordinator's home."""
    write_durably(folder / FILE, canonical_bytes(msgspec.to_builtins(checked(config))))


def is_host(host: str) -> bool:
    """True for a DNS name in lower case, or an IP address.

    >>> is_host("coordinator.example.org"), is_host("10.0.0.1"), is_host("a;b"), is_host("256.1.1.1.")
    (True, True, False, False)
    """
    return _is_address(host) or _DNS_NAME.fullmatch(host) is not None


def bracketed(host: str) -> str:
    """An IPv6 address in brackets, as in a URL; anything else as it is.

    >>> bracketed("::1"), bracketed("example.org")
    ('[::1]', 'example.org')
    """
    return f"[{host}]" if ":" in host else host


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
