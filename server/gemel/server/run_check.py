"""A certificate against the run's folder: every release signed by its site, every hash, every twin made again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from gemel.core.arrays import Arrays, pack_arrays
from gemel.core.canonical import sha256_hex
from gemel.core.certificate import inputs_sha256, read_certificate
from gemel.core.certificate_form import Certificate, Contribution, Task
from gemel.core.errors import GemelError
from gemel.core.messages import Reply, Status, read_reply
from gemel.core.programme import Programme
from gemel.core.signing import SignedDocument, signed_by
from gemel.core.study import Masking, Study
from gemel.core.synthesis_plan import ROUNDS
from gemel.core.trajectory_plan import is_trajectory
from gemel.server.early_stopping import stops
from gemel.server.home import RunFolder, model_name
from gemel.server.mapped import map_arrays
from gemel.server.masked import made_again, mean_of
from gemel.server.strategy import Update
from gemel.server.synthesis import synthesised
from gemel.server.visits import followed
from gemel.synthetic.releases import declared_release, starting_model
from gemel.twins.installed import find

_NOTHING_SHA256 = sha256_hex(b"")


def check_run(document: SignedDocument, folder: Path) -> list[tuple[str, str]]:
    """Check what a certificate says against what the run kept; returns what holds, as (what, detail).

    Args:
        document: A certificate that `check_certificate` found true of itself.
        folder: The run's folder, or a copy.

    Raises:
        GemelError: GEM513 naming the file that is missing, differs, or is not signed by its site.
    """
    certificate, study = read_certificate(document)
    run = RunFolder(folder)
    try:
        _same("study.json", run.study.payload_sha256, certificate.study_sha256)
        releases = sum(_check_task(task, study, run) for task in certificate.tasks)
        for late in certificate.late:
            content = (folder / "late" / late.task / f"{late.site}.json").read_bytes()
            reply = _signed(content, study, late.site, late.task)
            _same(f"late {late.task} of {late.site}", reply.request_sha256, late.request_sha256)
            _same(f"late {late.task} of {late.site}", reply.payload_sha256, late.payload_sha256)
        _check_early_stop(certificate, study)
        twins = _check_twins(certificate, study, run)
        synthesis = [*_check_synthesis(certificate, study, run), *_check_visits(certificate, study, run)]
    except (OSError, GemelError) as error:
        if isinstance(error, GemelError):
            raise error if error.code == "GEM513" else _differs(str(error)) from error
        raise _differs(f"{error.filename}: {error.strerror}") from error
    return [
        ("releases", f"{releases} in the folder, each signed by its site's key and of its hash"),
        ("late", f"{len(certificate.late)} signed by their sites"),
        *twins,
        *synthesis,
    ]


def _check_task(task: Task, study: Study, run: RunFolder) -> int:
    results = {
        f"releases/{task.task}.sum.safetensors": task.sum_sha256,
        "statistics.json": task.statistics_sha256,
        "cross_site.json": task.matrix_sha256,
    }
    for file, told in results.items():
        if told:
            _same(file, sha256_hex((run.folder / file).read_bytes()), told)
    for contribution in task.contributions:
        _check_release(task, contribution, study, run)
    return len(task.contributions)


def _check_synthesis(certificate: Certificate, study: Study, run: RunFolder) -> list[tuple[str, str]]:
    """The pairs that were counted, and what cohorts are drawn from, follow from the sums of the releases."""
    programme = find(study.programme, study.programme_version)
    counted: dict[str, list[str]] = {}
    for task in certificate.tasks:
        if task.task not in ROUNDS:
            continue
        counted[task.task] = sorted(c.site for c in task.contributions)
        made = sha256_hex(pack_arrays(synthesised(run, study, programme, counted)))
        _same(f"{task.task}: what it led to", made, task.synthesis_sha256)
        _same(f"{task.task}: the file", sha256_hex(run.synthesis_path(task.task).read_bytes()), made)
    if not counted:
        return []
    last = (
        "the tree, and what cohorts are drawn from, follow"
        if len(counted) == len(ROUNDS)
        else "choices follow"
    )
    return [("synthesis", f"{len(counted)} rounds: {last} from the releases")]


def _check_visits(certificate: Certificate, study: Study, run: RunFolder) -> list[tuple[str, str]]:
    """Each network of visits, and what trajectories are drawn from, follows from the releases."""
    programme = find(study.programme, study.programme_version)
    weight = _weights(certificate, study, run)
    tasks = [task for task in certificate.tasks if is_trajectory(task.task)]
    for task in tasks:
        sites = sorted(contribution.site for contribution in task.contributions)
        found = followed(run, study, programme, task.task, sites, weight=weight)
        _same(f"{task.task}: what it led to", sha256_hex(pack_arrays(found)), task.synthesis_sha256)
        kept = sha256_hex(run.synthesis_path(task.task).read_bytes())
        _same(f"{task.task}: the file", kept, task.synthesis_sha256)
    return [("visits", f"{len(tasks)} tasks: what each led to follows from the releases")] if tasks else []


def _check_early_stop(certificate: Certificate, study: Study) -> None:
    """Training went on while the losses on record let it, and no longer."""
    losses: list[float] = []
    for task in certificate.tasks:
        if task.loss is None:
            continue
        losses.append(task.loss)
        ended = certificate.early_stop is not None and certificate.early_stop.after == task.task
        last = task.task == [t for t in study.tasks if t.startswith("validate/")][-1]
        if not last or ended:
            _same(f"{task.task}: that training ends", ended, stops(losses, study.pace))


def _check_release(task: Task, told: Contribution, study: Study, run: RunFolder) -> None:
    masked = study.aggregation.masking is Masking.SECURE
    kept = f"{task.task}/attempt-{task.masked_attempt}/mask" if masked else task.task
    got = run.load_envelope(kept, told.site)
    reply = _signed(got.document, study, told.site, task.task)
    where = f"{kept} of {told.site}"
    _same(where, reply.status, Status.RELEASED)
    _same(where, reply.request_sha256, told.request_sha256)
    _same(where, reply.payload_sha256, told.payload_sha256)
    _same(where, reply.epsilon_spent, told.epsilon_spent)
    _same(where, sha256_hex(got.payload), told.payload_sha256)


def _signed(content: bytes, study: Study, site: str, task: str) -> Reply:
    reply, document = read_reply(content)
    if not signed_by(document, study.sites[site]):
        raise _differs(f"the reply of {site} for {task} is not signed with its key")
    _same(f"the reply of {site}", (reply.site, reply.task, reply.study_sha256), (site, task, study.sha256))
    return reply


def _check_twins(certificate: Certificate, study: Study, run: RunFolder) -> list[tuple[str, str]]:
    """Each twin's file has the hash on record, and follows from the releases by the study's strategy."""
    if not certificate.start_model_sha256:
        return []
    hashes = {0: certificate.start_model_sha256}
    for task in certificate.tasks:
        if task.version is not None:
            hashes[task.version] = task.model_sha256
        hashes |= {version.version: version.model_sha256 for version in task.versions or ()}
    for version, sha256 in hashes.items():
        file = run.folder / f"{model_name(version)}.safetensors"
        _same(file.name, sha256_hex(file.read_bytes()), sha256)
    made = _make_again(certificate, study, run)
    return [
        ("twins", f"{len(hashes)} files, each of its hash"),
        ("made again", f"{made} twins from the kept releases, bit for bit"),
    ]


def _make_again(certificate: Certificate, study: Study, run: RunFolder) -> int:
    from gemel.server.flower.strategies import strategy_of  # brings Flower

    programme = find(study.programme, study.programme_version)
    strategy = strategy_of(study)
    model: Arrays = starting_model(study, programme)
    memory, made = strategy.start(model), 0
    _same("the start", sha256_hex(pack_arrays(model)), certificate.start_model_sha256)
    if study.aggregation.masking is Masking.SECURE:
        moves = _masked_moves(certificate, study, run, programme)
    else:
        moves = _moves(certificate, study, run)
    for sha256, came in moves:
        if isinstance(came, list):
            model, memory = strategy.aggregate(model, came, memory)
        else:
            model, memory = strategy.aggregate_total(model, came, memory)
        made += 1
        _same(f"the twin of move {made}", sha256_hex(pack_arrays(model)), sha256)
    return made


# The hash of the twin that a move made, and what it was made of: updates, or the mean of a masked sum.
_Move = tuple[str, list[Update] | Arrays]


def _masked_moves(
    certificate: Certificate, study: Study, run: RunFolder, programme: Programme
) -> Iterator[_Move]:
    """Lift the masks of each task again, from the answers that were kept in each of its steps."""
    twins = {_NOTHING_SHA256: b""}
    for name in {0, *(task.version for task in certificate.tasks if task.version is not None)}:
        content = (run.folder / f"{model_name(name)}.safetensors").read_bytes()
        twins[sha256_hex(content)] = content
    for task in certificate.tasks:
        if task.synthesis_sha256:
            twins[task.synthesis_sha256] = run.synthesis_path(task.task).read_bytes()
    for task in certificate.tasks:
        for step, sites in task.masked_steps.items():
            for site in sites:
                kept = run.load_envelope(f"{task.task}/attempt-{task.masked_attempt}/{step}", site)
                _signed(kept.document, study, site, task.task)
        total = made_again(
            run,
            study,
            task.task,
            declared_release(task.task, programme, study=study),
            inputs=twins[inputs_sha256(task, certificate, study) or _NOTHING_SHA256],
            attempt=task.masked_attempt,
            steps=task.masked_steps,
        )
        told = {c.site: c.inputs_sha256 for c in task.contributions}
        _same(f"{task.task}: what was sent", total.inputs_sha256, told)
        if task.version is not None:
            yield task.model_sha256, mean_of(total.arrays)
        else:
            _same(f"{task.task}: the sum", sha256_hex(pack_arrays(total.arrays)), task.sum_sha256)


def _moves(certificate: Certificate, study: Study, run: RunFolder) -> Iterator[_Move]:
    weight = _weights(certificate, study, run)

    def update(label: str, site: str, task: str, started_from: int, staleness: int) -> Update:
        start = map_arrays(run.folder / f"{model_name(started_from)}.safetensors")
        return Update(label, run.map_release(task, site), weight(site), start, staleness)

    for task in certificate.tasks:
        if task.version is not None:
            sites = sorted(c.site for c in task.contributions)
            yield task.model_sha256, [update(s, s, task.task, task.version - 1, 0) for s in sites]
        for version in task.versions or ():
            yield (
                version.model_sha256,
                [
                    update(f"{p.site}/{p.task}", p.site, p.task, p.started_from, p.staleness)
                    for p in version.contributions
                ],
            )


def _weights(certificate: Certificate, study: Study, run: RunFolder) -> Callable[[str], float]:
    """A site's weight, as `Outcomes.weight` has it."""
    floor = float(study.minimum_patients)
    counted = {c.site for t in certificate.tasks if t.task == "count" for c in t.contributions}

    def weight(site: str) -> float:
        if site not in counted:
            return floor
        return max(floor, float(run.map_release("count", site)["patients"][0]))

    return weight


def _same(where: str, found: object, told: object) -> None:
    if found != told:
        raise _differs(f"{where}: found {found}, the certificate says {told}")


def _differs(what: str) -> GemelError:
    return GemelError("GEM513", f"The run's folder differs from its certificate: {what}.")
