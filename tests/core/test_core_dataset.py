import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from gemel.core.dataset import Dataset
from gemel.core.errors import GemelError
from gemel.core.series import Series


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


def _series(*runs):
    """A run of values for each patient, on days -1, -2, ... before the index date, in order."""
    lengths = np.array([len(run) for run in runs])
    days = [day for run in runs for day in range(-len(run), 0)]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    values = [value for run in runs for value in run]
    return Series(offsets, np.array(days, np.float32), np.array(values, np.float32))


def _whole(patients=50, *, seed=1):
    """A data set with targets and series."""
    draw = np.random.default_rng(seed)
    targets = draw.normal(size=(patients, 2)).astype(np.float32)
    targets[draw.random(targets.shape) < 0.3] = np.nan
    return _replaced(
        _dataset(patients, seed=seed),
        target_names=("one", "two"),
        targets=targets,
        series={
            name: _series(*(draw.normal(size=draw.integers(0, 4)) for _ in range(patients))) for name in "sr"
        },
    )


def test_targets_and_series_survive_the_file(tmp_path):
    dataset = _whole()
    dataset.save(tmp_path / "d.safetensors")
    back = Dataset.load(tmp_path / "d.safetensors")
    assert back.snapshot == dataset.snapshot
    assert back.target_names == ("one", "two")
    np.testing.assert_array_equal(back.targets, dataset.targets)
    assert list(back.series) == ["r", "s"]
    for name, series in dataset.series.items():
        for i in range(len(dataset)):
            for read, written in zip(back.series[name].of(i), series.of(i), strict=True):
                np.testing.assert_array_equal(read, written)


@pytest.mark.parametrize("patients", [0, 1])
def test_a_data_set_of_nobody_or_of_nothing_survives_its_file(patients, tmp_path):
    empty = np.zeros((patients, 0), np.float32)
    ids = tuple(f"{i:08x}" for i in range(patients))
    dataset = Dataset("p", "1", (), (), ids, empty, empty, empty.astype(np.int8))
    for one in (dataset, _replaced(dataset, series={"s": _series(*([] for _ in ids))})):
        one.save(tmp_path / "d")
        assert Dataset.load(tmp_path / "d").snapshot == one.snapshot


def test_a_data_set_without_targets_and_series_keeps_the_snapshot_it_was_approved_with():
    """The very hash of the test above, by way of the new fields."""
    dataset = Dataset(
        "p", "1", ("a",), ("death",), ("00",),
        np.array([[np.nan]], np.float32), np.array([[2.5]], np.float32), np.array([[1]], np.int8),
        (), np.zeros((1, 0), np.float32), {},
    )  # fmt: skip
    assert dataset.snapshot == "bd40a7b4da724eeb919c240419d9f73faf08016d6b88747227c205b7b5ec06bd"


@pytest.mark.parametrize("part", ["targets", "offsets", "days", "values", "name", "target name"])
def test_the_snapshot_covers_targets_and_series(part):
    dataset = _whole()
    targets, series = dataset.targets.copy(), dict(dataset.series)
    arrays = [array.copy() for array in (series["s"].offsets, series["s"].days, series["s"].values)]
    names = dataset.target_names
    if part == "targets":
        targets[0, 0] = 77
    elif part == "name":
        series["x"] = series.pop("s")
    elif part == "target name":
        names = ("one", "three")
    else:
        array = arrays[("offsets", "days", "values").index(part)]
        array[np.flatnonzero(np.diff(arrays[0]))[1]] += -1 if part == "offsets" else 1
    if part not in ("name", "target name"):
        series["s"] = Series(*arrays)
    changed = _replaced(dataset, targets=targets, series=series, target_names=names)
    assert changed.snapshot != dataset.snapshot


@given(st.lists(st.integers(0, 49), unique=True))
def test_take_keeps_targets_and_series_with_their_patients(chosen):
    dataset = _whole()
    taken = dataset.take(np.array(chosen, dtype=np.intp))
    np.testing.assert_array_equal(taken.targets, dataset.targets[chosen])
    for name, series in dataset.series.items():
        for new, old in enumerate(chosen):
            for one, other in zip(taken.series[name].of(new), series.of(old), strict=True):
                np.testing.assert_array_equal(one, other)


def test_a_split_of_a_data_set_with_series_holds_every_pair_once():
    dataset = _whole()
    parts = dataset.split()
    assert sum(part.series["s"].days.size for part in parts) == dataset.series["s"].days.size
    assert sum(len(part) for part in parts) == len(dataset)


@pytest.mark.parametrize(
    ("offsets", "days", "values"),
    [([0, 2], 3, 3), ([1, 3], 3, 3), ([0, 2, 1, 3], 3, 3), ([0, 3], 3, 2), ([], 0, 0)],
)
def test_runs_that_do_not_fit_their_pairs_are_refused(offsets, days, values):
    with pytest.raises(ValueError):
        Series(np.array(offsets, np.int64), np.zeros(days, np.float32), np.zeros(values, np.float32))


def test_targets_and_series_of_another_number_of_patients_are_refused():
    with pytest.raises(ValueError, match="series s has 1 runs"):
        _replaced(_dataset(), series={"s": _series([1.0])})
    with pytest.raises(ValueError, match="inconsistent shapes"):
        _replaced(_dataset(), target_names=("t",))


def test_a_loaded_data_set_is_a_read_only_view_of_its_file(tmp_path):
    _whole().save(tmp_path / "d")
    back = Dataset.load(tmp_path / "d")
    for array in (back.values, back.targets, back.event, back.series["s"].values):
        assert not array.flags.writeable
        assert not array.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        back.values[0, 0] = 1


def test_saving_over_a_loaded_file_leaves_the_loaded_data_set_as_it_was(tmp_path):
    path = tmp_path / "d"
    _whole().save(path)
    back = Dataset.load(path)
    values = back.values.copy()
    _whole(seed=2).save(path)
    back.take(np.array([0])).save(path)
    np.testing.assert_array_equal(back.values, values)
    assert [entry.name for entry in tmp_path.iterdir()] == ["d"]


@pytest.mark.parametrize("content", [b"", b"{}", b"\x08\0\0\0\0\0\0\0{}      ", b"\xff" * 99])
def test_a_file_that_is_no_data_set_is_gem103(content, tmp_path):
    (tmp_path / "d").write_bytes(content)
    with pytest.raises(GemelError) as caught:
        Dataset.load(tmp_path / "d")
    assert caught.value.code == "GEM103"


LOAD = """
import sys
from pathlib import Path
from gemel.core.dataset import Dataset
dataset = Dataset.load(Path(sys.argv[1]))
private = [line for line in open("/proc/self/status") if line.startswith("RssAnon")][0]
print(int(private.split()[1]) // 1024, len(dataset))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_loading_a_data_set_takes_no_memory_of_its_own(tmp_path):
    patients = 500
    pairs = 100_000 * patients  # 400 MB of days and values
    run = np.arange(0, pairs + 1, 100_000, dtype=np.int64)
    zeros = np.zeros(pairs, np.float32)
    dataset = _replaced(_dataset(patients), series={"s": Series(run, zeros, zeros)})
    dataset.save(tmp_path / "d")
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path / "d")], capture_output=True, text=True, check=True
    )
    private_mb, number = map(int, done.stdout.split())
    assert number == patients
    assert private_mb < 100
