"""The first administrator: a one-time token that `gemel federation init` prints. There is no default password."""

from __future__ import annotations

from pathlib import Path

from gemel.core.errors import GemelError
from gemel.server.service import tokens, users
from gemel.server.service.audit import SERVICE, AuditLog
from gemel.server.service.roles import Role
from gemel.server.service.tokens import TokenKind
from gemel.server.service.users import UserState
from gemel.server.store import open_store, store_url


def bootstrap_token(home: Path, *, name: str = "admin") -> str:
    """A token that lets its holder set the first administrator's password, once, within a day; a new one ends an older.

    Raises GEM905 when an administrator has set a password already.
    """
    engine = open_store(store_url(home))
    try:
        log = AuditLog(engine)
        log.begin()
        with log.act(SERVICE, "user.bootstrap") as act:
            for user in users.every(act.connection):
                active = user.role is Role.ADMIN and user.state is UserState.ACTIVE
                if active and (user.identity or users.has_password(act.connection, user.id)):
                    raise GemelError("GEM905", f"{user.name} is the administrator already.")
            known = users.by_name(act.connection, name)
            admin = known[0] if known else users.add(act.connection, name=name, role=Role.ADMIN)
            act.target = admin.id
            secret, _ = tokens.issue(act.connection, admin, TokenKind.SETUP, seconds=tokens.SETUP_S)
            return secret
    finally:
        engine.dispose()
