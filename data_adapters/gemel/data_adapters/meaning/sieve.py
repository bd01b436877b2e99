"""Observations of no concept, told apart in whole columns: most lines of an export, and they need no rule but a few.

What the sieve keeps back is certain: the lines are well formed, count, name a day, and have one coding that neither
the programme nor the site's mapping knows. `Judge` would say of each only that its code is unknown. Whatever is not so
plain is left to `Judge`, so the account is the same with and without the sieve.
"""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gemel.core.programme import Programme
from gemel.data_adapters.meaning.arrow_values import column, mask, scalar
from gemel.data_adapters.meaning.concepts import ConceptIndex
from gemel.data_adapters.meaning.consent import Withheld
from gemel.data_adapters.meaning.site_mapping import SiteMapping
from gemel.data_adapters.meaning.statements import usable_observations

# Days that are there in every year, and no placeholder (see `dates`); a time of any form that `dates` takes.
_DAY = (
    r"(18[5-9]\d|19\d\d|2[0-2]\d\d)-"
    r"((0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|(0[469]|11)-(0[1-9]|[12]\d|30)|02-(0[1-9]|1\d|2[0-8]))"
)
_PLAIN_TIME = (
    rf"\A{_DAY}(T([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d+)?)?(Z|[+-](0\d|1[0-3]):[0-5]\d|[+-]14:00)?)?\z"
)
_ONE, _NOTHING = scalar(pa.int32(), 1), scalar(pa.string(), "")
_PATIENT = "Patient/"
_PLAIN_REFERENCE = rf"\A{_PATIENT}[^/?]+\z"


@dataclass
class Plain:
    """Lines of no concept: their number is in the account, and nothing else is made of them.

    Attributes:
        lines: `line` and `r` with only the id, for `Versions`.
        unmapped: How many have which (system, code).
        subjects: How many name which patient: columns resource, patient_id, lines.
    """

    lines: pa.RecordBatch
    unmapped: Counter[tuple[str, str]] = field(default_factory=Counter)
    subjects: pa.Table | None = None


class Sieve:
    """Takes the plain lines out of batches of Observations; any number of threads may share one."""

    def __init__(self, programme: Programme | None, mapping: SiteMapping, withheld: Withheld) -> None:
        self._index = ConceptIndex(programme, mapping) if programme is not None else None
        self._looks_at_texts = bool(mapping.texts)
        self._statuses = column(pa.string(), usable_observations(mapping))
        self._refused = _references(withheld.ids)
        self._allowed = None if withheld.only is None else _references(withheld.only)

    def sift(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, Plain | None]:
        """The lines that are to be judged, and the plain ones."""
        if self._looks_at_texts:
            return batch, None
        said = _fields(batch.column("r"))
        well_formed = pc.indices_nonzero(self._well_formed(said))
        codings = _fields(said["code"])["coding"].take(well_formed).flatten()
        pairs, number = _pairs(codings)
        unknown = np.array([not self._is_mapped(*pair) for pair in pairs], bool)[number]
        plain = np.frombuffer(well_formed.buffers()[1], np.uint64)[: len(well_formed)][unknown]
        if not len(plain):
            return batch, None
        rest = np.ones(len(batch), bool)
        rest[plain] = False
        rows = pa.Array.from_buffers(pa.uint64(), len(plain), [None, pa.py_buffer(plain)])
        lines = pa.RecordBatch.from_arrays(
            [batch.column("line").take(rows), pa.StructArray.from_arrays([said["id"].take(rows)], ["id"])],
            ["line", "r"],
        )
        kept = Plain(lines, subjects=_subjects(_fields(said["subject"])["reference"].take(rows)))
        if self._index is not None:
            counts = np.bincount(number[unknown], minlength=len(pairs)).tolist()
            kept.unmapped = Counter({pair: n for pair, n in zip(pairs, counts, strict=True) if n})
        return batch.filter(mask(rest)), kept

    def _is_mapped(self, system: str, code: str) -> bool:
        return self._index is not None and bool(self._index.find(system, code))

    def _well_formed(self, said: dict[str, Any]) -> pa.BooleanArray:
        """True for lines at which no rule takes offence, and of which no count but that of codes takes note."""
        quantity = _fields(said["valueQuantity"])
        reference = _fields(said["subject"])["reference"]
        unit = pc.or_kleene(*(_is_filled(quantity[name]) for name in ("code", "unit")))
        conditions = [
            pc.equal(pc.list_value_length(_fields(said["code"])["coding"]), _ONE),
            *(
                _is_empty(some)
                for some in (
                    said["modifierExtension"],
                    said["component"],
                    _fields(said["meta"])["security"],
                )
            ),
            *(pc.is_null(said[name]) for name in ("context", "dataAbsentReason", "valueSampledData")),
            pc.or_kleene(
                pc.is_null(said["valueQuantity"]),
                pc.and_(pc.is_null(said["valueString"]), pc.is_null(said["valueInteger"])),
            ),
            pc.is_null(quantity["comparator"]),
            pc.or_kleene(pc.is_null(quantity["value"]), unit),
            pc.is_in(said["status"], value_set=self._statuses),
            pc.match_substring_regex(reference, _PLAIN_REFERENCE),
            pc.match_substring_regex(said["effectiveDateTime"], _PLAIN_TIME),
        ]
        if len(self._refused):
            conditions.append(pc.invert(pc.is_in(reference, value_set=self._refused)))
        if self._allowed is not None:
            conditions.append(pc.is_in(reference, value_set=self._allowed))
        return functools.reduce(pc.and_, conditions)


def _references(ids: frozenset[str]) -> pa.Array:
    return column(pa.string(), [_PATIENT + key for key in sorted(ids)])


def _fields(column: pa.StructArray) -> dict[str, Any]:
    """The children of a struct, NULL where it is."""
    return dict(zip((child.name for child in column.type), column.flatten(), strict=True))


def _is_filled(texts: pa.StringArray) -> pa.BooleanArray:
    return pc.binary_length(texts).cast(pa.bool_())


def _is_empty(lists: pa.ListArray) -> pa.BooleanArray:
    return pc.or_kleene(pc.is_null(lists), pc.invert(pc.list_value_length(lists).cast(pa.bool_())))


def _pairs(codings: pa.StructArray) -> tuple[list[tuple[str, str]], np.ndarray[Any, Any]]:
    """The different (system, code), and which of them each coding is."""
    texts = _fields(codings)
    systems, codes = (pc.coalesce(texts[name], _NOTHING).dictionary_encode() for name in ("system", "code"))
    both = _numbers(systems.indices).astype(np.int64) * len(codes.dictionary) + _numbers(codes.indices)
    different, number = np.unique(both, return_inverse=True)
    first, second = systems.dictionary.to_pylist(), codes.dictionary.to_pylist()
    pairs = [(first[i // len(second)], second[i % len(second)]) for i in different.tolist()]
    return pairs, number


def _numbers(indices: pa.Int32Array) -> np.ndarray[Any, Any]:
    # `to_numpy()` would import pandas.
    return np.frombuffer(indices.buffers()[1], np.int32)[indices.offset : indices.offset + len(indices)]


def _subjects(references: pa.StringArray) -> pa.Table:
    counted = pc.value_counts(references)
    ids = pc.binary_replace_slice(counted.field("values").cast(pa.binary()), 0, len(_PATIENT), b"")
    resource = pa.repeat(scalar(pa.string(), "Observation"), len(counted))
    columns = [resource, ids.cast(pa.string()), counted.field("counts")]
    return pa.Table.from_arrays(columns, names=["resource", "patient_id", "lines"])
