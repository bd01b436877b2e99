"""What a hospital's Prometheus may watch of its node, on loopback: states, codes, days and ε; nothing about patients."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gemel.client_node.audit_log import FOLDER
from gemel.client_node.connection import Standing, read_connection
from gemel.client_node.home import NodeHome
from gemel.client_node.key_dates import read_dates
from gemel.client_node.status import state_of
from gemel.core.errors import GemelError

# A large ledger takes a second to open: it is asked no more often than this.
_LEDGER_EVERY_S = 60.0
STATES = ("waiting", "waiting for another steward", "approved", "over", "refused")


def serve_metrics(home: NodeHome, *, port: int) -> int:
    """Answer Prometheus on 127.0.0.1 in a thread; the port. Raises GEM407 when it is taken."""
    registry = CollectorRegistry()
    registry.register(NodeCollector(home))
    try:
        server, _ = start_http_server(port, addr="127.0.0.1", registry=registry)
    except OSError as error:
        raise GemelError(
            "GEM407", f"Metrics cannot be served on 127.0.0.1:{port}: {error.strerror}."
        ) from error
    return int(server.server_port)


class NodeCollector(Collector):
    """Reads the home whenever Prometheus asks. A part that cannot be read is left out: absence is an alarm of its own."""

    def __init__(self, home: NodeHome) -> None:
        self._home = home
        self._answers = _Answers(home.folder / FOLDER)
        self._ledger_read_at = -_LEDGER_EVERY_S
        self._spent = 0.0
        self._states: Counter[str] = Counter()
        self._readable = False
        self._lock = threading.Lock()

    def describe(self) -> list[Metric]:
        """None in advance: names depend on nothing, values on the home."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The metrics as of now."""
        with self._lock:
            self._read_ledger()
            yield from self._budget()
            yield from self._connection()
            answers = CounterMetricFamily(
                "gemel_node_answers",
                "Answers of the audit log, by status and code.",
                labels=("status", "code"),
            )
            for (status, code), number in sorted(self._answers.count().items()):
                answers.add_metric((status, code), number)
            yield answers

    def _read_ledger(self) -> None:
        if time.monotonic() - self._ledger_read_at < _LEDGER_EVERY_S:
            return
        self._ledger_read_at = time.monotonic()
        from gemel.client_node import approvals

        try:
            home = NodeHome.open(self._home.folder)  # stewards and limits may have changed
            with home.open_ledger() as ledger:
                self._spent = ledger.epsilon_of_worst_person()
                self._states = Counter(
                    state_of(home, ledger, proposal.study.payload_sha256)
                    for proposal in approvals.proposals(home)
                )
            self._home, self._readable = home, True
        except (GemelError, OSError):
            self._readable = False

    def _budget(self) -> Iterator[Metric]:
        yield _gauge(
            "gemel_node_ledger_readable", "1 when the ledger opens and holds.", float(self._readable)
        )
        if not self._readable:
            return
        config = self._home.config
        yield _gauge("gemel_node_epsilon_max", "Epsilon of the patient who has spent most.", self._spent)
        yield _gauge(
            "gemel_node_epsilon_cap", "What any patient may spend over a lifetime.", config.epsilon_cap
        )
        studies = GaugeMetricFamily(
            "gemel_node_studies", "Studies that arrived, by state.", labels=("state",)
        )
        for state in dict.fromkeys((*STATES, *self._states)):
            studies.add_metric((state,), self._states[state])
        yield studies

    def _connection(self) -> Iterator[Metric]:
        try:
            left = read_dates(self._home.folder / "keys").days_left()
        except GemelError:
            pass
        else:
            yield _gauge("gemel_node_key_days_left", "Days until the node's keys expire.", left)
        replaced = _replaced(self._home.folder)
        if replaced is not None:
            yield CounterMetricFamily(
                "gemel_node_workers_replaced",
                "Workers that ended by themselves, or had to be.",
                value=replaced,
            )
        connection = read_connection(self._home.folder)
        if connection is None:
            return
        up = float(connection.standing is Standing.CONNECTED)
        yield _gauge("gemel_node_connected", "1 while the coordinator answers.", up)
        yield _gauge(
            "gemel_node_connection_seen_timestamp_seconds", "When that was last noted.", connection.at
        )
        yield _gauge(
            "gemel_node_clock_ahead_seconds",
            "This clock against the coordinator's.",
            connection.clock_ahead_s,
        )


class _Answers:
    """Counts the answers of the audit log, reading only what was added since."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._counted: Counter[tuple[str, str]] = Counter()
        self._read: dict[str, int] = {}

    def count(self) -> Counter[tuple[str, str]]:
        for path in sorted(self._folder.glob("[0-9]*.jsonl")):
            at = self._read.get(path.name, 0)
            with path.open("rb") as file:
                file.seek(at)
                whole, end, _ = file.read().rpartition(b"\n")
            for line in whole.split(b"\n") if end else ():
                facts = json.loads(line)["facts"]
                if "status" in facts:
                    self._counted[str(facts["status"]), str(facts.get("code", ""))] += 1
            self._read[path.name] = at + len(whole) + len(end)
        return self._counted


def _replaced(folder: Path) -> int | None:
    """What the node's process wrote of its workers; None when it wrote nothing."""
    try:
        return int(json.loads((folder / "worker.json").read_bytes())["replaced"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _gauge(name: str, meaning: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, meaning, value=value)
