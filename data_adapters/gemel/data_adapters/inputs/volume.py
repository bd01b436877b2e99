"""A volume: voxels, and where each of them lies in the patient."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemel.core.errors import GemelError

MAX_VOXELS = 1 << 30
# Between voxels of microscopy and of nothing that a scanner makes: outside, the unit of length is another.
MIN_SPACING_MM, MAX_SPACING_MM = 0.01, 50.0
_AXES = (("L", "R"), ("P", "A"), ("I", "S"))
_HASH_DIGITS = 32


@dataclass(frozen=True)
class Volume:
    """Voxels of one modality, taken on one day.

    Attributes:
        voxels: int16 or float32 (i, j, k), memory-mapped; CT in Hounsfield units, else as the scanner scales them.
        affine: float64 (4, 4): from (i, j, k, 1) to millimetres in RAS (x to the right of the patient, y to the front,
            z to the head), NIfTI's convention. DICOM's own is LPS: x and y have changed their sign on the way in.
        modality: DICOM's code ("CT", "MR", ...), or "" where the file does not say.
        day: When it was taken.
    """

    voxels: NDArray[Any]
    affine: NDArray[np.float64]
    modality: str
    day: date

    @property
    def spacing_mm(self) -> NDArray[np.float64]:
        """Distance of neighbouring voxels along each axis, (3,)."""
        return spacing_mm(self.affine)

    @property
    def orientation(self) -> str:
        """Where the three axes of the array point to, most of all, such as "LPS"."""
        return orientation(self.affine)


def spacing_mm(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of neighbouring voxels along each axis of an affine, (3,)."""
    distances: NDArray[np.float64] = np.linalg.norm(affine[:3, :3], axis=0)
    return distances


def voxel_ml(affine: NDArray[np.float64]) -> float:
    """Millilitres of one voxel."""
    return float(abs(np.linalg.det(affine[:3, :3]))) / 1000.0


def orientation(affine: NDArray[np.float64]) -> str:
    """The axis codes of an affine: each axis of the array gets the patient's axis that it follows most.

    >>> orientation(np.diag([-1.0, -1.0, 3.0, 1.0]))
    'LPS'
    """
    directions = affine[:3, :3] / spacing_mm(affine)
    codes = [""] * 3
    free = np.abs(directions)
    for _ in range(3):
        row, column = np.unravel_index(int(np.argmax(free)), free.shape)
        codes[column] = _AXES[row][int(directions[row, column] > 0)]
        free[row, :] = -1.0
        free[:, column] = -1.0
    return "".join(codes)


def check_geometry(affine: NDArray[np.float64], shape: tuple[int, ...]) -> None:
    """Refuse (GEM255) an affine that no scanner makes, or more voxels than can be."""
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < MIN_SPACING_MM**3:
        raise GemelError("GEM255", "The axes of the volume do not span a space.")
    distances = spacing_mm(affine)
    if (distances < MIN_SPACING_MM).any() or (distances > MAX_SPACING_MM).any():
        found = ", ".join(f"{distance:.4g}" for distance in distances)
        raise GemelError(
            "GEM255", f"Voxels {found} mm apart; expected {MIN_SPACING_MM} to {MAX_SPACING_MM} mm."
        )
    check_size(shape)


def check_size(shape: tuple[int, ...]) -> None:
    """Refuse (GEM254) a declared size before anything of it is read."""
    if min(shape) < 1 or int(np.prod([int(n) for n in shape], dtype=object)) > MAX_VOXELS:
        raise GemelError("GEM254", f"The file declares {shape} voxels; at most {MAX_VOXELS} are read.")


def new_voxels(folder: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
    """An empty memory-mapped array in a new file of a folder."""
    number, name = tempfile.mkstemp(suffix=".npy", dir=folder)
    os.close(number)
    voxels: NDArray[Any] = np.lib.format.open_memmap(name, mode="w+", dtype=dtype, shape=shape)
    return voxels


def save(volume: Volume, folder: Path) -> str:
    """Write the voxels as .npy under a name that says nothing but their content; give the name.

    The name is the SHA-256 of shape, type, geometry and voxels, so the same volume has the same name anywhere.
    """
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(f"{volume.voxels.shape} {volume.voxels.dtype.str} ".encode())
    digest.update(np.ascontiguousarray(volume.affine).tobytes())
    for plane in np.moveaxis(volume.voxels, -1, 0):
        digest.update(np.ascontiguousarray(plane).tobytes())
    name = f"{digest.hexdigest()[:_HASH_DIGITS]}.npy"
    number, waiting = tempfile.mkstemp(suffix=".part", dir=folder)
    try:
        with os.fdopen(number, "wb") as stream:
            np.save(stream, volume.voxels, allow_pickle=False)
        os.replace(waiting, folder / name)
    except OSError as error:
        Path(waiting).unlink(missing_ok=True)
        raise GemelError("GEM254", f"The volume cannot be kept: {error}.") from error
    return name
