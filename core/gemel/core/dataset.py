"""What a data set is: one row per patient, raw feature values, event times, targets. How it is read is elsewhere."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from gemel.core.canonical import canonical_bytes
from gemel.core.errors import GemelError
from gemel.core.mechanism import HELD_OUT_PERCENT, Share
from gemel.core.series import Series

PREVALENT = -1
CENSORED = 0
OCCURRED = 1

_SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")
_HASHED_AT_ONCE = 1 << 18
_SERIES_PARTS = ("offsets", "days", "values")


def _no_targets() -> NDArray[np.float32]:
    return np.zeros((0, 0), np.float32)


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
        target_names: t names. targets: float32 (n, t); NaN where not known.
        series: By name of its feature or target, a run of (day, value) pairs for each patient.
    """

    programme: str
    programme_version: str
    features: tuple[str, ...]
    outcomes: tuple[str, ...]
    patient_ids: tuple[str, ...]
    values: NDArray[np.float32]
    time_years: NDArray[np.float32]
    event: NDArray[np.int8]
    target_names: tuple[str, ...] = ()
    targets: NDArray[np.float32] = field(default_factory=_no_targets)
    series: Mapping[str, Series] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n, d, k = len(self.patient_ids), len(self.features), len(self.outcomes)
        if not self.target_names and not self.targets.size:
            object.__setattr__(self, "targets", np.zeros((n, 0), np.float32))
        object.__setattr__(self, "series", MappingProxyType(dict(sorted(self.series.items()))))
        shapes = (self.values.shape, self.time_years.shape, self.event.shape, self.targets.shape)
        if shapes != ((n, d), (n, k), (n, k), (n, len(self.target_names))):
            raise ValueError(
                f"inconsistent shapes {shapes} for n={n}, d={d}, k={k}, t={len(self.target_names)}"
            )
        for name, series in self.series.items():
            if len(series) != n:
                raise ValueError(f"inconsistent shapes: series {name} has {len(series)} runs for n={n}")

    def __len__(self) -> int:
        return len(self.patient_ids)

    @property
    def snapshot(self) -> str:
        """SHA-256 over programme, columns, patients and values: equal for equal content on any machine."""
        digest = hashlib.sha256(canonical_bytes(self._header()))
        for array in self._arrays().values():
            for part in _parts(array):
                digest.update(part)
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
            self.target_names,
            self.targets[positions],
            {name: series.take(positions) for name, series in self.series.items()},
        )

    def split(self, *, held_out_percent: int = HELD_OUT_PERCENT) -> tuple[Dataset, Dataset]:
        """(training, held out), decided for each patient by the hash of the pseudonym: stable for ever."""
        held_out = self._held_out(held_out_percent)
        return self.take(~held_out), self.take(held_out)

    def people(self) -> dict[Share, tuple[str, ...]]:
        """The pseudonyms of each share of the patients, as `split` divides them."""
        held_out = self._held_out(HELD_OUT_PERCENT).tolist()
        return {
            Share.EVERYONE: self.patient_ids,
            Share.TRAINING: tuple(p for p, out in zip(self.patient_ids, held_out, strict=True) if not out),
            Share.HELD_OUT: tuple(p for p, out in zip(self.patient_ids, held_out, strict=True) if out),
        }

    def _held_out(self, percent: int) -> NDArray[np.bool_]:
        share = np.array(
            [
                int.from_bytes(hashlib.sha256(f"split:{p}".encode()).digest()[:4], "big") % 100
                for p in self.patient_ids
            ],
            dtype=np.int64,
        )
        return share < percent

    def save(self, path: Path) -> None:
        """Write `path` (safetensors) with the header in its metadata; a reader never sees half a file.

        Raises:
            OSError: when it cannot be written (a full disk); what was at `path` is still there.
        """
        header = canonical_bytes(self._header()).decode()
        temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            save_file(
                {k: np.ascontiguousarray(v) for k, v in self._arrays().items()},
                temporary,
                metadata={"gemel": header, "snapshot": self.snapshot},
            )
            # Whoever has the old file mapped keeps it.
            temporary.replace(path)
        except SafetensorError as error:
            # The library tells what the system said as a text: "... (os error 28)".
            found = _SYSTEM_ERROR.search(str(error))
            number = int(found[1]) if found is not None else errno.EIO
            raise OSError(number, os.strerror(number), str(path)) from error
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path) -> Dataset:
        """Map what `save` wrote: read-only arrays that stay in the file until they are used.

        Raises:
            GemelError: GEM103 when the content differs from its recorded snapshot, or is no data set at all.
        """
        try:
            metadata, arrays = _map(path)
            header = json.loads(metadata["gemel"])
            dataset = cls(
                header["programme"],
                header["programme_version"],
                tuple(header["features"]),
                tuple(header["outcomes"]),
                tuple(header["patient_ids"]),
                arrays["values"],
                arrays["time_years"],
                arrays["event"],
                tuple(header.get("targets", ())),
                arrays.get("targets", _no_targets()),
                {
                    name: Series(*(arrays[f"series.{name}.{part}"] for part in _SERIES_PARTS))
                    for name in header.get("series", ())
                },
            )
        except (SafetensorError, KeyError, ValueError) as error:
            raise GemelError("GEM103", f"{path.name} is not a data set: {type(error).__name__}.") from error
        if dataset.snapshot != metadata.get("snapshot"):
            raise GemelError("GEM103", f"The data set {path.name} differs from its snapshot hash.")
        return dataset

    def _header(self) -> dict[str, Any]:
        header: dict[str, Any] = {
            "programme": self.programme,
            "programme_version": self.programme_version,
            "features": list(self.features),
            "outcomes": list(self.outcomes),
            "patient_ids": list(self.patient_ids),
        }
        # A data set without them keeps the snapshot that it was approved with.
        if self.target_names:
            header["targets"] = list(self.target_names)
        if self.series:
            header["series"] = list(self.series)
        return header

    def _arrays(self) -> dict[str, NDArray[Any]]:
        arrays: dict[str, NDArray[Any]] = {
            "values": self.values,
            "time_years": self.time_years,
            "event": self.event,
        }
        if self.target_names:
            arrays["targets"] = self.targets
        for name, series in self.series.items():
            for part in _SERIES_PARTS:
                arrays[f"series.{name}.{part}"] = getattr(series, part)
        return arrays


def _parts(array: NDArray[Any]) -> Iterator[bytes]:
    """The array's bytes as they are hashed, a part at a time: little endian, one NaN pattern, one zero."""
    little_endian = array.dtype.newbyteorder("<")
    flat = np.ascontiguousarray(array).reshape(-1)
    for start in range(0, flat.size, _HASHED_AT_ONCE):
        part = flat[start : start + _HASHED_AT_ONCE]
        if part.dtype.kind == "f":
            # The hash must not depend on how "missing" was produced.
            part = np.where(np.isnan(part), np.nan, part + 0.0)
        yield part.astype(little_endian).tobytes()


def _map(path: Path) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
    """Metadata and arrays of a safetensors file; the library checks its header, and the arrays are views of the file."""
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
        names = set(file.keys())
    with path.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        layout = json.loads(opened.read(size))
        # A file of no bytes cannot be mapped: that of nobody ends with its header.
        empty = not opened.read(1)
    content = np.zeros(0, np.uint8) if empty else np.memmap(path, np.uint8, "r", offset=8 + size)
    arrays = {}
    for name in names:
        start, end = layout[name]["data_offsets"]
        kind = _DTYPES[layout[name]["dtype"]]
        arrays[name] = content[start:end].view(np.ndarray).view(kind).reshape(layout[name]["shape"])
    return metadata, arrays


_DTYPES: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {"F32": np.dtype("<f4"), "I8": np.dtype("i1"), "I64": np.dtype("<i8")}
)
