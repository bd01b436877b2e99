"""Damaged lines of two public hospitals, and JSON of every form: no crash, no line lost, both readers alike."""

import functools
import json

import pytest
from damaged_lines import KINDS, check_damaged, differences, real_lines, task_shapes
from hypothesis import given, settings
from hypothesis import strategies as st

from gemel.data_adapters.reading.reader import native_is_built, open_reader
from gemel.data_adapters.sources.files import Block


@pytest.fixture(scope="module")
def lines():
    found = real_lines()
    if found is None:
        pytest.skip("the public FHIR sites are not in ../shared/data")
    return found


def check(lines, number, *, seed, put_to_models):
    counts = check_damaged(lines, number, seed=seed, put_to_models=put_to_models)
    assert counts.differences == []
    assert counts.refused_by_models == []
    assert counts.read == counts.accepted + counts.rejected
    assert set(counts.by_kind) == set(KINDS)
    assert set(counts.by_code) == {"GEM201", "GEM207", "GEM214", "GEM215"}
    assert number / 10 < counts.accepted < number / 2
    assert counts.put_to_models > 0


def test_three_thousand_damaged_lines_are_read_alike_and_none_is_lost(lines):
    check(lines, 3000, seed=20261122, put_to_models=0.3)


@pytest.mark.heavy
@pytest.mark.parametrize("seed", range(5))
def test_a_hundred_thousand_damaged_lines_are_read_alike_and_none_is_lost(lines, seed):
    check(lines, 20_000, seed=seed, put_to_models=0.3)


ELEMENTS = ("id", "meta", "gender", "address", "name", "given", "extension", "value", "valueQuantity", "component", "code",
            "coding", "text", "multipleBirthInteger", "deceasedBoolean", "unit", "_unit", "versionId")  # fmt: skip
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
    st.sampled_from(["p1"]),
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(ELEMENTS) | st.text(), inner, max_size=4)
    ),
    max_leaves=12,
)
resources = st.fixed_dictionaries(
    {},
    optional={
        "resourceType": st.sampled_from(["Patient", "Observation", "Device", "x"]),
        "id": st.just("p1") | values,
    },
).flatmap(
    lambda head: st.dictionaries(st.sampled_from(ELEMENTS), values, max_size=6).map(lambda rest: head | rest)
)


@st.composite
def json_lines(draw):
    """A resource of odd content in one of JSON's ways to write it, at times with a byte changed."""
    separators = draw(st.sampled_from([(",", ":"), (", ", ": "), ("\t,", " :\r")]))
    line = json.dumps(draw(resources), ensure_ascii=draw(st.booleans()), separators=separators).encode()
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(line) - 1))
        line = line[:at] + draw(st.binary(max_size=2)).replace(b"\n", b" ") + line[at + 1 :]
    return line


@functools.cache
def reader(native):
    return open_reader(task_shapes(), native=native)


@pytest.mark.skipif(not native_is_built(), reason="the native reader was not compiled")
@settings(max_examples=300)
@given(st.lists(json_lines(), max_size=6), st.integers(1, 2**40))
def test_any_lines_are_read_alike_by_both_readers(made, first_line):
    block = Block(b"\n".join(made), first_line)
    left, right = reader(True).read(block), reader(False).read(block)
    assert list(differences(left, right)) == []
    assert left.read == sum(left.types.values()) + len(left.faults)
