"""The International Stroke Trial as nodes: its countries, the small ones put together, never a hospital in two nodes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from gemel.cli.demo.open_datasets import people_of_datasets
from gemel.core.dataset import Dataset
from gemel.twins.definition import OpenPerson
from gemel.twins.programmes.stroke import PROGRAMME
from gemel.twins.programmes.stroke.open_data import person, read_rows

# A node has at least so many patients, fewer where there would not be enough nodes.
LEAST_PATIENTS, LEAST_NODES = 200, 20

People = dict[str, list[OpenPerson]]


def people_by_country(path: Path) -> People:
    """Everybody of a file in the trial's published form, by country."""
    found: People = defaultdict(list)
    for number, row in enumerate(read_rows(path)):
        found[row["COUNTRY"]].append(person(row, str(number)))
    return dict(sorted(found.items()))


def parts(people: Mapping[str, Sequence[OpenPerson]], *, least_nodes: int = LEAST_NODES) -> People:
    """The countries; while merging the small ones would leave too few nodes, the largest is halved by its hospitals."""
    pieces = {country: list(members) for country, members in people.items()}
    while len(nodes({name: len(members) for name, members in pieces.items()})) < least_nodes:
        largest = max(pieces, key=lambda name: (hospitals(pieces[name]) > 1, len(pieces[name]), name))
        if hospitals(pieces[largest]) < 2:
            break  # too few hospitals for so many nodes
        members = pieces.pop(largest)
        pieces[f"{largest}_1"], pieces[f"{largest}_2"] = _halves(members)
    return pieces


def nodes(sizes: Mapping[str, int]) -> dict[str, tuple[str, ...]]:
    """Name -> the pieces of each node: large pieces alone, small ones together, the largest to the node with the fewest."""
    least = min(LEAST_PATIENTS, 2 * sum(sizes.values()) // (3 * LEAST_NODES))
    alone = {name: (name,) for name, size in sizes.items() if size >= least}
    small = sorted((name for name in sizes if name not in alone), key=lambda name: (-sizes[name], name))
    count = max(1, sum(sizes[name] for name in small) // max(least, 1)) if small else 0
    groups: list[list[str]] = [[] for _ in range(count)]
    for name in small:
        min(groups, key=lambda group: sum(sizes[member] for member in group)).append(name)
    return {**alone, **{f"region-{i}": tuple(group) for i, group in enumerate(groups, start=1)}}


def read(people: Mapping[str, Sequence[OpenPerson]]) -> tuple[dict[str, Dataset], dict[str, int]]:
    """Each piece by way of FHIR; and the number of the row of the file that each pseudonym stands for."""
    found, numbers = {}, {}
    for name, (dataset, members) in people_of_datasets(PROGRAMME, people):
        found[name] = dataset
        numbers.update(
            {alias: int(m.identity) for alias, m in zip(dataset.patient_ids, members, strict=True)}
        )
    return found, numbers


def joined(datasets: Iterable[Dataset]) -> Dataset:
    """The patients of several data sets in one, sorted by pseudonym."""
    given = list(datasets)
    ids = [name for dataset in given for name in dataset.patient_ids]
    first = given[0]
    together = Dataset(
        first.programme,
        first.programme_version,
        first.features,
        first.outcomes,
        tuple(ids),
        np.concatenate([dataset.values for dataset in given]),
        np.concatenate([dataset.time_years for dataset in given]),
        np.concatenate([dataset.event for dataset in given]),
        first.target_names,
        np.concatenate([dataset.targets for dataset in given]),
    )
    return together.take(np.argsort(np.array(ids)))


def hospitals(people: Iterable[OpenPerson]) -> int:
    """How many hospitals these people are from."""
    return len({member.hospital for member in people})


def country_of(piece: str) -> str:
    """The country of a piece.

    >>> country_of("UK_1_2")
    'UK'
    """
    return piece.split("_", maxsplit=1)[0]


def _halves(people: Sequence[OpenPerson]) -> tuple[list[OpenPerson], list[OpenPerson]]:
    by_hospital: People = defaultdict(list)
    for member in people:
        by_hospital[member.hospital].append(member)
    halves: tuple[list[OpenPerson], list[OpenPerson]] = ([], [])
    for _, members in sorted(by_hospital.items(), key=lambda item: (-len(item[1]), item[0])):
        min(halves, key=len).extend(members)
    return halves
