"""Codes and units decided once each: small tables that the columns of lines are joined with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import duckdb
import msgspec
import pyarrow as pa

from gemel.core.concepts import Concept
from gemel.core.programme import Programme
from gemel.data_adapters.meaning.arrow_values import table
from gemel.data_adapters.meaning.concepts import ConceptIndex
from gemel.data_adapters.meaning.site_mapping import SiteMapping
from gemel.data_adapters.meaning.units import find_conversion
from gemel.data_adapters.reading.intake import Coding


class Key(NamedTuple):
    """A CodeableConcept: its first coding, and (as JSON) the others and the texts where they matter; "" for none."""

    system: str
    code: str
    more: str
    label: str


CODE_VERDICT = pa.schema(
    [(name, pa.string()) for name in (*Key._fields, "concept", "default_unit")]
    + [("measured", pa.bool_()), ("low", pa.float64()), ("high", pa.float64()), ("place", pa.int16())]
)
UNIT_VERDICT = pa.schema(
    [("concept", pa.string()), ("unit", pa.string()), ("factor", pa.float64()), ("shift", pa.float64())]
)
_decode_codings = msgspec.json.Decoder(list[Coding | None]).decode
_decode_texts = msgspec.json.Decoder(list[str | None]).decode


class Verdicts:
    """The tables `code_verdict` and `unit_verdict` of one connection; they grow by what a batch has anew.

    A code has a row for each of its concepts (none when the programme does not know it), a unit a row for each concept
    that it can be converted to.
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, programme: Programme | None, mapping: SiteMapping
    ) -> None:
        self._connection = connection
        self._mapping = mapping
        self._index = ConceptIndex(programme, mapping) if programme is not None else None
        self._concepts = {concept.name: concept for concept in programme.concepts} if programme else {}
        self._known: dict[Key, bool] = {}
        self._units: set[tuple[str, str]] = set()
        for name, schema in (("code_verdict", CODE_VERDICT), ("unit_verdict", UNIT_VERDICT)):
            connection.register("gemel_rows", table(schema))
            connection.execute(f"CREATE TEMP TABLE {name} AS SELECT * FROM gemel_rows").fetchall()
            connection.unregister("gemel_rows")

    def is_mapped(self, key: Key) -> bool:
        """Whether a code that was decided has a concept."""
        return self._known[key]

    @property
    def has_programme(self) -> bool:
        """Whether there are concepts to look for."""
        return self._index is not None

    def concept(self, name: str) -> Concept:
        """A concept of the programme."""
        return self._concepts[name]

    def decide_codes(self, keys: Iterable[Key]) -> None:
        """Find the concepts of the codes that are new."""
        rows: list[tuple[object, ...]] = []
        for key in keys:
            if key in self._known:
                continue
            found = self._find(key)
            self._known[key] = bool(found)
            for place, (concept, default) in enumerate(found.items()):
                rows.append(
                    (*key, concept.name, default, concept.unit is not None, concept.low, concept.high, place)
                )
        self._insert("code_verdict", CODE_VERDICT, rows)

    def decide_units(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Find the conversions of the (concept, unit) that are new."""
        rows: list[tuple[object, ...]] = []
        for name, unit in pairs:
            if (name, unit) in self._units:
                continue
            self._units.add((name, unit))
            conversion = find_conversion(unit, self._concepts[name], aliases=self._mapping.aliases(name))
            if conversion is not None:
                rows.append((name, unit, conversion.factor, conversion.offset))
        self._insert("unit_verdict", UNIT_VERDICT, rows)

    def _find(self, key: Key) -> dict[Concept, str | None]:
        """The concepts of a code, each with the unit that the site gives it where none is recorded."""
        if self._index is None:
            return {}
        codings = [Coding(key.system, key.code)]
        codings += [coding for coding in _decode_codings(key.more) if coding] if key.more else []
        found: dict[Concept, str | None] = {}
        for coding in codings:
            system, code = coding.system or "", coding.code or ""
            for concept in self._index.find(system, code):
                found.setdefault(concept, self._mapping.default_unit(concept.name, system, code))
        for text in _decode_texts(key.label) if key.label else ():
            for concept in self._index.find_text(text) if text else ():
                found.setdefault(concept, self._mapping.default_unit(concept.name))
        return found

    def _insert(self, name: str, schema: pa.Schema, rows: list[tuple[object, ...]]) -> None:
        if not rows:
            return
        self._connection.register("gemel_rows", table(schema, rows))
        self._connection.execute(f"INSERT INTO {name} SELECT * FROM gemel_rows").fetchall()
        self._connection.unregister("gemel_rows")
