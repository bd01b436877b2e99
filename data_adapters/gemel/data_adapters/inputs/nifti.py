"""NIfTI-1 and NIfTI-2: one volume a file, or a map of labels."""

from __future__ import annotations

import re
import struct
import warnings
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemel.core.errors import GemelError
from gemel.data_adapters.inputs.optional_package import load_package
from gemel.data_adapters.inputs.volume import Volume, check_geometry, check_size, new_voxels, voxel_ml

HEADER_BYTES = 544
_MAX_OFFSET = 1 << 20  # what lies between header and voxels is read whole
_INTENT_LABEL = 1002  # NIFTI_INTENT_LABEL of nifti1.h
# BIDS writes _dseg, _probseg and _mask; the others are customary.
_LABEL_NAME = re.compile(r"[_.-](dseg|seg|mask|labels?|segmentation)$", flags=re.IGNORECASE)
_UID = re.compile(r"\d+(?:\.\d+){3,}")
_MM_OF_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # nifti1.h: unknown, metre, millimetre, micrometre
_MAX_LABELS = 1000


def is_nifti(head: bytes) -> bool:
    """Whether a file begins as NIfTI does, in one file (.nii)."""
    return head[344:348] == b"n+1\0" or head[4:8] == b"n+2\0"


def series_uid_in(name: str) -> str | None:
    """The UID in a file's name, where there is exactly one.

    >>> series_uid_in("ct_1.2.840.113.7_seg.nii.gz")
    '1.2.840.113.7'
    """
    found = _UID.findall(name)
    return found[0] if len(found) == 1 else None


def is_label_map(name: str, image: Any) -> bool:
    """Whether a file's intent, or else its name, says that it holds labels."""
    stem = name.removesuffix(".gz").removesuffix(".nii")
    return int(image.header["intent_code"]) == _INTENT_LABEL or bool(_LABEL_NAME.search(stem))


def open_nifti(path: Path, head: bytes) -> Any:
    """The image of a file, whose declared size has been judged before anything else is read. Raises GEM254, GEM255."""
    _check_header(head)
    nibabel = load_package("nibabel", "imaging")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = nibabel.load(path)
    # As in `dicom`: whatever a third-party parser raises, the file cannot be read.
    except Exception as error:
        raise GemelError("GEM254", f"No readable NIfTI ({type(error).__name__}).") from error
    if int(image.header["sform_code"]) == 0 and int(image.header["qform_code"]) == 0:
        raise GemelError("GEM255", "The file does not say how it lies in the patient (sform, qform).")
    return image


def _check_header(head: bytes) -> None:
    second = head[4:8] == b"n+2\0"
    order = "<" if head[:4] in (b"\x5c\x01\0\0", b"\x1c\x02\0\0") else ">"
    try:
        if second:
            sizes = struct.unpack_from(f"{order}8q", head, 16)
            (offset,) = struct.unpack_from(f"{order}q", head, 168)
        else:
            sizes = struct.unpack_from(f"{order}8h", head, 40)
            (offset,) = struct.unpack_from(f"{order}f", head, 108)
    except struct.error as error:
        raise GemelError("GEM254", "The file ends in its header.") from error
    if not 0 <= offset <= _MAX_OFFSET:
        raise GemelError("GEM254", "More than 1 MiB stands between header and voxels.")
    dimensions = sizes[1 : 1 + max(0, min(7, sizes[0]))]
    if len(dimensions) < 3 or any(n != 1 for n in dimensions[3:]):
        raise GemelError(
            "GEM255", f"{len(dimensions)} dimensions of {dimensions}; expected one volume of three."
        )
    check_size(tuple(dimensions[:3]))


def affine_mm(image: Any) -> NDArray[np.float64]:
    """The affine in millimetres and RAS. Raises GEM255. A file that names no unit of length is taken for mm."""
    unit = int(image.header["xyzt_units"]) & 7
    if unit not in _MM_OF_UNIT:
        raise GemelError("GEM255", "The file gives lengths in a unit that NIfTI does not have.")
    affine: NDArray[np.float64] = np.array(image.affine, dtype=np.float64)
    affine[:3] *= _MM_OF_UNIT[unit]
    check_geometry(affine, image.shape[:3])
    return affine


def read_voxels(image: Any) -> NDArray[Any]:
    """The voxels with slope and intercept applied, (i, j, k). Raises GEM254."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            voxels: NDArray[Any] = np.asanyarray(image.dataobj)
    except Exception as error:
        raise GemelError("GEM254", f"The voxels cannot be read ({type(error).__name__}).") from error
    if voxels.dtype.kind not in "iuf":
        raise GemelError("GEM255", "The voxels are no plain numbers.")
    return voxels.reshape(image.shape[:3])


def read_volume(image: Any, day: date, folder: Path) -> Volume:
    """The file as a volume, its voxels in a file of `folder`. Raises GEM254, GEM255."""
    affine = affine_mm(image)
    found = read_voxels(image)
    if not np.isfinite(found).all():
        raise GemelError("GEM255", "Some voxels are no finite numbers.")
    fits = found.dtype.kind in "iu" and found.min() >= -32768 and found.max() <= 32767
    voxels = new_voxels(folder, found.shape, np.int16 if fits else np.float32)
    voxels[:] = found
    return Volume(voxels, affine, "", day)


def label_volumes(image: Any) -> dict[str, float]:
    """Millilitres of each label that occurs; 0 is the background. Raises GEM254, GEM255."""
    affine, found = affine_mm(image), read_voxels(image)
    if not np.isfinite(found).all() or (found.dtype.kind == "f" and (found != np.rint(found)).any()):
        raise GemelError("GEM255", "A map of labels has values that are no whole numbers.")
    labels, counts = np.unique(found, return_counts=True)
    if len(labels) > _MAX_LABELS:
        raise GemelError("GEM255", f"{len(labels)} labels; expected at most {_MAX_LABELS}.")
    one = voxel_ml(affine)
    return {
        str(int(label)): int(count) * one for label, count in zip(labels, counts, strict=True) if label != 0
    }
