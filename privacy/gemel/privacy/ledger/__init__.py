"""The privacy ledger of a hospital: what every patient was part of, and what may still run (`docs/privacy.md`)."""

from gemel.privacy.ledger.book import Book, book_of, spending
from gemel.privacy.ledger.decisions import LedgerDecision, decide_expiry
from gemel.privacy.ledger.entries import EntryKind, LedgerEntry
from gemel.privacy.ledger.export import require_anchored, verify_ledger_document
from gemel.privacy.ledger.ledger import Ledger, Quote

__all__ = [
    "Book",
    "EntryKind",
    "Ledger",
    "LedgerDecision",
    "LedgerEntry",
    "Quote",
    "book_of",
    "decide_expiry",
    "require_anchored",
    "spending",
    "verify_ledger_document",
]
