import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from gemel.core.dataset import Dataset
from gemel.core.errors import GemelError


def _dataset(patients=50, *, seed=1):
    draw = np.random.default_rng(seed)
    values = draw.normal(size=(patients, 3)).astype(np.float32)
    values[draw.random(values.shape) < 0.2] = np.nan
    return Dataset(
        "fatty_liver",
        "1",
        ("age", "male", "bmi"),
        ("death", "diabetes"),
        tuple(f"{i:08x}" for i in range(patients)),
        values,
        draw.random((patients, 2)).astype(np.float32) * 15,
        draw.integers(-1, 2, (patients, 2)).astype(np.int8),
    )


def _replaced(dataset, **fields):
    return Dataset(**{**{n: getattr(dataset, n) for n in Dataset.__dataclass_fields__}, **fields})


def test_a_data_set_survives_its_file(tmp_path):
    dataset = _dataset()
    dataset.save(tmp_path / "d.safetensors")
    back = Dataset.load(tmp_path / "d.safetensors")
    assert back.snapshot == dataset.snapshot
    assert back.patient_ids == dataset.patient_ids
    np.testing.assert_array_equal(back.values, dataset.values)
    np.testing.assert_array_equal(back.time_years, dataset.time_years)
    np.testing.assert_array_equal(back.event, dataset.event)


def test_a_file_changed_after_it_was_saved_is_gem103(tmp_path):
    path = tmp_path / "d.safetensors"
    dataset = _dataset()
    dataset.save(path)
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    event = dataset.event.copy()
    event[0, 0] = 1 - abs(event[0, 0])
    save_file(
        {"values": dataset.values, "time_years": dataset.time_years, "event": event}, path, metadata=metadata
    )
    with pytest.raises(GemelError) as caught:
        Dataset.load(path)
    assert caught.value.code == "GEM103"


def test_the_snapshot_is_the_same_on_any_machine():
    """Ledgers and approvals name this hash: it must not drift with a version of anything."""
    dataset = Dataset(
        "p", "1", ("a",), ("death",), ("00",),
        np.array([[np.nan]], np.float32), np.array([[2.5]], np.float32), np.array([[1]], np.int8),
    )  # fmt: skip
    assert dataset.snapshot == "bd40a7b4da724eeb919c240419d9f73faf08016d6b88747227c205b7b5ec06bd"


@pytest.mark.parametrize("column", ["values", "time_years", "event"])
def test_one_changed_number_changes_the_snapshot(column):
    dataset = _dataset()
    array = getattr(dataset, column).copy()
    array[-1, -1] = 1 if array[-1, -1] != 1 else 0
    assert _replaced(dataset, **{column: array}).snapshot != dataset.snapshot


@pytest.mark.parametrize("field", ["programme", "programme_version"])
def test_another_programme_changes_the_snapshot(field):
    assert _replaced(_dataset(), **{field: "other"}).snapshot != _dataset().snapshot


def test_how_missing_and_zero_were_produced_does_not_change_the_snapshot():
    dataset = _dataset()
    values = dataset.values.copy()
    missing = np.isnan(values)
    other_nan = np.array([0xFFC00001], dtype=np.uint32).view(np.float32)[0]
    values[missing] = other_nan
    assert _replaced(dataset, values=values).snapshot == dataset.snapshot
    zero, negative_zero = values.copy(), values.copy()
    zero[0, 0], negative_zero[0, 0] = 0.0, -0.0
    assert _replaced(dataset, values=zero).snapshot == _replaced(dataset, values=negative_zero).snapshot


def test_arrays_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match="inconsistent shapes"):
        _replaced(_dataset(), event=np.zeros((1, 2), np.int8))


@given(st.integers(0, 100))
def test_a_split_keeps_every_patient_once(held_out_percent):
    dataset = _dataset()
    training, held_out = dataset.split(held_out_percent=held_out_percent)
    assert sorted(training.patient_ids + held_out.patient_ids) == list(dataset.patient_ids)


@given(st.sets(st.integers(0, 49), min_size=1))
def test_a_patient_stays_on_its_side_whoever_else_is_in(chosen):
    dataset = _dataset()
    _, held_out = dataset.split()
    _, held_out_of_some = dataset.take(np.array(sorted(chosen))).split()
    wanted = {dataset.patient_ids[i] for i in chosen} & set(held_out.patient_ids)
    assert set(held_out_of_some.patient_ids) == wanted


def test_about_a_fifth_is_held_out():
    _, held_out = _dataset(5000).split()
    assert 900 < len(held_out) < 1100


def test_take_keeps_rows_together_in_the_order_asked_for():
    dataset = _dataset()
    taken = dataset.take(np.array([7, 3]))
    assert taken.patient_ids == (dataset.patient_ids[7], dataset.patient_ids[3])
    np.testing.assert_array_equal(taken.values, dataset.values[[7, 3]])
    np.testing.assert_array_equal(taken.event, dataset.event[[7, 3]])
