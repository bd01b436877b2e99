"""Who made a virtual cohort, of what, at what price: one FHIR Provenance, and the manifest, both signed with Ed25519.

The Provenance carries a detached JWS (RFC 7515 appendix F, Ed25519 of RFC 9864) over its own canonical JSON without `signature`: any JOSE library
checks it with the public key. The manifest names every file by its SHA-256.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from gemel.core.canonical import canonical_bytes, document_hash
from gemel.core.errors import GemelError
from gemel.core.signing import SignedDocument, SigningKey, sign_document, verify_bytes
from gemel.synthetic.export.fhir import TERMINOLOGY, Resource, marks
from gemel.synthetic.export.ids import identify
from gemel.synthetic.export.releasing import condition_in_words, decision_sha256, in_words
from gemel.synthetic.provenance import posterior_from_even_odds

if TYPE_CHECKING:
    from gemel.synthetic.cohort import VirtualCohort
    from gemel.synthetic.report.gate import Decision

MANIFEST, SIGNED_MANIFEST = "cohort.json", "cohort.signed.json"
KIND, ROLE = "virtual_cohort", "generator"
STUDY_SYSTEM = "urn:gemel:study-sha256"
REPORT_SYSTEM = "urn:gemel:report-sha256"
DECISION_SYSTEM = "urn:gemel:decision-sha256"
MODEL_SYSTEM = "urn:gemel:model-sha256"
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


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def provenance_resource(
    cohort: VirtualCohort,
    patients: Sequence[str],
    *,
    files: Mapping[str, str],
    decision: Decision,
    key: SigningKey | None,
) -> Resource:
    """The one Provenance of a cohort: of the noisy releases, by the generator, released by a report or by a person.

    Args:
        cohort: What was sampled.
        patients: The ids of all its virtual patients.
        files: SHA-256 of every other file by its name.
        decision: On whose word it leaves.
        key: Signs; without one the resource carries no signature.
    """
    provenance, whole = cohort.provenance, cohort.provenance.whole
    agents = [{"type": _agent_type("assembler"), "who": {"display": _GENERATOR}}]
    if decision.override is not None:
        agents.append({"type": _agent_type("attester"), "who": {"display": decision.override.by}})
    entities = [
        (STUDY_SYSTEM, provenance.study_sha256, f"{provenance.study}: its differentially private releases"),
        (MODEL_SYSTEM, decision.model_sha256, "the model that it was drawn from"),
        (FILES_SYSTEM, document_hash(dict(files)), "the other files of this cohort"),
        (REPORT_SYSTEM, decision.report_sha256, "the report on this cohort's privacy and usefulness"),
        (DECISION_SYSTEM, decision_sha256(decision), "the decision to release it"),
    ]
    guarantee = (
        f"Virtual patients, simulated. Unit {whole.unit}, {whole.neighbouring}: ε = {whole.epsilon:g}, δ = {whole.delta:g} "
        f"for each hospital; an even suspicion can rise to {posterior_from_even_odds(whole.epsilon):.1%} at most."
    )
    reasons = [guarantee, in_words(decision), condition_in_words(cohort)]
    resource: Resource = {
        "resourceType": "Provenance",
        "id": identify(cohort.release, None, "Provenance"),
        "meta": marks(cohort.release),
        "target": [{"reference": f"Patient/{number}"} for number in patients],
        "recorded": provenance.created,
        "reason": [{"text": text} for text in reasons if text],
        "agent": agents,
        "entity": [
            {
                "role": "source",
                "what": {"identifier": {"system": system, "value": value}, "display": display},
            }
            for system, value, display in entities
        ],
    }
    return resource if key is None else resource | {"signature": [_signature(resource, key)]}


def _agent_type(code: str) -> dict[str, Any]:
    return {"coding": [{"system": f"{TERMINOLOGY}/provenance-participant-type", "code": code}]}


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


def document_text(document: Mapping[str, Any]) -> str:
    """The manifest, or a description, as its file has it to the byte."""
    return json.dumps(document, indent=2, ensure_ascii=False, sort_keys=True) + "\n"


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
