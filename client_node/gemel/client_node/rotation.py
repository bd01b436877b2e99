"""New keys for a node: said by the old ones, in the ledger and the audit log, before they are used.

In this order, each step repeatable, so that a rotation which was interrupted is finished by asking for it again: make
the new keys beside the old (`keys/next`); let ledger and audit log name the new one; put the keys in place; write
`join.json`, which both sign; forget the old key.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gemel.client_node import audit_log, event_log
from gemel.client_node.home import NodeHome
from gemel.client_node.joining import read_own_join, write_join
from gemel.client_node.key_dates import VALID_DAYS, write_dates
from gemel.core.errors import GemelError
from gemel.core.files import write_durably
from gemel.core.pki import create_transport_key
from gemel.core.signing import SigningKey
from gemel.core.start_kit import JoinRequest
from gemel.privacy.ledger import Ledger

_NEXT, _OLD, _MADE = "next", "old.key", "made"


def rotate_keys(home: NodeHome, *, days: int = VALID_DAYS) -> JoinRequest:
    """Make a new signing key and a new transport key, and the request to join that old and new signing key sign.

    Raises:
        GemelError: GEM407 the node is running; GEM302, GEM309 or GEM415 ledger or audit log do not hold.
    """
    keys, following = home.folder / "keys", home.folder / "keys" / _NEXT
    with _alone(home):
        if not (following / _MADE).exists():
            _make(following)
        if (following / "node.key").exists():
            new = SigningKey.load(following / "node.key")
            _name_successor(home, old=home.key, new=new)
            (keys / _OLD).unlink(missing_ok=True)
            home.key.save(keys / _OLD)
            _sync(keys)
        for name in ("node.key", "transport.key", "transport.pub"):
            if (following / name).exists():
                os.replace(following / name, keys / name)
        _sync(keys)
        if (keys / _OLD).exists():
            write_dates(keys, days=days)
            write_join(home, previous=SigningKey.load(keys / _OLD))
            (keys / _OLD).unlink()
        (following / _MADE).unlink()
        following.rmdir()
    request = read_own_join(home)
    event_log.write(home, "rotated", key=request.fingerprint)
    return request


def is_unfinished(home: NodeHome) -> bool:
    """True when a rotation was interrupted; `rotate_keys` finishes it."""
    return (home.folder / "keys" / _NEXT).exists()


def _make(folder: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    for path in folder.iterdir():  # an earlier try that did not come to its end
        path.unlink()
    SigningKey.generate().save(folder / "node.key")
    create_transport_key(folder)
    _sync(folder)
    write_durably(folder / _MADE, b"")


def _name_successor(home: NodeHome, *, old: SigningKey, new: SigningKey) -> None:
    config = home.config
    with Ledger.open(
        home.folder / "ledger.sqlite",
        key=old,
        site=config.site,
        epsilon_cap=config.epsilon_cap,
        delta=config.delta,
        successor=new,
    ) as ledger:
        entry = ledger.succeed()
    audit_log.succeed(home, old=old, new=new, document=entry.sha256)


def _sync(folder: Path) -> None:
    for path in (*(p for p in folder.iterdir() if p.is_file()), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _alone(home: NodeHome) -> Iterator[None]:
    """No process runs the node, and none starts while it lasts."""
    with (home.folder / "node.running").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise GemelError("GEM407", "The node is running.", hint="Stop it, then rotate.") from error
        yield
