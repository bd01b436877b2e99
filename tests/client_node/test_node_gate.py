"""The door of a node, each condition alone; and that what passes it is noised."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from any_synthesis import a_choice

from gemel.cli.demo.federation import STEWARD, Federation
from gemel.client_node import approvals, gate, patients, tasks
from gemel.client_node.approvals import Decision
from gemel.client_node.home import NodeHome
from gemel.client_node.node import answer
from gemel.core.arrays import ArraySpec, pack_arrays, unpack_arrays
from gemel.core.canonical import sha256_hex
from gemel.core.errors import GemelError
from gemel.core.mechanism import Charge, Mechanism, MechanismKind, Share
from gemel.core.messages import HELLO, Envelope, Reply, Request, read_reply, sign_request
from gemel.core.signing import SigningKey, sign_document
from gemel.core.study import Study
from gemel.core.synthesis_plan import ROUNDS, Measurement
from gemel.data_adapters.dataset.build import pseudonym
from gemel.privacy.engine import DpTrainer
from gemel.privacy.ledger import EntryKind, LedgerEntry
from gemel.privacy.noise import NoiseSource
from gemel.synthetic.domain import domain_of
from gemel.synthetic.protocol import count_round
from gemel.synthetic.releases import declared_release
from gemel.twins.installed import make_twin
from gemel.twins.metrics import count_metric_tables
from gemel.twins.programmes.fatty_liver import PROGRAMME

MakeStudy = Callable[..., Study]
SITE = "beta"
TWIN = pack_arrays(make_twin(PROGRAMME).to_arrays())


def _ask(
    federation: Federation,
    study: Study,
    task: str,
    payload: bytes = b"",
    *,
    hashed: bytes | None = None,
    **config: Any,
) -> tuple[Reply, Envelope]:
    """Ask the node about a study; `config` replaces fields of its configuration."""
    home = federation.nodes[SITE]
    home = NodeHome(home.folder, msgspec.structs.replace(home.config, **config))
    request = Request(
        study_sha256=study.sha256,
        task=task,
        inputs_sha256=sha256_hex(payload if hashed is None else hashed),
    )
    document = sign_document("study", study.to_payload(), SigningKey.generate(), role="proposer")
    signed = sign_request(request, federation.coordinator.key)
    got = answer(home, Envelope(document=signed.to_bytes(), study=document.to_bytes(), payload=payload))
    return read_reply(got.document)[0], got


def _approve(federation: Federation, study: Study) -> None:
    _ask(federation, study, HELLO)
    federation.approve(SITE, study.sha256)


def _charged(federation: Federation) -> list[str]:
    with federation.nodes[SITE].open_ledger() as ledger:
        return [entry.task for entry in ledger.entries() if entry.kind == "begun"]


# --- the gate's own conditions -------------------------------------------------------------------


def _reserved(study: Study) -> LedgerEntry:
    return _entry(study, kind=EntryKind.RESERVED, charges=study.charges(), sha256="ee" * 32)


def _begun(study: Study, **changes: Any) -> LedgerEntry:
    begun = _entry(study, kind=EntryKind.BEGUN, task="count", request_sha256="aa" * 32, follows="ee" * 32)
    return msgspec.structs.replace(begun, **changes)


def _entry(study: Study, **told: Any) -> LedgerEntry:
    return LedgerEntry(
        seq=2,
        previous="",
        written_at="",
        site=SITE,
        public_key="",
        epsilon_cap=3.0,
        delta=1e-5,
        epsilon_after=1.0,
        study_sha256=study.sha256,
        **told,
    )


def _through(study: Study, begun: LedgerEntry | None, reserved: LedgerEntry | None) -> None:
    gate.admit_release(
        {"patients": np.array([1], dtype=np.int64)},
        {"patients": ArraySpec((1,), "int64")},
        reserved=reserved,
        begun=begun,
        study=study,
        task="count",
        request_sha256="aa" * 32,
    )


@pytest.mark.parametrize(
    "changes",
    [
        None,
        {"study_sha256": "bb" * 32, "follows": "bb" * 32},
        {"task": "evaluate"},
        {"request_sha256": "bb" * 32},
        {"follows": "bb" * 32},
        {"kind": EntryKind.RELEASED},
    ],
    ids=["not begun", "study", "task", "request", "another reservation", "a release"],
)
def test_nothing_passes_the_gate_that_did_not_begin(
    make_study: MakeStudy, changes: dict[str, Any] | None
) -> None:
    study = make_study()
    _through(study, _begun(study), _reserved(study))
    with pytest.raises(GemelError, match="GEM307"):
        _through(study, None if changes is None else _begun(study, **changes), _reserved(study))


CHEAP = (Mechanism(kind=MechanismKind.DISCRETE_GAUSSIAN, noise_multiplier=1000.0),)


@pytest.mark.parametrize(
    "changes",
    [
        None,
        {"study_sha256": "bb" * 32},
        {"charges": ()},
        {"charges": (Charge(task="count", share=Share.EVERYONE, mechanisms=CHEAP),)},
        {"kind": EntryKind.BEGUN},
    ],
    ids=["no plan", "study", "nothing paid", "less paid", "no reservation"],
)
def test_nothing_passes_the_gate_that_its_reservation_does_not_cover(
    make_study: MakeStudy, changes: dict[str, Any] | None
) -> None:
    study = make_study()
    plan = None if changes is None else msgspec.structs.replace(_reserved(study), **changes)
    with pytest.raises(GemelError, match="GEM307"):
        _through(study, _begun(study), plan)


def test_a_floor_that_the_hospital_raised_after_approval_holds(
    federation: Federation, make_study: MakeStudy
) -> None:
    study = make_study()
    _approve(federation, study)
    assert _ask(federation, study, "count", minimum_patients=10_000)[0].code == "GEM402"
    assert _charged(federation) == []


def test_an_installed_programme_that_the_hospital_does_not_allow_is_refused(
    federation: Federation, make_study: MakeStudy
) -> None:
    assert _ask(federation, make_study(), HELLO, programmes=())[0].code == "GEM104"


def test_a_study_with_a_larger_delta_than_the_hospitals_is_refused(
    federation: Federation, make_study: MakeStudy
) -> None:
    assert _ask(federation, make_study(), HELLO, delta=1e-6)[0].code == "GEM301"


def test_inputs_that_the_request_does_not_name_are_refused_uncharged(
    federation: Federation, make_study: MakeStudy
) -> None:
    study = make_study()
    _approve(federation, study)
    _ask(federation, study, "count")
    reply, got = _ask(federation, study, "train/1", TWIN, hashed=b"other")
    assert (reply.code, got.payload) == ("GEM103", b"")
    assert _charged(federation) == ["count"]


def test_nobody_but_a_steward_on_record_decides(federation: Federation, make_study: MakeStudy) -> None:
    study = make_study()
    _ask(federation, study, HELLO)
    shown = approvals.proposal_of(federation.nodes[SITE], study.sha256)
    with pytest.raises(GemelError, match="GEM401"):
        approvals.decide(
            federation.nodes[SITE],
            shown,
            Decision.APPROVED,
            steward=STEWARD,
            key=SigningKey.generate(),
            reason="forged",
        )
    assert approvals.find(federation.nodes[SITE], study.sha256) is None


def test_more_tables_than_were_paid_for_do_not_leave(federation: Federation, make_study: MakeStudy) -> None:
    study = make_study(metrics_tables=make_study().metrics_tables - 1)
    _approve(federation, study)
    _ask(federation, study, "count")
    reply, got = _ask(federation, study, "evaluate", TWIN)
    assert (reply.code, got.payload) == ("GEM307", b"")


@pytest.mark.parametrize(
    ("levels", "scores", "more_levels"), [(0.01, -0.01, 0), (-0.01, 0.01, 0), (0.0, 0.0, -1)]
)
def test_a_study_that_charges_for_other_counts_of_synthesis_is_refused_at_the_door(
    federation: Federation, make_study: MakeStudy, levels: float, scores: float, more_levels: int
) -> None:
    synthesis = make_study().synthesis
    other = msgspec.structs.replace(
        synthesis,
        levels=Measurement(
            tables=synthesis.levels.tables + more_levels, share=synthesis.levels.share + levels
        ),
        scores=msgspec.structs.replace(synthesis.scores, share=synthesis.scores.share + scores),
    )
    study = make_study(synthesis=other)
    reply, got = _ask(federation, study, "count")
    assert (reply.code, got.payload) == ("GEM720", b"")


def test_what_left_is_on_record_when_it_leaves(federation: Federation, make_study: MakeStudy) -> None:
    study = make_study()
    _approve(federation, study)
    _, got = _ask(federation, study, "count")
    with federation.nodes[SITE].open_ledger() as ledger:
        entry = ledger.released(study.sha256, "count")
    assert entry is not None
    assert entry.release_sha256 == sha256_hex(got.payload)


# --- noise ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["evaluate", *ROUNDS])
def test_every_released_table_carries_the_noise_that_was_paid_for(
    federation: Federation, make_study: MakeStudy, task: str
) -> None:
    study = make_study()
    _approve(federation, study)
    _ask(federation, study, "count")
    domain = domain_of(PROGRAMME)
    choice = a_choice(domain, task) if task in ROUNDS else {}
    _, got = _ask(
        federation, study, task, pack_arrays(choice) if choice else TWIN if task == "evaluate" else b""
    )
    released = unpack_arrays(got.payload, declared_release(task, PROGRAMME))
    dataset = patients.load(federation.nodes[SITE], PROGRAMME)
    training, held_out = dataset.split()
    if task == "evaluate":
        risk = make_twin(PROGRAMME).predict(held_out.values)
        exact, sigma = count_metric_tables(PROGRAMME, risk, held_out), study.privacy.metrics_noise_multiplier
    else:
        # A person may be a patient at two hospitals: each release is one of two.
        whole = study.privacy.synthesis_noise_multiplier * math.sqrt(2)
        counted = count_round(task, domain, domain.encode(training), whole=whole, choice=choice)
        ((name, flat),) = released.items()
        exact = {name: np.concatenate([table.ravel() for table, _ in counted])}
        released, sigma = {name: flat[: exact[name].size]}, float(np.mean([sigma for _, sigma in counted]))
    for name, table in exact.items():
        if table.size >= 20:
            assert 0.4 * sigma < np.std(released[name] - table) < 1.8 * sigma, name
        assert released[name].tobytes() != table.tobytes() or table.size < 4, name


def test_a_patient_who_opts_out_is_gone_before_the_next_task_and_ends_the_approval(
    federation: Federation, make_study: MakeStudy
) -> None:
    home, study = federation.nodes[SITE], make_study()
    _approve(federation, study)
    before = patients.load(home, PROGRAMME)
    ids = [json.loads(line)["id"] for line in (home.export / "Patient.ndjson").read_text().splitlines()]
    inside = next(name for name in ids if pseudonym(home.pseudonym_key, name) in before.patient_ids)
    (home.folder / "opt_out.txt").write_text(f"{inside}\n")
    after = patients.load(home, PROGRAMME)
    assert set(before.patient_ids) - set(after.patient_ids) == {pseudonym(home.pseudonym_key, inside)}
    reply, _ = _ask(federation, study, "count")
    assert (reply.status, reply.code) == ("refused", "GEM405")
    assert not _charged(federation)


def test_a_round_carries_the_noise_that_was_paid_for(federation: Federation, make_study: MakeStudy) -> None:
    study = make_study()
    plan = study.training
    _approve(federation, study)
    counted = _ask(federation, study, "count")[1].payload
    released = unpack_arrays(
        _ask(federation, study, "train/1", TWIN)[1].payload, declared_release("train/1", PROGRAMME)
    )
    expected = 0.8 * float(unpack_arrays(counted, declared_release("count", PROGRAMME))["patients"][0])
    training, _ = patients.load(federation.nodes[SITE], PROGRAMME).split()
    exact = make_twin(PROGRAMME)
    noiseless = msgspec.structs.replace(plan, noise_multiplier=0.0)
    trainer = DpTrainer(noiseless, noise=NoiseSource.for_tests(0), expected_patients=expected)
    trainer.train(exact, exact.tensors(training))
    noise = np.concatenate([(released[name] - array).ravel() for name, array in exact.to_arrays().items()])
    step = plan.learning_rate * plan.noise_multiplier * plan.max_grad_norm / expected
    assert 0.5 < np.std(noise) / (step * np.sqrt(plan.local_steps)) < 2.0


def test_the_gradients_are_divided_by_the_released_count_and_never_the_exact_one(
    federation: Federation, make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study()
    _approve(federation, study)
    _, got = _ask(federation, study, "count")
    released = unpack_arrays(got.payload, declared_release("count", PROGRAMME))["patients"][0]
    seen: list[float] = []
    trainer = tasks.DpTrainer

    def spy(*args: Any, expected_patients: float, **named: Any) -> Any:
        seen.append(expected_patients)
        return trainer(*args, expected_patients=expected_patients, **named)

    monkeypatch.setattr(tasks, "DpTrainer", spy)
    assert _ask(federation, study, "train/1", TWIN)[0].code == ""
    assert seen == [pytest.approx(0.8 * float(released))]
