"""The hospitals of a simulation: throwaway homes, keys and stewards in one folder, each with its part of the patients."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np

from gemel.client_node import approvals, patients
from gemel.client_node.approvals import Decision
from gemel.client_node.home import SCHEMA, NodeConfig, NodeHome
from gemel.core.canonical import document_hash
from gemel.core.dataset import Dataset
from gemel.core.errors import GemelError
from gemel.core.programme import Programme
from gemel.core.signing import SigningKey
from gemel.core.study import Study, parse_study

STEWARD = "virtual steward"
MEMORY = Path("/dev/shm")  # noqa: S108  # a file system in memory: durable writes cost nothing there
LONGEST_ROUND_S = 604_800.0
# For the homes alone: keys, configuration, ledger, outbox of a small study.
BYTES_A_HOME = 1 << 18
_SITE = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}", re.ASCII | re.IGNORECASE)  # as a study names it


@dataclass(frozen=True)
class VirtualHospital:
    """A home with its steward's key; nobody else has either."""

    home: NodeHome
    steward: SigningKey = field(repr=False)

    def approve(self, study_sha256: str) -> None:
        """Approve a proposed study, as a real hospital's steward would after reading it."""
        approvals.decide(
            self.home,
            approvals.proposal_of(self.home, study_sha256),
            Decision.APPROVED,
            steward=STEWARD,
            key=self.steward,
            reason="approved by a simulation",
        )


@contextmanager
def throwaway_folder(hospitals: int) -> Iterator[Path]:
    """A folder that is gone afterwards: in memory where that has room, so that no disk is waited for."""
    roomy = MEMORY.is_dir() and os.access(MEMORY, os.W_OK)
    if roomy:
        stats = os.statvfs(MEMORY)
        roomy = stats.f_bavail * stats.f_frsize > 2 * hospitals * BYTES_A_HOME
    with TemporaryDirectory(prefix="gemel-simulation-", dir=MEMORY if roomy else None) as name:
        yield Path(name)


def site_names(hospitals: int) -> list[str]:
    """`virtual-0001` and so on: never the name of a real hospital."""
    width = max(4, len(str(hospitals)))
    return [f"virtual-{number:0{width}d}" for number in range(1, hospitals + 1)]


def divide(dataset: Dataset, parts: int, *, seed: int) -> list[Dataset]:
    """Patients in random order, cut into parts that differ by one at most.

    Raises GEM530 when there are fewer patients than parts.
    """
    if len(dataset) < parts:
        raise GemelError("GEM530", f"{len(dataset)} patients cannot be divided among {parts} hospitals.")
    order = np.random.default_rng(seed).permutation(len(dataset))
    return [dataset.take(np.sort(part)) for part in np.array_split(order, parts)]


def divide_by_list(dataset: Dataset, listed: Path, pseudonym_key: bytes) -> dict[str, Dataset]:
    """Each hospital's patients as a file says: one JSON object, hospital -> the patients' ids in the export.

    Raises GEM530 when the file is not that, names an id twice, or leaves a hospital without any patient of the cohort.
    """
    from gemel.data_adapters.dataset.cohort import pseudonym

    try:
        split = msgspec.json.decode(listed.read_bytes(), type=dict[str, list[str]])
    except (OSError, msgspec.DecodeError) as error:
        raise GemelError("GEM530", f"{listed} is no division of patients: {error}.") from error
    ids = [identity for named in split.values() for identity in named]
    if len(set(ids)) != len(ids):
        raise GemelError("GEM530", f"{listed} gives a patient to two hospitals.")
    unfit = [name for name in split if not _SITE.fullmatch(name)]
    if unfit:  # it becomes a folder's name
        raise GemelError(
            "GEM530", f"{unfit[0]!r} is no hospital's name: letters, digits, - and _, at most 64."
        )
    row_of = {name: row for row, name in enumerate(dataset.patient_ids)}
    parts: dict[str, Dataset] = {}
    for hospital, named in split.items():
        rows = sorted(row_of[p] for identity in named if (p := pseudonym(pseudonym_key, identity)) in row_of)
        if not rows:
            raise GemelError("GEM530", f"{hospital} gets no patient of the cohort.")
        parts[hospital] = dataset.take(np.array(rows, dtype=np.intp))
    return parts


def virtual_key(seed: int, name: str) -> bytes:
    """A pseudonym key that repeats with the seed, so that the held-out patients do. Fit for a simulation alone."""
    return bytes.fromhex(document_hash(["simulation", seed, name]))


def settle(
    folder: Path,
    parts: Mapping[str, Dataset],
    programme: Programme,
    *,
    coordinator_public_key: str,
    epsilon_cap: float,
    delta: float,
    floor: int,
    seed: int,
) -> dict[str, VirtualHospital]:
    """Make a home for each part, marked as virtual; the caps and the floor are those of the simulation."""
    hospitals = {}
    for site, dataset in parts.items():
        home_folder, steward = folder / site, SigningKey.generate()
        home_folder.mkdir(parents=True)
        (home_folder / patients.VIRTUAL).write_text("This home belongs to a simulation.\n")
        config = NodeConfig(
            schema=SCHEMA,
            site=site,
            export=str(home_folder / patients.VIRTUAL),
            coordinator_public_key=coordinator_public_key,
            stewards={STEWARD: steward.public_hex},
            programmes=(f"{programme.name}@{programme.version}",),
            epsilon_cap=epsilon_cap,
            delta=delta,
            minimum_patients=floor,
        )
        home = NodeHome.create(home_folder, config, pseudonym_key=virtual_key(seed, site))
        patients.lend(home, programme, dataset)
        hospitals[site] = VirtualHospital(home, steward)
    return hospitals


def read_study(path: Path) -> Study:
    """A study from a signed document or from its bare payload. Raises GEM101, GEM102, GEM103, GEM106."""
    from gemel.core.signing import read_signed

    try:
        content = path.read_bytes()
        document: Any = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise GemelError("GEM106", f"{path} cannot be read as a study: {type(error).__name__}.") from error
    if isinstance(document, dict) and "signatures" in document:
        document = read_signed(content, kind="study").payload
    return parse_study(document)


def with_virtual_sites(
    study: Study, sites: Mapping[str, str], *, minimum_patients: int | None = None
) -> Study:
    """The study with virtual hospitals in place of its own; quorum and the like keep their share of the sites.

    A round may take as long as it takes: one process asks all hospitals, one after another. Raises GEM101 when the study
    does not fit so many hospitals.
    """
    before, after = len(study.sites), len(sites)

    def scaled(number: int) -> int:
        return -(-number * after // before)

    changed = msgspec.structs.replace(
        study,
        sites=dict(sites),
        quorum=scaled(study.quorum),
        round_timeout_s=LONGEST_ROUND_S,
        minimum_patients=study.minimum_patients if minimum_patients is None else minimum_patients,
        aggregation=msgspec.structs.replace(study.aggregation, threshold=scaled(study.aggregation.threshold)),
        pace=msgspec.structs.replace(
            study.pace, enough=scaled(study.pace.enough), buffer=scaled(study.pace.buffer)
        ),
    )
    return parse_study(changed.to_payload())


def read_exports(
    exports: Sequence[Path], programme: Programme, hospitals: int, *, seed: int
) -> list[Dataset]:
    """Each export read once and divided, so that together there are `hospitals` parts.

    Raises GEM530 when there are more exports than hospitals, and what building a data set raises.
    """
    from gemel.data_adapters.dataset.build import build

    if hospitals < len(exports):
        raise GemelError("GEM530", f"{len(exports)} exports are more than {hospitals} hospitals.")
    parts: list[Dataset] = []
    for number, export in enumerate(exports):
        share = hospitals // len(exports) + (number < hospitals % len(exports))
        dataset, _ = build(export, programme, pseudonym_key=virtual_key(seed, f"export {number}"))
        parts += divide(dataset, share, seed=seed + number)
    return parts
