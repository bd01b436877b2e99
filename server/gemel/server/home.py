"""The coordinator's home: its key, and one folder for each run with all that a restart needs."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from gemel.core.arrays import Arrays, ArraySpec, pack_arrays, unpack_arrays
from gemel.core.canonical import canonical_bytes, sha256_hex
from gemel.core.errors import GemelError
from gemel.core.files import write_durably
from gemel.core.messages import Envelope
from gemel.core.signing import SignedDocument, SigningKey, read_signed
from gemel.server.mapped import map_arrays
from gemel.server.store import open_store, store_url


@dataclass(frozen=True)
class CoordinatorHome:
    """A folder with `keys/coordinator.key` and `runs/STUDY_SHA256/`."""

    folder: Path

    @classmethod
    def create(cls, folder: Path) -> CoordinatorHome:
        """Make a home with a fresh signing key."""
        (folder / "keys").mkdir(parents=True)
        folder.chmod(0o700)  # single hospitals' releases are here too
        (folder / "keys").chmod(0o700)
        (folder / "runs").mkdir()
        SigningKey.generate().save(folder / "keys" / "coordinator.key")
        return cls(folder)

    @property
    def key(self) -> SigningKey:
        """The key that signs requests and certificates."""
        return SigningKey.load(self.folder / "keys" / "coordinator.key")

    def open_store(self) -> Engine:
        """The store of members, ledger heads and all that several runs share. Raises GEM520."""
        return open_store(store_url(self.folder))

    def run(self, study_sha256: str) -> RunFolder:
        """The folder of one study's run; GEM101 when the name is no hash."""
        if len(study_sha256) != 64 or not set(study_sha256) <= set("0123456789abcdef"):
            raise GemelError("GEM101", f"{study_sha256!r} is not a study hash.")
        return RunFolder(self.folder / "runs" / study_sha256)

    def admit(self, study: SignedDocument) -> RunFolder:
        """Put a signed study on record, ready to run."""
        run = self.run(study.payload_sha256)
        (run.folder / "releases").mkdir(parents=True, exist_ok=True)
        write_durably(run.folder / "study.json", study.to_bytes())
        return run


@dataclass(frozen=True)
class RunFolder:
    """Study, releases, models, state, events and certificate of one run."""

    folder: Path

    @property
    def study(self) -> SignedDocument:
        """The signed study."""
        return read_signed((self.folder / "study.json").read_bytes(), kind="study")

    def load_state(self) -> dict[str, Any]:
        """The completed tasks so far; empty for a new run."""
        path = self.folder / "state.json"
        state: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}
        return state

    def save_state(self, state: dict[str, Any]) -> None:
        """Replace the state; it is the last file that a completed task writes."""
        write_durably(self.folder / "state.json", canonical_bytes(state))

    def ask_to_stop(self) -> None:
        """Have the run end soon, with a certificate that says GEM510."""
        write_durably(self.folder / "stop", b"")

    def clear_stop(self) -> None:
        """Let the run go on when it is started again."""
        (self.folder / "stop").unlink(missing_ok=True)

    @property
    def stop_asked(self) -> bool:
        """True once somebody asked the run to end."""
        return (self.folder / "stop").exists()

    def save_model(self, name: str, arrays: Arrays) -> bytes:
        """Write one global twin and return its bytes."""
        content = pack_arrays(arrays)
        write_durably(self.folder / f"{name}.safetensors", content)
        return content

    def load_model(self, name: str, declared: dict[str, ArraySpec]) -> dict[str, Any]:
        """Read one global twin, checked."""
        return unpack_arrays((self.folder / f"{name}.safetensors").read_bytes(), declared)

    def map_model(self, name: str) -> Arrays:
        """One global twin, as views of its file."""
        return map_arrays(self.folder / f"{name}.safetensors")

    def sha256_of_model(self, name: str) -> str:
        """The hash of a global twin's file; "" when there is none."""
        path = self.folder / f"{name}.safetensors"
        return sha256_hex(path.read_bytes()) if path.exists() else ""

    def last_model_name(self) -> str:
        """The newest global twin that a completed task made; "" before the first."""
        for entry in reversed(self.load_state().get("tasks", [])):
            versions = entry.get("versions") or ([entry] if "version" in entry else [])
            if versions:
                return model_name(versions[-1]["version"])
        return ""

    def save_memory(self, version: int, arrays: Arrays) -> bytes:
        """Write what a strategy remembers beside a model, and return its bytes."""
        content = pack_arrays(arrays)
        write_durably(self.folder / f"strategy-{version:04d}.safetensors", content)
        return content

    def load_memory(self, version: int) -> bytes:
        """What a strategy remembered at a version of the twin."""
        return (self.folder / f"strategy-{version:04d}.safetensors").read_bytes()

    def forget_memory(self, *, before: int) -> None:
        """Remove what no version from `before` on needs."""
        for path in self.folder.glob("strategy-*.safetensors"):
            if int(path.stem.removeprefix("strategy-")) < before:
                path.unlink()

    def save_result(self, name: str, result: dict[str, Any]) -> bytes:
        """Write `NAME.json`, computed from releases, and return its bytes."""
        content = canonical_bytes(result)
        write_durably(self.folder / f"{name}.json", content)
        return content

    def save_statistics(self, estimates: list[dict[str, Any]]) -> bytes:
        """Write `statistics.json`, what the hospitals' patients are like, and return its bytes."""
        return self.save_result("statistics", {"statistics": estimates})

    def save_release(self, task: str, site: str, envelope: Envelope) -> None:
        """Keep a verified release."""
        folder = self.folder / "releases" / task
        folder.mkdir(parents=True, exist_ok=True)
        write_durably(folder / f"{site}.safetensors", envelope.payload)
        write_durably(folder / f"{site}.json", envelope.document)

    def load_release(self, task: str, site: str, declared: dict[str, ArraySpec]) -> dict[str, Any]:
        """The arrays that a site released in a task."""
        path = self.folder / "releases" / task / f"{site}.safetensors"
        return unpack_arrays(path.read_bytes(), declared)

    def map_release(self, task: str, site: str) -> Arrays:
        """The arrays of a release that was checked before it was kept, as views of its file."""
        return map_arrays(self.folder / "releases" / task / f"{site}.safetensors")

    def save_synthesis(self, task: str, arrays: Arrays) -> bytes:
        """Keep what a round of synthesis led to: the pairs of the next, or at last what a cohort is drawn from; its bytes."""
        content = pack_arrays(arrays)
        write_durably(self.synthesis_path(task), content)
        return content

    def load_synthesis(self, task: str) -> Arrays:
        """What a round of synthesis led to, as views of its file."""
        return map_arrays(self.synthesis_path(task))

    def synthesis_path(self, task: str) -> Path:
        """The file of what a round of synthesis led to."""
        return self.folder / f"{task.replace('/', '-')}.safetensors"

    def save_late(self, task: str, site: str, document: bytes) -> None:
        """Keep the signed reply of a release that came too late; its arrays are not kept, for they are not used."""
        folder = self.folder / "late" / task
        folder.mkdir(parents=True, exist_ok=True)
        write_durably(folder / f"{site}.json", document)

    def load_envelope(self, task: str, site: str) -> Envelope:
        """A kept answer of a site, as it came."""
        folder = self.folder / "releases" / task
        return Envelope(
            document=(folder / f"{site}.json").read_bytes(),
            payload=(folder / f"{site}.safetensors").read_bytes(),
        )

    def save_sum(self, task: str, arrays: Arrays) -> bytes:
        """Keep what a masked task added up to, and return its bytes."""
        content, path = pack_arrays(arrays), self._sum(task)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, content)
        return content

    def load_sum(self, task: str, declared: dict[str, ArraySpec]) -> dict[str, Any]:
        """The sum of a masked task's releases over the sites that `contributors` names."""
        return unpack_arrays(self._sum(task).read_bytes(), declared)

    def _sum(self, task: str) -> Path:
        return self.folder / "releases" / f"{task}.sum.safetensors"

    def contributors(self, task: str) -> list[str]:
        """The sites whose releases a completed task used; a file of another site is a leftover of a crash."""
        for entry in self.load_state().get("tasks", []):
            if entry["task"] == task:
                return [contribution["site"] for contribution in entry["contributions"]]
        return []

    def take_over(self) -> str:
        """Make the caller the only one who runs this study; returns the token that says so."""
        token = secrets.token_hex(16)
        write_durably(self.folder / "runner", token.encode())
        return token

    def still_run_by(self, token: str) -> bool:
        """False once another has taken over."""
        return (self.folder / "runner").read_bytes() == token.encode()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Hold a lock that the kernel drops with the process: `is_running` is how others see that a runner was killed."""
        with (self.folder / "running").open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            yield

    @property
    def is_running(self) -> bool:
        """True while some process on this machine runs the study."""
        path = self.folder / "running"
        if not path.exists():
            return False
        with path.open("wb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def event(self, kind: str, **facts: object) -> None:
        """Append one line to `events.ndjson`, for whoever watches the run."""
        line = canonical_bytes({"event": kind, "at": round(time.time(), 3), **facts}) + b"\n"
        with (self.folder / "events.ndjson").open("a+b") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    line = b"\n" + line  # a crash tore the last one
            file.write(line)

    def events(self, *, start: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        """Complete lines from a byte offset on, each with the offset after it; a torn one is passed over."""
        path = self.folder / "events.ndjson"
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(start)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                start += len(line)
                try:
                    event = json.loads(line)
                except json.JSONDecodeError:
                    continue
                yield start, event

    def save_certificate(self, document: SignedDocument) -> None:
        """Write `certificate.json`: the run has ended."""
        write_durably(self.folder / "certificate.json", document.to_bytes())

    @property
    def certificate(self) -> SignedDocument | None:
        """The certificate, or None while the run goes on."""
        path = self.folder / "certificate.json"
        return read_signed(path.read_bytes(), kind="certificate") if path.exists() else None

    def set_certificate_aside(self) -> None:
        """The run goes on: what its earlier end said is kept as `certificate-N.json`."""
        number = len(list(self.folder.glob("certificate-*.json"))) + 1
        os.replace(self.folder / "certificate.json", self.folder / f"certificate-{number}.json")


def model_name(version: int) -> str:
    """The file of a version of the global twin; 0 is what training starts from."""
    return f"model-{version:04d}"
