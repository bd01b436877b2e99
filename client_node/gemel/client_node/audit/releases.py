"""What left a throwaway node, against the exact numbers behind it: noise, divisor, sensitivity of the tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from gemel.client_node.audit.gate import payload_of
from gemel.client_node.audit.throwaway import Throwaway, a_choice, signed
from gemel.core.dataset import Dataset
from gemel.core.messages import Status
from gemel.core.study import Clipping, Study
from gemel.core.synthesis_plan import ROUNDS
from gemel.privacy.audit.described import spoilt
from gemel.privacy.audit.intervals import FALSE_ALARM, variance_ratio_limits
from gemel.privacy.audit.report import Check
from gemel.privacy.audit.tables import variance_of
from gemel.privacy.secure_aggregation import plan
from gemel.synthetic import protocol
from gemel.synthetic.domain import domain_of
from gemel.twins.installed import make_twin
from gemel.twins.metrics import count_metric_tables

ATTACK = "releases"
# Four fifths of the patients train the twin; the rest are held out by the hash of their pseudonyms.
_TRAINED = 0.8
_ROUNDS = 6
_Tables = Mapping[str, NDArray[np.int64]]
_Changes = Mapping[str, NDArray[Any]]


def attack(node: Throwaway, template: Study) -> Iterator[Check]:
    """Release tables and an update, and compare them with what the node computed them from."""
    for one in (attack_tables, attack_update, attack_sensitivity):
        yield from one(node, template)


def attack_tables(node: Throwaway, template: Study) -> Iterator[Check]:
    """Release every table and look at the noise that is left over its exact numbers."""
    study = node.study(template, study_id="tables")
    document = signed(study)
    node.approve(document)
    released = {}
    for task in ("count", "evaluate", *ROUNDS[:2]):
        reply, got = node.ask(document, task)
        if reply.status is not Status.RELEASED:
            yield Check(ATTACK, f"{task} is released.", "released", reply.code, passed=False)
            return
        released[task] = payload_of(node, task, got)
    dataset = node.dataset()
    training, held_out = dataset.split()
    twin, privacy = make_twin(node.programme), study.privacy
    prediction = twin.predict(held_out.values)
    tables = count_metric_tables(node.programme, prediction, held_out)
    yield _spread("evaluate", _residual(released["evaluate"], tables), privacy.metrics_noise_multiplier)
    domain, whole = domain_of(node.programme), plan.as_added(study).privacy.synthesis_noise_multiplier
    for task in ROUNDS[:2]:
        choice = a_choice(node.programme, task)
        counted = protocol.count_round(task, domain, domain.encode(training), whole=whole, choice=choice)
        ((name, noisy),) = released[task].items()
        exact = np.concatenate([table.ravel() for table, _ in counted])
        # In units of the smallest σ: tables that a patient changes by more carry more.
        least = min(sigma for _, sigma in counted)
        units = np.concatenate([np.full(table.size, sigma / least) for table, sigma in counted])
        yield _spread(task, _residual({name: noisy}, {name: exact}) / units, least)


def _residual(released: _Tables, exact: _Tables) -> NDArray[np.int64]:
    """What noise was added, cell by cell."""
    return np.concatenate([(released[name].astype(np.int64) - exact[name]).reshape(-1) for name in exact])


def _spread(task: str, residual: NDArray[np.generic], sigma: float) -> Check:
    expected = math.sqrt(variance_of(sigma))
    measured = float(np.sqrt(np.mean(residual.astype(np.float64) ** 2)))
    low, high = (math.sqrt(limit) * expected for limit in variance_ratio_limits(residual.size))
    return Check(
        ATTACK,
        f"The tables of {task} carry the noise that the study pays for.",
        f"{expected:.4g}; {low:.4g} to {high:.4g} allowed",
        f"{measured:.4g}, {residual.size} cells",
        low <= measured <= high,
        numbers={"claimed": expected, "measured": measured},
    )


def attack_update(node: Throwaway, template: Study) -> Iterator[Check]:
    """A round so noisy that the patients are lost in it: its spread tells noise and divisor.

    The count is noisy too, so that the released number of patients is far from the true one: what the node divides by
    is seen.
    """
    z, true = 1000.0, len(node.dataset())
    training = msgspec.structs.replace(
        template.training,
        rounds=_ROUNDS,
        local_steps=4,
        momentum=0.0,
        learning_rate=1.0,
        sample_rate=1.0,
        noise_multiplier=z,
        clipping=Clipping.FLAT,
        quantile_noise_multiplier=0.0,
    )
    privacy = msgspec.structs.replace(template.privacy, count_noise_multiplier=true / 2)
    for attempt in range(20):
        study = node.study(template, study_id=f"update-{attempt}", training=training, privacy=privacy)
        document = signed(study)
        node.approve(document)
        counted = payload_of(node, "count", node.ask(document, "count")[1])["patients"]
        public = float(counted[0])
        # Far from the truth on either side, and not so small that the study's own floor stops it.
        if public > 5 and abs(math.log(public / true)) > 0.4:
            break
    before = make_twin(node.programme).to_arrays()
    rounds = [f"train/{number + 1}" for number in range(_ROUNDS)]
    updates = [payload_of(node, task, node.ask(document, task)[1]) for task in rounds]
    moved = np.concatenate([(after[name] - before[name]).reshape(-1) for after in updates for name in before])
    one = training.learning_rate * z * training.max_grad_norm * math.sqrt(training.local_steps) / _TRAINED
    implied = one / float(np.sqrt(np.mean(moved.astype(np.float64) ** 2)))
    low, high = (public * math.sqrt(limit) for limit in variance_ratio_limits(moved.size, alpha=FALSE_ALARM))
    yield Check(
        ATTACK,
        "An update carries the noise that the study pays for, over the released number of patients.",
        f"{public:.0f} patients; {low:.1f} to {high:.1f} allowed",
        f"{implied:.1f}, from {moved.size} parameters (there are {true}, made up)",
        low <= implied <= high,
        numbers={"claimed": public, "measured": implied, "true": true},
    )


def attack_sensitivity(node: Throwaway, _template: Study) -> Iterator[Check]:
    """Take each patient out, and put worst-case ones in: no table moves by more than one in one cell."""
    dataset = node.dataset()
    twin = make_twin(node.programme)

    domain = domain_of(node.programme)

    def counted(task: str, some: Dataset) -> list[tuple[NDArray[np.int64], float]]:
        choice = a_choice(node.programme, task)
        return protocol.count_round(task, domain, domain.encode(some), whole=1.0, choice=choice)

    def levels(some: Dataset) -> _Changes:
        return _named(table for table, _ in counted(ROUNDS[0], some))

    def scores(some: Dataset) -> _Changes:
        # Each has so many times the noise of a count as a patient may change it.
        one = protocol.synthesis_plan(domain).mechanism(ROUNDS[1], 1.0).noise_multiplier
        return _named(table * (one / sigma) for table, sigma in counted(ROUNDS[1], some))

    def tables(some: Dataset) -> _Changes:
        return _named(table for table, _ in counted(ROUNDS[2], some))

    def metrics(some: Dataset) -> _Changes:
        return count_metric_tables(node.programme, twin.predict(some.values), some)

    for name, count in (("levels", levels), ("scores", scores), ("tables", tables), ("metrics", metrics)):
        worst = max(_furthest(count, some) for some in (dataset, spoilt(dataset)))
        yield Check(
            ATTACK,
            f"One patient changes each of the {name} by at most one, in units of its noise.",
            "2-norm <= 1",
            f"{worst:.4g}",
            worst <= 1 + 1e-9,
            numbers={"claimed": 1.0, "measured": worst},
        )


def _named(tables: Iterable[NDArray[Any]]) -> _Changes:
    return {str(number): table for number, table in enumerate(tables)}


def _furthest(count: Callable[[Dataset], _Changes], dataset: Dataset, *, tried: int = 24) -> float:
    whole = count(dataset)
    worst = 0.0
    for left_out in range(min(tried, len(dataset))):
        rest = count(dataset.take(np.arange(len(dataset)) != left_out))
        for name, table in whole.items():
            worst = max(worst, float(np.linalg.norm((table - rest[name]).astype(np.float64))))
    return worst
