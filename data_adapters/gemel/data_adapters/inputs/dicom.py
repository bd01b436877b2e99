"""DICOM: files grouped into series, and a series into one volume, or a reason why it is none.

Of a header only the attributes in `_HEADER` and `_PIXELS` are read: no name, no id of a patient, no free text.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemel.core.errors import GemelError
from gemel.data_adapters.inputs.optional_package import load_package
from gemel.data_adapters.inputs.volume import Volume, check_geometry, check_size, new_voxels
from gemel.data_adapters.reading.intake import Fault

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
# Inflating is not bounded by what the header declares.
_DEFLATED = ("1.2.840.10008.1.2.1.99",)
_DATES = ("AcquisitionDate", "SeriesDate", "StudyDate", "ContentDate")
_HEADER = [
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", *_DATES),
    *("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "PixelRepresentation"),
    *("NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
    *("RescaleSlope", "RescaleIntercept", "RescaleType"),
    *("SegmentSequence", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *("ReferencedSeriesSequence", "SegmentationType"),
]
_PIXELS = [*_HEADER, "HighBit", "PhotometricInterpretation", "PlanarConfiguration", "PixelData"]
# How far positions may be off before slices count as uneven: 1 % of their distance, and no less than this.
POSITION_TOLERANCE_MM = 0.01
SPACING_TOLERANCE = 0.01
_DIRECTION_TOLERANCE = 1e-3
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass
class DicomSeries:
    """The files of one series, in any order; `headers` hold `_HEADER` alone."""

    series_uid: str
    study_uid: str
    files: list[Path] = field(default_factory=list)
    headers: list[Any] = field(default_factory=list)

    @property
    def is_segmentation(self) -> bool:
        """Whether it is a DICOM SEG object."""
        return all(str(header.get("SOPClassUID", "")) == SEGMENTATION for header in self.headers)


def read_header(path: Path) -> Any | Fault:
    """The header of a DICOM file, without pixels; or why it cannot be used."""
    pydicom = load_package("pydicom", "imaging")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            syntax = pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID")
            if syntax is None or str(syntax) in _DEFLATED:
                return Fault("GEM254", "", "no transfer syntax, or a deflated one, which is not read")
            if not _has_decoder(pydicom, syntax):
                return Fault("GEM254", "", f"no decoder here for {syntax.name}")
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_HEADER)
            for (
                _
            ) in header.iterall():  # elements are taken apart when they are first looked at: here, not later
                pass
            missing = [name for name in ("SeriesInstanceUID", "SOPInstanceUID") if not header.get(name)]
    # A third-party parser on a file of unknown origin: whatever it raises, the file cannot be read.
    except Exception as error:
        return Fault("GEM254", "", f"no readable DICOM ({type(error).__name__})")
    return Fault("GEM254", "", f"no {missing[0]}") if missing else header


def _has_decoder(pydicom: Any, syntax: Any) -> bool:
    if not syntax.is_compressed:
        return True
    try:
        return bool(load_package("pydicom.pixels", "imaging").get_decoder(syntax).is_available)
    except NotImplementedError:
        return False


def read_pixels(path: Path) -> tuple[Any, NDArray[Any]]:
    """A file's whitelisted attributes and its pixels, (rows, columns) or (frames, rows, columns). Raises GEM254."""
    pydicom = load_package("pydicom", "imaging")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(path, specific_tags=_PIXELS)
            return dataset, dataset.pixel_array
    except Exception as error:
        raise GemelError("GEM254", f"The pixels cannot be read ({type(error).__name__}).") from error


def series_day(series: DicomSeries) -> date | None:
    """The day that the headers give, all alike; None otherwise."""
    for name in _DATES:
        texts = {str(header.get(name) or "") for header in series.headers}
        if len(texts) == 1 and (text := texts.pop()):
            try:
                return date.fromisoformat(text)
            except ValueError:
                return None
    return None


def series_affine(series: DicomSeries) -> tuple[NDArray[np.float64], list[int]]:
    """From (column, row, slice, 1) to millimetres in RAS, and the order of the files along the slices' normal.

    Raises:
        GemelError: GEM255 when the slices are not one even stack.
    """
    headers = series.headers
    if any(int(header.get("NumberOfFrames") or 1) != 1 for header in headers):
        raise GemelError("GEM255", "Multi-frame images other than segmentations are not read.")
    planes = [_plane(header) for header in headers]
    if len(planes) < 2:
        raise GemelError("GEM255", "A single slice is no volume.")
    form = planes[0][3:]
    if any(not np.allclose(plane[3:], form, rtol=0, atol=1e-4) for plane in planes):
        raise GemelError("GEM255", "The slices differ in orientation, pixel spacing or size.")
    row, column, steps = form[:3], form[3:6], form[6:8]
    positions = np.array([plane[:3] for plane in planes])
    normal = np.cross(row, column)
    depths = positions @ normal
    order = np.argsort(depths, kind="stable")
    gap = _even_gap(depths[order])
    lateral = positions - np.outer(depths, normal)
    if np.abs(lateral - lateral[0]).max() > max(POSITION_TOLERANCE_MM, SPACING_TOLERANCE * gap):
        raise GemelError("GEM255", "The slices are shifted against each other (a tilted gantry).")
    affine = np.eye(4)
    # PixelSpacing gives the distance of rows first, of columns second.
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = row * steps[1], column * steps[0], normal * gap
    affine[:3, 3] = positions[order[0]]
    return _LPS_TO_RAS @ affine, [int(i) for i in order]


def _plane(header: Any) -> NDArray[np.float64]:
    """Position (3,), direction of a row (3,) and of a column (3,), spacing (2,) and size (2,) of a slice: (13,)."""
    try:
        position = np.array([float(x) for x in header.ImagePositionPatient])
        direction = np.array([float(x) for x in header.ImageOrientationPatient])
        spacing = np.array([float(x) for x in header.PixelSpacing])
        size = np.array([float(header.Rows), float(header.Columns)])
    except (AttributeError, TypeError, ValueError) as error:
        raise GemelError("GEM255", "A slice without position, orientation, spacing or size.") from error
    if position.shape != (3,) or direction.shape != (6,) or spacing.shape != (2,):
        raise GemelError("GEM255", "A slice's position, orientation or spacing has another number of parts.")
    row, column = direction[:3], direction[3:]
    skew = (abs(np.linalg.norm(row) - 1), abs(np.linalg.norm(column) - 1), abs(row @ column))
    if not np.isfinite([*position, *direction, *spacing]).all() or max(skew) > _DIRECTION_TOLERANCE:
        raise GemelError("GEM255", "A slice's axes are not at right angles and of length 1.")
    return np.concatenate([position, direction, spacing, size])


def _even_gap(depths: NDArray[np.float64]) -> float:
    """The distance of neighbouring slices. Raises GEM255 when it is not one."""
    gaps = np.diff(depths)
    if gaps.min() < POSITION_TOLERANCE_MM:
        raise GemelError("GEM255", "Two slices lie at the same place.")
    gap = float(np.median(gaps))
    uneven = np.abs(gaps - gap) > max(POSITION_TOLERANCE_MM, SPACING_TOLERANCE * gap)
    if not uneven.any():
        return float(depths[-1] - depths[0]) / len(gaps)
    missing = int((np.rint(gaps / gap) - 1).clip(min=0).sum())
    whole = np.abs(gaps / gap - np.rint(gaps / gap)) < 2 * SPACING_TOLERANCE
    if missing and whole.all():
        raise GemelError("GEM255", f"{missing} slices are missing inside the series.")
    raise GemelError("GEM255", f"The slices lie {gaps.min():.3f} to {gaps.max():.3f} mm apart.")


def read_volume(series: DicomSeries, day: date, folder: Path) -> Volume:
    """The series as one volume, its voxels in a file of `folder`, rescaled. Raises GEM254, GEM255."""
    headers = series.headers
    if any(int(header.get("SamplesPerPixel") or 0) != 1 for header in headers):
        raise GemelError("GEM255", "The series has colours, or no pixels.")
    if len({str(header.SOPInstanceUID) for header in headers}) != len(headers):
        raise GemelError("GEM255", "The same image stands twice.")
    affine, order = series_affine(series)
    shape = (int(headers[0].Columns), int(headers[0].Rows), len(headers))
    check_geometry(affine, shape)
    scales = [_scale(header) for header in headers]
    voxels = new_voxels(folder, shape, _dtype(headers, scales))
    for slot, number in enumerate(order):
        _, pixels = read_pixels(series.files[number])
        if pixels.shape != shape[1::-1]:
            raise GemelError("GEM254", f"Pixels of shape {pixels.shape}; the header says {shape[1::-1]}.")
        slope, intercept = scales[number]
        voxels[:, :, slot] = (pixels.astype(np.float64) * slope + intercept).T
    return Volume(voxels, affine, str(headers[0].get("Modality") or ""), day)


def _scale(header: Any) -> tuple[float, float]:
    try:
        slope, intercept = header.get("RescaleSlope"), header.get("RescaleIntercept")
        scale = (1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept))
    except (TypeError, ValueError) as error:
        raise GemelError("GEM255", "RescaleSlope or RescaleIntercept is no number.") from error
    if not np.isfinite(scale).all() or scale[0] == 0:
        raise GemelError("GEM255", "RescaleSlope is 0, or not finite.")
    return scale


def _dtype(headers: Sequence[Any], scales: list[tuple[float, float]]) -> type[np.generic]:
    """int16 where it holds every value that the headers allow, else float32."""
    for header, (slope, intercept) in zip(headers, scales, strict=True):
        bits = int(header.get("BitsStored") or header.get("BitsAllocated") or 32)
        low, high = (
            (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
            if header.get("PixelRepresentation")
            else (0, 2**bits - 1)
        )
        ends = (low * slope + intercept, high * slope + intercept)
        if not (slope.is_integer() and intercept.is_integer()) or min(ends) < -32768 or max(ends) > 32767:
            return np.float32
    return np.int16


def check_frames(header: Any) -> int:
    """The number of frames of a multi-frame file whose declared size may be read. Raises GEM254."""
    try:
        shape = (int(header.Columns), int(header.Rows), int(header.get("NumberOfFrames") or 1))
    except (AttributeError, TypeError, ValueError) as error:
        raise GemelError("GEM254", "The file declares no size.") from error
    check_size(shape)
    return shape[2]
