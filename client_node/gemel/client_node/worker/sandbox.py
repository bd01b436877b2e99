"""Shuts a process in, for good: no network, no files but what it needs to run, no new privileges, bounded memory.

Of two ways each where the kernel has them: the network by an empty network namespace, else by Landlock (TCP only); files by
Landlock, and by the permissions of another user. Linux only; `shut_in` says what holds, and never claims more.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import resource
import struct
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_CAPSET = {"x86_64": 126, "aarch64": 91}
# The same numbers on every architecture (asm-generic).
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_RULE_PATH_BENEATH, _VERSION = 1, 1
_EXECUTE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 2, 1 << 3
# Version of Landlock -> how many of its rights on files there are; unknown newer ones are left to the kernel's defaults.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_TCP_RIGHTS = 0b11  # bind, connect: from version 4
_SCOPES = 0b11  # abstract Unix sockets, signals to processes outside: from version 6

_libc = ctypes.CDLL(None, use_errno=True)


class Confinement(msgspec.Struct, frozen=True, kw_only=True):
    """What holds of a process: each "" where it does not.

    network: "namespace" or "landlock tcp"; files: "landlock"; user: the name of the other user; memory: "rlimit".
    """

    network: str = ""
    files: str = ""
    user: str = ""

    @property
    def is_shut(self) -> bool:
        """No connection can be made, and no file of the node be read."""
        return self.network == "namespace" and bool(self.files)


def shut_in(*, user: str, secret: Path, writable: Iterable[Path] = ()) -> Confinement:
    """Shut this process, which has one thread, and its children in.

    Args:
        user: Whom to become, where this is root; "" for nobody else.
        secret: The node's home: nothing beneath it can be read afterwards, except what is writable.
        writable: Folders to write in.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a dump would hold patients
    version = _landlock_version()
    # Made first: the other user may not be able to see these folders' parents.
    rules = _rules(version, secret.resolve(), [path.resolve() for path in writable]) if version > 0 else -1
    name = _become(user) if user and os.geteuid() == 0 else ""
    network = "namespace" if _unshare_network() else ""
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    files = ""
    if rules >= 0:
        files = "landlock" if _libc.syscall(_RESTRICT_SELF, rules, 0) == 0 else ""
        os.close(rules)
    if files and not network and version >= 4:
        network = "landlock tcp"
    _drop_capabilities()
    return Confinement(network=network, files=files, user=name)


def what_would_hold(*, user: str, secret: Path) -> Confinement:
    """What `shut_in` would do on this machine, tried in a child that ends at once; for whoever sets a node up.

    Raises:
        OSError: No child can be made, or it could not be shut in at all (an unknown user: KeyError there).
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(writing, msgspec.json.encode(shut_in(user=user, secret=secret)))
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as told:
        content = told.read()
    _, status = os.waitpid(child, 0)
    if status != 0:
        raise OSError(f"a process could not be shut in (status {status})")
    return msgspec.json.decode(content, type=Confinement)


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0)


def hide_memory() -> None:
    """Keep other processes of the same user from reading this one's memory; no core dumps either."""
    _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def bound_task(*, memory_mb: int, seconds: float) -> None:
    """Bound what this process takes beyond what it has: writable memory, and time on a processor."""
    used = 0
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            used = int(line.split()[1]) * 1024
    limit = used + memory_mb * 1_000_000
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    whole = int(seconds) + 5
    resource.setrlimit(resource.RLIMIT_CPU, (whole, whole + 1))


def _become(user: str) -> str:
    entry = pwd.getpwnam(user)
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
    return user


def _unshare_network() -> bool:
    """A network namespace without any interface up; as an ordinary user inside a user namespace of its own."""
    if _libc.unshare(_CLONE_NEWNET) == 0:
        return True
    return bool(_libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0)


def _landlock_version() -> int:
    return int(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(_VERSION)))


def _rules(version: int, secret: Path, writable: list[Path]) -> int:
    """What Landlock is to allow, as an open file; -1 where there is none."""
    rights = (1 << _FILE_RIGHTS[min(version, max(_FILE_RIGHTS))]) - 1
    tcp = _TCP_RIGHTS if version >= 4 else 0
    scopes = _SCOPES if version >= 6 else 0
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    attributes = struct.pack("=QQQ", rights, tcp, scopes)[:size]
    ruleset = int(_libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(size), ctypes.c_uint(0)))
    if ruleset >= 0:
        for path in _readable(secret):
            _allow(ruleset, path, _EXECUTE | _READ_FILE | _READ_DIR)
        for path in writable:
            _allow(ruleset, path, rights)
        _allow(ruleset, Path("/dev/null"), _READ_FILE | 1 << 1)
    return ruleset


def _readable(secret: Path) -> list[Path]:
    """What Python and its libraries are read from. Nothing from which the node's home can be reached."""
    wanted = [
        "/usr",
        "/lib",
        "/lib64",
        "/bin",
        "/etc/ld.so.cache",
        "/etc/localtime",
        "/proc",
        "/sys",
        "/dev/urandom",
    ]
    wanted += [sys.prefix, sys.base_prefix, *(entry for entry in sys.path if entry)]
    paths = {Path(os.path.realpath(entry)) for entry in wanted if os.path.exists(entry)}
    return sorted(path for path in paths if path != secret and path not in secret.parents)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    with suppress(OSError):
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not path.is_dir():
                rights &= _EXECUTE | _READ_FILE | 1 << 1
            rule = struct.pack("=Qi", rights, descriptor)
            _libc.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, ctypes.c_uint(0))
        finally:
            os.close(descriptor)


def _drop_capabilities() -> None:
    """Root, in whatever namespace, is nobody special from here on."""
    number = _CAPSET.get(os.uname().machine)
    if number is not None:
        _libc.syscall(number, struct.pack("=Ii", 0x20080522, 0), bytes(24))
