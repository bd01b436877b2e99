"""Names that become paths, links that are swapped, keys that others can read, and what a refusal leaves behind.

Stands for NVFlare CWE-22 in FileRetriever (#4229), zip entries (#4509), a signed folder replaced by a link (#4879), key
files for all to read (#4431) and artefacts of a rejected app (#4434).
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from one_node import Talk

from gemel.core.arrays import pack_arrays
from gemel.core.canonical import sha256_hex
from gemel.core.errors import GemelError
from gemel.core.messages import Envelope, read_reply
from gemel.core.signing import SigningKey, sign_document
from gemel.core.study import parse_study
from gemel.twins.installed import make_twin
from gemel.twins.programmes.fatty_liver import PROGRAMME

if TYPE_CHECKING:
    from gemel.cli.demo.federation import Federation

MakeStudy = Callable[..., Any]
ESCAPES = (
    "../escaped",
    "/var/escaped",
    "a/../../escaped",
    "..",
    ".",
    "a\\..\\escaped",
    "a\x00b",
    "train/../../escaped",
    "%2e%2e%2fescaped",
    "a/b",
    "~root",
    "CON",
    "a" * 300,
)


@pytest.fixture
def talk(federation: Federation, make_study: MakeStudy) -> Talk:
    return Talk(federation, make_study())


def _files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by its path, but for the lock and what is noted of each answer."""
    own = ("node.lock", "audit", "ledger.sqlite", "node.log", "events.jsonl")
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and not name.startswith(own) and not name.endswith(".told"):
            found[name] = path.read_bytes()
    return found


@pytest.mark.parametrize("name", [name for name in ESCAPES if name != "CON"])
def test_a_sites_name_is_no_path(make_study: MakeStudy, name: str) -> None:
    """NVFlare CWE-22: a site's name becomes a file's name at the coordinator."""
    study = make_study()
    sites = {**study.sites, name: "ab" * 32}
    with pytest.raises(GemelError, match="GEM101"):
        parse_study(msgspec.structs.replace(study, sites=sites).to_payload())


def test_a_tasks_name_is_no_path(talk: Talk) -> None:
    """NVFlare CWE-22: a task's name becomes a folder's name, but only if the study has it."""
    talk.propose()
    talk.decide()
    assert str(talk.ask("count").status) == "released"
    twin = pack_arrays(make_twin(PROGRAMME).to_arrays())
    before = _files(talk.home.folder)
    for task in (task for name in ESCAPES for task in (name, f"train/{name}", f"cross/{name}")):
        inputs = twin if task.startswith(("train/", "cross/")) else b""
        reply = talk.send(talk.envelope(task, inputs))
        assert read_reply(reply.document)[0].code in ("GEM404", "GEM307"), task
        assert not reply.payload
    assert _files(talk.home.folder) == before


@pytest.mark.parametrize("name", ESCAPES)
def test_a_studys_hash_is_no_path(federation: Federation, name: str) -> None:
    """NVFlare CWE-22: opaque ids instead of paths."""
    with pytest.raises(GemelError, match="GEM101"):
        federation.coordinator.run(name)


@pytest.mark.parametrize("name", ESCAPES)
def test_a_programmes_name_is_no_module_and_no_path(make_study: MakeStudy, talk: Talk, name: str) -> None:
    """GHSA-m3v4-v5gx-7wf5: a model's name that names code. A programme is looked up among those installed, never imported by name."""
    from gemel.twins.installed import find

    for programme in (name, "os", "gemel.twins.programmes.fatty_liver", "fatty_liver.__init__"):
        with pytest.raises(GemelError, match="GEM104"):
            find(programme, "1")
    other = Talk(talk.federation, make_study(programme=name))
    assert other.ask("hello").code in ("GEM104", "GEM101")


@pytest.mark.parametrize("name", ["../escaped", "/var/escaped", "a/b", ".hidden", "model.json"])
def test_a_registry_cannot_make_a_pull_write_elsewhere(tmp_path: Path, name: str) -> None:
    """NVFlare #4509, from the server: the names in a record come from outside."""
    from gemel.cli.model import fetch

    payload = {"model_sha256": "ab" * 32, "files": {name: {"sha256": sha256_hex(b"x"), "bytes": 1}}}
    record = sign_document("model", payload, SigningKey.generate(), role="coordinator").to_bytes()

    class Registry:
        def list(self) -> list[dict[str, Any]]:
            return []

        def show(self, _name: str) -> dict[str, Any]:
            return {}

        def file(self, _name: str, file: str) -> bytes:
            return record if file == "model.json" else b"x"

    with pytest.raises(GemelError, match="GEM532"):
        fetch(Registry(), "x", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "escaped").exists()


def test_records_that_are_swapped_for_others_after_approval_are_refused_uncharged(
    talk: Talk, write_export: Callable[..., Path], tmp_path: Path
) -> None:
    """NVFlare #4879: what was approved is replaced by a link to something else."""
    talk.propose()
    talk.decide()
    with talk.home.open_ledger() as ledger:
        before = ledger.entries()[-1].seq
    link = tmp_path / "link"
    link.symlink_to(write_export(tmp_path / "others", patients=120, seed=99))
    talk.home = talk.home.changed(export=str(link))
    assert talk.ask("count").code == "GEM405"
    with talk.home.open_ledger() as ledger:
        assert ledger.entries()[-1].seq == before


def test_a_kept_data_set_that_is_swapped_after_approval_is_refused_uncharged(
    talk: Talk, federation: Federation, make_study: MakeStudy
) -> None:
    """NVFlare #4879: verified, then replaced. A data set is named by the hash of what it holds, each time it is loaded."""
    other = federation.nodes["alpha"]
    from gemel.client_node import patients

    talk.propose()
    talk.decide()
    patients.load(other, PROGRAMME)
    name = f"{PROGRAMME.name}-{PROGRAMME.version}.safetensors"
    target = talk.home.folder / "data" / name
    target.unlink()
    target.symlink_to(other.folder / "data" / name)
    assert talk.ask("count").code == "GEM405"


def test_a_file_that_was_put_in_a_keys_place_is_not_followed_when_keys_are_made(tmp_path: Path) -> None:
    """NVFlare #4431 and #4879: a key is made in a file of its own, never through a link or over another file."""
    aim = tmp_path / "aim"
    (tmp_path / "key").symlink_to(aim)
    with pytest.raises(OSError, match="File exists"):
        SigningKey.generate().save(tmp_path / "key")
    assert not aim.exists()


def test_a_link_in_the_place_of_a_durable_file_is_replaced_and_not_followed(tmp_path: Path) -> None:
    """NVFlare #4879: what stands at the other end of a link is not written."""
    from gemel.core.files import write_durably

    aim = tmp_path / "aim"
    aim.write_bytes(b"not yours")
    (tmp_path / "state.json").symlink_to(aim)
    write_durably(tmp_path / "state.json", b"{}")
    assert aim.read_bytes() == b"not yours"
    assert not (tmp_path / "state.json").is_symlink()


@pytest.fixture
def careless_umask() -> Iterator[None]:
    """What a careless administrator's shell has: everything that is made may be read by everybody."""
    before = os.umask(0)
    yield
    os.umask(before)


def _for_others(folder: Path) -> list[str]:
    """What below a folder others could read or change, given that they can enter it."""
    reachable = []
    for place, folders, files in os.walk(folder):
        if stat.S_IMODE(Path(place).stat().st_mode) & 0o011 == 0:
            folders.clear()
            continue
        reachable += [
            str(Path(place, file)) for file in files if stat.S_IMODE(Path(place, file).stat().st_mode) & 0o077
        ]
    return reachable


@pytest.mark.usefixtures("careless_umask")
def test_no_home_is_open_to_other_users_even_under_a_careless_umask(
    exports: dict[str, Path], tmp_path: Path
) -> None:
    """NVFlare #4431: key files that everybody could read."""
    from gemel.cli.demo.federation import create

    made = create(tmp_path / "f", exports, PROGRAMME, epsilon_cap=3.0, delta=1e-5, minimum_patients=50)
    for folder in (made.coordinator.folder, *(home.folder for home in made.nodes.values())):
        assert _for_others(folder) == []
        keys = list((folder / "keys").iterdir())
        assert keys
        for key in keys:
            public = key.suffix in (".pub", ".crt")
            assert public or stat.S_IMODE(key.stat().st_mode) & 0o077 == 0, key


@pytest.mark.usefixtures("careless_umask")
def test_a_registrys_files_are_the_coordinators_alone(tmp_path: Path) -> None:
    from gemel.server.registry.models import WEIGHTS, Facts, Models
    from gemel.server.store import open_store

    key = SigningKey.generate()
    models = Models(open_store(f"sqlite:///{tmp_path / 'store.sqlite'}"), tmp_path, public_key=key.public_hex)
    facts = Facts(sha256_hex(b"w"), "0" * 64, "s", "p@1", 1, "checkpoint", "")
    models.register(facts, {WEIGHTS: b"w"}, key)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_what_is_refused_leaves_nothing_behind(federation: Federation, make_study: MakeStudy) -> None:
    """NVFlare #4434: a rejected app that stayed on disk."""
    talk = Talk(federation, make_study())
    before = _files(talk.home.folder)
    stranger = SigningKey.generate()
    study = talk.study
    request = json.loads(talk.envelope("hello").document)["payload"]
    by_stranger = sign_document("request", request, stranger, role="coordinator").to_bytes()
    for envelope in (
        Envelope(document=by_stranger, study=study.to_bytes(), payload=b"x" * 1000),
        Envelope(document=talk.envelope("hello").document, study=b"{}" * 1000),
        Envelope(document=b"\x00" * 1000, study=b"\x00" * 1000, payload=b"\x00" * 1000),
        talk.envelope("count"),
        talk.envelope("train/1", b"x" * 1000),
    ):
        assert str(read_reply(talk.send(envelope).document)[0].status) == "refused"
    assert sorted(_files(talk.home.folder)) == sorted(before)
    assert _files(talk.home.folder) == before


def test_a_kit_that_is_refused_leaves_no_home(tmp_path: Path) -> None:
    """NVFlare #4434, at the first step of all."""
    from gemel.client_node.joining import Limits, make_node

    limits = Limits(export=tmp_path, minimum_patients=20, epsilon_cap=3.0, delta=1e-5)
    for content in (
        b"",
        b"{}",
        sign_document("start-kit", {}, SigningKey.generate(), role="coordinator").to_bytes(),
    ):
        with pytest.raises(GemelError):
            make_node(tmp_path / "node", content, limits)
    assert not (tmp_path / "node").exists()
