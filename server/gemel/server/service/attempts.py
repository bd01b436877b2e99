"""How often credentials may be tried: counted in the store before they are checked, by account and by address."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Engine, Float, String, Table, delete, text

from gemel.core.canonical import sha256_hex
from gemel.core.errors import GemelError
from gemel.server.store import metadata

_attempts = Table(
    "attempts",
    metadata,
    Column("counted", String(80), primary_key=True),
    Column("since", Float, nullable=False),
    Column("number", BigInteger, nullable=False),
)
WINDOW_S = 900.0
OF_ACCOUNT, OF_ADDRESS = 10, 60

# One statement: two at once cannot both see the last free place.
_COUNT = text(
    "INSERT INTO attempts (counted, since, number) VALUES (:counted, :now, 1) ON CONFLICT (counted) DO UPDATE SET "
    "number = CASE WHEN attempts.since <= :old THEN 1 ELSE attempts.number + 1 END, "
    "since = CASE WHEN attempts.since <= :old THEN :now ELSE attempts.since END RETURNING number, since"
)


class TooManyAttempts(GemelError):
    """GEM903, with the seconds to wait. `first` when this attempt is the first one over the limit."""

    def __init__(self, *, retry_after_s: int, first: bool) -> None:
        super().__init__("GEM903", f"Too many attempts; wait {retry_after_s} s.")
        self.retry_after_s = retry_after_s
        self.first = first


@dataclass(frozen=True)
class Attempts:
    """The counts in a store; they survive a restart of the service."""

    engine: Engine
    clock: Callable[[], float] = time.time

    def count(self, *, account: str | None, address: str) -> None:
        """Count one attempt for both. Raises TooManyAttempts (GEM903) when either is used up for now."""
        now = self.clock()
        keys = [(f"address:{sha256_hex(network_of(address).encode())}", OF_ADDRESS)]
        if account is not None:
            # A hash, not the name: people type passwords where a name belongs.
            keys.insert(0, (_of(account), OF_ACCOUNT))
        over: list[tuple[int, float, int]] = []
        with self.engine.begin() as connection:
            for key, most in keys:
                number, since = connection.execute(
                    _COUNT, {"counted": key, "now": now, "old": now - WINDOW_S}
                ).one()
                if number > most:
                    over.append((number, since, most))
        if over:
            wait = max(1, round(max(since for _, since, _ in over) + WINDOW_S - now))
            raise TooManyAttempts(retry_after_s=wait, first=all(n == most + 1 for n, _, most in over))

    def forget_old(self) -> None:
        """Drop counts whose window is over; for now and then, not beside every attempt."""
        with self.engine.begin() as connection:
            connection.execute(delete(_attempts).where(_attempts.c.since <= self.clock() - 2 * WINDOW_S))

    def succeeded(self, account: str) -> None:
        """Forget an account's failures; an address's stand."""
        with self.engine.begin() as connection:
            connection.execute(delete(_attempts).where(_attempts.c.counted == _of(account)))


def network_of(address: str) -> str:
    """What is counted as one address: of IPv6 the /64 that one customer has.

    >>> network_of("10.0.0.1"), network_of("2001:db8::1") == network_of("2001:db8::2"), network_of("unknown")
    ('10.0.0.1', True, 'unknown')
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))


def _of(account: str) -> str:
    return f"account:{sha256_hex(account.lower().encode())}"
