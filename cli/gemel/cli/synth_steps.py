"""What `gemel synth` and `gemel demo` do alike: examine a model, write its reports, pass the gate, draw."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemel.core.errors import GemelError
from gemel.core.files import write_durably
from gemel.core.signing import SigningKey, fingerprint, read_signed, sign_document
from gemel.privacy.noise import NoiseSource
from gemel.synthetic.anchored_tree import fit_private
from gemel.synthetic.cohort import VirtualCohort, sample
from gemel.synthetic.domain import Codes
from gemel.synthetic.export import USUAL_FORMATS, Format, write
from gemel.synthetic.model_file import CohortModel
from gemel.synthetic.report import (
    Audience,
    Decision,
    Evidence,
    Finding,
    Report,
    Source,
    Statement,
    decide,
    make,
)
from gemel.synthetic.report.attacks import FULL, Effort
from gemel.synthetic.report.page import render

# A draw that is looked at has as many virtual patients as were counted, within these.
FEWEST, MOST = 1_000, 20_000
INTERNAL, PUBLIC = "internal", "public"
# Of a signed public report.
KIND, ROLE = "cohort_report", "officer"
SEED_POLICY = "privacy noise is never seeded; a draw is, by the number that stands with it"


def examine(
    model: CohortModel,
    evidence: Evidence | None,
    *,
    seeds: Sequence[int],
    effort: Effort = FULL,
    heard: Callable[[Finding], None] | None = None,
) -> Report:
    """Draw from each seed, and measure what was drawn.

    Args:
        model: On trial.
        evidence: Patients to hold the draws against.
        seeds: At least five.
        effort: Of the attacks.
        heard: Told each row as it is found.
    """
    size = int(min(max(model.patients_about, FEWEST), MOST))
    draws = [
        sample(model.tree, patients=size, seed=seed, provenance=model.provenance).columns() for seed in seeds
    ]
    statement, programme = model.statement, model.tree.domain.programme
    source = Source(
        model.sha256,
        statement.study,
        question="" if programme is None else programme.question,
        statement=Statement.of_provenance(
            statement, honest_hospitals=model.honest_hospitals, earlier_epsilon=model.spent_before
        ),
        queries=model.tree.queries,
        tables=model.tables,
        source_patients=model.tree.total,
        seeds=tuple(seeds),
        provenance={**_traced(model), "seed_policy": SEED_POLICY},
        generator=_generator(model, size) if effort.shadows else None,
    )
    return make(model.tree.domain, draws, source, evidence=evidence, effort=effort, heard=heard)


def _traced(model: CohortModel) -> dict[str, Any]:
    """Where a model comes from, without what its statement says."""
    named = ("study", "study_sha256", "certificate_sha256", "programme", "programme_version", "created")
    return {**{name: model.provenance[name] for name in named}, "software": model.software}


def _generator(model: CohortModel, size: int) -> Callable[[Codes, int], Codes]:
    """The whole mechanism at the study's price, for an attacker who can run it on patients of their own."""
    paid, domain = model.statement.synthesis, model.tree.domain

    def generate(codes: Codes, seed: int) -> Codes:
        fitted = fit_private(
            domain, codes, epsilon=paid.epsilon, delta=paid.delta, noise=NoiseSource.secure()
        )
        return fitted.model.sample(size, seed=seed)

    return generate


def write_reports(
    report: Report, folder: Path, *, internal: bool, key: SigningKey | None = None
) -> dict[str, Path]:
    """Write `public/report.{json,html}`, and `internal/` the same with exact numbers, for its owner's eyes only; the pages by name.

    With a `key` also `public/report.signed.json`: who believes that key may draw cohorts by it, without the internal report.
    """
    audiences = {PUBLIC: Audience.PUBLIC, **({INTERNAL: Audience.INTERNAL} if internal else {})}
    pages = {}
    for name, audience in audiences.items():
        document, private = report.document(audience), audience is Audience.INTERNAL
        (folder / name).mkdir(parents=True, exist_ok=True, mode=0o700 if private else 0o755)
        told = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        files = {"report.json": told.encode(), "report.html": render(document).encode()}
        if key is not None and not private:
            files["report.signed.json"] = sign_document(KIND, document, key, role=ROLE).to_bytes()
        for file, content in files.items():
            write_durably(folder / name / file, content, mode=0o600 if private else 0o644)
        pages[name] = folder / name / "report.html"
    return pages


def report_record(
    report: Report, model: CohortModel, model_file: Path, pages: Mapping[str, Path]
) -> dict[str, Any]:
    """The verdict, the rows that stand against it, and what to do next."""
    document = report.document(Audience.INTERNAL)
    decision = refusal = None
    try:
        decision = decide(document, model_sha256=model.sha256)
    except GemelError as error:
        if error.code != "GEM755":
            raise
        refusal = error
    rows = [row for row in document["findings"] if row["gates"] and row["verdict"] in ("fail", "not tested")]
    return {
        "model_sha256": model.sha256,
        "title": document["title"],
        "passed": decision is not None,
        "verdict": document["verdict"] if decision is None else decision.outcome.value,
        "refused": "" if refusal is None else refusal.message,
        "counts": document["counts"],
        "against": sorted(rows, key=lambda row: row["verdict"] != "fail"),
        "files": [str(page) for page in pages.values()],
        "next": _next(decision, pages, model_file),
    }


def _next(decision: Decision | None, pages: Mapping[str, Path], model_file: Path) -> list[str]:
    if decision is not None:
        told = pages[INTERNAL].with_suffix(".json")
        return [
            f"Next: gemel synth sample {model_file} --report {told} --patients 1000 -o cohort",
            "The internal report stays where the patients' data are; the public one may go with the cohort.",
        ]
    if INTERNAL not in pages:
        return [
            "Next: have a hospital that took part run this with its own patients (--data), where they are.",
            "This page may be published; no cohort can be released by it.",
        ]
    return [
        "Next: look at each row above in the internal page. A larger ε, more hospitals or fewer columns may help; all need a new study.",
        "A cohort may still be released by a named person, on record: gemel synth sample … --override REASON --by NAME.",
    ]


def read_report(path: Path, *, officer: str | None) -> tuple[dict[str, Any], bool]:
    """A report's document, and whether the officer vouches for it: signed public ones count as the internal one that they follow.

    Raises GEM756 for what is no report, GEM102 for a signed one that `officer` (fingerprint or public key) did not sign.
    """
    try:
        content = path.read_bytes()
        document = json.loads(content)
    except (OSError, ValueError) as error:
        raise GemelError("GEM756", f"{path} cannot be read: {type(error).__name__}.") from error
    if not isinstance(document, dict):
        raise GemelError("GEM756", f"{path} holds no report.")
    if document.get("kind") != KIND:
        return document, False
    signed = read_signed(content, kind=KIND)
    keys = {name for s in signed.signatures for name in (s.public_key, fingerprint(s.public_key))}
    if officer is None or officer.lower() not in keys:
        who = ", ".join(sorted(fingerprint(s.public_key) for s in signed.signatures))
        raise GemelError(
            "GEM102", f"The report is signed by {who}; --officer must name that key, as its owner told it."
        )
    return signed.payload, True


@dataclass(frozen=True)
class Wanted:
    """The cohorts that are asked for: how many patients in each, from which seeds, under which condition, written how."""

    patients: int
    seeds: Sequence[int]
    given: Mapping[str, tuple[int, ...]]
    formats: Sequence[Format] = USUAL_FORMATS
    key: SigningKey | None = None
    workers: int = 1


def draw(
    model: CohortModel, decision: Decision, wanted: Wanted, folder: Path
) -> Iterator[tuple[VirtualCohort, list[Path], Path]]:
    """Draw and write each cohort, in `folder` or, of several, in its `1`, `2`, …; gives it with its files and its folder."""
    for number, seed in enumerate(wanted.seeds, start=1):
        cohort = sample(
            model.tree,
            patients=wanted.patients,
            seed=seed,
            provenance=model.provenance,
            given=wanted.given or None,
            model_sha256=model.sha256,
        )
        place = folder if len(wanted.seeds) == 1 else folder / str(number)
        files = write(
            cohort,
            place,
            provenance=model.provenance,
            decision=decision,
            formats=wanted.formats,
            key=wanted.key,
            workers=wanted.workers,
        )
        yield cohort, files, place
