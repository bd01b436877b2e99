"""Every touch of flwr 1.41.0's internals at the coordinator. A contract test fails loudly when they move.

What is changed, and why:
- a bundle that a run submits is never unpacked: our installed ServerApp runs instead;
- a ServerApp is a fork of a process that has everything imported, so that a run starts in a moment and its token is on no
  command line; Flower's own code runs in it and keeps the run's status and heartbeats;
- pulls without an answer are held at the SuperLink until there is one (`waiting.py`) instead of repeated in fixed sleeps;
- the first back-off of an object pull is 20 ms instead of 1 s: a message is visible before its objects are.
"""

from __future__ import annotations

import copy
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import uvicorn
from fastapi.middleware import Middleware
from flwr.app import Message
from flwr.common.constant import SubStatus
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PushTaskOutputRequest,
)
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.auth import load_superexec_auth_secret
from flwr.supercore.constant import TaskType
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.superlink.cli import flwr_serverapp

from gemel.server.flower.waiting import SEEN_HEADER, WAIT_HEADER, HoldUntilNews, OnlyFor

# The packages hold functions of the same names, which hide the modules from `import`.
runtime: Any = importlib.import_module("flwr.superlink.runtime.run_serverapp")
superlink_module: Any = importlib.import_module("flwr.superlink.cli.flower_superlink")
superlink_main: Any = importlib.import_module("flwr.superlink.main")

FLWR_VERSION = "1.41.0"
BUNDLE_ID, BUNDLE_VERSION = "gemel/federation", "0.1.0"
ANSWERS_HELD_S = 0.5
TASKS_HELD_S = 2.0


class Waits:
    """Asks the SuperLink to hold one kind of question until there is news; an interceptor of Flower's clients."""

    def __init__(self, method: str, *, wait_s: float) -> None:
        self._method, self._wait_s = method, wait_s
        self._seen = ""

    @property
    def held(self) -> bool:
        """Whether the SuperLink does so."""
        return bool(self._seen)

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Say what was seen last, and remember what the answer says."""
        if context.rpc_method != self._method:
            return call_next(context)
        if self._seen:
            context.request.headers[WAIT_HEADER.decode()] = f"{self._wait_s:g}"
            context.request.headers[SEEN_HEADER.decode()] = self._seen
        response = call_next(context)
        self._seen = response.headers.get(SEEN_HEADER.decode(), "")
        return response


# Flower's middleware that looks at one kind of paths only, and costs every request a good part of a millisecond.
KIND_OF = {
    "ControlSensitiveResponseMiddleware": "/v1/control/",
    "ControlAuthenticationMiddleware": "/v1/control/",
    "ControlLicenseMiddleware": "/v1/control/",
    "ControlEventLogMiddleware": "/v1/control/",
    "FleetEventLogMiddleware": "/v1/fleet/",
    "NodeAuthMiddleware": "/v1/fleet/",
    "RuntimeTracingMiddleware": "/v1/runtime/",
}
# These two do nothing at all unless Flower's closed extensions, or its tracing, are switched on.
IDLE = frozenset({"FleetEventLogMiddleware", "RuntimeTracingMiddleware"})


def middleware_of_superlink(theirs: list[Any]) -> list[Middleware]:
    """Flower's middleware in its order, each for the requests that it looks at, and before all ours."""
    made = [Middleware(HoldUntilNews)]
    for each in theirs:
        name = getattr(each.cls, "__name__", "")
        if name in IDLE and os.environ.get("FLWR_TRACING_ENABLED") != "1":
            continue
        prefix = KIND_OF.get(name)
        if prefix is None:
            made.append(each)
        else:
            inner = partial(each.cls, *each.args, **each.kwargs)
            made.append(Middleware(OnlyFor, middleware=inner, prefix=prefix))
    return made


def run_superlink(arguments: list[str]) -> None:
    """Be `flower-superlink`, which holds pulls, and leaves lines for each request to the proxy before it."""
    theirs = superlink_main._get_middleware
    superlink_main._get_middleware = lambda: middleware_of_superlink(theirs())

    def run(**options: Any) -> None:
        # What is held then is asked again: nobody waits for it.
        uvicorn.run(**{**options, "access_log": False, "timeout_graceful_shutdown": 1})

    superlink_module.uvicorn = SimpleNamespace(run=run)
    sys.argv = ["flower-superlink", *arguments]
    superlink_module.flower_superlink()


def shorten_pull_back_off() -> None:
    """Start object pulls with a 20 ms back-off, capped at 0.2 s."""
    for name in ("pull_objects", "pull_and_inflate_object_from_tree"):
        defaults = getattr(inflatable_utils, name).__kwdefaults__
        defaults.update(initial_backoff=0.02, backoff_cap=0.2)


def hold_answers(grid: Grid) -> None:
    """Let this grid's pulls wait at the SuperLink for replies, half a second at most."""
    connected: Any = grid
    client = getattr(connected, "_runtime_client", None)
    if client is not None:
        waits = Waits("/flwr.proto.Runtime/PullMessages", wait_s=ANSWERS_HELD_S)
        client._interceptors = (waits, *client._interceptors)


def tokens_of_runs(address: str, *, ca_certificate: Path, secret: Path) -> Iterator[str]:
    """Claim ServerApp after ServerApp: the token of each, or "" when there was none for a while. Raises httpx.HTTPError."""
    waits = Waits("/flwr.proto.Runtime/AcquireTask", wait_s=TASKS_HELD_S)
    signer = SuperExecAuthHttpInterceptor(
        master_secret=load_superexec_auth_secret(secret_file=str(secret)) or b"",
        protected_methods=frozenset({"/flwr.proto.Runtime/AcquireTask"}),
    )
    client = RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=False,
        root_certificates=ca_certificate.read_bytes(),
        interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperExec"), signer, waits],
    )
    request = AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP])
    try:
        while True:
            answer = client.AcquireTask(request)
            yield answer.token if answer.HasField("task") else ""
    finally:
        client.close()


def report_death(address: str, token: str, *, ca_certificate: Path, status: int) -> None:
    """Tell the SuperLink that a ServerApp's process died: by its missing heartbeats it would learn it after a minute."""
    client = RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=False,
        root_certificates=ca_certificate.read_bytes(),
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperExec"),
            RuntimeTokenHttpInterceptor(token),
        ],
    )
    with client:
        client.PushTaskOutput(
            PushTaskOutputRequest(sub_status=SubStatus.FAILED, details=f"process ended with {status}")
        )


def prepare_server_app(app: ServerApp) -> None:
    """From here on this process, and its forks, run `app` for any ServerApp task, whatever was submitted."""
    shorten_pull_back_off()
    runtime.install_from_fab = lambda *_args, **_kwargs: None
    runtime.get_project_dir = lambda *_args, **_kwargs: Path()
    runtime.get_project_config = lambda _path: {"tool": {"flwr": {"app": {"components": {"serverapp": ""}}}}}
    runtime.get_fused_config_from_dir = lambda _path, override: dict(override)
    run = runtime.run_
    runtime.run_ = lambda grid, context, **_kwargs: run(
        grid=grid, context=context, server_app_dir="", loaded_server_app=app
    )


def run_server_app(address: str, token: str, *, ca_certificate: Path) -> None:
    """Be `flwr-serverapp` for one task; leaves by SystemExit."""
    sys.argv = [
        "flwr-serverapp",
        *("--runtime-api-address", address, "--token", token),
        *("--root-certificates", str(ca_certificate)),
    ]
    flwr_serverapp()


def is_connected(grid: Grid) -> bool:
    """Whether a grid speaks to a SuperLink; virtual nodes in this process have none."""
    return getattr(grid, "_runtime_client", None) is not None


def announced_replies(
    grid: Grid, message_ids: Sequence[str]
) -> Sequence[tuple[str, Callable[[], Sequence[Message]]]]:
    """The replies to some messages that the SuperLink has a head of: (message id, what pulls the whole of that one)."""
    if not message_ids:
        return []
    client: Any = grid._runtime_client  # type: ignore[attr-defined]
    response = client.PullMessages(PullAppMessagesRequest(message_ids=message_ids))
    announced = []
    for head, tree in zip(response.messages_list, response.message_object_trees, strict=True):
        one: Any = copy.copy(grid)
        one._client = _Only(
            client, PullAppMessagesResponse(messages_list=[head], message_object_trees=[tree])
        )
        announced.append((str(head.metadata.reply_to_message_id), partial(one.pull_messages, [])))
    return announced


class _Only:
    """A client to which one reply has been announced, and no other."""

    def __init__(self, client: Any, response: PullAppMessagesResponse) -> None:
        self._client, self._response = client, response

    def PullMessages(self, _request: PullAppMessagesRequest) -> PullAppMessagesResponse:
        """What was announced."""
        return self._response

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)
