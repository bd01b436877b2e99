"""Who may do what: one table of roles and permissions. What is not in it is refused."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """What a user is to the federation."""

    VIEWER = "viewer"
    SCIENTIST = "scientist"
    OPERATOR = "operator"
    AUDITOR = "auditor"
    ADMIN = "admin"


class Permission(StrEnum):
    """What a door of the service asks for."""

    ANYBODY = "anybody"  # no token: health, login, setup
    LOCAL = "local"  # no token, but on this machine only: metrics
    SELF = "self"  # one's own account and tokens
    MEMBERS_READ = "members_read"
    STUDIES_READ = "studies_read"
    STUDIES_WRITE = "studies_write"  # one's own: draft, sign, submit
    STUDIES_STEER = "studies_steer"  # stop and resume one's own
    STUDIES_STEER_ANY = "studies_steer_any"
    MODELS_READ = "models_read"
    USERS_READ = "users_read"
    USERS_WRITE = "users_write"
    AUDIT_READ = "audit_read"


_EVERYBODY = frozenset({Permission.SELF, Permission.MEMBERS_READ, Permission.STUDIES_READ})

PERMISSIONS: dict[Role, frozenset[Permission]] = {
    Role.VIEWER: _EVERYBODY | {Permission.MODELS_READ},
    Role.SCIENTIST: _EVERYBODY | {Permission.MODELS_READ, Permission.STUDIES_WRITE, Permission.STUDIES_STEER},
    Role.OPERATOR: _EVERYBODY
    | {Permission.MODELS_READ, Permission.STUDIES_STEER, Permission.STUDIES_STEER_ANY},
    Role.AUDITOR: _EVERYBODY | {Permission.USERS_READ, Permission.AUDIT_READ},
    Role.ADMIN: _EVERYBODY | {Permission.USERS_READ, Permission.USERS_WRITE, Permission.AUDIT_READ},
}


def permitted(user: Role, token: Role) -> frozenset[Permission]:
    """What a token may do: never more than its own role, nor than its user's role as it is now."""
    return PERMISSIONS[user] & PERMISSIONS[token]
