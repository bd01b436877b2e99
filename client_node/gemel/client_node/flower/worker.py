"""The warm worker: a process with everything imported that forks one child for each task.

Flower starts an interpreter for each message; importing torch alone takes longer than a round's work. The launcher
named `flwr-clientapp` in the node's `bin/` hands its arguments to this process over a Unix socket that only the
node's user can reach, waits for the child, and leaves with its status. It dies with its SuperNode.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import tempfile
import threading
from pathlib import Path

from gemel.core.canonical import sha256_hex
from gemel.core.errors import GemelError

SOCKET = "worker.sock"

# A shebang line takes no space and is cut off when long: the shell starts Python, to which its line is a string.
LAUNCHER = """\
#!/bin/sh
"exec" {python} "-IS" "$0" "$@"
import socket, sys, time
for attempt in range(150):  # the worker may be starting
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect({path!r})
        break
    except OSError:
        time.sleep(0.2)
connection.sendall("\\0".join(sys.argv[1:]).encode() + b"\\n")
sys.exit(int(connection.recv(16) or b"1"))
"""


def write_launcher(folder: Path) -> Path:
    """Write `bin/flwr-clientapp`; returns the folder to put first on the SuperNode's PATH."""
    launcher = folder / "bin" / "flwr-clientapp"
    launcher.parent.mkdir(exist_ok=True)
    python = "'" + sys.executable.replace("'", "'\"'\"'") + "'"  # one text to the shell and to Python
    launcher.write_text(LAUNCHER.format(python=python, path=str(socket_path(folder))))
    launcher.chmod(0o755)
    return launcher.parent


def socket_path(folder: Path) -> Path:
    """Where the worker listens: in the home, or for a long path (Unix allows 107 bytes) in a private folder."""
    path = folder.resolve() / SOCKET
    if len(os.fsencode(path)) <= 100:
        return path
    name = f"gemel-{os.getuid()}-{sha256_hex(os.fsencode(folder.resolve()))[:16]}"
    private = Path(tempfile.gettempdir()) / name
    private.mkdir(mode=0o700, exist_ok=True)
    if private.stat().st_uid != os.getuid() or private.stat().st_mode & 0o077:
        raise GemelError("GEM407", f"{private} is not private to this user.")
    return private / SOCKET


def serve(folder: Path, *, parent: int) -> None:
    """Import, then fork a child for each task until the parent process is gone."""
    import torch

    from gemel.client_node.flower import client_app, internals

    torch.set_num_threads(1)  # one thread: bitwise repeatable sums, and no thread pool to carry over a fork
    internals.shorten_pull_back_off()
    internals.allow_only(client_app.app)
    logging.basicConfig(
        filename=folder / "node.log", level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    path = socket_path(folder)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    previous = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(previous)
    listener.listen(8)
    listener.settimeout(0.5)
    while os.getppid() == parent:
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        connection.setblocking(True)
        arguments = connection.makefile().readline().rstrip("\n").split("\0")
        child = os.fork()
        if child == 0:
            listener.close()
            os._exit(_child(arguments))
        threading.Thread(target=_report, args=(child, connection), daemon=True).start()


def _child(arguments: list[str]) -> int:
    from gemel.client_node.flower import internals

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        internals.run_client_app(arguments)
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else 0
    except BaseException:
        logging.getLogger(__name__).exception("the task's process failed")
        return 1
    return 0


def _report(child: int, connection: socket.socket) -> None:
    _, status = os.waitpid(child, 0)
    with connection:
        connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())


if __name__ == "__main__":
    serve(Path(sys.argv[1]), parent=int(sys.argv[2]))
