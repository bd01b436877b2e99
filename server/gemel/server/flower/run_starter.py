"""Starts our ServerApp for each run that waits at the SuperLink: a process with everything imported forks one child each.

It takes the place of Flower's SuperExec, under the same secret. A child is Flower's `flwr-serverapp` with our app in it: it
pulls its input, sends its heartbeats and reports how it ended. Runs go on when this process dies.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
from pathlib import Path

import httpx

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 10.0
# When the SuperLink does not hold the question.
BETWEEN_QUESTIONS_S = 0.2

logger = logging.getLogger(__name__)


def serve(address: str, *, ca_certificate: Path, secret: Path, log: Path) -> None:
    """Start a child for each run, for ever; a SuperLink that is away is waited for.

    Args:
        address: host:port of the SuperLink's Runtime API.
        ca_certificate: The federation's CA.
        secret: The file with the SuperExec secret.
        log: Where children write.
    """
    import torch

    from gemel.server.flower import internals
    from gemel.server.flower.server_app import app

    torch.set_num_threads(1)  # no thread pool to carry over a fork
    internals.prepare_server_app(app)
    pause_s = FIRST_PAUSE_S
    tokens: dict[int, str] = {}
    while True:
        try:
            for token in internals.tokens_of_runs(address, ca_certificate=ca_certificate, secret=secret):
                pause_s = FIRST_PAUSE_S
                _reap(tokens, address, ca_certificate)
                if not token:
                    continue
                child = os.fork()
                if child == 0:
                    os._exit(_child(address, token, ca_certificate=ca_certificate, log=log))
                tokens[child] = token
                logger.info("a run is started by process %d", child)
        except httpx.HTTPError as error:
            logger.warning("the SuperLink does not answer: %s", type(error).__name__)
        _reap(tokens, address, ca_certificate)
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _child(address: str, token: str, *, ca_certificate: Path, log: Path) -> int:
    from gemel.server.flower import internals

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    try:
        internals.run_server_app(address, token, ca_certificate=ca_certificate)
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else 0
    except BaseException:
        logger.exception("a run's process failed")
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _reap(tokens: dict[int, str], address: str, ca_certificate: Path) -> None:
    """Take note of children that ended, and say so of one that could not say it itself."""
    from gemel.server.flower import internals

    for child, token in list(tokens.items()):
        ended, status = os.waitpid(child, os.WNOHANG)
        if not ended:
            continue
        del tokens[child]
        code = os.waitstatus_to_exitcode(status)
        logger.info("process %d ended with %d", child, code)
        if code < 0:
            with contextlib.suppress(httpx.HTTPError):  # its heartbeats are missed in a minute
                internals.report_death(address, token, ca_certificate=ca_certificate, status=code)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    superlink, ca, secret_file, child_log = sys.argv[1:5]
    serve(superlink, ca_certificate=Path(ca), secret=Path(secret_file), log=Path(child_log))
