"""The tables of `gemel synth`: what a model promises, what its report found, what was written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gemel.cli.output import plain, table

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from gemel.synthetic.cohort import VirtualCohort
    from gemel.synthetic.model_file import CohortModel

_MARKS = {"fail": "FAIL", "not tested": "not tested", "pass": "pass", "for information": ""}


def model_record(model: CohortModel) -> dict[str, Any]:
    """What there is to say of a model: all of it is public."""
    statement = model.statement
    return {
        "model_sha256": model.sha256,
        "programme": f"{statement.programme}@{statement.programme_version}",
        "study": statement.study,
        "study_sha256": statement.study_sha256,
        "certificate_sha256": statement.certificate_sha256,
        "hospitals": statement.sites,
        "patients_about": model.patients_about,
        "privacy": {
            "epsilon_synthesis": statement.synthesis.epsilon,
            "epsilon_whole": statement.whole.epsilon,
            "delta": statement.whole.delta,
            "unit": statement.whole.unit,
            "neighbouring": statement.whole.neighbouring,
            "sites_of_a_person": statement.sites_of_a_person,
        },
        "promise": promise(model),
        "together": together(model),
        "software": model.software,
    }


def promise(model: CohortModel) -> list[str]:
    """The privacy statement in sentences that need no statistics."""
    from gemel.synthetic.provenance import posterior_from_even_odds

    statement = model.statement
    tables, whole = statement.synthesis, statement.whole
    return [
        f"Whoever thinks it as likely as not that a certain person was counted can, by all cohorts drawn from this model, come to "
        f"{posterior_from_even_odds(tables.epsilon):.0%} at most (ε = {tables.epsilon:.3g}), also of a person who is a patient at "
        f"{statement.sites_of_a_person} of the hospitals.",
        f"By everything that the study released of one hospital's patients they can come to "
        f"{posterior_from_even_odds(whole.epsilon):.0%} at most (ε = {whole.epsilon:.3g}). "
        f"Either may fail with a probability of 1 in {round(1 / whole.delta):,} (δ).",
        "Further cohorts, of any size and under any condition, cost no more.",
    ]


def together(model: CohortModel) -> list[dict[str, Any]]:
    """Which features were counted together because noisy scores said that they go together, the busiest first."""
    from gemel.synthetic.columns import Role

    domain = model.tree.domain
    features = {column.name for column in domain.with_roles(Role.FEATURE)}
    links: dict[str, set[str]] = {}
    for query in model.tree.queries:
        if len(query.columns) > 1 and features.issuperset(query.columns):
            for one in query.columns:
                links.setdefault(one, set()).update(set(query.columns) - {one})
    told: list[dict[str, Any]] = []
    while links:
        first = max(links, key=lambda name: len(links[name]))
        others = links.pop(first)
        if others:
            told.append({"column": first, "with": [name for name in domain.names if name in others]})
        for other in others:
            links.get(other, set()).discard(first)
    return told


def render_fit(console: Console, result: Mapping[str, Any]) -> None:
    """What was fitted, what it promises, which columns were counted together."""
    made = table("Model", "", title=f"Virtual cohorts of: {result['study']}")
    rows = {
        "file": f"{result['file']} ({result['bytes']:,} bytes)",
        "SHA-256": result["model_sha256"],
        "programme": result["programme"],
        "hospitals": str(result["hospitals"]),
        "patients": f"about {result['patients_about']:,.0f} (from noisy tables; nobody here knows the number)",
        "certificate": result["certificate_sha256"],
    }
    for name, said in rows.items():
        made.add_row(name, plain(said))
    console.print(made)
    for sentence in result["promise"]:
        console.print(sentence, markup=False)
    linked = table(
        "Counted with",
        "Column",
        title="Everything goes with the outcomes and treatments. Among features, chosen by noisy scores",
    )
    for line in result["together"]:
        linked.add_row(plain(line["column"]), plain(", ".join(line["with"])))
    console.print(linked)


def render_report(console: Console, result: Mapping[str, Any]) -> None:
    """The verdict, what stands against it, where the pages are."""
    made = table("", "Block", "What", ">Value", "Threshold", title=result["title"])
    for row in result["against"]:
        made.add_row(
            _MARKS[row["verdict"]],
            row["block"],
            plain(row["measure"]),
            figure(row["value"]),
            plain(row["threshold"]),
        )
    if result["against"]:
        console.print(made)
    counts = ", ".join(f"{number} {verdict}" for verdict, number in result["counts"].items())
    console.print(f"{result['verdict'].upper()}: {counts}.", markup=False)
    for line in (*result["files"], "", *result["next"]):
        console.print(line, markup=False)


def figure(value: float | None) -> str:
    """A number as a report's row shows it.

    >>> figure(0.01234), figure(12.345), figure(None)
    ('0.012', '12.3', '–')
    """
    return "–" if value is None else f"{value:.3g}" if abs(value) >= 1 else f"{value:.2g}"


def cohort_record(cohort: VirtualCohort, files: Sequence[Path], folder: Path) -> dict[str, Any]:
    """What there is to say of a cohort that was written."""
    return {
        "folder": str(folder),
        "seed": cohort.seed,
        "patients": len(cohort),
        "release": cohort.release,
        "files": [str(file.relative_to(folder)) for file in files],
    }


def render_cohorts(console: Console, result: Mapping[str, Any]) -> None:
    """What was drawn, on whose responsibility."""
    made = table("Cohort", ">Virtual patients", ">Seed", "Release", ">Files")
    for one in result["cohorts"]:
        made.add_row(
            plain(one["folder"]),
            f"{one['patients']:,}",
            str(one["seed"]),
            one["release"],
            str(len(one["files"])),
        )
    console.print(made)
    for line in _conditions(result["where"]):
        console.print(line, markup=False)
    decision = result["decision"]
    if decision["override"] is not None:
        who = decision["override"]
        console.print(
            f"RELEASED BY {who['by']} THOUGH THE REPORT DID NOT PASS: {who['reason']}. It is on record in every manifest.",
            markup=False,
        )
    console.print(f"Gate: {decision['outcome']}; report {decision['report_sha256'][:16]}.", markup=False)


def _conditions(where: Mapping[str, Sequence[str]]) -> list[str]:
    return [f"all with {name}: {', '.join(levels)}" for name, levels in where.items()]
