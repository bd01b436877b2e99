"""An exported cohort is checked offline: every byte of every file, who signed, and that all files say the same of its release."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from pyarrow import ArrowException, parquet

from gemel.core.canonical import document_hash
from gemel.core.errors import GemelError
from gemel.core.signing import read_signed, signed_by
from gemel.synthetic.export.attestation import (
    DECISION_SYSTEM,
    KIND,
    MANIFEST,
    PROVENANCE_FILE,
    SIGNED_MANIFEST,
    document_text,
    file_sha256,
    verify_resource,
)
from gemel.synthetic.export.croissant import CROISSANT
from gemel.synthetic.export.publisher import HEALTH_DCAT

CDM_SOURCE, TABLE = "omop/cdm_source.parquet", "cohort.parquet"


@dataclass(frozen=True)
class Attested:
    """What was found right in an exported cohort.

    Attributes:
        decision: On whose word it left, as `report.Decision` in JSON. conditions: By column, the levels that all were drawn under.
        public_key: Whose signature it carries (hex); None for a cohort that nobody signed, which anybody could have made.
    """

    release: str
    virtual_patients: int
    files: int
    report_sha256: str
    decision: dict[str, Any]
    conditions: dict[str, list[str]]
    public_key: str | None


def verify(
    folder: Path, *, public_key: str | None = None, report: Mapping[str, Any] | None = None
) -> Attested:
    """Check an exported cohort offline: every file and no other, the signatures, and the decision that they name.

    Args:
        folder: What `write` made.
        public_key: The generator's key (hex), which must then be among the signers.
        report: The report that it was released by, to be compared.

    Raises:
        GemelError: GEM101, GEM102 or GEM103 of the signed manifest; GEM102 of another signer, or of none where a key is given;
            GEM741 when a file is not there, is another, or is not named; GEM742 for another report.
    """
    manifest, signer = _manifest(folder, public_key)
    try:
        attested = Attested(
            manifest["release"],
            manifest["virtual_patients"],
            len(manifest["files"]),
            manifest["decision"]["report_sha256"],
            manifest["decision"],
            manifest["conditions"],
            signer,
        )
        _check_files(folder, dict(manifest["files"]))
    except (KeyError, TypeError, ValueError) as error:
        raise GemelError("GEM741", f"{MANIFEST} is no manifest of a cohort: {error!r}.") from error
    _check_says_the_same(folder, manifest["files"], document_hash(attested.decision))
    signed_too = PROVENANCE_FILE in manifest["files"] and signer is not None
    if signed_too and verify_resource(_provenance(folder)) != signer:
        raise GemelError("GEM102", "The Provenance is signed by another key than the manifest.")
    if report is not None and document_hash(dict(report)) != attested.report_sha256:
        raise GemelError("GEM742", "The cohort was released by another report.")
    return attested


def _manifest(folder: Path, public_key: str | None) -> tuple[dict[str, Any], str | None]:
    """The manifest, byte for byte as it is written, and the public key that signed it."""
    told = _bytes(folder / MANIFEST)
    signed_manifest = folder / SIGNED_MANIFEST
    if not signed_manifest.exists():
        if public_key is not None:
            raise GemelError("GEM102", "The cohort carries no signature.")
        try:
            manifest, signer = json.loads(told), None
        except ValueError as error:
            raise GemelError("GEM741", f"{MANIFEST} cannot be read: {error}.") from error
    else:
        content = _bytes(signed_manifest)
        document = read_signed(content, kind=KIND)
        if document.to_bytes() != content:
            raise GemelError("GEM741", f"{SIGNED_MANIFEST} is not spelt as it was signed.")
        if public_key is not None and not signed_by(document, public_key):
            raise GemelError("GEM102", "The manifest is signed by another key.")
        manifest, signer = document.payload, public_key or document.signatures[0].public_key
    if not isinstance(manifest, dict) or document_text(manifest).encode() != told:
        raise GemelError("GEM741", f"{MANIFEST} is not the manifest that was written.")
    return manifest, signer


def _check_files(folder: Path, files: Mapping[str, str]) -> None:
    root = folder.resolve()
    for name, digest in files.items():
        path = folder / name
        if not path.is_file() or path.is_symlink() or not path.resolve().is_relative_to(root):
            raise GemelError("GEM741", f"{name} is named by the manifest and is not there.")
        if file_sha256(path) != digest:
            raise GemelError("GEM741", f"{name} is not the file that the manifest names.")
    known = {*files, MANIFEST, SIGNED_MANIFEST}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name not in known and not (path.is_dir() and not path.is_symlink()):
            raise GemelError("GEM741", f"{name} is there, and the manifest does not name it.")


def _check_says_the_same(folder: Path, files: Mapping[str, str], decision: str) -> None:
    """Every file that names the decision names the manifest's."""
    readers: dict[str, Callable[[], str]] = {
        PROVENANCE_FILE: lambda: _decision_of(_provenance(folder)),
        CROISSANT: lambda: str(orjson.loads(_bytes(folder / CROISSANT))["dp:release"]["dp:decisionSha256"]),
        HEALTH_DCAT: lambda: _bytes(folder / HEALTH_DCAT).decode(),
        CDM_SOURCE: lambda: str(parquet.read_table(folder / CDM_SOURCE)["source_description"][0]),
        TABLE: lambda: str(parquet.read_schema(folder / TABLE).metadata[b"gemel.decision"]),
    }
    for name, read in readers.items():
        if name not in files:
            continue
        try:
            said = read()
        except (KeyError, IndexError, TypeError, ValueError, ArrowException) as error:
            raise GemelError("GEM741", f"{name} does not say on whose word it was released.") from error
        if decision not in said:
            raise GemelError("GEM741", f"{name} was released by another decision than the manifest says.")


def _decision_of(provenance: Mapping[str, Any]) -> str:
    identifiers = [entity["what"]["identifier"] for entity in provenance["entity"]]
    (found,) = (str(known["value"]) for known in identifiers if known["system"] == DECISION_SYSTEM)
    return found


def _provenance(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = orjson.loads(_bytes(folder / PROVENANCE_FILE))
    except ValueError as error:
        raise GemelError("GEM741", f"{PROVENANCE_FILE} cannot be read: {error}.") from error
    return found


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise GemelError("GEM741", f"{path.name} cannot be read: {error.strerror}.") from error
