"""Exports of damaged real lines, read to facts, and every fact's line put to `fhir.resources`: also `make fuzz`.

python tests/support/damaged_exports.py 100000
"""

import argparse
import gzip
import json
import random
import re
import sys
import tempfile
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from gemel.core.programme import Programme
from gemel.data_adapters.meaning.account import FactsAccount
from gemel.data_adapters.meaning.facts import Facts
from gemel.data_adapters.meaning.fhir_facts import read_fhir
from gemel.data_adapters.meaning.staging import Staging
from gemel.twins.programmes.fatty_liver import PROGRAMME

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
SITES = ("site_a_smart_r4_2019", "site_b_bulkserver_r4")
LINES_OF_AN_EXPORT = 20_000
SHARES = {"Encounter": 150, "Condition": 100, "Observation": 800}
MEASURED = (b"39156-5", b"8480-6", b"2085-9")
LOOSE_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d((:\d\d(\.\d+)?)|([+-]\d\d:\d\d|Z))?")
WORDS = (
    b"null true 1e400 -1 0 99999999999999999999 [] {} NaN 9999-12-31 2009-02-30 2010-01-01T99:00:00Z \\u003a \\ud800 \\u0000 "
    b'"" "<" "value":1, "comparator":"<", "status":"final", "valueString":"x", "dataAbsentReason":{}, '
    b'"effectiveInstant":"2010-01-01T00:00:00Z",'
).split()
# The elements of each type that its rows rest on.
USED = {
    "Patient": ("gender", "birthDate", "deceasedBoolean", "deceasedDateTime"),
    "Encounter": ("status", "period", "subject"),
    "Condition": ("clinicalStatus", "verificationStatus", "subject", "onsetDateTime", "recordedDate"),
    "Observation": ("status", "valueQuantity", "subject", "effectiveDateTime", "effectivePeriod"),
}


def real_lines() -> list[bytes] | None:
    """Forty patients of each site with lines of theirs: what the programme measures first, then others."""
    lines: list[bytes] = []
    for site in SITES:
        folder = SHARED / "fhir" / site
        if not folder.exists():
            return None
        of = {
            name: gzip.decompress((folder / f"{name}.ndjson.gz").read_bytes()).splitlines()
            for name in ("Patient", *SHARES)
        }
        patients = random.Random(7).sample(of["Patient"], 40)
        ids = [b"Patient/" + json.loads(line)["id"].encode() + b'"' for line in patients]
        lines += patients
        for name, share in SHARES.items():
            theirs = [line for line in of[name] if any(key in line for key in ids)]
            theirs.sort(key=lambda line: not any(code in line for code in MEASURED))
            lines += theirs[:share]
    return lines


def damaged(chance: random.Random, lines: list[bytes]) -> bytes:
    """One line with one to three faults."""
    line = chance.choice(lines)
    for _ in range(chance.choice((1, 1, 2, 3))):
        at = chance.randrange(len(line) + 1)
        match chance.randrange(9):
            case 0:
                line = line[:at]
            case 1:
                line = line[:at] + bytes([chance.randrange(256)]) + line[at + 1 :]
            case 2:
                line = line[:at] + line[at + chance.randrange(1, 9) :]
            case 3:
                line = line[:at] + chance.choice(b'{}[]",:0 ').to_bytes(1, "big") + line[at:]
            case 4:
                line = line + chance.choice(lines)
            case 5:  # A word in the place of a value.
                start = line.find(b":", at) + 1
                ends = [end for mark in b",}" if (end := line.find(bytes([mark]), start)) > 0]
                line = line[:start] + chance.choice(WORDS) + line[min(ends, default=len(line)) :]
            case 6:  # A member more.
                start = line.find(b"{", at) + 1
                line = line[:start] + chance.choice(WORDS[-6:]) + line[start:]
            case 7:  # A letter of a key or text.
                start = line.find(b'"', at) + 1
                line = line[:start] + bytes([chance.randrange(97, 123)]) + line[start + 1 :]
            case _:  # A digit.
                digits = [i for i in range(at, min(at + 200, len(line))) if line[i : i + 1].isdigit()]
                if digits:
                    place = chance.choice(digits)
                    line = (
                        line[:place] + chance.choice(b"0123456789.-e").to_bytes(1, "big") + line[place + 1 :]
                    )
    return line.replace(b"\n", b" ").replace(b"\r", b" ")


def write_damaged(folder: Path, lines: list[bytes], *, number: int, seed: int) -> int:
    """Write an export of damaged lines and a tenth of whole ones; gives the number of lines."""
    chance = random.Random(seed)
    made = [line if line.strip() else b"{" for line in (damaged(chance, lines) for _ in range(number))]
    whole = chance.sample(lines, min(number // 10, len(lines)))
    (folder / "x.ndjson").write_bytes(b"\n".join([*made, *whole]))
    return len(made) + len(whole)


def read_with_lines(
    folder: Path, programme: Programme = PROGRAMME
) -> tuple[FactsAccount, dict[str, list[bytes]]]:
    """The account of an export, and the lines that each of the tables rests on."""
    numbers: dict[str, set[int]] = {"fact": set(), "visit": set(), "person": set()}

    class Watched(Staging):
        def add(self, name: str, rows: object) -> None:
            if name in numbers:
                numbers[name].update(rows["line"].to_pylist())  # type: ignore[index]
            super().add(name, rows)  # type: ignore[arg-type]

    from gemel.data_adapters.meaning import fhir_facts

    original = fhir_facts.Staging
    fhir_facts.Staging = Watched  # type: ignore[misc]
    try:
        with Facts() as facts:
            account = read_fhir(folder, programme, facts)
    finally:
        fhir_facts.Staging = original  # type: ignore[misc]
    lines = (folder / "x.ndjson").read_bytes().split(b"\n")
    return account, {name: [lines[n - 1] for n in sorted(found)] for name, found in numbers.items()}


def _is_used(kind: str, place: tuple[int | str, ...]) -> bool:
    """True for a place that a row rests on."""
    if place[:1] == ("component",):
        place = place[2:]
    if place[:1] == ("code",):
        return place[-1] in ("system", "code")
    if place[:1] == ("subject",):
        return place[-1] != "display"
    return not place or place[0] in USED[kind]


def _is_tolerated(fault: dict[str, object]) -> bool:
    """What is taken all the same, because what is made of it stays certain."""
    place, kind, given = fault["loc"], fault["type"], fault["input"]
    assert isinstance(place, tuple)
    if kind == "extra_forbidden":
        return "valueQuantity" not in place  # An element of another name, outside the quantity.
    if kind == "string_pattern_mismatch" and place != ("status",):
        # Blanks around a code, or none in it: a status or sex that is none is refused by the rules, of a unit the
        # other text counts, and a code with blanks is of no concept.
        return place[-1] in ("code", "unit")
    # An encounter without a status is not finished; an observation without one is left out.
    if place == ("status",) and (given == "" or "required" in str(fault["msg"])):
        return True
    # A time without its seconds or its zone: only its day is used.
    return (
        str(place[-1])
        in ("effectiveDateTime", "onsetDateTime", "recordedDate", "start", "end", "deceasedDateTime")
        and isinstance(given, str)
        and LOOSE_TIME.fullmatch(given) is not None
    )


def refused_by_the_models(lines: list[bytes]) -> list[tuple[bytes, list[tuple[object, object]]]]:
    """What `fhir.resources` says against the used places of each line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fhir.resources.R4B import get_fhir_model_class
    from pydantic import ValidationError

    refused = []
    for line in lines:
        kind = json.loads(line)["resourceType"]
        try:
            get_fhir_model_class(kind).model_validate_json(line)
        except ValidationError as error:
            faults = [f for f in error.errors() if _is_used(kind, f["loc"]) and not _is_tolerated(dict(f))]
            if faults:
                refused.append((line, [(fault["loc"], fault["msg"]) for fault in faults]))
    return refused


@dataclass
class ExportCounts:
    """What became of damaged lines on their way to facts."""

    lines: int = 0
    read: int = 0
    accepted: int = 0
    rejected: int = 0
    by_code: Counter[str] = field(default_factory=Counter)
    checked: Counter[str] = field(default_factory=Counter)
    refused_by_models: list[str] = field(default_factory=list)
    lost: int = 0


def check_exports(lines: list[bytes], number: int, *, seed: int) -> ExportCounts:
    """Read damaged exports to facts, and put the lines of all rows to the models."""
    counts = ExportCounts()
    for part, start in enumerate(range(0, number, LINES_OF_AN_EXPORT)):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            made = min(LINES_OF_AN_EXPORT, number - start)
            counts.lines += write_damaged(folder, lines, number=made, seed=seed + part)
            account, rows = read_with_lines(folder)
        [file] = account.files
        counts.read += file.read
        counts.accepted += file.accepted
        counts.rejected += file.rejected
        counts.by_code.update(account.rejects_by_code)
        for table, found in rows.items():
            counts.checked[table] += len(found)
            counts.refused_by_models += [str(refusal) for refusal in refused_by_the_models(found)]
    counts.lost = counts.lines - counts.accepted - counts.rejected
    return counts


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
    counts = check_exports(lines, arguments.number, seed=arguments.seed)
    for name, value in vars(counts).items():
        shown = dict(value.most_common()) if isinstance(value, Counter) else value
        print(f"{name}: {shown}" if not isinstance(shown, list) else f"{name}: {len(shown)} {shown[:10]}")
    return 1 if counts.refused_by_models or counts.lost else 0


if __name__ == "__main__":
    sys.exit(main())
