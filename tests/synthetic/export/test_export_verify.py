"""Whoever changes any byte of an exported cohort, takes a file away or adds one, is found; so is another report."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from virtual_patients import OVERRIDDEN, PASSED

from gemel.core.canonical import document_hash
from gemel.core.errors import GemelError
from gemel.core.signing import SigningKey
from gemel.synthetic.export import Format, verify, write
from gemel.synthetic.export.attestation import document_text, file_sha256, sign_manifest
from gemel.synthetic.report.gate import Outcome, Override


def names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_changed_byte_of_any_file_is_found(exported: Path, data: st.DataObject) -> None:
    path = exported / data.draw(st.sampled_from(names(exported)))
    content = path.read_bytes()
    at = data.draw(st.integers(0, len(content) - 1))
    other = bytes([content[at] ^ data.draw(st.integers(1, 255))])
    path.write_bytes(content[:at] + other + content[at + 1 :])
    try:
        with pytest.raises(GemelError, match="GEM74[12]|GEM10[123]"):
            verify(exported)
    finally:
        path.write_bytes(content)
    assert verify(exported).files


def test_every_missing_file_is_found_and_so_is_every_one_that_ends_early(exported: Path) -> None:
    for name in names(exported):
        content = (exported / name).read_bytes()
        (exported / name).write_bytes(content[:-1])
        with pytest.raises(GemelError, match="GEM741|GEM10[123]"):
            verify(exported)
        (exported / name).unlink()
        if name == "cohort.signed.json":
            assert verify(exported).public_key is None
        else:
            with pytest.raises(GemelError, match="GEM741"):
                verify(exported)
        (exported / name).write_bytes(content)


@pytest.mark.parametrize("name", ["fhir/Patient.00001.ndjson", "notes.txt", "omop/.hidden", "empty/deep/x"])
def test_a_file_that_the_manifest_does_not_name_is_found(exported: Path, name: str) -> None:
    (exported / name).parent.mkdir(parents=True, exist_ok=True)
    (exported / name).write_bytes(b"")
    with pytest.raises(GemelError, match=f"GEM741 {name}"):
        verify(exported)


def test_a_link_instead_of_a_file_is_found_even_to_the_same_bytes(exported: Path, tmp_path: Path) -> None:
    shutil.move(exported / "cohort.csv", tmp_path / "elsewhere")
    (exported / "cohort.csv").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(GemelError, match="GEM741"):
        verify(exported)


def test_a_signed_manifest_that_names_a_file_elsewhere_is_refused(exported: Path, key: SigningKey) -> None:
    (exported.parent / "outside").write_bytes(b"")
    manifest = json.loads((exported / "cohort.json").read_text())
    manifest["files"] |= {"../outside": file_sha256(exported.parent / "outside")}
    (exported / "cohort.json").write_text(document_text(manifest))
    (exported / "cohort.signed.json").write_bytes(sign_manifest(manifest, key).to_bytes())
    with pytest.raises(GemelError, match="GEM741"):
        verify(exported)


@pytest.mark.parametrize("text", ["[]", "{}", "null", "{", "\udcff", '{"files": 3}', '{"release": "x"}'])
def test_what_is_no_manifest_is_refused_in_words(tmp_path: Path, text: str) -> None:
    (tmp_path / "cohort.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(GemelError, match="GEM741"):
        verify(tmp_path)
    with pytest.raises(GemelError, match="GEM741"):
        verify(tmp_path / "nowhere")


def test_a_swapped_report_is_found(
    drawn: Any, provenance: dict[str, Any], key: SigningKey, tmp_path: Path
) -> None:
    report = {"format": "some report", "findings": [], "value": 0.25}
    decision = dataclasses.replace(PASSED, report_sha256=document_hash(report))
    write(drawn, tmp_path, provenance=provenance, decision=decision, formats=[Format.CSV], key=key)
    assert verify(tmp_path, report=report).report_sha256 == document_hash(report)
    with pytest.raises(GemelError, match="GEM742"):
        verify(tmp_path, report=report | {"value": 0.26})


def say_otherwise(folder: Path, name: str, change: Callable[[Path], None], key: SigningKey) -> None:
    """Change a file and sign for it: only what the files say of the release is wrong then."""
    change(folder / name)
    manifest = json.loads((folder / "cohort.json").read_text())
    manifest["files"][name] = file_sha256(folder / name)
    (folder / "cohort.json").write_text(document_text(manifest))
    (folder / "cohort.signed.json").write_bytes(sign_manifest(manifest, key).to_bytes())


def in_text(path: Path) -> None:
    path.write_text(path.read_text().replace(document_hash(OVERRIDDEN.as_dict()), "00" * 32))


def in_source(path: Path) -> None:
    table = parquet.read_table(path)
    at = table.schema.get_field_index("source_description")
    parquet.write_table(table.set_column(at, "source_description", pa.array(["HTEST: synthetic."])), path)


def in_schema(path: Path) -> None:
    parquet.write_table(parquet.read_table(path).replace_schema_metadata({"gemel.security": "HTEST"}), path)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("fhir/Provenance.ndjson", in_text),
        ("croissant.json", in_text),
        ("health_dcat.ttl", in_text),
        ("omop/cdm_source.parquet", in_source),
        ("cohort.parquet", in_schema),
    ],
)
def test_a_file_that_says_another_decision_than_the_manifest_is_found(
    exported: Path, name: str, change: Callable[[Path], None], key: SigningKey
) -> None:
    say_otherwise(exported, name, lambda path: None, key)
    verify(exported)
    say_otherwise(exported, name, change, key)
    with pytest.raises(GemelError, match=f"GEM741 {name}"):
        verify(exported)


def test_who_overrides_why_when_and_over_what_stands_in_every_description(exported: Path) -> None:
    override = OVERRIDDEN.override
    assert override is not None
    said = (*OVERRIDDEN.failed, *OVERRIDDEN.untested, override.by, override.reason, override.at)
    texts = {
        name: (exported / name).read_text()
        for name in (
            "cohort.json",
            "cohort.signed.json",
            "fhir/Provenance.ndjson",
            "croissant.json",
            "health_dcat.ttl",
        )
    }
    texts["omop"] = str(parquet.read_table(exported / "omop" / "cdm_source.parquet")["source_description"][0])
    for name, text in texts.items():
        assert [
            part for part in (*said, OVERRIDDEN.report_sha256, OVERRIDDEN.model_sha256) if part not in text
        ] == [], name


@pytest.mark.parametrize(
    "changes",
    [
        {"model_sha256": "d0" * 32},
        {"failed": ("pairs: worst",)},
        {"untested": ("membership",)},
        {"override": Override("A", "b", "2026-11-26T10:00:00Z"), "outcome": Outcome.OVERRIDDEN},
    ],
)
def test_nothing_is_written_without_a_decision_about_this_very_model(
    drawn: Any, provenance: dict[str, Any], tmp_path: Path, changes: dict[str, Any]
) -> None:
    decision = dataclasses.replace(PASSED, **changes)
    with pytest.raises(GemelError, match="GEM742"):
        write(drawn, tmp_path / "out", provenance=provenance, decision=decision)
    assert list(tmp_path.iterdir()) == []


def test_a_cohort_that_does_not_name_its_model_is_not_written(
    drawn: Any, provenance: dict[str, Any], tmp_path: Path
) -> None:
    nameless = dataclasses.replace(drawn, model_sha256="")
    with pytest.raises(GemelError, match="GEM742"):
        write(nameless, tmp_path / "out", provenance=provenance, decision=PASSED)
    decision = dataclasses.replace(PASSED, model_sha256="")
    with pytest.raises(GemelError, match="GEM742"):
        write(nameless, tmp_path / "out", provenance=provenance, decision=decision)
