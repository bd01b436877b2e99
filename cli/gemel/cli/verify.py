"""`gemel verify`: signatures, hashes and chains of a document, a cohort model or a virtual cohort, offline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gemel.cli.output import Format, FormatOption, emit, failures, table
from gemel.core.errors import GemelError

if TYPE_CHECKING:
    from rich.console import Console

    from gemel.core.signing import SignedDocument


@dataclass(frozen=True)
class Finding:
    """One thing that was checked and holds."""

    check: str
    detail: str


def read_document(path: Path) -> SignedDocument:
    """Read and verify a file. Raises GEM106 when it holds no signed document, GEM102/GEM103 when it was changed."""
    from gemel.core.signing import read_signed

    try:
        content = path.read_bytes()
    except OSError as error:
        raise GemelError("GEM106", f"{path} cannot be read: {error.strerror}.") from error
    try:
        return read_signed(content)
    except GemelError as error:
        if error.code == "GEM101":
            raise GemelError("GEM106", f"{path} holds no signed document.") from error
        raise


def examine(
    document: SignedDocument,
    *,
    signer: str | None = None,
    anchor: SignedDocument | None = None,
    run: Path | None = None,
) -> list[Finding]:
    """Check what the kind of the document promises beyond its signatures.

    Args:
        document: Already verified by `read_signed`.
        signer: A fingerprint or public key (hex) that must be among the signers.
        anchor: A run certificate that saw the ledger; a ledger without the entry that it saw was rolled back.
        run: The folder of a certificate's run, whose releases, twins and results are then checked too.

    Raises:
        GemelError: GEM102 not signed by `signer`; GEM309 rolled back; GEM512 or GEM513 a certificate that does not
            hold; GEM101, GEM105, GEM415, GEM912 and others for a kind's own faults.
    """
    from gemel.core.signing import fingerprint
    from gemel.core.study import parse_study

    signers = {s.public_key: fingerprint(s.public_key) for s in document.signatures}
    if signer is not None and signer.lower() not in {*signers, *signers.values()}:
        raise GemelError(
            "GEM102",
            f"The {document.kind} is signed by {', '.join(sorted(signers.values()))}, not by {signer}.",
        )
    findings = [
        Finding("hash", f"the payload's SHA-256 is {document.payload_sha256}"),
        *(Finding("signature", f"{s.role}, key {signers[s.public_key]}") for s in document.signatures),
    ]
    if document.kind == "study":
        study = parse_study(document.payload)
        findings.append(Finding("study", f"{study.study_id}: well formed, {len(study.sites)} sites"))
    if document.kind == "certificate":
        findings += _certificate(document, run)
    elif run is not None:
        raise GemelError("GEM106", f"A run's folder is for a certificate, and this is a {document.kind}.")
    if document.kind in ("audit", "audit-log"):
        findings.append(_log_chain(document))
    if document.kind == "ledger":
        findings += _ledger_chain(document, anchor)
    elif anchor is not None:
        raise GemelError("GEM106", f"An anchor is for a ledger, and this is a {document.kind}.")
    return findings


def _certificate(document: SignedDocument, run: Path | None) -> list[Finding]:
    from gemel.core.certificate import check_certificate

    found = check_certificate(document)
    if run is not None:
        from gemel.server.run_check import check_run

        found += check_run(document, run)
    return [Finding(check, detail) for check, detail in found]


def _log_chain(document: SignedDocument) -> Finding:
    """The audit log of a coordinator's service, or of a node."""
    if document.kind == "audit":
        from gemel.server.service.audit_chain import verify_audit_document

        entries = len(verify_audit_document(document))
    else:
        from gemel.client_node.audit_log import verify_audit_log_document

        entries = len(verify_audit_log_document(document))
    return Finding("chain", f"{entries} entries, each follows the one before")


def _ledger_chain(document: SignedDocument, anchor: SignedDocument | None) -> list[Finding]:
    # Here, not at the top: accounting for a ledger imports dp-accounting, which `--help` need not wait for.
    from gemel.privacy.ledger import require_anchored, verify_ledger_document

    entries = verify_ledger_document(document)
    spent = document.payload["epsilon_spent"]
    chain = f"{len(entries)} entries, each follows the one before; epsilon {spent} recomputed"
    if anchor is None:
        return [Finding("chain", chain)]
    seq = require_anchored(entries, anchor)
    return [Finding("chain", chain), Finding("anchor", f"the certificate's entry {seq} is in the chain")]


AnchorOption = Annotated[
    Path | None,
    typer.Option(
        metavar="CERTIFICATE", help="A run certificate: the ledger must hold the entry that it saw."
    ),
]


RunOption = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="The certificate's run: check each release, twin and result in it."),
]


def _open(path: Path) -> tuple[SignedDocument | None, str, list[Finding]]:
    """What there is to verify: a signed document with what else was found to hold of it, and of which kind that is."""
    if path.is_dir():
        return _cohort(path)
    if path.suffix == ".safetensors":
        return _model(path)
    document = read_document(path)
    return document, document.kind, []


def _cohort(folder: Path) -> tuple[SignedDocument | None, str, list[Finding]]:
    """A virtual cohort's folder: every file, and who signed for them, if anybody did."""
    from gemel.synthetic.export import verify as verify_cohort
    from gemel.synthetic.export.attestation import SIGNED_MANIFEST

    found = verify_cohort(folder)
    findings = [
        Finding("cohort", f"{found.virtual_patients:,} virtual patients, release {found.release}"),
        Finding("files", f"{found.files} files, each of the hash that the manifest names"),
        Finding("gate", _gate(found.decision)),
    ]
    if found.conditions:
        told = (f"{name} {', '.join(levels)}" for name, levels in found.conditions.items())
        findings.append(Finding("condition", "; ".join(told)))
    if found.public_key is None:
        return None, "virtual_cohort", [*findings, Finding("signature", "NONE: anybody could have made it")]
    return read_document(folder / SIGNED_MANIFEST), "virtual_cohort", findings


def _gate(decision: Mapping[str, Any]) -> str:
    """How a cohort came to be released."""
    override, report = decision.get("override"), f"report {str(decision['report_sha256'])[:16]}…"
    if override is None:
        return f"passed; {report}"
    against = f"{len(decision['failed'])} rows failed, {len(decision['untested'])} were not tested"
    return f"NOT PASSED ({against}); released by {override['by']}: {override['reason']}; {report}"


def _model(path: Path) -> tuple[SignedDocument, str, list[Finding]]:
    """A model of virtual cohorts: fitted again from the tables that its run's certificate names."""
    from gemel.synthetic.model_file import check_model, read_model

    found = check_model(path)
    return read_model(path).certificate, "cohort_model", [Finding(check, detail) for check, detail in found]


def verify(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="A signed document, a model of virtual cohorts, or a virtual cohort's folder.",
            show_default=False,
        ),
    ],
    *,
    signer: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Fingerprint or public key that must have signed it."),
    ] = None,
    anchor: AnchorOption = None,
    run: RunOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Verify a signed document, a model of virtual cohorts or a virtual cohort's folder, offline.

    Of a document its hash, every signature, and for a ledger its chain and sums; for a run's certificate every claim that follows from others,
    and with --run each release, twin and result of the run. A model is fitted again from the tables that its run's certificate
    names, and its privacy statement computed again from the signed study; of a cohort every file is compared.
    With --anchor a ledger that was rolled back to an older copy is found too.
    A good signature says that the holder of that key signed; whose key it is, compare by its fingerprint.
    """
    from gemel.core.signing import fingerprint

    with failures(output):
        document, kind, findings = _open(file)
        seen = read_document(anchor) if anchor is not None else None
        if document is not None:
            findings = [*examine(document, signer=signer, anchor=seen, run=run), *findings]
        elif signer is not None:
            raise GemelError("GEM102", f"{file} is not signed, so not by {signer}.")
        result: dict[str, Any] = {
            "ok": True,
            "kind": kind,
            "payload_sha256": document.payload_sha256 if document is not None else None,
            "signatures": [
                {"role": s.role, "public_key": s.public_key, "fingerprint": fingerprint(s.public_key)}
                for s in (document.signatures if document is not None else ())
            ],
            "checks": [asdict(finding) for finding in findings],
        }

        def render(console: Console) -> None:
            made = table("Holds", "What", title=f"{kind.replace('_', ' ')} in {file}")
            for finding in findings:
                made.add_row(finding.check, finding.detail)
            console.print(made)

        emit(result, output, render=render)
