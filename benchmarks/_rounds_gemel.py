"""Our side of `rounds.py`: a coordinator and three nodes as a consortium runs them, on loopback, under TLS and node keys."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from gemel.cli.demo.federation import Federation, create, running
from gemel.core.signing import SigningKey, sign_document
from gemel.core.study import SCHEMA, PrivacyPlan, Study, TrainingPlan
from gemel.synthetic.domain import domain_of
from gemel.synthetic.protocol import synthesis_plan
from gemel.twins.metrics import metric_tables
from gemel.twins.programmes.fatty_liver import PROGRAMME

SITES, PATIENTS, DELTA = ("alpha", "beta", "gamma"), 120, 1e-5
WIDE = Path(__file__).parent / "_rounds_wide" / "sitecustomize.py"


@dataclass
class Timed:
    """Seconds from the submission to the end of round 1, seconds of each later round, and memory by round (MB)."""

    first_s: float
    rounds_s: list[float]
    memory_mb: list[tuple[int, float]] = field(default_factory=list)


@contextmanager
def federation(folder: Path, *, values: int) -> Iterator[Federation]:
    """Three small hospitals and a coordinator; `values` 0: the programme's own twin, else one of so many numbers."""
    exports = {site: _export(folder / "exports" / site, seed) for seed, site in enumerate(SITES)}
    if values:
        wide = WIDE.read_text(encoding="utf-8").replace("VALUES = 0", f"VALUES = {values}")
        (folder / "sitecustomize.py").write_text(wide, encoding="utf-8")
        os.environ["PYTHONPATH"] = str(folder)
    try:
        homes = create(
            folder / "federation", exports, PROGRAMME, epsilon_cap=1e3, delta=DELTA, minimum_patients=20
        )
        with running(homes) as live:
            yield live
    finally:
        os.environ.pop("PYTHONPATH", None)


def time_rounds(live: Federation, *, rounds: int, watch_memory: bool = False) -> Timed:
    """Run one study of so many rounds; ends when its last round is over, and the rest of the study runs on."""
    document = sign_document(
        "study", _study(live, rounds).to_payload(), SigningKey.generate(), role="proposer"
    )
    run = live.coordinator.admit(document)
    started = time.time()
    live.superlink.start_run(document.payload_sha256, approval_timeout_s=60.0)
    ends: list[float] = []
    codes: list[str] = []
    memory: list[tuple[int, float]] = []
    offset, deadline = 0, time.monotonic() + 60 + 15 * rounds
    while time.monotonic() < deadline:
        for end, event in run.events(start=offset):
            offset = end
            if event["event"] == "site" and event["status"] == "pending":
                live.approve(event["site"], document.payload_sha256)
            if event["event"] == "task_done" and event["task"].startswith("train/"):
                ends.append(event["at"])
                if watch_memory:
                    memory.append((len(ends), _coordinator_mb(live)))
            if event["event"] in ("site", "missing") and event["code"]:
                codes.append(f"{event['site']} {event['code']}")
            if event["event"] == "finished":
                if len(ends) < rounds:
                    raise RuntimeError(f"the run ended after {len(ends)} rounds: {event['code']} {codes}")
                rest = [after - before for before, after in pairwise(ends)]
                return Timed(ends[0] - started, rest, memory)
        time.sleep(0.01)
    raise RuntimeError(f"{len(ends)} of {rounds} rounds in time; logs are in {live.folder / 'logs'}")


def _coordinator_mb(live: Federation) -> float:
    """Resident memory of all processes of the coordinator, in 10^6 bytes; what is shared counts once (PSS)."""
    nodes = set(SITES)
    total = 0
    for name, process in live.processes.items():
        if name not in nodes:
            top = psutil.Process(process.pid)
            for part in (top, *top.children(recursive=True)):
                try:
                    total += part.memory_full_info().pss
                except psutil.NoSuchProcess:
                    continue
    return total / 1e6


def _study(live: Federation, rounds: int) -> Study:
    training = TrainingPlan(
        rounds=rounds,
        local_steps=1,
        learning_rate=0.1,
        momentum=0.0,
        max_grad_norm=1.0,
        sample_rate=1.0,
        noise_multiplier=60.0,
    )
    privacy = PrivacyPlan(
        epsilon=20.0,
        delta=DELTA,
        count_noise_multiplier=10.0,
        metrics_noise_multiplier=15.0,
        synthesis_noise_multiplier=4.0,
    )
    return Study(
        schema=SCHEMA,
        study_id=f"rounds-{time.time_ns()}",
        title="Rounds",
        purpose="To be timed",
        programme=PROGRAMME.name,
        programme_version=PROGRAMME.version,
        training=training,
        privacy=privacy,
        metrics_tables=len(metric_tables(PROGRAMME)),
        synthesis=synthesis_plan(domain_of(PROGRAMME)),
        minimum_patients=20,
        quorum=3,
        round_timeout_s=120.0,
        sites=live.site_keys,
    )


def _export(folder: Path, seed: int) -> Path:
    """A small hospital's FHIR export: people with two visits and a body mass index."""
    chance = random.Random(seed)
    lines: dict[str, list[dict[str, Any]]] = {"Patient": [], "Encounter": [], "Observation": []}
    for number in range(PATIENTS):
        name, first = f"p{seed}-{number}", date(2005, 1, 1) + timedelta(days=chance.randrange(1500))
        last, subject = first + timedelta(days=chance.randrange(400, 5400)), {"reference": f"Patient/{name}"}
        born = first - timedelta(days=chance.randrange(25, 85) * 365)
        lines["Patient"].append(
            {"resourceType": "Patient", "id": name, "gender": "female", "birthDate": str(born)}
        )
        for kind, day in (("first", first), ("last", last)):
            lines["Encounter"].append({
                "resourceType": "Encounter", "id": f"{name}-{kind}", "status": "finished", "subject": subject,
                "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"},
                "period": {"start": str(day), "end": str(day)},
            })  # fmt: skip
        lines["Observation"].append({
            "resourceType": "Observation", "id": f"{name}-bmi", "status": "final", "subject": subject,
            "code": {"coding": [{"system": "http://loinc.org", "code": "39156-5"}]},
            "effectiveDateTime": str(first),
            "valueQuantity": {"value": chance.randrange(20, 45), "unit": "kg/m2", "code": "kg/m2",
                              "system": "http://unitsofmeasure.org"},
        })  # fmt: skip
    folder.mkdir(parents=True)
    for kind, resources in lines.items():
        (folder / f"{kind}.ndjson").write_text("".join(json.dumps(r) + "\n" for r in resources))
    return folder
