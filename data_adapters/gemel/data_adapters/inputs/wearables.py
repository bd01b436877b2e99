"""What wearables record, in LOINC, and totals of a day or night that no device counts twice.

A telephone and a watch count the same steps. Of a day's steps the source that counted most is taken; they are not
added up. Hours asleep are those that any source says, each once; a night belongs to the day on which it ends, where
what ends after 18:00 belongs to the next.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from importlib.resources import files
from typing import Literal

import msgspec

from gemel.core.concepts import LOINC, Concept
from gemel.data_adapters.inputs.account import Outcome
from gemel.data_adapters.inputs.fact_writer import FactWriter, is_plausible_day
from gemel.data_adapters.inputs.links import Link
from gemel.data_adapters.reading.intake import Fault

Rule = Literal["point", "day_total", "night_total"]

MAX_INTERVAL = timedelta(days=2)
_EVENING = timedelta(hours=6)  # from 18:00 to midnight

# What wearables write for what has no UCUM unit of that spelling.
UNITS = {
    "count/min": "/min",
    "beats/min": "/min",
    "breaths/min": "/min",
    "count": "1",
    "steps": "1",
    "lb": "[lb_av]",
    "in": "[in_i]",
    "ft": "[ft_i]",
    "degC": "Cel",
    "C": "Cel",
    "degF": "[degF]",
    "F": "[degF]",
    "sec": "s",
    "hr": "h",
}


class WearableKind(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One thing that wearables record: its names there, its LOINC code, how records become a fact.

    `units` are the spellings that mean something else for it than for others, and their UCUM.
    """

    loinc: str
    rule: Rule
    mark: str
    apple: str = ""
    omh: dict[str, str] = {}
    units: dict[str, str] = {}

    @property
    def spellings(self) -> Mapping[str, str]:
        """What wearables write for a unit, and its UCUM."""
        return UNITS | self.units


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    source: str
    kinds: tuple[WearableKind, ...]


@functools.cache
def wearable_kinds() -> tuple[WearableKind, ...]:
    """The shipped table; its marks say where each code was checked."""
    content = files("gemel.data_adapters.inputs").joinpath("wearable_codes.json").read_bytes()
    return msgspec.json.decode(content, type=_Table).kinds


class Recording:
    """One person's records from one file, taken one by one; `finish` writes the totals.

    Args:
        writer: Takes the facts and counts.
        link: Whose they are; None when nobody of the export is linked.
    """

    def __init__(self, writer: FactWriter, link: Link | None) -> None:
        self._writer = writer
        self._link = link
        self._blocked = writer.whose(link)
        self._kinds: dict[str, WearableKind] = {}
        self._totals: dict[tuple[str, date], dict[str, tuple[float, str, int]]] = defaultdict(dict)
        self._nights: dict[tuple[str, date], list[tuple[datetime, datetime]]] = defaultdict(list)

    def take(
        self,
        kind: WearableKind,
        place: str,
        value: float | None,
        unit: str,
        start: datetime | None,
        end: datetime | None,
        *,
        source: str = "",
    ) -> None:
        """Take one record: a value, or for `night_total` without one the time asleep from `start` to `end`."""
        concepts = self._writer.index.find(LOINC, kind.loinc)
        if not concepts:
            self._writer.not_covered(f"{LOINC}|{kind.loinc}")
            return
        if self._blocked is not None or self._link is None:
            self._writer.count(self._blocked or Outcome.ORPHAN)
            return
        fault = _time_fault(start, end, needs_end=kind.rule != "point")
        if fault is not None or start is None:
            self._writer.reject(place, fault or Fault("GEM210", "", "no time"))
            return
        self._kinds[kind.loinc] = kind
        night = ((end or start) + _EVENING).date()
        if kind.rule == "night_total" and value is None:
            self._nights[kind.loinc, night].append((start, end or start))
        elif value is None:
            self._writer.reject(place, Fault("GEM207", "", "the record has no number"))
        elif kind.rule != "point":
            day = night if kind.rule == "night_total" else start.date()
            self._take_part(kind, place, value, unit, day, source)
        else:
            self._take_point(kind, concepts, place, value, unit, start)

    def finish(self) -> None:
        """Write the totals of days and nights."""
        for (loinc, day), sources in sorted(self._totals.items()):
            total, unit, items = max(sources.values())
            others = sum(count for _, _, count in sources.values()) - items
            self._total(loinc, day, total, unit, items)
            if others:
                self._writer.exclude("the same day or night by another device", others)
        for (loinc, day), spans in sorted(self._nights.items()):
            self._total(loinc, day, _union_hours(spans), "h", len(spans))
        self._totals.clear()
        self._nights.clear()

    def _take_point(
        self,
        kind: WearableKind,
        concepts: tuple[Concept, ...],
        place: str,
        value: float,
        unit: str,
        at: datetime,
    ) -> None:
        values = [(c, self._writer.convert(c, value, unit, spellings=kind.spellings)) for c in concepts]
        faults = [found for _, found in values if isinstance(found, Fault)]
        if faults or self._link is None:
            self._writer.reject(place, faults[0])
            return
        for concept, found in values:
            if not isinstance(found, Fault):
                self._writer.add(concept, self._link, at, value=found)
        self._writer.count(Outcome.USED)

    def _take_part(
        self, kind: WearableKind, place: str, value: float, unit: str, day: date, source: str
    ) -> None:
        if value < 0:
            self._writer.reject(place, Fault("GEM206", "", "a total below 0"))
            return
        sources = self._totals[kind.loinc, day]
        total, first_unit, items = sources.get(source, (0.0, unit, 0))
        if unit != first_unit:
            self._writer.reject(place, Fault("GEM203", "", "another unit than the first record of the day"))
            return
        sources[source] = (total + value, unit, items + 1)

    def _total(self, loinc: str, day: date, value: float, unit: str, items: int) -> None:
        """Write one total of `items` records."""
        concepts = self._writer.index.find(LOINC, loinc)
        spellings = self._kinds[loinc].spellings
        values = [(c, self._writer.convert(c, value, unit, spellings=spellings)) for c in concepts]
        faults = [found for _, found in values if isinstance(found, Fault)]
        if faults or self._link is None:
            # The records are well formed; it is their total that cannot be.
            self._writer.reject(f"total of {loinc}", faults[0], items)
            return
        for concept, found in values:
            if not isinstance(found, Fault):
                self._writer.add(concept, self._link, day, value=found)
        self._writer.count(Outcome.USED, items)


def _time_fault(start: datetime | None, end: datetime | None, *, needs_end: bool) -> Fault | None:
    if start is None or not is_plausible_day(start.date()):
        return Fault("GEM210", "", "no usable start")
    if needs_end and (end is None or end < start or end - start > MAX_INTERVAL):
        return Fault("GEM210", "", "no usable end: missing, before the start, or more than two days later")
    return None


def _union_hours(spans: list[tuple[datetime, datetime]]) -> float:
    """Hours that at least one span covers."""
    total, reached = timedelta(), datetime.min
    for start, stop in sorted(spans):
        total += max(stop - max(start, reached), timedelta())
        reached = max(reached, stop)
    return total / timedelta(hours=1)
