"""A node's home in one sealed file: configuration, keys, ledger with its anchor, outbox, approvals, audit log; and back.

Left out: `data/`, built again from the export; `masking/`, which must never come back (a node that forgets what it signed could
reveal what it must not); logs and caches.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from gemel.client_node.home import NodeHome
from gemel.core.errors import GemelError
from gemel.core.signing import SignedDocument
from gemel.privacy.backup_archive import Archive, Manifest, extract, write
from gemel.privacy.ledger import require_anchored, verify_ledger_document

WHAT = "node"
NEVER = "masking"
_LEFT_OUT = (NEVER, "data", "logs", "bin", "flower", "compiled", "metrics")


def backup(folder: Path, output: Path, passphrase: bytes) -> SignedDocument:
    """Write a backup while the node runs or not; returns its signed manifest. Raises GEM407, GEM528."""
    home = NodeHome.open(folder)

    def put(archive: Archive) -> None:
        archive.add_home(folder, leave_out=_LEFT_OUT)

    return write(output, passphrase, home.key, what=WHAT, of=home.config.site, fill=[put])


def restore(
    source: Path, folder: Path, passphrase: bytes, *, anchor: SignedDocument | None = None
) -> tuple[Manifest, int]:
    """Make a home from a backup; nothing runs yet. Returns what it was, and the number of entries of its ledger.

    Args:
        source: The backup.
        folder: Must not exist.
        passphrase: Under which it was sealed.
        anchor: The newest run certificate that names this node: the ledger must hold the entry that it saw.

    Raises:
        GemelError: GEM528; GEM302 a ledger that does not hold; GEM309 one that is older than the anchor. Then there is no home.
    """
    manifest, document = extract(source, passphrase, folder, what=WHAT)
    try:
        if (folder / NEVER).exists():
            raise GemelError("GEM528", f"The backup holds {NEVER}/, which must not come back.")
        home = NodeHome.open(folder)
        if home.key.public_hex != document.signatures[0].public_key:
            raise GemelError("GEM528", "The backup is signed by another key than the one that it holds.")
        with home.open_ledger() as ledger:
            ledger.verify()
            entries = verify_ledger_document(ledger.export())
        if anchor is not None:
            require_anchored(entries, anchor)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return manifest, len(entries)
