"""`gemel demo` as its user runs it: real people's data, a real Flower deployment, every artefact checked."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from dp_accounting.pld import privacy_loss_distribution as pld
from fhir.resources.R4B import get_fhir_model_class

from gemel.core.dataset import Dataset
from gemel.core.errors import GemelError
from gemel.core.programme import Programme
from gemel.core.signing import read_signed
from gemel.data_adapters.dataset.build import build
from gemel.privacy.ledger import verify_ledger_document
from gemel.twins.installed import definition_of, installed
from gemel.twins.programmes.fatty_liver import PROGRAMME

ROUNDS = 5
MODELS = ("federated_dp", "pooled", "local", "age_and_sex")
GEMEL = [sys.executable, "-m", "gemel.cli.main"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """One run of the demo: its folder, and the JSON object that it printed."""
    out = tmp_path_factory.mktemp("demo") / "out"
    done = subprocess.run(
        [*GEMEL, "demo", "--out", str(out), "--rounds", str(ROUNDS), "--format", "json"],
        capture_output=True,
        text=True,
        timeout=420,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out, json.loads(done.stdout)


def test_it_prints_the_summary_that_it_wrote(demo: tuple[Path, dict[str, Any]]) -> None:
    out, printed = demo
    assert printed == json.loads((out / "summary.json").read_text())
    assert printed["rounds"] == ROUNDS
    assert [len(r["sites"]) for r in printed["rounds_detail"]] == [3] * ROUNDS
    assert sum(site["patients"] for site in printed["sites"]) == 17_549
    assert printed["source"]["simulated"] is False
    for model in MODELS:
        for endpoint in PROGRAMME.endpoints:
            score = printed["metrics"][model][endpoint.name]
            assert 0.5 < score["auc_5y"] < 1
            assert 0.5 < score["auc_10y"] < 1
            assert 0 < score["integrated_brier"] < 0.25


def test_what_the_ledgers_show_is_what_the_summary_says_to_the_last_digit(
    demo: tuple[Path, dict[str, Any]],
) -> None:
    out, summary = demo
    for site in summary["sites"]:
        document = read_signed((out / "ledgers" / f"{site['name']}.json").read_bytes(), kind="ledger")
        entries = verify_ledger_document(document)
        assert entries[-1].epsilon_after == site["epsilon_spent"] <= site["epsilon_cap"] == 3.0
        assert document.payload["epsilon_spent"] == site["epsilon_spent"]
        shown = subprocess.run(
            [*GEMEL, "ledger", "show", str(out / "federation" / "nodes" / site["name"]), "--format", "json"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(shown.stdout)["epsilon_spent"] == site["epsilon_spent"]


def test_the_spend_recomputes_with_dp_accounting_alone(demo: tuple[Path, dict[str, Any]]) -> None:
    out, summary = demo
    exported = json.loads((out / "ledgers" / "north.json").read_text())["payload"]
    charges = [charge for entry in exported["entries"] for charge in entry["charges"]]
    recomputed = max(_epsilon(charges, role, exported["delta"]) for role in ("training", "held_out"))
    for site in summary["sites"]:
        assert recomputed == pytest.approx(site["epsilon_spent"], abs=5e-6)


def _epsilon(charges: list[dict[str, Any]], role: str, delta: float) -> float:
    """What a patient of one role pays, with nothing of ours."""
    runs: Counter[tuple[str, float]] = Counter()
    for charge in charges:
        for event in charge["mechanisms"] if charge["share"] in ("everyone", role) else ():
            assert event["sample_rate"] == 1
            runs[event["kind"], event["noise_multiplier"]] += event["count"]
    whole = pld.identity()
    for (kind, z), count in runs.items():
        if kind == "gaussian":  # k releases with noise z are one with noise z / sqrt(k)
            one = pld.from_gaussian_mechanism(z / math.sqrt(count))
        else:
            assert kind == "discrete_gaussian"
            one = pld.from_discrete_gaussian_mechanism(z, use_connect_dots=True).self_compose(count)
        whole = whole.compose(one)
    return float(whole.get_epsilon_for_delta(delta))


def test_the_certificate_names_every_contribution_and_verifies(demo: tuple[Path, dict[str, Any]]) -> None:
    out, summary = demo
    path = out / summary["certificate"]["file"]
    certificate = read_signed(path.read_bytes(), kind="certificate")
    assert certificate.payload_sha256 == summary["certificate"]["sha256"]
    assert certificate.payload["status"] == "complete"
    for site in summary["sites"]:
        assert certificate.payload["sites"][site["name"]]["epsilon_spent"] == site["epsilon_spent"]
    for task in certificate.payload["tasks"]:
        assert len(task["contributions"]) == 3
    for name in ("certificate.json", "study.json", "ledgers/lake.json"):
        subprocess.run([*GEMEL, "verify", str(out / name)], capture_output=True, check=True)
    assert "TRIPOD+AI" in (out / "twin_report.md").read_text()
    forged = path.read_bytes().replace(b'"complete"', b'"entirely"')
    (out / "forged.json").write_bytes(forged)
    refused = subprocess.run([*GEMEL, "verify", str(out / "forged.json")], capture_output=True, check=False)
    assert refused.returncode == 3


def _number_names(value: Any, name: str = "") -> set[str]:
    if isinstance(value, dict):
        return set().union(*(_number_names(item, key) for key, item in value.items()))
    if isinstance(value, list):
        return set().union(*(_number_names(item, name) for item in value))
    return {name} if isinstance(value, int | float) and not isinstance(value, bool) else set()


def test_no_exact_count_and_no_patient_is_in_what_the_coordinator_holds(
    demo: tuple[Path, dict[str, Any]],
) -> None:
    out, summary = demo
    runs = out / "federation" / "coordinator" / "runs"
    sites = [site["name"] for site in summary["sites"]]
    # The names of all numbers are compared, not their digits: a digest may hold any digits by chance,
    # and a noisy count may equal the exact one.
    names = set()
    for path in [*runs.rglob("*.json"), *runs.rglob("*.ndjson")]:
        for line in path.read_text().splitlines() if path.suffix == ".ndjson" else [path.read_text()]:
            names |= _number_names(json.loads(line))
    study = _number_names(json.loads((out / "study.json").read_bytes()))
    about_work = {"at", "seconds", "bytes", "tasks", "quorum", "protocol", "version"}
    about_privacy = {"epsilon_spent", "ledger_seq", *sites}
    assert names - study <= about_work | about_privacy
    held = b"".join(path.read_bytes() for path in runs.rglob("*") if path.is_file())
    for site in sites:
        home = out / "federation" / "nodes" / site
        dataset = Dataset.load(home / "data" / f"{PROGRAMME.name}-{PROGRAMME.version}.safetensors")
        assert not any(name.encode() in held for name in dataset.patient_ids)


def test_the_virtual_cohort_is_valid_fhir_marked_as_such_and_may_not_train(
    demo: tuple[Path, dict[str, Any]],
) -> None:
    out, summary = demo
    assert summary["synthetic"]["patients"] == 1000
    assert {Path(name).suffix for name in summary["synthetic"]["files"]} >= {".ndjson", ".parquet", ".csv"}
    for name in summary["synthetic"]["files"]:
        if name.endswith(".ndjson"):
            lines = (out / name).read_text().splitlines()
            for line in lines[:: max(1, len(lines) // 20)]:
                resource = json.loads(line)
                assert {"HTEST"} == {mark["code"] for mark in resource["meta"]["security"]}
                get_fhir_model_class(resource["resourceType"]).model_validate(resource)
    with pytest.raises(GemelError, match="GEM211"):
        build(out / "virtual_cohort" / "fhir", PROGRAMME, pseudonym_key=bytes(32))


def test_the_virtual_cohort_left_by_the_gate_or_by_name_and_all_of_it_verifies(
    demo: tuple[Path, dict[str, Any]],
) -> None:
    out, summary = demo
    gate = summary["synthetic"]["gate"]
    manifest = json.loads((out / "virtual_cohort" / "cohort.json").read_bytes())
    assert bool(gate["failed"] or gate["untested"]) == (manifest["decision"]["override"] is not None)
    if manifest["decision"]["override"]:
        assert manifest["decision"]["override"]["by"] == gate["by"] == "gemel demo"
        assert "The release gate refused this cohort" in (out / "report.html").read_text()
    for name, kind in ((summary["synthetic"]["model"], "cohort_model"), ("virtual_cohort", "virtual_cohort")):
        checked = subprocess.run(
            [*GEMEL, "verify", str(out / name), "--format", "json"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(checked.stdout)["kind"] == kind
    certificate = read_signed((out / summary["certificate"]["file"]).read_bytes(), kind="certificate")
    assert manifest["provenance"]["certificate_sha256"] == certificate.payload_sha256
    internal = json.loads((out / summary["synthetic"]["internal_report"]).with_suffix(".json").read_bytes())
    assert internal["model_sha256"] == manifest["decision"]["model_sha256"]
    told = {row["block"] for row in internal["findings"] if row["verdict"] == "pass"}
    assert {"statement", "survival", "evidence"} <= told, "the patients are those who were counted"


def test_the_report_opens_offline_and_names_every_hospital(demo: tuple[Path, dict[str, Any]]) -> None:
    out, summary = demo
    page = (out / "report.html").read_text()
    for attribute in ('src="http', 'href="http', "url(http", "<script"):
        assert attribute not in page
    assert all(site["title"] in page for site in summary["sites"])
    assert summary["certificate"]["sha256"][:12] in page
    assert str(out) not in page


def test_nothing_of_the_demo_runs_on(demo: tuple[Path, dict[str, Any]]) -> None:
    out, _ = demo
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        assert str(out).encode() not in line or folder.name == str(os.getpid())


@pytest.mark.heavy
@pytest.mark.parametrize("programme", [p for p in installed() if p != PROGRAMME], ids=lambda p: p.name)
def test_every_programme_walks_from_fhir_to_a_virtual_cohort(programme: Programme, tmp_path: Path) -> None:
    """Gate G2 of each, with its open data where they are at hand and with simulated people where they are not."""
    out, data = tmp_path / "out", Path(__file__).resolve().parents[3] / "shared" / "data"
    options = ["--programme", programme.name, "--data", str(data), "--rounds", "2", "--out", str(out)]
    done = subprocess.run(
        [*GEMEL, "demo", *options, "--format", "json"],
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads(done.stdout)
    assert {e.name for e in programme.endpoints} <= set(summary["metrics"]["federated_dp"])
    assert summary["synthetic"]["patients"] == 1000
    definition = definition_of(programme)
    assert bool(summary["what_if"]) == bool(
        definition.example.plan.treatments or definition.example.other_plan.treatments
    )
    assert bool(summary["assimilation"]) == bool(definition.example.observations)
    assert ("made up" in (out / "report.html").read_text()) == summary["source"]["simulated"]
    assert "TRIPOD+AI" in (out / "twin_report.md").read_text()
    for name in ("certificate.json", "study.json"):
        subprocess.run([*GEMEL, "verify", str(out / name)], capture_output=True, check=True)
    told = subprocess.run(
        [*GEMEL, "twin", "predict", "--programme", programme.name, "--example", "--twin", str(out / "twin.safetensors")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert definition.example.title in told.stdout


def test_another_folder_than_a_demos_is_never_emptied(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("keep me")
    done = subprocess.run([*GEMEL, "demo", "--out", str(tmp_path)], capture_output=True, check=False)
    assert done.returncode == 2
    assert b"GEM803" in done.stderr
    assert (tmp_path / "precious.txt").read_text() == "keep me"
