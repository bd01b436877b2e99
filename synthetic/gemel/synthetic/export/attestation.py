"""Who made a virtual cohort, of what, at what price: one FHIR Provenance, and the manifest, both signed with Ed25519.

The Provenance carries a detached JWS (RFC 7515 appendix F, Ed25519 of RFC 9864) over its own canonical JSON without `signature`: any JOSE library
checks it with the public key. The manifest names every file by its SHA-256.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import orjson

from gemel.core.canonical import canonical_bytes, document_hash
from gemel.core.errors import GemelError
from gemel.core.signing import SignedDocument, SigningKey, read_signed, sign_document, signed_by, verify_bytes
from gemel.synthetic.export.fhir import TERMINOLOGY, Resource, marks
from gemel.synthetic.export.ids import identify
from gemel.synthetic.provenance import posterior_from_even_odds

if TYPE_CHECKING:
    from gemel.synthetic.cohort import VirtualCohort

MANIFEST, SIGNED_MANIFEST = "cohort.json", "cohort.signed.json"
KIND, ROLE = "virtual_cohort", "generator"
STUDY_SYSTEM = "urn:gemel:study-sha256"
REPORT_SYSTEM = "urn:gemel:report-sha256"
FILES_SYSTEM = "urn:gemel:files-sha256"
KEY_SYSTEM = "urn:gemel:ed25519-public-key"
PROVENANCE_FILE = "fhir/Provenance.ndjson"
# ASTM E1762, as FHIR's value set of signature types names it.
_AUTHOR = {
    "system": "urn:iso-astm:E1762-95:2013",
    "code": "1.2.840.10065.1.12.1.1",
    "display": "Author's Signature",
}
_GENERATOR = "Gemel virtual cohort generator"


@dataclass(frozen=True)
class Attested:
    """What was found right in an exported cohort."""

    release: str
    virtual_patients: int
    files: int
    report_sha256: str | None
    public_key: str


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def provenance_resource(
    cohort: VirtualCohort,
    patients: Sequence[str],
    *,
    files: Mapping[str, str],
    report_sha256: str | None,
    key: SigningKey | None,
) -> Resource:
    """The one Provenance of a cohort: of the noisy releases, by the generator, with the report's hash.

    Args:
        cohort: What was sampled.
        patients: The ids of all its virtual patients.
        files: SHA-256 of every other file by its name.
        report_sha256: Of the report that goes with the cohort, where there is one.
        key: Signs; without one the resource carries no signature.
    """
    provenance, whole = cohort.provenance, cohort.provenance.whole
    type_of_agent = {"system": f"{TERMINOLOGY}/provenance-participant-type", "code": "assembler"}
    entities = [
        (STUDY_SYSTEM, provenance.study_sha256, f"{provenance.study}: its differentially private releases"),
        (FILES_SYSTEM, document_hash(dict(files)), "the other files of this cohort"),
    ]
    if report_sha256 is not None:
        entities.append((REPORT_SYSTEM, report_sha256, "the report on this cohort's privacy and usefulness"))
    resource: Resource = {
        "resourceType": "Provenance",
        "id": identify(cohort.release, None, "Provenance"),
        "meta": marks(cohort.release),
        "target": [{"reference": f"Patient/{number}"} for number in patients],
        "recorded": provenance.created,
        "reason": [
            {
                "text": f"Virtual patients, simulated. Unit {whole.unit}, {whole.neighbouring}: ε = "
                f"{whole.epsilon:g}, δ = {whole.delta:g} for each hospital; an even suspicion can rise to "
                f"{posterior_from_even_odds(whole.epsilon):.1%} at most."
            }
        ],
        "agent": [{"type": {"coding": [type_of_agent]}, "who": {"display": _GENERATOR}}],
        "entity": [
            {
                "role": "source",
                "what": {"identifier": {"system": system, "value": value}, "display": display},
            }
            for system, value, display in entities
        ],
    }
    return resource if key is None else resource | {"signature": [_signature(resource, key)]}


def _signature(resource: Resource, key: SigningKey) -> dict[str, Any]:
    header = _encoded(canonical_bytes({"alg": "Ed25519", "kid": key.public_hex}))
    payload = _encoded(canonical_bytes(resource))
    value = _encoded(bytes.fromhex(key.sign(f"{header}.{payload}".encode())))
    return {
        "type": [_AUTHOR],
        "when": resource["recorded"],
        "who": {"identifier": {"system": KEY_SYSTEM, "value": key.public_hex}, "display": _GENERATOR},
        "targetFormat": "application/fhir+json",
        "sigFormat": "application/jose",
        "data": base64.b64encode(f"{header}..{value}".encode()).decode(),
    }


def verify_resource(resource: Resource) -> str:
    """Check the signature of a Provenance; gives the public key (hex) that made it. Raises GEM102."""
    unsigned = {name: value for name, value in resource.items() if name != "signature"}
    try:
        (signature,) = resource["signature"]
        header, _, value = base64.b64decode(signature["data"], validate=True).decode().split(".")
        protected = msgspec.json.decode(_decoded(header))
        public = str(signature["who"]["identifier"]["value"])
        sound = protected == {"alg": "Ed25519", "kid": public} and verify_bytes(
            public, _decoded(value).hex(), f"{header}.{_encoded(canonical_bytes(unsigned))}".encode()
        )
    except (KeyError, TypeError, ValueError) as error:
        raise GemelError(
            "GEM102", f"The Provenance carries no signature that can be read: {error}."
        ) from error
    if not sound:
        raise GemelError("GEM102", "The signature of the Provenance is not that of its content.")
    return public


def sign_manifest(manifest: dict[str, Any], key: SigningKey) -> SignedDocument:
    """The manifest as a signed document, for `gemel verify` and `verify`."""
    return sign_document(KIND, manifest, key, role=ROLE)


def verify(folder: Path, *, public_key: str | None = None) -> Attested:
    """Check an exported cohort offline: the manifest's signature, every file, and the Provenance in it.

    Args:
        folder: What `write` made.
        public_key: The generator's key (hex), which must then be among the signers.

    Raises:
        GemelError: GEM101, GEM102 or GEM103 of the signed manifest; GEM102 of another signer; GEM741 when a file is
            not there, is another, or is not named.
    """
    document = read_signed(_bytes(folder / SIGNED_MANIFEST), kind=KIND)
    signer = document.signatures[0].public_key
    if public_key is not None and not signed_by(document, public_key):
        raise GemelError("GEM102", "The manifest is signed by another key.")
    manifest = document.payload
    files: dict[str, str] = manifest["files"]
    for name, digest in files.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
            raise GemelError("GEM741", f"{name} is named by the manifest and is not there.")
        if file_sha256(path) != digest:
            raise GemelError("GEM741", f"{name} is not the file that the manifest names.")
    if PROVENANCE_FILE in files:
        resource = orjson.loads(_bytes(folder / PROVENANCE_FILE))
        if verify_resource(resource) != signer:
            raise GemelError("GEM102", "The Provenance is signed by another key than the manifest.")
    return Attested(
        manifest["release"], manifest["virtual_patients"], len(files), manifest.get("report_sha256"), signer
    )


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise GemelError("GEM741", f"{path.name} cannot be read: {error.strerror}.") from error


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
