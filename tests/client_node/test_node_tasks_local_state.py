"""What a hospital keeps for itself survives crashes, is never trained twice, and never leaves."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from gemel.cli.demo.federation import Federation
from gemel.client_node import local_state, outbox, tasks
from gemel.client_node.node import answer
from gemel.core.arrays import Arrays, pack_arrays, unpack_arrays
from gemel.core.canonical import sha256_hex
from gemel.core.errors import GemelError
from gemel.core.messages import HELLO, Envelope, Reply, Request, Status, read_reply, sign_request
from gemel.core.signing import SigningKey, sign_document
from gemel.core.strategy_plan import Algorithm, Personalisation, StrategyPlan
from gemel.core.study import Study, parse_study
from gemel.synthetic.releases import CORRECTION, declared_inputs, declared_release
from gemel.twins.installed import make_twin
from gemel.twins.programmes.fatty_liver import PROGRAMME

MakeStudy = Callable[..., Study]
SITE = "beta"
LOCAL = StrategyPlan(personalisation=Personalisation.LOCAL_PARAMETERS, local_parameters=("level",))
DITTO = StrategyPlan(personalisation=Personalisation.DITTO, ditto_lambda=0.5)


class Asker:
    """A coordinator's half of the conversation with one node; `seen` is what the node computed from, and what came out."""

    def __init__(self, federation: Federation, study: Study) -> None:
        self.federation = federation
        self.study = parse_study(study.to_payload())
        self.home = federation.nodes[SITE]
        self.document = sign_document("study", study.to_payload(), SigningKey.generate(), role="proposer")
        self.seen: list[tuple[str, dict[str, np.ndarray], dict[str, np.ndarray]]] = []

    def ask(self, task: str, *, offset: float = 0.0, without: str = " ") -> tuple[Reply, bytes]:
        start = make_twin(PROGRAMME).to_arrays()
        declared = {} if task == HELLO else declared_inputs(task, PROGRAMME, study=self.study)
        arrays = {
            n: np.zeros(spec.shape, np.float32) if n.startswith(CORRECTION) else start[n] + np.float32(offset)
            for n, spec in declared.items()
            if not n.startswith(without)
        }
        payload = pack_arrays(arrays) if arrays else b""
        request = Request(study_sha256=self.study.sha256, task=task, inputs_sha256=sha256_hex(payload))
        envelope = Envelope(
            document=sign_request(request, self.federation.coordinator.key).to_bytes(),
            study=self.document.to_bytes(),
            payload=payload,
        )
        got = answer(self.home, envelope, compute=self._compute)
        return read_reply(got.document)[0], got.payload

    def _compute(self, task: str, *args: Any, inputs: Arrays, **named: Any) -> Arrays:
        computed = tasks.compute(task, *args, inputs=inputs, **named)
        self.seen.append((task, dict(inputs), dict(computed)))
        return computed

    def begin(self) -> None:
        assert self.ask(HELLO)[0].status is Status.PENDING
        self.federation.approve(SITE, self.study.sha256)
        assert self.ask("count")[0].status is Status.RELEASED

    def kept(self) -> list[Path]:
        return sorted((self.home.folder / "local").glob("*.safetensors"))

    def begun(self) -> list[str]:
        with self.home.open_ledger() as ledger:
            return [entry.task for entry in ledger.entries() if entry.kind == "begun"]


@pytest.fixture
def asker(federation: Federation, make_study: MakeStudy) -> Asker:
    study = make_study(strategy=LOCAL)
    training = msgspec.structs.replace(study.training, rounds=4, noise_multiplier=20.0)
    made = Asker(federation, msgspec.structs.replace(study, training=training))
    made.begin()
    return made


def test_a_round_goes_on_from_what_the_last_one_kept_and_lets_out_all_but_that(asker: Asker) -> None:
    for number in (1, 2, 3):
        reply, payload = asker.ask(f"train/{number}")
        assert reply.status is Status.RELEASED, reply.code
        released = unpack_arrays(payload, declared_release(f"train/{number}", PROGRAMME, study=asker.study))
        assert "level" not in released
    trained = [(given, computed) for task, given, computed in asker.seen if task.startswith("train/")]
    assert "kept.level" not in trained[0][0]
    for (_, before), (given, after) in itertools.pairwise(trained):
        assert np.array_equal(given["kept.level"], before["kept.level"])
        assert not np.array_equal(after["kept.level"], before["kept.level"])
    assert asker.ask("evaluate")[0].status is Status.RELEASED
    assert np.array_equal(asker.seen[-1][1]["kept.level"], trained[-1][1]["kept.level"])


def test_what_is_kept_is_for_its_owner_alone_and_only_the_last_two_rounds_are(asker: Asker) -> None:
    for number in (1, 2, 3):
        asker.ask(f"train/{number}")
    assert [path.name.split(".")[1] for path in asker.kept()] == ["train-2", "train-3"]
    assert all(path.stat().st_mode & 0o077 == 0 for path in asker.kept())
    assert (asker.home.folder / "local").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("where", ["before it is kept", "after it is kept", "in the outbox"])
def test_a_node_that_dies_in_a_round_computes_it_again_from_the_same_start_and_says_one_thing(
    asker: Asker, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    asker.ask("train/1")
    first = asker.seen[-1][2]["kept.level"]

    def die(*_args: Any, **_named: Any) -> None:
        raise SystemExit("kill -9")

    with monkeypatch.context() as patch:
        if where == "before it is kept":
            patch.setattr(local_state, "write_durably", die)
        elif where == "after it is kept":
            patch.setattr(outbox, "put", die)
        else:
            written = outbox.write_durably
            patch.setattr(
                outbox, "write_durably", lambda path, c: die() if path.suffix == ".json" else written(path, c)
            )
        with pytest.raises(SystemExit):
            asker.ask("train/2")
    lost = asker.seen[-1][2]
    reply, payload = asker.ask("train/2")
    assert reply.status is Status.RELEASED, reply.code
    _, given, computed = asker.seen[-1]
    assert np.array_equal(given["kept.level"], first), "not trained twice"
    assert not np.array_equal(computed["kept.level"], lost["kept.level"])
    assert asker.ask("train/2")[1] == payload, "the same again"
    assert asker.begun() == ["count", "train/1", "train/2"]
    asker.ask("train/3")
    assert np.array_equal(asker.seen[-1][1]["kept.level"], computed["kept.level"]), (
        "of the draw that was sent"
    )
    assert unpack_arrays(payload, declared_release("train/2", PROGRAMME, study=asker.study))["slopes"].tolist() == computed["slopes"].tolist()  # fmt: skip


def test_a_round_that_this_hospital_missed_is_bridged(asker: Asker) -> None:
    asker.ask("train/1")
    kept = asker.seen[-1][2]["kept.level"]
    assert asker.ask("train/3")[0].status is Status.RELEASED
    assert np.array_equal(asker.seen[-1][1]["kept.level"], kept)


def test_nothing_is_ever_trained_from_a_draw_that_was_lost(
    asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else two draws of one round would be told, the lost one by what was built on it, for the charge of one."""
    asker.ask("train/1")
    first = asker.seen[-1][2]["kept.level"]

    def die(*_args: Any, **_named: Any) -> None:
        raise SystemExit("kill -9")

    with monkeypatch.context() as patch:
        patch.setattr(outbox, "put", die)
        with pytest.raises(SystemExit):
            asker.ask("train/2")
    lost = asker.seen[-1][2]["kept.level"]
    assert len(asker.kept()) == 2, "the lost draw is on disk"
    for task in ("train/3", "evaluate"):
        assert asker.ask(task)[0].status is Status.RELEASED
        assert not np.array_equal(asker.seen[-1][1]["kept.level"], lost)
    third = asker.seen[-1][1]["kept.level"]
    assert np.array_equal(asker.seen[-2][1]["kept.level"], first)
    assert asker.ask("train/2")[0].status is Status.RELEASED, "late, and from what was released last"
    assert np.array_equal(asker.seen[-1][1]["kept.level"], third)
    assert np.array_equal(third, asker.seen[-3][2]["kept.level"])


def test_another_start_for_a_round_that_was_computed_is_refused_and_changes_nothing(asker: Asker) -> None:
    asker.ask("train/1")
    before = [path.read_bytes() for path in asker.kept()]
    reply, _ = asker.ask("train/1", offset=0.1)
    assert (reply.status, reply.code) == (Status.REFUSED, "GEM304")
    assert [path.read_bytes() for path in asker.kept()] == before


@pytest.mark.parametrize("how", ["gone", "cut", "another's"])
def test_a_state_that_is_gone_or_damaged_is_never_made_up(asker: Asker, how: str) -> None:
    asker.ask("train/1")
    [path] = asker.kept()
    if how == "gone":
        path.unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-3])
    else:
        path.write_bytes(pack_arrays({"kept.slopes": np.zeros((3, 3), np.float32)}))
    begun = asker.begun()
    for task in ("train/2", "evaluate"):
        reply, payload = asker.ask(task)
        assert (reply.status, reply.code, payload) == (Status.REFUSED, "GEM342", b"")
    assert asker.begun() == begun, "refused before it is charged"


def test_a_worker_that_forgets_or_adds_what_is_kept_is_refused(
    asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = tasks.compute

    def forgets(*args: Any, **named: Any) -> Arrays:
        return {n: a for n, a in compute(*args, **named).items() if not n.startswith("kept.")}

    monkeypatch.setattr(tasks, "compute", forgets)
    assert asker.ask("train/1")[0].code == "GEM342"
    monkeypatch.setattr(
        tasks, "compute", lambda *a, **n: {**compute(*a, **n), "level": np.zeros(3, np.float32)}
    )
    reply, payload = asker.ask("train/1")
    assert (reply.status, payload) == (Status.REFUSED, b"")
    assert reply.code == "GEM403"


def test_studies_do_not_share_what_is_kept(federation: Federation, make_study: MakeStudy) -> None:
    kept = []
    for number in range(2):
        study = make_study(strategy=LOCAL, study_id=f"study-{number}")
        training = msgspec.structs.replace(study.training, noise_multiplier=30.0)
        quiet = msgspec.structs.replace(
            study.privacy, epsilon=1.5, count_noise_multiplier=30.0, metrics_noise_multiplier=40.0,
            synthesis_noise_multiplier=15.0,
        )  # fmt: skip
        asker = Asker(federation, msgspec.structs.replace(study, training=training, privacy=quiet))
        asker.begin()
        assert asker.ask("train/1")[0].status is Status.RELEASED
        assert "kept.level" not in asker.seen[-1][1]
        kept.append(asker.seen[-1][2]["kept.level"])
    assert len(asker.kept()) == 2


def test_a_personal_twin_is_trained_round_by_round_and_evaluated_at_its_hospital(
    federation: Federation, make_study: MakeStudy
) -> None:
    study = make_study(strategy=DITTO)
    training = msgspec.structs.replace(study.training, noise_multiplier=20.0)
    asker = Asker(federation, msgspec.structs.replace(study, training=training))
    asker.begin()
    for task in ("train/1", "train/2", "evaluate", "personal"):
        reply, payload = asker.ask(task)
        assert reply.status is Status.RELEASED, (task, reply.code)
        unpack_arrays(payload, declared_release(task, PROGRAMME, study=asker.study))
    (_, _, first), (_, second, last), (_, evaluated, _), (_, personal, _) = asker.seen[-4:]
    for name in make_twin(PROGRAMME).array_specs():
        assert np.array_equal(second[f"kept.{name}"], first[f"kept.{name}"])
        assert np.array_equal(personal[f"kept.{name}"], last[f"kept.{name}"])
    assert not any(name.startswith("kept.") for name in evaluated), "the global twin is evaluated as it is"


def test_a_personal_twin_that_was_never_trained_is_refused(
    federation: Federation, make_study: MakeStudy
) -> None:
    asker = Asker(federation, make_study(strategy=DITTO))
    asker.begin()
    assert asker.ask("personal")[0].code == "GEM342"


def test_a_study_with_local_parameters_that_the_twin_lacks_is_refused_at_the_door(
    federation: Federation, make_study: MakeStudy
) -> None:
    plan = msgspec.structs.replace(LOCAL, local_parameters=("no_such",))
    reply, _ = Asker(federation, make_study(strategy=plan)).ask(HELLO)
    assert (reply.status, reply.code) == (Status.REFUSED, "GEM340")


def test_scaffold_is_not_trained_without_its_correction(
    federation: Federation, make_study: MakeStudy
) -> None:
    asker = Asker(federation, make_study(strategy=StrategyPlan(algorithm=Algorithm.SCAFFOLD)))
    asker.begin()
    assert asker.ask("train/1", without=CORRECTION)[0].code == "GEM403"
    assert asker.begun() == ["count"]
    assert asker.ask("train/1")[0].status is Status.RELEASED


def test_what_a_study_does_not_keep_is_not_asked_for(federation: Federation, make_study: MakeStudy) -> None:
    asker = Asker(federation, make_study())
    asker.begin()
    assert asker.ask("train/1")[0].status is Status.RELEASED
    assert asker.kept() == []
    with asker.home.open_ledger() as ledger:
        assert local_state.load(asker.home, ledger, asker.study, PROGRAMME, "train/2") == {}
        with pytest.raises(GemelError) as caught:
            local_state.save(
                asker.home,
                ledger,
                asker.study,
                PROGRAMME,
                "train/1",
                charged_as="0" * 64,
                kept={"kept.level": np.zeros(3, np.float32)},
            )
    assert caught.value.code == "GEM342"
