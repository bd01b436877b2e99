"""How the benchmark deals the trial's hospitals to nodes."""

import importlib.util
from collections import Counter
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from stroke_trial_rows import row

from gemel.twins.programmes.stroke.open_data import person

_PATH = Path(__file__).resolve().parents[3] / "benchmarks" / "_stroke_nodes.py"
_SPEC = importlib.util.spec_from_file_location("_stroke_nodes", _PATH)
stroke_nodes = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(stroke_nodes)


@given(st.dictionaries(st.text("ABCDEFGH", min_size=1, max_size=4), st.integers(1, 3000), min_size=1))
def test_each_piece_is_in_one_node_and_small_ones_are_together(sizes):
    nodes = stroke_nodes.nodes(sizes)
    assert Counter(piece for pieces in nodes.values() for piece in pieces) == Counter(sizes.keys())
    least = min(200, 2 * sum(sizes.values()) // 60)
    small = [name for name, size in sizes.items() if size < least]
    for name, pieces in nodes.items():
        assert (pieces == (name,)) is (pieces[0] not in small)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("AB"), st.integers(0, 30)), min_size=40, max_size=300))
def test_a_hospital_is_never_in_two_pieces(members):
    people = {
        country: [
            person(row(COUNTRY=country, HOSPNUM=str(hospital)), str(i))
            for i, (place, hospital) in enumerate(members)
            if place == country
        ]
        for country in sorted({place for place, _ in members})
    }
    pieces = stroke_nodes.parts(people)
    where = {(member.hospital, piece) for piece, of_piece in pieces.items() for member in of_piece}
    assert len({hospital for hospital, _ in where}) == len(where)
    assert sum(map(len, pieces.values())) == len(members)
    for piece in pieces:
        assert stroke_nodes.country_of(piece) in people
