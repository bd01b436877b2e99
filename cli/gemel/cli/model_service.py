"""The registry over the coordinator's service, for whoever is logged in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from gemel.cli.service_client import ServiceClient


class ServiceModels:
    """Models by the service's API; refusals are the service's own."""

    def __init__(self) -> None:
        self._client = ServiceClient.signed_in()

    def list(self) -> Sequence[Mapping[str, Any]]:
        """Every model's record."""
        models: Sequence[Mapping[str, Any]] = self._client.get("/models")["models"]
        return models

    def show(self, name: str) -> Mapping[str, Any]:
        """One model."""
        model: Mapping[str, Any] = self._client.get(f"/models/{quote(name, safe='')}")
        return model

    def file(self, name: str, file: str) -> bytes:
        """One of its files."""
        return self._client.read(f"/models/{quote(name, safe='')}/files/{quote(file, safe='')}")
