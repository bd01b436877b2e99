"""FHIR SampledData: a series of numbers in one element, taken apart into timed values and bounds.

A value is origin + factor * number (FHIR R4, 2.24.0.13.1). "E" is an error, "U" above and "L" below the limits of
detection, which are in the values' own unit.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec

from gemel.core.concepts import Concept
from gemel.data_adapters.inputs.account import Outcome
from gemel.data_adapters.inputs.fact_writer import FactWriter, is_plausible_day
from gemel.data_adapters.inputs.links import Link, patient_of
from gemel.data_adapters.inputs.local_time import local_time
from gemel.data_adapters.reading.intake import Coding, Fault
from gemel.data_adapters.reading.json_line import NOT_JSON
from gemel.data_adapters.sources.files import ExportFile, read_blocks

USABLE_STATUSES = ("final", "amended", "corrected")
# Hours of an electrocardiogram: no feature of a patient's data set is made of single points of more.
MAX_NUMBERS = 1_000_000
_MARK = b"SampledData"
_BEYOND = {"U": ">", "L": "<"}


class Origin(msgspec.Struct):
    """The SimpleQuantity that is added to each number; its unit is the unit of the values."""

    value: float | None = None
    unit: str | None = None
    code: str | None = None


class SampledData(msgspec.Struct):
    """FHIR R4 SampledData; `interval` is R5's."""

    origin: Origin | None = None
    period: float | None = None
    factor: float = 1.0
    lowerLimit: float | None = None
    upperLimit: float | None = None
    dimensions: int | None = None
    data: str | None = None
    interval: float | None = None


class TimedValue(NamedTuple):
    """One point: in the origin's unit; `bound` says that the value lies beyond what could be measured."""

    at: datetime
    value: float
    bound: str | None


def expand(sampled: SampledData, start: datetime) -> tuple[list[TimedValue], int] | Fault:
    """The points of a series, and how many were errors of the device ("E"); or why it cannot be read.

    Args:
        sampled: The element. The first point is at `start`, each further one `period` milliseconds later.
        start: Wall clock, without a zone.
    """
    fault = _fault(sampled)
    if fault is not None:
        return fault
    origin = (sampled.origin or Origin()).value or 0.0
    period = timedelta(milliseconds=sampled.period or 0.0)
    low, high = sampled.lowerLimit, sampled.upperLimit
    points: list[TimedValue] = []
    errors = 0
    for i, token in enumerate((sampled.data or "").split()):
        at = start + i * period
        if token == "E":  # noqa: S105 - the standard's letter for an error
            errors += 1
        elif token in _BEYOND:
            bound = _BEYOND[token]
            limit = high if bound == ">" else low
            if limit is None:
                return Fault("GEM207", "$.data", f"{token} stands in the data, and its limit is not given")
            points.append(TimedValue(at, limit, bound))
        else:
            value = _number(token)
            if value is None:
                return Fault("GEM214", "$.data", "something that is no decimal number, E, U or L")
            value = origin + sampled.factor * value
            if (low is not None and value < low) or (high is not None and value > high):
                reason = "a value lies beyond the limits that the same element gives: factor, origin or limit is wrong"
                return Fault("GEM214", "$.data", reason)
            points.append(TimedValue(at, value, None))
    return points, errors


def _fault(sampled: SampledData) -> Fault | None:
    if sampled.interval is not None and sampled.period is None:
        return Fault("GEM213", "$.interval", "interval is of FHIR R5; R4 has period")
    if sampled.origin is None or sampled.origin.value is None:
        return Fault("GEM207", "$.origin", "no origin")
    if sampled.period is None or not math.isfinite(sampled.period) or sampled.period <= 0:
        return Fault("GEM207", "$.period", "no period above 0")
    if sampled.dimensions != 1:
        return Fault("GEM215", "$.dimensions", "one code cannot name more than one dimension")
    if not sampled.data:
        return Fault("GEM207", "$.data", "no data")
    if len(sampled.data) > 2 * MAX_NUMBERS and len(sampled.data.split()) > MAX_NUMBERS:
        return Fault("GEM215", "$.data", f"more than {MAX_NUMBERS} numbers")
    span_days = sampled.period * len(sampled.data) / 86_400_000
    return Fault("GEM214", "$.period", "the series would last for centuries") if span_days > 80_000 else None


def _number(token: str) -> float | None:
    try:
        value = float(token)
    except ValueError:
        return None
    # "nan", "inf" and "1_0" are Python's numbers, not FHIR's.
    return value if math.isfinite(value) and "_" not in token else None


class _Code(msgspec.Struct):
    coding: list[Coding] | None = None


class _Reference(msgspec.Struct):
    reference: str | None = None


class _Period(msgspec.Struct):
    start: str | None = None


class _Meta(msgspec.Struct):
    versionId: str | None = None
    lastUpdated: str | None = None


class _Part(msgspec.Struct):
    code: _Code | None = None
    valueSampledData: SampledData | None = None
    modifierExtension: list[msgspec.Raw] | None = None


class _Observation(msgspec.Struct):
    resourceType: str
    id: str | None = None
    meta: _Meta | None = None
    status: str | None = None
    code: _Code | None = None
    subject: _Reference | None = None
    effectiveDateTime: str | None = None
    effectiveInstant: str | None = None
    effectivePeriod: _Period | None = None
    valueSampledData: SampledData | None = None
    component: list[_Part] | None = None
    modifierExtension: list[msgspec.Raw] | None = None


_decode = msgspec.json.Decoder(_Observation).decode


def read_sampled_data(files: Sequence[ExportFile], writer: FactWriter) -> None:
    """Add the SampledData of an export's Observations as facts; one item a point, or an element left out as a whole.

    Of several versions of an Observation the newest counts, among those that hold SampledData. What else the export
    holds is none of this reader's business.
    """
    newest = _newest(files)
    for number, file in enumerate(files):
        with writer.file(file.name, "sampled data"):
            for place, content in _marked(file):
                observation = _read(content)
                if isinstance(observation, Fault):
                    writer.reject(place, observation)
                elif newest[observation.id or ""][-2:] != (number, place):
                    writer.exclude("an older version, or a copy")
                else:
                    _add(observation, place, writer)


def _marked(file: ExportFile) -> Iterator[tuple[str, bytes]]:
    for block in read_blocks(file):
        if _MARK not in block.data:
            continue
        for offset, content in enumerate(block.lines):
            if _MARK in content:
                yield block.places[offset] if block.places else str(block.first_line + offset), content


def _read(content: bytes) -> _Observation | Fault:
    try:
        observation = _decode(content)
    except NOT_JSON:
        return Fault("GEM214", "$", "no Observation with SampledData as FHIR R4 has it")
    if observation.resourceType != "Observation" or not observation.id:
        return Fault("GEM207", "$.id", "no Observation with an id")
    if observation.modifierExtension:
        return Fault("GEM215", "$.modifierExtension", "a modifier extension may turn its meaning")
    return observation


_Rank = tuple[float, int, bytes, int, str]


def _newest(files: Sequence[ExportFile]) -> dict[str, _Rank]:
    """The highest (lastUpdated, versionId, content) of each id, and where it stands: file and line."""
    newest: dict[str, _Rank] = {}
    for number, file in enumerate(files):
        for place, content in _marked(file):
            observation = _read(content)
            if isinstance(observation, Fault):
                continue
            meta = observation.meta or _Meta()
            text = meta.versionId or ""
            version = int(text) if text.isdecimal() and text.isascii() and len(text) < 19 else -1
            digest = hashlib.sha256(content).digest()
            rank = (_instant(meta.lastUpdated), version, digest, number, place)
            newest[observation.id or ""] = max(rank, newest.get(observation.id or "", rank))
    return newest


def _instant(text: str | None) -> float:
    """Seconds of a FHIR instant; -inf for none."""
    try:
        return datetime.fromisoformat(text or "").timestamp()
    except (ValueError, OverflowError):
        return -math.inf


def _add(observation: _Observation, place: str, writer: FactWriter) -> None:
    parts = [_Part(observation.code, observation.valueSampledData), *(observation.component or ())]
    parts = [part for part in parts if part.valueSampledData is not None]
    if observation.status not in USABLE_STATUSES:
        writer.exclude(f"Observation: status {observation.status or 'missing'}", len(parts))
        return
    period = observation.effectivePeriod or _Period()
    when = observation.effectiveDateTime or observation.effectiveInstant or period.start
    start = local_time(when or "")
    reference = observation.subject.reference if observation.subject is not None else None
    link = Link(patient_of(reference)) if reference else None
    for part in parts:
        concepts, code = _concepts(part, writer)
        blocked = writer.whose(link)
        if part.modifierExtension:
            writer.reject(place, Fault("GEM215", "$.component", "a modifier extension may turn its meaning"))
        elif start is None or not is_plausible_day(start.date()):
            writer.reject(place, Fault("GEM210", "$.effectiveDateTime", "no time with seconds to start from"))
        elif not concepts:
            writer.not_covered(code)
        elif blocked is not None or link is None:
            writer.count(blocked or Outcome.ORPHAN)
        else:
            _add_part(part, concepts, start, link, place, writer)


def _concepts(part: _Part, writer: FactWriter) -> tuple[tuple[Concept, ...], str]:
    codings = [coding for coding in (part.code.coding if part.code else None) or () if coding.code]
    found = {
        c.name: c for coding in codings for c in writer.index.find(coding.system or "", coding.code or "")
    }
    code = f"{codings[0].system or ''}|{codings[0].code}" if codings else "|"
    return tuple(found.values()), code


def _add_part(
    part: _Part, concepts: tuple[Concept, ...], start: datetime, link: Link, place: str, writer: FactWriter
) -> None:
    sampled = part.valueSampledData or SampledData()
    expanded = expand(sampled, start)
    if isinstance(expanded, Fault):
        writer.reject(place, expanded)
        return
    points, errors = expanded
    origin = sampled.origin or Origin()
    unit = origin.code or origin.unit or ""
    for concept in concepts:  # What is wrong with a unit is so for every point: it is said once.
        fault = writer.unit_fault(concept, unit)
        if fault is not None:
            writer.reject(place, fault)
            return
    if errors:
        writer.exclude("an error of the device (E)", errors)
    for point in points:
        values = [(concept, writer.convert(concept, point.value, unit)) for concept in concepts]
        faults = [value for _, value in values if isinstance(value, Fault)]
        if faults:
            writer.reject(place, faults[0])
            continue
        for concept, value in values:
            if not isinstance(value, Fault):
                writer.add(concept, link, point.at, value=value, bound=point.bound)
        writer.count(Outcome.USED)
