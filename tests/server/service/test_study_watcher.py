"""What the watcher makes of runs: states, restarts, refusals that stay, true ends only."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from running_service import Running, running
from study_life import CoordinatorRuns, Told, admit_members, until

from gemel.cli.demo.federation import Federation
from gemel.client_node.approvals import Decision
from gemel.core.signing import SigningKey, sign_document
from gemel.core.study import Study
from gemel.server import studies
from gemel.server.service import watcher as watching
from gemel.server.service.runs import RunState
from gemel.server.service.watcher import LONGEST_BACK_OFF_S, Watcher
from gemel.server.store import open_store
from gemel.server.studies import StudyState

MakeStudy = Callable[..., Study]


class Clock:
    now = 4e9  # after whatever was written down with the true time

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def served(federation: Federation, tmp_path: Path) -> Iterator[Running]:
    """The service of the federation's own coordinator; its hospitals are members."""
    engine = open_store(f"sqlite:///{tmp_path / 'served.sqlite'}")
    with running(federation.coordinator.folder, engine) as it:
        admit_members(it, federation.site_keys)
        yield it
    engine.dispose()


def submit(client: httpx.Client, key: SigningKey, study: Study) -> str:
    """Draft, sign and submit; returns the id."""
    document = json.loads(sign_document("study", study.to_payload(), key, role="proposer").to_bytes())
    study_id: str = client.post("/api/v1/studies", json={"study": study.to_payload()}).json()["id"]
    answer = client.post(f"/api/v1/studies/{study_id}/signed", json={"document": document})
    assert answer.status_code == 200, answer.text
    answer = client.post(f"/api/v1/studies/{study_id}/submit", json={"approval_days": 1})
    assert answer.status_code == 200, answer.text
    return study_id


def detail(client: httpx.Client, study_id: str) -> dict[str, Any]:
    got: dict[str, Any] = client.get(f"/api/v1/studies/{study_id}").json()
    return got


def said(client: httpx.Client, study_id: str) -> dict[str, str]:
    return {site["site"]: site["status"] for site in detail(client, study_id)["sites"]}


def states(client: httpx.Client, study_id: str) -> list[str]:
    return [step["state"] for step in detail(client, study_id)["history"]]


@pytest.fixture
def submitted(served: Running, make_study: MakeStudy) -> Iterator[tuple[Running, httpx.Client, str, Told]]:
    """A study that was submitted, whose run has begun."""
    _, client, key = served.scientist("ada")
    study_id = submit(client, key, make_study())
    served.watcher.look()
    assert len(served.engine.started) == 1
    told = Told(served.service.home, make_study().sha256)
    yield served, client, study_id, told
    told.dies()


def _look(served: Running, clock: Clock | None = None) -> None:
    if clock is not None:
        clock.now += 1000
        served.watcher._clock = clock
    served.watcher.look()


def test_k_approvals_make_it_approved_and_the_first_task_running(submitted: Any) -> None:
    served, client, study_id, run = submitted
    run.says("pending", "alpha", "beta", "gamma").says("approved", "alpha")
    _look(served)
    assert detail(client, study_id)["study"]["state"] == "proposed"
    run.says("approved", "beta")
    _look(served)
    assert detail(client, study_id)["study"]["state"] == "approved"
    run.begins("count")
    _look(served)
    assert states(client, study_id) == ["draft", "signed", "proposed", "approved", "running"]


def test_a_refusal_stays_whatever_the_others_say(submitted: Any) -> None:
    served, client, study_id, run = submitted
    run.says("refused", "gamma", code="GEM402").says("approved", "alpha", "beta").begins("count")
    _look(served)
    run.ends("GEM501")
    _look(served)
    sites = {s["site"]: (s["status"], s["code"]) for s in detail(client, study_id)["sites"]}
    assert sites["gamma"] == ("refused", "GEM402")


def test_a_run_that_ended_without_a_certificate_is_begun_again_for_ever_with_a_bounded_wait(
    submitted: Any,
) -> None:
    served, client, study_id, _ = submitted
    clock, waits = Clock(), []
    served.watcher._clock = clock
    for again in range(1, 12):
        served.engine.states[str(again)] = RunState.ENDED
        clock.now += 10
        served.watcher.look()  # sees the end
        began = clock.now
        while len(served.engine.started) == again and clock.now < began + 2 * LONGEST_BACK_OFF_S:
            served.watcher.look()
            clock.now += 7
        waits.append(clock.now - began)
    assert waits[0] <= 14
    assert max(waits) <= LONGEST_BACK_OFF_S + 14
    assert waits == sorted(waits)
    assert detail(client, study_id)["study"]["state"] == "proposed"


def test_a_run_that_was_killed_is_missed_before_the_engine_notices(submitted: Any) -> None:
    served, _, _, run = submitted
    clock = Clock()
    served.watcher._clock = clock
    run.says("approved", "alpha", "beta").begins("count")
    for _ in range(3):
        served.watcher.look()
        clock.now += 0.5
    assert len(served.engine.started) == 1
    run.dies()
    for _ in range(6):
        served.watcher.look()
        clock.now += 0.5
    assert served.engine.states["1"] is RunState.GOING  # what the engine still says
    assert len(served.engine.started) == 2


def test_a_completed_task_makes_the_wait_short_again(submitted: Any) -> None:
    served, client, study_id, run = submitted
    with served.service.engine.begin() as connection:
        studies.keep(connection, study_id, restarts=9)
    run.says("approved", "alpha", "beta").begins("count").run.event("task_done", task="count")
    _look(served)
    assert detail(client, study_id)["study"]["restarts"] == 0


def test_an_engine_that_is_down_is_waited_for(served: Running, make_study: MakeStudy) -> None:
    _, client, key = served.scientist("ada")
    served.engine.down = True
    submit(client, key, make_study())
    clock = Clock()
    for _ in range(3):
        _look(served, clock)
    assert served.engine.started == []
    served.engine.down = False
    _look(served, clock)
    assert len(served.engine.started) == 1


def test_a_service_that_died_goes_on_with_what_was_running(submitted: Any) -> None:
    served, client, study_id, run = submitted
    run.says("approved", "alpha", "beta").begins("count")
    _look(served)
    fresh = Watcher(served.service, served.engine)  # all that it knows is in the store
    fresh.look()
    assert len(served.engine.started) == 1  # the run goes on: no second one
    served.engine.states["1"] = RunState.ENDED  # the whole machine died
    clock = Clock()
    reborn = Watcher(served.service, served.engine, clock=clock)
    reborn.look()
    clock.now += 10
    reborn.look()
    assert len(served.engine.started) == 2
    assert detail(client, study_id)["study"]["state"] == "running"


def test_a_false_certificate_finishes_nothing(submitted: Any) -> None:
    served, client, study_id, run = submitted
    run.says("approved", "alpha", "beta").begins("count").ends("GEM501")
    true = run.run.certificate
    assert true is not None
    payload = {**true.payload, "status": "complete", "code": ""}
    forged = sign_document("certificate", payload, SigningKey.generate(), role="coordinator")
    run.run.save_certificate(forged)
    run.run.event("finished", code="", certificate=forged.payload_sha256)
    _look(served)
    study = detail(client, study_id)["study"]
    assert (study["state"], study["code"]) == ("failed", "GEM918")


def test_even_the_coordinator_s_key_cannot_finish_a_run_that_did_nothing(submitted: Any) -> None:
    served, client, study_id, run = submitted
    run.says("approved", "alpha", "beta").begins("count").ends("GEM501")
    true = run.run.certificate
    assert true is not None
    payload = {**true.payload, "status": "complete", "code": ""}
    forged = sign_document("certificate", payload, served.service.home.key, role="coordinator")
    run.run.save_certificate(forged)
    run.run.event("finished", code="", certificate=forged.payload_sha256)
    _look(served)
    assert detail(client, study_id)["study"]["state"] == "failed"


def test_an_earlier_run_s_end_does_not_end_the_resumed_one(submitted: Any) -> None:
    served, client, study_id, run = submitted
    run.says("approved", "alpha", "beta").begins("count").ends("GEM501")
    _look(served)
    assert detail(client, study_id)["study"]["state"] == "failed"
    assert client.post(f"/api/v1/studies/{study_id}/resume", json={}).status_code == 200
    _look(served)
    _look(served)
    assert detail(client, study_id)["study"]["state"] == "proposed"
    assert len(served.engine.started) == 2


def test_nothing_is_resumed_that_a_key_signed_which_was_taken_back(submitted: Any) -> None:
    served, client, study_id, run = submitted
    run.ends("GEM501")
    _look(served)
    key = client.get("/api/v1/me").json()["keys"][0]
    client.delete(f"/api/v1/me/keys/{key}")
    answer = client.post(f"/api/v1/studies/{study_id}/resume", json={})
    assert answer.json()["error"]["code"] == "GEM911"


def test_a_study_that_is_stopped_while_its_engine_is_away_still_ends_with_a_certificate(
    submitted: Any,
) -> None:
    served, client, study_id, run = submitted
    served.engine.states["1"] = RunState.ENDED
    clock = Clock()
    _look(served, clock)
    client.post(f"/api/v1/studies/{study_id}/stop", json={"reason": "a mistake"})
    assert detail(client, study_id)["study"]["stop_asked"]
    _look(served, clock)
    assert run.run.stop_asked
    assert len(served.engine.started) == 2  # begun once more, to say that it was stopped
    run.ends(watching.STOPPED_BY_REQUEST)
    _look(served, clock)
    study = detail(client, study_id)["study"]
    assert (study["state"], study["stop_asked"]) == ("stopped", False)


def test_what_goes_wrong_with_one_study_does_not_keep_the_others_waiting(
    served: Running, make_study: MakeStudy
) -> None:
    _, client, key = served.scientist("ada")
    first = submit(client, key, make_study(study_id="one"))
    second = submit(client, key, make_study(study_id="two"))
    served.watcher.look()
    told = {name: Told(served.service.home, make_study(study_id=name).sha256) for name in ("one", "two")}
    (told["one"].run.folder / "state.json").write_bytes(b"{ torn")
    for run in told.values():
        run.says("approved", "alpha", "beta").begins("count")
    served.watcher.look()
    for run in told.values():
        run.dies()
    assert detail(client, second)["study"]["state"] == "running"
    assert detail(client, first)["study"]["state"] == "proposed"


# --- with the real coordinator and real nodes ----------------------------------------------------------


@pytest.fixture
def real(served: Running, federation: Federation) -> Iterator[tuple[Running, CoordinatorRuns]]:
    runs = CoordinatorRuns(federation)
    watcher = Watcher(served.service, runs)
    watcher.start()
    yield served, runs
    watcher.stop()


def _until_state(client: httpx.Client, study_id: str, *wanted: StudyState, seconds: float = 60.0) -> None:
    until(lambda: detail(client, study_id)["study"]["state"] in wanted, seconds=seconds)


@pytest.mark.heavy
def test_two_studies_run_at_once_and_a_refused_hospital_stays_out(
    real: tuple[Running, CoordinatorRuns], make_study: MakeStudy
) -> None:
    served, runs = real
    runs.decide = lambda site: Decision.REFUSED if site == "gamma" else Decision.APPROVED
    _, client, key = served.scientist("ada")
    first = submit(client, key, make_study(study_id="one"))
    second = submit(client, key, make_study(study_id="two", privacy=_half(make_study())))
    for study_id in (first, second):
        _until_state(client, study_id, StudyState.FINISHED, StudyState.FAILED)
        assert detail(client, study_id)["study"]["state"] == "finished"
        assert said(client, study_id) == {"alpha": "approved", "beta": "approved", "gamma": "refused"}
        certificate = client.get(f"/api/v1/studies/{study_id}/certificate").json()["payload"]
        assert certificate["sites"]["gamma"]["status"] == "refused"
        last = client.get(f"/api/v1/studies/{study_id}/files").json()[-1]
        assert last["sha256"] == certificate["model_sha256"]
        content = client.get(f"/api/v1/studies/{study_id}/files/{last['sha256']}").content
        assert len(content) == last["bytes"]


def test_a_study_is_stopped_with_a_certificate_and_resumed_to_its_end(
    real: tuple[Running, CoordinatorRuns], make_study: MakeStudy
) -> None:
    served, runs = real
    waiting = {"alpha", "beta", "gamma"}
    runs.decide = lambda site: None if site in waiting else Decision.APPROVED
    _, client, key = served.scientist("ada")
    study_id = submit(client, key, make_study())
    until(lambda: len(said(client, study_id)) == 3)
    answer = client.post(f"/api/v1/studies/{study_id}/stop", json={"reason": "a better idea"})
    assert answer.status_code == 200
    _until_state(client, study_id, StudyState.STOPPED)
    certificate = client.get(f"/api/v1/studies/{study_id}/certificate").json()["payload"]
    assert (certificate["status"], certificate["code"]) == ("stopped", watching.STOPPED_BY_REQUEST)
    waiting.clear()
    assert client.post(f"/api/v1/studies/{study_id}/resume", json={}).status_code == 200
    _until_state(client, study_id, StudyState.FINISHED, StudyState.FAILED)
    assert states(client, study_id) == [
        "draft",
        "signed",
        "proposed",
        "proposed",  # asked to stop
        "stopped",
        "proposed",
        "approved",
        "running",
        "finished",
    ]
    assert [s["reason"] for s in detail(client, study_id)["history"] if s["reason"]] == ["a better idea"]


def test_the_events_are_waited_for(real: tuple[Running, CoordinatorRuns], make_study: MakeStudy) -> None:
    served, _ = real
    _, client, key = served.scientist("ada")
    study_id = submit(client, key, make_study())
    after, seen = 0, []
    for _ in range(200):
        got = client.get(f"/api/v1/studies/{study_id}/events", params={"after": after, "wait": 5}).json()
        seen += [event["event"] for event in got["events"]]
        after = got["next"]
        if got["state"] == "finished":
            break
    assert seen[0] == "started"
    assert seen[-1] == "finished"
    assert seen.count("task_done") == len(make_study().tasks)


def _half(study: Study) -> Any:
    """A plan of which two fit into the hospitals' budget."""
    noise = {
        name: 3 * getattr(study.privacy, name)
        for name in ("count_noise_multiplier", "metrics_noise_multiplier", "synthesis_noise_multiplier")
    }
    return msgspec.structs.replace(study.privacy, **noise)
