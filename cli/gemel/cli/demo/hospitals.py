"""Hospitals of open-data people: who goes where, and each hospital's FHIR R4 NDJSON export in its own dialect."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import orjson

from gemel.cli.demo.dialects import DIALECTS, Dialect
from gemel.cli.demo.fhir_writer import Vocabulary, resources
from gemel.core.programme import Programme
from gemel.twins.definition import OpenPerson

MOST_HOSPITALS = 20
SHARES = {
    1: (1.0,),
    2: (0.7, 0.3),
    3: (0.6, 0.3, 0.1),
    4: (0.5, 0.27, 0.15, 0.08),
    5: (0.45, 0.25, 0.15, 0.09, 0.06),
}


@dataclass(frozen=True)
class HospitalExport:
    """One hospital's export folder, and the ids of its people there, in the order in which they were given.

    `sources` is the number of the source's own hospitals that were put together in it; 0 when the source names none.
    """

    name: str
    title: str
    folder: Path
    patient_ids: tuple[str, ...]
    sources: int = 0

    @property
    def patients(self) -> int:
        """How many people it holds."""
        return len(self.patient_ids)


def write_hospitals(
    folder: Path,
    programme: Programme,
    people: Sequence[OpenPerson],
    *,
    hospitals: int = 3,
    seed: int = 0,
) -> tuple[HospitalExport, ...]:
    """Deal people out to 1 to 20 unequal hospitals and write `folder/NAME/TYPE.ndjson[.gz]` for each.

    Three hospitals get 60, 30 and 10 % of the people, or as near as whole hospitals of the source allow: people of one are
    never parted. Equal arguments give equal bytes. Raises ValueError for another number of hospitals.
    """
    if not 1 <= hospitals <= MOST_HOSPITALS:
        raise ValueError(f"hospitals must be 1 to {MOST_HOSPITALS}, got {hospitals}")
    vocabulary = Vocabulary(programme)
    return tuple(
        write_hospital(folder / dialect.name, dialect, part, vocabulary)
        for dialect, part in zip(
            _dialects(hospitals), deal(people, shares(hospitals), seed=seed), strict=True
        )
    )


def shares(hospitals: int) -> tuple[float, ...]:
    """What part of the people each hospital gets, from the largest to the smallest."""
    if hospitals in SHARES:
        return SHARES[hospitals]
    weights = 1.0 / np.sqrt(np.arange(1, hospitals + 1))
    return tuple((weights / weights.sum()).tolist())


def deal(people: Sequence[OpenPerson], shares: Sequence[float], *, seed: int) -> list[list[OpenPerson]]:
    """The people of each part, in the order given: cut by the shares, or by whole hospitals of the source.

    Hospitals of the source come in random order, each to the part that lacks most. Raises ValueError when they are fewer
    than the parts.
    """
    names = sorted({person.hospital for person in people})
    if names == [""]:
        edges = [round(edge * len(people)) for edge in np.cumsum([0.0, *shares])]
        return [list(people[start:stop]) for start, stop in pairwise(edges)]
    if len(names) < len(shares):
        raise ValueError(f"{len(names)} hospitals of the source cannot make {len(shares)}")
    size = dict.fromkeys(names, 0)
    for person in people:
        size[person.hospital] += 1
    lacking = np.array(shares) * len(people)
    part_of: dict[str, int] = {}
    for position in np.random.default_rng([seed, 2]).permutation(len(names)):
        name = names[position]
        # As many as parts are left without any must still come.
        empty = [part for part in range(len(shares)) if part not in part_of.values()]
        left = len(names) - len(part_of)
        part = empty[0] if len(empty) >= left else int(np.argmax(lacking))
        part_of[name] = part
        lacking[part] -= size[name]
    dealt: list[list[OpenPerson]] = [[] for _ in shares]
    for person in people:
        dealt[part_of[person.hospital]].append(person)
    return dealt


def _dialects(hospitals: int) -> Iterator[Dialect]:
    """One dialect for each hospital; from the sixth on they repeat under another name."""
    for number in range(hospitals):
        dialect, again = DIALECTS[number % len(DIALECTS)], number // len(DIALECTS) + 1
        if again == 1:
            yield dialect
        else:
            yield replace(dialect, name=f"{dialect.name}-{again}", title=f"{dialect.title} {again}")


def write_hospital(
    folder: Path, dialect: Dialect, people: Sequence[OpenPerson], vocabulary: Vocabulary
) -> HospitalExport:
    """Write one hospital's people in its dialect."""
    folder.mkdir(parents=True, exist_ok=True)
    # A file of an earlier run under another name would be read as part of this export.
    for stale in (*folder.glob("*.ndjson"), *folder.glob("*.ndjson.gz")):
        stale.unlink()
    lines: dict[str, list[bytes]] = {}
    letter = "".join(part[0] for part in dialect.name.split("-"))
    patients = tuple(f"{letter}-{number:06d}" for number in range(1, len(people) + 1))
    for patient, person in zip(patients, people, strict=True):
        for resource in resources(person, patient, dialect, vocabulary):
            line = orjson.dumps(resource, option=orjson.OPT_APPEND_NEWLINE)
            lines.setdefault(resource["resourceType"], []).append(line)
    for kind, written in lines.items():
        for part in range(dialect.files_per_type):
            content = b"".join(written[part :: dialect.files_per_type])
            name = kind if dialect.files_per_type == 1 else f"{kind}.{part:03d}"
            if dialect.gzipped:
                (folder / f"{name}.ndjson.gz").write_bytes(gzip.compress(content, 5, mtime=0))
            else:
                (folder / f"{name}.ndjson").write_bytes(content)
    sources = {person.hospital for person in people} - {""}
    group = f"{dialect.name.capitalize()} group of {len(sources)} hospital{'s' * (len(sources) != 1)}"
    title = group if sources else dialect.title
    return HospitalExport(dialect.name, title, folder, patients, len(sources))
