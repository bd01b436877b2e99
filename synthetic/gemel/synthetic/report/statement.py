"""What a cohort promises to each patient, in numbers and in words, and whether the statement says all that it must."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from gemel.synthetic.provenance import CohortProvenance, PrivacyStatement, posterior_from_even_odds
from gemel.synthetic.report.findings import Finding, Verdict

BLOCK = "statement"
MOST_EPSILON = 3.0
# The accountant rounds up by less than this: an ε that it rounded still is the ε that was planned.
_ROUNDED_UP = 1e-6


@dataclass(frozen=True)
class Statement:
    """The promise behind a model, all of it public.

    Attributes:
        tables: Of the tables that the model was fitted to.
        whole: Of these and all else that the study released.
        sites_of_a_person: At how many hospitals one person may be a patient.
        hospitals: How many counted.
        honest_hospitals: Whose noise together is enough; None where each one's release is private by itself.
        record_sha256: Of the signed record of charges: a run's certificate, or a ledger. None where there is none.
        earlier_epsilon: What earlier cohorts of the same patients cost together, at the same δ; None where nobody looked.
    """

    tables: PrivacyStatement
    whole: PrivacyStatement
    sites_of_a_person: int = 1
    hospitals: int = 1
    honest_hospitals: int | None = None
    record_sha256: str | None = None
    earlier_epsilon: float | None = None

    @classmethod
    def of_provenance(
        cls,
        provenance: CohortProvenance,
        *,
        honest_hospitals: int | None = None,
        earlier_epsilon: float | None = None,
    ) -> Statement:
        """Read off a study's provenance (`study_provenance.provenance_of_study`)."""
        return cls(
            provenance.synthesis,
            provenance.whole,
            provenance.sites_of_a_person,
            provenance.sites,
            honest_hospitals,
            provenance.certificate_sha256,
            earlier_epsilon,
        )

    def as_dict(self) -> dict[str, Any]:
        """The statement with its meaning in words."""
        document: dict[str, Any] = msgspec.to_builtins(self)
        document["posterior_from_even_odds"] = posterior_from_even_odds(self.whole.epsilon)
        return document


def statement_rows(statement: Statement | None) -> Iterator[Finding]:
    """The rows of the block; without a statement the one that says so."""
    if statement is None:
        yield Finding(
            BLOCK,
            "privacy statement",
            None,
            None,
            None,
            None,
            "complete",
            Verdict.NOT_TESTED,
            internal=False,
        )
        return
    whole = statement.whole
    yield Finding(
        BLOCK,
        "ε of all that the study released",
        whole.epsilon,
        None,
        None,
        None,
        f"≤ {MOST_EPSILON:g}",
        Verdict.PASS if whole.epsilon <= MOST_EPSILON + _ROUNDED_UP else Verdict.FAIL,
        internal=False,
    )


def statement_document(statement: Statement | None) -> Mapping[str, Any]:
    """The statement as JSON values; empty without one."""
    return {} if statement is None else statement.as_dict()
