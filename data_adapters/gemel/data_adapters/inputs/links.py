"""Whose an input is: link tables of the hospital, and the ImagingStudies of its export. Nothing is guessed."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TypeVar

import msgspec

from gemel.core.errors import GemelError
from gemel.data_adapters.reading.json_line import NOT_JSON
from gemel.data_adapters.sources.files import open_export, read_blocks

_PATIENT = re.compile(r"(?:^|/)Patient/([A-Za-z0-9.-]{1,64})(?:/_history/.*)?$")
_KEYS = ("subject", "sample", "file", "series_uid")
_COLUMNS = {*_KEYS, "patient", "day", "kind"}
_CONCEPT_COLUMNS = ({"label", "concept"}, {"modality", "concept"})
_UNUSED_STUDIES = ("entered-in-error", "cancelled")
_MAX_TABLE_BYTES = 1 << 26
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Link:
    """What a link table says of one subject, sample, file or series."""

    patient: str
    day: date | None = None
    series_uid: str | None = None
    kind: str | None = None


@dataclass(frozen=True)
class SeriesLink:
    """What the export's ImagingStudies say of one series or study."""

    patient: str
    day: date | None
    instances: int | None = None  # how many the study says that it has


@dataclass(frozen=True)
class Links:
    """Whose each input is.

    Attributes:
        subjects, samples, files, series: From a subject, a VCF sample, a file's name or a SeriesInstanceUID to its link.
        imaging_series: From SeriesInstanceUID to what the export's ImagingStudies say; None where they disagree.
        imaging_studies: The same from the StudyInstanceUID of studies that list no series.
        labels: Concepts of the labels of segmentations, by label.
        modalities: Concepts of whole volumes, by DICOM modality.
        subject_is_patient: Whether a subject, sample or file without a link is itself called as its patient is.
        places: The rows of the tables ("table:line") that say something of a column's key, by (column, key).
        asked: The (column, key) that an input was found by; it grows while inputs are read.
    """

    subjects: Mapping[str, Link] = field(default_factory=dict)
    samples: Mapping[str, Link] = field(default_factory=dict)
    files: Mapping[str, Link] = field(default_factory=dict)
    series: Mapping[str, Link] = field(default_factory=dict)
    imaging_series: Mapping[str, SeriesLink | None] = field(default_factory=dict)
    imaging_studies: Mapping[str, SeriesLink | None] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    modalities: Mapping[str, str] = field(default_factory=dict)
    subject_is_patient: bool = False
    places: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    asked: set[tuple[str, str]] = field(default_factory=set)

    def unused(self) -> tuple[str, ...]:
        """The rows of the tables by which no input was found, as "table:line": typing errors, perhaps."""
        used = {place for key in self.asked for place in self.places.get(key, ())}
        rows = dict.fromkeys(place for places in self.places.values() for place in places)
        return tuple(place for place in rows if place not in used)

    def find_subject(self, *names: str) -> Link | None:
        """The link of the first name that has one (a subject's, or its file's or folder's)."""
        return self._find({"subject": self.subjects, "file": self.files}, names)

    def find_sample(self, name: str) -> Link | None:
        """The link of a VCF's sample."""
        return self._find({"sample": self.samples, "subject": self.subjects}, (name,))

    def find_file(self, name: str) -> Link | None:
        """The link of a file, by its path within the input or by its name alone."""
        names = (name, name.rpartition("/")[2])
        return next((self.files[key] for key in names if self._has("file", self.files, key)), None)

    def find_label(self, label: str) -> str | None:
        """The name of the concept of a segmentation's label."""
        return self.labels[label] if self._has("label", self.labels, label) else None

    def find_modality(self, modality: str) -> str | None:
        """The name of the concept of whole volumes of a modality."""
        return self.modalities[modality] if self._has("modality", self.modalities, modality) else None

    def find_series(self, series_uid: str, study_uid: str = "") -> SeriesLink | None:
        """Whose an image series is: by the link table, else by the export's ImagingStudies."""
        if self._has("series_uid", self.series, series_uid):
            by_table = self.series[series_uid]
            return SeriesLink(by_table.patient, by_table.day)
        if series_uid in self.imaging_series:
            return self.imaging_series[series_uid]
        return self.imaging_studies.get(study_uid)

    def _has(self, column: str, table: Mapping[str, object], key: str) -> bool:
        """Whether a table has a key; it is noted as found."""
        if key not in table:
            return False
        self.asked.add((column, key))
        return True

    def _find(self, tables: Mapping[str, Mapping[str, Link]], names: tuple[str, ...]) -> Link | None:
        for name in names:
            for column, table in tables.items():
                if self._has(column, table, name):
                    return table[name]
        return Link(names[0]) if self.subject_is_patient and names else None


def patient_of(reference: str) -> str:
    """The patient's id in a link table's cell: "p1" or "Patient/p1".

    >>> patient_of("p1"), patient_of("https://fhir.example/Patient/p1")
    ('p1', 'p1')
    """
    found = _PATIENT.search(reference)
    return found.group(1) if found is not None else reference


def load_links(*tables: Path, export: Path | None = None, subject_is_patient: bool = False) -> Links:
    """Read link tables, and the ImagingStudies of an export.

    A table is a CSV file with a header, in UTF-8. Its columns say what it is:
    `patient` with one or more of `subject`, `sample`, `file`, `series_uid`, and if need be `day` (YYYY-MM-DD, of the
    specimen or image) and `kind` (of a NIfTI file: "image" or "labels"); or `label,concept` (segmentations); or
    `modality,concept` (whole volumes).

    Raises:
        GemelError: GEM257 for a table that cannot be used or contradicts another, GEM208 for the export.
    """
    maps: dict[str, dict[str, Link]] = {key: {} for key in _KEYS}
    concepts: dict[str, dict[str, str]] = {"label": {}, "modality": {}}
    places: dict[tuple[str, str], tuple[str, ...]] = {}
    for table in tables:
        for line, row in _rows(table):
            place = f"{table.name}:{line}"
            if "concept" in row:
                key = "label" if "label" in row else "modality"
                _put(concepts[key], row[key], row["concept"], place)
            else:
                _add_row(maps, row, place)
            for column in (*_KEYS, "label", "modality"):
                if row.get(column):
                    places[column, row[column]] = (*places.get((column, row[column]), ()), place)
    series, studies = imaging_studies(export) if export is not None else ({}, {})
    return Links(
        subjects=maps["subject"],
        samples=maps["sample"],
        files=maps["file"],
        series=maps["series_uid"],
        imaging_series=series,
        imaging_studies=studies,
        labels=concepts["label"],
        modalities=concepts["modality"],
        subject_is_patient=subject_is_patient,
        places=places,
    )


def _rows(table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        if table.stat().st_size > _MAX_TABLE_BYTES:
            raise GemelError("GEM257", f"{table.name} has more than {_MAX_TABLE_BYTES} bytes.")
        with table.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            columns = set(reader.fieldnames or ())
            is_link = "patient" in columns and columns & set(_KEYS) and columns <= _COLUMNS
            if not is_link and columns not in _CONCEPT_COLUMNS:
                raise GemelError(
                    "GEM257",
                    f"{table.name} has the columns {sorted(columns)}; expected patient with one of "
                    f"{', '.join(_KEYS)} (and day, kind), or label,concept, or modality,concept.",
                )
            for row in reader:
                if None in row or None in row.values():
                    raise GemelError("GEM257", f"{table.name}:{reader.line_num} has not one cell a column.")
                yield reader.line_num, {key: cell.strip() for key, cell in row.items()}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise GemelError("GEM257", f"{table.name} cannot be read: {error}.") from error


def _add_row(maps: dict[str, dict[str, Link]], row: dict[str, str], place: str) -> None:
    keys = [key for key in _KEYS if row.get(key)]
    if not row["patient"] or not keys:
        raise GemelError("GEM257", f"{place} names no patient, or nothing that is the patient's.")
    try:
        day = date.fromisoformat(row["day"]) if row.get("day") else None
    except ValueError:
        raise GemelError("GEM257", f"{place}: day is no YYYY-MM-DD.") from None
    kind = row.get("kind") or None
    if kind not in (None, "image", "labels"):
        raise GemelError("GEM257", f"{place}: kind is neither image nor labels.")
    link = Link(patient_of(row["patient"]), day, row.get("series_uid") or None, kind)
    for key in keys:
        _put(maps[key], row[key], link, place)


def _put(table: dict[str, _Value], key: str, value: _Value, place: str) -> None:
    if table.setdefault(key, value) != value:
        raise GemelError("GEM257", f"{place} says of the same key something else than an earlier row.")


class _Identifier(msgspec.Struct):
    system: str | None = None
    value: str | None = None


class _Series(msgspec.Struct):
    uid: str | None = None
    started: str | None = None
    numberOfInstances: int | None = None


class _Reference(msgspec.Struct):
    reference: str | None = None


class _ImagingStudy(msgspec.Struct):
    resourceType: str
    status: str | None = None
    subject: _Reference | None = None
    started: str | None = None
    identifier: list[_Identifier] | None = None
    series: list[_Series] | None = None


def imaging_studies(
    export: Path,
) -> tuple[dict[str, SeriesLink | None], dict[str, SeriesLink | None]]:
    """The series of an export's ImagingStudies, and the studies that list none, by their UIDs.

    Lines that are no ImagingStudy, or at fault, are passed over: the reading of the export accounts for them.
    """
    series: dict[str, SeriesLink | None] = {}
    studies: dict[str, SeriesLink | None] = {}
    decode = msgspec.json.Decoder(_ImagingStudy).decode
    for file in open_export(export):
        for block in read_blocks(file):
            if b"ImagingStudy" not in block.data:
                continue
            for content in block.lines:
                if b"ImagingStudy" not in content:
                    continue
                try:
                    study = decode(content)
                except NOT_JSON:  # msgspec's errors of types are among them
                    continue
                _add_study(study, series, studies)
    return series, studies


def _add_study(
    study: _ImagingStudy, series: dict[str, SeriesLink | None], studies: dict[str, SeriesLink | None]
) -> None:
    reference = study.subject.reference if study.subject is not None else None
    found = _PATIENT.search(reference or "")
    if study.resourceType != "ImagingStudy" or study.status in _UNUSED_STUDIES or found is None:
        return
    patient = found.group(1)
    listed = [one for one in study.series or () if one.uid]
    for one in listed:
        day = day_of(one.started or study.started)
        _agree(series, one.uid or "", SeriesLink(patient, day, one.numberOfInstances))
    if not listed:
        for identifier in study.identifier or ():
            if identifier.value and identifier.value.startswith("urn:oid:"):
                _agree(studies, identifier.value[8:], SeriesLink(patient, day_of(study.started)))


def _agree(table: dict[str, SeriesLink | None], uid: str, link: SeriesLink) -> None:
    """Keep a UID's link; None when two resources give it to different patients. What else differs is not known."""
    known = table.setdefault(uid, link)
    if known is None or known.patient != link.patient:
        table[uid] = None
    elif known != link:
        day = known.day if known.day == link.day else None
        instances = known.instances if known.instances == link.instances else None
        table[uid] = SeriesLink(link.patient, day, instances)


def day_of(text: str | None) -> date | None:
    """The day of a FHIR dateTime as it is written; None for a partial one.

    >>> day_of("2020-03-01T23:30:00+01:00")
    datetime.date(2020, 3, 1)
    """
    try:
        return date.fromisoformat((text or "")[:10])
    except ValueError:
        return None
