"""Apple Health's export (export.xml, or the zip that the telephone writes), streamed; nothing is expanded or fetched.

Apple writes percentages as fractions of 1, repeats the parts of a Correlation as records of their own, and gives all
times by the telephone's clock at the export. Who the person is (`Me`) is not read.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from xml.parsers import expat

from gemel.core.errors import GemelError
from gemel.data_adapters.inputs.fact_writer import FactWriter
from gemel.data_adapters.inputs.links import Link
from gemel.data_adapters.inputs.local_time import local_time
from gemel.data_adapters.inputs.wearables import Recording, WearableKind, wearable_kinds
from gemel.data_adapters.reading.intake import Fault

ENTRY = "apple_health_export/export.xml"
# NotImplementedError and RuntimeError: a method of compression, or a password, that zipfile does not know.
_DAMAGED = (OSError, EOFError, zipfile.BadZipFile, zlib.error, expat.ExpatError)
_CHUNK_BYTES = 1 << 20
_MAX_TEXT_BYTES = 1 << 20
_ASLEEP = "HKCategoryValueSleepAnalysisAsleep"
_MMOL = "mmol<"  # "mmol<180.1558800000541>/L": amount of substance with Apple's molar mass


def read_apple_health(path: Path, name: str, link: Link | None, writer: FactWriter) -> None:
    """Add one person's export as facts: one item a Record (outside of Correlations).

    Raises:
        GemelError: GEM254 inside `writer.file`, which rejects the file as a whole; it does not come out.
    """
    with writer.file(name, "apple health"):
        recording = Recording(writer, link)
        reader = _Reader(recording, writer)
        try:
            with _open(path) as stream:
                reader.parse(stream)
        except (*_DAMAGED, NotImplementedError, RuntimeError) as error:
            raise GemelError("GEM254", f"Apple Health export: {type(error).__name__}: {error}.") from error
        recording.finish()


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    if not zipfile.is_zipfile(path):
        with path.open("rb") as stream:
            yield stream
        return
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.rpartition("/")[2] == "export.xml"]
        if len(names) != 1:
            raise GemelError(
                "GEM254", f"The zip holds {len(names)} files export.xml; expected one ({ENTRY})."
            )
        with archive.open(names[0]) as entry:
            yield entry


class _Reader:
    """Feeds records to a `Recording` as the parser meets them."""

    def __init__(self, recording: Recording, writer: FactWriter) -> None:
        self._recording = recording
        self._writer = writer
        self._kinds: dict[str, WearableKind] = {kind.apple: kind for kind in wearable_kinds() if kind.apple}
        self._correlations = 0
        self._root = ""
        self._parser = expat.ParserCreate()
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        # Apple's own DTD declares elements and attributes only.
        self._parser.EntityDeclHandler = self._refuse
        self._parser.ExternalEntityRefHandler = self._refuse
        self._parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)

    def parse(self, stream: IO[bytes]) -> None:
        """Read to the end."""
        reached = 0
        while chunk := stream.read(_CHUNK_BYTES):
            self._parser.Parse(chunk, False)
            # One token that is larger than this is no export: the parser would hold all of it.
            reached += len(chunk)
            if reached - self._parser.CurrentByteIndex > _CHUNK_BYTES + _MAX_TEXT_BYTES:
                raise GemelError("GEM254", "Apple Health export: a piece of text of more than 1 MiB.")
        self._parser.Parse(b"", True)

    def _refuse(self, *_: object) -> int:
        raise GemelError("GEM254", "Apple Health export: it declares entities, which Apple's does not.")

    def _start(self, tag: str, attributes: Mapping[str, str]) -> None:
        if not self._root:
            self._root = tag
            if tag != "HealthData":
                raise GemelError("GEM254", "The XML is no Apple Health export (HealthData).")
        elif tag == "Correlation":
            self._correlations += 1
        elif tag == "Record" and not self._correlations:
            self._record(attributes)

    def _end(self, tag: str) -> None:
        if tag == "Correlation":
            self._correlations -= 1

    def _record(self, attributes: Mapping[str, str]) -> None:
        name = attributes.get("type", "")
        kind = self._kinds.get(name)
        place = str(self._parser.CurrentLineNumber)
        if kind is None:
            self._writer.not_covered(f"HealthKit|{name}")
            return
        text, unit = attributes.get("value", ""), attributes.get("unit", "")
        start = local_time(attributes.get("startDate", ""))
        end = None if kind.rule == "point" else local_time(attributes.get("endDate", ""))
        value: float | None = None
        if name.startswith("HKCategory"):
            if not text.startswith(_ASLEEP):
                self._writer.exclude("in bed or awake")
                return
        else:
            try:
                value = float(text)
            except ValueError:
                self._writer.reject(place, Fault("GEM214", "", "the value is no number"))
                return
        if unit == "%" and value is not None:
            value *= 100
        if unit.startswith(_MMOL):
            unit = "mmol/L"
        source = attributes.get("sourceName", "")
        self._recording.take(kind, place, value, unit, start, end, source=source)


def looks_like_apple_health(path: Path, head: bytes) -> bool:
    """Whether a file is an Apple Health export, by its content."""
    if b"<HealthData" in head or b"<!DOCTYPE HealthData" in head:
        return True
    if not head.startswith(b"PK"):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.rpartition("/")[2] == "export.xml" for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False
