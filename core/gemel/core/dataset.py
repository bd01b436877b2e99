"""What a data set is: one row per patient, raw feature values, event times. How it is read is elsewhere."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from gemel.core.canonical import canonical_bytes
from gemel.core.errors import GemelError

PREVALENT = -1
CENSORED = 0
OCCURRED = 1


@dataclass(frozen=True)
class Dataset:
    """The patients of one hospital as arrays, sorted by pseudonym.

    Attributes:
        patient_ids: n keyed pseudonyms (hex), unique, ascending.
        features: d names; outcomes: k names (death first).
        values: float32 (n, d), each in its feature's unit; NaN where missing.
        time_years: float32 (n, k), time from the index date to the outcome, or to the end of follow-up.
        event: int8 (n, k): 1 occurred at `time_years`; 0 censored there (by end of follow-up or death);
            -1 prevalent at the index date, so not at risk (time 0).
    """

    programme: str
    programme_version: str
    features: tuple[str, ...]
    outcomes: tuple[str, ...]
    patient_ids: tuple[str, ...]
    values: NDArray[np.float32]
    time_years: NDArray[np.float32]
    event: NDArray[np.int8]

    def __post_init__(self) -> None:
        n, d, k = len(self.patient_ids), len(self.features), len(self.outcomes)
        shapes = (self.values.shape, self.time_years.shape, self.event.shape)
        if shapes != ((n, d), (n, k), (n, k)):
            raise ValueError(f"inconsistent shapes {shapes} for n={n}, d={d}, k={k}")

    def __len__(self) -> int:
        return len(self.patient_ids)

    @property
    def snapshot(self) -> str:
        """SHA-256 over programme, columns, patients and values: equal for equal content on any machine."""
        digest = hashlib.sha256(canonical_bytes(self._header()))
        arrays: tuple[NDArray[Any], ...] = (self.values, self.time_years, self.event)
        for array in arrays:
            little_endian = array.astype(array.dtype.newbyteorder("<"))
            # One NaN pattern, one zero: the hash must not depend on how "missing" was produced.
            if little_endian.dtype.kind == "f":
                little_endian = np.where(np.isnan(little_endian), np.nan, little_endian + 0.0).astype(
                    array.dtype.newbyteorder("<")
                )
            digest.update(little_endian.tobytes())
        return digest.hexdigest()

    def take(self, index: NDArray[np.intp] | NDArray[np.bool_]) -> Dataset:
        """The data set of some of the patients, in the order of the index (integers or a mask)."""
        positions = np.arange(len(self))[index]
        return Dataset(
            self.programme,
            self.programme_version,
            self.features,
            self.outcomes,
            tuple(self.patient_ids[i] for i in positions),
            self.values[positions],
            self.time_years[positions],
            self.event[positions],
        )

    def split(self, *, held_out_percent: int = 20) -> tuple[Dataset, Dataset]:
        """(training, held out), decided for each patient by the hash of the pseudonym: stable for ever."""
        share = np.array(
            [
                int.from_bytes(hashlib.sha256(f"split:{p}".encode()).digest()[:4], "big") % 100
                for p in self.patient_ids
            ],
            dtype=np.int64,
        )
        held_out = share < held_out_percent
        return self.take(~held_out), self.take(held_out)

    def save(self, path: Path) -> None:
        """Write `path` (safetensors) with the header in its metadata."""
        arrays = {"values": self.values, "time_years": self.time_years, "event": self.event}
        header = canonical_bytes(self._header()).decode()
        save_file(
            {k: np.ascontiguousarray(v) for k, v in arrays.items()},
            path,
            metadata={"gemel": header, "snapshot": self.snapshot},
        )

    @classmethod
    def load(cls, path: Path) -> Dataset:
        """Read what `save` wrote. Raises GEM103 when the content differs from its recorded snapshot."""
        from safetensors import safe_open

        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
        header = json.loads(metadata["gemel"])
        arrays = load_file(path)
        dataset = cls(
            header["programme"],
            header["programme_version"],
            tuple(header["features"]),
            tuple(header["outcomes"]),
            tuple(header["patient_ids"]),
            arrays["values"],
            arrays["time_years"],
            arrays["event"],
        )
        if dataset.snapshot != metadata["snapshot"]:
            raise GemelError("GEM103", f"The data set {path.name} differs from its snapshot hash.")
        return dataset

    def _header(self) -> dict[str, Any]:
        return {
            "programme": self.programme,
            "programme_version": self.programme_version,
            "features": list(self.features),
            "outcomes": list(self.outcomes),
            "patient_ids": list(self.patient_ids),
        }
