"""A node's part in masked releases: what is computed once is masked, attempt by attempt, until it is in a sum.

Beside the state of the protocol, a task's gated release is kept in the same folder, for its owner only: one charge pays
for one draw of noise, whatever the number of attempts. Both are gone once it is unmasked; of the count the hospital
keeps its own copy, which its training divides by.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gemel.client_node.home import NodeHome
from gemel.core.arrays import Arrays, ArraySpec, pack_arrays, unpack_arrays
from gemel.core.canonical import document_hash, sha256_hex
from gemel.core.errors import GemelError
from gemel.core.files import write_durably
from gemel.core.mechanism import kind_of
from gemel.core.messages import Request
from gemel.core.programme import Programme
from gemel.core.study import Study
from gemel.privacy.secure_aggregation import Participant, encoding, plan
from gemel.privacy.secure_aggregation.collector import Step
from gemel.privacy.secure_aggregation.masks import Words
from gemel.privacy.secure_aggregation.wire import pack_parts, unpack_parts
from gemel.synthetic.releases import check_strategy, declared_release

Compute = Callable[[bytes], tuple[Arrays, float]]
COUNT = "count"
VECTOR, UNMASKING = (step.name.lower() for step in (Step.MASK, Step.UNMASK))


def admit_request(study: Study, request: Request) -> None:
    """Refuse (GEM320) an unmasked request of a masked study, a masked one of another, and steps that are none."""
    steps = {step.name.lower() for step in Step}
    if plan.is_masked(study) != bool(request.phase) or (request.phase and request.phase not in steps):
        raise GemelError("GEM320", f"The study is not asked for {request.phase or 'plain releases'!r}.")


def admit_plan(study: Study, programme: Programme) -> None:
    """Refuse a study whose strategy, masks or shares of noise cannot be as it says (GEM305, GEM322, GEM324, GEM340)."""
    check_strategy(programme, study.strategy)
    if plan.is_masked(study):
        plan.check_noise(study)
        for task in {kind_of(task): task for task in study.tasks}.values():  # one round stands for all
            declared = declared_release(task, programme, study=study)
            plan.context_of(study, task, declared, attempt=1)


def charged_as(study: Study, task: str, inputs: bytes) -> str:
    """What stands in the ledger for a request: the same for every attempt, another one for other inputs."""
    return document_hash(["masked", study.sha256, task, sha256_hex(inputs)])


def answer(
    home: NodeHome,
    request: Request,
    study: Study,
    content: bytes,
    *,
    declared: dict[str, ArraySpec],
    compute: Compute,
) -> bytes:
    """One step of a task's aggregation.

    Args:
        home: The node's home.
        request: A verified request of an approved study; its `phase` and `attempt` say which step.
        study: The study.
        content: What the coordinator sends for the step; for the vector also the task's inputs.
        declared: The task's release.
        compute: From the task's inputs: the gated release, computed and charged once, and its weight.
    """
    context = plan.context_of(study, request.task, declared, attempt=request.attempt)
    node = Participant(_path(home, study.sha256, request.task, "json"), home.key, home.config.site)
    step = Step[request.phase.upper()]
    if step is Step.ADVERTISE:
        return node.advertise(context)
    if step is Step.SHARE:
        return node.share(context, content)
    if step is Step.CONFIRM:
        return node.confirm(context, content)
    if step is Step.UNMASK:
        return node.unmask(context, content)
    delivery, inputs = unpack_parts(content)
    arrays, weight = compute(inputs)
    words = _words(arrays, weight, declared, sites=len(study.sites))
    return pack_parts(*node.mask(context, delivery, words, inputs_sha256=sha256_hex(inputs)))


def _words(arrays: Arrays, weight: float, declared: dict[str, ArraySpec], *, sites: int) -> Words:
    layout = plan.layout_of(declared, sites=sites)
    if not plan.is_weighted(declared):
        return layout.encode(arrays)
    weight = min(max(weight, 1.0), plan.MOST_PATIENTS)
    return encoding.weighted(layout, arrays, weight=weight, most=plan.MOST_PATIENTS)


def keep(home: NodeHome, study_sha256: str, task: str, arrays: Arrays) -> None:
    """Make a computed, gated release durable: from now on this one is masked, and no other is drawn."""
    write_durably(_path(home, study_sha256, task, "safetensors"), pack_arrays(arrays), mode=0o600)


def kept(home: NodeHome, study_sha256: str, task: str, declared: dict[str, ArraySpec]) -> Arrays | None:
    """The release that was computed for a task, or None. Raises GEM403 when it is damaged."""
    path = _path(home, study_sha256, task, "safetensors")
    return unpack_arrays(path.read_bytes(), declared) if path.exists() else None


def finish(home: NodeHome, study_sha256: str, task: str) -> None:
    """Once a task is unmasked: its release is in the sum, and here no longer needed."""
    if task != COUNT:
        _path(home, study_sha256, task, "safetensors").unlink(missing_ok=True)


def give_up_others(home: NodeHome, study: Study, task: str) -> None:
    """When a task begins, forget the secrets of those before it that this node dropped out of after it was masked.

    That shares were revealed, where they were, stays on record.
    """
    for other in (
        o for o in study.tasks if o != task and _path(home, study.sha256, o, "safetensors").exists()
    ):
        Participant(_path(home, study.sha256, other, "json"), home.key, home.config.site).forget()
        finish(home, study.sha256, other)


def _path(home: NodeHome, study_sha256: str, task: str, suffix: str) -> Path:
    folder = home.folder / "masking"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / f"{study_sha256}.{task.replace('/', '-')}.{suffix}"
