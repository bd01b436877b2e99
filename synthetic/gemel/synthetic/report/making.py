"""The report of a model's cohorts: every row, from several draws and, where there are any, from patients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gemel.core.errors import GemelError
from gemel.synthetic.anchored_tree.queries import Query, Table
from gemel.synthetic.columns import Categories
from gemel.synthetic.domain import Domain
from gemel.synthetic.report.analysis import analysis_rows
from gemel.synthetic.report.attacks import FULL, Effort, attack_findings, mechanism_findings
from gemel.synthetic.report.attacks.membership import Generator
from gemel.synthetic.report.constraints import constraint_rows
from gemel.synthetic.report.counted import counted_row
from gemel.synthetic.report.document import Audience, Report
from gemel.synthetic.report.evidence import Columns, Evidence, check_columns
from gemel.synthetic.report.figures import figures_of
from gemel.synthetic.report.findings import Finding
from gemel.synthetic.report.marginals import released_rows
from gemel.synthetic.report.measures import Limit, measured, untested
from gemel.synthetic.report.people_table import PeopleTable
from gemel.synthetic.report.prediction import questions
from gemel.synthetic.report.statement import Statement, statement_rows
from gemel.synthetic.report.usefulness import usefulness_rows

FEWEST_DRAWS = 5
ATTACKS = ("membership", "singling out", "linkability", "inference")
# What a reader needs to trace a cohort back, none of it about a patient.
PROVENANCE = (
    "study_sha256",
    "certificate_sha256",
    "programme",
    "programme_version",
    "software",
    "seed_policy",
)
_MOST_SECRETS = 2


@dataclass(frozen=True)
class Source:
    """The model on trial and where it comes from.

    Attributes:
        model_sha256: Of the model's file.
        title, question: Of the study or the data.
        statement: What the model promises to patients; None where nothing is known, and the report then says so.
        queries, tables: The noisy tables that it was fitted to, by query name; public reports compare with these alone.
        source_patients: About how many patients were counted, from the noisy tables.
        seeds: Of the draws.
        provenance: What else is known, as JSON values; a complete one has every key of `PROVENANCE`.
        generator: Makes a cohort of levels from patients' levels and a seed, for attackers who can run it; None where it cannot be run.
    """

    model_sha256: str
    title: str
    question: str = ""
    statement: Statement | None = None
    queries: tuple[Query, ...] = ()
    tables: Mapping[str, Table] = field(default_factory=dict)
    source_patients: float | None = None
    seeds: tuple[int, ...] = ()
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
    more: Iterable[Finding] = (),
    figures: Sequence[Mapping[str, Any]] = (),
    heard: Callable[[Finding], None] | None = None,
) -> Report:
    """Measure at least five draws of one model, each from another seed, and give the report.

    Args:
        domain: The public columns.
        draws: Virtual people of each draw by column, about as many as there are patients.
        source: The model, its promise and its tables.
        evidence: Patients to hold them against; without any, all that needs patients is "not tested".
        effort: How hard attackers try.
        seed: Of what the report itself chooses (whom to attack). Nothing here is privacy noise.
        more: Rows that others measured, as of trajectories.
        figures: Public ones that others made.
        heard: Is told each row as soon as it is measured.

    Raises GEM757 for fewer draws, or people who do not fit the domain.
    """
    if len(draws) < FEWEST_DRAWS:
        raise GemelError("GEM757", f"A report rests on at least {FEWEST_DRAWS} draws, got {len(draws)}.")
    for number, people in enumerate(draws, start=1):
        check_columns(domain, people, f"draw {number}'s")
    virtual = [PeopleTable(domain, columns) for columns in draws]
    findings: list[Finding] = []
    for finding in _rows(virtual, source, evidence, effort, seed, more):
        findings.append(finding)
        if heard is not None:
            heard(finding)
    return Report(
        source.title,
        source.model_sha256,
        tuple(findings),
        {} if source.statement is None else source.statement.as_dict(),
        source.provenance,
        question=source.question,
        seeds=source.seeds,
        virtual_patients=len(virtual[0]),
        attacks=0 if evidence is None else effort.attacks,
        source_patients=source.source_patients,
        figures=_figures(virtual, source, evidence, figures),
    )


def _rows(
    virtual: Sequence[PeopleTable],
    source: Source,
    evidence: Evidence | None,
    effort: Effort,
    seed: int,
    more: Iterable[Finding],
) -> Iterator[Finding]:
    """In the order in which they stand in the report."""
    domain = virtual[0].domain
    yield from statement_rows(source.statement, source_patients=source.source_patients)
    yield from _mechanism(domain, source, effort, seed)
    yield from _attacks(virtual, source, evidence, effort, seed)
    if evidence is not None:
        yield counted_row(PeopleTable(domain, evidence.training), source.queries, source.tables)
    yield from usefulness_rows(virtual, evidence)
    yield from constraint_rows(virtual)
    yield from released_rows(domain, source.queries, source.tables, [people.codes for people in virtual])
    yield from more
    yield from _analysis(virtual, source, evidence, effort, seed)
    yield _traced(source)


def _mechanism(domain: Domain, source: Source, effort: Effort, seed: int) -> Iterator[Finding]:
    if source.statement is None or not effort.releases:
        yield untested("mechanism", "canaries", "as written", internal=False)
        return
    tables, sites = source.statement.tables, source.statement.sites_of_a_person
    yield from mechanism_findings(
        domain, epsilon=tables.epsilon, delta=tables.delta, sites=sites, effort=effort, seed=seed
    )


def _attacks(
    virtual: Sequence[PeopleTable], source: Source, evidence: Evidence | None, effort: Effort, seed: int
) -> Iterator[Finding]:
    if evidence is None:
        for block in ATTACKS:
            yield untested(block, "attacks", "as written", internal=True)
        return
    draws, secrets = [people.columns for people in virtual], secrets_of(virtual[0])
    yield from attack_findings(
        evidence, draws, secrets=secrets, effort=effort, seed=seed, generator=source.generator
    )


def _analysis(
    virtual: Sequence[PeopleTable], source: Source, evidence: Evidence | None, effort: Effort, seed: int
) -> Iterator[Finding]:
    """Where attackers may run the mechanism in full, it is repeated as often as an analysis needs."""
    if source.generator is not None and effort.shadows >= FULL.shadows:
        training = None if evidence is None else PeopleTable(evidence.domain, evidence.training)
        internal = evidence is None or not evidence.open_data
        yield from analysis_rows(virtual, training, source.generator, seed=seed, internal=internal)


def secrets_of(people: PeopleTable) -> tuple[str, ...]:
    """What an attacker wants to know of a patient: the answers to the first questions."""
    columns = [people.domain.column(question.column) for question in questions(people)[:_MOST_SECRETS]]
    return tuple(c.name if isinstance(c.form, Categories) else f"{c.name}, event" for c in columns)


def _traced(source: Source) -> Finding:
    missing = [name for name in PROVENANCE if not source.provenance.get(name)]
    return measured(
        "provenance",
        "parts of the provenance that are missing",
        [float(len(missing))],
        Limit(most=0),
        internal=False,
        detail=", ".join(missing),
    )


def _figures(
    virtual: Sequence[PeopleTable],
    source: Source,
    evidence: Evidence | None,
    more: Sequence[Mapping[str, Any]],
) -> dict[Audience, list[Mapping[str, Any]]]:
    """Public ones show real people only where their data are open."""
    draws = [people.columns for people in virtual]
    found: dict[Audience, list[Mapping[str, Any]]] = {}
    for audience in Audience:
        shown = evidence is not None and (audience is Audience.INTERNAL or evidence.open_data)
        made = figures_of(
            virtual[0].domain,
            draws,
            evidence if shown else None,
            queries=source.queries,
            tables=source.tables,
        )
        found[audience] = [*made, *more]
    return found
