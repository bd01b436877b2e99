"""A process that writes a node's audit log until it is killed, and says on stdout what is durable."""

import sys
from pathlib import Path

from gemel.client_node import audit_log
from gemel.client_node.audit_log import EventKind
from gemel.client_node.home import NodeHome


def main(home: NodeHome) -> None:
    while True:
        entry = audit_log.record(home, EventKind.ANSWERED, task="count", status="refused", code="GEM401")
        sys.stdout.write(f"{entry.seq} {entry.sha256}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(NodeHome.open(Path(sys.argv[1])))
