"""All resources are checked at once: whatever is wrong in the text that goes into a file is found, wherever it stands."""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pytest
from cardiometabolic import PROGRAMME
from faulty_resources import FAULTS, patient_lines
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_patients import unrelated_cohort

from gemel.core.errors import GemelError
from gemel.synthetic.export.fhir import BUNDLE_END, Resources, resources_of
from gemel.synthetic.export.fhir_check import Checker
from gemel.synthetic.export.records import records_of
from gemel.synthetic.export.release_check import ReleaseChecker, _are_numbers, _days
from gemel.twins.installed import installed


@pytest.fixture
def cohort_of_twenty(provenance: dict[str, Any]) -> Any:
    return unrelated_cohort(PROGRAMME, provenance, patients=20)


def laid_out(patients: list[list[bytes]]) -> Resources:
    """Lines of these patients as one text."""
    lines = [(place, line) for place, own in enumerate(patients) for line in own]
    lengths = np.array([len(line) + 1 for _, line in lines])
    ends = np.cumsum(lengths) - 1
    content = np.frombuffer(b"\n".join([*(line for _, line in lines), b""]), np.uint8).copy()
    places = np.array([place for place, _ in lines])
    kind = np.zeros(len(lines), np.int64)
    return Resources(content, {"any": slice(0, len(content))}, ends + 1 - lengths, ends, places, kind, None)


def others(drawn: Any) -> list[list[bytes]]:
    resources = resources_of(records_of(dataclasses.replace(drawn, seed=drawn.seed + 1)))
    return [resources.of_patient(place) for place in range(len(drawn))]


@pytest.mark.parametrize(
    ("fault", "kind"), [(fault, kind) for fault, (kinds, _) in FAULTS.items() for kind in kinds]
)
def test_a_faulty_resource_among_sound_ones_is_refused(drawn: Any, fault: str, kind: str) -> None:
    sound, checker = patient_lines(drawn), ReleaseChecker()
    checker.check(laid_out([*others(drawn), [orjson.dumps(r) for r in sound]]))
    damaged = json.loads(json.dumps(sound))
    FAULTS[fault][1](next(r for r in damaged if r["resourceType"] == kind))
    with pytest.raises(GemelError, match="GEM703"):
        checker.check(laid_out([*others(drawn), [orjson.dumps(r) for r in damaged]]))


def spelt_otherwise(text: bytes) -> bytes:
    return json.dumps(json.loads(text)).encode()


def test_lines_that_are_spelt_otherwise_are_each_checked_in_full(drawn: Any) -> None:
    patients = [[spelt_otherwise(line) for line in own] for own in others(drawn)]
    ReleaseChecker().check(laid_out(patients))
    damaged = json.loads(patients[7][1])
    damaged["status"] = "banana"
    patients[7][1] = json.dumps(damaged).encode()
    with pytest.raises(GemelError, match="GEM703"):
        ReleaseChecker().check(laid_out(patients))


def refused(checker: ReleaseChecker, resources: Resources) -> bool:
    try:
        checker.check(resources)
    except GemelError as error:
        return error.code == "GEM703"
    return False


@pytest.mark.parametrize("bundled", [True, False])
def test_any_changed_byte_is_found_unless_what_it_says_then_is_as_right(
    cohort_of_twenty: Any, bundled: bool
) -> None:
    resources, checker = resources_of(records_of(cohort_of_twenty), bundled=bundled), ReleaseChecker()
    content, order = resources.content, np.argsort(resources.starts)
    checker.check(resources)

    @given(st.integers(0, len(content) - 1), st.integers(1, 255))
    @settings(max_examples=300, deadline=None)
    def flip(at: int, bits: int) -> None:
        was = content[at]
        content[at] ^= bits
        if not refused(checker, resources):
            # What passes is a date, a number or a name of another value: the full check of that patient finds nothing either.
            line = order[np.searchsorted(resources.starts[order], at, side="right") - 1]
            place, full = int(resources.places[line]), Checker()
            if bundled:
                full.check_bundle(resources.bundle(place))
            else:
                full.check_lines(resources.of_patient(place))
            before = content[max(at - 200, 0) : at + 1].tobytes()
            assert chr(content[at]) in "0123456789abcdef" or re.search(rb'"text":"[^"]*$', before), before
        content[at] = was

    flip()


def swapped(resources: Resources, field: bytes) -> None:
    """Give the first line with this field what stands in the field of another patient's line."""
    content = resources.content.tobytes()
    places = [match.end() for match in re.finditer(field, content)]
    line = np.searchsorted(np.sort(resources.starts), places, side="right") - 1
    owner = resources.places[np.argsort(resources.starts)][line]
    other = next(at for at, whose in zip(places, owner, strict=True) if whose != owner[0])
    resources.content[places[0] : places[0] + 36] = resources.content[other : other + 36]


@pytest.mark.parametrize("field", [rb'"reference":"Encounter/', rb'"reference":"Patient/', rb'"id":"'])
@pytest.mark.parametrize("bundled", [True, False])
def test_a_reference_to_another_patient_and_an_id_of_another_resource_are_refused(
    cohort_of_twenty: Any, field: bytes, bundled: bool
) -> None:
    checker, resources = ReleaseChecker(), resources_of(records_of(cohort_of_twenty), bundled=bundled)
    checker.check(resources)
    swapped(resources, field)
    with pytest.raises(GemelError, match="GEM703"):
        checker.check(resources)


def test_an_id_that_two_patients_share_is_refused(drawn: Any) -> None:
    patients = others(drawn)
    with pytest.raises(GemelError, match="GEM703 An id is used twice"):
        ReleaseChecker().check(laid_out([*patients, patients[0]]))


def without_head(resources: Resources) -> Resources:
    assert resources.bundles is not None
    resources.content[resources.bundles[3, 0] : resources.bundles[3, 0] + 9] = ord(" ")
    return resources


def without_comma(resources: Resources) -> Resources:
    resources.content[int(resources.ends.min())] = ord(" ")
    return resources


def without_end(resources: Resources) -> Resources:
    assert resources.bundles is not None
    resources.content[resources.bundles[3, 1] + 1 - len(BUNDLE_END)] = ord("}")
    return resources


def with_more(resources: Resources) -> Resources:
    return dataclasses.replace(resources, content=np.append(resources.content, np.uint8(10)))


def of_another(resources: Resources) -> Resources:
    places = resources.places.copy()
    places[-1] = (places[-1] + 1) % 20
    return dataclasses.replace(resources, places=places)


@pytest.mark.parametrize("change", [without_head, without_comma, without_end, with_more, of_another])
def test_what_stands_between_resources_is_checked_too(
    cohort_of_twenty: Any, change: Callable[[Resources], Resources]
) -> None:
    resources = resources_of(records_of(cohort_of_twenty), bundled=True)
    with pytest.raises(GemelError, match="GEM703"):
        ReleaseChecker().check(change(resources))


@pytest.mark.parametrize("programme", installed(), ids=lambda programme: programme.name)
def test_the_full_check_agrees_on_every_patient_of_every_programme(
    programme: Any, provenance: dict[str, Any]
) -> None:
    document = provenance | {"programme": programme.name, "programme_version": programme.version}
    records, full = records_of(unrelated_cohort(programme, document, patients=60)), Checker()
    for bundled in (True, False):
        resources = resources_of(records, bundled=bundled)
        ReleaseChecker().check(resources)
        for place in range(60):
            if bundled:
                full.check_bundle(resources.bundle(place))
            else:
                full.check_lines(resources.of_patient(place))


def as_bytes(texts: list[str]) -> np.ndarray:
    return np.array([text.encode() for text in texts]).view(np.uint8).reshape(len(texts), -1)


@given(st.text(alphabet="0123456789.", min_size=1, max_size=6))
def test_numbers_are_what_json_takes_for_numbers(text: str) -> None:
    try:
        orjson.loads(text)
        is_number = True
    except orjson.JSONDecodeError:
        is_number = False
    assert _are_numbers(as_bytes([text]))[0] == is_number


@given(st.text(alphabet="0123456789-", min_size=10, max_size=10) | st.dates().map(str))
@settings(max_examples=200)
def test_days_are_those_of_the_calendar(text: str) -> None:
    found = int(_days(as_bytes([text]))[0])
    try:
        day = datetime.date.fromisoformat(text)
    except ValueError:
        day = datetime.date(1, 1, 1)
    known = 1800 <= day.year <= 2299
    assert found == ((day - datetime.date(2000, 1, 1)).days if known else -(2**31))
