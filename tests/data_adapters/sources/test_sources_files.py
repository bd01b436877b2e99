"""Files of every form and state become lines, in order, each with its place; nothing vanishes in silence."""

import gzip
import io
import json
import os
import threading
import tracemalloc
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from gemel.core.errors import GemelError
from gemel.data_adapters.sources import compression, documents, files
from gemel.data_adapters.sources.compression import ReadLimits
from gemel.data_adapters.sources.deletions import deletions
from gemel.data_adapters.sources.files import list_unread, open_export, read_blocks

LINES = [
    json.dumps({"resourceType": "Patient", "id": f"p{i}", "text": "x" * 50}).encode() for i in range(4000)
]
PLAIN = b"\n".join(LINES) + b"\n"


def lines_of(path, **options):
    """The lines that are not blank, of all files."""
    return [x for file in open_export(path) for b in read_blocks(file, **options) for x in b.lines if x]


def places_of(path):
    [file] = open_export(path)
    return [b.place(i) for b in read_blocks(file) for i, line in enumerate(b.lines) if line]


def bundle(*entries, kind="collection", **more):
    return {"resourceType": "Bundle", "type": kind, "entry": list(entries), **more}


def entry(resource, url=None):
    return ({"fullUrl": url} if url else {}) | {"resource": resource}


def parsed(path):
    return [json.loads(line) for line in lines_of(path)]


PATIENT = {"resourceType": "Patient", "id": "a"}
SEEN = {
    "resourceType": "Observation",
    "id": "o",
    "subject": {"reference": "urn:uuid:0-1"},
    "valueString": "urn:uuid:0-1",
}


@pytest.mark.parametrize(
    "name", ["x.ndjson", "x.ndjson.gz", "x.ndjson.zst", "x.JSONL.ZST", "x.json.gz", "x.json"]
)
def test_every_compression_gives_the_same_lines(name, tmp_path):
    end = name.lower().rpartition(".")[2]
    content = {"gz": gzip.compress, "zst": zstandard.compress}.get(end, bytes)(PLAIN)
    (tmp_path / name).write_bytes(content)
    assert lines_of(tmp_path) == LINES
    assert lines_of(tmp_path / name) == LINES


def test_several_members_and_frames_are_read_on(tmp_path):
    half = len(PLAIN) // 2
    for name, pack in (("x.ndjson.gz", gzip.compress), ("x.ndjson.zst", zstandard.compress)):
        folder = tmp_path / name[-3:]
        folder.mkdir()
        (folder / name).write_bytes(pack(PLAIN[:half]) + pack(PLAIN[half:]))
        assert lines_of(folder) == LINES


def frames(content):
    """zstd of every shape: with and without content size and checksum, streamed, empty, skippable before it."""
    for level in (1, 19):
        for checksum in (False, True):
            packer = zstandard.ZstdCompressor(
                level=level, write_checksum=checksum, write_content_size=checksum
            )
            yield packer.compress(content)
            out = io.BytesIO()
            with packer.stream_writer(out, closefd=False) as writer:
                writer.write(content)
            yield out.getvalue()
    yield b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc" + zstandard.compress(content)
    yield zstandard.compress(content) + zstandard.compress(b"")


def test_zstd_of_every_shape_is_read_and_each_cut_is_noticed(tmp_path):
    path = tmp_path / "x.ndjson.zst"
    content = b"\n".join(LINES[:50]) + b"\n" + b"a" * 400_000 + b"\n"
    for whole in frames(content):
        path.write_bytes(whole)
        assert b"\n".join(lines_of(path)) + b"\n" == content
        for cut in {1, 5, 8, len(whole) // 2, len(whole) - 1}:
            path.write_bytes(whole[: len(whole) - cut])
            damages = []
            lines_of(path, on_damage=damages.append)
            assert damages, (cut, len(whole))


@pytest.mark.parametrize("name", ["x.ndjson.gz", "x.ndjson.zst"])
@pytest.mark.parametrize("kind", ["cut", "corrupt", "garbage after"])
def test_what_stands_before_a_damage_is_read_and_the_damage_is_said(name, kind, tmp_path):
    import random

    rng = random.Random(1)
    lines = [
        json.dumps({"resourceType": "Patient", "id": f"{rng.getrandbits(120):030x}"}).encode()
        for _ in range(60_000)
    ]
    whole = (gzip.compress if name.endswith("gz") else zstandard.compress)(b"\n".join(lines) + b"\n")
    at = len(whole) * 2 // 3
    content = {
        "cut": whole[:at],
        "corrupt": whole[:at] + bytes(1000) + whole[at + 1000 :],
        "garbage after": whole + b"?" * 100,
    }
    (tmp_path / name).write_bytes(content[kind])
    damages = []
    found = lines_of(tmp_path, on_damage=damages.append)
    assert [damage.file for damage in damages] == [name]
    assert damages[0].reason
    # The library gives its last bytes before an error or loses them: a few lines.
    sound = len(lines) - 20 if kind == "garbage after" else len(lines) * 0.55
    same = next((i for i, (a, b) in enumerate(zip(found, lines, strict=False)) if a != b), len(found))
    assert same >= sound
    if kind == "cut":
        # At most the line in which it stops is another one.
        assert len(found) - same <= 1
    with pytest.raises(GemelError) as caught:
        lines_of(tmp_path)
    assert caught.value.code == "GEM220"


@pytest.mark.parametrize("name", ["x.ndjson.gz", "x.ndjson.zst"])
def test_a_decompression_bomb_is_stopped_in_little_memory(name, tmp_path, monkeypatch):
    monkeypatch.setattr(compression, "_FREE_BYTES", 1 << 20)
    content = (b" " * 1023 + b"\n") * (64 << 10)
    (tmp_path / name).write_bytes((gzip.compress if name.endswith("gz") else zstandard.compress)(content))
    tracemalloc.start()
    damages = []
    lines_of(tmp_path, on_damage=damages.append, limits=ReadLimits(max_ratio=100))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "bomb" in damages[0].reason
    assert peak < 48 << 20
    # Told to, it is read.
    lines_of(tmp_path, limits=ReadLimits(max_ratio=100_000))
    with pytest.raises(GemelError, match="bomb"):
        lines_of(tmp_path, limits=ReadLimits(max_ratio=100_000, max_file_bytes=1 << 20))


def test_a_line_over_the_limit_is_one_line_and_reading_goes_on(tmp_path):
    path = tmp_path / "x.ndjson"
    long = b'{"resourceType":"Binary","data":"' + b"A" * (20 << 20) + b'"}'
    path.write_bytes(b"\n".join([LINES[0], long, LINES[1], LINES[2], long]))
    limits = ReadLimits(max_line_bytes=1 << 20)
    tracemalloc.start()
    blocks = list(read_blocks(open_export(path)[0], limits=limits))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20
    found = {b.first_line + i: line for b in blocks for i, line in enumerate(b.lines)}
    long_ones = [b.first_line + i for b in blocks for i in b.too_long]
    assert long_ones == [2, 5]
    assert [found[i] for i in (1, 3, 4)] == LINES[:3]
    assert len(found) == 5
    for number in long_ones:
        with pytest.raises(ValueError):
            json.loads(found[number])


@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 50), st.integers(1, 30))
def test_which_lines_are_too_long_does_not_depend_on_the_blocks(lengths, limit, block):
    import tempfile

    content = b"\n".join(b"x" * length for length in lengths)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = Path(folder) / "x.ndjson"
        path.write_bytes(content)
        patch.setattr(files, "_BLOCK_BYTES", block)
        limits = ReadLimits(max_line_bytes=max(limit, 3))
        blocks = list(read_blocks(open_export(path)[0], limits=limits))
    found = [line if i not in b.too_long else "long" for b in blocks for i, line in enumerate(b.lines)]
    expected = ["long" if n > limits.max_line_bytes else b"x" * n for n in lengths]
    while expected and expected[-1] == b"":
        expected.pop()
    while found and found[-1] == b"":
        found.pop()
    assert found == expected


def test_bom_and_crlf_and_blank_files_are_tolerated_in_every_form(tmp_path):
    (tmp_path / "a.ndjson").write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(LINES[:3]) + b"\r\n")
    (tmp_path / "b.json").write_bytes(
        b"\xef\xbb\xbf" + json.dumps(bundle(entry(PATIENT)), indent=2).replace("\n", "\r\n").encode()
    )
    for name, content in (
        ("c.ndjson", b""),
        ("d.json", b" \n\t\n"),
        ("e.ndjson.gz", gzip.compress(b"")),
        ("f.json", b"\xef\xbb\xbf"),
    ):
        (tmp_path / name).write_bytes(content)
    assert lines_of(tmp_path) == [*LINES[:3], b'{"resourceType":"Patient","id":"a"}']


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", ["x.json", "x.json.gz", "x.json.zst"])
def test_a_bundle_document_becomes_its_resources(indent, name, tmp_path):
    content = json.dumps(bundle(entry(PATIENT), entry(SEEN)), indent=indent).encode()
    end = name.rpartition(".")[2]
    (tmp_path / name).write_bytes({"gz": gzip.compress, "zst": zstandard.compress}.get(end, bytes)(content))
    assert parsed(tmp_path) == [PATIENT, SEEN]
    assert places_of(tmp_path) == (["entry[0]", "entry[1]"] if indent else ["1 entry[0]", "1 entry[1]"])


def test_lines_of_bundles_say_line_and_entry(tmp_path):
    rows = [
        bundle(entry(PATIENT)),
        PATIENT,
        bundle(),
        bundle(entry(PATIENT), entry(bundle(entry(SEEN), entry(PATIENT)))),
    ]
    (tmp_path / "x.ndjson").write_text("\n".join(["", *map(json.dumps, rows)]))
    assert parsed(tmp_path) == [PATIENT, PATIENT, PATIENT, SEEN, PATIENT]
    assert places_of(tmp_path) == [
        "2 entry[0]",
        "3",
        "5 entry[0]",
        "5 entry[1] entry[0]",
        "5 entry[1] entry[1]",
    ]
    [block] = read_blocks(open_export(tmp_path)[0])
    assert block.first_line == 1


@pytest.mark.parametrize("document", [PATIENT, [PATIENT, SEEN, bundle(entry(PATIENT))]])
def test_one_resource_or_an_array_over_many_lines_is_read(document, tmp_path):
    (tmp_path / "x.json").write_text(json.dumps(document, indent=1))
    assert parsed(tmp_path) == ([PATIENT] if document is PATIENT else [PATIENT, SEEN, PATIENT])
    assert places_of(tmp_path) == (["1"] if document is PATIENT else ["[0]", "[1]", "[2] entry[0]"])


def test_numbers_and_texts_come_through_unchanged(tmp_path):
    text = '{"resourceType": "Bundle", "entry": [ {"resource": {"resourceType":"Basic", "n": 1.50e+2, "t": "\\u00e9 \\\\\\" } ] {"} } ]\n}'
    (tmp_path / "x.json").write_text("\n" + text)
    assert lines_of(tmp_path) == [b'{"resourceType":"Basic","n":1.50e+2,"t":"\\u00e9 \\\\\\" } ] {"}']


def test_references_by_uuid_resolve_within_their_bundle(tmp_path):
    other = {"resourceType": "Patient", "id": "b"}
    nameless = {"resourceType": "Patient", "gender": "male"}
    far = {"resourceType": "Patient", "active": True}
    rows = [
        entry(other, "urn:uuid:0-1"),
        entry(SEEN, "urn:uuid:o"),
        entry(nameless, "urn:uuid:5-5"),
        entry(far, "https://x.example/fhir/Patient/far"),
    ]
    (tmp_path / "x.json").write_text(json.dumps(bundle(*rows)))
    found = parsed(tmp_path)
    assert found[1]["subject"] == {"reference": "Patient/b"}
    assert found[1]["valueString"] == "urn:uuid:0-1"
    assert [r["id"] for r in found] == ["b", "o", "5-5", "far"]
    # Where the id is the uuid, nothing is touched.
    (tmp_path / "x.json").write_text(
        json.dumps(bundle(entry(PATIENT | {"id": "0-1"}, "urn:uuid:0-1"), entry(SEEN)))
    )
    assert parsed(tmp_path)[1] == SEEN


def test_what_is_no_resource_in_a_bundle_stays_a_line_to_be_rejected(tmp_path):
    odd = [
        {"fullUrl": "urn:uuid:1"},
        {"response": {"status": "200"}},
        7,
        {"request": {"method": "DELETE", "url": "Patient?x=1"}},
    ]
    (tmp_path / "x.json").write_text(json.dumps(bundle(entry(PATIENT), *odd)))
    assert parsed(tmp_path) == [PATIENT, *odd]
    twice = b'{"resourceType":"Bundle","entry":[{"resource":{"id":"1"}}],"entry":[]}'
    inner = b'{"resourceType":"Bundle","entry":[{"resource":{"id":"1"},"resource":{"id":"2"}}]}'
    (tmp_path / "x.json").write_bytes(twice + b"\n" + inner)
    assert lines_of(tmp_path) == [twice, b'{"resource":{"id":"1"},"resource":{"id":"2"}}']


JSON_TEXT = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(['"', "\\", '\\"', "[", "]}", "{", '"entry":[']),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(JSON_TEXT, max_size=5),
    JSON_TEXT,
    st.integers(3, 40),
    st.sampled_from([None, 1]),
    st.booleans(),
    st.booleans(),
)
def test_a_document_split_by_brackets_is_as_one_parsed_at_once(values, other, block, indent, is_array, first):
    import tempfile

    resources = [{"resourceType": "Basic", "id": str(i), "v": value} for i, value in enumerate(values)]
    around = {
        "resourceType": "Bundle",
        "type": "collection",
        "meta": {"tag": [{"entry": [other]}]},
        "link": [{"a": other}],
    }
    entries = {"entry": [entry(r, f"urn:uuid:x{i}") for i, r in enumerate(resources)]}
    document = resources if is_array else (entries | around if first else around | entries)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = Path(folder) / "x.json"
        path.write_text("\n" + json.dumps(document, indent=indent, ensure_ascii=False), "utf-8")
        patch.setattr(files, "_BLOCK_BYTES", block)
        at_once = [
            (b.place(i), x) for b in read_blocks(open_export(path)[0]) for i, x in enumerate(b.lines) if x
        ]
        patch.setattr(documents, "SMALL_BYTES", 0)
        split = [
            (b.place(i), x) for b in read_blocks(open_export(path)[0]) for i, x in enumerate(b.lines) if x
        ]
    assert [json.loads(x) for _, x in at_once] == resources
    # A one-line document in one block is a line of its own: only its places say so.
    assert [x for _, x in split] == [x for _, x in at_once]


def test_a_damaged_document_gives_its_sound_entries_and_says_so(tmp_path):
    whole = json.dumps(
        bundle(*[entry(PATIENT | {"id": f"p{i}"}, f"urn:uuid:u{i}") for i in range(100)]), indent=1
    )
    path = tmp_path / "x.json"
    cases = {
        "cut in an entry": (whole[: len(whole) // 2], 40),
        "cut after an entry": (whole[: whole.index('"p9"') + 12], 9),
        "text between": (whole.replace('  }\n  },', '  }\n  }, oops', 1), 100),
        "two documents": (whole + "\n" + whole, 100),
        "extra bracket": (whole + "]", 100),
    }  # fmt: skip
    for name, (text, least) in cases.items():
        path.write_text(text)
        damages = []
        found = lines_of(path, on_damage=damages.append)
        assert len(damages) == 1, name
        assert least <= len([x for x in found if x.startswith(b'{"resourceType":"Patient"')]), name
        with pytest.raises(GemelError) as caught:
            lines_of(path)
        assert caught.value.code == "GEM220", name
    path.write_text(whole.replace('"p7"', "p7", 1))
    found = lines_of(path)
    assert len(found) == 100
    assert sum(b'"resourceType": p7' in x or (b"p7" in x and b'"p7' not in x) for x in found) == 1


def test_a_large_document_is_split_in_little_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_BLOCK_BYTES", 1 << 18)
    monkeypatch.setattr(documents, "SMALL_BYTES", 1 << 20)
    path = tmp_path / "x.json"
    with path.open("w") as file:
        file.write('{"resourceType":"Bundle","type":"collection","entry":[\n')
        for i in range(12_000):
            tail = "" if i == 11_999 else ","
            file.write(
                json.dumps(entry(PATIENT | {"id": f"p{i}", "t": "x" * 900}, f"urn:uuid:p{i}"), indent=1)
                + tail
                + "\n"
            )
        file.write("]}")
    assert path.stat().st_size > 11 << 20
    count = 0
    tracemalloc.start()
    for block in read_blocks(open_export(path)[0]):
        count += sum(1 for line in block.lines if line)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 12_000
    # A few blocks and their parts, whatever the file's size.
    assert peak < 5 << 20


def test_a_cut_first_line_makes_no_document_of_a_file_of_lines(tmp_path):
    (tmp_path / "x.json").write_bytes(LINES[0][:-5] + b"\n" + LINES[1] + b"\n")
    assert lines_of(tmp_path) == [LINES[0][:-5], LINES[1]]


@pytest.mark.parametrize("how", ["grow", "shrink", "replace", "touch", "remove"])
def test_a_file_that_changes_while_it_is_read_is_an_error(how, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_BLOCK_BYTES", 1 << 12)
    path = tmp_path / "x.ndjson"
    path.write_bytes(PLAIN)
    blocks = read_blocks(open_export(path)[0], on_damage=print)
    next(blocks)
    if how == "grow":
        with path.open("ab") as file:
            file.write(b"{}\n")
    elif how == "shrink":
        os.truncate(path, 100)
    elif how == "replace":
        (tmp_path / "y").write_bytes(PLAIN)
        os.replace(tmp_path / "y", path)
    elif how == "touch":
        os.utime(path, (1, 1))
    else:
        path.unlink()
    with pytest.raises(GemelError) as caught:
        list(blocks)
    assert caught.value.code == "GEM221"


def test_links_out_fifos_and_devices_are_refused_and_never_opened(tmp_path):
    export = tmp_path / "e"
    export.mkdir()
    os.mkfifo(export / "x.ndjson")
    done = threading.Event()

    def attempt():
        with pytest.raises(GemelError, match="no file"):
            open_export(export)
        with pytest.raises(GemelError, match="no file"):
            list(read_blocks(files.ExportFile("x.ndjson", export / "x.ndjson")))
        done.set()

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(10)
    assert done.is_set()
    (export / "x.ndjson").unlink()
    for target in ("/dev/zero", "../secret.ndjson", "/etc/passwd"):
        (tmp_path / "secret.ndjson").write_bytes(PLAIN)
        (export / "y.ndjson").symlink_to(target)
        with pytest.raises(GemelError) as caught:
            open_export(export)
        assert caught.value.code == "GEM208"
        (export / "y.ndjson").unlink()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_refused_by_name(tmp_path):
    (tmp_path / "x.ndjson").write_bytes(PLAIN)
    (tmp_path / "x.ndjson").chmod(0)
    with pytest.raises(GemelError, match=r"x\.ndjson cannot be read"):
        lines_of(tmp_path)


def delete(url):
    return {"request": {"method": "DELETE", "url": url}}


def test_deletions_come_from_bundles_and_from_the_folder_of_them(tmp_path):
    (tmp_path / "t.json").write_text(
        json.dumps(bundle(entry(PATIENT), delete("Observation/gone"), kind="transaction"), indent=1)
    )
    (tmp_path / "l.ndjson").write_bytes(LINES[0])
    # Newest first: p was made again after it was deleted, q was deleted last.
    history = bundle(
        entry(PATIENT | {"id": "p"}),
        delete("Patient/p"),
        delete("Patient/q"),
        entry(PATIENT | {"id": "q"}),
        kind="history",
    )
    (tmp_path / "h.ndjson").write_text(json.dumps(history))
    (tmp_path / "deleted").mkdir()
    (tmp_path / "error").mkdir()
    (tmp_path / "manifest.json").write_text("{}")
    rows = [
        bundle(delete("https://x.example/fhir/Patient/1"), delete("Condition/2"), kind="transaction"),
        bundle(kind="transaction"),
    ]
    (tmp_path / "deleted" / "a.ndjson").write_text("\n".join(map(json.dumps, rows)))
    assert deletions(tmp_path) == {
        ("Observation", "gone"),
        ("Patient", "q"),
        ("Patient", "1"),
        ("Condition", "2"),
    }
    assert [file.name for file in open_export(tmp_path)] == ["h.ndjson", "l.ndjson", "t.json"]
    assert list_unread(tmp_path) == ["error: what the server could not export"]
    for bad in ("{}", "{", json.dumps(bundle(delete("Patient?name=x"))), json.dumps(bundle(entry(PATIENT)))):
        (tmp_path / "deleted" / "b.ndjson").write_text(bad)
        with pytest.raises(GemelError, match=r"deleted/b\.ndjson:1") as caught:
            deletions(tmp_path)
        assert caught.value.code == "GEM222"


def test_an_export_that_was_not_fetched_to_its_end_is_refused(tmp_path):
    (tmp_path / "x.ndjson").write_bytes(PLAIN)
    (tmp_path / files.UNFINISHED_NAME).write_text("{}")
    with pytest.raises(GemelError, match="fetch it again"):
        open_export(tmp_path)


def test_synthea_bundles_give_the_lines_of_the_bulk_export(shared_data, tmp_path):
    site = shared_data / "fhir" / "site_b_bulkserver_r4"
    if not site.exists():
        pytest.skip("shared/data is not there")
    lines = []
    for file in open_export(site):
        for block in read_blocks(file):
            lines += [x for x in block.lines if x][:200]
            break
    entries = [entry(json.loads(x), f"urn:uuid:{json.loads(x)['id']}") for x in lines]
    (tmp_path / "x.json").write_text(json.dumps(bundle(*entries), indent=2))
    assert parsed(tmp_path) == [json.loads(x) for x in lines]
