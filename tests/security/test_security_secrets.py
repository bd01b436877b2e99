"""A real federation while it runs: what its processes, their environments and its logs tell, and which doors are open.

Stands for NVFlare #4858, #4932, #4933 and the note on argv in 2.9 (tokens in logs, argv and configuration), Flower's task
tokens on argv, its Runtime API that asks nobody for a name, and exception text that leaves a node ("patient 4711").
"""

from __future__ import annotations

import base64
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from small_study import small_study

from gemel.cli.demo.federation import Federation, create, run_study, running
from gemel.core.errors import GemelError
from gemel.core.signing import SigningKey, sign_document
from gemel.twins.programmes.fatty_liver import PROGRAMME

pytestmark = pytest.mark.heavy
# In every made-up patient's id; see `write_export`.
PATIENT = b"p1-"


@dataclass
class Seen:
    """What a local user of these machines could look at while a study ran."""

    federation: Federation
    commands: list[bytes]
    environments: list[bytes]
    runtime_answers: dict[str, int]


@pytest.fixture(scope="module")
def seen(write_export: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """One study over a real federation, looked at from outside in every event."""
    folder = tmp_path_factory.mktemp("secrets")
    exports = {
        site: write_export(folder / site, patients=90, seed=n) for n, site in enumerate(("alpha", "beta"), 1)
    }
    federation = create(
        folder / "federation", exports, PROGRAMME, epsilon_cap=3.0, delta=1e-5, minimum_patients=50
    )
    study = small_study(federation.site_keys, round_timeout_s=60.0)
    document = sign_document("study", study.to_payload(), SigningKey.generate(), role="proposer")
    commands: set[bytes] = set()
    environments: set[bytes] = set()

    def look(_event: dict[str, Any]) -> None:
        for identity in _family(os.getpid()):
            commands.add(_read(Path(f"/proc/{identity}/cmdline")))
            environments.add(_read(Path(f"/proc/{identity}/environ")))

    with running(federation):
        look({})
        run_study(federation, document, watch=look, timeout_s=150.0)
        answers = {path: _post(federation, path) for path in RUNTIME}
        yield Seen(federation, sorted(commands), sorted(environments), answers)


RUNTIME = (
    "acquire-task",
    "send-task-heartbeat",
    "pull-task-input",
    "push-task-output",
    "get-nodes",
    "push-messages",
    "pull-messages",
    "push-logs",
    "pull-object",
)


def _family(parent: int) -> list[int]:
    """The processes below one."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                above = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(above, []).append(int(entry.name))
    found, open_ = [], [parent]
    while open_:
        below = children.get(open_.pop(), [])
        found += below
        open_ += below
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _post(federation: Federation, call: str) -> int:
    link = federation.superlink
    context = ssl.create_default_context(cafile=str(link.ca_certificate))
    request = urllib.request.Request(  # https on loopback
        f"https://{link.address}/v1/runtime/{call}",
        data=b"",
        method="POST",
        headers={"Content-Type": "application/protobuf", "Accept": "application/protobuf"},
    )
    try:
        with urllib.request.urlopen(request, context=context, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def secrets_of(federation: Federation) -> dict[str, list[bytes]]:
    """Every secret of a federation, in each way in which it might be written."""
    found: dict[str, list[bytes]] = {}
    folders = [federation.coordinator.folder, *(home.folder for home in federation.nodes.values())]
    for path in (p for folder in folders for name in ("keys", "tls") for p in (folder / name).glob("*")):
        if (
            not path.is_file()
            or path.suffix in (".pub", ".crt")
            or path.name in ("dates.json", "database.url")
        ):
            continue
        content = path.read_bytes().strip()
        if content.startswith(b"-----BEGIN"):
            if b"PRIVATE KEY" not in content:
                continue
            found[str(path)] = [b"".join(content.splitlines()[1:-1])[20:60], content.splitlines()[1][20:60]]
        else:
            found[str(path)] = [content, content.hex().encode(), base64.b64encode(content)]
    return found


def test_the_secrets_that_are_looked_for_are_all_there(seen: Seen) -> None:
    """Otherwise what follows would prove nothing."""
    names = {Path(name).name for name in secrets_of(seen.federation)}
    assert {"coordinator.key", "node.key", "transport.key", "pseudonym.key", "superexec.secret"} <= names
    assert any(name in names for name in ("ca.key", "server.key"))
    assert len(seen.commands) >= 5
    assert all(len(value) >= 32 for values in secrets_of(seen.federation).values() for value in values)


def test_no_secret_is_on_a_command_line_or_in_an_environment(seen: Seen) -> None:
    told = b"\0".join((*seen.commands, *seen.environments))
    for name, values in secrets_of(seen.federation).items():
        for value in values:
            assert value not in told, name
    assert b"--token" not in told, "Flower's task tokens were on argv"


def test_no_secret_and_no_patient_is_in_any_log(seen: Seen) -> None:
    folder = seen.federation.folder
    logs = [p for p in folder.rglob("*") if p.is_file() and p.suffix in (".log", ".jsonl", ".ndjson")]
    written = {p: p.read_bytes() for p in logs if "exports" not in p.parts}
    assert written
    for path, content in written.items():
        for name, values in secrets_of(seen.federation).items():
            assert not any(value in content for value in values), f"{name} in {path}"
        assert PATIENT not in content, path


def test_nothing_at_the_coordinator_names_a_patient(seen: Seen) -> None:
    """Flower's exception text ("patient 4711") was stored by the server; ours are codes."""
    for path in seen.federation.coordinator.folder.rglob("*"):
        if path.is_file():
            assert PATIENT not in path.read_bytes(), path


@pytest.mark.parametrize("call", RUNTIME)
def test_flowers_runtime_api_does_nothing_for_a_stranger(seen: Seen, call: str) -> None:
    """Flower with subprocess isolation hands a task to whoever asks; FedML CVE-2026-5536: who asks is checked before what."""
    assert seen.runtime_answers[call] in (401, 403, 404), seen.runtime_answers


def test_a_secret_shows_in_no_representation(seen: Seen) -> None:
    """NVFlare #4933: a secret that prints itself."""
    home = next(iter(seen.federation.nodes.values()))
    shown = repr(home) + repr(home.key) + repr(seen.federation.coordinator) + repr(seen.federation.stewards)
    for values in secrets_of(seen.federation).values():
        assert not any(value.decode("latin-1") in shown for value in values)
    with pytest.raises(GemelError) as error:
        SigningKey.load(home.folder / "keys" / "pseudonym.key")
    assert home.pseudonym_key.hex() not in str(error.value)
