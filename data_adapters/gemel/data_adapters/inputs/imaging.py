"""Images of the export's patients: volumes of segments as facts, whole volumes beside the data set.

An image is a patient's only by its SeriesInstanceUID in an ImagingStudy of the export or in a link table; what the
header says of the patient is not read.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

import pyarrow as pa

from gemel.core.errors import GemelError
from gemel.data_adapters.inputs import dicom, nifti
from gemel.data_adapters.inputs.account import Outcome
from gemel.data_adapters.inputs.dicom import DicomSeries
from gemel.data_adapters.inputs.fact_writer import FactWriter, is_plausible_day
from gemel.data_adapters.inputs.links import Link, Links, SeriesLink
from gemel.data_adapters.inputs.segmentation import read_segments
from gemel.data_adapters.inputs.volume import Volume, save
from gemel.data_adapters.reading.intake import Fault

# One row a volume that was kept. `patient_id` is the source's own: whoever writes a data set makes it a pseudonym.
IMAGE_FIELDS = pa.schema(
    [
        ("patient_id", pa.string()),
        ("concept", pa.string()),
        ("day", pa.date32()),
        ("path", pa.string()),
        ("modality", pa.string()),
        ("shape", pa.list_(pa.int32(), 3)),
        ("spacing_mm", pa.list_(pa.float64(), 3)),
        ("affine_ras", pa.list_(pa.float64(), 16)),
        ("orientation", pa.string()),
    ]
)
_ML = "mL"
# What an element of several values, of none or of text raises where one number belongs.
_ILL_FORMED = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)


def image_table(rows: Sequence[Mapping[str, object]]) -> pa.Table:
    """The index of kept volumes: `path` is relative to the folder of images, `affine_ras` is row by row."""
    return pa.Table.from_pylist([dict(row) for row in rows], schema=IMAGE_FIELDS)


def read_dicom(
    files: Sequence[tuple[str, Path]], links: Links, writer: FactWriter, *, images: Path | None = None
) -> None:
    """Take DICOM files series by series; one item a series, or a segment of a segmentation.

    Args:
        files: Names and paths, in any order.
        links: Whose the series are, and the concepts of labels and modalities.
        writer: Takes facts and counts.
        images: Folder for the volumes; None reads them and keeps none.
    """
    series: dict[str, DicomSeries] = {}
    names: dict[str, str] = {}
    for name, path in sorted(files):
        header = dicom.read_header(path)
        if isinstance(header, Fault):
            with writer.file(name, "dicom"):
                raise_fault(header)
            continue
        uid = str(header.SeriesInstanceUID)
        one = series.setdefault(uid, DicomSeries(uid, str(header.get("StudyInstanceUID") or "")))
        one.files.append(path)
        one.headers.append(header)
        names.setdefault(uid, name)
    for uid, one in sorted(series.items()):
        with writer.file(names[uid], "dicom"):
            try:
                _take_series(one, links, writer, images)
            except _ILL_FORMED as error:
                raise GemelError(
                    "GEM254", "An element of a header has another form than DICOM says."
                ) from error


def raise_fault(fault: Fault) -> None:
    """Raise a fault of a whole file as an error."""
    raise GemelError(fault.code, fault.reason)


def _take_series(series: DicomSeries, links: Links, writer: FactWriter, images: Path | None) -> None:
    found = links.find_series(series.series_uid, series.study_uid)
    if found is None and series.is_segmentation:
        found = _find_segmented(series, links)
    link = Link(found.patient) if found is not None else None
    blocked = writer.whose(link)
    if blocked is not None or link is None or found is None:
        writer.count(blocked or Outcome.ORPHAN)
        return
    day = _day(found.day or dicom.series_day(series))
    if series.is_segmentation:
        for path, header in zip(series.files, series.headers, strict=True):
            for segment in read_segments(path, header):
                _segment(
                    segment.label, (segment.system, segment.code), segment.volume_ml, link, day, links, writer
                )
        return
    if found.instances is not None and found.instances > len(series.files):
        raise GemelError(
            "GEM255",
            f"{len(series.files)} of the {found.instances} images that the ImagingStudy says are here.",
        )
    with tempfile.TemporaryDirectory(prefix="gemel-volume-") as folder:
        _image(dicom.read_volume(series, day, Path(folder)), link, links, writer, images)


def _find_segmented(series: DicomSeries, links: Links) -> SeriesLink | None:
    """Whose a segmentation is by the one series that it was drawn on."""
    found = set()
    for header in series.headers:
        for reference in header.get("ReferencedSeriesSequence") or ():
            found.add(links.find_series(str(reference.get("SeriesInstanceUID") or "")))
    one = found.pop() if len(found) == 1 else None
    return one


def _day(day: date | None) -> date:
    if day is None or not is_plausible_day(day):
        raise GemelError("GEM255", "Neither ImagingStudy, link table nor header give the day of the image.")
    return day


def read_nifti(
    path: Path, name: str, head: bytes, links: Links, writer: FactWriter, *, images: Path | None = None
) -> None:
    """Take one NIfTI file; one item a volume, or a label.

    Whose it is and of which day says a link table by the file's name, or by the series UID in its name.
    """
    with writer.file(name, "nifti"):
        by_name = links.find_file(name)
        uid = (by_name.series_uid if by_name is not None else None) or nifti.series_uid_in(Path(name).name)
        series = links.find_series(uid) if uid is not None else None
        if by_name is not None and series is not None and series.patient != by_name.patient:
            raise GemelError(
                "GEM255", "The link table and the ImagingStudy give the file to different patients."
            )
        link = by_name or (Link(series.patient) if series is not None else None)
        blocked = writer.whose(link)
        if blocked is not None or link is None:
            writer.count(blocked or Outcome.ORPHAN)
            return
        day = _day(link.day or (series.day if series is not None else None))
        image = nifti.open_nifti(path, head)
        if link.kind == "labels" or (link.kind is None and nifti.is_label_map(name, image)):
            for label, volume_ml in nifti.label_volumes(image).items():
                _segment(label, None, volume_ml, link, day, links, writer)
            return
        with tempfile.TemporaryDirectory(prefix="gemel-volume-") as folder:
            _image(nifti.read_volume(image, day, Path(folder)), link, links, writer, images)


def _segment(
    label: str,
    code: tuple[str, str] | None,
    volume_ml: float,
    link: Link,
    day: date,
    links: Links,
    writer: FactWriter,
) -> None:
    """One segment as a fact: of the concept that the site's table gives its label, else of its code's."""
    named = writer.concepts.get(links.find_label(label) or "")
    concepts = (named,) if named is not None else writer.index.find(*code) if code is not None else ()
    # A code such as "neoplasm" stands for a diagnosis too; only what is measured in millilitres is a volume.
    concepts = tuple(concept for concept in concepts if writer.unit_fault(concept, _ML) is None)
    if not concepts:
        writer.not_covered("|".join(code) if code is not None else f"label|{label}")
        return
    values = [(concept, writer.convert(concept, volume_ml, _ML)) for concept in concepts]
    faults = [value for _, value in values if isinstance(value, Fault)]
    if faults:
        writer.reject(f"label {label}", faults[0])
        return
    for concept, value in values:
        if not isinstance(value, Fault):
            writer.add(concept, link, day, value=value)
    writer.count(Outcome.USED)


def _image(volume: Volume, link: Link, links: Links, writer: FactWriter, images: Path | None) -> None:
    if images is not None:
        row = {
            "patient_id": link.patient,
            "concept": links.find_modality(volume.modality),
            "day": volume.day,
            "path": save(volume, images),
            "modality": volume.modality,
            "shape": list(volume.voxels.shape),
            "spacing_mm": volume.spacing_mm.tolist(),
            "affine_ras": volume.affine.ravel().tolist(),
            "orientation": volume.orientation,
        }
        writer.keep_image(row)
    writer.count(Outcome.IMAGE)
