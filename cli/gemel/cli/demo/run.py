"""`gemel demo`: hospitals of open-data people, a real federation, a twin, a virtual cohort, one report."""

from __future__ import annotations

import datetime as dt
import json
import math
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from gemel.cli.demo import results
from gemel.cli.demo.comparison import compare, pool
from gemel.cli.demo.endpoint_lines import endpoint_line, scored_endpoints
from gemel.cli.demo.federation import Federation, create, run_study, running
from gemel.cli.demo.hospitals import HospitalExport, write_hospitals
from gemel.cli.demo.one_patient import observed_one_by_one, two_plans
from gemel.cli.demo.outcome import show
from gemel.cli.demo.report import in_words, write_report
from gemel.cli.demo.screen import Screen, step
from gemel.cli.demo.twin_report import write_twin_report
from gemel.cli.demo.virtual_cohort import virtual_cohort
from gemel.cli.proposal import propose, sign, usual_training
from gemel.core.dataset import Dataset
from gemel.core.errors import GemelError
from gemel.core.signing import SignedDocument, SigningKey
from gemel.core.study import Study
from gemel.server.home import RunFolder
from gemel.twins.definition import OpenData, TwinDefinition
from gemel.twins.metrics import metrics_from_tables
from gemel.twins.twin import Twin

# At most a tenth of one over the number of people, of whom the open cohorts have up to 19,500.
DELTA = 5e-6
MINIMUM_PATIENTS = 100
VIRTUAL_PATIENTS = 1000
ROUND_TIMEOUT_S = 120.0
STUDY_TIMEOUT_S = 1800.0
MARK = ".gemel-demo"


@dataclass(frozen=True)
class Settings:
    """What a demo is asked for.

    Attributes:
        hospitals: How many to deal the people out to, 2 to 20.
        rounds: Rounds of training; 0 for the programme's own.
        epsilon: Each patient's budget at each hospital, everything included.
        seed: Of the people's order and of the virtual cohort; privacy noise is never seeded.
        data: The folder of open data; without the programme's file in it its people are simulated.
    """

    hospitals: int
    rounds: int
    epsilon: float
    seed: int
    data: Path | None


@dataclass(frozen=True)
class Walked:
    """What the walk through the federation left behind."""

    definition: TwinDefinition
    settings: Settings
    out: Path
    federation: Federation
    exports: Sequence[HospitalExport]
    study: Study
    run: RunFolder
    twin: Twin
    sites: dict[str, Dataset]


def run_demo(definition: TwinDefinition, out: Path, settings: Settings) -> dict[str, Any]:
    """Run the whole walk into `out`; returns the summary that `summary.json` holds.

    `out` is made anew; a folder that is not an earlier demo's is refused (GEM803).
    """
    started = time.monotonic()
    # The models here are small: where other work runs beside, more threads wait for each other most of the time.
    torch.set_num_threads(1)
    _prepare(out)
    walked = _walk(definition, out, settings)
    with step(4, "The same patients, four ways: federated, pooled, each hospital alone, age and sex"):
        metrics = compare(definition.programme, walked.sites, walked.twin, definition.baselines)
        metrics["released"] = _released(walked)
        write_twin_report(definition, walked.run, metrics["released"], out)
    with step(
        5, f"Virtual cohorts from what was released: fitted, put to the test; {VIRTUAL_PATIENTS:,} patients"
    ):
        synthetic = virtual_cohort(
            walked.run.folder, walked.sites, out, patients=VIRTUAL_PATIENTS, seed=settings.seed
        )
    with step(6, "One patient of no hospital: two plans, and what observations change"):
        patient = _one_patient(walked)
    summary = {**_summary(walked), "metrics": metrics, "synthetic": synthetic, **patient}
    summary["seconds"] = round(time.monotonic() - started, 1)
    (out / "summary.json").write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n")
    write_report(summary, out / "report.html")
    return summary


def _walk(definition: TwinDefinition, out: Path, settings: Settings) -> Walked:
    """Hospitals, study, federation: to the final twin."""
    programme, source = definition.programme, source_of(definition.open_data, settings.data)
    hospitals = in_words(settings.hospitals)
    kind = "simulated people" if source["simulated"] else "real people"
    with step(1, f"{hospitals} hospitals from {kind}: {source['title']}, written as FHIR"):
        people = list(definition.open_data.people(settings.data, seed=settings.seed))
        exports = write_hospitals(
            out / "hospitals", programme, people, hospitals=settings.hospitals, seed=settings.seed
        )
    federation = create(
        out / "federation",
        {export.name: export.folder for export in exports},
        programme,
        epsilon_cap=settings.epsilon,
        delta=DELTA,
        minimum_patients=MINIMUM_PATIENTS,
        seed=settings.seed,
    )
    with step(
        2, f"A study at ε = {settings.epsilon:g}, δ = {DELTA:g}, everything included: planned and signed"
    ):
        study, document = _study(definition, federation, settings)
    (out / "study.json").write_bytes(document.to_bytes())
    with step(
        3,
        f"A coordinator and {settings.hospitals} nodes over Flower (TLS, node keys): approve, train, evaluate",
    ):
        run = _train(federation, exports, document, study, epsilon_cap=settings.epsilon)
    twin, sites = results.final_twin(run, programme), results.datasets(federation, programme)
    return Walked(definition, settings, out, federation, exports, study, run, twin, sites)


def source_of(open_data: OpenData, data: Path | None) -> dict[str, Any]:
    """Whose records these are: real ones where the programme has some and its file is at hand, else simulated."""
    at_hand = not open_data.file or (data is not None and (data / open_data.file).exists())
    real = at_hand and open_data.title != open_data.simulated_title
    return {
        "title": open_data.title if real else open_data.simulated_title,
        "simulated": not real,
        "licence": open_data.licence if real else "",
    }


def _prepare(out: Path) -> None:
    if out.exists() and not ((out / MARK).exists() or (out.is_dir() and not any(out.iterdir()))):
        raise GemelError("GEM803", f"{out} exists and is not an earlier demo's folder.")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / MARK).touch()


def _study(
    definition: TwinDefinition, federation: Federation, settings: Settings
) -> tuple[Study, SignedDocument]:
    sites = federation.site_keys
    changes = {"rounds": settings.rounds} if settings.rounds else {}
    training, shares = usual_training(definition.programme, **changes)
    study = propose(
        definition.programme,
        training,
        shares,
        sites=sites,
        epsilon=settings.epsilon,
        delta=DELTA,
        minimum_patients=MINIMUM_PATIENTS,
        quorum=len(sites) // 2 + 1,
        round_timeout_s=ROUND_TIMEOUT_S,
        study_id=f"demo-{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%SZ}",
    )
    return study, sign(study, SigningKey.generate())


def _train(
    federation: Federation,
    exports: Sequence[HospitalExport],
    document: SignedDocument,
    study: Study,
    *,
    epsilon_cap: float,
) -> RunFolder:
    titles = {export.name: export.title for export in exports}
    with running(federation), Screen(titles, tasks=len(study.tasks), epsilon_cap=epsilon_cap) as screen:
        return run_study(federation, document, watch=screen.watch, timeout_s=STUDY_TIMEOUT_S)


def _released(walked: Walked) -> dict[str, Any]:
    """The metrics that the hospitals themselves let out, with their standard errors."""
    tables = results.releases(walked.run, "evaluate", walked.definition.programme)
    summed = {name: np.sum([table[name] for table in tables], axis=0) for name in tables[0]}
    sigma = walked.study.privacy.metrics_noise_multiplier * math.sqrt(len(tables))
    scores = metrics_from_tables(walked.twin, summed, noise_sigma=sigma)
    return {
        endpoint: {
            name: {"value": score.value, "standard_error": score.standard_error}
            for name, score in of.items()
            if name.startswith(("auc", "rmse")) and math.isfinite(score.value)
        }
        for endpoint, of in scores.items()
    }


def _one_patient(walked: Walked) -> dict[str, Any]:
    """The example, a patient of no hospital: under two plans, and fitted to its observations."""
    example, programme = walked.definition.example, walked.definition.programme
    site_twins = results.last_site_twins(walked.run, walked.study, programme)
    training, _ = pool(list(walked.sites.values())).split()
    return {
        "what_if": two_plans(example, walked.twin, site_twins, training, seed=walked.settings.seed),
        "assimilation": observed_one_by_one(example, walked.twin),
    }


def _summary(walked: Walked) -> dict[str, Any]:
    run, study, out, programme = walked.run, walked.study, walked.out, walked.definition.programme
    certificate = run.certificate
    if certificate is None:
        raise GemelError("GEM504", "The run left no certificate.")
    (out / "certificate.json").write_bytes(certificate.to_bytes())
    shutil.copy(run.folder / f"model-{study.training.rounds:04d}.safetensors", out / "twin.safetensors")
    ledgers = results.export_ledgers(walked.federation, out)
    titles = {export.name: export.title for export in walked.exports}
    sizes = {export.name: export.patients for export in walked.exports}
    return {
        "title": study.title,
        "rounds": study.training.rounds,
        "delta": DELTA,
        "study": {
            "title": study.title,
            "sha256": study.sha256,
            "programme": f"{study.programme}@{study.programme_version}",
        },
        "source": source_of(walked.definition.open_data, walked.settings.data),
        "sites": results.site_lines(walked.federation, sizes, titles, run),
        "rounds_detail": results.round_lines(run),
        "endpoints": {
            endpoint.name: msgspec.to_builtins(endpoint_line(programme, endpoint))
            for endpoint in scored_endpoints(programme)
        },
        "ledgers": ledgers,
        "certificate": {"file": "certificate.json", "sha256": certificate.payload_sha256},
    }


def main(programme: str, out: Path, settings: Settings, *, as_json: bool) -> None:
    """The command: run, then print the result table (or the summary as one JSON object) on stdout."""
    from gemel.cli.programme import find_definition

    summary = run_demo(find_definition(programme), out, settings)
    if as_json:
        sys.stdout.write(json.dumps(summary, indent=2, allow_nan=False) + "\n")
    else:
        show(summary, out)
