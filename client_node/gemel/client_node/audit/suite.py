"""The node's part of the audit, on a throwaway node: gate, ledger and releases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

from gemel.client_node.audit import accounts, gate, releases, synthesis
from gemel.client_node.audit.people import made_up_dataset
from gemel.client_node.audit.throwaway import Throwaway, throwaway_node
from gemel.core.programme import Programme
from gemel.core.study import Study
from gemel.privacy.audit import described
from gemel.privacy.audit.report import Check, carry_out
from gemel.privacy.audit.subject import Subject, one_thread
from gemel.twins.installed import make_twin

_Attack = Callable[[Throwaway, Study], Iterable[Check]]
_ATTACKS: tuple[tuple[str, _Attack], ...] = (
    (gate.ATTACK, gate.attack),
    (accounts.ATTACK, accounts.attack),
    (releases.ATTACK, releases.attack),
)


def subject_of(programme: Programme, study: Study, *, patients: int, seed: int) -> Subject:
    """A programme's twin with made-up patients, as a subject of the privacy room's attacks."""
    dataset = made_up_dataset(programme, patients=patients, seed=seed)
    name = f"the twin of {programme.name}"
    tensors = make_twin(programme).tensors(dataset)
    features = "columns" if "columns" in tensors else ""
    return Subject(
        name, partial(make_twin, programme), tensors, study.training, study.privacy.delta, features
    )


def examine(programme: Programme, template: Study, *, canaries: int = 0, seed: int = 0) -> Iterator[Check]:
    """Attack a throwaway node that runs the programme under studies like the template; each check as it is done.

    The rounds of virtual cohorts are released so many times with and without a canary, besides what needs few releases.
    """
    people = made_up_dataset(programme, patients=40, seed=seed)
    yield from carry_out(described.ATTACK, partial(described.attack, people, template.statistics))
    rounds = partial(synthesis.attack, programme, template, releases=canaries, seed=seed)
    yield from carry_out(synthesis.ATTACK, rounds)
    with one_thread(), gate.quiet_log(), throwaway_node(programme, seed=seed) as node:
        for name, attack in _ATTACKS:
            yield from carry_out(name, partial(attack, node, template))
