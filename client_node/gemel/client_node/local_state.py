"""What a hospital keeps for itself between rounds: parameters that never leave, or a personal twin.

One file for each training task, bound to the request that it was computed for. It is written after the release passed
the gate and before the release is kept to be sent, and nothing is built on it until the ledger says that the release
left. So a node that dies in between computes the same task again, and of the lost draw of noise nothing is ever seen:
neither its release nor a later one that was trained from what it kept. (Were a later one, two draws would be told for
one charge.) The parameters were trained by the task's noisy steps, so they are as private as the release; they stay
because the study says so.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gemel.client_node.home import NodeHome
from gemel.core.arrays import Arrays, check_arrays, pack_arrays, unpack_arrays
from gemel.core.errors import GemelError
from gemel.core.files import write_durably
from gemel.core.programme import Programme
from gemel.core.study import Study
from gemel.privacy.ledger import EntryKind, Ledger
from gemel.synthetic.releases import KEPT, declared_kept

_TRAIN = "train/"


def split(computed: Arrays) -> tuple[dict[str, NDArray[np.generic]], dict[str, NDArray[np.generic]]]:
    """What a task computed, as what may leave and what stays (`kept.NAME`).

    >>> leaves, stays = split({"level": np.zeros(1), "kept.slopes": np.ones(1)})
    >>> list(leaves), list(stays)
    (['level'], ['kept.slopes'])
    """
    stays = {name: array for name, array in computed.items() if name.startswith(KEPT)}
    return {name: array for name, array in computed.items() if name not in stays}, stays


def load(
    home: NodeHome, ledger: Ledger, study: Study, programme: Programme, task: str
) -> dict[str, NDArray[np.generic]]:
    """What was kept by the training task that was released last, as `kept.NAME`; nothing when none was.

    Raises GEM342 when that is missing or damaged.
    """
    declared = declared_kept(task, programme, study=study)
    released = _released(ledger, study) if declared else []
    if not released:
        return {}
    path = _path(home, study, *released[-1])
    try:
        return unpack_arrays(path.read_bytes(), declared)
    except FileNotFoundError as error:
        raise GemelError("GEM342", f"What {released[-1][0]} kept here is missing.") from error
    except GemelError as error:
        raise GemelError("GEM342", f"{path.name}: {error.message}") from error


def save(
    home: NodeHome,
    ledger: Ledger,
    study: Study,
    programme: Programme,
    task: str,
    *,
    charged_as: str,
    kept: Arrays,
) -> None:
    """Make durable what a task keeps, and forget what nothing can be built on any more. Raises GEM342 for other arrays."""
    declared = declared_kept(task, programme, study=study) if task.startswith(_TRAIN) else {}
    try:
        check_arrays(kept, declared)
    except GemelError as error:
        raise GemelError("GEM342", f"{task}: {error.message}") from error
    if not kept:
        return
    write_durably(_path(home, study, task, charged_as), pack_arrays(kept), mode=0o600)
    # The last one stands: this task is computed from it again, should the node die now.
    for older in _released(ledger, study)[:-1]:
        _path(home, study, *older).unlink(missing_ok=True)


def _released(ledger: Ledger, study: Study) -> list[tuple[str, str]]:
    """The training tasks whose releases are on record, in the order of their leaving, each with what it was charged as."""
    entries = [
        entry
        for entry in ledger.entries()
        if entry.study_sha256 == study.sha256 and entry.task.startswith(_TRAIN)
    ]
    begun = {entry.task: entry.request_sha256 for entry in entries if entry.kind is EntryKind.BEGUN}
    return [(entry.task, begun[entry.task]) for entry in entries if entry.kind is EntryKind.RELEASED]


def _path(home: NodeHome, study: Study, task: str, charged_as: str) -> Path:
    return _folder(home) / f"{study.sha256}.{task.replace('/', '-')}.{charged_as}.safetensors"


def _folder(home: NodeHome) -> Path:
    folder = home.folder / "local"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
