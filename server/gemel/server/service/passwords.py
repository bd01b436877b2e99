"""Passwords: argon2id, the same time whether or not there is such a user, a few at once so that memory is bounded."""

from __future__ import annotations

import threading
import unicodedata

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from gemel.core.errors import GemelError

LEAST, MOST = 12, 256
_LEAST_DIFFERENT = 5
_AT_ONCE = 2  # each takes 64 MiB


class Passwords:
    """Hashes and checks passwords (argon2id, RFC 9106's second recommended setting: 64 MiB, 3 passes, 4 lanes)."""

    def __init__(self, *, memory_kib: int = 65_536, passes: int = 3) -> None:
        self._hasher = PasswordHasher(time_cost=passes, memory_cost=memory_kib, parallelism=4)
        self._turn = threading.BoundedSemaphore(_AT_ONCE)
        # Of nobody: checked in place of a user's who is not there or has none.
        self._decoy = self._hasher.hash("nobody's")

    def hash(self, password: str, *, name: str) -> str:
        """The form that is stored. Raises GEM914 for a weak one."""
        password = _normal(password)
        if not LEAST <= len(password) <= MOST:
            raise GemelError("GEM914", f"A password has {LEAST} to {MOST} characters.")
        if len(set(password)) < _LEAST_DIFFERENT or name.lower() in password.lower():
            raise GemelError("GEM914", "The password repeats itself, or holds the user's name.")
        with self._turn:
            return self._hasher.hash(password)

    def matches(self, stored: str | None, password: str) -> bool:
        """Whether it is the one; without a stored one it takes the same time and is False."""
        password = _normal(password[: MOST + 1])
        with self._turn:
            try:
                return self._hasher.verify(stored or self._decoy, password) and stored is not None
            except (VerificationError, InvalidHashError):
                return False


def _normal(password: str) -> str:
    """One form of what keyboards write differently (NIST SP 800-63B, 5.1.1.2)."""
    return unicodedata.normalize("NFKC", password)
