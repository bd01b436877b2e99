"""Signatures and the manifest: anybody can check a cohort offline, and any change is found."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from joserfc import jws
from joserfc.jwk import OKPKey
from virtual_patients import OVERRIDDEN, PASSED

from gemel.core.canonical import canonical_bytes, document_hash
from gemel.core.errors import GemelError
from gemel.core.signing import SigningKey, read_signed
from gemel.synthetic.export import Format, verify, write
from gemel.synthetic.export.attestation import verify_resource


def provenance_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "fhir" / "Provenance.ndjson").read_text())
    return found


def test_a_whole_cohort_verifies_and_says_whose_it_is_and_on_whose_word_it_left(
    exported: Path, drawn: Any, key: SigningKey
) -> None:
    found = verify(exported, public_key=key.public_hex)
    assert (found.release, found.virtual_patients, found.public_key) == (
        drawn.release,
        len(drawn),
        key.public_hex,
    )
    assert found.report_sha256 == OVERRIDDEN.report_sha256
    assert found.decision == json.loads(json.dumps(OVERRIDDEN.as_dict()))
    assert found.conditions == {"age_years": ["[70, 80)", "[80, 90)"]}


def test_the_manifest_names_every_other_file_by_its_hash_and_the_signed_one_is_the_same(
    exported: Path,
) -> None:
    manifest = json.loads((exported / "cohort.json").read_text())
    names = {p.relative_to(exported).as_posix() for p in exported.rglob("*") if p.is_file()}
    assert manifest["files"].keys() == names - {"cohort.json", "cohort.signed.json"}
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((exported / name).read_bytes()).hexdigest() == digest
    assert read_signed((exported / "cohort.signed.json").read_bytes()).payload == manifest


def test_another_key_is_refused_and_so_is_a_key_where_nobody_signed(
    exported: Path, drawn: Any, provenance: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(GemelError, match="GEM102"):
        verify(exported, public_key=SigningKey.generate().public_hex)
    write(drawn, tmp_path / "unsigned", provenance=provenance, decision=PASSED, formats=[Format.FHIR])
    assert "signature" not in provenance_of(tmp_path / "unsigned")
    assert verify(tmp_path / "unsigned").public_key is None
    with pytest.raises(GemelError, match="GEM102"):
        verify(tmp_path / "unsigned", public_key=SigningKey.generate().public_hex)


def test_the_provenance_names_study_files_and_report(exported: Path, provenance: dict[str, Any]) -> None:
    entities = {
        entity["what"]["identifier"]["system"]: entity["what"]["identifier"]["value"]
        for entity in provenance_of(exported)["entity"]
    }
    assert entities["urn:gemel:study-sha256"] == provenance["study_sha256"]
    assert entities["urn:gemel:report-sha256"] == OVERRIDDEN.report_sha256
    assert entities["urn:gemel:model-sha256"] == OVERRIDDEN.model_sha256
    assert entities["urn:gemel:decision-sha256"] == document_hash(OVERRIDDEN.as_dict())
    assert len(entities["urn:gemel:files-sha256"]) == 64


def test_another_library_of_jose_accepts_the_signature_of_the_provenance(
    exported: Path, key: SigningKey
) -> None:
    import base64

    resource = provenance_of(exported)
    (signature,) = resource.pop("signature")
    assert signature["sigFormat"] == "application/jose"
    detached = base64.b64decode(signature["data"]).decode()
    x = base64.urlsafe_b64encode(bytes.fromhex(key.public_hex)).rstrip(b"=").decode()
    public = OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": x})
    header, _, value = detached.split(".")
    payload = base64.urlsafe_b64encode(canonical_bytes(resource)).rstrip(b"=").decode()
    found = jws.deserialize_compact(f"{header}.{payload}.{value}", public, algorithms=["Ed25519"])
    assert found.payload == canonical_bytes(resource)


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.update(recorded="2020-01-01T00:00:00Z"),
        lambda r: r["target"].pop(),
        lambda r: r["signature"][0].update(data="AAAA"),
        lambda r: r["signature"][0]["who"]["identifier"].update(value="00" * 32),
        lambda r: r.pop("signature"),
        lambda r: r["signature"].append(r["signature"][0]),
    ],
)
def test_a_changed_provenance_is_refused(exported: Path, change: Any) -> None:
    resource = provenance_of(exported)
    verify_resource(resource)
    change(resource)
    with pytest.raises(GemelError, match="GEM102"):
        verify_resource(resource)


def test_another_cohorts_provenance_is_refused_and_nothing_is_written(
    drawn: Any, provenance: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(GemelError, match="GEM702"):
        write(drawn, tmp_path / "out", provenance=provenance | {"study": "another"}, decision=PASSED)
    assert not (tmp_path / "out").exists()
