"""What Prometheus sees of a node: states, codes, days and ε, as they are now; and nothing of a patient."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from one_node import Talk

from gemel.cli.demo.federation import Federation
from gemel.client_node import metrics, serving
from gemel.client_node.approvals import Decision
from gemel.client_node.connection import ConnectionNote, Standing
from gemel.client_node.metrics import NodeCollector
from gemel.client_node.patients import VIRTUAL
from gemel.core.errors import GemelError
from gemel.core.messages import HELLO
from gemel.core.study import Study

MakeStudy = Callable[..., Study]


@pytest.fixture
def talk(federation: Federation, make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch) -> Talk:
    monkeypatch.setattr(metrics, "_LEDGER_EVERY_S", 0.0)
    return Talk(federation, make_study())


def read(collector: NodeCollector) -> dict[str, float]:
    found: dict[str, float] = {}
    for metric in collector.collect():
        for sample in metric.samples:
            labels = ",".join(sample.labels[name] for name in sorted(sample.labels))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_a_studys_life_moves_the_metrics(talk: Talk) -> None:
    collector = NodeCollector(talk.home)
    assert read(collector)["gemel_node_epsilon_max"] == 0.0
    talk.propose()
    assert read(collector)["gemel_node_studies{waiting}"] == 1
    talk.decide()
    talk.ask(HELLO)
    talk.ask("count")
    after = read(collector)
    assert after["gemel_node_studies{approved}"] == 1
    assert after["gemel_node_studies{waiting}"] == 0
    assert 0 < after["gemel_node_epsilon_max"] <= after["gemel_node_epsilon_cap"] == 3.0
    assert after["gemel_node_answers_total{,released}"] == 1
    talk.decide(Decision.REFUSED)
    for _ in range(3):
        talk.ask("count")
    after = read(collector)
    assert after["gemel_node_studies{refused}"] == 1
    assert after["gemel_node_answers_total{GEM401,refused}"] == 3
    assert read(collector) | {"gemel_node_key_days_left": 0} == after | {"gemel_node_key_days_left": 0}


def test_answers_are_counted_from_the_log_once_and_by_a_new_process_again(talk: Talk) -> None:
    collector = NodeCollector(talk.home)
    for _ in range(3):
        talk.ask("count")
        read(collector)
    name = "gemel_node_answers_total{GEM401,refused}"
    assert read(collector)[name] == read(NodeCollector(talk.home))[name] == 3


def test_a_ledger_that_does_not_open_is_said_and_its_numbers_are_left_out(talk: Talk) -> None:
    collector = NodeCollector(talk.home)
    assert read(collector)["gemel_node_ledger_readable"] == 1.0
    (talk.home.folder / "ledger.sqlite.anchor").write_text("{}")
    found = read(collector)
    assert found["gemel_node_ledger_readable"] == 0.0
    assert "gemel_node_epsilon_max" not in found


def test_the_connection_is_told_as_it_was_last_noted(talk: Talk) -> None:
    assert "gemel_node_connected" not in read(NodeCollector(talk.home))
    note = ConnectionNote(talk.home.folder)
    note.write(Standing.CONNECTED, node_id=1, clock_ahead_s=2.0)
    found = read(NodeCollector(talk.home))
    assert (found["gemel_node_connected"], found["gemel_node_clock_ahead_seconds"]) == (1.0, 2.0)
    note.write(Standing.UNREACHABLE)
    assert read(NodeCollector(talk.home))["gemel_node_connected"] == 0.0


def test_no_metric_is_a_number_of_patients(talk: Talk) -> None:
    talk.propose()
    names = read(NodeCollector(talk.home))
    assert not [name for name in names if "patient" in name or "person" in name or "people" in name]


def test_a_simulations_home_joins_no_federation(talk: Talk) -> None:
    home = talk.home.changed(address="127.0.0.1:1")
    (home.folder / "tls").mkdir()
    Path(home.ca_certificate).write_text("")
    (home.folder / VIRTUAL).write_text("")
    with pytest.raises(GemelError, match="GEM407.*simulation"):
        serving.serve(home)
