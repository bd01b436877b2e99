"""A study's run over virtual nodes: our ServerApp on the in-process grid. For experiments only."""

from __future__ import annotations

import os
from pathlib import Path

from flwr.app import Context, RecordDict

from gemel.server.flower import HOME_VARIABLE
from gemel.server.flower.in_process_grid import ClientCall, InProcessGrid
from gemel.server.flower.server_app import app

APPROVAL_TIMEOUT_S = 86_400


def run_over_grid(home: Path, study_sha256: str, client: ClientCall, nodes: int) -> None:
    """Run a study that is on record in a coordinator's home, to its certificate.

    Args:
        home: The coordinator's.
        study_sha256: The study's hash.
        client: Answers a message, as our ClientApp does; the context's `node_id` names the node.
        nodes: How many; they are numbered from 1.

    Raises RuntimeError with the code, as in a deployment, when the run stops.
    """
    context = Context(
        run_id=1,
        node_id=1,
        node_config={},
        state=RecordDict(),
        run_config={"study": study_sha256, "approval-timeout-s": APPROVAL_TIMEOUT_S},
    )
    before = os.environ.get(HOME_VARIABLE)
    os.environ[HOME_VARIABLE] = str(home)
    try:
        app(InProcessGrid(client, nodes), context)
    finally:
        os.environ.pop(HOME_VARIABLE, None)
        if before is not None:
            os.environ[HOME_VARIABLE] = before
