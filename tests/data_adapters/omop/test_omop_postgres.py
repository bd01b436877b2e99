"""A CDM in PostgreSQL: a cluster of the test's own gives the data set that the files give."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import two_forms as form

from gemel.core.errors import GemelError
from gemel.core.programme import Programme
from gemel.data_adapters.dataset.assemble import assemble
from gemel.data_adapters.meaning.facts import Facts
from gemel.data_adapters.omop.read import read_omop
from gemel.data_adapters.omop.source import open_source

KEY = b"a key of the tests, 16 bytes or more"
VOCABULARY = ("concept", "concept_ancestor")


def _program(name: str) -> str:
    places = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    found = shutil.which(name, path=os.pathsep.join(map(str, places))) or shutil.which(name)
    if found is None:
        pytest.skip(f"PostgreSQL's {name} is not installed")
    return found


class Cluster:
    """A running server that listens on a socket in its own folder only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def url(self, **settings: str) -> str:
        options = " ".join(f"-c{name}={value}" for name, value in settings.items())
        return f"postgresql://cdm@/postgres?host={quote(str(self.folder), safe='')}&options={quote(options)}"

    def run(self, sql: str) -> None:
        command = [
            _program("psql"),
            "-X",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            str(self.folder),
            "-U",
            "cdm",
            "postgres",
        ]
        subprocess.run(command, input=sql, text=True, check=True, capture_output=True, timeout=60)

    def load(self, tables: form.Tables) -> None:
        """The tables in the schema `cdm`, those of the vocabulary in `vocab`."""
        script = ["CREATE SCHEMA cdm; CREATE SCHEMA vocab;"]
        for name, rows in tables.items():
            relation = f"{'vocab' if name in VOCABULARY else 'cdm'}.{name}"
            columns = form.COLUMNS[name]
            script.append(
                f"CREATE TABLE {relation} ({', '.join(f'{c} {kind}' for c, kind in columns.items())});"
            )
            script.append(f"COPY {relation} FROM STDIN;")
            script += ["\t".join(_copied(row.get(column)) for column in columns) for row in rows]
            script.append("\\.")
        self.run("\n".join(script) + "\n")


def _copied(value: object) -> str:
    return "\\N" if value is None else str(value)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    pytest.importorskip("adbc_driver_postgresql", reason="the extra 'postgres' is not installed")
    initdb, server = _program("initdb"), _program("postgres")
    # PostgreSQL does not run as root; another user needs a folder that this user's private ones are not on the way to.
    owner = None
    if os.geteuid() == 0:
        import pwd

        names = {entry.pw_name for entry in pwd.getpwall()}
        owner = next((name for name in ("postgres", "nobody") if name in names), None)
        if owner is None:
            pytest.skip("root has no other user to run PostgreSQL as")
    with tempfile.TemporaryDirectory(prefix="gemel-pg-") as name:
        folder = Path(name)
        if owner is not None:
            shutil.chown(folder, owner)
        data = str(folder / "data")
        made = [initdb, "-D", data, "-U", "cdm", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        subprocess.run(
            made, check=True, capture_output=True, user=owner, extra_groups=[] if owner else None, timeout=120
        )
        started = [server, "-D", data, "-k", name, "-c", "listen_addresses=", "-c", "fsync=off"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                started, stdout=log, stderr=log, user=owner, extra_groups=[] if owner else None
            )
        try:
            _await(name, process)
            yield Cluster(folder)
        finally:
            process.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown
            process.wait(timeout=60)


def _await(socket_folder: str, process: subprocess.Popen[bytes]) -> None:
    ready = [_program("pg_isready"), "-q", "-h", socket_folder]
    for _ in range(300):
        if subprocess.run(ready, check=False).returncode == 0:
            return
        assert process.poll() is None, "the server ended"
        time.sleep(0.1)
    pytest.fail("the server did not start within 30 s")


@pytest.fixture(scope="module")
def hospital() -> form.Hospital:
    return form.invented(200)


@pytest.fixture(scope="module")
def loaded(cluster: Cluster, hospital: form.Hospital) -> Cluster:
    cluster.load(form.omop_tables(hospital))
    return cluster


def test_the_same_patients_in_postgresql_fhir_and_files_give_the_same_data_set(
    loaded: Cluster, hospital: form.Hospital, programme: Programme, tmp_path: Path
) -> None:
    from gemel.data_adapters.meaning.fhir_facts import read_fhir

    found = []
    files = form.write_parquet(form.omop_tables(hospital), tmp_path / "omop")
    for source in (loaded.url(search_path="cdm,vocab"), files):
        with Facts() as facts:
            account = read_omop(source, programme, facts)
            assert all(file.read == file.accepted + file.rejected for file in account.files)
            found.append((assemble(facts, programme, pseudonym_key=KEY)[0], account))
    with Facts() as facts:
        read_fhir(form.write_fhir(hospital, tmp_path / "fhir"), programme, facts)
        expected = assemble(facts, programme, pseudonym_key=KEY)[0]
    (database, database_account), (parquet, files_account) = found
    assert len(expected) > 100
    assert database.patient_ids == parquet.patient_ids == expected.patient_ids
    assert database.snapshot == parquet.snapshot == expected.snapshot
    assert database_account.values == files_account.values
    assert [file.read for file in database_account.files] == [file.read for file in files_account.files]
    assert database_account.files[0].file == "person"


def test_all_tables_are_read_as_they_were_at_one_moment_and_nothing_can_be_written(loaded: Cluster) -> None:
    with open_source(loaded.url(search_path="cdm,vocab")) as source:
        before = sum(batch.num_rows for batch in source.batches("person", ["person_id"]))
        loaded.run("INSERT INTO cdm.person (person_id) VALUES (999999)")
        try:
            assert sum(batch.num_rows for batch in source.batches("person", ["person_id"])) == before
        finally:
            loaded.run("DELETE FROM cdm.person WHERE person_id = 999999")
        with pytest.raises(GemelError, match="read-only transaction"):
            source._run("DELETE FROM cdm.person")  # type: ignore[attr-defined]


def test_a_database_without_a_cdm_is_refused(cluster: Cluster) -> None:
    with pytest.raises(GemelError, match="no table person") as caught:
        open_source(cluster.url(search_path="pg_temp"))
    assert caught.value.code == "GEM250"


def test_a_server_that_is_not_there_is_named_without_the_user(tmp_path: Path) -> None:
    pytest.importorskip("adbc_driver_postgresql", reason="the extra 'postgres' is not installed")
    with pytest.raises(GemelError) as caught:
        open_source(f"postgresql://somebody@/cdm?host={tmp_path}")
    assert caught.value.code == "GEM252"
    assert "somebody" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["postgresql://u:secret@h/d", "postgres://h/d?password=secret", "postgresql://u:@h/d"]
)
def test_a_password_in_the_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(GemelError) as caught:
        open_source(url)
    assert caught.value.code == "GEM252"
    assert "secret" not in str(caught.value)


def test_without_the_driver_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "adbc_driver_postgresql.dbapi", None)
    monkeypatch.setitem(sys.modules, "adbc_driver_postgresql", None)
    with pytest.raises(GemelError, match="extra 'postgres'"):
        open_source("postgresql://localhost/cdm")
