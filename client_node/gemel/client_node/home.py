"""A node's home: configuration, keys, stores. Everything a hospital backs up is under one folder."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gemel.core.canonical import canonical_bytes
from gemel.core.errors import GemelError
from gemel.core.pki import create_transport_key
from gemel.core.signing import SigningKey
from gemel.privacy.ledger import Ledger

SCHEMA = "gemel/node/1"


class NodeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the hospital decides, and nobody else can: its caps, its floor, its stewards, its data.

    `coordinator_public_key` and `stewards` (name -> key) are hex Ed25519 keys; `programmes` are "name@version".
    """

    schema: str
    site: str
    export: str
    coordinator_public_key: str
    stewards: dict[str, str]
    programmes: tuple[str, ...]
    epsilon_cap: float
    delta: float
    minimum_patients: int


@dataclass(frozen=True)
class NodeHome:
    """An opened home. Paths are derived, never configured."""

    folder: Path
    config: NodeConfig

    @classmethod
    def create(cls, folder: Path, config: NodeConfig, *, pseudonym_key: bytes | None = None) -> NodeHome:
        """Make a new home with fresh keys; an existing one is never overwritten (GEM407).

        `pseudonym_key` (32 bytes) is given only where patients are no secret: the split into training and
        held-out patients follows from it, so a demo on open data repeats with the same one.
        """
        if (folder / "node.json").exists():
            raise GemelError("GEM407", f"{folder} already holds a node.")
        for name in ("keys", "data", "outbox", "studies"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)  # data, log and proposals tell of patients too
        (folder / "keys").chmod(0o700)
        SigningKey.generate().save(folder / "keys" / "node.key")
        create_transport_key(folder / "keys")
        _write_secret(folder / "keys" / "pseudonym.key", pseudonym_key or secrets.token_bytes(32))
        (folder / "node.json").write_bytes(canonical_bytes(msgspec.to_builtins(config)))
        home = cls(folder, config)
        home.open_ledger().close()
        return home

    @classmethod
    def open(cls, folder: Path) -> NodeHome:
        """Read a home. Raises GEM407 when it is none, or of another version."""
        try:
            config = msgspec.json.decode((folder / "node.json").read_bytes(), type=NodeConfig)
        except (OSError, msgspec.DecodeError) as error:
            raise GemelError("GEM407", f"{folder} is not a node's home: {error}.") from error
        if config.schema != SCHEMA:
            raise GemelError("GEM407", f"{folder} has schema {config.schema}, expected {SCHEMA}.")
        return cls(folder, config)

    @property
    def key(self) -> SigningKey:
        """The node's signing key: its identity in every reply and ledger entry."""
        return SigningKey.load(self.folder / "keys" / "node.key")

    @property
    def pseudonym_key(self) -> bytes:
        """The 32 secret bytes under which patient ids are pseudonymised; they never leave."""
        return (self.folder / "keys" / "pseudonym.key").read_bytes()

    @property
    def export(self) -> Path:
        """The FHIR export that the hospital pointed the node at."""
        return Path(self.config.export)

    @property
    def mapping_files(self) -> tuple[Path, ...]:
        """The site's own words (`gemel.data_adapters.meaning.site_mapping`): what stands in the folder `mapping`."""
        return tuple(sorted(path for path in (self.folder / "mapping").glob("*") if path.is_file()))

    @property
    def opt_out(self) -> Path | None:
        """The list of patients who opted out, `opt_out.txt`; None when there is none."""
        path = self.folder / "opt_out.txt"
        return path if path.exists() else None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One task at a time for each hospital: two at once could draw noise twice for one charge."""
        with (self.folder / "node.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def open_ledger(self) -> Ledger:
        """The privacy ledger, verified on opening (GEM302)."""
        return Ledger.open(
            self.folder / "ledger.sqlite",
            key=self.key,
            site=self.config.site,
            epsilon_cap=self.config.epsilon_cap,
            delta=self.config.delta,
        )


def _write_secret(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
