"""From open-data people to data sets, by the way that a hospital's records take: written as FHIR, read by the adapters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from gemel.cli.demo.dialects import DIALECTS
from gemel.cli.demo.fhir_writer import Vocabulary
from gemel.cli.demo.hospitals import write_hospital
from gemel.core.canonical import document_hash
from gemel.core.dataset import Dataset
from gemel.core.programme import Programme
from gemel.data_adapters.dataset.build import build
from gemel.twins.definition import OpenPerson


def datasets_of(
    programme: Programme, people_by_node: Mapping[str, Sequence[OpenPerson]], *, seed: int = 0
) -> dict[str, Dataset]:
    """Each node's data set; dialects take turns, so that codes and units differ as they do between hospitals.

    Nothing stays on disk. `seed` fixes the pseudonyms, and so who is held out. A node of whose people nobody is in the cohort
    is left out.
    """
    return {node: dataset for node, (dataset, _) in people_of_datasets(programme, people_by_node, seed=seed)}


def people_of_datasets(
    programme: Programme, people_by_node: Mapping[str, Sequence[OpenPerson]], *, seed: int = 0
) -> Iterator[tuple[str, tuple[Dataset, list[OpenPerson]]]]:
    """By node, its data set and the person behind each of its rows."""
    from gemel.core.errors import GemelError
    from gemel.data_adapters.dataset.cohort import pseudonym

    vocabulary = Vocabulary(programme)
    for number, (node, people) in enumerate(people_by_node.items()):
        key = bytes.fromhex(document_hash([seed, node]))
        with TemporaryDirectory(prefix="gemel-open-") as folder:
            export = write_hospital(Path(folder), DIALECTS[number % len(DIALECTS)], people, vocabulary)
            try:
                dataset, _ = build(export.folder, programme, pseudonym_key=key)
            except GemelError as error:
                if error.code != "GEM212":  # nobody is in the cohort
                    raise
                continue
        by_pseudonym = {
            pseudonym(key, patient): person
            for patient, person in zip(export.patient_ids, people, strict=True)
        }
        yield node, (dataset, [by_pseudonym[name] for name in dataset.patient_ids])
