"""What a hospital keeps for itself between rounds: parameters that never leave, or a personal twin.

One file for each training task, bound to the request that it was computed for. It is written after the release passed
the gate and before the release is kept to be sent. So whatever is sent has its state here; a node that dies in
between computes the same task again, from the state of the task before, which stands until the one after it is
written: nothing is trained twice, and of the lost draw nothing was released. The parameters were trained by the
task's noisy steps, so they are as private as the release; they stay because the study says so.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gemel.client_node.home import NodeHome
from gemel.core.arrays import Arrays, pack_arrays, unpack_arrays
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
    """What was kept by the last training task before this one, as `kept.NAME`; nothing when there was none.

    Raises GEM342 when a training task was released and what it kept is missing, or is damaged.
    """
    declared = declared_kept(task, programme, study=study)
    if not declared:
        return {}
    entries = [entry for entry in ledger.entries() if entry.study_sha256 == study.sha256]
    begun = {entry.task: entry.request_sha256 for entry in entries if entry.kind is EntryKind.BEGUN}
    released = {entry.task for entry in entries if entry.kind is EntryKind.RELEASED}
    trained = [number for number in map(_round, begun) if 0 < number <= _last_before(study, task)]
    for number in sorted(trained, reverse=True):
        before = f"{_TRAIN}{number}"
        path = _path(home, study, before, begun[before])
        if path.exists():
            try:
                return unpack_arrays(path.read_bytes(), declared)
            except GemelError as error:
                raise GemelError("GEM342", f"{path.name}: {error.message}") from error
        if before in released:
            raise GemelError("GEM342", f"What {before} kept here is missing.")
    return {}


def save(
    home: NodeHome, study: Study, programme: Programme, task: str, *, charged_as: str, kept: Arrays
) -> None:
    """Make durable what a task keeps, and forget what is no longer built on. Raises GEM342 for other arrays."""
    declared = declared_kept(task, programme, study=study) if task.startswith(_TRAIN) else {}
    if set(kept) != set(declared):
        raise GemelError("GEM342", f"{task} keeps {sorted(declared)}, got {sorted(kept)}.")
    if not kept:
        return
    content = pack_arrays(kept)
    unpack_arrays(content, declared)
    write_durably(_path(home, study, task, charged_as), content, mode=0o600)
    # The newest one before this task stands: this task is computed from it again, should the node die now.
    before = {path: _round(path.name.split(".")[1].replace("-", "/")) for path in _files(home, study)}
    older = sorted((path for path, number in before.items() if number < _round(task)), key=before.__getitem__)
    for path in older[:-1]:
        path.unlink(missing_ok=True)


def _last_before(study: Study, task: str) -> int:
    """The number of the last training round before a task, in the order of the study."""
    if task.startswith(_TRAIN):
        return _round(task) - 1
    return int(task.removeprefix("validate/")) if task.startswith("validate/") else study.training.rounds


def _round(task: str) -> int:
    """The number of a training task, 0 for others."""
    return int(task.removeprefix(_TRAIN)) if task.startswith(_TRAIN) else 0


def _path(home: NodeHome, study: Study, task: str, charged_as: str) -> Path:
    return _folder(home) / f"{study.sha256}.{task.replace('/', '-')}.{charged_as}.safetensors"


def _files(home: NodeHome, study: Study) -> list[Path]:
    return list(_folder(home).glob(f"{study.sha256}.train-*.safetensors"))


def _folder(home: NodeHome) -> Path:
    folder = home.folder / "local"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
