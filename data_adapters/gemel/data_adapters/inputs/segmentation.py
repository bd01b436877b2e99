"""DICOM SEG: the volume of each segment, and the code that says what it is."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gemel.core.concepts import LOINC, SNOMED_CT
from gemel.core.errors import GemelError
from gemel.data_adapters.inputs.dicom import (
    POSITION_TOLERANCE_MM,
    SPACING_TOLERANCE,
    check_frames,
    read_pixels,
)

# DICOM PS3.16 section 8: coding scheme designators, and the FHIR systems of the same terminologies.
SYSTEMS = {
    "SCT": SNOMED_CT,
    "LN": LOINC,
}


class Segment(NamedTuple):
    """One segment of a segmentation: `system` and `code` are those of its property type."""

    label: str
    system: str
    code: str
    volume_ml: float


def read_segments(path: Path, header: Any) -> list[Segment]:
    """The segments of a binary SEG, in the order of their numbers. Raises GEM254, GEM255."""
    frames = check_frames(header)
    if str(header.get("SegmentationType") or "") != "BINARY":
        raise GemelError(
            "GEM255", "Only binary segmentations are read; this one is fractional or says nothing."
        )
    try:
        shared = header.SharedFunctionalGroupsSequence[0]
        groups = list(header.PerFrameFunctionalGroupsSequence)
        numbers = [int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber) for group in groups]
        area_mm2, gap_mm = _voxel(shared, groups)
        codes = {int(segment.SegmentNumber): _code(segment) for segment in header.SegmentSequence}
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise GemelError(
            "GEM255", "The segmentation lacks a group that says where its frames lie."
        ) from error
    if len(numbers) != frames or not set(numbers) <= set(codes):
        raise GemelError("GEM255", "The segmentation's frames and segments do not agree.")
    _, pixels = read_pixels(path)
    pixels = pixels if pixels.ndim == 3 else pixels[np.newaxis]
    counts: defaultdict[int, int] = defaultdict(int)
    for number, frame in zip(numbers, pixels, strict=True):
        counts[number] += int(np.count_nonzero(frame))
    return [
        Segment(str(number), *codes[number], counts[number] * area_mm2 * gap_mm / 1000.0)
        for number in sorted(counts)
    ]


def _code(segment: Any) -> tuple[str, str]:
    code = segment.SegmentedPropertyTypeCodeSequence[0]
    scheme = str(code.CodingSchemeDesignator)
    return SYSTEMS.get(scheme, scheme), str(code.CodeValue)


def _voxel(shared: Any, groups: list[Any]) -> tuple[float, float]:
    """Area of a pixel in mm2, and the distance of neighbouring planes in mm."""
    measures = _group("PixelMeasuresSequence", shared, groups[0])
    row_mm, column_mm = (float(x) for x in measures.PixelSpacing)
    axes = np.array(
        [float(x) for x in _group("PlaneOrientationSequence", shared, groups[0]).ImageOrientationPatient]
    )
    normal = np.cross(axes[:3], axes[3:])
    positions = [group.PlanePositionSequence[0].ImagePositionPatient for group in groups]
    depths = np.unique(np.round(np.array(positions, dtype=np.float64) @ normal, 3))
    stated = measures.get("SpacingBetweenSlices")
    gap = float(stated) if stated else _smallest_gap(depths)
    # Empty frames may be left out, so planes lie whole numbers of gaps apart.
    steps = (depths - depths[0]) / gap
    if np.abs(steps - np.rint(steps)).max() * gap > max(POSITION_TOLERANCE_MM, SPACING_TOLERANCE * gap):
        raise GemelError("GEM255", "The segmentation's planes do not lie whole slices apart.")
    if not (0 < row_mm < 50 and 0 < column_mm < 50 and 0 < gap < 50):
        raise GemelError("GEM255", "The segmentation's spacing is none that a scanner makes.")
    return row_mm * column_mm, gap


def _smallest_gap(depths: NDArray[np.float64]) -> float:
    if len(depths) < 2:
        raise GemelError(
            "GEM255", "The segmentation has one plane and says nothing of the distance of slices."
        )
    return float(np.diff(depths).min())


def _group(name: str, shared: Any, frame: Any) -> Any:
    return (shared.get(name) or frame.get(name))[0]
