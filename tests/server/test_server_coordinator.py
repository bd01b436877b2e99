"""A whole run in one process: the real coordinator and real nodes, with faults in between."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from in_process import certificate, missing, start

from gemel.cli.demo.federation import Federation
from gemel.core.errors import GemelError
from gemel.core.messages import Envelope, read_reply, sign_reply
from gemel.core.signing import SigningKey
from gemel.core.study import Study
from gemel.privacy.accounting import price
from gemel.server.aggregate import weighted_mean
from gemel.server.home import RunFolder

MakeStudy = Callable[..., Study]


def test_a_run_ends_with_a_certificate_that_names_every_contribution(
    federation: Federation, make_study: MakeStudy
) -> None:
    study = make_study()
    coordinator, run, _ = start(federation, study)
    coordinator.run()
    payload = certificate(run)
    assert payload["status"] == "complete"
    assert [task["task"] for task in payload["tasks"]] == list(study.tasks)
    for task in payload["tasks"]:
        assert [c["site"] for c in task["contributions"]] == sorted(study.sites)
        assert task["missing"] == []
    for site, home in federation.nodes.items():
        with home.open_ledger() as ledger:
            assert payload["sites"][site]["epsilon_spent"] == ledger.epsilon_spent()
            assert payload["sites"][site]["epsilon_spent"] == price(study.charges(), delta=1e-5)


def test_a_site_that_dies_in_a_round_is_named_and_comes_back(
    federation: Federation, make_study: MakeStudy
) -> None:
    def lose(site: str, task: str, envelope: Envelope) -> Envelope | None:
        return None if (site, task) == ("gamma", "train/1") else envelope

    coordinator, run, _ = start(federation, make_study(), spoil=lose)
    coordinator.run()
    tasks = {task["task"]: task for task in certificate(run)["tasks"]}
    assert missing(tasks["train/1"]) == {"gamma": "GEM502"}
    assert [c["site"] for c in tasks["train/1"]["contributions"]] == ["alpha", "beta"]
    assert tasks["train/2"]["missing"] == []


def test_a_site_that_was_away_is_asked_again_and_charged_once(
    federation: Federation, make_study: MakeStudy
) -> None:
    lost: list[str] = []

    def lose_once(site: str, task: str, envelope: Envelope) -> Envelope | None:
        if (site, task) == ("gamma", "train/1") and not lost:
            lost.append(site)
            return None
        return envelope

    study = make_study()
    coordinator, run, transport = start(federation, study, spoil=lose_once)
    coordinator.run()
    assert all(task["missing"] == [] for task in certificate(run)["tasks"])
    assert transport.asked.count(("gamma", "train/1")) == 2
    with federation.nodes["gamma"].open_ledger() as ledger:
        assert ledger.epsilon_spent() == price(study.charges(), delta=1e-5)


def _forge(envelope: Envelope, **changes: object) -> Envelope:
    reply, _ = read_reply(envelope.document)
    forged = sign_reply(msgspec.structs.replace(reply, **changes), SigningKey.generate())
    return Envelope(document=forged.to_bytes(), payload=envelope.payload)


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda e: _forge(e), "GEM503"),
        (lambda e: Envelope(document=e.document, payload=e.payload + b"x"), "GEM503"),
        (lambda e: Envelope(document=b"", payload=e.payload), "GEM101"),
        (lambda e: Envelope(document=e.document.replace(b"released", b"approved")), "GEM103"),
    ],
    ids=["another key", "payload changed", "no document", "document changed"],
)
def test_a_reply_that_does_not_verify_is_not_used(
    federation: Federation, make_study: MakeStudy, spoil: Callable[[Envelope], Envelope], code: str
) -> None:
    def bad(site: str, task: str, envelope: Envelope) -> Envelope:
        return spoil(envelope) if (site, task) == ("beta", "train/2") else envelope

    coordinator, run, _ = start(federation, make_study(), spoil=bad)
    coordinator.run()
    tasks = {task["task"]: task for task in certificate(run)["tasks"]}
    assert missing(tasks["train/2"]) == {"beta": code}


def test_an_old_reply_replayed_is_not_used(federation: Federation, make_study: MakeStudy) -> None:
    kept: dict[str, Envelope] = {}

    def replay(site: str, task: str, envelope: Envelope) -> Envelope:
        if site == "beta":
            kept.setdefault(task, envelope)
            if task == "train/2":
                return kept["train/1"]
        return envelope

    coordinator, run, _ = start(federation, make_study(), spoil=replay)
    coordinator.run()
    tasks = {task["task"]: task for task in certificate(run)["tasks"]}
    assert missing(tasks["train/2"]) == {"beta": "GEM502"}


def test_below_the_quorum_a_run_stops_and_its_certificate_says_so(
    federation: Federation, make_study: MakeStudy
) -> None:
    def lose(site: str, task: str, envelope: Envelope) -> Envelope | None:
        return None if task == "train/2" and site != "alpha" else envelope

    coordinator, run, _ = start(federation, make_study(), spoil=lose)
    with pytest.raises(GemelError, match="GEM501"):
        coordinator.run()
    payload = certificate(run)
    assert (payload["status"], payload["code"]) == ("stopped", "GEM501")
    assert [t["task"] for t in payload["tasks"]] == ["count", "train/1"]
    assert {m["site"] for m in payload["stopped_in"]["missing"]} == {"beta", "gamma"}


def test_a_stopped_run_goes_on_from_its_last_completed_task(
    federation: Federation, make_study: MakeStudy
) -> None:
    def lose(site: str, task: str, envelope: Envelope) -> Envelope | None:
        return None if task == "train/2" and site != "alpha" else envelope

    study = make_study()
    coordinator, run, _ = start(federation, study, spoil=lose)
    with pytest.raises(GemelError, match="GEM501"):
        coordinator.run()
    resumed, _, transport = start(federation, study)
    resumed.run()
    assert certificate(run)["status"] == "complete"
    assert ("alpha", "train/1") not in transport.asked
    for home in federation.nodes.values():
        with home.open_ledger() as ledger:
            assert ledger.epsilon_spent() == price(study.charges(), delta=1e-5)


def test_a_coordinator_killed_before_saving_resumes_without_a_second_charge(
    federation: Federation, make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study()
    coordinator, run, _ = start(federation, study)
    save = RunFolder.save_state

    def crash(self: RunFolder, state: dict[str, object]) -> None:
        if len(state["tasks"]) == 3:
            raise KeyboardInterrupt
        save(self, state)

    monkeypatch.setattr(RunFolder, "save_state", crash)
    with pytest.raises(KeyboardInterrupt):
        coordinator.run()
    monkeypatch.undo()
    resumed, _, _ = start(federation, study)
    resumed.run()
    assert certificate(run)["status"] == "complete"
    for home in federation.nodes.values():
        with home.open_ledger() as ledger:
            assert ledger.epsilon_spent() == price(study.charges(), delta=1e-5)


def test_the_budget_refusal_of_one_site_leaves_the_others_going(
    federation: Federation, make_study: MakeStudy
) -> None:
    home = federation.nodes["gamma"]
    config = msgspec.structs.replace(home.config, epsilon_cap=0.01)
    federation.nodes["gamma"] = type(home)(home.folder, config)
    coordinator, run, _ = start(federation, make_study())
    coordinator.run()
    for task in certificate(run)["tasks"]:
        assert missing(task) == {"gamma": "GEM301"}


weights = st.dictionaries(
    st.sampled_from("abcdef"), st.tuples(st.floats(1, 1e5), st.floats(-10, 10)), min_size=1
)


@given(weights)
def test_the_average_lies_among_its_parts_and_forgets_their_order(
    parts: dict[str, tuple[float, float]],
) -> None:
    updates = {s: {"w": np.array([v], np.float32)} for s, (_, v) in parts.items()}
    counts = {s: n for s, (n, _) in parts.items()}
    mean = weighted_mean(updates, counts)["w"][0]
    values = [u["w"][0] for u in updates.values()]
    assert min(values) - 1e-4 <= mean <= max(values) + 1e-4
    backwards = dict(reversed(updates.items()))
    assert weighted_mean(backwards, counts)["w"][0] == mean
