"""Homes come back from one sealed file as they were, or not at all."""

import hashlib
import io
import json
import os
import shutil
import sqlite3
import stat
import tarfile
import threading
import time

import pytest
from ledgers import OTHER, reserve
from postgresql import postgresql
from running_coordinator import make_coordinator
from sqlalchemy import create_engine, make_url, text

from gemel.client_node import backup as node_backup
from gemel.client_node.home import NodeHome
from gemel.core.errors import GemelError
from gemel.core.signing import SigningKey, sign_document
from gemel.privacy import backup_archive
from gemel.privacy.sealed_files import CHUNK, SealedReader, SealedWriter, read_passphrase
from gemel.server import administration
from gemel.server import backup as coordinator_backup
from gemel.server.home import CoordinatorHome
from gemel.server.members import Members
from gemel.server.store import open_store, store_url

PASSPHRASE = b"correct horse battery staple"


def _sealed(content, passphrase=PASSPHRASE):
    target = io.BytesIO()
    with SealedWriter(target, passphrase) as writer:
        writer.write(content)
    return target.getvalue()


def _opened(content, passphrase=PASSPHRASE):
    return io.BufferedReader(SealedReader(io.BytesIO(content), passphrase)).read()


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_what_is_sealed_is_opened_by_the_same_passphrase(size):
    content = os.urandom(size)
    sealed = _sealed(content)
    assert _opened(sealed) == content
    assert content == b"" or content[:64] not in sealed or size < 16


def test_another_passphrase_or_any_change_is_told():
    content = os.urandom(2 * CHUNK + 100)
    sealed = _sealed(content)
    head, chunk = 15 + 32, CHUNK + 16
    swapped = (
        sealed[:head]
        + sealed[head + chunk : head + 2 * chunk]
        + sealed[head : head + chunk]
        + sealed[head + 2 * chunk :]
    )
    changed = {
        "a bit": sealed[:-5] + bytes([sealed[-5] ^ 1]) + sealed[-4:],
        "the salt": sealed[:20] + bytes([sealed[20] ^ 1]) + sealed[21:],
        "cut at a chunk": sealed[: head + chunk],
        "cut anywhere": sealed[:-1],
        "cut to nothing": sealed[:head],
        "swapped": swapped,
        "longer": sealed + b"x",
        "twice its end": sealed + sealed[head + 2 * chunk :],
        "no backup": b"PK" + sealed,
    }
    for what, wrong in changed.items():
        with pytest.raises(GemelError) as caught:
            _opened(wrong)
        assert caught.value.code == "GEM528", what
    with pytest.raises(GemelError):
        _opened(sealed, b"another passphrase")


def test_a_passphrase_that_others_can_read_or_that_is_short_is_refused(tmp_path):
    path = tmp_path / "passphrase"
    path.write_bytes(PASSPHRASE + b"\n")
    path.chmod(0o640)
    with pytest.raises(GemelError):
        read_passphrase(path)
    path.chmod(0o600)
    assert read_passphrase(path) == PASSPHRASE
    path.write_bytes(b"short\n")
    with pytest.raises(GemelError):
        read_passphrase(path)


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory):
    """A coordinator with a member and a run."""
    made = make_coordinator(tmp_path_factory.mktemp("backup") / "home")
    home = CoordinatorHome(made.folder)
    with made.members() as members:
        administration.invite(
            members, made.config, home.key, site="alpha", ca_certificate=made.ca.read_text()
        )
    run = home.admit(sign_document("study", {"a": 1}, SigningKey.generate(), role="proposer"))
    run.save_state({"tasks": []})
    run.event("started")
    (made.folder / "logs").mkdir()
    (made.folder / "logs" / "superlink.log").write_text("words\n")
    return made


def test_a_coordinator_comes_back_with_keys_store_and_runs(coordinator, tmp_path):
    coordinator_backup.backup(coordinator.folder, tmp_path / "b", PASSPHRASE)
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o600
    restored = tmp_path / "restored"
    manifest = coordinator_backup.restore(tmp_path / "b", restored, PASSPHRASE)
    assert manifest.of == "test federation"
    assert CoordinatorHome(restored).key.public_hex == CoordinatorHome(coordinator.folder).key.public_hex
    for name in ("keys/ca.key", "tls/public.key", "tls/ca.crt", "federation.json"):
        assert (restored / name).read_bytes() == (coordinator.folder / name).read_bytes()
    assert stat.S_IMODE((restored / "keys").stat().st_mode) == 0o700
    assert stat.S_IMODE((restored / "keys" / "ca.key").stat().st_mode) == 0o600
    (run,) = (restored / "runs").iterdir()
    assert (run / "state.json").read_bytes() == b'{"tasks":[]}'
    with sqlite3.connect(restored / "coordinator.sqlite") as store:
        assert store.execute("select site from invitations").fetchall() == [("alpha",)]
    store.close()
    # nginx's configuration names the new place, and what can be made again is not in it.
    assert str(restored) in (restored / "nginx" / "nginx.conf").read_text()
    assert not (restored / "logs").exists()
    assert not list(coordinator.folder.glob(".*"))


def test_nothing_of_a_home_can_be_read_in_its_backup(coordinator, tmp_path):
    coordinator_backup.backup(coordinator.folder, tmp_path / "b", PASSPHRASE)
    content = (tmp_path / "b").read_bytes()
    for words in (b"PRIVATE KEY", b"federation.json", b"alpha", b"SQLite"):
        assert words not in content


def test_a_restore_never_writes_over_what_is_there(coordinator, tmp_path):
    coordinator_backup.backup(coordinator.folder, tmp_path / "b", PASSPHRASE)
    (tmp_path / "there").mkdir()
    before = sorted(p.name for p in coordinator.folder.iterdir())
    for folder in (tmp_path / "there", coordinator.folder):
        with pytest.raises(GemelError) as caught:
            coordinator_backup.restore(tmp_path / "b", folder, PASSPHRASE)
        assert caught.value.code == "GEM528"
    assert list((tmp_path / "there").iterdir()) == []
    assert sorted(p.name for p in coordinator.folder.iterdir()) == before
    with pytest.raises(GemelError):
        coordinator_backup.backup(coordinator.folder, tmp_path / "b", PASSPHRASE)  # nor a backup over another


@pytest.mark.parametrize("wrong", ["passphrase", "cut", "bit"])
def test_a_restore_that_fails_leaves_nothing(coordinator, tmp_path, wrong):
    path = tmp_path / "b"
    coordinator_backup.backup(coordinator.folder, path, PASSPHRASE)
    content = path.read_bytes()
    if wrong == "cut":
        path.write_bytes(content[: len(content) // 2])
    if wrong == "bit":
        path.write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    passphrase = b"another passphrase" if wrong == "passphrase" else PASSPHRASE
    with pytest.raises(GemelError) as caught:
        coordinator_backup.restore(path, tmp_path / "restored", passphrase)
    assert caught.value.code == "GEM528"
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_a_store_is_consistent_in_a_backup_that_is_made_while_it_is_written(coordinator, tmp_path):
    stop = threading.Event()
    database = coordinator.folder / "coordinator.sqlite"

    def write():
        connection = sqlite3.connect(database, timeout=30)
        connection.execute("create table if not exists pairs (a integer, b integer)")
        number = 0
        while not stop.is_set():
            with connection:  # both, or neither
                connection.execute("insert into pairs values (?, 0)", (number,))
                connection.execute("update pairs set b = a where a = ?", (number,))
            number += 1
        connection.close()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        time.sleep(0.3)
        coordinator_backup.backup(coordinator.folder, tmp_path / "b", PASSPHRASE)
    finally:
        stop.set()
        thread.join()
    coordinator_backup.restore(tmp_path / "b", tmp_path / "restored", PASSPHRASE)
    connection = sqlite3.connect(tmp_path / "restored" / "coordinator.sqlite")
    assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
    total, uneven = connection.execute("select count(*), coalesce(sum(a != b), 0) from pairs").fetchone()
    connection.close()
    assert (total > 0, uneven) == (True, 0)


def _forged(path, entries, *, key=None, what="coordinator"):
    """A backup that somebody who knows the passphrase made by hand."""
    with (
        path.open("wb") as file,
        SealedWriter(file, PASSPHRASE) as sealed,
        tarfile.open(fileobj=sealed, mode="w|") as tar,
    ):
        files = {}
        for entry, content in entries:
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
            files[entry.name] = hashlib.sha256(content).hexdigest()
        payload = {
            "schema": "gemel/backup/1",
            "what": what,
            "of": "x",
            "made_at": "",
            "software": {},
            "files": files,
        }
        document = sign_document(
            "backup", payload, key or SigningKey.generate(), role="coordinator"
        ).to_bytes()
        last = tarfile.TarInfo("manifest.json")
        last.size = len(document)
        tar.addfile(last, io.BytesIO(document))


def _link(name, target, kind=tarfile.SYMTYPE):
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


@pytest.mark.parametrize(
    "entry",
    [
        tarfile.TarInfo("../escaped"),
        tarfile.TarInfo("keys/../../escaped"),
        tarfile.TarInfo("/etc/escaped"),
        tarfile.TarInfo("keys/.bashrc"),
        tarfile.TarInfo("keys\\..\\escaped"),
        tarfile.TarInfo("a\nb"),
        _link("keys", "/etc"),
        _link("keys/ca.key", "/etc/shadow", tarfile.LNKTYPE),
        _link("pipe", "", tarfile.FIFOTYPE),
        _link("device", "", tarfile.CHRTYPE),
    ],
    ids=lambda entry: repr(entry.name),
)
def test_no_name_and_no_link_leads_out_of_the_folder(tmp_path, entry):
    _forged(tmp_path / "b", [(entry, b"")])
    with pytest.raises(GemelError) as caught:
        backup_archive.extract(tmp_path / "b", PASSPHRASE, tmp_path / "restored", what="coordinator")
    assert caught.value.code == "GEM528"
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_a_backup_of_a_node_is_none_of_a_coordinator(coordinator, tmp_path):
    _forged(tmp_path / "b", [(tarfile.TarInfo("node.json"), b"{}")], what="node")
    with pytest.raises(GemelError) as caught:
        coordinator_backup.restore(tmp_path / "b", tmp_path / "restored", PASSPHRASE)
    assert "of a node" in caught.value.message


def test_a_node_comes_back_without_masks_and_without_data(federation, tmp_path):
    home = federation.nodes["alpha"]
    for name in ("masking", "data", "outbox"):
        (home.folder / name).mkdir(exist_ok=True)
        (home.folder / name / "file").write_text("content")
    node_backup.backup(home.folder, tmp_path / "b", PASSPHRASE)
    manifest, entries = node_backup.restore(tmp_path / "b", tmp_path / "restored", PASSPHRASE)
    assert (manifest.of, entries) == ("alpha", 1)  # its opening
    restored = {p.name for p in (tmp_path / "restored").iterdir()}
    assert {"node.json", "keys", "ledger.sqlite", "outbox"} <= restored
    assert not {"masking", "data"} & restored
    for name in ("node.key", "pseudonym.key", "transport.key"):
        path = tmp_path / "restored" / "keys" / name
        assert path.read_bytes() == (home.folder / "keys" / name).read_bytes()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def _certificate(home, entry):
    """A run certificate that saw this entry as the newest of the node's ledger."""
    told = {"public_key": home.key.public_hex, "ledger_seq": entry.seq, "ledger_head": entry.sha256}
    return sign_document("certificate", {"sites": {"alpha": told}}, SigningKey.generate(), role="coordinator")


def test_a_ledger_comes_back_whole_and_only_if_a_certificate_has_seen_nothing_newer(federation, tmp_path):
    home = federation.nodes["alpha"]
    with home.open_ledger() as ledger:
        seen = _certificate(home, reserve(ledger))
        before = ledger.export().payload
        node_backup.backup(home.folder, tmp_path / "b", PASSPHRASE)
        newer = _certificate(home, reserve(ledger, OTHER))
    _, entries = node_backup.restore(tmp_path / "b", tmp_path / "restored", PASSPHRASE, anchor=seen)
    assert entries == len(before["entries"]) > 0
    with NodeHome.open(tmp_path / "restored").open_ledger() as ledger:
        assert ledger.export().payload == before
    with pytest.raises(GemelError) as caught:
        node_backup.restore(tmp_path / "b", tmp_path / "again", PASSPHRASE, anchor=newer)
    assert caught.value.code == "GEM309"
    assert not (tmp_path / "again").exists()


def test_a_ledger_of_before_the_first_study_is_older_than_any_certificate(federation, tmp_path):
    home = federation.nodes["alpha"]
    node_backup.backup(home.folder, tmp_path / "b", PASSPHRASE)
    with home.open_ledger() as ledger:
        newer = _certificate(home, reserve(ledger))
    with pytest.raises(GemelError) as caught:
        node_backup.restore(tmp_path / "b", tmp_path / "restored", PASSPHRASE, anchor=newer)
    assert caught.value.code == "GEM309"


def test_the_commands_make_and_restore_a_backup(coordinator, tmp_path):
    secret = tmp_path / "passphrase"
    secret.write_bytes(PASSPHRASE)
    secret.chmod(0o600)
    words = ["--passphrase-file", str(secret), "--format", "json"]
    coordinator.gemel("federation", "backup", str(coordinator.folder), "-o", str(tmp_path / "b"), *words)
    done = coordinator.gemel("federation", "restore", str(tmp_path / "b"), str(tmp_path / "restored"), *words)
    assert json.loads(done.stdout)["federation"] == "test federation"
    assert "revoke" in done.stderr
    coordinator.gemel(
        "federation", "restore", str(tmp_path / "b"), str(tmp_path / "restored"), *words, code=1
    )
    shutil.rmtree(tmp_path / "restored")


def test_a_store_in_postgresql_is_in_the_backup_and_comes_back_into_an_empty_database(tmp_path):
    with postgresql() as url:
        made = make_coordinator(tmp_path / "home", database=url)
        home = CoordinatorHome(made.folder)
        assert not (made.folder / "coordinator.sqlite").exists()
        with made.members() as members:
            administration.invite(
                members, made.config, home.key, site="alpha", ca_certificate=made.ca.read_text()
            )
        coordinator_backup.backup(made.folder, tmp_path / "b", PASSPHRASE)
        with pytest.raises(GemelError, match="empty database"):
            coordinator_backup.restore(tmp_path / "b", tmp_path / "restored", PASSPHRASE)
        other = make_url(url).set(database="other").render_as_string(hide_password=False)
        engine = create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text("create database other"))
        engine.dispose()
        coordinator_backup.restore(tmp_path / "b", tmp_path / "restored", PASSPHRASE, database=other)
        assert store_url(tmp_path / "restored") == other
        assert not (tmp_path / "restored" / "store.dump").exists()
        engine = open_store(other)
        assert [invitation.site for invitation in Members(engine).invitations()] == ["alpha"]
        engine.dispose()
        # Into a database that holds a store already: nothing is mixed, and nothing is left.
        with pytest.raises(GemelError, match="pg_restore failed"):
            coordinator_backup.restore(tmp_path / "b", tmp_path / "again", PASSPHRASE, database=other)
        assert not (tmp_path / "again").exists()
