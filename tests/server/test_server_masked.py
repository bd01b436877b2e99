"""A study whose releases are masked: the real coordinator and real nodes, which drop, die and come back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from in_process import Clock, Nodes, certificate, faithful, listed, missing, signed

from gemel.cli.demo.federation import Federation, create
from gemel.client_node import masking, tasks
from gemel.client_node.node import answer
from gemel.core.arrays import ArraySpec
from gemel.core.canonical import sha256_hex
from gemel.core.errors import GemelError
from gemel.core.messages import Envelope, Request, Status, read_reply, read_request, sign_request
from gemel.core.strategy_plan import Pace
from gemel.core.study import AggregationPlan, AggregationRule, Masking, Study, TrainingPlan
from gemel.core.synthesis_plan import ROUNDS
from gemel.privacy.secure_aggregation.collector import Step
from gemel.server.coordinator import Coordinator
from gemel.server.home import RunFolder
from gemel.server.masked import MOST_ATTEMPTS
from gemel.server.run_check import check_run
from gemel.server.transport import Answer
from gemel.synthetic.releases import declared_release
from gemel.twins.programmes.fatty_liver import PROGRAMME

MakeStudy = Callable[..., Study]
Lose = Callable[[str, Request], bool]
ONE_ROUND = TrainingPlan(
    rounds=1,
    local_steps=1,
    learning_rate=0.5,
    momentum=0.0,
    max_grad_norm=1.0,
    sample_rate=1.0,
    noise_multiplier=10.0,
)
SECURE = AggregationPlan(masking=Masking.SECURE)
TWO_OF_THREE = AggregationPlan(masking=Masking.SECURE, threshold=2)


class Killed(BaseException):
    """The coordinator's process ends here."""


class Died(BaseException):
    """A node's process ends here; the next request finds a new one."""


class Masked(Nodes):
    """Nodes of which `lose` says whose answer to which request is lost; `kill_at` ends the coordinator at that send."""

    def __init__(self, federation: Federation, lose: Lose = lambda _site, _request: False) -> None:
        super().__init__(federation, faithful)
        self.lose, self.kill_at, self.sends = lose, 0, 0

    def send(self, envelopes: Mapping[int, Envelope]) -> None:
        self.sends += 1
        if self.sends == self.kill_at:
            raise Killed
        for node, envelope in envelopes.items():
            try:
                super().send({node: envelope})
            except Died:
                self.answers.append(Answer(node, None))
                continue
            if self.lose(self.sites[node], read_request(envelope.document)[0]):
                self.answers[-1] = Answer(node, None)


def _start(federation: Federation, study: Study, nodes: Masked) -> tuple[Coordinator, RunFolder]:
    run = federation.coordinator.admit(signed(study))
    clock = Clock()
    coordinator = Coordinator(
        federation.coordinator,
        study.sha256,
        nodes,
        directory=listed(federation),
        approval_timeout_s=60,
        clock=clock,
        sleep=clock.sleep,
    )
    return coordinator, run


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """What each node computed for each task, every time that it did: (site, task) -> releases."""
    seen: dict[tuple[str, str], list[dict[str, Any]]] = {}
    keep = masking.keep

    def spy(home: Any, study_sha256: str, task: str, arrays: Any) -> None:
        seen.setdefault((home.config.site, task), []).append(dict(arrays))
        keep(home, study_sha256, task, arrays)

    monkeypatch.setattr(masking, "keep", spy)
    return seen


def _mean(computed: Any, task: str, sites: list[str], name: str) -> np.ndarray:
    """The weighted mean of what the sites computed, in plain numbers."""
    weights = [float(computed[site, "count"][0]["patients"][0]) for site in sites]
    return np.average(
        [computed[site, task][0][name].astype(float) for site in sites], axis=0, weights=weights
    )


def as_summed(declared: dict[str, ArraySpec]) -> dict[str, ArraySpec]:
    """A sum of 32-bit tables is kept in 64 bits."""
    return {name: ArraySpec(spec.shape, spec.dtype.replace("32", "64")) for name, spec in declared.items()}


def _model(run: RunFolder) -> dict[str, np.ndarray]:
    return run.load_model("model-0001", declared_release("train/1", PROGRAMME))


def test_a_masked_run_learns_the_sums_and_nothing_of_one_hospital(
    federation: Federation, make_study: MakeStudy, computed: Any
) -> None:
    study = make_study(training=ONE_ROUND, aggregation=SECURE)
    coordinator, run = _start(federation, study, Masked(federation))
    coordinator.run()
    payload, sites = certificate(run), sorted(study.sites)
    assert payload["status"] == "complete"
    for task in payload["tasks"]:
        assert [c["site"] for c in task["contributions"]] == sites
        assert task["masked_attempt"] == 1
    for task in ("count", "evaluate", *ROUNDS):
        total = run.load_sum(task, as_summed(declared_release(task, PROGRAMME)))
        for name, table in total.items():
            assert np.array_equal(table, sum(computed[site, task][0][name] for site in sites)), (task, name)
    for name, values in _model(run).items():
        assert np.abs(values - _mean(computed, "train/1", sites, name)).max() < 1e-5
    # Nothing that a node computed is anywhere at the coordinator, in no form that it was ever packed in.
    from gemel.core.arrays import pack_arrays

    at_rest = b"".join(
        p.read_bytes() for p in sorted(federation.coordinator.folder.rglob("*")) if p.is_file()
    )
    for releases in computed.values():
        for array in releases[0].values():
            content = np.ascontiguousarray(array).tobytes()
            assert len(content) < 64 or content not in at_rest
        assert pack_arrays(releases[0]) not in at_rest
    for home in federation.nodes.values():
        with home.open_ledger() as ledger:
            assert [e.kind for e in ledger.entries()].count("reserved") == 1
            assert [e.kind for e in ledger.entries()].count("begun") == len(study.tasks)
        left = sorted(path.name for path in (home.folder / "masking").glob("*.safetensors"))
        assert left == [f"{study.sha256}.count.safetensors"], "what is unmasked is not kept"
        assert (home.folder / "masking").stat().st_mode & 0o077 == 0
    assert all(len(releases) == 1 for releases in computed.values())


@pytest.mark.parametrize(
    "phase",
    [
        pytest.param("share", marks=pytest.mark.heavy),
        "mask",
        pytest.param("confirm", marks=pytest.mark.heavy),
        pytest.param("unmask", marks=pytest.mark.heavy),
    ],
)
def test_a_hospital_that_drops_in_a_step_is_out_of_that_sum_or_in_it_and_back_in_the_next(
    federation: Federation, make_study: MakeStudy, computed: Any, phase: str
) -> None:
    study = make_study(training=ONE_ROUND, aggregation=TWO_OF_THREE, round_timeout_s=5.0)
    nodes = Masked(federation, lambda site, r: (site, r.task, r.phase) == ("gamma", "train/1", phase))
    coordinator, run = _start(federation, study, nodes)
    coordinator.run()
    tasks_done = {task["task"]: task for task in certificate(run)["tasks"]}
    counted = [c["site"] for c in tasks_done["train/1"]["contributions"]]
    late = phase in ("confirm", "unmask")
    assert counted == (["alpha", "beta", "gamma"] if late else ["alpha", "beta"])
    assert missing(tasks_done["train/1"]) == ({} if late else {"gamma": "GEM502"})
    for name, values in _model(run).items():
        assert np.abs(values - _mean(computed, "train/1", counted, name)).max() < 1e-5
    assert tasks_done["evaluate"]["missing"] == []


def test_below_the_threshold_nothing_is_unmasked_and_a_resumed_run_masks_the_same_release_again(
    federation: Federation, make_study: MakeStudy, computed: Any
) -> None:
    study = make_study(training=ONE_ROUND, aggregation=SECURE, round_timeout_s=5.0)
    away = True
    nodes = Masked(
        federation, lambda site, r: away and (site, r.task, r.phase) == ("gamma", "train/1", "mask")
    )
    coordinator, run = _start(federation, study, nodes)
    with pytest.raises(GemelError, match="GEM322"):
        coordinator.run()
    assert certificate(run)["code"] == "GEM322"
    assert missing(certificate(run)["stopped_in"]) == {"gamma": "GEM502"}
    assert not list((run.folder / "releases" / "train").rglob("unmask"))
    away = False
    again, run = _start(federation, study, Masked(federation))
    again.run()
    tasks_done = {task["task"]: task for task in certificate(run)["tasks"]}
    assert tasks_done["train/1"]["masked_attempt"] == MOST_ATTEMPTS + 1
    assert len(computed["gamma", "train/1"]) == 1, "one charge pays for one draw of noise"
    with federation.nodes["gamma"].open_ledger() as ledger:
        assert sum(e.task == "train/1" and e.kind == "begun" for e in ledger.entries()) == 1
    sites = sorted(study.sites)
    for name, values in _model(run).items():
        assert np.abs(values - _mean(computed, "train/1", sites, name)).max() < 1e-5


def test_a_coordinator_killed_before_any_of_its_sends_goes_on_to_the_same_sums(
    federation: Federation, make_study: MakeStudy, computed: Any
) -> None:
    """Killed again and again, at each fifth message, until the run is done."""
    study = make_study(training=ONE_ROUND, aggregation=TWO_OF_THREE)
    kills = 0
    for kill_at in range(3, 200):
        nodes = Masked(federation)
        nodes.kill_at = 3 + kill_at % 4
        coordinator, run = _start(federation, study, nodes)
        try:
            coordinator.run()
            break
        except Killed:
            kills += 1
    assert kills >= 4
    payload, sites = certificate(run), sorted(study.sites)
    assert payload["status"] == "complete"
    assert all(task["masked_attempt"] == 1 for task in payload["tasks"]), "no attempt was begun anew"
    assert all(len(releases) == 1 for releases in computed.values())
    for name, values in _model(run).items():
        assert np.abs(values - _mean(computed, "train/1", sites, name)).max() < 1e-5


def test_nodes_that_die_in_every_step_before_they_answer_say_the_same_and_compute_once(
    federation: Federation, make_study: MakeStudy, computed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gemel.client_node import outbox

    put, died = outbox.put, set()

    def die_once(home: Any, request_sha256: str, envelope: Envelope) -> None:
        if (home.config.site, request_sha256) not in died:
            died.add((home.config.site, request_sha256))
            raise Died
        put(home, request_sha256, envelope)

    monkeypatch.setattr(outbox, "put", die_once)
    study = make_study(training=ONE_ROUND, aggregation=SECURE)
    coordinator, run = _start(federation, study, Masked(federation))
    coordinator.run()
    assert len(died) == len(study.sites) * len(study.tasks) * len(Step)
    assert certificate(run)["status"] == "complete"
    assert all(len(releases) == 1 for releases in computed.values())
    sites = sorted(study.sites)
    for name, values in _model(run).items():
        assert np.abs(values - _mean(computed, "train/1", sites, name)).max() < 1e-5


def test_a_masked_study_is_never_answered_unmasked_and_a_plain_one_never_in_steps(
    federation: Federation, make_study: MakeStudy
) -> None:
    for aggregation, phase in ((SECURE, ""), (AggregationPlan(), "mask"), (SECURE, "other")):
        study = make_study(training=ONE_ROUND, aggregation=aggregation)
        reply, got = _ask(federation, "alpha", study, task="count", phase=phase, approve=True)
        assert (reply.status, reply.code, got.payload) == (Status.REFUSED, "GEM320", b"")


def test_no_step_is_answered_without_approval(federation: Federation, make_study: MakeStudy) -> None:
    study = make_study(training=ONE_ROUND, aggregation=SECURE)
    for step in Step:
        reply, _ = _ask(federation, "alpha", study, task="count", phase=step.name.lower())
        assert reply.code == "GEM401"


def _ask(
    federation: Federation, site: str, study: Study, *, task: str, phase: str, approve: bool = False
) -> tuple[Any, Envelope]:
    document = signed(study)

    def send(task: str, phase: str) -> Envelope:
        request = Request(
            study_sha256=study.sha256,
            task=task,
            inputs_sha256=sha256_hex(b""),
            phase=phase,
            attempt=int(bool(phase)),
        )
        signed_request = sign_request(request, federation.coordinator.key).to_bytes()
        return answer(federation.nodes[site], Envelope(document=signed_request, study=document.to_bytes()))

    if approve:
        send("hello", "")
        federation.approve(site, study.sha256)
    got = send(task, phase)
    return read_reply(got.document)[0], got


FIVE = ("site1", "site2", "site3", "site4", "site5")


@pytest.fixture(scope="module")
def five_exports(write_export: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("five")
    return {site: write_export(folder / site, patients=70, seed=10 + i) for i, site in enumerate(FIVE)}


@pytest.fixture
def five(five_exports: dict[str, Path], tmp_path: Path) -> Federation:
    return create(
        tmp_path / "five", five_exports, PROGRAMME, epsilon_cap=3.0, delta=1e-5, minimum_patients=50
    )


def test_five_hospitals_add_noise_in_shares_and_one_may_drop(
    five: Federation, make_study: MakeStudy, computed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    added: dict[str, float] = {}
    compute = tasks.compute

    def spy(task: str, study: Study, *arguments: Any, **named: Any) -> Any:
        added[task] = study.privacy.synthesis_noise_multiplier
        return compute(task, study, *arguments, **named)

    monkeypatch.setattr(tasks, "compute", spy)
    plan = AggregationPlan(masking=Masking.SECURE, distributed_noise=True, dropouts=1, colluders=1)
    study = make_study(training=ONE_ROUND, aggregation=plan, sites=five.site_keys, round_timeout_s=5.0)
    nodes = Masked(five, lambda site, r: (site, r.task, r.phase) == ("site2", "synthesise/1", "mask"))
    coordinator, run = _start(five, study, nodes)
    coordinator.run()
    assert certificate(run)["status"] == "complete"
    left = [site for site in FIVE if site != "site2"]
    total = run.load_sum("synthesise/1", as_summed(declared_release("synthesise/1", PROGRAMME)))
    for name, table in total.items():
        assert np.array_equal(table, sum(computed[site, "synthesise/1"][0][name] for site in left))
    assert added["synthesise/1"] == pytest.approx(2 * study.privacy.synthesis_noise_multiplier / np.sqrt(3))


@pytest.mark.parametrize(
    "task",
    [
        pytest.param(ROUNDS[0], marks=pytest.mark.heavy),
        ROUNDS[1],
        pytest.param(ROUNDS[2], marks=pytest.mark.heavy),
    ],
)
def test_below_the_hospitals_that_share_the_noise_a_round_of_synthesis_is_charged_and_releases_nothing(
    five: Federation, make_study: MakeStudy, computed: Any, task: str
) -> None:
    plan = AggregationPlan(masking=Masking.SECURE, distributed_noise=True, dropouts=1, colluders=1)
    study = make_study(training=ONE_ROUND, aggregation=plan, sites=five.site_keys, round_timeout_s=5.0)
    away = ("site2", "site4")
    lost = Masked(five, lambda site, r: site in away and (r.task, r.phase) == (task, "mask"))
    coordinator, run = _start(five, study, lost)
    with pytest.raises(GemelError, match="GEM322"):
        coordinator.run()
    stopped = certificate(run)["stopped_in"]
    assert (stopped["task"], missing(stopped)) == (task, dict.fromkeys(away, "GEM502"))
    assert not list((run.folder / "releases" / task).rglob("unmask"))
    assert not (run.folder / "releases" / f"{task}.sum.safetensors").exists()
    assert not run.synthesis_path(task).exists()
    spent = {site: _begun(five, site) for site in FIVE}
    assert all(begun.count(task) == 1 for begun in spent.values()), "what was begun stays charged"
    again, run = _start(five, study, Masked(five))
    again.run()
    assert certificate(run)["status"] == "complete"
    assert all(len(computed[site, task]) == 1 for site in FIVE), "one charge pays for one draw of noise"
    assert all(_begun(five, site) == list(study.tasks) for site in FIVE)


def _begun(federation: Federation, site: str) -> list[str]:
    with federation.nodes[site].open_ledger() as ledger:
        return [entry.task for entry in ledger.entries() if entry.kind == "begun"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [({"metrics_noise_multiplier": 1.5}, "GEM305"), ({"synthesis_noise_multiplier": 2.0}, "GEM305")],
)
def test_shares_of_noise_too_small_to_add_up_are_refused_before_approval(
    five: Federation, make_study: MakeStudy, changes: dict[str, float], code: str
) -> None:
    plan = AggregationPlan(masking=Masking.SECURE, distributed_noise=True)
    study = make_study(training=ONE_ROUND, aggregation=plan, sites=five.site_keys)
    privacy = msgspec.structs.replace(study.privacy, epsilon=100.0, **changes)
    study = msgspec.structs.replace(study, privacy=privacy)
    reply, _ = _ask(five, "site1", study, task="hello", phase="")
    assert (reply.status, reply.code) == (Status.REFUSED, code)


def test_a_robust_rule_keeps_a_poisoned_hospital_from_the_model(
    five: Federation, make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    updates: dict[str, dict[str, np.ndarray]] = {}
    from gemel.client_node import gate

    admit = gate.admit_release

    def poison(arrays: Any, declared: Any, **named: Any) -> None:
        if named["task"] == "train/1":
            site = f"site{len(updates) + 1}"
            if site == "site3":
                for array in arrays.values():
                    array *= -100
            updates[site] = {name: array.copy() for name, array in arrays.items()}
        admit(arrays, declared, **named)

    monkeypatch.setattr(gate, "admit_release", poison)
    plan = AggregationPlan(rule=AggregationRule.MEDIAN, malicious=1)
    study = make_study(training=ONE_ROUND, aggregation=plan, sites=five.site_keys)
    coordinator, run = _start(five, study, Masked(five))
    coordinator.run()
    honest = [update for site, update in updates.items() if site != "site3"]
    for name, values in _model(run).items():
        stacked = np.stack([update[name] for update in honest])
        assert (values >= stacked.min(axis=0)).all()
        assert (values <= stacked.max(axis=0)).all()


def test_a_masked_round_closes_with_enough_and_a_late_vector_is_charged_and_in_no_sum(
    federation: Federation, make_study: MakeStudy, computed: Any
) -> None:
    class Slow(Masked):
        """Gamma's vector of the round comes when the sum is long closed."""

        held: list[Answer] = []  # noqa: RUF012

        def send(self, envelopes: Mapping[int, Envelope]) -> None:
            super().send(envelopes)
            request = read_request(next(iter(envelopes.values())).document)[0]
            if (request.task, request.phase) == ("train/1", "mask"):
                Slow.held = [answer for answer in self.answers if self.sites[answer.node_id] == "gamma"]
                self.answers = [answer for answer in self.answers if answer not in Slow.held]
            if request.task == "evaluate":
                self.answers += Slow.held
                Slow.held = []

    study = make_study(training=ONE_ROUND, aggregation=TWO_OF_THREE, pace=Pace(enough=2))
    coordinator, run = _start(federation, study, Slow(federation))
    coordinator.run()
    done = {task["task"]: task for task in certificate(run)["tasks"]}
    assert missing(done["train/1"]) == {"gamma": "GEM511"}
    assert [(late["site"], late["task"]) for late in certificate(run)["late"]] == [("gamma", "train/1")]
    for name, values in _model(run).items():
        assert np.abs(values - _mean(computed, "train/1", ["alpha", "beta"], name)).max() < 1e-5
    assert missing(done["evaluate"]) == {}
    document = run.certificate
    assert document is not None
    check_run(document, run.folder)
