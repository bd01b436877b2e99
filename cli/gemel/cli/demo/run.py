"""`gemel demo`: three hospitals of real people, a real federation, a twin, a virtual cohort, one report."""

from __future__ import annotations

import datetime as dt
import json
import math
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gemel.cli.demo import results
from gemel.cli.demo.comparison import compare, pool
from gemel.cli.demo.federation import Federation, create, run_study, running
from gemel.cli.demo.hospitals import HospitalExport, write_hospitals
from gemel.cli.demo.outcome import show
from gemel.cli.demo.report import write_report
from gemel.cli.demo.screen import Screen, step
from gemel.cli.proposal import propose, sign
from gemel.core.errors import GemelError
from gemel.core.programme import Programme
from gemel.core.signing import SignedDocument, SigningKey
from gemel.core.study import Study, TrainingPlan
from gemel.privacy.planning import Shares
from gemel.server.home import RunFolder
from gemel.synthetic.cohort import fit, sample
from gemel.synthetic.comparison import compare as compare_cohort
from gemel.synthetic.export import write as write_cohort
from gemel.synthetic.marginals import sum_sites
from gemel.synthetic.report import write_report as write_cohort_report
from gemel.synthetic.study_provenance import provenance_of_study
from gemel.twins.hazard import HazardTwin
from gemel.twins.hospital_range import predict_range
from gemel.twins.metrics import metrics_from_tables
from gemel.twins.programmes.fatty_liver import PROGRAMME
from gemel.twins.programmes.fatty_liver.plan import DEFAULT_TRAINING

DELTA = 1e-5
MINIMUM_PATIENTS = 100
VIRTUAL_PATIENTS = 1000
ROUND_TIMEOUT_S = 120.0
STUDY_TIMEOUT_S = 1800.0
MARK = ".gemel-demo"


def run_demo(out: Path, *, hospitals: int, rounds: int, epsilon: float, seed: int) -> dict[str, Any]:
    """Run the whole walk into `out`; returns the summary that `summary.json` holds.

    Args:
        out: Made anew; a folder that is not an earlier demo's is refused (GEM803).
        hospitals: How many to split the cohort into, 2 to 5.
        rounds: Rounds of training.
        epsilon: Each patient's budget at each hospital, everything included.
        seed: Of the split and of the virtual cohort; privacy noise is never seeded.
    """
    started = time.monotonic()
    _prepare(out)
    with step(1, "Three hospitals from real people: the open Olmsted County cohort, written as FHIR"):
        exports = write_hospitals(out / "hospitals", hospitals=hospitals, seed=seed)
    federation = create(
        out / "federation",
        {export.name: export.folder for export in exports},
        PROGRAMME,
        epsilon_cap=epsilon,
        delta=DELTA,
        minimum_patients=MINIMUM_PATIENTS,
        seed=seed,
    )
    with step(2, f"A study at ε = {epsilon:g}, δ = {DELTA:g}, everything included: planned and signed"):
        study, document = _study(federation, rounds=rounds, epsilon=epsilon)
    (out / "study.json").write_bytes(document.to_bytes())
    with step(
        3, f"A coordinator and {hospitals} nodes over Flower (TLS, node keys): approve, train, evaluate"
    ):
        run = _train(federation, exports, document, study, epsilon_cap=epsilon)
    with step(4, "The same patients, four ways: federated, pooled, each hospital alone, Cox on age and sex"):
        sites = results.datasets(federation, PROGRAMME)
        twin = results.final_twin(run, study, PROGRAMME)
        metrics = compare(PROGRAMME, sites, twin)
        metrics["released"] = _released(run, study, twin)
    with step(5, f"A virtual cohort of {VIRTUAL_PATIENTS:,} patients from what was released"):
        synthetic = _virtual_cohort(out, run, study, twin, list(sites.values()), seed=seed)
    summary = _summary(federation, exports, run, study, metrics=metrics, synthetic=synthetic, out=out)
    summary["what_if"] = _what_if(run, study, twin)
    summary["seconds"] = round(time.monotonic() - started, 1)
    (out / "summary.json").write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n")
    write_report(summary, out / "report.html")
    return summary


def _prepare(out: Path) -> None:
    if out.exists() and not ((out / MARK).exists() or (out.is_dir() and not any(out.iterdir()))):
        raise GemelError("GEM803", f"{out} exists and is not an earlier demo's folder.")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / MARK).touch()


def training(rounds: int) -> TrainingPlan:
    """The programme's usual training over some rounds; its noise is solved for by the plan."""
    usual = DEFAULT_TRAINING
    return TrainingPlan(
        rounds=rounds,
        local_steps=usual.local_steps,
        learning_rate=usual.learning_rate,
        momentum=usual.momentum,
        max_grad_norm=usual.max_grad_norm,
        sample_rate=usual.sample_rate,
        noise_multiplier=0.0,
    )


def shares() -> Shares:
    """The programme's usual division of the budget."""
    usual = DEFAULT_TRAINING
    return Shares(
        training=usual.training_share,
        marginals=usual.marginals_share,
        count=usual.count_share,
    )


def _study(federation: Federation, *, rounds: int, epsilon: float) -> tuple[Study, SignedDocument]:
    sites = federation.site_keys
    study = propose(
        PROGRAMME,
        training(rounds),
        shares(),
        sites=sites,
        epsilon=epsilon,
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


def _released(run: RunFolder, study: Study, twin: HazardTwin) -> dict[str, Any]:
    """The metrics that the hospitals themselves let out, with their standard errors."""
    tables = results.releases(run, "evaluate", PROGRAMME)
    summed = {name: np.sum([table[name] for table in tables], axis=0) for name in tables[0]}
    sigma = study.privacy.metrics_noise_multiplier * math.sqrt(len(tables))
    scores = metrics_from_tables(twin, summed, noise_sigma=sigma)
    return {
        outcome: {
            name: {"value": score.value, "standard_error": score.standard_error}
            for name, score in (("auc_5y", of.auc_5y), ("auc_10y", of.auc_10y))
        }
        for outcome, of in scores.items()
    }


def _virtual_cohort(
    out: Path, run: RunFolder, study: Study, twin: HazardTwin, datasets: list[Any], *, seed: int
) -> dict[str, Any]:
    tables = results.releases(run, "synthesise", PROGRAMME)
    model = fit(
        PROGRAMME,
        sum_sites(PROGRAMME, tables),
        noise_multiplier=study.privacy.marginals_noise_multiplier,
        sites=len(tables),
    )
    certificate = run.certificate
    provenance = provenance_of_study(
        study,
        sites=len(tables),
        created=f"{dt.datetime.now(dt.UTC):%Y-%m-%dT%H:%M:%SZ}",
        noise="secure",
        certificate_sha256=certificate.payload_sha256 if certificate is not None else None,
    )
    cohort = sample(model, twin, patients=VIRTUAL_PATIENTS, seed=seed, provenance=provenance)
    folder = out / "virtual_cohort"
    files = write_cohort(cohort, folder, provenance=provenance)
    training, held_out = pool(datasets).split()
    comparison = compare_cohort(cohort, training, held_out)
    report = write_cohort_report(cohort, folder, comparison=comparison)
    return results.synthetic_lines(cohort, comparison, files, report, out)


def _what_if(run: RunFolder, study: Study, twin: HazardTwin) -> dict[str, Any]:
    """One patient of no hospital, as is and 10 % lighter, with the range over the hospitals' last models."""
    values = np.array([results.PATIENT[name] for name in PROGRAMME.feature_names])
    lighter = results.PATIENT["body_mass_index_kg_m2"] * (1 - results.WEIGHT_LOSS)
    pair = twin.what_if(values, {"body_mass_index_kg_m2": lighter})
    after = values.copy()
    after[PROGRAMME.feature_names.index("body_mass_index_kg_m2")] = lighter
    twins = [twin, *results.last_site_twins(run, study, PROGRAMME)]
    ranges = {
        "factual": predict_range(twins, values[None]),
        "counterfactual": predict_range(twins, after[None]),
    }
    return {
        "patient": results.described_patient(PROGRAMME),
        "change": f"10 % less weight: body mass index {lighter:.1f} instead of 36.0 kg/m²",
        "years": list(range(PROGRAMME.horizon_years + 1)),
        "factual": _curves(PROGRAMME, pair.factual.cumulative_incidence[0]),
        "counterfactual": _curves(PROGRAMME, pair.counterfactual.cumulative_incidence[0]),
        "low": {name: _curves(PROGRAMME, r.low[0]) for name, r in ranges.items()},
        "high": {name: _curves(PROGRAMME, r.high[0]) for name, r in ranges.items()},
        "range_note": "the range over the hospitals' own last models and the joint one, not a confidence interval",
    }


def _curves(programme: Programme, incidence: np.ndarray[Any, Any]) -> dict[str, list[float]]:
    return {name: incidence[:, j].tolist() for j, name in enumerate(programme.outcome_names)}


def _summary(
    federation: Federation,
    exports: Sequence[HospitalExport],
    run: RunFolder,
    study: Study,
    *,
    metrics: dict[str, Any],
    synthetic: dict[str, Any],
    out: Path,
) -> dict[str, Any]:
    certificate = run.certificate
    if certificate is None:
        raise GemelError("GEM504", "The run left no certificate.")
    (out / "certificate.json").write_bytes(certificate.to_bytes())
    shutil.copy(run.folder / f"model-{study.training.rounds:04d}.safetensors", out / "twin.safetensors")
    ledgers = results.export_ledgers(federation, out)
    titles = {export.name: export.title for export in exports}
    sizes = {export.name: export.patients for export in exports}
    return {
        "title": study.title,
        "rounds": study.training.rounds,
        "delta": DELTA,
        "study": {
            "title": study.title,
            "sha256": study.sha256,
            "programme": f"{study.programme}@{study.programme_version}",
        },
        "sites": results.site_lines(federation, sizes, titles, run),
        "rounds_detail": results.round_lines(run),
        "metrics": metrics,
        "synthetic": synthetic,
        "ledgers": ledgers,
        "certificate": {"file": "certificate.json", "sha256": certificate.payload_sha256},
    }


def main(out: Path, *, hospitals: int, rounds: int, epsilon: float, seed: int, as_json: bool) -> None:
    """The command: run, then print the result table (or the summary as one JSON object) on stdout."""
    summary = run_demo(out, hospitals=hospitals, rounds=rounds, epsilon=epsilon, seed=seed)
    if as_json:
        sys.stdout.write(json.dumps(summary, indent=2, allow_nan=False) + "\n")
    else:
        show(summary, out)
