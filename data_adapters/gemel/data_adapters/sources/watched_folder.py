"""A folder watched for new exports, by looking at names, sizes and times now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gemel.core.errors import GemelError
from gemel.data_adapters.sources.fetched import write_private
from gemel.data_adapters.sources.files import MANIFEST_NAME, UNFINISHED_NAME, open_export

# What writers leave when they are done: Bulk clients, Spark and Hadoop, people.
MARKERS = (MANIFEST_NAME, "_SUCCESS", ".complete")
Signature = list[list[str | int]]


class _Seen(msgspec.Struct):
    """What was given already: the signature of each export by its name."""

    exports: dict[str, Signature] = {}


@dataclass(frozen=True)
class Watch:
    """How to watch; `sleep`, `now` and `stop` are for tests and for a service that is asked to end.

    Attributes:
        poll_s: Between two looks.
        stable_s: An export without a marker counts as complete when nothing of it changed for so long.
        stop: Asked before each look; True ends the watch.
    """

    poll_s: float = 30.0
    stable_s: float = 300.0
    sleep: Callable[[float], None] = time.sleep
    now: Callable[[], float] = time.monotonic
    stop: Callable[[], bool] = lambda: False


def watch(folder: Path, *, state: Path, how: Watch | None = None) -> Iterator[Path]:
    """The exports (folders and files) that arrive in a folder, each once, oldest names first; also those there already.

    An export is marked in `state` when the next is asked for: one that was being worked on when the process was killed
    is given again. An export whose files change later is a new one. Links are not followed.

    Args:
        folder: To watch.
        state: A file outside `folder` that remembers over restarts what was given.
        how: Times; None for the usual.

    Raises:
        GemelError: GEM208 when the folder cannot be read, GEM228 when the state is damaged.
    """
    how = how or Watch()
    seen = _load(state)
    since: dict[str, tuple[Signature, float]] = {}
    while not how.stop():
        present = _look(folder)
        for name in [name for name in since if name not in present]:
            del since[name]
        for name, signature in present.items():
            if seen.exports.get(name) == signature or not signature:
                continue
            if name not in since or since[name][0] != signature:
                since[name] = (signature, how.now())
            path = folder / name
            if not _complete(path) and how.now() - since[name][1] < how.stable_s:
                continue
            if _unfinished(path) or not _is_export(path):
                continue
            yield path
            seen.exports[name] = signature
            write_private(state, msgspec.json.encode(seen))
            if how.stop():
                return
        how.sleep(how.poll_s)


def _load(state: Path) -> _Seen:
    try:
        return msgspec.json.decode(state.read_bytes(), type=_Seen)
    except FileNotFoundError:
        return _Seen()
    except (OSError, msgspec.DecodeError) as error:
        raise GemelError(
            "GEM228", f"The state of the watch in {state.name} cannot be read: {error}."
        ) from error


def _look(folder: Path) -> dict[str, Signature]:
    """What is there now, by name: relative path, size and time of each file."""
    found: dict[str, Signature] = {}
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise GemelError("GEM208", f"{folder} cannot be watched: {error.strerror}.") from error
    for entry in entries:
        if entry.name.startswith(".") or entry.is_symlink():
            continue
        try:
            files = sorted(entry.rglob("*")) if entry.is_dir() else [entry]
            signature: Signature = []
            for file in files:
                status = file.lstat()
                signature.append([str(file.relative_to(folder)), status.st_size, status.st_mtime_ns])
        except OSError:
            # It is being moved or taken away: look again the next time.
            continue
        found[entry.name] = signature
    return found


def _complete(path: Path) -> bool:
    return path.is_dir() and any((path / marker).exists() for marker in MARKERS)


def _unfinished(path: Path) -> bool:
    return path.name.endswith(".part") or (
        path.is_dir() and ((path / UNFINISHED_NAME).exists() or any(path.glob("*.part")))
    )


def _is_export(path: Path) -> bool:
    try:
        return bool(open_export(path))
    except GemelError:
        return False
