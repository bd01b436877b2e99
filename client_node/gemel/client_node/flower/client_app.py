"""The ClientApp: one Flower message in, one answer of the node out. No exception text can leave."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from gemel.client_node.flower import HOME_VARIABLE
from gemel.client_node.home import NodeHome
from gemel.client_node.node import Compute, answer
from gemel.core.errors import GemelError
from gemel.core.messages import Envelope

RECORD = "gemel"
FIELDS = ("document", "study", "payload")

logger = logging.getLogger(__name__)


def client_app(compute: Compute | None = None) -> ClientApp:
    """A ClientApp that answers for the node in the environment; `compute` is what touches patients, as `answer` takes it."""
    made = ClientApp()

    @made.query()
    def query(message: Message, _context: Context) -> Message:
        return Message(said(message.content, compute=compute), reply_to=message)

    return made


def said(content: RecordDict, *, compute: Compute | None = None) -> RecordDict:
    """What the node says to a message. Whatever goes wrong, an empty envelope or a code is all that leaves."""
    try:
        home = NodeHome.open(Path(os.environ[HOME_VARIABLE]))
        envelope = answer(home, _envelope(content), compute=compute)
    except Exception:
        logger.exception("no answer can be given")
        envelope = Envelope(document=b"")
    return RecordDict({RECORD: ConfigRecord({name: getattr(envelope, name) for name in FIELDS})})


app = client_app()


def _envelope(content: RecordDict) -> Envelope:
    record = content.get(RECORD)
    if not isinstance(record, ConfigRecord) or set(record) != set(FIELDS):
        raise GemelError("GEM404", "The message holds no envelope.")
    values = {name: record[name] for name in FIELDS}
    if not all(isinstance(value, bytes) for value in values.values()):
        raise GemelError("GEM404", "The envelope's fields are not bytes.")
    return Envelope(**values)  # type: ignore[arg-type]  # checked just above
