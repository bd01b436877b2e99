"""A watched folder gives each complete export once, over restarts."""

import itertools

import pytest

from gemel.core.errors import GemelError
from gemel.data_adapters.sources.files import UNFINISHED_NAME
from gemel.data_adapters.sources.watched_folder import Watch, watch

LINE = b'{"resourceType":"Patient","id":"p"}\n'


class Room:
    """A folder whose changes happen at given looks; time passes only between looks."""

    def __init__(self, tmp_path, *, looks=40):
        self.folder, self.state = tmp_path / "in", tmp_path / "state.json"
        self.folder.mkdir(exist_ok=True)
        self.time, self.looks, self.plan = 0.0, looks, {}

    def put(self, name, content=LINE):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def at(self, second, *calls):
        self.plan[second] = calls

    def _sleep(self, seconds):
        self.time += seconds
        self.looks -= 1
        for call in self.plan.pop(self.time, ()):
            call()

    def watch(self):
        how = Watch(
            poll_s=10, stable_s=60, sleep=self._sleep, now=lambda: self.time, stop=lambda: self.looks <= 0
        )
        return watch(self.folder, state=self.state, how=how)

    def given(self):
        return [(path.name, self.time) for path in self.watch()]


def test_an_export_with_a_marker_is_given_at_once_and_others_when_they_rest(tmp_path):
    room = Room(tmp_path)
    room.put("whole/Patient.ndjson")
    room.put("whole/manifest.json", b"{}")
    room.put("growing/Patient.ndjson")
    room.put("one.ndjson")
    room.put("notes.txt", b"x")
    room.put(".hidden/Patient.ndjson")
    room.at(30, lambda: room.put("growing/Patient.ndjson", LINE * 2))
    room.at(50, lambda: room.put("growing/More.ndjson"))
    assert room.given() == [("whole", 0), ("one.ndjson", 60), ("growing", 110)]


def test_nothing_is_given_twice_over_restarts_but_what_changed_is_new(tmp_path):
    room = Room(tmp_path)
    room.put("a/Patient.ndjson")
    assert [name for name, _ in room.given()] == ["a"]
    assert Room(tmp_path).given() == []
    again = Room(tmp_path)
    again.put("a/Observation.ndjson")
    again.put("b/Patient.ndjson")
    assert [name for name, _ in again.given()] == ["a", "b"]


def test_an_export_that_was_not_worked_on_to_its_end_is_given_again(tmp_path):
    room = Room(tmp_path)
    for name in ("a", "b"):
        room.put(f"{name}/x.ndjson")
        room.put(f"{name}/_SUCCESS", b"")
    first = room.watch()
    assert next(first).name == "a"
    # Killed here: the work on a was not finished.
    first.close()
    assert [path.name for path in itertools.islice(Room(tmp_path).watch(), 2)] == ["a", "b"]


@pytest.mark.parametrize("sign", [f"e/{UNFINISHED_NAME}", "e/Observation.ndjson.part"])
def test_an_export_that_is_being_fetched_is_not_given(sign, tmp_path):
    room = Room(tmp_path)
    room.put("e/Patient.ndjson")
    room.put(sign, b"{}")
    room.at(200, lambda: (room.folder / sign).unlink())
    assert room.given() == [("e", 260)]


def test_links_and_empty_folders_are_not_given_and_bad_states_are_said(tmp_path):
    room = Room(tmp_path)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x.ndjson").write_bytes(LINE)
    (room.folder / "link").symlink_to(outside)
    (room.folder / "empty").mkdir()
    room.put("broken/manifest.json", b"{}")
    assert room.given() == []
    room.state.write_text("[")
    with pytest.raises(GemelError) as caught:
        next(room.watch())
    assert caught.value.code == "GEM228"
    with pytest.raises(GemelError) as caught:
        next(watch(tmp_path / "nowhere", state=tmp_path / "other.json"))
    assert caught.value.code == "GEM208"
