import json
import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemel.core.errors import GemelError
from gemel.data_adapters.dataset.build import build
from gemel.data_adapters.quality.check import check_export
from gemel.data_adapters.reading.intake import MAX_REJECTS_LISTED
from gemel.data_adapters.sources.files import open_export, read_blocks
from gemel.twins.programmes.fatty_liver import PROGRAMME

KEY = b"0123456789abcdef"


def good_lines(fhir):
    resources = [
        fhir.patient("p", name=[{"family": "Ångström \u2028 x"}]),
        fhir.encounter("p", "2010-01-01", "2012-01-01"),
        fhir.observation("p", "39156-5", 30.0, "kg/m2", "2009-06-01"),
        fhir.pressure_panel("p", 120, 80, "2009-06-01"),
        fhir.condition("p", fhir.ICD_10, "I10", "2009-06-01"),
        {"resourceType": "Organization", "id": "o"},
    ]
    return [json.dumps(resource, ensure_ascii=False).encode() for resource in resources]


def bad_cases(fhir):
    """(name, line, code, path) of each kind of bad line."""
    o = lambda **more: fhir.observation("p", "39156-5", 30.0, "kg/m2", "2009-06-01", **more)  # noqa: E731
    without = lambda resource, key: {k: v for k, v in resource.items() if k != key}  # noqa: E731
    whole = json.dumps(o()).encode()
    cases = [
        ("truncated", whole[:-40], "GEM201", "$"),
        ("merged", whole + whole, "GEM201", "$"),
        ("no object", b"[1, 2]", "GEM201", "$"),
        ("not UTF-8", whole.replace(b"final", b"fin\xffal"), "GEM201", "$"),
        ("control character in a text that nobody reads", b'{"zz": "\x01", ' + whole[1:], "GEM201", "$"),
        ("half a surrogate in a text that nobody reads", b'{"zz": "\\ud800", ' + whole[1:], "GEM201", "$"),
        ("a number out of range", whole.replace(b"30.0", b"1e999"), "GEM214", "$.valueQuantity.value"),
        ("no type", without(o(), "resourceType"), "GEM207", "$"),
        ("no id", without(o(), "id"), "GEM207", "$.id"),
        ("no subject", without(o(), "subject"), "GEM207", "$.subject"),
        ("no code", without(o(), "code"), "GEM207", "$.code"),
        ("no date", without(o(), "effectiveDateTime"), "GEM207", "$.effectiveDateTime"),
        ("no day of the calendar", o(effectiveDateTime="2009-02-30"), "GEM210", "$.effective"),
        ("date in words", o(effectiveDateTime="in spring"), "GEM210", "$.effective"),
        ("no unit", o(valueQuantity={"value": 30}), "GEM202", "$.valueQuantity"),
        ("unknown unit", o(valueQuantity={"value": 30, "code": "stone"}), "GEM203", "$.valueQuantity.code"),
        (
            "wrong dimension",
            o(valueQuantity={"value": 30, "code": "mmol/L"}),
            "GEM203",
            "$.valueQuantity.code",
        ),
        (
            "number as text",
            o(valueQuantity={"value": "30", "code": "kg/m2"}),
            "GEM214",
            "$.valueQuantity.value",
        ),
        ("object for a list", o(component={"a": 1}), "GEM214", "$.component"),
        ("sex as a number", fhir.patient("q") | {"gender": 1}, "GEM214", "$.gender"),
        (
            "STU3 condition",
            fhir.condition("p", "s", "c", "2010", clinicalStatus="active"),
            "GEM213",
            "$.clinicalStatus",
        ),
        ("encounter without start", fhir.encounter("p", "") | {"period": {}}, "GEM207", "$.period.start"),
    ]
    return [(n, x if isinstance(x, bytes) else json.dumps(x).encode(), c, p) for n, x, c, p in cases]


def test_every_bad_line_is_named_with_its_file_line_path_and_code(fhir, tmp_path):
    good, cases = good_lines(fhir), bad_cases(fhir)
    lines = [good[0], *(line for _, line, _, _ in cases), *good[1:]]
    fhir.write(tmp_path, {"mixed.ndjson": lines})
    report = check_export(tmp_path, PROGRAMME, validate="off")
    [count] = report.files
    assert (count.read, count.accepted, count.rejected) == (len(lines), len(good), len(cases))
    found = [(reject.line, reject.code, reject.path) for reject in report.rejects]
    assert found == [(i + 2, code, path) for i, (_, _, code, path) in enumerate(cases)]
    assert {reject.file for reject in report.rejects} == {"mixed.ndjson"}
    assert all(reject.reason for reject in report.rejects)
    assert report.fhir_version == "STU3"
    # The build rejects the same lines, and tells its engine nothing else.
    fhir.write(tmp_path, {"mixed.ndjson": [line for line in lines if b'"active"' not in line]})
    _, card = build(tmp_path, PROGRAMME, pseudonym_key=KEY)
    codes = [code for _, _, code, _ in cases if code != "GEM213"]
    assert card.rejects == {code: codes.count(code) for code in sorted(set(codes))}


def test_byte_order_mark_carriage_returns_and_blank_lines_are_tolerated(fhir, tmp_path):
    lines = good_lines(fhir)
    content = b"\xef\xbb\xbf" + b"\r\n".join([lines[0], b"", b"   ", *lines[1:]])
    (tmp_path / "x.ndjson").write_bytes(content)
    report = check_export(tmp_path, PROGRAMME)
    assert (report.read, report.accepted, report.rejected_total) == (6, 6, 0)
    assert report.fhir_version == "R4"
    assert report.validation.failed == 0
    assert report.validation.checked == 6
    (tmp_path / "x.ndjson").write_bytes(content + b"\r\n{")
    assert check_export(tmp_path, PROGRAMME, validate="off").rejects[0].line == 9


def test_the_type_comes_from_the_content_whatever_the_file_is_called(fhir, tmp_path):
    fhir.write(tmp_path, {"Patient.ndjson": good_lines(fhir)[1:], "part-2.ndjson.gz": good_lines(fhir)[:1]})
    report = check_export(tmp_path, PROGRAMME, validate="off")
    assert report.patients == 1
    assert {c.concept: c.patients for c in report.coverage if c.values} == {
        "body_mass_index": 1,
        "systolic_blood_pressure": 1,
        "hypertension": 1,
    }
    dataset, _ = build(tmp_path, PROGRAMME, pseudonym_key=KEY)
    assert len(dataset) == 1


def test_what_is_accepted_but_not_used_is_counted_under_its_code(fhir, tmp_path):
    resources = [
        fhir.patient("p", meta={"security": [{"code": "HTEST"}]}),
        fhir.observation("p", "99999-9", 1, "mg/dL", "2010-01-01"),
        fhir.observation("p", "39156-5", 3000, "kg/m2", "2010-01-01"),
        fhir.condition("p", "http://local", "77", "2010-01-01"),
        fhir.condition("p", "http://local", "77", "2010-01-01"),
    ]
    report = check_export(fhir.write(tmp_path, {"x.ndjson": resources}), PROGRAMME, validate="off")
    assert report.noted == {"GEM204": 3, "GEM206": 1, "GEM211": 1}
    assert next((u.system, u.code, u.count) for u in report.unmapped) == ("http://local", "77", 2)
    assert report.implausible_examples == ["body_mass_index = 3000 kg/m2"]


def test_the_report_is_plain_json(fhir, tmp_path):
    report = check_export(fhir.write(tmp_path, {"x.ndjson": good_lines(fhir)}), PROGRAMME, validate="off")
    document = json.loads(msgspec.json.encode(report))
    assert document["files"][0]["file"] == "x.ndjson"
    assert {"fhir_version", "rejects", "coverage"} <= set(document)


def test_a_line_that_only_the_full_models_refuse_is_reported_not_rejected(fhir, tmp_path):
    odd = fhir.patient("p") | {"unheardOf": 1}
    report = check_export(fhir.write(tmp_path, {"x.ndjson": [odd]}), validate="full")
    assert report.rejected_total == 0
    assert report.validation.failed == 1
    assert report.validation.examples[0].line == 1
    assert "unheardOf" in report.validation.examples[0].reason


def test_rejects_are_listed_up_to_a_cap_and_all_counted(fhir, tmp_path):
    fhir.write(tmp_path, {"x.ndjson": [b"{"] * (MAX_REJECTS_LISTED + 7)})
    report = check_export(tmp_path, validate="off")
    assert (len(report.rejects), report.rejected_total) == (MAX_REJECTS_LISTED, MAX_REJECTS_LISTED + 7)


@pytest.mark.parametrize("kind", ["missing", "empty", "link out", "broken gzip", "short gzip", "other file"])
def test_an_export_that_cannot_be_read_is_refused(kind, fhir, tmp_path):
    export = tmp_path / "export"
    if kind != "missing":
        export.mkdir()
    if kind == "link out":
        secret = fhir.write(tmp_path / "elsewhere", {"secret.ndjson": good_lines(fhir)})
        (export / "x.ndjson").symlink_to(secret / "secret.ndjson")
    if kind == "broken gzip":
        (export / "x.ndjson.gz").write_bytes(b"not gzip at all")
    if kind == "short gzip":
        fhir.write(export, {"x.ndjson.gz": good_lines(fhir) * 50})
        content = (export / "x.ndjson.gz").read_bytes()
        (export / "x.ndjson.gz").write_bytes(content[:-30])
    if kind == "other file":
        export = export / "notes.txt"
        export.write_text("{}")
    with pytest.raises(GemelError) as caught:
        check_export(export, validate="off")
    assert caught.value.code == ("GEM220" if "gzip" in kind else "GEM208")


def test_a_link_within_the_export_is_followed(fhir, tmp_path):
    fhir.write(tmp_path, {"x.ndjson": good_lines(fhir)})
    (tmp_path / "y.ndjson").symlink_to(tmp_path / "x.ndjson")
    assert [file.name for file in open_export(tmp_path)] == ["x.ndjson", "y.ndjson"]


@given(st.lists(st.binary(max_size=20).map(lambda b: b.replace(b"\r", b"")), max_size=20), st.integers(1, 64))
def test_lines_are_split_alike_whatever_the_block_size(lines, size):
    content = b"\n".join(lines)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = Path(folder) / "x.ndjson"
        path.write_bytes(content)
        patch.setattr("gemel.data_adapters.sources.files._BLOCK_BYTES", max(size, 3))
        [file] = open_export(path)
        blocks = list(read_blocks(file))
    found = [line for block in blocks for line in block.lines]
    expected = [
        b"" if line.isspace() else line for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    ]
    while expected and not expected[-1]:
        expected.pop()
    while found and not found[-1]:
        found.pop()
    assert found == expected
    assert [block.first_line for block in blocks][:1] in ([], [1])


mutation = st.tuples(
    st.sampled_from(["cut", "flip", "merge", "drop", "insert", "repeat"]),
    st.integers(0, 5),
    st.integers(0, 2000),
    st.integers(0, 255),
)


def counts_or_refusal(folder):
    """(read, rejected) of the build, or the code with which it refuses the whole export."""
    try:
        _, card = build(folder, PROGRAMME, pseudonym_key=KEY)
    except GemelError as error:
        return error.code
    return card.files[0].read, card.files[0].rejected


@settings(max_examples=25, deadline=None)
@given(st.lists(mutation, max_size=6))
def test_no_line_is_lost_whatever_happens_to_the_bytes(fhir, mutations):
    lines = good_lines(fhir)
    for kind, at, place, byte in mutations:
        line = lines[at % len(lines)]
        place = place % (len(line) + 1)
        if kind == "cut":
            line = line[:place]
        elif kind == "flip":
            line = line[:place] + bytes([byte]) + line[place + 1 :]
        elif kind == "insert":
            line = line[:place] + bytes([byte]) + line[place:]
        elif kind == "drop":
            line = line[:place] + line[place + 1 :]
        elif kind == "merge":
            line = line + lines[place % len(lines)]
        else:
            lines.append(line)
        lines[at % len(lines)] = line
    content = b"\n".join(lines)
    alive = [line for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "x.ndjson").write_bytes(content)
        report = check_export(Path(folder), PROGRAMME, validate="off")
        [count] = report.files
        assert count.read == len(alive) == count.accepted + count.rejected
        assert len(report.rejects) == count.rejected
        assert sum(count.types.values()) == count.accepted
        built = counts_or_refusal(Path(folder))
    assert built in ("GEM205", "GEM212", "GEM213", (count.read, count.rejected))


def test_a_public_bulk_export_is_read_without_rejects(shared_data):
    export = shared_data / "fhir" / "site_b_bulkserver_r4"
    if not export.exists():
        pytest.skip("the public FHIR sites are not in ../shared/data")
    report = check_export(export, PROGRAMME)
    assert (report.read, report.accepted, report.rejected_total) == (28634, 28634, 0)
    assert report.validation.failed == 0
    assert report.validation.checked > 1500
