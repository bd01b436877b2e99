"""Twins in a real MLflow tracking server, read back by MLflow's own client."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from in_process import start
from small_study import small_study

from gemel.core.canonical import sha256_hex
from gemel.core.errors import GemelError
from gemel.core.supervision import Process, free_port, wait_for_port
from gemel.server.home import CoordinatorHome
from gemel.server.registry.mlflow_tracking import TrackingServer
from gemel.server.registry.models import WEIGHTS
from gemel.server.registry.registering import catch_up, open_models
from gemel.twins.programmes.fatty_liver import PROGRAMME

PEER = Path(__file__).resolve().parents[2] / ".peers" / "mlflow" / "bin"
# What MLflow's own client sees; printed as JSON by a process in the peer's environment.
READ_BACK = """
import json, sys
from mlflow import MlflowClient
client = MlflowClient(sys.argv[1])
run = client.get_run(sys.argv[2])
files = [f.path for f in client.list_artifacts(sys.argv[2])]
weights = client.download_artifacts(sys.argv[2], "model.safetensors", sys.argv[3])
versions = client.search_model_versions(f"run_id='{sys.argv[2]}'")
print(json.dumps({"params": run.data.params, "metrics": run.data.metrics, "tags": run.data.tags, "files": files,
  "weights": weights, "status": run.info.status, "versions": [[v.name, v.version] for v in versions]}))
"""

pytestmark = pytest.mark.skipif(
    not (PEER / "mlflow").exists(), reason="MLflow is not installed as a peer: `make peers`"
)


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real MLflow server on loopback, with its own store."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    process = Process(
        "mlflow",
        [
            str(PEER / "mlflow"),
            "server",
            "--host=127.0.0.1",
            f"--port={port}",
            f"--backend-store-uri=sqlite:///{folder}/store.sqlite",
            f"--artifacts-destination={folder}/artifacts",
            "--workers=1",
        ],
        log=folder / "mlflow.log",
        environment={
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
            "PATH": f"{PEER}:{os.environ['PATH']}",
        },
    )
    process.start()
    try:
        wait_for_port("127.0.0.1", port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.stop()


@pytest.fixture(scope="module")
def home(exports: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> CoordinatorHome:
    """A coordinator's home after a whole run."""
    from gemel.cli.demo.federation import create

    folder = tmp_path_factory.mktemp("mlflow-run") / "federation"
    federation = create(folder, exports, PROGRAMME, epsilon_cap=3.0, delta=1e-5, minimum_patients=50)
    coordinator, _, _ = start(federation, small_study(federation.site_keys))
    coordinator.run()
    return federation.coordinator


def test_a_twin_is_published_once_with_its_settings_scores_files_and_lineage(
    tracking: str, home: CoordinatorHome, tmp_path: Path
) -> None:
    models = open_models(home)
    catch_up(home, models)
    record = models.find("test")
    with TrackingServer(tracking) as server:
        run_id = server.publish(models, record)
        assert server.publish(models, record) == run_id
    told = json.loads(
        subprocess.run(
            [str(PEER / "python"), "-c", READ_BACK, tracking, run_id, str(tmp_path)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
        ).stdout.splitlines()[-1]
    )
    assert told["status"] == "FINISHED"
    assert told["tags"]["gemel.manifest_sha256"] == record.manifest_sha256
    assert told["tags"]["gemel.certificate_sha256"] == record.certificate_sha256
    assert told["params"]["training.noise_multiplier"] == "10.0"
    assert told["params"]["strategy.algorithm"] == "fedavg"
    assert 0 <= told["metrics"]["death.auc_5y"] <= 1
    assert told["metrics"]["epsilon_spent.alpha"] > 0
    assert set(told["files"]) == set(models.files(record))
    assert sha256_hex(Path(told["weights"]).read_bytes()) == record.model_sha256
    assert [name for name, _ in told["versions"]] == [PROGRAMME.name]


def test_a_changed_twin_is_not_published(tracking: str, home: CoordinatorHome, tmp_path: Path) -> None:
    shutil.copytree(home.folder, tmp_path / "home")
    models = open_models(CoordinatorHome(tmp_path / "home"))
    catch_up(CoordinatorHome(tmp_path / "home"), models)
    record = models.find("test")
    sha256 = models.manifest(record).payload["files"][WEIGHTS]["sha256"]
    (tmp_path / "home" / "models" / sha256[:2] / sha256).write_bytes(b"other")
    with TrackingServer(tracking, experiment="changed") as server, pytest.raises(GemelError, match="GEM532"):
        server.publish(models, record)


def test_a_server_that_is_not_there_is_told_as_such(home: CoordinatorHome) -> None:
    models = open_models(home)
    catch_up(home, models)
    with (
        TrackingServer(f"http://127.0.0.1:{free_port()}") as server,
        pytest.raises(GemelError, match="GEM534"),
    ):
        server.publish(models, models.find("test"))


def test_a_token_never_goes_over_plain_http_to_another_machine() -> None:
    with pytest.raises(GemelError, match="GEM534"):
        TrackingServer("http://mlflow.example.org", token="secret")
