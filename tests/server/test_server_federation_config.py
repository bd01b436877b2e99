"""A coordinator's settings, its home, and what its commands say of them."""

import contextlib
import itertools
import json
import shutil
import stat
import subprocess

import msgspec
import pytest
from running_coordinator import make_coordinator

from gemel.core import pki
from gemel.core.errors import GemelError
from gemel.core.files import write_durably
from gemel.server import federation_config, federation_setup, nginx
from gemel.server.federation_config import SCHEMA, FederationConfig

CONFIG = FederationConfig(
    schema=SCHEMA,
    name="Liver consortium",
    host="coordinator.example.org",
    port=8443,
    people_port=443,
    superlink_port=9400,
    service_port=9401,
    listen="0.0.0.0",
)


def test_addresses_are_said_as_they_are_typed():
    assert CONFIG.fleet_address == "coordinator.example.org:8443"
    assert CONFIG.service_url == "https://coordinator.example.org"
    other = msgspec.structs.replace(CONFIG, host="2001:db8::1", people_port=8444)
    assert other.fleet_address == "[2001:db8::1]:8443"
    assert other.service_url == "https://[2001:db8::1]:8444"


@pytest.mark.parametrize(
    "changes",
    [
        {"host": "evil; return 200"},
        {"host": "a b"},
        {"host": "UPPER.example"},
        {"host": "-a.example"},
        {"host": ""},
        {"host": "a\nserver_name x"},
        {"aliases": ("fine", "$host")},
        {"listen": "example.org"},
        {"listen": "*"},
        {"name": "a\nb"},
        {"name": "<script>"},
        {"name": ""},
        {"port": 443},
        {"service_port": 0},
        {"port": 70000},
        {"largest_update_mb": 0},
        {"schema": "gemel/federation/2"},
    ],
    ids=str,
)
def test_what_would_end_up_in_nginx_or_a_certificate_is_checked(changes, tmp_path):
    with pytest.raises(GemelError) as caught:
        federation_setup.create(tmp_path / "home", msgspec.structs.replace(CONFIG, **changes))
    assert caught.value.code == "GEM524"
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b'{"schema":"gemel/federation/1","unknown":1}', b"\xff"]
)
def test_a_folder_without_sound_settings_is_no_home(tmp_path, content):
    (tmp_path / federation_config.FILE).write_bytes(content)
    with pytest.raises(GemelError) as caught:
        federation_config.load(tmp_path)
    assert caught.value.code == "GEM524"


def test_a_home_is_made_once_and_only_its_owner_reads_what_signs(tmp_path):
    home = federation_setup.create(tmp_path / "home", CONFIG).folder
    assert federation_config.load(home) == CONFIG
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    for path in [*(home / "keys").iterdir(), *(home / "tls").glob("*.key"), home / "coordinator.sqlite"]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    with pytest.raises(GemelError):
        federation_setup.create(home, CONFIG)
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before


def test_the_certificate_outside_is_for_its_names_and_the_one_inside_for_loopback_alone(tmp_path):
    home = federation_setup.create(
        tmp_path / "home", msgspec.structs.replace(CONFIG, aliases=("10.0.0.7",))
    ).folder
    found = federation_setup.certificates(home)
    assert found["public"].names == ("coordinator.example.org", "10.0.0.7")
    assert found["loopback"].names == federation_setup.LOOPBACK
    assert set(found) == {"ca", "public", "loopback"}
    assert found["ca"].days_left() > 3600


def test_peoples_port_uses_the_certificate_that_was_put_there(tmp_path):
    home = federation_setup.create(tmp_path / "home", CONFIG).folder
    assert "people.crt" not in nginx.configuration(home, CONFIG, user="gemel")
    for suffix in ("crt", "key"):
        (home / "tls" / f"people.{suffix}").write_bytes((home / "tls" / f"public.{suffix}").read_bytes())
    text = nginx.configuration(home, CONFIG, user="gemel")
    assert text.count("people.crt") == 2
    assert text.count("public.crt") == 2
    assert "people" in federation_setup.certificates(home)


def test_status_says_what_does_not_run_and_list_who_was_invited(tmp_path):
    made = make_coordinator(tmp_path / "home")
    home = str(made.folder)
    done = made.gemel("federation", "status", home, "--format", "json", code=4)
    status = json.loads(done.stdout)
    assert (status["supervisor"], status["superlink"], status["service"]) == (None, False, False)
    assert status["certificates"]["public"]["days_left"] == 364
    assert "GEM505" in done.stderr
    made.gemel("federation", "invite", "alpha", "--home", home, "-o", str(tmp_path / "kit.json"))
    listed = json.loads(made.gemel("federation", "list", home, "--format", "json").stdout)
    assert [(row["site"], row["state"]) for row in listed["members"]] == [("alpha", "invited")]
    made.gemel("federation", "revoke", "beta", "--home", home, code=3)
    made.gemel("federation", "list", str(tmp_path), code=1)
    made.gemel("federation", "invite", "no good name", "--home", home, "-o", str(tmp_path / "k"), code=2)


def test_a_password_is_not_taken_as_an_argument_nor_from_a_file_that_others_can_read(tmp_path):
    made = make_coordinator(tmp_path / "other")
    url = "postgresql+psycopg://gemel:secret@localhost:1/gemel"
    words = ["federation", "init", str(tmp_path / "home"), "--host", "localhost"]
    done = made.gemel(*words, "--database", url, code=1)
    assert "GEM524" in done.stderr
    assert "secret" not in done.stderr
    (tmp_path / "url").write_text(url)
    (tmp_path / "url").chmod(0o644)
    done = made.gemel(*words, "--database-file", str(tmp_path / "url"), code=1)
    assert "GEM524" in done.stderr
    assert not (tmp_path / "home").exists()
    (tmp_path / "url").chmod(0o600)
    # Read now; nothing listens there, which is told without the password.
    done = made.gemel(*words, "--database-file", str(tmp_path / "url"), code=4)
    assert "GEM520" in done.stderr
    assert "secret" not in done.stderr + done.stdout


def _believed(home, authorities, name="public"):
    """True when openssl believes the home's certificate, given these authorities."""
    command = ["openssl", "verify", "-CAfile", str(authorities), str(home / "tls" / f"{name}.crt")]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_a_ca_is_replaced_without_a_moment_in_which_a_prepared_hospital_does_not_believe_us(tmp_path):
    home = federation_setup.create(tmp_path / "home", CONFIG).folder
    old = tmp_path / "old.crt"
    old.write_bytes((home / "tls" / "ca.crt").read_bytes())
    following = federation_setup.prepare_ca(home)
    assert federation_setup.prepare_ca(home).read_bytes() == following.read_bytes()  # once
    both = tmp_path / "both.crt"
    both.write_bytes(old.read_bytes() + following.read_bytes())
    assert [_believed(home, authorities) for authorities in (old, both, following)] == [True, True, False]
    federation_setup.switch_ca(home, CONFIG)
    new = home / "tls" / "ca.crt"
    for name in ("public", "server"):
        assert [_believed(home, authorities, name) for authorities in (old, both, new)] == [False, True, True]
    assert federation_setup.certificates(home)["loopback"].names == federation_setup.LOOPBACK
    assert not list(home.rglob("*.next.*"))
    for path in [*(home / "keys").iterdir(), *(home / "tls").glob("*.key")]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    with pytest.raises(GemelError) as caught:
        federation_setup.switch_ca(home, CONFIG)
    assert caught.value.code == "GEM525"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_a_switch_that_was_interrupted_anywhere_is_completed_by_repeating_it(tmp_path, monkeypatch):
    home = federation_setup.create(tmp_path / "home", CONFIG).folder
    for at in range(8):
        following = federation_setup.prepare_ca(home).read_bytes()
        written = itertools.count()

        def dying(path, content, *, mode=0o666, at=at, written=written):
            if next(written) == at:
                raise KeyboardInterrupt
            write_durably(path, content, mode=mode)

        with monkeypatch.context() as patch:
            patch.setattr(federation_setup, "write_durably", dying)
            patch.setattr(pki, "write_durably", dying)
            with contextlib.suppress(KeyboardInterrupt):
                federation_setup.switch_ca(home, CONFIG)
        if (home / "tls" / "ca.next.crt").exists():
            federation_setup.switch_ca(home, CONFIG)
        assert (home / "tls" / "ca.crt").read_bytes() == following
        assert all(_believed(home, home / "tls" / "ca.crt", name) for name in ("public", "server"))


def test_status_warns_of_what_ends_within_a_month(tmp_path):
    made = make_coordinator(tmp_path / "home")
    home = str(made.folder)
    made.gemel("federation", "rotate-tls", home, "--days", "20")
    status = json.loads(made.gemel("federation", "status", home, "--format", "json", code=4).stdout)
    assert status["warnings"] == ["certificate public: 19 days left; gemel federation rotate-tls"]
    done = made.gemel("federation", "rotate-ca", home, "--format", "json")
    told = json.loads(done.stdout)
    fingerprint = ["openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", told["file"]]
    if shutil.which("openssl"):
        said = subprocess.run(fingerprint, capture_output=True, text=True, check=True).stdout
        assert told["sha256"] in said
    made.gemel("federation", "rotate-ca", home, "--switch")
