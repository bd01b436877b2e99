"""The coordinator's service on a loopback port, for tests: the real application under the real uvicorn, in a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from sqlalchemy import Engine

from gemel.core.errors import GemelError
from gemel.core.signing import SigningKey, sign_document
from gemel.server.home import CoordinatorHome
from gemel.server.service import tokens, users
from gemel.server.service.application import build
from gemel.server.service.audit import SERVICE
from gemel.server.service.doors.accounts import KEY_KIND, KEY_SCHEMA
from gemel.server.service.guard import Guard
from gemel.server.service.oidc import Provider
from gemel.server.service.parts import Service, open_service
from gemel.server.service.passwords import Passwords
from gemel.server.service.roles import Role
from gemel.server.service.runs import Runs, RunState
from gemel.server.service.serving import settings
from gemel.server.service.tokens import TokenKind
from gemel.server.service.watcher import Watcher

PASSWORD = "correct horse battery staple"
# argon2 itself, with so little memory that hundreds of logins take no time.
QUICK = Passwords(memory_kib=64, passes=1)


@dataclass
class DrivenRuns(Runs):
    """An engine that the test drives: it runs nothing, and remembers what it was asked."""

    started: list[tuple[str, str]] = field(default_factory=list)
    states: dict[str, RunState] = field(default_factory=dict)
    down: bool = False

    def start(self, study_sha256: str, *, approval_timeout_s: float) -> str:
        if self.down:
            raise GemelError("GEM505", "down")
        run = str(len(self.started) + 1)
        self.started.append((run, study_sha256))
        self.states[run] = RunState.GOING
        return run

    def state(self, run: str) -> RunState:
        if self.down:
            raise GemelError("GEM505", "down")
        return self.states.get(run, RunState.ENDED)


@dataclass
class Running:
    """A service that answers at `url`, its parts, and clients for its users."""

    url: str
    service: Service
    app: FastAPI
    engine: DrivenRuns
    watcher: Watcher
    clients: list[httpx.Client] = field(default_factory=list)

    def client(self, secret: str = "") -> httpx.Client:
        """A client for a token's user; closed when the service ends, if not before."""
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        self.clients.append(httpx.Client(base_url=self.url, headers=headers, timeout=30, trust_env=False))
        return self.clients[-1]

    def user(self, name: str, role: Role, *, password: bool = False) -> tuple[users.User, str]:
        """A user on record, with a session's token."""
        with self.service.log.act(SERVICE, "user.add") as act:
            user = users.add(act.connection, name=name, role=role)
            secret, _ = tokens.issue(act.connection, user, TokenKind.SESSION, seconds=3600)
            if password:
                users.set_password_hash(act.connection, user.id, QUICK.hash(PASSWORD, name=name))
        return user, secret

    def scientist(self, name: str) -> tuple[users.User, httpx.Client, SigningKey]:
        """A scientist whose key is on record."""
        user, secret = self.user(name, Role.SCIENTIST)
        client, key = self.client(secret), SigningKey.generate()
        answer = client.post("/api/v1/me/keys", json={"proof": proof(user.id, key)})
        assert answer.status_code == 201, answer.text
        return user, client, key


def proof(user_id: str, key: SigningKey) -> dict[str, Any]:
    """What shows that a user holds a key."""
    import json

    payload = {"schema": KEY_SCHEMA, "user": user_id, "public_key": key.public_hex}
    document: dict[str, Any] = json.loads(sign_document(KEY_KIND, payload, key, role="scientist").to_bytes())
    return document


@contextmanager
def running(folder: Path, engine: Engine, *, provider: Provider | None = None) -> Iterator[Running]:
    """A service with a fresh home in `folder` and a store that is open; ends with the block."""
    home = CoordinatorHome.create(folder) if not (folder / "keys").exists() else CoordinatorHome(folder)
    service = open_service(home, engine, passwords=QUICK, provider=provider)
    app = build(service)
    config = settings(Guard(app), host="127.0.0.1", port=0)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    runs = DrivenRuns()
    it = Running(f"http://127.0.0.1:{port}", service, app, runs, Watcher(service, runs))
    try:
        yield it
    finally:
        for client in it.clients:
            client.close()
        server.should_exit = True
        thread.join(timeout=10)
