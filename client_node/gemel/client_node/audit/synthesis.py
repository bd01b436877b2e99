"""The rounds of virtual cohorts under attack: the node's own tasks, over made-up patients of several hospitals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from gemel.client_node.audit.people import made_up_dataset
from gemel.client_node.tasks import compute
from gemel.core.arrays import Arrays
from gemel.core.dataset import Dataset
from gemel.core.mechanism import Share
from gemel.core.programme import Programme
from gemel.core.study import AggregationPlan, Study
from gemel.core.synthesis_plan import ROUNDS
from gemel.privacy.accounting import epsilon
from gemel.privacy.audit.report import Check
from gemel.privacy.noise import NoiseSource
from gemel.synthetic.domain import domain_of
from gemel.synthetic.report.attacks import mechanism
from gemel.synthetic.report.attacks.federation import Neighbours, Subject, Task

ATTACK = "virtual cohorts"
_HOSPITALS, _PATIENTS, _LEFT_OUT = 3, 60, 6


def attack(programme: Programme, template: Study, *, releases: int, seed: int = 0) -> Iterator[Check]:
    """The checks of `report.attacks.mechanism` on this node's tasks; the canaries' with so many releases, or not at all."""
    subject = subject_of(programme, template, seed=seed)
    for check in mechanism.attack(subject, releases=releases):
        yield replace(check, attack=ATTACK)
    if releases:
        for check in mechanism.control(subject, releases=releases):
            yield replace(check, attack=ATTACK)


def subject_of(programme: Programme, template: Study, *, seed: int) -> Subject[Dataset]:
    """Made-up hospitals under the template, whose releases are seen one by one; a person is at as many as it says."""
    study = msgspec.structs.replace(template, aggregation=AggregationPlan())
    sites, domain = study.synthesis.sites_of_a_person, domain_of(programme)
    count = max(_HOSPITALS, sites)
    everybody, canary, held_out = _people(programme, count * _PATIENTS, seed)
    others = np.setdiff1d(np.arange(len(everybody)), (canary, held_out))
    parts = [others[number::count] for number in range(count)]
    hospitals = tuple(everybody.take(part) for part in parts)
    with_canary = tuple(
        _with(everybody, part, canary) if number < sites else hospital
        for number, (part, hospital) in enumerate(zip(parts, hospitals, strict=True))
    )
    neighbours = [Neighbours(hospitals[0], with_canary[0], counted=True)]
    neighbours += [
        Neighbours(everybody.take(np.delete(parts[0], n)), hospitals[0], counted=True)
        for n in _counted(everybody.take(parts[0]))[:_LEFT_OUT]
    ]
    neighbours.append(Neighbours(hospitals[0], _with(everybody, parts[0], held_out), counted=False))
    price = [m for task in ROUNDS for m in study.charge(task).mechanisms]
    return Subject(
        study,
        domain,
        hospitals,
        with_canary,
        tuple(neighbours),
        epsilon(price, delta=study.privacy.delta),
        study.privacy.delta,
        lambda whole: _task(study, programme, whole),
        lambda dataset: domain.encode(dataset.split()[0]),
    )


def _task(study: Study, programme: Programme, whole: float) -> Task[Dataset]:
    privacy = msgspec.structs.replace(study.privacy, synthesis_noise_multiplier=whole)
    under = msgspec.structs.replace(study, privacy=privacy)

    def carry_out(task: str, _number: int, dataset: Dataset, choice: Arrays, noise: NoiseSource) -> Arrays:
        return compute(
            task, under, programme, dataset=dataset, inputs=choice, noisy_patients=1.0, noise=noise
        )

    return carry_out


def _people(programme: Programme, patients: int, seed: int) -> tuple[Dataset, int, int]:
    """Made-up patients; which of them is the canary, at the upper end of every feature; and one who is held out."""
    made = made_up_dataset(programme, patients=patients, seed=seed)
    canary, held_out = (made.patient_ids.index(made.people()[s][0]) for s in (Share.TRAINING, Share.HELD_OUT))
    values = made.values.copy()
    values[canary] = [feature.high for feature in programme.columns]
    return replace(made, values=values), canary, held_out


def _counted(dataset: Dataset) -> list[int]:
    """The places of those who are not held out."""
    return [dataset.patient_ids.index(name) for name in dataset.people()[Share.TRAINING]]


def _with(everybody: Dataset, part: NDArray[np.intp], one: int) -> Dataset:
    return everybody.take(np.sort(np.append(part, one)))
