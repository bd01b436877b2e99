"""The states of studies in a store: only along the arrows, each move with its actor; SQLite and a real PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Engine

from gemel.cli.proposal import propose, usual_training
from gemel.core.errors import GemelError
from gemel.core.signing import SigningKey, sign_document
from gemel.core.study import Study
from gemel.server import studies
from gemel.server.store import open_store
from gemel.server.studies import ACTIVE, ARROWS, StudyState
from gemel.twins.installed import installed

KEY = SigningKey.generate()
# The arrows, written down a second time.
ALLOWED = {
    ("draft", "signed"),
    ("signed", "proposed"),
    ("proposed", "approved"),
    ("proposed", "stopped"),
    ("proposed", "failed"),
    ("approved", "running"),
    ("approved", "stopped"),
    ("approved", "failed"),
    ("running", "finished"),
    ("running", "stopped"),
    ("running", "failed"),
    ("stopped", "proposed"),
    ("failed", "proposed"),
}


def _study(name: str) -> Study:
    training, shares = usual_training(installed()[0], rounds=1)
    return propose(
        installed()[0],
        training,
        shares,
        sites={"north": "aa" * 32, "south": "bb" * 32},
        epsilon=3.0,
        delta=1e-5,
        minimum_patients=10,
        quorum=1,
        round_timeout_s=60.0,
        study_id=name,
    )


BASE = _study("base").to_payload()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    if request.param == "sqlite":
        made = open_store(f"sqlite:///{tmp_path_factory.mktemp('store') / 's.sqlite'}")
    else:
        made = open_store(request.getfixturevalue("postgresql_url"))
    yield made
    made.dispose()


def test_the_arrows_are_those_that_are_meant() -> None:
    assert {(str(a), str(b)) for a, targets in ARROWS.items() for b in targets} == ALLOWED


def _refused(error: GemelError) -> bool:
    """False: the move that a GEM910 refused did not happen."""
    if error.code != "GEM910":
        raise error
    return False


class Life(RuleBasedStateMachine):
    """One study, pushed about at random; a model of two lines says what must have come of it."""

    engine: Engine
    count = 0

    @initialize()
    def draft(self) -> None:
        Life.count += 1
        self.payload = {**BASE, "study_id": f"study {Life.count} {id(self)}"}
        with self.engine.begin() as connection:
            self.id = studies.draft(connection, owner="ada", payload=self.payload).id
        self.path = ["draft"]

    def _try(self, to: str, act) -> None:  # type: ignore[no-untyped-def]
        try:
            with self.engine.begin() as connection:
                act(connection)
            moved = True
        except GemelError as error:
            moved = _refused(error)
        assert moved == ((self.path[-1], to) in ALLOWED)
        if moved:
            self.path.append(to)

    @rule()
    def sign(self) -> None:
        document = sign_document("study", self.payload, KEY, role="proposer")
        self._try("signed", lambda c: studies.sign(c, self.id, document, actor="ada"))

    @rule()
    def propose(self) -> None:
        self._try(
            "proposed",
            lambda c: studies.propose(c, self.id, actor="ada", approval_timeout_s=1.0, events_offset=0),
        )

    @rule(to=st.sampled_from(["approved", "running", "finished", "stopped", "failed", "draft"]))
    def move(self, to: str) -> None:
        self._try(to, lambda c: studies.move(c, self.id, StudyState(to), actor="service"))

    @rule()
    def ask_to_stop(self) -> None:
        active = self.path[-1] in {str(state) for state in ACTIVE}
        try:
            with self.engine.begin() as connection:
                studies.ask_to_stop(connection, self.id, actor="op", reason="why not")
            asked = True
        except GemelError as error:
            asked = _refused(error)
        assert asked == active
        if asked:
            self.path.append(self.path[-1])

    @rule()
    @precondition(lambda self: self.path[-1] == "draft")
    def redraft(self) -> None:
        self.payload = {**self.payload, "title": f"title {len(self.path)}"}
        with self.engine.begin() as connection:
            studies.redraft(connection, self.id, self.payload)

    @rule()
    def look(self) -> None:
        with self.engine.connect() as connection:
            record = studies.get(connection, self.id)
            steps = studies.history(connection, self.id)
        assert record.state == self.path[-1]
        assert [str(step.state) for step in steps] == self.path
        assert all(step.actor and step.at for step in steps)
        assert record.payload == self.payload
        assert (record.study_sha256 is None) == ("signed" not in self.path)


@pytest.fixture
def machine(engine: Engine) -> type[Life]:
    return type("LifeHere", (Life,), {"engine": engine})


def test_a_study_moves_only_along_the_arrows(machine: type[Life]) -> None:
    run_state_machine_as_test(
        machine, settings=settings(max_examples=25, stateful_step_count=15, deadline=None)
    )


def test_what_is_written_is_there_after_the_store_was_opened_anew(tmp_path) -> None:  # type: ignore[no-untyped-def]
    url = f"sqlite:///{tmp_path / 's.sqlite'}"
    first = open_store(url)
    with first.begin() as connection:
        study_id = studies.draft(connection, owner="ada", payload={**BASE, "study_id": "again"}).id
        studies.note_site(connection, study_id, site="north", status="refused", code="GEM402")
    first.dispose()
    second = open_store(url)
    with second.connect() as connection:
        assert studies.get(connection, study_id).state is StudyState.DRAFT
        assert [(s.site, s.status) for s in studies.sites(connection, study_id)] == [("north", "refused")]
    second.dispose()


def test_of_two_who_move_a_study_at_the_same_time_one_does(engine: Engine) -> None:
    import threading

    with engine.begin() as connection:
        study_id = studies.draft(
            connection, owner="ada", payload={**BASE, "study_id": f"race {id(engine)}"}
        ).id
    document = sign_document("study", {**BASE, "study_id": f"race {id(engine)}"}, KEY, role="proposer")
    outcomes: list[str] = []

    def sign() -> None:
        try:
            with engine.begin() as connection:
                studies.sign(connection, study_id, document, actor="ada")
            outcomes.append("signed")
        except GemelError as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=sign) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["GEM910", "GEM910", "GEM910", "signed"]


def test_one_signed_study_is_on_record_once(engine: Engine) -> None:
    payload = {**BASE, "study_id": f"once {id(engine)}"}
    document = sign_document("study", payload, KEY, role="proposer")
    with engine.begin() as connection:
        first, second = (studies.draft(connection, owner="ada", payload=payload).id for _ in range(2))
        studies.sign(connection, first, document, actor="ada")
    with pytest.raises(GemelError, match="GEM909"), engine.begin() as connection:
        studies.sign(connection, second, document, actor="ada")


def test_a_draft_that_is_no_study_is_refused(engine: Engine) -> None:
    for broken in ({}, {**BASE, "extra": 1}, {**BASE, "quorum": 3}, json.loads("[1]")):
        with pytest.raises(GemelError, match="GEM101"), engine.begin() as connection:
            studies.draft(connection, owner="ada", payload=broken)
