"""Passwords: argon2id, the same time whether or not there is such a user, a few at once so that memory is bounded."""

from __future__ import annotations

import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from gemel.core.errors import GemelError
from gemel.server.service.attempts import TooManyAttempts

LEAST, MOST = 12, 256
_LEAST_DIFFERENT = 5
_AT_ONCE = 2  # each takes 64 MiB
_WAITING = 14
_BUSY_S = 5


class Passwords:
    """Hashes and checks passwords (argon2id, RFC 9106's second recommended setting: 64 MiB, 3 passes, 4 lanes)."""

    def __init__(self, *, memory_kib: int = 65_536, passes: int = 3) -> None:
        self._hasher = PasswordHasher(time_cost=passes, memory_cost=memory_kib, parallelism=4)
        self._turn = threading.BoundedSemaphore(_AT_ONCE)
        self._places = threading.BoundedSemaphore(_AT_ONCE + _WAITING)
        # Of nobody: checked in place of a user's who is not there or has none.
        self._decoy = self._hasher.hash("nobody's")

    def hash(self, password: str, *, name: str) -> str:
        """The form that is stored. Raises GEM914 for a weak one."""
        password = _normal(password)
        if not LEAST <= len(password) <= MOST:
            raise GemelError("GEM914", f"A password has {LEAST} to {MOST} characters.")
        if len(set(password)) < _LEAST_DIFFERENT or name.lower() in password.lower():
            raise GemelError("GEM914", "The password repeats itself, or holds the user's name.")
        with self._in_turn():
            return self._hasher.hash(password)

    def matches(self, stored: str | None, password: str) -> bool:
        """Whether it is the one; without a stored one it takes the same time and is False. Raises GEM903 when too many wait."""
        password = _normal(password[: MOST + 1])
        with self._in_turn():
            try:
                return self._hasher.verify(stored or self._decoy, password) and stored is not None
            except (VerificationError, InvalidHashError):
                return False

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        """A few at once, a few waiting, the rest refused: a flood of logins must not take all of the service's threads."""
        if not self._places.acquire(blocking=False):
            raise TooManyAttempts(retry_after_s=_BUSY_S, first=False)
        try:
            with self._turn:
                yield
        finally:
            self._places.release()


def _normal(password: str) -> str:
    """One form of what keyboards write differently (NIST SP 800-63B, 5.1.1.2)."""
    return unicodedata.normalize("NFKC", password)
