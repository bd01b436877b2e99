"""What only the lines themselves can tell: how records call unknown codes, and which words of a mapping never occur."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Container, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from gemel.data_adapters.meaning.site_mapping import SiteMapping
from gemel.data_adapters.quality.validation import Subject, patient_of
from gemel.data_adapters.reading.json_line import NOT_JSON
from gemel.data_adapters.sources.files import Block, open_export, read_blocks

_MOST_TRIES = 20
_MOST_BYTES = 1 << 28
_MOST_DISPLAY = 120

# A code as JSON writes it, with its quotes.
_SAID_CODE = re.compile(rb'"code"\s*:\s*("(?:[^"\\]|\\.)*")')

_SAID_GENDER = re.compile(rb'"gender"\s*:\s*"')
_MOST_GENDERS = 20
# A longer one, or one with other signs, is no code: perhaps a text that somebody typed.
_GENDER_CODE = re.compile(r"[\w+./-]{1,16}")

_Code = tuple[str, str]


class _Line(Subject):
    code: Any = None
    medicationCodeableConcept: Any = None
    vaccineCode: Any = None
    component: Any = None


class _Person(msgspec.Struct):
    resourceType: str
    id: Any = None
    gender: Any = None


_decode_line = msgspec.json.Decoder(_Line).decode
_decode_person = msgspec.json.Decoder(_Person).decode


def find_genders(export: Path, *, known: Container[object], withheld: Container[object]) -> dict[str, int]:
    """The gender codes of Patients that are not known, with how many lines say each; "" for what is no code."""
    found: Counter[str] = Counter()
    for file in open_export(export):
        for block in read_blocks(file):
            if _SAID_GENDER.search(block.data) is None:
                continue
            for line in block.lines:
                gender = _gender(line, withheld) if _SAID_GENDER.search(line) else None
                if gender and gender not in known:
                    found[gender if _GENDER_CODE.fullmatch(gender) else ""] += 1
    shown = dict(sorted(found.items(), key=lambda item: (-item[1], item[0]))[:_MOST_GENDERS])
    rest = found.total() - sum(shown.values())
    return shown | ({"": shown.get("", 0) + rest} if rest else {})


def _gender(content: bytes, withheld: Container[object]) -> str | None:
    try:
        line = _decode_person(content)
    except (msgspec.ValidationError, *NOT_JSON):
        return None
    if line.resourceType != "Patient" or line.id in withheld:
        return None
    return line.gender if isinstance(line.gender, str) else None


def find_displays(export: Path, codes: Collection[_Code], *, withheld: Container[object]) -> dict[_Code, str]:
    """What records call codes: the first `Coding.display` of each, from no more than 256 MB of the export.

    Texts that people type (`CodeableConcept.text`) are not looked at, and no line of a withheld patient is.
    """
    wanted: dict[bytes, set[_Code]] = {}
    for code in codes:
        if code[1]:
            for form in _written(code[1]):
                wanted.setdefault(form, set()).add(code)
    found: dict[_Code, str] = {}
    tries: Counter[_Code] = Counter()
    read = 0
    for file in open_export(export):
        for block in read_blocks(file):
            for match in _SAID_CODE.finditer(block.data):
                if match.group(1) in wanted:
                    _look(block.data, match, wanted, tries, found, withheld)
            read += len(block.data)
            if not wanted or read > _MOST_BYTES:
                return found
    return found


def _look(
    data: bytes,
    match: re.Match[bytes],
    wanted: dict[bytes, set[_Code]],
    tries: Counter[_Code],
    found: dict[_Code, str],
    withheld: Container[object],
) -> None:
    """Look at a line that says a code, and at the code no more once it has a display, or 20 lines gave none."""
    start, end = data.rfind(b"\n", 0, match.start()) + 1, data.find(b"\n", match.end())
    line = data[start : end if end >= 0 else len(data)]
    form = match.group(1)
    for code in tuple(wanted[form]):
        tries[code] += 1
        display = _display(line, code, withheld)
        if display:
            found[code] = display[:_MOST_DISPLAY]
        if display or tries[code] >= _MOST_TRIES:
            wanted[form].discard(code)
    if not wanted[form]:
        del wanted[form]


def _display(content: bytes, code: _Code, withheld: Container[object]) -> str:
    try:
        line = _decode_line(content)
    except (msgspec.ValidationError, *NOT_JSON):
        return ""
    if patient_of(line) in withheld:
        return ""
    for coding in _codings(line):
        if (coding.get("system") or "", coding.get("code")) == code and isinstance(
            coding.get("display"), str
        ):
            return str(coding["display"])
    return ""


def _codings(line: _Line) -> Iterator[dict[str, Any]]:
    concepts = [line.code, line.medicationCodeableConcept, line.vaccineCode]
    if isinstance(line.component, list):
        concepts += [part.get("code") for part in line.component if isinstance(part, dict)]
    for concept in concepts:
        codings = concept.get("coding") if isinstance(concept, dict) else None
        yield from (coding for coding in codings or () if isinstance(coding, dict))


def _written(text: str) -> tuple[bytes, ...]:
    """A text as JSON may hold it: plain, with escapes for all but ASCII, with escaped slashes."""
    plain = json.dumps(text, ensure_ascii=False).encode("utf-8", "surrogatepass")
    forms = (plain, json.dumps(text).encode(), plain.replace(b"/", b"\\/"))
    return tuple(dict.fromkeys(forms))


class MappingWatch:
    """Watches an export go by for the words that a mapping explains; what is left at the end was never said.

    A word counts as said when any text of the export is it, so an entry is never wrongly called unused for being
    said elsewhere than expected.
    """

    def __init__(self, mapping: SiteMapping) -> None:
        self._pending = {
            name: forms for name, text in _words(mapping).items() if (forms := _written(text)) and text
        }

    def watch(self, block: Block) -> None:
        """Look for what was not seen yet."""
        for name in [n for n, forms in self._pending.items() if any(form in block.data for form in forms)]:
            del self._pending[name]

    def never_seen(self) -> list[str]:
        """The entries whose words never came by, as "place: section key"."""
        return sorted(self._pending)


def _words(mapping: SiteMapping) -> dict[str, str]:
    """What each entry of a mapping looks for, by how reports call the entry."""
    sections: dict[str, Mapping[str, str]] = {
        "codes": {"|".join(key) if key[0] else key[1]: key[1] for key in mapping.codes},
        "texts": {text: text for text in mapping.texts},
        "systems": {name: name for name in mapping.systems},
        "units": {unit: unit for unit in mapping.units},
        "genders": {gender: gender for gender in mapping.genders},
        "finished_statuses": {status: status for status in mapping.finished_statuses},
        "finished_classes": {name: name for name in mapping.finished_classes},
    }
    sections |= {f"units_of.{name}": {u: u for u in units} for name, units in mapping.concept_units.items()}
    return {f"[{section}] {key!r}": text for section, keys in sections.items() for key, text in keys.items()}


def count_entries(mapping: SiteMapping) -> int:
    """How many entries a mapping has."""
    return len(_words(mapping)) + len(mapping.default_units)
