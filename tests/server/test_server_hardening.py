"""What one unfriendly or unlucky node, or a crash, may not do to a run at the coordinator."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict
from in_process import Clock, Nodes, certificate, faithful, listed, missing, signed, start

from gemel.cli.demo import results
from gemel.cli.demo.federation import Federation, run_study
from gemel.core.arrays import pack_arrays, unpack_arrays
from gemel.core.canonical import sha256_hex
from gemel.core.errors import GemelError
from gemel.core.messages import HELLO, Envelope, Status, read_reply, sign_reply
from gemel.core.signing import SigningKey
from gemel.core.study import Study, parse_study
from gemel.server.coordinator import Coordinator
from gemel.server.flower import HOME_VARIABLE, internals, server_app
from gemel.server.flower.server_app import GridTransport
from gemel.server.home import RunFolder
from gemel.server.transport import Answer
from gemel.synthetic.releases import declared_release
from gemel.twins.programmes.fatty_liver import PROGRAMME

MakeStudy = Callable[..., Study]


def _spent(federation: Federation) -> dict[str, float]:
    spent = {}
    for site, home in federation.nodes.items():
        with home.open_ledger() as ledger:
            spent[site] = ledger.epsilon_spent()
    return spent


# --- one bad reply does not end a run ------------------------------------------------------------


def _coded(federation: Federation, envelope: Envelope, code: str) -> Envelope:
    """What a hospital's own node would sign if its software were changed."""
    reply, _ = read_reply(envelope.document)
    changed = msgspec.structs.replace(reply, status=Status.REFUSED, code=code, payload_sha256="")
    return Envelope(document=sign_reply(changed, federation.nodes["beta"].key).to_bytes())


@pytest.mark.parametrize("task", [HELLO, "train/1"])
@pytest.mark.parametrize("code", ["GEM999", "patient 4711 has a secret"])
def test_a_code_outside_the_closed_list_neither_ends_the_run_nor_is_passed_on(
    federation: Federation, make_study: MakeStudy, task: str, code: str
) -> None:
    def bad(site: str, asked: str, envelope: Envelope) -> Envelope:
        return _coded(federation, envelope, code) if (site, asked) == ("beta", task) else envelope

    coordinator, run, _ = start(federation, make_study(), bad)
    coordinator.run()
    done = {t["task"]: t for t in certificate(run)["tasks"]}
    assert [m["site"] for m in done["train/1"]["missing"]] == ["beta"]
    for file in ("certificate.json", "events.ndjson", "state.json"):
        assert code not in (run.folder / file).read_text()


@pytest.mark.parametrize("depth", [990, 100_000])
def test_a_reply_that_nests_without_end_costs_its_site_the_round_and_no_more(
    federation: Federation, make_study: MakeStudy, depth: int
) -> None:
    deep = (
        b'{"schema":"gemel/signed/1","kind":"reply","payload":{"a":%s%s},"payload_sha256":"","signatures":[]}'
    )

    def bad(site: str, task: str, envelope: Envelope) -> Envelope:
        if (site, task) == ("beta", "train/1"):
            return Envelope(document=deep % (b"[" * depth, b"]" * depth))
        return envelope

    coordinator, run, _ = start(federation, make_study(), bad)
    coordinator.run()
    done = {t["task"]: t for t in certificate(run)["tasks"]}
    assert missing(done["train/1"]) == {"beta": "GEM101"}


def test_a_reply_of_another_hospital_does_not_pass_for_a_second_one(
    federation: Federation, make_study: MakeStudy
) -> None:
    kept: list[Envelope] = []

    def copy(site: str, task: str, envelope: Envelope) -> Envelope:
        if task == "train/1" and site == "alpha":
            kept.append(envelope)
        return kept[0] if (site, task) == ("beta", "train/1") else envelope

    coordinator, run, _ = start(federation, make_study(), copy)
    coordinator.run()
    done = {t["task"]: t for t in certificate(run)["tasks"]}
    assert missing(done["train/1"]) == {"beta": "GEM503"}


def test_a_signed_payload_of_other_arrays_is_not_used(federation: Federation, make_study: MakeStudy) -> None:
    def other(site: str, task: str, envelope: Envelope) -> Envelope:
        if (site, task) != ("beta", "train/1"):
            return envelope
        payload = pack_arrays({"weights": np.zeros(3, np.float32)})
        reply = msgspec.structs.replace(read_reply(envelope.document)[0], payload_sha256=sha256_hex(payload))
        signed = sign_reply(reply, federation.nodes["beta"].key)
        return Envelope(document=signed.to_bytes(), payload=payload)

    coordinator, run, _ = start(federation, make_study(), other)
    coordinator.run()
    done = {t["task"]: t for t in certificate(run)["tasks"]}
    assert missing(done["train/1"]) == {"beta": "GEM403"}


def test_without_enough_approvals_no_patient_is_touched(
    federation: Federation, make_study: MakeStudy
) -> None:
    for site in ("beta", "gamma"):
        home = federation.nodes[site]
        config = msgspec.structs.replace(home.config, minimum_patients=10_000)
        federation.nodes[site] = type(home)(home.folder, config)
    coordinator, run, nodes = start(federation, make_study())
    with pytest.raises(GemelError, match="GEM501"):
        coordinator.run()
    assert {task for _, task in nodes.asked} == {HELLO}
    assert certificate(run)["status"] == "stopped"
    assert set(_spent(federation).values()) == {0.0}


def test_each_round_starts_from_the_average_weighted_by_the_released_counts(
    federation: Federation, make_study: MakeStudy
) -> None:
    coordinator, run, nodes = start(federation, make_study())
    coordinator.run()
    done = {t["task"]: t for t in certificate(run)["tasks"]}
    assert sha256_hex(nodes.sent["train/2"]) == done["train/1"]["model_sha256"]
    assert sha256_hex(nodes.sent["evaluate"]) == done["train/2"]["model_sha256"]
    assert certificate(run)["model_sha256"] == done["train/2"]["model_sha256"]
    counts, level = {}, {}
    for site in federation.nodes:
        declared = declared_release("count", PROGRAMME)
        counts[site] = float(run.load_release("count", site, declared)["patients"][0])
        level[site] = run.load_release("train/1", site, declared_release("train/1", PROGRAMME))["level"]
    mean = sum(counts[s] * level[s].astype(np.float64) for s in level) / sum(counts.values())
    got = unpack_arrays(nodes.sent["train/2"], declared_release("train/1", PROGRAMME))["level"]
    np.testing.assert_allclose(got, mean, rtol=1e-5)


# --- names and numbers of a study ----------------------------------------------------------------


@pytest.mark.parametrize(
    "site", ["../../../keys/coordinator", "a/b", "..", "", "Ä", "a" * 65, ".hidden", "a\n"]
)
def test_a_site_whose_name_could_be_a_path_is_no_site(make_study: MakeStudy, site: str) -> None:
    key = SigningKey.generate().public_hex
    payload = make_study(sites={site: key}, quorum=1).to_payload()
    with pytest.raises(GemelError, match="GEM101"):
        parse_study(payload)


def test_two_sites_with_one_key_are_one_hospital_counted_twice(make_study: MakeStudy) -> None:
    key = SigningKey.generate().public_hex
    payload = make_study(sites={"north": key, "south": key}).to_payload()
    with pytest.raises(GemelError, match="GEM101"):
        parse_study(payload)


@pytest.mark.parametrize("key", ["", "zz" * 32, "aa" * 31, "AA" * 32])
def test_a_site_needs_a_key_that_can_be_one(make_study: MakeStudy, key: str) -> None:
    payload = make_study(sites={"north": key}, quorum=1).to_payload()
    with pytest.raises(GemelError, match="GEM101"):
        parse_study(payload)


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("training", "noise_multiplier", 1e-3),
        ("training", "noise_multiplier", 1e9),
        ("privacy", "count_noise_multiplier", 1e-3),
        ("privacy", "metrics_noise_multiplier", 1e6),
        ("privacy", "synthesis_noise_multiplier", 1e6),
        ("", "metrics_tables", 10**6),
        ("synthesis", "sites_of_a_person", 10**6),
        ("", "minimum_patients", 10**400),
        ("", "round_timeout_s", 1e300),
    ],
)
def test_numbers_that_no_study_needs_are_refused(
    make_study: MakeStudy, part: str, name: str, value: float
) -> None:
    payload = make_study().to_payload()
    (payload[part] if part else payload)[name] = value
    with pytest.raises(GemelError, match="GEM101"):
        parse_study(payload)


def test_many_noisy_steps_that_add_up_to_no_privacy_are_refused(make_study: MakeStudy) -> None:
    payload = make_study().to_payload()
    payload["training"].update(rounds=10_000, local_steps=10_000, noise_multiplier=1.0)
    with pytest.raises(GemelError, match="GEM101"):
        parse_study(payload)


# --- the certificate tells the truth -------------------------------------------------------------


@pytest.mark.parametrize("task", ["train/1", "synthesise/3"])
def test_the_certificate_says_what_a_site_spent_even_when_its_reply_was_lost(
    federation: Federation, make_study: MakeStudy, task: str
) -> None:
    def lose(site: str, asked: str, envelope: Envelope) -> Envelope | None:
        return None if (site, asked) == ("gamma", task) else envelope

    coordinator, run, _ = start(federation, make_study(), lose)
    coordinator.run()
    sites = certificate(run)["sites"]
    assert {site: facts["epsilon_spent"] for site, facts in sites.items()} == _spent(federation)
    assert all(facts["reported_after"] == "synthesise/3" for facts in sites.values())


def test_a_site_that_stays_away_is_certified_with_what_it_last_reported(
    federation: Federation, make_study: MakeStudy
) -> None:
    asked_last: list[str] = []

    def vanish(site: str, task: str, envelope: Envelope) -> Envelope | None:
        if site == "gamma" and (asked_last or task == "evaluate"):
            asked_last.append(task)
            return None
        return envelope

    coordinator, run, _ = start(federation, make_study(), vanish)
    coordinator.run()
    facts = certificate(run)["sites"]["gamma"]
    assert facts["reported_after"] == "train/2"
    with federation.nodes["gamma"].open_ledger() as ledger:
        assert facts["ledger_seq"] < len(ledger.entries()), "what was lost is on record there, not here"


def test_an_older_answer_from_an_outbox_does_not_lower_what_a_site_spent(
    federation: Federation, make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_study()
    coordinator, run, _ = start(federation, first)
    save = RunFolder.save_state

    def crash(self: RunFolder, state: dict[str, Any]) -> None:
        if len(state["tasks"]) == len(first.tasks):
            raise KeyboardInterrupt
        save(self, state)

    monkeypatch.setattr(RunFolder, "save_state", crash)
    with pytest.raises(KeyboardInterrupt):
        coordinator.run()
    monkeypatch.undo()
    noisier = msgspec.structs.replace(first.privacy, synthesis_noise_multiplier=25.0)
    second = make_study(study_id="second", privacy=noisier)
    start(federation, second)[0].run()
    resumed, _, _ = start(federation, first)
    resumed.run()
    sites = certificate(run)["sites"]
    assert {site: facts["epsilon_spent"] for site, facts in sites.items()} == _spent(federation)


def test_a_release_that_the_certificate_does_not_name_is_not_used(
    federation: Federation, make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study()
    coordinator, run, _ = start(federation, study)
    save = RunFolder.save_state

    def crash(self: RunFolder, state: dict[str, Any]) -> None:
        if len(state["tasks"]) == len(study.tasks):
            raise KeyboardInterrupt
        save(self, state)

    monkeypatch.setattr(RunFolder, "save_state", crash)
    with pytest.raises(KeyboardInterrupt):
        coordinator.run()
    monkeypatch.undo()

    def away(site: str, task: str, envelope: Envelope) -> Envelope | None:
        return None if (site, task) == ("gamma", "synthesise/3") else envelope

    resumed, _, _ = start(federation, study, away)
    resumed.run()
    assert missing(certificate(run)["tasks"][-1]) == {"gamma": "GEM502"}
    assert len(results.releases(run, "synthesise/3", PROGRAMME)) == 2


def test_a_resumed_run_does_not_wait_for_a_dead_node_as_long_as_for_a_steward(
    federation: Federation, make_study: MakeStudy
) -> None:
    def lose(site: str, task: str, envelope: Envelope) -> Envelope | None:
        return None if task == "train/2" and site != "alpha" else envelope

    study = make_study(round_timeout_s=20.0)
    with pytest.raises(GemelError, match="GEM501"):
        start(federation, study, lose)[0].run()
    nodes, clock = Nodes(federation, faithful), Clock()
    nodes.nodes = lambda: frozenset({0, 1})  # type: ignore[method-assign]
    Coordinator(
        federation.coordinator,
        study.sha256,
        nodes,
        directory=listed(federation),
        approval_timeout_s=3600,
        clock=clock,
        sleep=clock.sleep,
    ).run()
    assert clock.now < 60
    tasks = {t["task"]: t for t in certificate(federation.coordinator.run(study.sha256))["tasks"]}
    assert missing(tasks["train/2"]) == {"gamma": "GEM502"}


# --- two runs, torn files, lost messages ---------------------------------------------------------


def test_of_two_runs_of_one_study_the_older_gives_way(federation: Federation, make_study: MakeStudy) -> None:
    study = make_study()
    started: list[Coordinator] = []

    def meanwhile(site: str, task: str, envelope: Envelope) -> Envelope:
        if task == "train/1" and not started:
            started.append(start(federation, study)[0])
            started[0].run()
        return envelope

    older, run, _ = start(federation, study, meanwhile)
    with pytest.raises(GemelError, match="GEM504"):
        older.run()
    assert certificate(run)["status"] == "complete"
    state = json.loads((run.folder / "state.json").read_bytes())
    assert [t["task"] for t in state["tasks"]] == list(study.tasks)


def test_a_line_that_a_crash_tore_does_not_hide_the_lines_after_it(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.event("started")
    with (tmp_path / "events.ndjson").open("ab") as file:
        file.write(b'{"event":"tas')
    run.event("resumed")
    assert [event["event"] for _, event in run.events()] == ["started", "resumed"]


class _Link:
    """A SuperLink that runs nothing and says that every run goes on."""

    def start_run(self, _study: str, *, approval_timeout_s: float) -> int:
        return int(approval_timeout_s > 0)

    def run_status(self, _run: int) -> tuple[str, str]:
        return "running", ""


def test_a_run_that_is_started_again_is_not_taken_for_its_earlier_end(
    federation: Federation, make_study: MakeStudy
) -> None:
    study = signed(make_study())
    run = federation.coordinator.admit(study)
    run.event("finished", code="GEM501", certificate="")
    federation.superlink = _Link()  # type: ignore[assignment]
    with pytest.raises(GemelError, match="GEM504"):
        run_study(federation, study, watch=lambda _event: None, timeout_s=0.5)


@pytest.fixture
def any_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside a run Flower makes no messages."""
    monkeypatch.setattr(server_app, "Message", lambda *args, **named: (args, named))


@pytest.mark.usefixtures("any_message")
def test_a_message_that_flower_did_not_take_counts_as_a_node_that_is_away() -> None:
    grid = SimpleNamespace(push_messages=lambda messages: ["", "id"], pull_messages=lambda _ids: [])
    transport = GridTransport(grid)  # type: ignore[arg-type]
    transport.send({1: Envelope(document=b"x"), 2: Envelope(document=b"x")})
    assert transport.receive() == [Answer(1, None)]
    assert transport.receive() == []


@pytest.mark.usefixtures("any_message")
def test_an_answer_to_an_earlier_message_is_heard_and_its_failure_is_not() -> None:
    envelope = Envelope(document=b"x")
    content = RecordDict({server_app.RECORD: server_app.to_record(envelope)})

    def message(to: str, *, failed: bool) -> SimpleNamespace:
        return SimpleNamespace(
            content=content, metadata=SimpleNamespace(reply_to_message_id=to), has_error=lambda: failed
        )

    names, came = iter("abcd"), list[SimpleNamespace]()
    grid = SimpleNamespace(
        push_messages=lambda messages: [next(names) for _ in messages],
        pull_messages=lambda ids: [m for m in came if m.metadata.reply_to_message_id in ids],
    )
    transport = GridTransport(grid)  # type: ignore[arg-type]
    for _ in range(4):
        transport.send({1: envelope})
    came[:] = [message("a", failed=False)]
    assert transport.receive() == [Answer(1, envelope)]
    assert transport.receive() == [], "each once"
    came[:] = [message("b", failed=True)]
    assert transport.receive() == [], "the node has been asked again since"
    came[:] = [message("d", failed=True), message("c", failed=False)]
    assert transport.receive() == [Answer(1, None), Answer(1, envelope)]


@pytest.mark.usefixtures("any_message")
@pytest.mark.parametrize("content", [RecordDict(), RecordDict({"gemel": ConfigRecord({"document": 1})})])
def test_a_message_without_an_envelope_is_no_answer(content: RecordDict) -> None:
    metadata = SimpleNamespace(reply_to_message_id="id")
    message = SimpleNamespace(content=content, metadata=metadata, has_error=lambda: False)
    grid = SimpleNamespace(push_messages=lambda _messages: ["id"], pull_messages=lambda _ids: [message])
    transport = GridTransport(grid)  # type: ignore[arg-type]
    transport.send({2: Envelope(document=b"x")})
    assert transport.receive() == [Answer(2, None)]


def test_a_run_that_fails_tells_flower_its_code_and_no_more(
    federation: Federation, make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_self: Coordinator) -> None:
        raise GemelError("GEM501", "the secret name of a hospital")

    study = make_study()
    federation.coordinator.admit(signed(study))
    monkeypatch.setenv(HOME_VARIABLE, str(federation.coordinator.folder))
    monkeypatch.setattr(Coordinator, "run", fail)
    context = SimpleNamespace(run_config={"study": study.sha256})
    with pytest.raises(RuntimeError) as caught:
        server_app.main(SimpleNamespace(), context)  # type: ignore[arg-type]
    assert str(caught.value) == "GEM501"


def test_the_serverapp_process_neither_unpacks_nor_loads_what_was_submitted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded: list[object] = []
    for name in ("install_from_fab", "get_project_dir", "get_project_config", "get_fused_config_from_dir"):
        monkeypatch.setattr(internals.runtime, name, getattr(internals.runtime, name))
    monkeypatch.setattr(internals.runtime, "run_", lambda **named: loaded.append(named["loaded_server_app"]))
    monkeypatch.setattr(internals, "shorten_pull_back_off", lambda: None)
    internals.prepare_server_app(server_app.app)
    assert internals.runtime.install_from_fab(b"not even a zip file") is None
    internals.runtime.run_(grid=None, context=None, server_app_dir="evil", loaded_server_app="evil")
    assert loaded == [server_app.app]
