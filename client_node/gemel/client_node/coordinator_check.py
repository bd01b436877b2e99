"""Whether the coordinator's port can be reached, whether its certificate is believed, and what its clock says."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

TIMEOUT_S = 5.0
_ASK = "GET /v1/fleet/ HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True)
class Seen:
    """What one look at the coordinator's port showed; `clock_ahead_s` is None when it told no date."""

    reached: bool
    reach_detail: str
    reach_remedy: str = ""
    trusted: bool = False
    trust_detail: str = ""
    trust_remedy: str = ""
    clock_ahead_s: float | None = None


def reach(address: str, *, ca_certificate: Path) -> Seen:
    """Connect to host:port, shake hands by TLS under that CA alone, and ask for the date. Never raises for the network."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        plain = socket.create_connection((host, int(port)), timeout=TIMEOUT_S)
    except OSError as error:
        return Seen(False, f"{address}: {_why(error)}", _remedy(error, address))
    with plain:
        context = ssl.create_default_context(cafile=str(ca_certificate))
        try:
            with context.wrap_socket(plain, server_hostname=host) as secure:
                return _look(secure, address, host)
        except ssl.SSLCertVerificationError as error:
            return Seen(
                True,
                f"{address} answers",
                trust_detail=error.verify_message or str(error),
                trust_remedy="The CA is not the coordinator's, its certificate expired, or it is for another name: ask "
                "the coordinator (`gemel federation rotate-tls`), and check this machine's clock.",
            )
        except OSError as error:
            return Seen(
                True,
                f"{address} answers",
                trust_detail=f"no TLS: {_why(error)}",
                trust_remedy="Something else than the coordinator listens there, or a firewall opens TLS.",
            )


def _look(secure: ssl.SSLSocket, address: str, host: str) -> Seen:
    certificate = secure.getpeercert() or {}
    ends = str(certificate.get("notAfter", ""))
    left = (ssl.cert_time_to_seconds(ends) - time.time()) / 86_400 if ends else 0.0
    ahead: float | None = None
    with contextlib.suppress(OSError):
        secure.sendall(_ASK.format(host).encode())
        ahead = _clock_ahead(secure.recv(4096))
    return Seen(
        True,
        f"{address} answers",
        trusted=True,
        trust_detail=f"{secure.version()}, the certificate is for {host}, {left:.0f} days left",
        clock_ahead_s=ahead,
    )


def _clock_ahead(response: bytes) -> float | None:
    """Seconds by which this clock is ahead of the answer's Date header; None without one."""
    for line in response.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"date":
            try:
                return time.time() - parsedate_to_datetime(value.decode("ascii").strip()).timestamp()
            except (ValueError, UnicodeDecodeError):
                return None
    return None


def _why(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


def _remedy(error: OSError, address: str) -> str:
    if isinstance(error, socket.gaierror):
        return "The name is not known here: check DNS, or /etc/hosts."
    if isinstance(error, ConnectionRefusedError):
        return "The machine is there, the coordinator is not: ask whether it runs."
    return f"Let the firewall pass one outbound TCP connection to {address}."
