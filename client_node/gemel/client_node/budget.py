"""What a hospital's patients have spent, and by which studies."""

from __future__ import annotations

from typing import Any

from gemel.client_node.home import NodeHome
from gemel.privacy.accounting import price
from gemel.privacy.ledger import Ledger, book_of


def budget_of(home: NodeHome, ledger: Ledger) -> dict[str, Any]:
    """The cap, what the patient who has spent most has spent, and each study's part. It stays in the hospital."""
    book, worst = book_of(ledger.entries()), ledger.epsilon_of_worst_person()
    rows = []
    for study_sha256, entry in book.reservations.items():
        standing = book.standing(study_sha256)
        rows.append(
            {
                "study_sha256": study_sha256,
                "programme": entry.programme,
                "reserved_at": entry.written_at,
                "epsilon": price(standing, delta=ledger.delta) if standing else 0.0,
                "begun": sum((study_sha256, charge.task) in book.begun for charge in entry.charges),
                "released": sum((study_sha256, charge.task) in book.released for charge in entry.charges),
                "unused": len(book.unused(study_sha256)),
            }
        )
    return {
        "site": home.config.site,
        "epsilon_cap": ledger.epsilon_cap,
        "delta": ledger.delta,
        "epsilon_of_worst_person": worst,
        "epsilon_remaining": max(0.0, ledger.epsilon_cap - worst),
        "studies": rows,
    }
