"""The demo's virtual cohort, by the steps of `gemel synth`: fit, report on the open data, gate, draw."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gemel.cli.synth_evidence import evidence_of
from gemel.cli.synth_steps import Wanted, draw, examine, write_reports
from gemel.core.dataset import Dataset
from gemel.core.errors import GemelError
from gemel.core.programme import DAYS_PER_YEAR
from gemel.core.signing import SigningKey
from gemel.synthetic.model_file import CohortModel, fit_run, write_model
from gemel.synthetic.report import Audience, Decision, Override, decide
from gemel.synthetic.report.attacks import QUICK

MODEL, REPORTS, COHORT = "cohorts.safetensors", "virtual_cohort_report", "virtual_cohort"
DRAWS = 5
# To see every row at work within the time of a demo; what a release rests on is `gemel synth report`.
EFFORT = replace(QUICK, attacks=100, people=200, shadows=0, releases=0)
WHO = "gemel demo"


def virtual_cohort(
    run: Path, sites: Mapping[str, Dataset], out: Path, *, patients: int, seed: int
) -> dict[str, Any]:
    """Fit the run's model, report on it, pass the gate or override it by name, draw; gives what the summary says of it.

    Args:
        run: The run's folder.
        sites: Each hospital's patients, whose data are open.
        out: The demo's folder.
        patients: In the cohort.
        seed: Of the draw.
    """
    model, content = fit_run(run)
    write_model(content, out / MODEL)
    split = {site: dataset.split() for site, dataset in sites.items()}
    evidence = evidence_of(
        model.tree.domain,
        {site: training for site, (training, _) in split.items()},
        {site: held_out for site, (_, held_out) in split.items()},
        open_data=True,
    )
    report = examine(model, evidence, seeds=range(seed, seed + DRAWS), effort=EFFORT)
    pages = write_reports(report, out / REPORTS, internal=True)
    document = report.document(Audience.INTERNAL)
    decision = _decide(document, model)
    wanted = Wanted(patients, (seed,), {}, key=SigningKey.generate())
    ((cohort, files, _),) = draw(model, decision, wanted, out / COHORT)
    return {
        "patients": len(cohort),
        "files": [str(file.relative_to(out)) for file in files],
        "model": MODEL,
        "report": str(pages["public"].relative_to(out)),
        "internal_report": str(pages["internal"].relative_to(out)),
        "gate": _gate(document, decision),
        **_likeness(document["figures"]),
    }


def _decide(document: Mapping[str, Any], model: CohortModel) -> Decision:
    """The gate's word; where it refuses, the demo answers for a cohort of open data, on record."""
    try:
        return decide(document, model_sha256=model.sha256)
    except GemelError as error:
        if error.code != "GEM755":
            raise
    override = Override(
        by=WHO,
        reason="a demonstration on open data; this cohort is for looking at, and for nothing else",
        at=f"{dt.datetime.now(dt.UTC):%Y-%m-%dT%H:%M:%SZ}",
    )
    return decide(document, model_sha256=model.sha256, override=override)


def _gate(document: Mapping[str, Any], decision: Decision) -> dict[str, Any]:
    deciding = [row for row in document["findings"] if row["gates"]]
    override = decision.override
    return {
        "outcome": decision.outcome.value,
        "passed": sum(row["verdict"] == "pass" for row in deciding),
        "failed": list(decision.failed),
        "untested": list(decision.untested),
        "by": "" if override is None else override.by,
        "reason": "" if override is None else override.reason,
    }


def _likeness(figures: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Of the report's figures, what the demo's page shows: the first outcome's curves, and how far each column is off."""
    curve = next(figure for figure in figures if figure["kind"] == "survival")
    return {
        "survival": {
            "years": [days / DAYS_PER_YEAR for days in curve["days"]],
            "real": curve["training"],
            "virtual": curve["virtual"]["middle"],
        },
        "marginal_distance": {
            figure["title"]: sum(
                abs(a - b) for a, b in zip(figure["training"], figure["virtual"]["middle"], strict=True)
            )
            / 2
            for figure in figures
            if figure["kind"] == "marginal"
        },
    }
