"""`gemel verify`: signatures, hashes and chains of a document, offline."""

from __future__ import annotations

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


def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A signed document.", show_default=False)],
    *,
    signer: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Fingerprint or public key that must have signed it."),
    ] = None,
    anchor: AnchorOption = None,
    run: RunOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Verify a signed document offline.

    Its hash, every signature, and for a ledger its chain and sums; for a run's certificate every claim that follows from others,
    and with --run each release, twin and result of the run.
    With --anchor a ledger that was rolled back to an older copy is found too.
    A good signature says that the holder of that key signed; whose key it is, compare by its fingerprint.
    """
    from gemel.core.signing import fingerprint

    with failures(output):
        document = read_document(file)
        seen = read_document(anchor) if anchor is not None else None
        findings = examine(document, signer=signer, anchor=seen, run=run)
        result: dict[str, Any] = {
            "ok": True,
            "kind": document.kind,
            "payload_sha256": document.payload_sha256,
            "signatures": [
                {"role": s.role, "public_key": s.public_key, "fingerprint": fingerprint(s.public_key)}
                for s in document.signatures
            ],
            "checks": [asdict(finding) for finding in findings],
        }

        def render(console: Console) -> None:
            made = table("Holds", "What", title=f"{document.kind} in {file}")
            for finding in findings:
                made.add_row(finding.check, finding.detail)
            console.print(made)

        emit(result, output, render=render)
