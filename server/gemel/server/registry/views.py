"""What the registry answers to whoever asks over the service or the command line: JSON values, and files by name."""

from __future__ import annotations

import json
from typing import Any

from gemel.core.errors import GemelError
from gemel.server.home import CoordinatorHome
from gemel.server.registry.models import CARD, CARD_PAGE, MANIFEST, ONNX, WEIGHTS, ModelRecord, Models
from gemel.server.registry.registering import catch_up, make_onnx, open_models

MEDIA_TYPES = {
    ".json": "application/json",
    ".md": "text/markdown; charset=utf-8",
    ".safetensors": "application/octet-stream",
    ".onnx": "application/octet-stream",
}


def list_models(home: CoordinatorHome, models: Models | None = None) -> list[dict[str, Any]]:
    """Every registered twin, brought up to date with the runs first."""
    models = models or open_models(home)
    catch_up(home, models)
    return [record.as_dict() for record in models.all()]


def show_model(home: CoordinatorHome, name: str, models: Models | None = None) -> dict[str, Any]:
    """One twin: its record, files, scores and limits. Raises GEM531, GEM532."""
    models, record = _find(home, name, models)
    card = json.loads(models.file(record, CARD))
    manifest = models.manifest(record).payload
    return {
        **record.as_dict(),
        "files": manifest["files"],
        "revisions": len(models.revisions(record.model_sha256)),
        "scores": card["evaluation"]["scores"],
        "calibration": card["evaluation"].get("calibration"),
        "onnx": card["model"]["onnx"],
        "parent_sha256": card["lineage"]["parent_sha256"],
        "spent_at_hospitals": card["privacy"]["spent_at_hospitals"],
        "limits": card["limits"],
    }


def model_card_of(
    home: CoordinatorHome, name: str, models: Models | None = None
) -> tuple[dict[str, Any], str]:
    """A twin's card as JSON values and as Markdown. Raises GEM531, GEM532."""
    models, record = _find(home, name, models)
    return json.loads(models.file(record, CARD)), models.file(record, CARD_PAGE).decode()


def model_file(
    home: CoordinatorHome, name: str, file: str, models: Models | None = None
) -> tuple[bytes, str]:
    """A file of a twin and its media type; `file` is a name from the signed record, never a path. Raises GEM531, GEM532.

    `model.onnx` is made when it is first asked for; GEM533 when there can be none.
    """
    models, record = _find(home, name, models)
    if file == ONNX and ONNX not in models.files(record):
        record = make_onnx(home, models, record)
        if ONNX not in models.files(record):
            reason = json.loads(models.file(record, CARD))["model"]["onnx"]
            raise GemelError("GEM533", f"{record.model_sha256[:12]}: {reason.removeprefix('none: ')}")
    content = models.file(record, file)
    return content, MEDIA_TYPES[file[file.rindex(".") :]]


def _find(home: CoordinatorHome, name: str, models: Models | None) -> tuple[Models, ModelRecord]:
    models = models or open_models(home)
    catch_up(home, models)
    return models, models.find(name)


__all__ = ["CARD", "MANIFEST", "ONNX", "WEIGHTS", "list_models", "model_card_of", "model_file", "show_model"]
