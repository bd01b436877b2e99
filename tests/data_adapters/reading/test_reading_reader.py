"""The contract of a reader, kept by the one in Python and the one in C++."""

import json
import threading

import pyarrow as pa
import pytest
from damaged_lines import task_shapes

from gemel.core.errors import GemelError
from gemel.data_adapters.reading.intake import Intake
from gemel.data_adapters.reading.reader import native_is_built, open_reader
from gemel.data_adapters.reading.shape import Shape
from gemel.data_adapters.sources.compression import ReadLimits
from gemel.data_adapters.sources.files import Block

PATIENT = {"resourceType": "Patient", "id": "p1"}


@pytest.fixture(params=["python", "native"])
def native(request):
    if request.param == "native" and not native_is_built():
        pytest.skip("the native reader was not compiled")
    return request.param == "native"


@pytest.fixture
def reader(native):
    return open_reader(task_shapes(), native=native)


def read(reader, *lines, first_line=1):
    made = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    result = reader.read(Block(b"\n".join(made), first_line))
    assert result.read == sum(result.types.values()) + len(result.faults)
    return result


def rows(result, name="Patient"):
    return result.tables[name].column("r").to_pylist()


def test_a_line_becomes_a_row_with_its_number(reader):
    result = read(reader, PATIENT, b"", PATIENT | {"id": "p2", "gender": "female"}, first_line=41)
    table = result.tables["Patient"]
    assert table.schema.field("r").type == task_shapes()["Patient"].arrow_type()
    assert table.column("line").to_pylist() == [41, 43]
    assert [(row["id"], row["gender"]) for row in rows(result)] == [("p1", None), ("p2", "female")]
    assert (result.read, result.types, result.faults) == (2, {"Patient": 2}, ())


def test_types_that_no_shape_reads_are_counted_only(reader):
    result = read(reader, {"resourceType": "Device", "id": "d"}, PATIENT)
    assert result.types == {"Device": 1, "Patient": 1}
    assert set(result.tables) == {"Patient"}


def test_no_lines_give_no_tables(reader):
    for data in (b"", b"\n\n", b" \t\r\n\x0b\x0c"):
        result = reader.read(Block(data, 1))
        assert (result.read, result.types, result.tables, result.faults) == (0, {}, {}, ())


def test_every_kind_of_element_has_its_type(reader):
    patient = PATIENT | {
        "deceasedBoolean": False,
        "multipleBirthInteger": -2147483648,
        "address": [{"state": "MA"}, None, {}],
        "name": [{"given": ["A", None, "B"]}, {"given": []}],
        "maritalStatus": {"text": "x", "a": [1, {"b": None}]},
        "extension": [{"url": "u"}, None],
    }
    quantity = {"value": 0.1, "unit": "mg", "id": "q", "_unit": {"id": "u"}}
    observation = {"resourceType": "Observation", "id": "o", "valueQuantity": quantity}
    whole = observation | {"valueQuantity": {"value": 7}, "component": [{"valueString": "s"}]}
    result = read(reader, patient, observation, whole)
    [row] = rows(result)
    assert row["deceasedBoolean"] is False
    assert row["multipleBirthInteger"] == -2147483648
    assert row["address"] == [{"state": "MA"}, None, {"state": None}]
    assert row["name"] == [{"given": ["A", None, "B"]}, {"given": []}]
    assert row["maritalStatus"] == '{"text": "x", "a": [1, {"b": null}]}'
    assert row["extension"] == ['{"url": "u"}', None]
    first, second = rows(result, "Observation")
    assert first["valueQuantity"] == {"value": 0.1, "unit": "mg", "code": None, "comparator": None}
    assert second["valueQuantity"]["value"] == 7.0
    assert second["component"][0]["valueString"] == "s"


@pytest.mark.parametrize(
    "text",
    ["0.1", "-0", "-0.0", "5", "176.35499866729558", "9007199254740993", "1e22", "1e23", "123456789012345678901234567890",
     "2.2250738585072011e-308", "4.9e-324", "1e-400", "1.7976931348623157e308", "0.1e1", "1E+2", "10.000000000000000000000000001",
     "0.000001234567890123456789", "3.14159265358979323846264338327950288"],
)  # fmt: skip
def test_numbers_are_read_to_the_last_bit(reader, text):
    line = f'{{"resourceType":"Observation","id":"o","valueQuantity":{{"value":{text}}},"other":{text}}}'
    [row] = rows(read(reader, line.encode()), "Observation")
    expected = 0.0 if text == "-0" else float(text)  # msgspec reads the integer -0 as 0.
    assert row["valueQuantity"]["value"].hex() == expected.hex()


@pytest.mark.parametrize(
    "text",
    ["é", "日本", "😀", "a\u0000b", 'q"q', "\\", "/", "\b\f\n\r\t", "\u007f", "x" * 40 + '"' + "y" * 40],
)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_texts_are_read_whole(reader, text, ascii_only):
    line = json.dumps(PATIENT | {"gender": text, "other": text}, ensure_ascii=ascii_only).encode()
    assert rows(read(reader, line))[0]["gender"] == text


def test_texts_of_every_length_are_read_at_every_place_of_a_block(reader):
    for length in range(70):
        block = [
            PATIENT | {"gender": "g" * (i % 35), "birthDate": "\\" * (length - i % 35)} for i in range(length)
        ]
        got = rows(read(reader, *block, PATIENT))
        assert [row["gender"] for row in got[:-1]] == [line["gender"] for line in block]
        assert [row["birthDate"] for row in got[:-1]] == [line["birthDate"] for line in block]


def test_keys_may_stand_in_any_order_and_with_blanks(reader):
    result = read(
        reader,
        b' { "gender" : "male" , "id" : "p1" , "resourceType" : "Patient" } \r',
        b'{"id":"o1","contained":[{"resourceType":"Patient","id":"x"}],"status":"final","resourceType":"Observation"}',
        b'{"\\u0069d":"p2","resourceType":"Patient","g\\u0065nder":"female"}',
    )
    assert result.faults == ()
    assert [(row["id"], row["gender"]) for row in rows(result)] == [("p1", "male"), ("p2", "female")]
    assert result.tables["Patient"].column("line").to_pylist() == [1, 3]
    assert [(row["id"], row["status"]) for row in rows(result, "Observation")] == [("o1", "final")]


@pytest.mark.parametrize(
    ("line", "code", "path"),
    [
        (b"nonsense", "GEM201", "$"),
        (b"[]", "GEM201", "$"),
        (b"null", "GEM201", "$"),
        (b'{"resourceType":"Patient","id":"p1"', "GEM201", "$"),
        (b'{"resourceType":"Patient","id":"p1"}{"resourceType":"Patient","id":"p2"}', "GEM201", "$"),
        (b'{"resourceType":"Patient","id":"p1"}\x00', "GEM201", "$"),
        (b'\xef\xbb\xbf{"resourceType":"Patient","id":"p1"}', "GEM201", "$"),
        (b'{"resourceType":"Patient","id":"p1","x":"\xff"}', "GEM201", "$"),
        (b'{"resourceType":"Patient","id":"p1","x":"\xed\xa0\x80"}', "GEM201", "$"),
        (b'{"resourceType":"Patient","id":"p1","x":"\t"}', "GEM201", "$"),
        (b'{"resourceType":"Patient","id":"p1","x":"\\ud800"}', "GEM201", "$"),
        (b'{"resourceType":"Patient","id":"p1","x":"\\x"}', "GEM201", "$"),
        (b'{"resourceType":"Patient","id":"p1","x":01}', "GEM201", "$"),
        (b'{"resourceType":"Patient","id":"p1","x":1.}', "GEM201", "$"),
        (b'{"resourceType":"Patient","id":"p1","x":nul}', "GEM201", "$"),
        (b'{"resourceType":"Patient","id":"p1","x":[1,]}', "GEM201", "$"),
        (b'{"resourceType":"Patient","id":"p1","x":{"a":1,}}', "GEM201", "$"),
        (b'{"resourceType":"Patient","id":"p1","x":' + b"[" * 5000 + b"]" * 5000 + b"}", "GEM201", "$"),
        (b'{"resourceType":"Patient","id":"p1","id":"p1"}', "GEM201", "$"),
        (b'{"resourceType":"Patient","id":"p1","x":[{"a":1,"b":2,"\\u0061":3}]}', "GEM201", "$"),
        (b'{"resourceType":"Patient","resourceType":"Patient","id":"p1"}', "GEM201", "$"),
        (b'{"resourceType":"Patient","id":"p1","x":1e400}', "GEM214", "$.x"),
        (b'{"resourceType":"Patient"}', "GEM207", "$.id"),
        (b'{"resourceType":"Patient","id":null}', "GEM207", "$.id"),
        (b'{"resourceType":"Patient","id":""}', "GEM207", "$.id"),
        (b'{"resourceType":"Patient","id":"a b"}', "GEM214", "$.id"),
        (b'{"resourceType":"Patient","id":"' + b"x" * 65 + b'"}', "GEM214", "$.id"),
        (b'{"resourceType":"Patient","id":1}', "GEM214", "$.id"),
        (b'{"id":"p1"}', "GEM207", "$"),
        (b'{"resourceType":"Patent","id":"p1"}', "GEM214", "$.resourceType"),
        (b'{"resourceType":"Bundle","id":"p1"}', "GEM215", "$.entry"),
        (b'{"resourceType":"Device"}', "GEM207", "$.id"),
        (b'{"resourceType":"Device","id":"d","meta":{"versionId":1}}', "GEM214", "$.meta.versionId"),
        (b'{"resourceType":"Patient","id":"p1","gender":1}', "GEM214", "$.gender"),
        (b'{"resourceType":"Patient","id":"p1","deceasedBoolean":"true"}', "GEM214", "$.deceasedBoolean"),
        (b'{"resourceType":"Patient","id":"p1","multipleBirthInteger":2147483648}', "GEM214", "$.multipleBirthInteger"),
        (b'{"resourceType":"Patient","id":"p1","multipleBirthInteger":1.0}', "GEM214", "$.multipleBirthInteger"),
        (b'{"resourceType":"Patient","id":"p1","address":{"state":"MA"}}', "GEM214", "$.address"),
        (b'{"resourceType":"Patient","id":"p1","maritalStatus":[]}', "GEM214", "$.maritalStatus"),
        (b'{"resourceType":"Observation","id":"o","valueQuantity":{"value":"5"}}', "GEM214", "$.valueQuantity.value"),
        (b'{"resourceType":"Observation","id":"o","valueQuantity":{"value":5,"comparater":"<"}}', "GEM214", "$.valueQuantity"),
        (b'{"resourceType":"Observation","id":"o","valueQuantity":{"value":5,"system":0}}', "GEM214", "$.valueQuantity.system"),
    ],
)  # fmt: skip
def test_a_line_at_fault_is_named_and_its_neighbours_stay(reader, line, code, path):
    before, after = PATIENT | {"gender": "male", "address": [{"state": "A"}]}, PATIENT | {"id": "p9"}
    result = read(reader, before, line, after, first_line=5)
    [fault] = result.faults
    assert (fault.line, fault.fault.code, fault.fault.path) == (1, code, path)
    assert fault.fault.reason
    assert result.tables["Patient"].column("line").to_pylist() == [5, 7]
    assert [(row["id"], row["gender"], row["address"]) for row in rows(result)] == [
        ("p1", "male", [{"state": "A"}]),
        ("p9", None, None),
    ]
    result.tables["Patient"].validate(full=True)


def test_keys_without_end_are_forgotten_again(reader):
    for start in range(0, 60_000, 300):
        line = PATIENT | {f"key{start + i}": {"x": i} for i in range(300)}
        assert read(reader, line).types == {"Patient": 1}
    assert read(reader, PATIENT | {f"key{i}": i for i in range(5000)}).types == {"Patient": 1}


def test_long_lines_and_long_keys_are_read(reader):
    line = PATIENT | {"text": {"div": 'é"\\' * 300_000}, "k" * 5000: 1, "gender": "x" * 100_000}
    result = read(reader, line, line | {"id": "p2"})
    assert [len(row["gender"]) for row in rows(result)] == [100_000, 100_000]


def test_tables_outlive_their_reader_and_its_next_blocks(reader):
    first = read(reader, PATIENT)
    for i in range(50):
        read(reader, *[PATIENT | {"id": f"q{i}-{j}"} for j in range(50)])
    table = first.tables["Patient"]
    del reader, first
    assert table.column("r")[0].as_py()["id"] == "p1"


def test_threads_share_a_reader(reader):
    lines = [PATIENT | {"id": f"p{i}", "name": [{"given": ["x"] * (i % 5)}]} for i in range(300)]
    expected = read(reader, *lines)
    results, failures = [], []

    def work():
        try:
            results.extend(read(reader, *lines) for _ in range(5))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(results) == 20
    assert all(result.tables["Patient"].equals(expected.tables["Patient"]) for result in results)


@pytest.mark.parametrize("text", ["1.50", "1.5", "-0.00", "1e2", "12345678901234567890.0", "1e-400"])
def test_an_exact_decimal_keeps_the_text_of_its_number(native, text):
    shape = Shape.of_resource("Observation")
    value = shape.child("valueQuantity", "Quantity").child("value", "decimal")
    value.exact = True
    reader = open_reader({"Observation": shape}, native=native)
    line = '{"resourceType":"Observation","id":"o","valueQuantity":{"value":%s}}'
    result = read(reader, *((line % word).encode() for word in (text, "null", "1e400", '"1"')))
    assert [row["valueQuantity"]["value"] for row in rows(result, "Observation")] == [text, None]
    assert [fault.fault.code for fault in result.faults] == ["GEM214", "GEM214"]


def test_many_types_in_turn_go_to_their_tables(reader):
    names = ["Patient", "Observation", "Device", "Condition", "Observation"] * 20
    result = read(reader, *[{"resourceType": name, "id": f"i{i}"} for i, name in enumerate(names)])
    assert result.types == {"Patient": 20, "Observation": 40, "Device": 20, "Condition": 20}
    assert result.tables["Observation"].column("line").to_pylist()[:4] == [2, 5, 7, 10]


def test_intake_keeps_the_account_and_says_where_an_entry_stood(reader):
    intake = Intake()
    file = intake.add_file("a.ndjson")
    block = Block(b'{"resourceType":"Patient","id":"p1"}\n{}', 7, places=("7 entry[0]", "7 entry[1]"))
    intake.take_in(file, block, reader.read(block))
    block = Block(b"\nx", 9)
    intake.take_in(file, block, reader.read(block))
    count = intake.files[file]
    assert (count.file, count.read, count.accepted, count.rejected) == ("a.ndjson", 3, 1, 2)
    assert [(reject.line, reject.place) for reject in intake.rejects] == [(8, "7 entry[1]"), (10, None)]


def test_a_native_reader_that_was_not_compiled_is_named(monkeypatch):
    monkeypatch.setattr("gemel.data_adapters.reading.reader._native_module", lambda: None)
    with pytest.raises(GemelError) as caught:
        open_reader({}, native=True)
    assert caught.value.code == "GEM230"
    assert type(open_reader({})).__name__ == "_PythonReader"


def test_what_a_shape_reads_is_typed_for_arrow():
    shape = Shape.of_resource("Observation")
    shape.child("valueInteger", "integer")
    shape.child("note", "Annotation", repeats=True)
    assert shape.arrow_type() == pa.struct(
        [
            ("id", pa.string()),
            ("meta", pa.struct([("lastUpdated", pa.string()), ("versionId", pa.string())])),
            ("note", pa.list_(pa.string())),
            ("valueInteger", pa.int64()),
        ]
    )


def test_a_line_over_the_limit_is_told_as_one_and_not_as_its_stand_in(reader):
    intake = Intake()
    block = Block(b'{"resourceType":"Patient","id":"p1"}\n{"\n{"', 1, too_long=(1,))
    intake.take_in(intake.add_file("a.ndjson"), block, reader.read(block))
    assert [(reject.line, reject.code) for reject in intake.rejects] == [(2, "GEM201"), (3, "GEM201")]
    assert intake.rejects[0].reason == f"longer than the limit of {ReadLimits().max_line_bytes:,} bytes"
    assert "limit" not in intake.rejects[1].reason


@pytest.mark.parametrize("line", [b"[" * 9_000, b"[" * 9_000 + b"]" * 9_000])
def test_a_line_that_is_nested_too_deeply_is_told_without_pythons_words(reader, line):
    result = read(reader, b'{"resourceType":"Patient","id":"p1","x":' + line + b"}")
    assert [fault.fault.reason for fault in result.faults] == ["nested too deeply"]
