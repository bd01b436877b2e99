"""Open mHealth data points: JSON objects one a line, one document, or an array of them (header.schema_id, body)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from gemel.core.errors import GemelError
from gemel.data_adapters.inputs.fact_writer import FactWriter
from gemel.data_adapters.inputs.links import Links
from gemel.data_adapters.inputs.local_time import local_time
from gemel.data_adapters.inputs.wearables import Recording, WearableKind, wearable_kinds
from gemel.data_adapters.reading.intake import Fault
from gemel.data_adapters.reading.json_line import NOT_JSON

_MAX_DOCUMENT_BYTES = 1 << 28
_BOM = b"\xef\xbb\xbf"
_NAMESPACES = ("omh", "ieee")
# schema duration-unit-value: calendar units are left out, they have no fixed length.
_DURATION_S = {"sec": 1.0, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


class _SchemaId(msgspec.Struct):
    namespace: str = ""
    name: str = ""
    version: str = ""


class _Provenance(msgspec.Struct):
    source_name: str = ""


class _Header(msgspec.Struct):
    schema_id: _SchemaId
    user_id: str | None = None
    acquisition_provenance: _Provenance | None = None


class _UnitValue(msgspec.Struct):
    value: float
    unit: str = ""


class _Interval(msgspec.Struct):
    start_date_time: str | None = None
    end_date_time: str | None = None
    duration: _UnitValue | None = None


class _TimeFrame(msgspec.Struct):
    date_time: str | None = None
    time_interval: _Interval | None = None


class DataPoint(msgspec.Struct):
    """One data point: `body` is read further by the schema that the header names."""

    header: _Header
    body: dict[str, msgspec.Raw]


_decode = msgspec.json.Decoder(DataPoint).decode
_decode_value = msgspec.json.Decoder(_UnitValue | float).decode
_decode_frame = msgspec.json.Decoder(_TimeFrame).decode


def read_open_mhealth(path: Path, name: str, links: Links, writer: FactWriter) -> None:
    """Add data points as facts; one item a value (a blood pressure has two).

    Whose a point is says its header's user_id by the table of links, else the file's name, else its folder's.
    """
    names = (name, path.stem, path.parent.name)
    by_schema: dict[str, list[tuple[WearableKind, str]]] = {}
    for kind in wearable_kinds():
        for schema, element in kind.omh.items():
            by_schema.setdefault(schema, []).append((kind, element))
    with writer.file(name, "open mhealth"):
        recordings: dict[str | None, Recording] = {}
        for place, content in _points(path):
            try:
                point = _decode(content)
            except NOT_JSON:
                writer.reject(
                    place, Fault("GEM201", "", "no Open mHealth data point (header.schema_id and body)")
                )
                continue
            user = point.header.user_id
            if user not in recordings:
                known = (user, *names) if user is not None else (path.stem, *names)
                recordings[user] = Recording(writer, links.find_subject(*known))
            _take(point, by_schema, place, recordings[user], writer)
        for recording in recordings.values():
            recording.finish()


def _points(path: Path) -> Iterator[tuple[str, bytes | msgspec.Raw]]:
    """Each data point and where it stands."""
    try:
        with path.open("rb") as stream:
            first_line = stream.readline(_MAX_DOCUMENT_BYTES).removeprefix(_BOM).strip()
        if first_line.startswith(b"{") and first_line.endswith(b"}"):
            yield from _lines(path)
            return
        if path.stat().st_size > _MAX_DOCUMENT_BYTES:
            raise GemelError(
                "GEM254", "An Open mHealth document of more than 256 MiB: write one data point a line."
            )
        content = path.read_bytes().removeprefix(_BOM).lstrip()
    except OSError as error:
        raise GemelError("GEM254", f"An Open mHealth file cannot be read: {error}.") from error
    if not content.startswith(b"["):
        yield "1", content
        return
    try:
        entries = msgspec.json.decode(content, type=list[msgspec.Raw])
    except NOT_JSON as error:
        raise GemelError("GEM254", "An Open mHealth array is no JSON to its end.") from error
    for number, entry in enumerate(entries):
        yield f"[{number}]", entry


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    with path.open("rb") as stream:
        number = 0
        while line := stream.readline(_MAX_DOCUMENT_BYTES):
            number += 1
            if not line.isspace():
                yield str(number), line.removeprefix(_BOM)


def _take(
    point: DataPoint,
    by_schema: dict[str, list[tuple[WearableKind, str]]],
    place: str,
    recording: Recording,
    writer: FactWriter,
) -> None:
    schema = point.header.schema_id
    kinds = by_schema.get(schema.name, []) if schema.namespace in _NAMESPACES else []
    kinds = [(kind, element) for kind, element in kinds if element in point.body]
    if not kinds:
        writer.not_covered(f"{schema.namespace}|{schema.name}")
        return
    if "descriptive_statistic" in point.body:
        writer.exclude("a statistic of other values", len(kinds))
        return
    provenance = point.header.acquisition_provenance
    for kind, element in kinds:
        try:
            value = _decode_value(point.body[element])
            start, end = _times(_decode_frame(point.body.get("effective_time_frame", msgspec.Raw(b"{}"))))
        except NOT_JSON:
            writer.reject(
                place, Fault("GEM214", f"$.body.{element}", "a value or time frame of another form")
            )
            continue
        number, unit = (value.value, value.unit) if isinstance(value, _UnitValue) else (value, "")
        if not unit and kind.loinc == "41950-7":
            unit = "steps"  # step-count 1.x and 2.x: a number of steps, without a unit
        source = provenance.source_name if provenance is not None else ""
        recording.take(kind, place, number, unit, start, end, source=source)


def _times(frame: _TimeFrame) -> tuple[datetime | None, datetime | None]:
    """Start and end of a time frame; the same of a point in time, None where it says only a part of a day."""
    if frame.date_time is not None:
        at = local_time(frame.date_time)
        return at, at
    interval = frame.time_interval or _Interval()
    start = local_time(interval.start_date_time or "")
    end = local_time(interval.end_date_time or "")
    seconds = None
    if interval.duration is not None and interval.duration.unit in _DURATION_S:
        seconds = interval.duration.value * _DURATION_S[interval.duration.unit]
    if seconds is not None and 0 <= seconds < 1e9:
        span = timedelta(seconds=seconds)
        if start is None and end is not None and end > datetime(1800, 1, 1) + span:
            start = end - span
        elif end is None and start is not None and start.year < 2500:
            end = start + span
    return start, end


def looks_like_open_mhealth(head: bytes) -> bool:
    """Whether a file's start is that of an Open mHealth data point."""
    return b'"schema_id"' in head and b'"header"' in head
