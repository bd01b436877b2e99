"""Taking lines in: each non-blank line of an export is accepted or rejected, and a rejection says why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from gemel.data_adapters.reading.element_types import is_resource
from gemel.data_adapters.reading.json_line import NOT_JSON, RepeatedKeyError, check_line, infinite_number
from gemel.data_adapters.sources.files import Block, list_unread, open_export, read_blocks

if TYPE_CHECKING:
    from gemel.data_adapters.reading.reader import ReadBlock

MAX_REJECTS_LISTED = 1000


class Fault(NamedTuple):
    """Why a line is rejected: a GEM2xx code, the path of the element, and a text without patient data."""

    code: str
    path: str
    reason: str


class Coding(msgspec.Struct):
    """FHIR Coding, as far as it is used."""

    system: str | None = None
    code: str | None = None


class Meta(msgspec.Struct):
    """FHIR Meta, as far as it is used."""

    versionId: str | None = None
    lastUpdated: str | None = None
    security: list[Coding] | None = None


class Header(msgspec.Struct):
    """What every resource says about itself."""

    resourceType: str
    id: str | None = None
    meta: Meta | None = None
    modifierExtension: list[msgspec.Raw] | None = None


class AcceptedLine(NamedTuple):
    """One line that passed, and where it stands."""

    file: int  # index into the report's files
    line: int
    header: Header
    content: bytes


class FileCount(msgspec.Struct):
    """What became of the lines of one file: read = accepted + rejected; blank lines do not count."""

    file: str
    read: int = 0
    accepted: int = 0
    rejected: int = 0
    types: dict[str, int] = {}


class Reject(msgspec.Struct, frozen=True):
    """One rejected line; `place` says where it stood when that is no line (an entry of a Bundle)."""

    file: str
    line: int
    resource_type: str | None
    path: str
    reason: str
    code: str
    place: str | None = None


class Intake:
    """The account of one reading: files, rejects (listed up to a cap, all counted), entries that were not read."""

    def __init__(self) -> None:
        self.files: list[FileCount] = []
        self.unread: list[str] = []
        self.rejects: list[Reject] = []
        self.by_code: Counter[str] = Counter()

    def add_file(self, name: str) -> int:
        """Begin the account of a file, and give its index."""
        self.files.append(FileCount(name))
        return len(self.files) - 1

    def take_in(self, file: int, block: Block, read: ReadBlock) -> None:
        """Put what became of a block's lines into the account of its file."""
        count = self.files[file]
        count.read += read.read
        for name, number in read.types.items():
            count.accepted += number
            count.types[name] = count.types.get(name, 0) + number
        for line, resource_type, fault in read.faults:
            place = block.places[line] if block.places is not None else None
            self.reject(file, block.first_line + line, resource_type, fault, place=place)

    def reject(
        self, file: int, line: int, resource_type: str | None, fault: Fault, *, place: str | None = None
    ) -> None:
        """Record a rejected line."""
        count = self.files[file]
        count.rejected += 1
        self.by_code[fault.code] += 1
        if len(self.rejects) < MAX_REJECTS_LISTED:
            self.rejects.append(
                Reject(count.file, line, resource_type, fault.path, fault.reason, fault.code, place)
            )

    def take_back(self, line: AcceptedLine, fault: Fault) -> None:
        """Reject a line that had been accepted (an element that a view reads has another type)."""
        count = self.files[line.file]
        count.accepted -= 1
        count.types[line.header.resourceType] -= 1
        self.reject(line.file, line.line, line.header.resourceType, fault)

    def read(self, export: Path, judge: Judge | None = None) -> Iterator[AcceptedLine]:
        """Read an export; `judge` says what is wrong with a line that is a resource. Raises GEM208."""
        self.unread = list_unread(export)
        for index, file in enumerate(open_export(export)):
            count = FileCount(file.name)
            self.files.append(count)
            for block in read_blocks(file):
                is_utf8 = block.is_utf8
                for offset, content in enumerate(block.lines):
                    if not content:
                        continue
                    count.read += 1
                    header = _header(content, is_utf8=is_utf8)
                    if isinstance(header, Fault):
                        self.reject(index, block.first_line + offset, None, header)
                        continue
                    fault = line_fault(content)
                    if fault is None and judge is not None:
                        fault = judge(header, content)
                    if fault is not None:
                        self.reject(index, block.first_line + offset, header.resourceType, fault)
                        continue
                    count.accepted += 1
                    count.types[header.resourceType] = count.types.get(header.resourceType, 0) + 1
                    yield AcceptedLine(index, block.first_line + offset, header, content)


Judge = Callable[[Header, bytes], Fault | None]

_decode_header = msgspec.json.Decoder(Header).decode


def _header(content: bytes, *, is_utf8: bool) -> Header | Fault:
    if not is_utf8:
        try:
            content.decode("utf-8")
        except UnicodeDecodeError as error:
            return Fault("GEM201", "$", f"not UTF-8 at byte {error.start}")
    try:
        header = _decode_header(content)
    except msgspec.ValidationError as error:
        return type_fault(error)
    except NOT_JSON as error:
        return Fault("GEM201", "$", f"not JSON: {error}")
    if header.resourceType == "Bundle":
        return Fault("GEM215", "$.entry", "a Bundle: write each of its resources on a line of its own")
    if not is_resource(header.resourceType):
        return Fault("GEM214", "$.resourceType", "no resource type of FHIR R4")
    return header


def line_fault(content: bytes) -> Fault | None:
    """What is wrong with a line as JSON, or None."""
    try:
        check_line(content)
    except msgspec.ValidationError as error:
        return Fault("GEM214", infinite_number(content), str(error).partition(" - at `")[0])
    except RepeatedKeyError as error:
        return Fault("GEM201", "$", str(error))
    except NOT_JSON as error:
        return Fault("GEM201", "$", f"not JSON: {error}")
    return None


def type_fault(error: msgspec.ValidationError) -> Fault:
    """The fault of a line that is JSON but has an element missing or of a wrong type."""
    reason, _, path = str(error).partition(" - at `")
    path = path.rstrip("`") or "$"
    if "missing required field" in reason:
        return Fault("GEM207", path, reason)
    if path == "$":
        return Fault("GEM201", path, reason)
    return Fault("GEM214", path, reason)
