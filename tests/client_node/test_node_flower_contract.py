"""What we rely on inside flwr 1.41.0: each of these fails loudly when a new version moves it."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from flwr.clientapp.client_app import LoadClientAppError
from flwr.supercore import heartbeat
from flwr.supercore.inflatable import inflatable_utils
from flwr.supernode import fleet_http_connection, start_client_internal
from flwr.supernode.runtime import run_clientapp as runtime

from gemel.client_node.flower import internals
from gemel.client_node.flower.worker import socket_path
from gemel.server.flower import internals as server_internals


def test_flower_is_the_version_that_was_read() -> None:
    assert version("flwr") == internals.FLWR_VERSION == server_internals.FLWR_VERSION


@pytest.mark.parametrize("name", ["install_from_fab", "get_project_dir", "get_load_client_app_fn"])
def test_the_clientapp_process_calls_what_we_replace(name: str) -> None:
    assert callable(getattr(runtime, name))
    assert f"{name}(" in inspect.getsource(runtime.run_clientapp)


@pytest.mark.parametrize(
    "name",
    ["install_from_fab", "get_project_dir", "get_project_config", "get_fused_config_from_dir", "run_"],
)
def test_the_serverapp_process_calls_what_we_replace(name: str) -> None:
    assert callable(getattr(server_internals.runtime, name))
    assert f"{name}(" in inspect.getsource(server_internals.runtime.run_serverapp)


def test_nothing_else_in_the_clientapp_process_reads_the_bundle() -> None:
    source = inspect.getsource(runtime.run_clientapp)
    uses = [
        line.strip() for line in source.splitlines() if "fab" in line and not line.strip().startswith("#")
    ]
    reads = [line for line in uses if "fab.content" in line]
    assert reads == ["install_from_fab(fab.content, skip_prompt=True)"]


def test_the_waits_that_we_shorten_are_where_they_were() -> None:
    assert "time.sleep(3)" in inspect.getsource(start_client_internal)
    assert hasattr(heartbeat, "HEARTBEAT_DEFAULT_INTERVAL")
    assert hasattr(fleet_http_connection, "HEARTBEAT_DEFAULT_INTERVAL")
    for name in ("pull_objects", "pull_and_inflate_object_from_tree"):
        parameters = inspect.signature(getattr(inflatable_utils, name)).parameters
        assert {"initial_backoff", "backoff_cap"} <= set(parameters)


def test_shortening_the_back_off_changes_only_the_back_off() -> None:
    script = (
        "import inspect\n"
        "from flwr.supercore.inflatable import inflatable_utils as u\n"
        "before = {n: dict(inspect.signature(getattr(u, n)).parameters) "
        "for n in ('pull_objects', 'pull_and_inflate_object_from_tree')}\n"
        "from gemel.client_node.flower.internals import shorten_pull_back_off\n"
        "shorten_pull_back_off()\n"
        "for name, old in before.items():\n"
        "    new = inspect.signature(getattr(u, name)).parameters\n"
        "    changed = {k for k in old if old[k].default != new[k].default}\n"
        "    assert changed == {'initial_backoff', 'backoff_cap'}, (name, changed)\n"
        "    assert new['initial_backoff'].default == 0.02\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True)


def test_a_bundle_of_another_name_is_refused_and_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("install_from_fab", "get_project_dir", "get_load_client_app_fn"):
        monkeypatch.setattr(runtime, name, getattr(runtime, name))  # put back after the test
    from gemel.client_node.flower.client_app import app

    internals.allow_only(app)
    load = runtime.get_load_client_app_fn(default_app_ref="", app_path=None, multi_app=True)
    assert load(*internals.ALLOWED_BUNDLE, "any hash") is app
    with pytest.raises(LoadClientAppError, match="GEM408"):
        load("evil/app", "0.1.0", "any hash")
    assert runtime.install_from_fab(b"not even a zip file") is None


def test_the_worker_listens_where_only_its_user_can_reach_it(tmp_path: Path) -> None:
    assert socket_path(tmp_path / "n").parent == (tmp_path / "n").resolve()
    deep = tmp_path / ("x" * 100)
    private = socket_path(deep).parent
    assert len(str(socket_path(deep))) < 108
    assert private.stat().st_mode & 0o077 == 0
    private.rmdir()
