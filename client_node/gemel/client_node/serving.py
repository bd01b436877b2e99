"""A node as a service: what is checked and written down before it connects, and when it stops."""

from __future__ import annotations

from gemel.client_node import audit_log, event_log, gate
from gemel.client_node.allow_list import installed_code
from gemel.client_node.audit_log import EventKind
from gemel.client_node.home import NodeHome
from gemel.client_node.key_dates import read_dates
from gemel.client_node.patients import VIRTUAL
from gemel.client_node.rotation import is_unfinished
from gemel.core.errors import GemelError
from gemel.core.software import software_versions


def serve(home: NodeHome, *, metrics_port: int = 0) -> None:
    """Run a node until SIGTERM or SIGINT.

    `metrics_port`: where Prometheus may ask, on loopback; 0 for nowhere.

    Raises:
        GemelError: GEM407 the home was not made from a start kit, is a simulation's, or is run by another process;
            GEM417 its keys expired; GEM415 or GEM416 its audit log does not hold, or cannot be written.
    """
    if not home.config.address or not home.ca_certificate.exists():
        raise GemelError("GEM407", f"{home.folder} was not made from a start kit: it knows no coordinator.")
    if (home.folder / VIRTUAL).exists():
        raise GemelError("GEM407", f"{home.folder} is a simulation's: it joins no federation.")
    if is_unfinished(home):
        raise GemelError(
            "GEM417", "A rotation of keys was interrupted.", hint="`gemel node rotate` finishes it."
        )
    gate.admit_keys(read_dates(home.folder / "keys"))
    with home.open_ledger():  # a ledger that does not hold is said here, not at the first request
        pass
    from gemel.client_node.flower import supernode

    versions = software_versions()
    facts = {name: versions[name] for name in ("gemel", "flwr", "torch") if name in versions}
    audit_log.record(home, EventKind.STARTED, code=installed_code(), **facts)
    event_log.write(home, "started", address=home.config.address)
    if metrics_port:
        from gemel.client_node.metrics import serve_metrics

        serve_metrics(home, port=metrics_port)
    try:
        supernode.run(home.folder, superlink=home.config.address, ca_certificate=home.ca_certificate)
    finally:
        audit_log.record(home, EventKind.STOPPED)
        event_log.write(home, "stopped")
