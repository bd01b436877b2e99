"""A node's home: configuration, keys, stores. Everything a hospital backs up is under one folder."""

from __future__ import annotations

import fcntl
import math
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gemel.client_node.allow_list import code_of
from gemel.client_node.key_dates import write_dates
from gemel.core.canonical import canonical_bytes
from gemel.core.errors import GemelError
from gemel.core.files import write_durably
from gemel.core.pki import create_transport_key
from gemel.core.signing import SigningKey
from gemel.privacy.ledger import Ledger

SCHEMA = "gemel/node/1"
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class NodeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the hospital decides, and nobody else can: its caps, its floor, its stewards, its data.

    Attributes:
        coordinator_public_key, stewards: Hex Ed25519 keys; the latter by the steward's name.
        programmes: "name@version" of what may run here.
        code: "name@version" -> the hash of the installed code that was allowed (`gemel.client_node.allow_list`).
        federation, address: The federation's name and its one port, host:port, as the start kit says.
        approvals_needed: How many different stewards must approve a study.
        log_level: Of the structured log: DEBUG, INFO, WARNING or ERROR.
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
    code: dict[str, str] = {}
    federation: str = ""
    address: str = ""
    approvals_needed: int = 1
    log_level: str = "INFO"


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
        check_config(config)
        for name in ("keys", "data", "outbox", "studies", "audit"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)  # data, log and proposals tell of patients too
        (folder / "keys").chmod(0o700)
        SigningKey.generate().save(folder / "keys" / "node.key")
        create_transport_key(folder / "keys")
        write_dates(folder / "keys")
        _write_secret(folder / "keys" / "pseudonym.key", pseudonym_key or secrets.token_bytes(32))
        allowed = {name: config.code.get(name) or code_of(name) for name in config.programmes}
        home = cls(folder, msgspec.structs.replace(config, code=allowed))
        home.open_ledger().close()
        home._write_config()  # last: a home is one when this is there
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

    def changed(self, **fields: object) -> NodeHome:
        """The home with other fields of its configuration, durably. Raises GEM407 for what cannot be one."""
        config = msgspec.structs.replace(self.config, **fields)
        check_config(config)
        home = NodeHome(self.folder, config)
        home._write_config()
        return home

    def _write_config(self) -> None:
        content = canonical_bytes(msgspec.to_builtins(self.config))
        write_durably(self.folder / "node.json", content, mode=0o600)

    @property
    def ca_certificate(self) -> Path:
        """PEM of the one CA that the coordinator's certificate is believed by."""
        return self.folder / "tls" / "ca.crt"

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


def check_config(config: NodeConfig) -> None:
    """Refuse (GEM407) what no node can be run with."""
    wrong = [
        name
        for name, holds in {
            "epsilon_cap": 0 < config.epsilon_cap < math.inf,
            "delta": 0 < config.delta <= 1e-3,
            "minimum_patients": config.minimum_patients >= 1,
            "approvals_needed": 1 <= config.approvals_needed <= 10,
            "log_level": config.log_level in _LEVELS,
        }.items()
        if not holds
    ]
    if wrong:
        raise GemelError("GEM407", f"node.json: {', '.join(wrong)} cannot be what is given.")


def _write_secret(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
