"""Damaged lines of real exports, read by both readers and by `fhir.resources`: the counts behind `make fuzz`.

python tests/support/damaged_lines.py 100000
"""

import argparse
import gzip
import json
import random
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gemel.data_adapters.reading.element_types import PRIMITIVE_TYPES
from gemel.data_adapters.reading.reader import ReadBlock, native_is_built, open_reader
from gemel.data_adapters.reading.shape import Shape
from gemel.data_adapters.sources.files import Block

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
SITES = ("site_a_smart_r4_2019", "site_b_bulkserver_r4")
TYPES = ("Patient", "Observation", "Condition", "MedicationRequest", "Encounter", "Procedure")
WORDS = (
    b"null true false 1e400 -1e400 1e-400 -0 -0.0 0 -1 2147483648 9007199254740993 99999999999999999999 0.1e1 1E+2 [] {} NaN 01 1. "
    b'.5 "1.5" 2009-02-30 "2009-02-30" "\\u003a" "\\ud800" "\\ud83d\\ude00" "\\u0000" "" "<" [null] [{}] {"a":1,"a":2} [[[[]]]]'
).split()
MEMBERS = (
    b'"value":1,',
    b'"comparator":"<",',
    b'"comparater":"<",',
    b'"status":"final",',
    b'"id":"x",',
    b'"\\u0069d":"x",',
    b'"resourceType":"Patient",',
    b'"valueString":"x",',
    b'"meta":{"versionId":"1"},',
    b'"x":{"y":[1,{"z":null}]},',
)
KINDS = (
    "cut",
    "byte",
    "lost",
    "mark",
    "merged",
    "word",
    "member",
    "letter",
    "digit",
    "odd end",
    "deep",
    "type",
    "moved",
)


def task_shapes() -> dict[str, Shape]:
    """What the benchmark's four tables read, with an element of each other kind."""
    shapes = {
        name: Shape.of_resource(name) for name in ("Patient", "Observation", "Condition", "MedicationRequest")
    }
    patient = shapes["Patient"]
    for name, kind in (("gender", "code"), ("birthDate", "date"), ("deceasedDateTime", "dateTime")):
        patient.child(name, kind)
    patient.child("deceasedBoolean", "boolean")
    patient.child("multipleBirthInteger", "integer")
    patient.child("address", "Address", repeats=True).child("state", "string")
    patient.child("name", "HumanName", repeats=True).child("given", "string", repeats=True)
    patient.child("maritalStatus", "CodeableConcept")
    patient.child("extension", "Extension", repeats=True)
    observation = shapes["Observation"]
    for name, kind in (("status", "code"), ("effectiveDateTime", "dateTime")):
        observation.child(name, kind)
    for name in ("subject", "encounter"):
        observation.child(name, "Reference").child("reference", "string")
    for owner in (observation, observation.child("component", "ObservationComponent", repeats=True)):
        _concept(owner, "code")
        _concept(owner, "valueCodeableConcept")
        owner.child("valueString", "string")
        quantity = owner.child("valueQuantity", "Quantity")
        for name, kind in (
            ("value", "decimal"),
            ("unit", "string"),
            ("code", "code"),
            ("comparator", "code"),
        ):
            quantity.child(name, kind)
    condition = shapes["Condition"]
    _concept(condition, "code")
    _concept(condition, "clinicalStatus")
    condition.child("onsetDateTime", "dateTime")
    condition.child("subject", "Reference").child("reference", "string")
    request = shapes["MedicationRequest"]
    _concept(request, "medicationCodeableConcept")
    dose = request.child("dosageInstruction", "Dosage", repeats=True).child(
        "doseAndRate", "Element", repeats=True
    )
    dose.child("doseQuantity", "Quantity").child("value", "decimal").exact = True
    request.child("authoredOn", "dateTime")
    request.child("status", "code")
    return shapes


def _concept(owner: Shape, name: str) -> None:
    concept = owner.child(name, "CodeableConcept")
    coding = concept.child("coding", "Coding", repeats=True)
    coding.child("system", "uri")
    coding.child("code", "code")
    concept.child("text", "string")


def real_lines(number: int = 400) -> list[bytes] | None:
    """Lines of each type of the public sites; None when they are not there."""
    lines: list[bytes] = []
    for site in SITES:
        for name in TYPES:
            path = SHARED / "fhir" / site / f"{name}.ndjson.gz"
            if not path.is_file():
                return None
            of_type = gzip.decompress(path.read_bytes()).splitlines()
            lines += random.Random(7).sample(of_type, min(number, len(of_type)))
    return lines


def damage(chance: random.Random, lines: list[bytes]) -> tuple[bytes, str]:
    """One line with one to three faults, and the kind of the last."""
    line, kind = chance.choice(lines), ""
    for _ in range(chance.choice((1, 1, 2, 3))):
        kind = chance.choice(KINDS)
        line = _damaged(chance, line, kind, lines)
    return line.replace(b"\n", b" "), kind


def _damaged(chance: random.Random, line: bytes, kind: str, lines: list[bytes]) -> bytes:
    at = chance.randrange(len(line) + 1)
    match kind:
        case "cut":
            return line[:at]
        case "byte":
            return line[:at] + bytes([chance.randrange(256)]) + line[at + 1 :]
        case "lost":
            return line[:at] + line[at + chance.randrange(1, 9) :]
        case "mark":
            return line[:at] + chance.choice(b'{}[]",:0 \t\\').to_bytes(1, "big") + line[at:]
        case "merged":
            return line + chance.choice((b"", b" ", b",")) + chance.choice(lines)
        case "word":  # In the place of a value.
            start = line.find(b":", at) + 1
            ends = [end for mark in (b",", b"}") if (end := line.find(mark, start)) > 0]
            return line[:start] + chance.choice(WORDS) + line[min(ends, default=len(line)) :]
        case "member":  # One more in an object.
            start = line.find(b"{", chance.choice((0, at))) + 1
            return line[:start] + chance.choice(MEMBERS) + line[start:]
        case "letter":  # Of a key or a text.
            start = line.find(b'"', at) + 1
            return line[:start] + bytes([chance.randrange(97, 123)]) + line[start + 1 :]
        case "digit":
            digits = [i for i in range(at, min(at + 200, len(line))) if line[i : i + 1].isdigit()]
            place = chance.choice(digits or [at])
            return line[:place] + chance.choice(b"0123456789.-e").to_bytes(1, "big") + line[place + 1 :]
        case "odd end":
            before, after = chance.choice(
                ((b"\xef\xbb\xbf", b""), (b"", b"\r"), (b"", b"\0"), (b" \t", b"  "), (b"\v", b""))
            )
            return before + line + after
        case "deep":
            depth = chance.choice((5, 126, 129, 2000))
            value = chance.choice((b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth))
            return line.replace(b"{", b'{"deep":' + value + b",", 1)
        case "type":
            name = chance.choice((b"Bundle", b"Patent", b"Practitioner", b"Observation", b"Quantity", b""))
            return line.replace(b'"resourceType":"', b'"resourceType":"' + name + b'","was":"', 1)
        case _:  # The type and the id moved to the end.
            try:
                value = json.loads(line)
                value |= {key: value.pop(key) for key in ("resourceType", "id") if key in value}
                separators = chance.choice(((",", ":"), (", ", ": ")))
                return json.dumps(value, ensure_ascii=chance.random() < 0.5, separators=separators).encode()
            except (ValueError, AttributeError, RecursionError):
                return line


@dataclass
class FuzzCounts:
    """What became of damaged lines."""

    read: int = 0
    accepted: int = 0
    rejected: int = 0
    by_code: Counter[str] = field(default_factory=Counter)
    by_kind: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)
    refused_by_models: list[str] = field(default_factory=list)
    put_to_models: int = 0


def check_damaged(
    lines: list[bytes], number: int, *, seed: int, block_lines: int = 500, put_to_models: float = 1.0
) -> FuzzCounts:
    """Read damaged lines with both readers, compare them, and put accepted lines to `fhir.resources`."""
    chance, counts = random.Random(seed), FuzzCounts()
    readers = [open_reader(task_shapes(), native=native) for native in (True, False)[not native_is_built() :]]
    for start in range(0, number, block_lines):
        made = [damage(chance, lines) for _ in range(min(block_lines, number - start))]
        counts.by_kind.update(kind for _, kind in made)
        block = Block(b"\n".join(line for line, _ in made), first_line=start + 1)
        blank = sum(not line for line in block.lines)
        results = [reader.read(block) for reader in readers]
        counts.differences += [f"seed {seed}, line {start}: {text}" for text in differences(*results)]
        read = results[0]
        counts.read += read.read
        counts.accepted += sum(read.types.values())
        counts.rejected += len(read.faults)
        if read.read + blank != len(made) or read.read != sum(read.types.values()) + len(read.faults):
            counts.differences.append(f"seed {seed}, line {start}: lines were lost")
        counts.by_code.update(fault.fault.code for fault in read.faults)
        for line in _accepted(block, read):
            if chance.random() < put_to_models:
                counts.put_to_models += 1
                counts.refused_by_models += refusals(line)
    return counts


def differences(left: ReadBlock, right: ReadBlock | None = None) -> Iterator[str]:
    """In what two readings of a block differ."""
    if right is None:
        return
    if left.read != right.read or dict(left.types) != dict(right.types):
        yield f"counts: {left.read} {left.types}, {right.read} {right.types}"
    if left.faults != right.faults:
        yield f"faults: {set(left.faults) ^ set(right.faults)}"
    if left.tables.keys() != right.tables.keys():
        yield f"tables: {left.tables.keys()}, {right.tables.keys()}"
    for name, table in left.tables.items():
        table.validate(full=True)
        other = right.tables.get(name)
        if (
            other is None
            or table.schema != other.schema
            or repr(table.to_pylist()) != repr(other.to_pylist())
        ):
            yield f"rows of {name}"  # By their texts, since 0.0 equals -0.0.


def _accepted(block: Block, read: ReadBlock) -> list[bytes]:
    refused = {fault.line for fault in read.faults}
    return [line for i, line in enumerate(block.lines) if line and i not in refused]


def refusals(line: bytes) -> Iterator[str]:
    """What `fhir.resources` says against the types of the elements that the shapes read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fhir.resources.R4B import get_fhir_model_class
    from pydantic import ValidationError

    name = json.loads(line)["resourceType"]
    shape = task_shapes().get(name)
    if shape is None:
        return
    try:
        get_fhir_model_class(name).model_validate_json(line)
    except ValidationError as error:
        for fault in error.errors():
            # What a text says (a code, a date), and what is missing, is judged where facts are made of the rows.
            about_text = isinstance(fault["input"], str) and fault["type"].startswith(
                ("string_", "date", "time", "value_")
            )
            if (
                _is_read(fault["loc"], shape)
                and not about_text
                and not fault["type"].endswith(("missing", "value_error"))
            ):
                yield f"{fault['loc']} {fault['type']}: {line!r}"


def _is_read(place: tuple[int | str, ...], shape: Shape) -> bool:
    """True when the shape reads what stands at a place."""
    for step in place:
        if isinstance(step, str):
            if step not in shape.children:
                return (shape.closed_over() or {}).get(step) in PRIMITIVE_TYPES
            shape = shape.children[step]
    return not shape.is_opaque


def main() -> int:
    """Print the counts of as many damaged lines as asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("number", type=int, nargs="?", default=100_000)
    parser.add_argument("--seed", type=int, default=20261122)
    arguments = parser.parse_args()
    lines = real_lines()
    if lines is None:
        print("The public FHIR sites are not in ../shared/data.", file=sys.stderr)
        return 1
    counts = check_damaged(lines, arguments.number, seed=arguments.seed, put_to_models=0.5)
    for name, value in vars(counts).items():
        shown = dict(value.most_common()) if isinstance(value, Counter) else value
        print(f"{name}: {shown[:20] if isinstance(shown, list) else shown}")
    return 1 if counts.differences or counts.refused_by_models else 0


if __name__ == "__main__":
    sys.exit(main())
