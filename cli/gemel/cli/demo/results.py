"""From what a run left behind to the demo's summary: releases, ledgers, metrics, what-if, virtual cohort."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gemel.cli.demo.federation import Federation
from gemel.cli.demo.screen import describe
from gemel.core.dataset import Dataset
from gemel.core.mechanism import kind_of
from gemel.core.programme import Programme
from gemel.core.study import Study
from gemel.privacy.accounting import price
from gemel.privacy.ledger import spending
from gemel.server.home import RunFolder
from gemel.synthetic.releases import declared_release
from gemel.twins.installed import make_twin
from gemel.twins.twin import Twin


def datasets(federation: Federation, programme: Programme) -> dict[str, Dataset]:
    """Each node's data set. The demo may read them because its people's data are open."""
    name = f"{programme.name}-{programme.version}.safetensors"
    return {site: Dataset.load(home.folder / "data" / name) for site, home in federation.nodes.items()}


def final_twin(run: RunFolder, programme: Programme) -> Twin:
    """The global twin after the last round."""
    twin = make_twin(programme)
    twin.load_arrays(run.load_model(run.last_model_name(), twin.array_specs()))
    return twin


def last_site_twins(run: RunFolder, study: Study, programme: Programme) -> list[Twin]:
    """The twins that the hospitals released in the last round, as far as they took part."""
    task = f"train/{study.training.rounds}"
    twins = []
    for site in run.contributors(task):
        twin = make_twin(programme)
        twin.load_arrays(run.load_release(task, site, twin.array_specs()))
        twins.append(twin)
    return twins


def releases(run: RunFolder, task: str, programme: Programme) -> list[dict[str, np.ndarray[Any, Any]]]:
    """The noisy tables of a task, one set for each site that contributed to it."""
    declared = declared_release(task, programme)
    return [run.load_release(task, site, declared) for site in run.contributors(task)]


def export_ledgers(federation: Federation, out: Path) -> list[dict[str, Any]]:
    """Write each hospital's signed ledger, and list what a person had spent after each task."""
    (out / "ledgers").mkdir(exist_ok=True)
    lines = []
    for site, home in federation.nodes.items():
        with home.open_ledger() as ledger:
            document = ledger.export()
            entries = [
                {"task": entry.task, "epsilon_after": price(charges, delta=ledger.delta)}
                for entry, charges in spending(ledger.entries())
            ]
        path = out / "ledgers" / f"{site}.json"
        path.write_bytes(document.to_bytes())
        lines.append({"site": site, "file": str(path.relative_to(out)), "entries": entries})
    return lines


def site_lines(
    federation: Federation, sizes: dict[str, int], titles: dict[str, str], run: RunFolder
) -> list[dict[str, Any]]:
    """For each hospital: people, what each spent of the cap, and what left, in bytes by kind."""
    lines = []
    for site, home in federation.nodes.items():
        with home.open_ledger() as ledger:
            spent, cap = ledger.epsilon_spent(), ledger.epsilon_cap
        left: dict[str, int] = {}
        for _, event in run.events():
            if event["event"] == "release" and event["site"] == site:
                kind = describe(kind_of(event["task"])).replace("train", "model updates")
                left[kind] = left.get(kind, 0) + event["bytes"]
        lines.append(
            {
                "name": site,
                "title": titles[site],
                "patients": sizes[site],
                "epsilon_spent": spent,
                "epsilon_cap": cap,
                "left": [{"what": what, "bytes": size} for what, size in left.items()],
            }
        )
    return lines


def round_lines(run: RunFolder) -> list[dict[str, Any]]:
    """What the certificate says of each training round."""
    certificate = run.certificate
    tasks = certificate.payload["tasks"] if certificate is not None else []
    return [
        {
            "round": int(task["task"].removeprefix("train/")),
            "sites": [c["site"] for c in task["contributions"]],
            "missing": task["missing"],
            "seconds": task["seconds"],
            "bytes": task["bytes"],
        }
        for task in tasks
        if task["task"].startswith("train/")
    ]
