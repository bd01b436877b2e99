"""The registry of a coordinator: global twins by hash, in content-addressed files and append-only rows.

A file is written once, under the hash of its content, and read only if that still holds. What is known of a twin may
grow (its run ends, an ONNX form is made): then a new revision, signed by the coordinator, is added; older ones stay.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Column, Engine, Integer, String, Table, func, insert, select
from sqlalchemy.exc import IntegrityError

from gemel.core.canonical import sha256_hex
from gemel.core.errors import GemelError
from gemel.core.files import write_durably
from gemel.core.signing import SignedDocument, SigningKey, read_signed, sign_document, signed_by
from gemel.server.store import metadata

SCHEMA = "gemel/model/1"
FOLDER = "models"
WEIGHTS, CARD, CARD_PAGE, ONNX = "model.safetensors", "card.json", "card.md", "model.onnx"
STUDY, CERTIFICATE, MANIFEST = "study.json", "certificate.json", "model.json"
SHORTEST_PREFIX = 8

_revisions = Table(
    "model_revisions",
    metadata,
    Column("model_sha256", String(64), primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("study_sha256", String(64), nullable=False, index=True),
    Column("study_id", String, nullable=False, index=True),
    Column("programme", String, nullable=False),
    Column("version", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("certificate_sha256", String(64), nullable=False),
    Column("manifest_sha256", String(64), nullable=False),
    Column("registered_at", String(40), nullable=False),
)


@dataclass(frozen=True)
class ModelRecord:
    """One revision of one twin's record. `state`: checkpoint or final; `programme`: name@version."""

    model_sha256: str
    revision: int
    study_sha256: str
    study_id: str
    programme: str
    version: int
    state: str
    certificate_sha256: str
    manifest_sha256: str
    registered_at: str

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return dict(self.__dict__)


@dataclass(frozen=True)
class Facts:
    """What is known of a twin when it is registered; what `revision`, manifest and time are not part of."""

    model_sha256: str
    study_sha256: str
    study_id: str
    programme: str
    version: int
    state: str
    certificate_sha256: str


class Models:
    """Registers, lists and gives out twins.

    Args:
        engine: The coordinator's store.
        folder: The coordinator's home; files are under `models/`.
        public_key: The coordinator's, whose signature a revision must bear.
    """

    def __init__(self, engine: Engine, folder: Path, *, public_key: str) -> None:
        self._engine, self._folder, self._public_key = engine, folder / FOLDER, public_key

    def register(self, facts: Facts, files: Mapping[str, bytes], key: SigningKey) -> ModelRecord:
        """Put a twin on record; the same facts and files again change nothing.

        Raises GEM535 when the same twin is on record for another study or programme, GEM532 when `files` has other weights.
        """
        if sha256_hex(files[WEIGHTS]) != facts.model_sha256:
            raise GemelError("GEM532", "The weights are not those that the hash names.")
        before = self._newest(facts.model_sha256)
        if before is not None:
            self._check_same(before, facts)
            if before.state == "final" and facts.state != "final":
                return before
        listed = {name: {"sha256": sha256_hex(c), "bytes": len(c)} for name, c in sorted(files.items())}
        if before is not None and self.manifest(before).payload["files"] == listed:
            return before
        for content in files.values():
            self._put(content)
        revision = 1 if before is None else before.revision + 1
        registered_at = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        payload = {
            "schema": SCHEMA,
            **facts.__dict__,
            "revision": revision,
            "files": listed,
            "registered_at": registered_at,
        }
        manifest = sign_document("model", payload, key, role="coordinator").to_bytes()
        record = ModelRecord(
            **facts.__dict__,
            revision=revision,
            manifest_sha256=self._put(manifest),
            registered_at=registered_at,
        )
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(_revisions).values(**record.as_dict()))
        except IntegrityError:  # another process registered the same revision meanwhile
            newest = self._newest(facts.model_sha256)
            if newest is None:
                raise
            return newest
        return record

    def all(self) -> list[ModelRecord]:
        """The newest revision of each twin, in the order in which the twins came."""
        newest = (
            select(_revisions.c.model_sha256, func.max(_revisions.c.revision).label("revision"))
            .group_by(_revisions.c.model_sha256)
            .subquery()
        )
        query = (
            select(_revisions)
            .join(
                newest,
                (_revisions.c.model_sha256 == newest.c.model_sha256)
                & (_revisions.c.revision == newest.c.revision),
            )
            .order_by(_revisions.c.registered_at, _revisions.c.study_sha256, _revisions.c.version)
        )
        with self._engine.connect() as connection:
            return [ModelRecord(**row) for row in connection.execute(query).mappings()]

    def revisions(self, model_sha256: str) -> list[ModelRecord]:
        """Every revision of a twin, the oldest first."""
        query = (
            select(_revisions)
            .where(_revisions.c.model_sha256 == model_sha256)
            .order_by(_revisions.c.revision)
        )
        with self._engine.connect() as connection:
            return [ModelRecord(**row) for row in connection.execute(query).mappings()]

    def find(self, name: str) -> ModelRecord:
        """By hash, by the first digits of one (8 at least), or by a study's id or hash: its newest twin. Raises GEM531."""
        everything = self.all()
        if len(name) >= SHORTEST_PREFIX:
            found = [record for record in everything if record.model_sha256.startswith(name)]
            if len(found) > 1:
                raise GemelError("GEM531", f"{name} could be any of {len(found)} models: give more digits.")
            if found:
                return found[0]
        of_study = [record for record in everything if name in (record.study_id, record.study_sha256)]
        if len({record.study_sha256 for record in of_study}) > 1:
            raise GemelError("GEM531", f"Several studies are called {name}: name one by its hash.")
        if not of_study:
            raise GemelError("GEM531", f"No model is called {name!r}.")
        return max(of_study, key=lambda record: (record.state == "final", record.version))

    def manifest(self, record: ModelRecord) -> SignedDocument:
        """The signed record. Raises GEM532 for a damaged one, GEM102 for one that the coordinator did not sign."""
        document = read_signed(self._get(record.manifest_sha256), kind="model")
        if not signed_by(document, self._public_key):
            raise GemelError("GEM102", "The model's record is not signed by this coordinator.")
        told = {name: document.payload.get(name) for name in record.as_dict() if name != "manifest_sha256"}
        if told != {name: value for name, value in record.as_dict().items() if name != "manifest_sha256"}:
            raise GemelError("GEM532", "The model's row differs from its signed record.")
        return document

    def file(self, record: ModelRecord, name: str) -> bytes:
        """One file of a twin, checked against the signed record. Raises GEM531 when there is none of that name, GEM532."""
        manifest = self.manifest(record)
        if name == MANIFEST:
            return manifest.to_bytes()
        files: Mapping[str, Mapping[str, Any]] = manifest.payload["files"]
        if name not in files:
            raise GemelError("GEM531", f"The model has no {name}; it has {', '.join(sorted(files))}.")
        return self._get(str(files[name]["sha256"]))

    def files(self, record: ModelRecord) -> list[str]:
        """The names of a twin's files, the signed record among them."""
        return [MANIFEST, *sorted(self.manifest(record).payload["files"])]

    def _newest(self, model_sha256: str) -> ModelRecord | None:
        found = self.revisions(model_sha256)
        return found[-1] if found else None

    def _check_same(self, before: ModelRecord, facts: Facts) -> None:
        for name in ("study_sha256", "programme", "version"):
            if getattr(before, name) != getattr(facts, name):
                raise GemelError(
                    "GEM535", f"{facts.model_sha256[:12]} is on record with another {name.replace('_', ' ')}."
                )

    def _put(self, content: bytes) -> str:
        sha256 = sha256_hex(content)
        path = self._path(sha256)
        if not path.exists() or sha256_hex(path.read_bytes()) != sha256:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(path, content, mode=0o600)
        return sha256

    def _get(self, sha256: str) -> bytes:
        try:
            content = self._path(sha256).read_bytes()
        except OSError as error:
            raise GemelError("GEM532", f"The registry's file {sha256[:12]} is missing.") from error
        if sha256_hex(content) != sha256:
            raise GemelError("GEM532", f"The registry's file {sha256[:12]} was changed.")
        return content

    def _path(self, sha256: str) -> Path:
        if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
            raise GemelError("GEM532", "The registry names a file by no hash.")
        return self._folder / sha256[:2] / sha256
