"""One door for all other inputs: what a file is says its content, and its reader adds facts to the cohort."""

from __future__ import annotations

import zlib
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gemel.core.errors import GemelError
from gemel.core.programme import Programme
from gemel.data_adapters.inputs.account import InputAccount
from gemel.data_adapters.inputs.apple_health import looks_like_apple_health, read_apple_health
from gemel.data_adapters.inputs.fact_writer import FactWriter
from gemel.data_adapters.inputs.genomics import GenomicConcepts
from gemel.data_adapters.inputs.imaging import read_dicom, read_nifti
from gemel.data_adapters.inputs.links import Links
from gemel.data_adapters.inputs.nifti import HEADER_BYTES, is_nifti
from gemel.data_adapters.inputs.open_mhealth import looks_like_open_mhealth, read_open_mhealth
from gemel.data_adapters.inputs.phenopacket import MAX_BYTES, read_phenopacket
from gemel.data_adapters.inputs.sampled_data import read_sampled_data
from gemel.data_adapters.inputs.vcf import read_vcf
from gemel.data_adapters.meaning.facts import Facts
from gemel.data_adapters.meaning.site_mapping import NO_MAPPING, SiteMapping
from gemel.data_adapters.reading.json_line import NOT_JSON
from gemel.data_adapters.sources.files import ExportFile, open_export


@dataclass(frozen=True)
class FurtherInputs:
    """What a hospital has of its patients beside their records.

    Attributes:
        paths: Files, or folders of files, of the kinds that `read_input` knows.
        tables: Link tables (`links.load_links`), which say whose each input is.
        subject_is_patient: Whether a subject that no table names is the id of a patient.
        images: Folder that keeps the volumes, with their index `images.parquet`; None keeps none.
    """

    paths: tuple[Path, ...] = ()
    tables: tuple[Path, ...] = ()
    subject_is_patient: bool = False
    images: Path | None = None


NO_FURTHER_INPUTS = FurtherInputs()
_HEAD_BYTES = 8192
_MAX_FILES = 10_000_000
_GZIP = b"\x1f\x8b"
_DICOM_AT = slice(128, 132)


def read_input(
    path: Path,
    programme: Programme,
    facts: Facts,
    *,
    links: Links,
    mapping: SiteMapping = NO_MAPPING,
    withheld: Container[str] = frozenset(),
    images: Path | None = None,
) -> InputAccount:
    """Add the facts of one further input: a file, or a folder of files of any known kinds.

    Known are DICOM, NIfTI, Apple Health, Open mHealth, VCF, Phenopackets, and FHIR NDJSON with SampledData (of which
    only that is read: everything else of an export is the FHIR reader's).

    Args:
        path: File or folder.
        programme: Whose concepts are looked for.
        facts: Must hold `person` already: only its patients count.
        links: Whose each input is.
        mapping: The site's units.
        withheld: Patients whose data must not be used.
        images: Folder for volumes; None keeps none.

    Raises:
        GemelError: GEM254 when there is nothing at the path or no file of a known kind, GEM256 without a package,
            GEM208 for FHIR that cannot be read.
    """
    if not path.exists():
        raise GemelError("GEM254", f"There is no input at {path}.")
    writer = FactWriter(programme, facts, mapping=mapping, withheld=withheld)
    concepts = GenomicConcepts(programme)
    dicom: list[tuple[str, Path]] = []
    fhir: list[ExportFile] = []
    for name, file, reason in _files(path):
        kind, head = ("", b"") if reason else classify(file)
        if reason or not kind:
            writer.account.unread.append(f"{name}: {reason or 'of no known kind'}")
        elif kind == "dicom":
            dicom.append((name, file))
        elif kind == "nifti":
            read_nifti(file, name, head, links, writer, images=images)
        elif kind == "vcf":
            read_vcf(file, name, links, writer, concepts)
        elif kind == "phenopacket":
            read_phenopacket(file, name, links, writer, concepts)
        elif kind == "apple health":
            read_apple_health(file, name, links.find_subject(*_subject_names(name, path)), writer)
        elif kind == "open mhealth":
            read_open_mhealth(file, name, links, writer)
        elif kind == "fhir":
            fhir += open_export(file)
    if fhir:
        read_sampled_data(fhir, writer)
    if dicom:
        read_dicom(dicom, links, writer, images=images)
    if not writer.account.files:
        raise GemelError("GEM254", f"{path.name} holds no file of a known kind.")
    return writer.account


def _subject_names(name: str, path: Path) -> tuple[str, ...]:
    """What a link table may call a file of one person: its folder, else its stem; or its whole name.

    >>> _subject_names("p1/apple_health_export/export.xml", Path("watches"))
    ('p1', 'export', 'p1/apple_health_export/export.xml')
    """
    folders = Path(name).parts[:-1] if path.is_dir() or name != path.name else path.absolute().parts[:-1]
    owners = [part for part in reversed(folders) if part != "apple_health_export"][:1]
    stem = Path(name).name.removesuffix(".zip").removesuffix(".xml")
    return (*owners, stem, name) if stem == "export" else (stem, *owners, name)


def _files(path: Path) -> Iterator[tuple[str, Path, str | None]]:
    """Each file with its name within the input, and why it must not be read. Hidden ones are passed over."""
    if path.is_file():
        yield path.name, path, None
        return
    root = path.resolve()
    for number, file in enumerate(sorted(path.rglob("*"))):
        if number > _MAX_FILES:
            raise GemelError("GEM254", f"{path.name} has more than {_MAX_FILES} entries.")
        name = file.relative_to(path).as_posix()
        if any(part.startswith(".") for part in name.split("/")) or file.is_dir():
            continue
        try:
            inside = file.resolve().is_relative_to(root)
        except (OSError, RuntimeError):  # a link that leads to itself
            inside = False
        reason = None if inside and file.is_file() else "a link out of the folder, or no file"
        yield name, file, reason


def classify(path: Path) -> tuple[str, bytes]:
    """What a file is, by its content, and its first bytes as they are after gzip; ("", ...) for none of the kinds."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(_HEAD_BYTES)
        head = zlib.decompressobj(wbits=31).decompress(raw, _HEAD_BYTES) if raw.startswith(_GZIP) else raw
    except (OSError, zlib.error):
        return "", b""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if head[_DICOM_AT] == b"DICM":
        return "dicom", head
    if is_nifti(head):
        return "nifti", head[:HEADER_BYTES]
    if head.startswith((b"##fileformat=VCF", b"BCF\x02")):
        return "vcf", head
    if looks_like_apple_health(path, head):
        return "apple health", head
    if text.startswith((b"{", b"[")):
        return _classify_json(path, text), head
    return "", head


def _classify_json(path: Path, head: bytes) -> str:
    if looks_like_open_mhealth(head):
        return "open mhealth"
    if b'"resourceType"' in head:
        return "fhir"
    if path.stat().st_size > MAX_BYTES:
        return ""
    try:
        keys = msgspec.json.decode(path.read_bytes(), type=dict[str, msgspec.Raw]).keys()
    except NOT_JSON:
        return ""
    # metaData is required of a Phenopacket; metadata of protobuf's other spelling.
    return "phenopacket" if keys & {"metaData", "meta_data"} and "resourceType" not in keys else ""
