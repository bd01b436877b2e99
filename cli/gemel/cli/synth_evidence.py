"""The patients that a report of virtual cohorts holds them against, from data sets that `gemel data build` or a node made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gemel.core.errors import GemelError

if TYPE_CHECKING:
    from gemel.core.dataset import Dataset
    from gemel.synthetic.domain import Domain
    from gemel.synthetic.report import Evidence


@dataclass(frozen=True)
class Files:
    """Where patients are: whole data sets, split as the node splits them, or those counted and those kept out apart."""

    data: Sequence[Path] = ()
    training: Sequence[Path] = ()
    holdout: Sequence[Path] = ()

    def __bool__(self) -> bool:
        return bool(self.data or self.training or self.holdout)


def read_evidence(domain: Domain, files: Files, *, open_data: bool) -> Evidence | None:
    """The evidence in some files; None without any. A hospital is named by its folder.

    Raises GEM765 for a folder without the programme's data set, and for patients who were counted without any kept out.
    """
    if not files:
        return None
    if files.data and (files.training or files.holdout):
        raise GemelError("GEM765", "Give whole data sets, or training and hold-out patients apart, not both.")
    pairs = [(path, *_read(domain, path).split()) for path in files.data]
    training = [(path, part) for path, part, _ in pairs] or [(p, _read(domain, p)) for p in files.training]
    holdout = [(path, part) for path, _, part in pairs] or [(p, _read(domain, p)) for p in files.holdout]
    return evidence_of(domain, _by_hospital(training), _by_hospital(holdout), open_data=open_data)


def evidence_of(
    domain: Domain, training: Mapping[str, Dataset], holdout: Mapping[str, Dataset], *, open_data: bool
) -> Evidence:
    """The evidence of some hospitals' patients. Raises GEM765 when nobody was counted or nobody was kept out."""
    from gemel.synthetic.report import Evidence

    if not any(map(len, training.values())) or not any(map(len, holdout.values())):
        raise GemelError(
            "GEM765", "Both are needed: patients who were counted, and patients who were kept out."
        )
    people = [_together([domain.columns_of(one) for one in side.values()]) for side in (training, holdout)]
    sites = [np.repeat(list(side), [len(one) for one in side.values()]) for side in (training, holdout)]
    several = len({*training, *holdout}) > 1
    return Evidence(domain, people[0], people[1], (sites[0], sites[1]) if several else None, open_data)


def _read(domain: Domain, path: Path) -> Dataset:
    """A data set's file, or that of the domain's programme in a folder, in its `data` where the folder is a node's."""
    from gemel.core.dataset import Dataset

    programme = domain.programme
    if programme is None:
        raise GemelError("GEM765", "The model is of no programme.")
    name = f"{programme.name}-{programme.version}.safetensors"
    for file in (path, path / name, path / "data" / name):
        if file.is_file():
            dataset = Dataset.load(file)
            if (dataset.programme, dataset.programme_version) != (programme.name, programme.version):
                raise GemelError("GEM765", f"{file} is of {dataset.programme}, not of {programme.name}.")
            return dataset
    raise GemelError("GEM765", f"{path} holds no {name}.")


def _by_hospital(parts: Sequence[tuple[Path, Dataset]]) -> dict[str, Dataset]:
    found: dict[str, Dataset] = {}
    for path, dataset in parts:
        resolved = path.resolve()
        name = resolved.parent.name if resolved.is_file() else resolved.name
        found[name if name not in found else f"{name} {len(found) + 1}"] = dataset
    return found


def _together(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    joined: dict[str, Any] = {}
    for name, first in parts[0].items():
        if isinstance(first, tuple):
            joined[name] = tuple(np.concatenate([part[name][i] for part in parts]) for i in range(len(first)))
        else:
            joined[name] = np.concatenate([part[name] for part in parts])
    return joined
