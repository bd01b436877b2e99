"""Faults planted in the node, each a small one that somebody could make: the audit of a throwaway node finds them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pytest

from gemel.client_node import gate as node_gate
from gemel.client_node import node as node_module
from gemel.client_node import outbox, patients, tasks
from gemel.client_node.audit import accounts, gate, releases, synthesis
from gemel.client_node.audit.studies import usual_study
from gemel.client_node.audit.throwaway import Throwaway, throwaway_node
from gemel.client_node.home import NodeHome
from gemel.core import arrays as core_arrays
from gemel.core.dataset import Dataset
from gemel.core.mechanism import mechanisms_by_patient
from gemel.core.study import Study
from gemel.privacy import accounting
from gemel.privacy.audit.report import Check, carry_out
from gemel.privacy.ledger import Ledger, LedgerEntry
from gemel.synthetic import protocol
from gemel.synthetic.anchored_tree.scores import Scoring
from gemel.twins.programmes.fatty_liver import PROGRAMME

Attack = Callable[[Throwaway, Study], Iterable[Check]]
Patch = pytest.MonkeyPatch


@pytest.fixture(scope="module")
def study() -> Study:
    usual = usual_study(PROGRAMME)
    # Two rounds are enough for what is asked here.
    return msgspec.structs.replace(usual, training=msgspec.structs.replace(usual.training, rounds=2))


@pytest.fixture(scope="module")
def lender() -> Iterator[Throwaway]:
    """A node that lends its made-up patients to the others; nothing is ever asked of it."""
    with throwaway_node(PROGRAMME) as node:
        yield node


@pytest.fixture
def node(lender: Throwaway) -> Iterator[Throwaway]:
    with gate.quiet_log(), throwaway_node(PROGRAMME, like=lender) as fresh:
        yield fresh


# --- ledger --------------------------------------------------------------------------------------


def _pretend(ledger: Ledger, study_sha256: str, task: str, request_sha256: str, snapshot: str) -> LedgerEntry:
    """The entry that a task would get, without its being written."""
    entry = ledger.entries()[-1]
    return msgspec.structs.replace(
        entry,
        kind="begun",
        study_sha256=study_sha256,
        task=task,
        request_sha256=request_sha256,
        snapshot=snapshot,
    )


def the_ledger_is_charged_after_computing(patch: Patch) -> None:
    begin, charged, record = Ledger.begin, Ledger.charged, Ledger.record_release
    waiting: dict[tuple[str, str], tuple[LedgerEntry, dict[str, Any]]] = {}

    def later(self: Ledger, **asked: Any) -> LedgerEntry:
        entry = _pretend(self, **asked)
        waiting[entry.study_sha256, entry.task] = (entry, asked)
        return entry

    def then(self: Ledger, entry: LedgerEntry, *, release_sha256: str) -> LedgerEntry:
        _, asked = waiting.pop((entry.study_sha256, entry.task), (None, None))
        return record(self, begin(self, **asked) if asked else entry, release_sha256=release_sha256)

    def admitted(arrays: Any, declared: Any, **_named: Any) -> None:
        core_arrays.check_arrays(arrays, declared)

    patch.setattr(Ledger, "begin", later)
    patch.setattr(Ledger, "record_release", then)
    patch.setattr(node_gate, "admit_release", admitted)
    assert charged is Ledger.charged


def metrics_are_released_without_a_charge(patch: Patch) -> None:
    begin, record = Ledger.begin, Ledger.record_release

    def free(self: Ledger, **asked: Any) -> LedgerEntry:
        return _pretend(self, **asked) if asked["task"] == "evaluate" else begin(self, **asked)

    def unrecorded(self: Ledger, entry: LedgerEntry, *, release_sha256: str) -> LedgerEntry:
        return entry if entry.task == "evaluate" else record(self, entry, release_sha256=release_sha256)

    patch.setattr(Ledger, "begin", free)
    patch.setattr(Ledger, "record_release", unrecorded)
    patch.setattr(node_gate, "admit_release", lambda arrays, declared, **_: None)


def the_accountant_is_reset_each_round(patch: Patch) -> None:
    """Rounds cost the same, and what costs the same is taken for one and the same."""

    def once(charges: Any) -> Any:
        paid = mechanisms_by_patient(charges)
        return {share: tuple(dict.fromkeys(mechanisms)) for share, mechanisms in paid.items()}

    patch.setattr(accounting, "mechanisms_by_patient", once)


def delta_follows_the_exact_count(patch: Patch) -> None:
    def opened(self: NodeHome) -> Ledger:
        people = len((self.export / "Patient.ndjson").read_bytes().splitlines())
        return Ledger.open(
            self.folder / "ledger.sqlite",
            key=self.key,
            site=self.config.site,
            epsilon_cap=self.config.epsilon_cap,
            delta=0.1 / people,
        )

    patch.setattr(NodeHome, "open_ledger", opened)


def a_failed_task_is_given_back(patch: Patch) -> None:
    """What is charged is forgotten when computing fails: budget for nothing, one would think."""
    compute, charged = node_module._compute, Ledger.charged
    failed: set[str] = set()

    def forget(home: Any, ledger: Any, work: Any, *args: Any, **named: Any) -> Any:
        try:
            return compute(home, ledger, work, *args, **named)
        except BaseException:
            failed.add(work.study.sha256)
            raise

    patch.setattr(node_module, "_compute", forget)
    patch.setattr(
        Ledger, "charged", lambda self, study, task: None if study in failed else charged(self, study, task)
    )


# --- releases ------------------------------------------------------------------------------------


def a_retry_draws_anew(patch: Patch) -> None:
    patch.setattr(outbox, "get", lambda *_args: None)
    patch.setattr(Ledger, "released", lambda *_args: None)
    patch.setattr(Ledger, "record_release", lambda self, entry, **_named: entry)


def what_is_kept_is_kept_after_sending(patch: Patch) -> None:
    """A crash after computing leaves nothing, and the retry computes again."""
    put, get = outbox.put, outbox.get
    late: dict[str, Any] = {}

    def unkept(home: Any, request_sha256: str, envelope: Any) -> None:
        late[request_sha256] = envelope
        put(home, request_sha256, envelope)
        (home.folder / "outbox" / f"{request_sha256}.json").unlink()

    def kept(home: Any, request_sha256: str) -> Any:
        return get(home, request_sha256)

    patch.setattr(outbox, "put", unkept)
    patch.setattr(outbox, "get", kept)
    patch.setattr(Ledger, "released", lambda *_args: None)
    patch.setattr(Ledger, "record_release", lambda self, entry, **_named: entry)


def the_true_count_is_the_divisor(patch: Patch) -> None:
    def exact(home: NodeHome, *_args: Any) -> float:
        return float(len(patients.load(home, PROGRAMME)))

    patch.setattr(node_module, "_own_count", exact)


def tables_leave_without_noise(patch: Patch) -> None:
    patch.setattr(tasks, "noisy_counts", lambda counts, **_named: counts)


def tables_take_sigma_for_a_variance(patch: Patch) -> None:
    noisy = tasks.noisy_counts
    for module in (tasks, protocol):
        patch.setattr(
            module,
            "noisy_counts",
            lambda counts, *, noise_multiplier, noise: noisy(
                counts, noise_multiplier=noise_multiplier**0.5, noise=noise
            ),
        )


def training_uses_half_of_the_noise(patch: Patch) -> None:
    trainer = tasks.DpTrainer

    def quieter(plan: Any, **named: Any) -> Any:
        return trainer(msgspec.structs.replace(plan, noise_multiplier=plan.noise_multiplier / 2), **named)

    patch.setattr(tasks, "DpTrainer", quieter)


def a_patient_counts_once_for_each_visit(patch: Patch) -> None:
    count = protocol.count_round

    def twice(*arguments: Any, **named: Any) -> Any:
        return [(table * 2, sigma) for table, sigma in count(*arguments, **named)]

    patch.setattr(protocol, "count_round", twice)


# --- gate ----------------------------------------------------------------------------------------


def anybody_may_ask(patch: Patch) -> None:
    patch.setattr(node_module, "signed_by", lambda *_args: True)


def nobody_looks_at_what_leaves(patch: Patch) -> None:
    patch.setattr(node_gate, "check_arrays", lambda *_args: None)


def values_that_are_not_finite_may_leave(patch: Patch) -> None:
    def lenient(arrays: Any, declared: Any) -> None:
        core_arrays.check_arrays({name: np.nan_to_num(array) for name, array in arrays.items()}, declared)

    patch.setattr(node_gate, "check_arrays", lenient)


def approval_is_not_asked_for(patch: Patch) -> None:
    from gemel.client_node.approvals import Approval, Decision

    def granted(study_sha256: str, approval: Any) -> Any:
        if approval is not None:
            return msgspec.structs.replace(approval, decision=Decision.APPROVED)
        named = {"site": "", "steward": "", "reason": "", "decided_at": "", "snapshot": ""}
        return Approval(study_sha256=study_sha256, decision=Decision.APPROVED, **named)

    patch.setattr(node_gate, "admit_approved", granted)
    patch.setattr(node_gate, "admit_data", lambda *_args, **_named: None)


def changed_data_are_not_noticed(patch: Patch) -> None:
    patch.setattr(node_gate, "admit_data", lambda *_args, **_named: None)
    patch.setattr(node_module, "_reserve", _reserved_whatever_the_data)


def _reserved_whatever_the_data(ledger: Ledger, study: Study, dataset: Any) -> LedgerEntry:
    return ledger.reserved(study.sha256) or ledger.reserve(
        study_sha256=study.sha256,
        programme=f"{study.programme}@{study.programme_version}",
        snapshot=dataset.snapshot,
        charges=study.charges(),
        people=dataset.people(),
    )


def the_studys_own_price_is_believed(patch: Patch) -> None:
    patch.setattr(node_gate, "admit_price", lambda *_args, **_named: None)


# --- virtual cohorts -----------------------------------------------------------------------------


def held_out_patients_are_in_the_virtual_cohort(patch: Patch) -> None:
    split = Dataset.split

    def everybody(self: Dataset, **asked: Any) -> tuple[Dataset, Dataset]:
        return self, split(self, **asked)[1]

    patch.setattr(Dataset, "split", everybody)


def rounds_of_virtual_cohorts_take_half_of_the_noise(patch: Patch) -> None:
    noisy = protocol.noisy_counts

    def quieter(counts: Any, *, noise_multiplier: float, noise: Any) -> Any:
        return noisy(counts, noise_multiplier=noise_multiplier / 2, noise=noise)

    patch.setattr(protocol, "noisy_counts", quieter)


def a_score_moves_twice_as_far_as_it_is_charged_for(patch: Patch) -> None:
    count = Scoring.count
    patch.setattr(Scoring, "count", lambda self, codes: [2 * table for table in count(self, codes)])


def attack_synthesis(node: Throwaway, study: Study) -> Iterator[Check]:
    """What needs few releases."""
    return synthesis.attack(node.programme, study, releases=0)


@dataclass(frozen=True)
class Mutant:
    """A fault and the attack that has to find it."""

    plant: Callable[[Patch], None]
    found_by: Attack
    also: bool = False  # the like of another: run with the heavy tests

    @property
    def name(self) -> str:
        return self.plant.__name__.replace("_", " ")


def forging(what: str) -> Attack:
    """One forgery of the gate's attack, without the others: they take a while."""
    return lambda node, study: [gate.attempt(node, study, gate.forgery(what))]


MUTANTS = (
    Mutant(the_ledger_is_charged_after_computing, accounts.attack_order),
    Mutant(metrics_are_released_without_a_charge, accounts.attack_order),
    Mutant(a_failed_task_is_given_back, accounts.attack_order),
    Mutant(the_accountant_is_reset_each_round, accounts.attack_composition),
    Mutant(delta_follows_the_exact_count, accounts.attack_neighbours),
    Mutant(a_retry_draws_anew, gate.attack_replay),
    Mutant(what_is_kept_is_kept_after_sending, accounts.attack_crash, also=True),
    Mutant(the_true_count_is_the_divisor, releases.attack_update),
    Mutant(training_uses_half_of_the_noise, releases.attack_update, also=True),
    Mutant(tables_leave_without_noise, releases.attack_tables),
    Mutant(tables_take_sigma_for_a_variance, releases.attack_tables, also=True),
    Mutant(a_patient_counts_once_for_each_visit, releases.attack_sensitivity),
    Mutant(anybody_may_ask, forging("a request by an unknown coordinator")),
    Mutant(nobody_looks_at_what_leaves, forging("an extra array in an update")),
    Mutant(values_that_are_not_finite_may_leave, forging("NaN in an update")),
    Mutant(approval_is_not_asked_for, forging("a task of a study that waits for the steward")),
    Mutant(changed_data_are_not_noticed, forging("patients that differ from those approved")),
    Mutant(the_studys_own_price_is_believed, forging("a study that understates its price")),
    Mutant(held_out_patients_are_in_the_virtual_cohort, attack_synthesis),
    Mutant(rounds_of_virtual_cohorts_take_half_of_the_noise, attack_synthesis),
    Mutant(a_score_moves_twice_as_far_as_it_is_charged_for, attack_synthesis),
)
ATTACKS = (gate.attack_replay, accounts.attack_crash, releases.attack, attack_synthesis)
WHOLE = (gate.attack, accounts.attack)


@pytest.mark.heavy
@pytest.mark.parametrize("attack", WHOLE, ids=lambda attack: attack.__module__.rsplit(".", 1)[1])
def test_the_whole_audit_passes_a_sound_node(attack: Attack, node: Throwaway, study: Study) -> None:
    checks = list(carry_out("sound", lambda: attack(node, study)))
    assert [check for check in checks if not check.passed] == []


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__module__.rsplit(".", 1)[1])
def test_the_audit_passes_a_sound_node(attack: Attack, node: Throwaway, study: Study) -> None:
    checks = list(carry_out("sound", lambda: attack(node, study)))
    assert [check for check in checks if not check.passed] == []


@pytest.mark.parametrize(
    "mutant",
    [pytest.param(mutant, marks=pytest.mark.heavy if mutant.also else ()) for mutant in MUTANTS],
    ids=lambda mutant: mutant.name,
)
def test_the_audit_finds(
    mutant: Mutant, node: Throwaway, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.dataset()  # read before anything is planted
    mutant.plant(monkeypatch)
    broken = [c for c in carry_out("mutant", lambda: mutant.found_by(node, study)) if not c.passed]
    assert broken, f"{mutant.name}: it survives"
    assert any("carried out to its end" not in check.promise for check in broken)
