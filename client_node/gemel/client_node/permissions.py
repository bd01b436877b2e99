"""What the hospital says of its node: who decides on studies, and what may run. Each change is in the audit log."""

from __future__ import annotations

from pathlib import Path

from gemel.client_node import audit_log
from gemel.client_node.allow_list import admit_code, code_of
from gemel.client_node.home import NodeHome
from gemel.core.errors import GemelError
from gemel.core.signing import SigningKey, fingerprint


def add_steward(home: NodeHome, name: str, key_file: Path) -> str:
    """Make a steward's key and put its public half on record; returns that.

    Raises GEM419 for a name that is taken or none, GEM417 for a file that is there already or lies in the node's home:
    who has the node must not be able to decide for a steward.
    """
    name = name.strip()
    if not (0 < len(name) <= 100 and name.isprintable()) or name in home.config.stewards:
        raise GemelError("GEM419", f"{name!r} is taken, or no name.")
    if key_file.resolve().is_relative_to(home.folder.resolve()):
        raise GemelError("GEM417", f"{key_file} lies in the node's home.", hint="Keep it with the steward.")
    key = SigningKey.generate()
    try:
        key.save(key_file)
    except OSError as error:
        raise GemelError(
            "GEM417", f"{key_file} cannot be made: {error.strerror}.", hint="Name another file."
        ) from error
    audit_log.record(home, audit_log.EventKind.CONFIGURED, steward=name, key=fingerprint(key.public_hex))
    home.changed(stewards={**home.config.stewards, name: key.public_hex})
    return key.public_hex


def remove_steward(home: NodeHome, name: str) -> NodeHome:
    """Take a steward off the record: what they approved counts no more. Raises GEM419."""
    if name not in home.config.stewards:
        raise GemelError("GEM419", f"{name!r} is no steward of {home.config.site}.")
    audit_log.record(home, audit_log.EventKind.CONFIGURED, steward_removed=name)
    return home.changed(stewards={n: key for n, key in home.config.stewards.items() if n != name})


def steward_named(home: NodeHome, key: SigningKey) -> str:
    """The steward whose key this is. Raises GEM419 for nobody's."""
    for name, public in home.config.stewards.items():
        if public == key.public_hex:
            return name
    raise GemelError("GEM419", f"{fingerprint(key.public_hex)} is no steward's key at {home.config.site}.")


def allow(home: NodeHome, programme: str) -> NodeHome:
    """Let a programme's studies run by the code that is installed now. Raises GEM104 when it is not installed."""
    code = code_of(programme)
    audit_log.record(home, audit_log.EventKind.CONFIGURED, allowed=programme, code=code)
    programmes = tuple(sorted({*home.config.programmes, programme}))
    return home.changed(programmes=programmes, code={**home.config.code, programme: code})


def withdraw(home: NodeHome, programme: str) -> NodeHome:
    """Let a programme's studies run no more. Raises GEM104 when they may not."""
    if programme not in home.config.programmes:
        raise GemelError("GEM104", f"{programme} is not allowed here.")
    audit_log.record(home, audit_log.EventKind.CONFIGURED, withdrawn=programme)
    return home.changed(
        programmes=tuple(name for name in home.config.programmes if name != programme),
        code={name: code for name, code in home.config.code.items() if name != programme},
    )


def code_state(home: NodeHome) -> dict[str, str]:
    """Each allowed programme: "" when the installed code is the one that was allowed, else a code (GEM414, GEM104)."""
    found: dict[str, str] = {}
    for programme in home.config.programmes:
        try:
            admit_code(programme, home.config.code)
        except GemelError as error:
            found[programme] = error.code
        else:
            found[programme] = ""
    return found
