"""Registered twins in an MLflow tracking server, for consortia that have one: over its REST API, nothing is installed for it.

What MLflow shows is a copy: the registry's signed record stays the truth, and its hash is on every copy. Source: MLflow's
REST API 2.0 (runs, registered models, proxied artifacts), which 2.x and 3.x serve alike.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from gemel.core.errors import GemelError
from gemel.server.registry.models import CARD, CARD_PAGE, ModelRecord, Models

EXPERIMENT = "gemel"
WAIT_S = 60.0
# MLflow refuses more in one request.
MOST_IN_A_BATCH = 100
LONGEST_PARAMETER = 500
_ALREADY = "RESOURCE_ALREADY_EXISTS"
_ABSENT = "RESOURCE_DOES_NOT_EXIST"


class TrackingServer:
    """One MLflow server.

    Args:
        url: Its address; https, or http on this machine: a token goes over nothing else.
        token: Sent as a bearer token, empty for none.
        experiment: Under which runs appear.

    Every method raises GEM534 when the server cannot be reached or refuses.
    """

    def __init__(self, url: str, *, token: str = "", experiment: str = EXPERIMENT) -> None:
        parts = urlsplit(url)
        local = parts.hostname in ("127.0.0.1", "::1", "localhost")
        if parts.scheme != "https" and not (parts.scheme == "http" and local):
            raise GemelError("GEM534", f"{parts.scheme}://{parts.hostname} is not https://…")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=WAIT_S, follow_redirects=False)
        self._experiment = experiment

    def __enter__(self) -> TrackingServer:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._http.close()

    def publish(self, models: Models, record: ModelRecord) -> str:
        """Make a run of a twin, with its settings, scores and files, and a version of the programme's model.

        Returns MLflow's id of the run; the same revision again returns the run that is there.
        """
        experiment = self._experiment_id()
        found = self._run_of(experiment, record)
        if found is not None:
            return found
        card: dict[str, Any] = json.loads(models.file(record, CARD))
        tags = {
            "gemel.model_sha256": record.model_sha256,
            "gemel.manifest_sha256": record.manifest_sha256,
            "gemel.study_sha256": record.study_sha256,
            "gemel.certificate_sha256": record.certificate_sha256,
            "gemel.state": record.state,
            "mlflow.note.content": models.file(record, CARD_PAGE).decode(),
        }
        run = self._post(
            "runs/create",
            {
                "experiment_id": experiment,
                "run_name": f"{record.study_id} v{record.version}",
                "start_time": _now_ms(),
                "tags": [{"key": key, "value": value} for key, value in tags.items()],
            },
        )["run"]["info"]
        run_id = str(run["run_id"])
        self._log(run_id, card)
        for name in models.files(record):
            self._upload(str(run["artifact_uri"]), name, models.file(record, name))
        self._version(record, run_id, str(run["artifact_uri"]))
        self._post("runs/update", {"run_id": run_id, "status": "FINISHED", "end_time": _now_ms()})
        return run_id

    def _experiment_id(self) -> str:
        found = self._get("experiments/get-by-name", {"experiment_name": self._experiment}, absent=True)
        if found:
            return str(found["experiment"]["experiment_id"])
        return str(self._post("experiments/create", {"name": self._experiment})["experiment_id"])

    def _run_of(self, experiment: str, record: ModelRecord) -> str | None:
        runs = self._post(
            "runs/search",
            {
                "experiment_ids": [experiment],
                "filter": f"tags.`gemel.manifest_sha256` = '{record.manifest_sha256}' and attributes.status = 'FINISHED'",
                "max_results": 1,
            },
        ).get("runs", [])
        return str(runs[0]["info"]["run_id"]) if runs else None

    def _log(self, run_id: str, card: Mapping[str, Any]) -> None:
        parameters, metrics = parameters_of(card), metrics_of(card)
        stamp = _now_ms()
        keys = list(parameters)
        for start in range(0, len(keys), MOST_IN_A_BATCH):
            batch = keys[start : start + MOST_IN_A_BATCH]
            params = [{"key": key, "value": parameters[key][:LONGEST_PARAMETER]} for key in batch]
            self._post("runs/log-batch", {"run_id": run_id, "params": params})
        points = [{"key": k, "value": v, "timestamp": stamp, "step": 0} for k, v in metrics.items()]
        for start in range(0, len(points), MOST_IN_A_BATCH):
            part = points[start : start + MOST_IN_A_BATCH]
            self._post("runs/log-batch", {"run_id": run_id, "metrics": part})

    def _upload(self, artifact_uri: str, name: str, content: bytes) -> None:
        """Through the server; one that stores artifacts elsewhere (a bucket) is refused: we hold no key to it."""
        parts = urlsplit(artifact_uri)
        if parts.scheme != "mlflow-artifacts":
            raise GemelError("GEM534", f"The server keeps artifacts at {parts.scheme}:, not behind itself.")
        path = quote(f"{parts.path.lstrip('/')}/{name}")
        self._send("PUT", f"/api/2.0/mlflow-artifacts/artifacts/{path}", content=content)

    def _version(self, record: ModelRecord, run_id: str, source: str) -> None:
        """A version of the registered model that is called as the programme is."""
        name = record.programme.partition("@")[0]
        self._post("registered-models/create", {"name": name}, already=True)
        tags = [{"key": "gemel.model_sha256", "value": record.model_sha256}]
        self._post(
            "model-versions/create",
            {"name": name, "source": source, "run_id": run_id, "tags": tags},
        )

    def _get(self, path: str, query: Mapping[str, str], *, absent: bool = False) -> dict[str, Any]:
        return self._send("GET", f"/api/2.0/mlflow/{path}", params=query, passed=_ABSENT if absent else "")

    def _post(self, path: str, body: Mapping[str, Any], *, already: bool = False) -> dict[str, Any]:
        return self._send("POST", f"/api/2.0/mlflow/{path}", json=body, passed=_ALREADY if already else "")

    def _send(self, method: str, path: str, *, passed: str = "", **request: Any) -> dict[str, Any]:
        try:
            answer = self._http.request(method, path, **request)
        except httpx.HTTPError as error:
            raise GemelError("GEM534", f"{self._http.base_url}: {type(error).__name__}.") from error
        try:
            content: Any = answer.json() if answer.content else {}
        except ValueError:
            content = {}
        if answer.is_success and isinstance(content, dict):
            return content
        code = str(content.get("error_code", "")) if isinstance(content, dict) else ""
        if passed and code == passed:
            return {}
        raise GemelError("GEM534", f"{path}: {answer.status_code} {code}".rstrip() + ".")


def parameters_of(card: Mapping[str, Any]) -> dict[str, str]:
    """A card's settings as MLflow's flat parameters: training, strategy, aggregation, pace, privacy, programme."""
    flat = {
        "programme": f"{card['programme']['name']}@{card['programme']['version']}",
        "study": card["lineage"]["study_id"],
        "version": str(card["model"]["version"]),
        "hospitals": str(len(card["lineage"]["hospitals"])),
        "privacy.epsilon": f"{card['privacy']['epsilon']:.6g}",
        "privacy.delta": f"{card['privacy']['delta']:g}",
        "privacy.unit": card["privacy"]["unit"],
    }
    for key, value in card["training"].items():
        if isinstance(value, dict):
            flat.update({f"{key}.{name}": str(setting) for name, setting in value.items()})
        else:
            flat[f"training.{key}"] = str(value)
    return flat


def metrics_of(card: Mapping[str, Any]) -> dict[str, float]:
    """A card's scores, their standard errors, and what was spent at each hospital, as numbers by name."""
    numbers: dict[str, float] = {}
    for outcome, of in (card["evaluation"]["scores"] or {}).items():
        for name, score in of.items():
            numbers[f"{outcome}.{name}"] = score["value"]
            numbers[f"{outcome}.{name}.standard_error"] = score["standard_error"]
    for site, spent in card["privacy"]["spent_at_hospitals"].items():
        if spent is not None:
            numbers[f"epsilon_spent.{site}"] = spent
    return numbers


def _now_ms() -> int:
    return int(time.time() * 1000)
