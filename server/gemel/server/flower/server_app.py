"""The ServerApp: a coordinator run over Flower's Grid."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid, ServerApp

from gemel.core.errors import GemelError
from gemel.core.messages import Envelope
from gemel.server.coordinator import Coordinator
from gemel.server.flower import HOME_VARIABLE
from gemel.server.flower.internals import hold_answers
from gemel.server.flower.replies import Replies
from gemel.server.home import CoordinatorHome
from gemel.server.transport import Answer, Transport

RECORD = "gemel"

app = ServerApp()


class GridTransport(Transport):
    """Envelopes over a Flower Grid. Every message is listened for until it is answered: a late answer is one too.

    That a message failed counts only of the newest one to its node.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid, self._replies = grid, Replies(grid)
        self.loses_messages = getattr(grid, "loses_messages", True)
        self._node_of_message: dict[str, int] = {}
        self._newest: dict[int, str] = {}
        self._not_taken: list[int] = []

    def nodes(self) -> frozenset[int]:
        """The SuperNodes that are online."""
        return frozenset(self._grid.get_node_ids())

    def send(self, envelopes: Mapping[int, Envelope]) -> None:
        """Push one message to each node."""
        nodes = list(envelopes)
        # What several nodes get is encoded, hashed and stored once.
        contents = {id(each): RecordDict({RECORD: to_record(each)}) for each in envelopes.values()}
        messages = [
            Message(
                contents[id(envelopes[node])],
                dst_node_id=node,
                message_type=MessageType.QUERY,
            )
            for node in nodes
        ]
        for message_id, node in zip(self._grid.push_messages(messages), nodes, strict=True):
            if message_id:
                self._node_of_message[message_id] = node
                self._newest[node] = message_id
            else:
                self._not_taken.append(node)

    def receive(self) -> Sequence[Answer]:
        """Pull the replies that have come; an error of Flower's own means that the node is away."""
        answers = [Answer(node, None) for node in self._not_taken]
        self._not_taken = []
        if not self._node_of_message:
            return answers
        for message in self._replies.pull(list(self._node_of_message)):
            message_id = message.metadata.reply_to_message_id
            node = self._node_of_message.pop(message_id, None)
            if node is None:
                continue
            envelope = None if message.has_error() else from_record(message.content)
            if envelope is None and self._newest.get(node) != message_id:
                continue
            answers.append(Answer(node, envelope))
        return answers


def to_record(envelope: Envelope) -> ConfigRecord:
    """An envelope as Flower carries it: three byte strings."""
    return ConfigRecord({"document": envelope.document, "study": envelope.study, "payload": envelope.payload})


def from_record(content: RecordDict) -> Envelope | None:
    """The envelope inside a message, or None when there is none of the expected form."""
    record = content.get(RECORD)
    if not isinstance(record, ConfigRecord) or set(record) != {"document", "study", "payload"}:
        return None
    values = [record[name] for name in ("document", "study", "payload")]
    if not all(isinstance(value, bytes) for value in values):
        return None
    document, study, payload = (bytes(value) for value in values if isinstance(value, bytes))
    return Envelope(document=document, study=study, payload=payload)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the study that the run names, to its certificate."""
    home = CoordinatorHome(Path(os.environ[HOME_VARIABLE]))
    study_sha256 = str(context.run_config.get("study", ""))
    timeout_s = float(str(context.run_config.get("approval-timeout-s", 3600)))
    hold_answers(grid)
    coordinator = Coordinator(home, study_sha256, GridTransport(grid), approval_timeout_s=timeout_s)
    try:
        coordinator.run()
    except GemelError as error:
        # Flower stores and shows this text: only the code goes there.
        raise RuntimeError(error.code) from None
