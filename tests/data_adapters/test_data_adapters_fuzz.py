"""Real lines of two public hospitals, damaged at random: nothing crashes, no line is lost, no value is made up."""

import gzip
import json
import random
import re
import warnings

import pytest

from gemel.core.errors import GemelError
from gemel.data_adapters.dataset.build import build
from gemel.data_adapters.meaning.facts import Facts
from gemel.data_adapters.meaning.fhir_facts import read_fhir
from gemel.data_adapters.meaning.staging import Staging
from gemel.data_adapters.quality.check import check_export
from gemel.data_adapters.views.run import run_views, standard_views
from gemel.twins.programmes.fatty_liver import PROGRAMME

KEY = b"0123456789abcdef"
SITES = ("site_a_smart_r4_2019", "site_b_bulkserver_r4")
SHARES = {"Encounter": 150, "Condition": 100, "Observation": 800}
MEASURED = (b"39156-5", b"8480-6", b"2085-9")
LOOSE_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d((:\d\d(\.\d+)?)|([+-]\d\d:\d\d|Z))?")
WORDS = (
    b"null true 1e400 -1 0 99999999999999999999 [] {} NaN 9999-12-31 2009-02-30 2010-01-01T99:00:00Z \\u003a \\ud800 \\u0000 "
    b'"" "<" "value":1, "comparator":"<", "status":"final", "valueString":"x", "dataAbsentReason":{}, '
    b'"effectiveInstant":"2010-01-01T00:00:00Z",'
).split()


@pytest.fixture(scope="module")
def real_lines(shared_data):
    """Forty patients of each site with lines of theirs: what the programme measures first, then others."""
    lines = []
    for site in SITES:
        if not (shared_data / "fhir" / site).exists():
            pytest.skip("the public FHIR sites are not in ../shared/data")
        of = {
            name: gzip.decompress(
                (shared_data / "fhir" / site / f"{name}.ndjson.gz").read_bytes()
            ).splitlines()
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


def damaged(chance, lines):
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


def write_damaged(folder, real_lines, *, number, seed):
    chance = random.Random(seed)
    lines = [line if line.strip() else b"{" for line in (damaged(chance, real_lines) for _ in range(number))]
    whole = chance.sample(real_lines, min(number // 10, len(real_lines)))
    (folder / "x.ndjson").write_bytes(b"\n".join([*lines, *whole]))
    return len(lines) + len(whole)


def check_all(folder, number):
    """Counts of check, views and build agree, line for line."""
    report = check_export(folder, PROGRAMME, validate="off")
    [count] = report.files
    assert count.read == number == count.accepted + count.rejected
    assert sum(count.types.values()) == count.accepted
    assert sum(report.rejects_by_code.values()) == count.rejected
    assert 0 < count.accepted < number
    for line in report.rejects:
        assert line.code.startswith("GEM2")
        assert line.reason
    tables = run_views(standard_views(), folder)
    assert tables["patient"].num_rows > 0
    if report.fhir_version != "R4":  # A damaged status has the form of another version: that stops a build.
        with pytest.raises(GemelError) as caught:
            build(folder, PROGRAMME, pseudonym_key=KEY)
        assert caught.value.code == "GEM213"
        return
    _, card = build(folder, PROGRAMME, pseudonym_key=KEY)
    assert (card.files[0].read, card.files[0].rejected) == (count.read, count.rejected)
    assert card.rejects == report.rejects_by_code


def measured_lines(folder):
    """The accepted Observations from which a value was taken."""
    numbers = set()

    class Watched(Staging):
        def add(self, name, rows):
            if name == "fact":
                numbers.update(rows["line"].filter(rows["value"].is_valid()).to_pylist())
            super().add(name, rows)

    with pytest.MonkeyPatch.context() as patch, Facts() as facts:
        patch.setattr("gemel.data_adapters.meaning.fhir_facts.Staging", Watched)
        read_fhir(folder, PROGRAMME, facts)
    lines = (folder / "x.ndjson").read_bytes().split(b"\n")
    return [lines[number - 1] for number in sorted(numbers)]


def used(place):
    """True for a place of an Observation that a measured value rests on."""
    if place[:1] == ("component",):
        place = place[2:]
    if place[:1] == ("code",):
        return place[-1] in ("system", "code")
    return not place or place[0] in ("status", "valueQuantity") or str(place[0]).startswith("effective")


def tolerated(fault):
    """What is taken all the same, because the value stays certain."""
    place, kind = fault["loc"], fault["type"]
    if kind == "extra_forbidden":
        return "valueQuantity" not in place  # An element of another name, outside the quantity.
    if kind == "string_pattern_mismatch":
        return place[-1] in (
            "code",
            "unit",
        )  # Blanks around a code, or none in it: the other text names the unit.
    # A time without its seconds or its zone: only its day is used.
    return place == ("effectiveDateTime",) and LOOSE_TIME.fullmatch(fault["input"]) is not None


def refused_by_the_models(lines):
    """What `fhir.resources` says against the used places of each line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fhir.resources.R4B.observation import Observation
    from pydantic import ValidationError

    refused = []
    for line in lines:
        try:
            Observation.model_validate_json(line)
        except ValidationError as error:
            faults = [fault for fault in error.errors() if used(fault["loc"]) and not tolerated(fault)]
            if faults:
                refused.append((line, [(fault["loc"], fault["msg"]) for fault in faults]))
    return refused


def test_five_thousand_damaged_lines_are_counted_and_no_value_is_made_up(real_lines, tmp_path):
    number = write_damaged(tmp_path, real_lines, number=5000, seed=20261122)
    check_all(tmp_path, number)
    lines = measured_lines(tmp_path)
    assert len(lines) > 200
    assert refused_by_the_models(random.Random(3).sample(lines, min(len(lines), 400))) == []


@pytest.mark.heavy
@pytest.mark.parametrize("seed", range(5))
def test_a_hundred_thousand_damaged_lines_are_counted_and_no_value_is_made_up(seed, real_lines, tmp_path):
    number = write_damaged(tmp_path, real_lines, number=20_000, seed=seed)
    check_all(tmp_path, number)
    assert refused_by_the_models(measured_lines(tmp_path)) == []
