"""A virtual cohort as files: every format from the same records, and a manifest that names them all."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from enum import StrEnum
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import orjson
from pyarrow import csv, parquet

from gemel.core.errors import GemelError
from gemel.core.signing import SigningKey
from gemel.synthetic.export.attestation import (
    MANIFEST,
    PROVENANCE_FILE,
    SIGNED_MANIFEST,
    document_text,
    file_sha256,
    provenance_resource,
    sign_manifest,
)
from gemel.synthetic.export.croissant import CROISSANT, croissant
from gemel.synthetic.export.fhir import FHIR_VERSION, resources_of
from gemel.synthetic.export.ids import patient_ids
from gemel.synthetic.export.omop import omop_tables
from gemel.synthetic.export.publisher import HEALTH_DCAT, Publisher
from gemel.synthetic.export.reading import changed, table_of
from gemel.synthetic.export.records import Records, Visits, records_of
from gemel.synthetic.export.release_check import ReleaseChecker
from gemel.synthetic.export.releasing import check_decision, decision_document
from gemel.synthetic.export.table import table
from gemel.synthetic.provenance import read_provenance

if TYPE_CHECKING:
    from gemel.synthetic.cohort import VirtualCohort
    from gemel.synthetic.report.gate import Decision

# Patients of one file of resources. Fewer at a time stay in the processor's caches.
PATIENTS_PER_FILE = 5_000
_AT_ONCE = 1_000
# Processes that start with this module there.
_PROCESSES = get_context("forkserver")
_PROCESSES.set_forkserver_preload(["__main__", __name__])


class Format(StrEnum):
    """What a cohort can be written as."""

    FHIR = "fhir"  # fhir/TYPE.ndjson, as a Bulk Data export
    BUNDLES = "bundles"  # bundles/Bundle.ndjson: a transaction for each patient
    OMOP = "omop"  # omop/TABLE.parquet, CDM 5.4
    PARQUET = "parquet"  # cohort.parquet
    CSV = "csv"  # cohort.csv
    CROISSANT = "croissant"  # croissant.json
    HEALTH_DCAT = "health_dcat"  # health_dcat.ttl


USUAL_FORMATS = tuple(format for format in Format if format is not Format.BUNDLES)


def write(
    cohort: VirtualCohort,
    folder: Path,
    *,
    provenance: Mapping[str, Any],
    decision: Decision,
    formats: Iterable[Format] = USUAL_FORMATS,
    key: SigningKey | None = None,
    visits: Visits | None = None,
    publisher: Publisher | None = None,
    workers: int = 1,
) -> list[Path]:
    """Write the cohort under `folder`; returns the files, the manifest last.

    All formats say the same: what a record says counts. Where a drawn row has values that no one record can have, the
    manifest counts under `adjusted` how many rows of a column say something else than was drawn. Equal arguments give
    equal bytes, whatever the number of workers.

    Args:
        cohort: What was sampled.
        folder: Made if it is not there; files of these names are replaced, once all are complete.
        provenance: The document that the cohort was sampled under.
        decision: On whose word it leaves: of `report.decide`, about the model that the cohort is drawn from. The report's hash,
            the verdict, and who overrides it why and when stand in the manifest, the Provenance, CDM_SOURCE and the descriptions.
        formats: What to write; `cohort.json` is always written.
        key: The generator's, which signs the Provenance and `cohort.signed.json`; without one nothing is signed.
        visits: Further visits with measured values, from a simulated trajectory.
        publisher: Who publishes it, for the catalogue's record.
        workers: Processes that write FHIR.

    Raises:
        GemelError: GEM742 for a decision about another model, GEM702 for another provenance, GEM703 when a resource fails its
            checks, GEM740 for visits that do not fit; then nothing is written.
    """
    check_decision(cohort, decision)
    if read_provenance(provenance) != cohort.provenance:
        raise GemelError("GEM702", "The provenance is not the one that this cohort was sampled under.")
    wanted = frozenset(formats)
    records = records_of(cohort, visits)
    said, adjusted = _as_said(cohort, records)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as made:
        unfinished = Path(made)
        hashes = _Hashes(unfinished)
        _write_formats(said, records, hashes, wanted, decision=decision, workers=workers)
        _attest(said, hashes, wanted, decision=decision, key=key, publisher=publisher, adjusted=adjusted)
        names = sorted(path.relative_to(unfinished) for path in unfinished.rglob("*") if path.is_file())
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (unfinished / name).replace(folder / name)
    return [folder / name for name in sorted(names, key=lambda name: name.name == MANIFEST)]


def _as_said(cohort: VirtualCohort, records: Records) -> tuple[VirtualCohort, dict[str, int]]:
    """The cohort as its records say it, and how many rows of a column that changed."""
    found = table_of(records)
    # A target that nobody modelled stays unknown: that no record says so is no answer.
    targets = np.where(np.isnan(cohort.targets).all(axis=0), np.float32(np.nan), found.targets)
    found = replace(found, targets=targets.astype(np.float32))
    adjusted = changed(cohort, found)
    return replace(
        cohort,
        values=found.values,
        time_years=found.time_years,
        event=found.event,
        targets=found.targets,
    ), adjusted


class _Hashes:
    """The SHA-256 of every file in a folder, each taken once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known: dict[str, str] = {}

    def all(self) -> dict[str, str]:
        """By name, of all files that are there now."""
        for name, path in _files(self.folder).items():
            if name not in self.known:
                self.known[name] = file_sha256(path)
        return dict(sorted(self.known.items()))


def _write_formats(
    cohort: VirtualCohort,
    records: Records,
    hashes: _Hashes,
    formats: frozenset[Format],
    *,
    decision: Decision,
    workers: int,
) -> None:
    folder = hashes.folder
    for format in (Format.FHIR, Format.BUNDLES):
        if format in formats:
            (folder / format).mkdir()
            bundled = format is Format.BUNDLES
            for name, digest in _write_resources(
                records, folder / format, bundled=bundled, workers=workers
            ).items():
                hashes.known[f"{format}/{name}"] = digest
    if Format.OMOP in formats:
        (folder / Format.OMOP).mkdir()
        tables = omop_tables(
            records,
            created=cohort.provenance.created,
            study_sha256=cohort.provenance.study_sha256,
            decision=decision,
        )
        for name, rows in tables.items():
            parquet.write_table(rows, folder / Format.OMOP / f"{name}.parquet")
    if formats & {Format.PARQUET, Format.CSV}:
        rows = table(cohort, decision=decision)
        if Format.PARQUET in formats:
            parquet.write_table(rows, folder / "cohort.parquet")
        if Format.CSV in formats:
            csv.write_csv(rows, folder / "cohort.csv")


def _write_resources(records: Records, folder: Path, *, bundled: bool, workers: int) -> dict[str, str]:
    """Files of at most `PATIENTS_PER_FILE` patients each, numbered when there are several; their SHA-256 by name."""
    starts = range(0, len(records), PATIENTS_PER_FILE)
    several = len(starts) > 1
    parts = [
        (
            records.part(start, start + PATIENTS_PER_FILE),
            folder,
            f".{number:05d}" if several else "",
            bundled,
        )
        for number, start in enumerate(starts)
    ]
    if workers == 1 or not several:
        written = [_write_part(*part) for part in parts]
    else:
        with ProcessPoolExecutor(workers - 1, mp_context=_PROCESSES) as pool:
            tasks = [pool.submit(_write_part, *part) for part in parts]
            # This process writes too: from the end, what no other has taken.
            last = [_write_part(*parts[at]) for at in reversed(range(len(parts))) if tasks[at].cancel()]
            written = [task.result() for task in tasks if not task.cancelled()] + last
    return {name: digest for some in written for name, digest in some.items()}


def _write_part(records: Records, folder: Path, suffix: str, bundled: bool) -> dict[str, str]:
    """Write and check the resources of some patients; the SHA-256 of the files by name."""
    checker = ReleaseChecker(records.programme.concepts)
    digests, room = dict[str, Any](), np.empty(0, np.uint8)
    last = records.first + len(records)
    with ExitStack() as opened:
        files: dict[str, BinaryIO] = {}
        for first in range(records.first, last, _AT_ONCE):
            part = records.part(first, min(first + _AT_ONCE, last))
            resources = resources_of(part, bundled=bundled, room=room)
            checker.check(resources)
            room = max(room, resources.content, key=len)
            for kind, place in resources.files.items():
                name, content = f"{kind}{suffix}.ndjson", resources.content[place].data
                if name not in files:
                    files[name] = opened.enter_context((folder / name).open("xb"))
                files[name].write(content)
                digests.setdefault(name, hashlib.sha256()).update(content)
    return {name: digest.hexdigest() for name, digest in digests.items()}


def _attest(
    cohort: VirtualCohort,
    hashes: _Hashes,
    formats: frozenset[Format],
    *,
    decision: Decision,
    key: SigningKey | None,
    publisher: Publisher | None,
    adjusted: Mapping[str, int],
) -> None:
    """Write what names the files: descriptions, the Provenance, and the manifest of all."""
    folder = hashes.folder
    if formats & {Format.FHIR, Format.BUNDLES}:
        resource = provenance_resource(
            cohort,
            patient_ids(cohort.release, len(cohort)),
            files=hashes.all(),
            decision=decision,
            key=key,
        )
        (folder / PROVENANCE_FILE).parent.mkdir(exist_ok=True)
        (folder / PROVENANCE_FILE).write_bytes(orjson.dumps(resource) + b"\n")
    if Format.CROISSANT in formats:
        described = croissant(cohort, hashes.all(), decision=decision)
        (folder / CROISSANT).write_text(document_text(described), encoding="utf-8")
    if Format.HEALTH_DCAT in formats:
        # rdflib is slow to import, and nothing else needs it.
        from gemel.synthetic.export.health_dcat import health_dcat

        (folder / HEALTH_DCAT).write_text(
            health_dcat(cohort, _sizes(folder), decision=decision, publisher=publisher),
            encoding="utf-8",
        )
    manifest = _manifest(cohort, hashes.all(), decision=decision, adjusted=adjusted)
    (folder / MANIFEST).write_text(document_text(manifest), encoding="utf-8")
    if key is not None:
        (folder / SIGNED_MANIFEST).write_bytes(sign_manifest(manifest, key).to_bytes())


def _files(folder: Path) -> dict[str, Path]:
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path for path in found}


def _sizes(folder: Path) -> dict[str, int]:
    return {name: path.stat().st_size for name, path in _files(folder).items()}


def _manifest(
    cohort: VirtualCohort, files: Mapping[str, str], *, decision: Decision, adjusted: Mapping[str, int]
) -> dict[str, Any]:
    programme = cohort.programme
    return {
        "synthetic": True,
        "security": "HTEST",
        "release": cohort.release,
        "seed": cohort.seed,
        "virtual_patients": len(cohort),
        "fhir_version": FHIR_VERSION,
        "units": {
            **{feature.name: feature.unit for feature in programme.columns},
            **{target.name: target.unit for target in programme.targets},
        },
        "event_codes": {"1": "occurred", "0": "censored", "-1": "prevalent at the index date"},
        "adjusted": dict(adjusted),
        "not_modelled": [
            name for j, name in enumerate(programme.target_names) if np.isnan(cohort.targets[:, j]).all()
        ],
        "not_for": "training of twins, decisions about a person, or estimates of rare subgroups",
        "provenance": cohort.provenance.as_dict(),
        "conditions": {name: list(levels) for name, levels in cohort.given.items()},
        "decision": decision_document(decision),
        "files": dict(files),
    }
