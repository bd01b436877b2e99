"""`gemel study simulate`: a study over many virtual hospitals in this process, by the code that runs in real ones."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gemel.cli.output import Format, FormatOption, emit, failures, say, table

if TYPE_CHECKING:
    from rich.console import Console

    from gemel.cli.virtual_hospitals import VirtualHospital
    from gemel.core.dataset import Dataset
    from gemel.core.study import Study
    from gemel.server.home import RunFolder

TELL_S = 5.0
PATIENTS_EACH = 50


@dataclass
class Simulation:
    """One simulated run: its folder (which goes when the block ends), its study, and what it took."""

    run: RunFolder
    study: Study
    patients: int
    settle_s: float
    run_s: float = 0.0
    messages: int = 0
    code: str = ""


@contextmanager
def simulated(
    study: Study,
    parts: Mapping[str, Dataset],
    *,
    minimum_patients: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Iterator[Simulation]:
    """Run a study over virtual hospitals; inside the block the coordinator's run folder can be read.

    Args:
        study: Its sites are replaced by the virtual ones.
        parts: Each virtual hospital's patients.
        minimum_patients: Replaces the study's floor.
        seed: Of the pseudonym keys. Privacy noise is never seeded.
        progress: Tell on stderr how far it is.

    Raises GEM101 when the study does not fit these hospitals; a run that stops is told in `code`, as the certificate says.
    """
    from gemel.cli.virtual_hospitals import settle, throwaway_folder, with_virtual_sites
    from gemel.core.signing import SigningKey, sign_document
    from gemel.server.home import CoordinatorHome
    from gemel.twins.installed import find

    programme = find(study.programme, study.programme_version)
    with throwaway_folder(len(parts)) as folder:
        started = time.monotonic()
        coordinator = CoordinatorHome.create(folder / "coordinator")
        hospitals = settle(
            folder / "hospitals",
            parts,
            programme,
            coordinator_public_key=coordinator.key.public_hex,
            epsilon_cap=study.privacy.epsilon,
            delta=study.privacy.delta,
            floor=1,
            seed=seed,
        )
        sites = {site: hospital.home.key.public_hex for site, hospital in hospitals.items()}
        _admit(coordinator.folder, sites)
        study = with_virtual_sites(study, sites, minimum_patients=minimum_patients)
        document = sign_document("study", study.to_payload(), SigningKey.generate(), role="proposer")
        run = coordinator.admit(document)
        people = sum(map(len, parts.values()))
        simulation = Simulation(run, study, people, settle_s=time.monotonic() - started)
        _run(simulation, coordinator.folder, list(hospitals.values()), progress=progress)
        yield simulation


def _admit(coordinator: Path, sites: Mapping[str, str]) -> None:
    """Put the virtual hospitals on record as members: the grid's node n is the nth of them."""
    import datetime as dt

    from gemel.server.members import Members
    from gemel.server.store import open_store, store_url

    members = Members(open_store(store_url(coordinator)))
    expires_at = (dt.datetime.now(dt.UTC) + dt.timedelta(days=1)).isoformat(timespec="seconds")
    for node, (site, public_key) in enumerate(sites.items(), start=1):
        members.admit(
            site=site, public_key=public_key, transport_key="", flower_node=node, expires_at=expires_at
        )


def _run(
    simulation: Simulation, coordinator: Path, hospitals: list[VirtualHospital], *, progress: bool
) -> None:
    """The ServerApp over the ClientApp, both as they are installed."""
    from gemel.client_node.flower import HOME_VARIABLE
    from gemel.server.flower.simulation import run_over_grid

    desk = _Desk(simulation, hospitals, progress=progress)
    before, started = os.environ.get(HOME_VARIABLE), time.monotonic()
    try:
        run_over_grid(coordinator, simulation.study.sha256, desk, len(hospitals))
    except RuntimeError:  # the run stopped: its certificate says why
        certificate = simulation.run.certificate
        if certificate is None:
            raise
        simulation.code = str(certificate.payload["code"])
    finally:
        os.environ.pop(HOME_VARIABLE, None)
        if before is not None:
            os.environ[HOME_VARIABLE] = before
    simulation.run_s = time.monotonic() - started
    simulation.messages = desk.messages


@dataclass
class _Desk:
    """What the grid calls: opens the right home, lets the ClientApp answer, and approves what waits for a steward."""

    simulation: Simulation
    hospitals: list[VirtualHospital]
    progress: bool
    messages: int = 0
    _undecided: set[int] = field(default_factory=set)
    _told_at: float = 0.0
    _offset: int = 0

    def __post_init__(self) -> None:
        self._undecided = set(range(1, len(self.hospitals) + 1))

    def __call__(self, message: Any, context: Any) -> Any:
        from gemel.client_node.flower import HOME_VARIABLE
        from gemel.client_node.flower.client_app import app

        hospital = self.hospitals[context.node_id - 1]
        os.environ[HOME_VARIABLE] = str(hospital.home.folder)
        reply = app(message, context)
        self.messages += 1
        if context.node_id in self._undecided:
            self._decide(hospital, context.node_id, reply)
        if self.progress and time.monotonic() > self._told_at + TELL_S:
            self._tell()
        return reply

    def _decide(self, hospital: VirtualHospital, node: int, reply: Any) -> None:
        from gemel.core.messages import Status, read_reply
        from gemel.server.flower.server_app import from_record

        envelope = from_record(reply.content)
        if envelope is not None and envelope.document:
            answer, _ = read_reply(envelope.document)
            if answer.status is Status.PENDING:
                hospital.approve(answer.study_sha256)
            self._undecided.discard(node)

    def _tell(self) -> None:
        self._told_at, task = time.monotonic(), ""
        for end, event in self.simulation.run.events(start=self._offset):
            self._offset = end
            task = event.get("task", task)
        say(f"  {self.messages:,} answers{f', {task}' if task else ''}")


def summarise(simulation: Simulation) -> dict[str, Any]:
    """The result: times for each round, scores as the hospitals released them, and what the certificate says."""
    from gemel.core.arrays import unpack_arrays
    from gemel.server.registry.evaluation import loaded_twin, released_scores
    from gemel.server.registry.twin_versions import read_version, twin_versions
    from gemel.synthetic.releases import travelling
    from gemel.twins.installed import find

    run, study = simulation.run, simulation.study
    certificate = run.certificate
    payload = certificate.payload if certificate is not None else {}
    versions, scores = twin_versions(run), None
    if versions:
        programme = find(study.programme, study.programme_version)
        content = read_version(run, versions[-1])
        twin = loaded_twin(study, unpack_arrays(content, travelling(programme, study.strategy)))
        scores = released_scores(run, study, twin) if twin is not None else None
    spent = [s["epsilon_spent"] for s in payload.get("sites", {}).values() if "epsilon_spent" in s]
    return {
        "virtual": True,
        "hospitals": len(study.sites),
        "patients": simulation.patients,
        "study": {"study_id": study.study_id, "sha256": study.sha256, "epsilon": study.privacy.epsilon},
        "tasks": [_task_line(entry) for entry in payload.get("tasks", [])],
        "scores": scores,
        "certificate": {
            "status": payload.get("status", ""),
            "code": payload.get("code", ""),
            "sha256": certificate.payload_sha256 if certificate is not None else "",
            "epsilon_spent_most": max(spent, default=0.0),
            "missing": sum(len(entry["missing"]) for entry in payload.get("tasks", [])),
        },
        "seconds": {"settle": round(simulation.settle_s, 2), "run": round(simulation.run_s, 2)},
        "answers": simulation.messages,
        "ms_per_answer": round(1000 * simulation.run_s / max(1, simulation.messages), 3),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def _task_line(entry: Mapping[str, Any]) -> dict[str, Any]:
    sites = len(entry["contributions"])
    return {
        "task": entry["task"],
        "sites": sites,
        "missing": len(entry["missing"]),
        "seconds": entry["seconds"],
        "ms_per_site": round(1000 * entry["seconds"] / max(1, sites), 2),
        "bytes": entry["bytes"],
    }


def render(console: Console, result: Mapping[str, Any]) -> None:
    """The result as tables."""
    console.print(
        f"{result['hospitals']:,} virtual hospitals, {result['patients']:,} patients: nothing here was said by a hospital."
    )
    tasks = table("task", ">hospitals", ">missing", ">seconds", ">ms each", ">bytes")
    for line in result["tasks"]:
        tasks.add_row(
            line["task"],
            f"{line['sites']:,}",
            str(line["missing"]),
            f"{line['seconds']:.2f}",
            f"{line['ms_per_site']:.1f}",
            f"{line['bytes']:,}",
        )
    console.print(tasks)
    if result["scores"]:
        scores = table("endpoint", "score", ">value", ">± error")
        for outcome, of in result["scores"].items():
            for name, score in of.items():
                scores.add_row(outcome, name, f"{score['value']:.3f}", f"{score['standard_error']:.3f}")
        console.print(scores)
    certificate, seconds = result["certificate"], result["seconds"]
    console.print(
        f"certificate: {certificate['status']} {certificate['code']}".rstrip()
        + f", at most ε {certificate['epsilon_spent_most']:.4f} of {result['study']['epsilon']:g} spent at a hospital"
    )
    console.print(
        f"{seconds['settle']:.1f} s to set up, {seconds['run']:.1f} s for {result['answers']:,} answers"
        f" ({result['ms_per_answer']:.1f} ms each), {result['peak_memory_mb']:,} MB at most"
    )


def keep(simulation: Simulation, out: Path) -> list[Path]:
    """Write study, certificate, the last twin and what virtual cohorts are drawn from into a folder; returns the files."""
    from gemel.core.synthesis_plan import ROUNDS
    from gemel.server.registry.twin_versions import read_version, twin_versions

    out.mkdir(parents=True, exist_ok=True)
    run, written = simulation.run, [out / "study.json", out / "certificate.json"]
    written[0].write_bytes(run.study.to_bytes())
    certificate = run.certificate
    if certificate is not None:
        written[1].write_bytes(certificate.to_bytes())
    versions = twin_versions(run)
    if versions:
        written.append(out / "twin.safetensors")
        written[-1].write_bytes(read_version(run, versions[-1]))
    synthesis = run.synthesis_path(ROUNDS[-1])
    if synthesis.exists():
        written.append(out / synthesis.name)
        written[-1].write_bytes(synthesis.read_bytes())
    return written


def simulate(
    study: Annotated[
        Path, typer.Argument(metavar="STUDY.json", help="A study, signed or not.", show_default=False)
    ],
    *,
    hospitals: Annotated[int, typer.Option(min=1, max=100_000, help="Virtual hospitals.")] = 10,
    export: Annotated[
        list[Path] | None,
        typer.Option(
            "--export", metavar="DIR", help="FHIR export whose patients are divided. May be repeated."
        ),
    ] = None,
    split: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help='Who goes where: {"hospital": ["patient id", …]}, of one export.'),
    ] = None,
    patients: Annotated[
        int, typer.Option(min=2, help="Made-up patients of each hospital, when there is no export.")
    ] = PATIENTS_EACH,
    minimum_patients: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Replace the study's floor on people.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the division and of made-up patients; never of noise.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Keep study, certificate, twin and what cohorts are drawn from here.",
        ),
    ] = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Try a study on many virtual hospitals on this machine.

    The same ServerApp and ClientApp as in a federation: gate, ledger, noise and certificate are real, homes and keys are
    thrown away. Without --export the patients are made up, and the scores mean nothing.
    """
    with failures(output):
        from gemel.cli.virtual_hospitals import read_study

        read = read_study(study)
        parts = _parts(read, hospitals, export or [], split, patients=patients, seed=seed)
        say(f"{len(parts):,} virtual hospitals, {len(read.tasks)} tasks …")
        with simulated(read, parts, minimum_patients=minimum_patients, seed=seed) as simulation:
            result = summarise(simulation)
            if out is not None:
                result["files"] = [str(path) for path in keep(simulation, out)]
        result["patients_from"] = "exports" if export else "made up"
        emit(result, output, render=lambda console: render(console, result))
        if simulation.code:
            raise typer.Exit(1)


def _parts(
    study: Study, hospitals: int, exports: list[Path], split: Path | None, *, patients: int, seed: int
) -> dict[str, Dataset]:
    """Each virtual hospital's patients."""
    from gemel.cli.virtual_hospitals import (
        divide,
        divide_by_list,
        read_exports,
        site_names,
        virtual_key,
    )
    from gemel.core.errors import GemelError
    from gemel.data_adapters.dataset.build import build
    from gemel.twins.installed import find

    programme = find(study.programme, study.programme_version)
    if split is not None:
        if len(exports) != 1:
            raise GemelError("GEM530", "--split divides the patients of one --export.")
        key = virtual_key(seed, "export 0")
        dataset, _ = build(exports[0], programme, pseudonym_key=key)
        return divide_by_list(dataset, split, key)
    if exports:
        parts = read_exports(exports, programme, hospitals, seed=seed)
    else:
        from gemel.client_node.audit.people import made_up_dataset

        made_up = made_up_dataset(programme, patients=hospitals * patients, seed=seed)
        parts = divide(made_up, hospitals, seed=seed)
    return dict(zip(site_names(hospitals), parts, strict=True))
