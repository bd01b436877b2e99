"""Taking lines in: each non-blank line of an export is accepted or rejected, and a rejection says why."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from gemel.data_adapters.reading.json_line import NOT_JSON, RepeatedKeyError, check_line, infinite_number
from gemel.data_adapters.sources.compression import ReadLimits
from gemel.data_adapters.sources.files import Block

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
            if line in block.too_long:
                # The reader saw a stand-in only.
                resource_type, fault = None, _TOO_LONG
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


_TOO_LONG = Fault("GEM201", "$", f"longer than the limit of {ReadLimits.max_line_bytes:,} bytes")


def not_json(error: Exception) -> Fault:
    """The fault of a line that gave one of `NOT_JSON`."""
    if isinstance(error, RecursionError):
        return Fault("GEM201", "$", "nested too deeply")
    return Fault("GEM201", "$", f"not JSON: {error}")


def line_fault(content: bytes) -> Fault | None:
    """What is wrong with a line as JSON, or None."""
    try:
        check_line(content)
    except msgspec.ValidationError as error:
        return Fault("GEM214", infinite_number(content), str(error).partition(" - at `")[0])
    except RepeatedKeyError as error:
        return Fault("GEM201", "$", str(error))
    except NOT_JSON as error:
        return not_json(error)
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
