import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemel.core.canonical import canonical_bytes, document_hash

# Surrogates are no text: JSON cannot carry them as UTF-8.
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(DOCUMENTS)
def test_a_document_survives_its_canonical_bytes(document):
    assert json.loads(canonical_bytes(document)) == document


@given(st.dictionaries(TEXT, DOCUMENTS, min_size=2, max_size=6), st.randoms())
def test_the_order_of_keys_does_not_change_the_hash(document, random):
    names = list(document)
    random.shuffle(names)
    shuffled = {name: document[name] for name in names}
    assert document_hash(shuffled) == document_hash(document)


@given(DOCUMENTS, DOCUMENTS)
def test_documents_with_equal_hashes_are_equal(one, other):
    if document_hash(one) == document_hash(other):
        assert one == other


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_not_finite_is_refused(number):
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_bytes({"value": number})


def test_canonical_bytes_are_these_for_ever():
    """Hashes of signed documents rest on this form: a change here breaks every stored signature."""
    document = {"ε": 3.0, "b": [1, 0.1, None, True], "a": "Zürich"}
    assert canonical_bytes(document) == '{"a":"Zürich","b":[1,0.1,null,true],"ε":3.0}'.encode()
