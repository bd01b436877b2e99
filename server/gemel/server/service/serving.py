"""The process of the service: one for a home, on loopback only."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from gemel.core.errors import GemelError
from gemel.server.flower.superlink import SuperLink
from gemel.server.home import CoordinatorHome
from gemel.server.service.application import build
from gemel.server.service.guard import Guard
from gemel.server.service.oidc import provider_of
from gemel.server.service.parts import open_service
from gemel.server.service.runs import FlowerRuns
from gemel.server.service.watcher import Watcher
from gemel.server.store import open_store, store_url

LOOPBACK = ("127.0.0.1", "::1")


def serve(folder: Path, *, host: str, port: int, superlink: str = "", public_url: str = "") -> None:
    """Serve a coordinator's home until asked to end. Raises GEM919 for another host, GEM922 when one serves it already."""
    if host not in LOOPBACK:
        raise GemelError("GEM919", f"{host} is not loopback.")
    home = CoordinatorHome(folder)
    with only_one(folder):
        engine = open_store(store_url(folder))
        service = open_service(home, engine, provider=provider_of(folder, service_url=public_url))
        watcher = Watcher(service, FlowerRuns(_superlink(home, superlink)))
        watcher.start()
        try:
            uvicorn.Server(settings(Guard(build(service)), host=host, port=port)).run()
        finally:
            watcher.stop()
            engine.dispose()


def settings(application: Guard, *, host: str, port: int) -> uvicorn.Config:
    """How uvicorn serves it: no log of addresses, the client's address from nginx on loopback only."""
    # uvicorn's own log would hold addresses with codes in them; the guard writes one line for each request.
    logging.getLogger("uvicorn.access").disabled = True
    return uvicorn.Config(
        application,
        host=host,
        port=port,
        access_log=False,
        server_header=False,
        proxy_headers=True,
        forwarded_allow_ips="127.0.0.1,::1",
        timeout_keep_alive=30,
        limit_concurrency=256,
        log_config=None,
        ws="none",
    )


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the home's lock: two watchers would start each run twice. Raises GEM922."""
    descriptor = os.open(folder / "service.lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise GemelError("GEM922", f"Another service holds {folder / 'service.lock'}.") from error
    try:
        yield
    finally:
        os.close(descriptor)


def _superlink(home: CoordinatorHome, address: str) -> SuperLink:
    if address:
        host, _, port = address.rpartition(":")
        return SuperLink(home, host, int(port))
    from gemel.server import federation_config

    return SuperLink(home, "127.0.0.1", federation_config.load(home.folder).superlink_port)
