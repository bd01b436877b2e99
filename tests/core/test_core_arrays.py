import io
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from gemel.core.arrays import ArraySpec, check_arrays, pack_arrays, unpack_arrays
from gemel.core.errors import GemelError

DECLARED = {"weight": ArraySpec((2, 3), "float32"), "count": ArraySpec((4,), "int64")}


def _good():
    return {"weight": np.arange(6, dtype=np.float32).reshape(2, 3), "count": np.arange(4, dtype=np.int64)}


def _refused(given_arrays):
    with pytest.raises(GemelError) as caught:
        check_arrays(given_arrays, DECLARED)
    assert caught.value.code == "GEM403"
    return caught.value.message


@given(
    st.dictionaries(
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from(["float32", "float64", "int64", "int8"]).flatmap(
            lambda dtype: arrays(dtype, array_shapes(max_dims=3, max_side=4), elements=st.integers(-9, 9))
        ),
        min_size=1,
    )
)
def test_arrays_survive_their_bytes(made):
    declared = {name: ArraySpec(array.shape, array.dtype.name) for name, array in made.items()}
    back = unpack_arrays(pack_arrays(made), declared)
    assert set(back) == set(made)
    assert all(np.array_equal(back[name], made[name]) for name in made)


def test_equal_arrays_give_equal_bytes_in_any_order_and_layout():
    good = _good()
    turned = {"count": good["count"], "weight": np.asfortranarray(good["weight"])}
    assert pack_arrays(turned) == pack_arrays(good)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused(number):
    bad = _good()
    bad["weight"][1, 2] = number
    assert "not finite" in _refused(bad)


def test_a_wrong_dtype_is_refused_with_both_named():
    bad = {**_good(), "weight": _good()["weight"].astype(np.float64)}
    message = _refused(bad)
    assert "float32" in message
    assert "float64" in message


def test_a_wrong_shape_is_refused_even_with_as_many_values():
    _refused({**_good(), "weight": _good()["weight"].reshape(3, 2)})


def test_a_missing_or_an_extra_array_is_refused():
    _refused({"weight": _good()["weight"]})
    _refused({**_good(), "patients": np.zeros(1)})


class _Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('pickle was loaded')",))


def _npz():
    buffer = io.BytesIO()
    np.savez(buffer, **_good())
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [pickle.dumps(_Bomb()), _npz(), b"", b"\x00" * 64, b"\xff" * 8 + b"{}", pack_arrays(_good())[:-1]],
    ids=["pickle", "npz", "empty", "zeros", "huge header", "truncated"],
)
def test_bytes_that_are_not_safetensors_are_refused(content):
    with pytest.raises(GemelError) as caught:
        unpack_arrays(content, DECLARED)
    assert caught.value.code == "GEM403"


def test_safetensors_of_other_arrays_are_refused():
    with pytest.raises(GemelError, match="GEM403"):
        unpack_arrays(pack_arrays({"weight": _good()["weight"]}), DECLARED)
