"""A node's process: one outbound connection, over which requests are answered until it is stopped.

It never gives up: a coordinator that is down, unreachable for days or that refuses this node is asked again, in pauses
that grow to half a minute. How the connection stands is in the home's `connection.json`.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gemel.client_node.connection import ConnectionNote, Standing
from gemel.client_node.flower import HOME_VARIABLE
from gemel.core.errors import GemelError

if TYPE_CHECKING:
    from flwr.app import Message
    from flwr.clientapp import ClientApp

    from gemel.client_node.flower.internals import Fleet

# The SuperLink holds a pull so long when there is nothing; proxies give up after 60 s.
HELD_S = 20.0
# Without that, how often to ask: soon after work, and when there was none for a while.
SOON_S, LATER_S, SOON_FOR_S = 0.1, 1.0, 60.0
HEARTBEAT_EVERY_S = 4.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
# Flower refuses what was signed more than 5 minutes ago, or more than 5 seconds in the future.
CLOCK_MAY_LAG_S, CLOCK_MAY_LEAD_S = 300.0, 5.0
FLOWER_QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}

logger = logging.getLogger(__name__)


def node_environment(folder: Path) -> dict[str, str]:
    """The environment of a node: Flower quiet, one thread for each sum."""
    return {
        **os.environ,
        **FLOWER_QUIET,
        "FLWR_HOME": str(folder / "flower"),
        "OMP_NUM_THREADS": "1",
        # Of its own: the default is a folder in /tmp, from which another user could have this node run code.
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled"),
        HOME_VARIABLE: str(folder),
    }


def run(folder: Path, *, superlink: str, ca_certificate: Path, port: int | None = None) -> None:
    """Run a node until SIGTERM or SIGINT.

    Args:
        folder: The node's home. One process at a time runs it (GEM407).
        superlink: host:port of the coordinator's SuperLink, or of the proxy before it.
        ca_certificate: The federation's CA.
        port: No longer used: nothing listens.
    """
    del port
    os.environ.update(node_environment(folder))
    logging.basicConfig(
        filename=folder / "node.log", level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with _only_one(folder):
        from gemel.client_node.allow_list import installed_code
        from gemel.client_node.flower.client_app import client_app
        from gemel.client_node.flower.internals import Fleet
        from gemel.client_node.worker.limits import load_limits
        from gemel.client_node.worker.sandbox import hide_memory
        from gemel.client_node.worker.workers import Workers

        workers = Workers(folder, load_limits(folder))
        workers.start()
        hide_memory()  # the keys are in it
        installed_code()  # read once, before there is work
        fleet = Fleet(superlink, ca_certificate=ca_certificate, key=folder / "keys" / "transport.key")
        node = Node(folder, fleet, client_app(workers.compute))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: node.stop())
        try:
            node.serve()
        finally:
            workers.close()


class _Stopped(BaseException):
    """Raised by a signal while nothing is being answered."""


class Node:
    """Answers what the SuperLink brings, and keeps the connection.

    Args:
        folder: The node's home, for `connection.json`.
        fleet: The connection.
        app: What answers a message.
    """

    def __init__(self, folder: Path, fleet: Fleet, app: ClientApp) -> None:
        self._note = ConnectionNote(folder)
        self._fleet, self._app = fleet, app
        self._stopping = threading.Event()
        self._idle = False
        self._asked_at = 0.0

    def stop(self) -> None:
        """End `serve`: at once when it waits, else after the task at hand. To be called by a signal's handler."""
        self._stopping.set()
        self._fleet.stop()
        if self._idle:
            raise _Stopped

    def serve(self) -> None:
        """Come online, again and again, and answer; until told to stop."""
        from gemel.client_node.flower.internals import Refused, Unreachable

        pause_s = FIRST_PAUSE_S
        while not self._stopping.is_set():
            try:
                node_id = self._fleet.activate(earlier=self._note.node_id)
                pause_s = FIRST_PAUSE_S
                with self._online(node_id):
                    self._attend(node_id)
                break
            except _Stopped:
                break
            except Unreachable as error:
                self._tell(Standing.UNREACHABLE, "", str(error))
            except Refused as error:
                wrong = not -CLOCK_MAY_LAG_S < self._fleet.clock_ahead_s < CLOCK_MAY_LEAD_S
                self._tell(Standing.REFUSED, "GEM426" if wrong else "GEM425", str(error))
            self._stopping.wait(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        self._idle = False
        with contextlib.suppress(Unreachable, Refused):
            self._fleet.deactivate()
        self._note.write(Standing.STOPPED, clock_ahead_s=self._fleet.clock_ahead_s)

    def _attend(self, node_id: int) -> None:
        """Answer message after message. A broken connection is waited for; raises Refused."""
        from gemel.client_node.flower.internals import Incomplete, Unreachable, failed

        pause_s = SOON_S
        while not self._stopping.is_set():
            try:
                self._idle = True
                message = self._fleet.pull(wait_s=HELD_S)
                self._idle = False
            except Unreachable as error:
                self._tell(Standing.UNREACHABLE, "", str(error))
                self._stopping.wait(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                continue
            except Incomplete as incomplete:
                self._fleet.push(failed(incomplete.head, node_id), seconds=0.0)
                continue
            pause_s = SOON_S
            self._tell(Standing.CONNECTED, "", "")
            if message is not None:
                self._answer(message, node_id)
            elif not self._fleet.wakes:
                recent = time.monotonic() - self._asked_at < SOON_FOR_S
                self._stopping.wait(SOON_S if recent else LATER_S)

    def _answer(self, message: Message, node_id: int) -> None:
        from gemel.client_node.flower.internals import Refused, failed, identify

        started = time.monotonic()
        try:
            reply = self._app(message, identify(message, node_id))
        except Exception:
            # The app catches what a task may raise: this message was none of ours.
            logger.exception("a message could not be answered")
            reply = failed(message, node_id)
        self._asked_at = time.monotonic()
        try:
            self._fleet.push(reply, seconds=self._asked_at - started)
        except Refused as refused:
            if refused.status == 401:
                raise
            # The run has ended meanwhile. What was released is in the outbox, and was charged.
            logger.warning("a reply was not taken: %s", refused)

    @contextmanager
    def _online(self, node_id: int) -> Iterator[None]:
        """Heartbeats while it lasts: a task may take hours."""
        from gemel.client_node.flower.internals import Refused, Unreachable

        self._tell(Standing.CONNECTED, "", "", node_id=node_id)
        over = threading.Event()

        def beat() -> None:
            while not over.wait(HEARTBEAT_EVERY_S):
                try:
                    self._fleet.beat()
                except (Unreachable, Refused) as error:
                    logger.warning("heartbeat: %s", error)
                except Exception:
                    # Without heartbeats the coordinator would take this node for gone: whatever it was, the next is sent.
                    logger.exception("heartbeat")

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(HEARTBEAT_EVERY_S)

    def _tell(self, standing: Standing, code: str, why: str, *, node_id: int = 0) -> None:
        ahead = self._fleet.clock_ahead_s
        if self._note.write(standing, code=code, why=why, node_id=node_id, clock_ahead_s=ahead):
            logger.log(
                logging.INFO if standing is Standing.CONNECTED else logging.WARNING,
                "coordinator: %s %s %s (clock ahead by %.0f s)",
                *(standing, code, why, ahead),
            )


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Two processes of one node would end each other's session again and again."""
    with (folder / "node.running").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise GemelError("GEM407", f"The node at {folder} is run by another process.") from error
        yield


if __name__ == "__main__":
    home, address, ca = sys.argv[1:4]
    run(Path(home), superlink=address, ca_certificate=Path(ca))
