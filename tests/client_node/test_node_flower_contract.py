"""What we rely on inside flwr 1.41.0: each of these fails loudly when a new version moves it."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.protobuf.client import ProtobufClient
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.superlink.grid import HttpGrid
from flwr.superlink.routers.fleet.router import router
from flwr.superlink.servicer.fleet import fleet_handlers
from flwr.supernode import fleet_http_connection
from flwr.supernode.fleet_http_client import FleetHttpClient

from gemel.client_node.flower import internals, supernode
from gemel.server.flower import internals as server_internals
from gemel.server.flower import waiting

FLEET_CALLS = {
    "ActivateNode": "/v1/fleet/activate-node",
    "DeactivateNode": "/v1/fleet/deactivate-node",
    "SendNodeHeartbeat": "/v1/fleet/send-node-heartbeat",
    "PullMessages": "/v1/fleet/pull-messages",
    "PullObject": "/v1/fleet/pull-object",
    "ConfirmMessageReceived": "/v1/fleet/confirm-message-received",
    "PushMessages": "/v1/fleet/push-messages",
    "PushObject": "/v1/fleet/push-object",
}


def test_flower_is_the_version_that_was_read() -> None:
    assert version("flwr") == internals.FLWR_VERSION == server_internals.FLWR_VERSION


@pytest.mark.parametrize(("name", "path"), FLEET_CALLS.items())
def test_each_call_of_a_node_is_where_the_superlink_serves_it(name: str, path: str) -> None:
    assert f'path="{path}"' in inspect.getsource(getattr(FleetHttpClient, name))
    assert path in {route.path for route in router.routes}  # type: ignore[attr-defined]


def test_a_node_makes_the_calls_of_flowers_supernode_in_their_order_and_never_asks_for_a_bundle() -> None:
    ours, theirs = inspect.getsource(internals), inspect.getsource(fleet_http_connection)
    for name in FLEET_CALLS:
        assert f"client.{name}" in ours
        assert name in theirs
    for name in ("GetFab", "GetRun", "RegisterNode"):
        assert f".{name}" not in ours
    handler = inspect.getsource(fleet_handlers.activate_node)
    assert "heartbeat_interval" in handler


def test_only_the_two_modules_of_internals_know_more_of_flower_than_its_public_face() -> None:
    public = {"flwr.app", "flwr.clientapp", "flwr.serverapp"}
    root = Path(internals.__file__).parents[4]
    for folder in ("client_node/gemel/client_node/flower", "server/gemel/server/flower"):
        for path in (root / folder).glob("*.py"):
            if path.name in ("internals.py", "superlink.py", "robust.py", "in_process_grid.py"):
                continue  # the Control API and aggregation rules have modules and tests of their own
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flwr"):
                    assert node.module in public, f"{path.name} imports {node.module}"


def test_a_reply_that_is_sent_again_counts_once() -> None:
    from flwr.server.superlink.linkstate import sql_linkstate

    source = inspect.getsource(sql_linkstate.SqlLinkState.store_message_res)
    assert "idempotent retries" in source


def test_a_node_may_end_its_own_earlier_session() -> None:
    from flwr.server.superlink.linkstate import sql_linkstate

    source = inspect.getsource(sql_linkstate.SqlLinkState.deactivate_node)
    assert "NodeStatus.ONLINE" in source
    assert "NodeStatus.OFFLINE" in source


def test_the_clock_may_be_as_wrong_as_we_say() -> None:
    assert supernode.CLOCK_MAY_LEAD_S == SYSTEM_TIME_TOLERANCE
    assert supernode.CLOCK_MAY_LAG_S == TIMESTAMP_TOLERANCE


def test_the_back_off_that_we_shorten_is_where_it_was() -> None:
    for name in ("pull_objects", "pull_and_inflate_object_from_tree"):
        parameters = inspect.signature(getattr(inflatable_utils, name)).parameters
        assert {"initial_backoff", "backoff_cap"} <= set(parameters)


def test_shortening_the_back_off_changes_only_the_back_off() -> None:
    script = (
        "import inspect\n"
        "from flwr.supercore.inflatable import inflatable_utils as u\n"
        "before = {n: dict(inspect.signature(getattr(u, n)).parameters) "
        "for n in ('pull_objects', 'pull_and_inflate_object_from_tree')}\n"
        "from gemel.server.flower.internals import shorten_pull_back_off\n"
        "shorten_pull_back_off()\n"
        "for name, old in before.items():\n"
        "    new = inspect.signature(getattr(u, name)).parameters\n"
        "    changed = {k for k in old if old[k].default != new[k].default}\n"
        "    assert changed == {'initial_backoff', 'backoff_cap'}, (name, changed)\n"
        "    assert new['initial_backoff'].default == 0.02\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True)


@pytest.mark.parametrize(
    "name",
    ["install_from_fab", "get_project_dir", "get_project_config", "get_fused_config_from_dir", "run_"],
)
def test_the_serverapp_process_calls_what_we_replace(name: str) -> None:
    assert callable(getattr(server_internals.runtime, name))
    assert f"{name}(" in inspect.getsource(server_internals.runtime.run_serverapp)


def test_the_serverapp_process_reports_its_run_itself() -> None:
    source = inspect.getsource(server_internals.runtime.run_serverapp)
    assert "HeartbeatSender(" in source
    assert "PushTaskOutput" in source


def test_the_superlink_takes_its_middleware_from_where_we_put_ours() -> None:
    main = server_internals.superlink_main
    assert "middleware=_get_middleware()" in inspect.getsource(main.create_app)
    names = [each.cls.__name__ for each in main._get_middleware()]
    assert set(server_internals.KIND_OF) <= set(names)
    assert set(names) - set(server_internals.KIND_OF) == {
        "BaseHTTPMiddleware",
        "ProtobufTranslationMiddleware",
    }, "a new one: say which requests it looks at"
    source = inspect.getsource(server_internals.superlink_module._run_superlink_http_api)
    assert "uvicorn.run(" in source
    assert "workers=1" in source, "news is told in one process only"


@pytest.mark.parametrize("name", server_internals.KIND_OF)
def test_middleware_that_is_gone_around_does_nothing_with_other_requests(name: str) -> None:
    module = inspect.getmodule(
        next(m.cls for m in server_internals.superlink_main._get_middleware() if m.cls.__name__ == name)
    )
    assert module is not None
    source = inspect.getsource(getattr(module, name))
    condition = {
        "ControlSensitiveResponseMiddleware": "if _is_control_sensitive_route(request):",
        "ControlAuthenticationMiddleware": "if not _is_control_path(request.url.path) or",
        "ControlLicenseMiddleware": "or not _is_control_path(request.url.path):",
        "ControlEventLogMiddleware": "if not _is_control_path(request.url.path) or",
        "FleetEventLogMiddleware": 'if not request.url.path.startswith("/v1/fleet/"):',
        "NodeAuthMiddleware": 'if request.url.path.startswith("/v1/fleet/") and isinstance(',
        "RuntimeTracingMiddleware": 'if os.getenv("FLWR_TRACING_ENABLED") != "1" or',
    }[name]
    assert condition in source


def test_what_is_held_and_what_is_news_are_paths_of_the_superlink() -> None:
    from flwr.superlink.routers.control import router as control

    served = {getattr(route, "path", "") for each in (router, control) for route in each.routes}
    runtime = inspect.getsource(RuntimeHttpClient)
    for path in (*waiting.NEWS_FOR, *waiting.NEWS_FOR.values()):
        assert path in served or f'path="{path}"' in runtime, path


def test_a_clients_interceptors_are_where_a_grid_gets_one_more() -> None:
    assert "self._interceptors" in inspect.getsource(ProtobufClient._send)
    assert "self._client = httpx.Client(" in inspect.getsource(ProtobufClient.__init__), "its timeout is ours"
    assert isinstance(HttpGrid._runtime_client, property)
    for name in ("PullMessages", "AcquireTask"):
        assert f'rpc_method="/flwr.proto.Runtime/{name}"' in inspect.getsource(
            getattr(RuntimeHttpClient, name)
        )
