"""Against a real server, written by others (sekmet-fhir), and an independent client (smart-fetch) beside ours."""

import json
import os
import socket
import subprocess
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest

from gemel.core.errors import GemelError
from gemel.data_adapters.sources.fetch import fetch
from gemel.data_adapters.sources.fhir_server import FhirServer
from gemel.data_adapters.sources.files import open_export, read_blocks
from gemel.data_adapters.sources.settings import SourceSettings

PEERS = Path(__file__).resolve().parents[3] / ".peers" / "sekmet" / "bin"
SITE = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "fhir" / "site_b_bulkserver_r4"
TYPES = ("Patient", "Observation", "Condition", "MedicationRequest")
pytestmark = [
    pytest.mark.skipif(not (PEERS / "sekmet").exists(), reason="sekmet-fhir is not there: make peers"),
    pytest.mark.skipif(not SITE.exists(), reason="shared/data is not there"),
]


def resources(export):
    return [json.loads(x) for file in open_export(export) for b in read_blocks(file) for x in b.lines if x]


def without_meta(rows):
    """What the server cannot have changed, in an order of its own."""
    rows = [{k: v for k, v in row.items() if k != "meta"} for row in rows]
    return sorted(rows, key=lambda row: (row["resourceType"], row["id"]))


@pytest.fixture(scope="module")
def some_patients():
    """Five patients of site_b with all that is theirs, of four types."""
    rows = []
    for kind in TYPES:
        for file in open_export(SITE):
            if file.name.startswith(f"{kind}."):
                rows += [json.loads(x) for b in read_blocks(file) for x in b.lines if x]
    chosen = {row["id"] for row in [r for r in rows if r["resourceType"] == "Patient"][:5]}

    def theirs(row):
        if row["resourceType"] == "Patient":
            return row["id"] in chosen
        return row["subject"]["reference"].rpartition("/")[2].rpartition(":")[2] in chosen

    rows = [row for row in rows if theirs(row)]
    for row in rows:
        # What else they refer to is not loaded.
        row.pop("encounter", None)
    return rows


@pytest.fixture(scope="module")
def server(tmp_path_factory, some_patients):
    """A running server with SMART, loaded; (settings, key file)."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from jwt.algorithms import ECAlgorithm

    home = tmp_path_factory.mktemp("sekmet")
    key = ec.generate_private_key(ec.SECP384R1())
    jwk = ECAlgorithm.to_jwk(key, as_dict=True) | {"kid": "k1", "alg": "ES384"}
    (home / "keys.jwks").write_text(json.dumps({"keys": [jwk | {"key_ops": ["sign"]}]}))
    public = {k: v for k, v in jwk.items() if k != "d"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/fhir"
    config = {
        "base_url": url, "host": "127.0.0.1", "port": port, "data_dir": str(home / "data"),
        "server_auth": {"types": ["smart"], "token_lifetime": 300, "enforce_scopes": False,
                        "smart_clients": [{"client_id": "node-a", "jwks": {"keys": [public]}, "scopes": "system/*.*"}]},
        "validation": {"inbound": "off"}, "simulator": {"enabled": False, "delay_seconds": 0.2},
    }  # fmt: skip
    # JSON is YAML.
    (home / "settings.yaml").write_text(json.dumps(config))
    log = (home / "log").open("wb")
    process = subprocess.Popen(
        [PEERS / "sekmet", "serve", "--config", home / "settings.yaml"], cwd=home, stdout=log, stderr=log
    )
    settings = SourceSettings(base_url=url, client_id="node-a", key_file=str(home / "keys.jwks"), types=TYPES)
    try:
        for _ in range(600):
            try:
                if httpx.get(f"{url}/metadata").status_code == 200:
                    break
            except httpx.TransportError:
                assert process.poll() is None, (home / "log").read_text()[-2000:]
            time.sleep(0.1)
        load(settings, some_patients)
        yield settings
    finally:
        process.terminate()
        process.wait(20)
        log.close()


def load(settings, rows):
    writing = SourceSettings(
        base_url=settings.base_url,
        client_id=settings.client_id,
        key_file=settings.key_file,
        scopes=("system/*.read", "system/*.write"),
    )
    entries = [
        {"resource": row, "request": {"method": "PUT", "url": f"{row['resourceType']}/{row['id']}"}}
        for row in rows
    ]
    with FhirServer(writing) as connection:
        headers = {"Authorization": connection._bearer(), "Content-Type": "application/fhir+json"}
    for start in range(0, len(entries), 400):
        bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entries[start : start + 400]}
        reply = httpx.post(
            settings.base_url, json=bundle, headers=headers, timeout=120, follow_redirects=True
        )
        assert reply.status_code == 200, reply.text[:500]


def test_a_bulk_export_gives_the_same_resources_as_the_folder(server, some_patients, tmp_path):
    said = []
    fetched = fetch(server, tmp_path / "e", say=said.append)
    assert fetched.lines == dict(sorted(Counter(row["resourceType"] for row in some_patients).items()))
    assert without_meta(resources(tmp_path / "e")) == without_meta(some_patients)
    assert fetched.transaction_time
    assert fetched.notes == ()


def test_searches_give_the_same_resources_too(server, some_patients, tmp_path):
    source = SourceSettings(
        base_url=server.base_url,
        client_id="node-a",
        key_file=server.key_file,
        way="search",
        types=TYPES,
        page_size=100,
    )
    fetched = fetch(source, tmp_path / "e")
    assert fetched.notes == ()
    assert without_meta(resources(tmp_path / "e")) == without_meta(some_patients)


def test_an_independent_client_counts_the_same(server, some_patients, tmp_path):
    out = tmp_path / "other"
    command = [
        PEERS / "smart-fetch", "bulk", out, "--fhir-url", server.base_url, "--smart-client-id", "node-a",
        "--smart-key", server.key_file, "--type", ",".join(TYPES), "--no-default-filters", "--no-compression",
    ]  # fmt: skip
    # Its progress bar wants a terminal of some width.
    environment = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-1500:]
    theirs = Counter(row["resourceType"] for row in resources(out))
    assert theirs == fetch(server, tmp_path / "ours").lines


def test_an_increment_holds_only_what_changed(server, some_patients, tmp_path):
    first = fetch(server, tmp_path / "first")
    time.sleep(1.1)
    patient = next(row for row in some_patients if row["resourceType"] == "Patient")
    load(server, [patient | {"active": False}])
    from msgspec.structs import replace

    fetch(replace(server, since=first.transaction_time), tmp_path / "second")
    [changed] = resources(tmp_path / "second")
    assert (changed["id"], changed["active"]) == (patient["id"], False)
    load(server, [patient])


def test_a_stranger_is_refused(server, tmp_path):
    from msgspec.structs import replace

    with pytest.raises(GemelError) as caught:
        fetch(replace(server, client_id="node-b"), tmp_path / "e")
    assert caught.value.code == "GEM224"
    with pytest.raises(GemelError) as caught:
        fetch(replace(server, client_id=None, key_file=None), tmp_path / "f")
    assert caught.value.code == "GEM224"
