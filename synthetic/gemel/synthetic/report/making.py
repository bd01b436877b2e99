"""The report of a model's cohorts: every row, from several draws and, where there are any, from patients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gemel.core.errors import GemelError
from gemel.synthetic.anchored_tree.queries import Query, Table
from gemel.synthetic.domain import Domain
from gemel.synthetic.report.attacks import FULL, Effort, Sides, examine
from gemel.synthetic.report.attacks.membership import Generator
from gemel.synthetic.report.document import Report
from gemel.synthetic.report.evidence import Columns, Evidence, check_columns
from gemel.synthetic.report.findings import Finding, Verdict
from gemel.synthetic.report.statement import Statement, statement_document, statement_rows

FEWEST_DRAWS = 5


@dataclass(frozen=True)
class Source:
    """The model on trial and where it comes from.

    Attributes:
        model_sha256: Of the model's file.
        title: Of the study or the data.
        statement: What the model promises to patients; None where nothing is known, and the report then says so.
        queries, tables: The noisy tables that it was fitted to, by query name; public reports compare with these alone.
        provenance: What else is known, as JSON values: study, certificate, code version, twin version, how seeds are chosen.
        generator: Makes a cohort of levels from patients' levels and a seed, for attackers who can run it; None where it cannot be run.
    """

    model_sha256: str
    title: str
    statement: Statement | None = None
    queries: tuple[Query, ...] = ()
    tables: Mapping[str, Table] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    generator: Generator | None = None


def make(
    domain: Domain,
    draws: Sequence[Columns],
    source: Source,
    *,
    evidence: Evidence | None = None,
    effort: Effort = FULL,
    seed: int = 0,
) -> Report:
    """Measure at least five draws of one model, each from another seed, and give the report.

    Args:
        domain: The public columns.
        draws: Virtual people of each draw by column, about as many as there are patients.
        source: The model, its promise and its tables.
        evidence: Patients to hold them against; without any, all that needs patients is "not tested".
        effort: How hard attackers try.
        seed: Of what the report itself chooses (whom to attack). Nothing here is privacy noise.

    Raises GEM757 for fewer draws, or people who do not fit the domain.
    """
    if len(draws) < FEWEST_DRAWS:
        raise GemelError("GEM757", f"A report rests on at least {FEWEST_DRAWS} draws, got {len(draws)}.")
    for number, people in enumerate(draws, start=1):
        check_columns(domain, people, f"draw {number}'s")
    findings = (
        *statement_rows(source.statement),
        *_attacks(domain, draws[0], source, evidence, effort, seed),
    )
    return Report(
        source.title, source.model_sha256, findings, statement_document(source.statement), source.provenance
    )


def _attacks(
    domain: Domain, virtual: Columns, source: Source, evidence: Evidence | None, effort: Effort, seed: int
) -> Iterator[Finding]:
    if evidence is None:
        for block in ("membership", "singling out", "linkability", "inference"):
            yield Finding(
                block, "attacks", None, None, None, None, "as written", Verdict.NOT_TESTED, internal=True
            )
        return
    people = (virtual, evidence.training, evidence.holdout)
    mine, training, holdout = (domain.encode_columns(raw) for raw in people)
    sides = Sides(domain, mine, training, holdout, values=people)
    yield from examine(sides, secrets=_secrets(domain), effort=effort, seed=seed, generator=source.generator)


def _secrets(domain: Domain) -> tuple[str, ...]:
    """What an attacker wants to know: whether the first outcome came."""
    clock = domain.clock
    return () if clock is None else (f"{clock}, event",)
