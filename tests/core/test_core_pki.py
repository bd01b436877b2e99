import datetime as dt
import socket
import ssl
import stat
import threading

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gemel.core.errors import GemelError
from gemel.core.pki import create_tls, create_transport_key, issue_certificate, read_certificate


def _served(folder, *, hostname):
    """The error of a TLS handshake with a server that holds the folder's certificate, or None."""
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(folder / "server.crt", folder / "server.key")
    client_context = ssl.create_default_context(cafile=folder / "ca.crt")
    near, far = socket.socketpair()
    with near, far:

        def serve():
            try:
                with server_context.wrap_socket(far, server_side=True) as connection:
                    connection.recv(1)
            except (ssl.SSLError, OSError):
                pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with client_context.wrap_socket(near, server_hostname=hostname) as connection:
                connection.send(b"x")
            error = None
        except ssl.SSLError as caught:
            error = caught
            near.close()
        thread.join(10)
    return error


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_client_that_trusts_the_ca_accepts_the_server(tmp_path, host):
    create_tls(tmp_path, hosts=["localhost", "127.0.0.1"])
    assert _served(tmp_path, hostname=host) is None


def test_a_host_that_the_certificate_does_not_name_is_refused(tmp_path):
    create_tls(tmp_path, hosts=["localhost"])
    error = _served(tmp_path, hostname="coordinator.example")
    assert isinstance(error, ssl.SSLCertVerificationError)


def test_a_certificate_of_another_ca_is_refused(tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        create_tls(folder, hosts=["localhost"])
    (ours / "ca.crt").write_bytes((theirs / "ca.crt").read_bytes())
    assert isinstance(_served(ours, hostname="localhost"), ssl.SSLCertVerificationError)


def test_private_keys_are_for_their_owner_only(tmp_path):
    create_tls(tmp_path, hosts=["localhost"])
    create_transport_key(tmp_path)
    for name in ("ca.key", "server.key", "transport.key"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_existing_keys_are_never_written_over(tmp_path):
    create_tls(tmp_path, hosts=["localhost"])
    create_transport_key(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(FileExistsError):
        create_tls(tmp_path, hosts=["localhost"])
    with pytest.raises(FileExistsError):
        create_transport_key(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_transport_key_has_the_forms_that_flower_takes(tmp_path):
    create_transport_key(tmp_path)
    private = serialization.load_ssh_private_key((tmp_path / "transport.key").read_bytes(), password=None)
    public = serialization.load_pem_public_key((tmp_path / "transport.pub").read_bytes())
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert public.curve.name == "secp384r1"
    assert private.public_key() == public


def _issued(folder, name="public", **changes):
    arguments = {"hosts": ["localhost", "10.0.0.1"], "ca_key": folder.parent / "ca.key", **changes}
    issue_certificate(folder, name, **arguments)
    return read_certificate(folder / f"{name}.crt")


@pytest.fixture
def authority(tmp_path):
    """A folder with a CA whose key is kept apart."""
    create_tls(tmp_path / "tls", hosts=["localhost"], ca_key=tmp_path / "ca.key")
    return tmp_path / "tls"


def test_the_ca_key_is_kept_apart_and_only_its_owner_reads_it(authority):
    assert not (authority / "ca.key").exists()
    assert stat.S_IMODE((authority.parent / "ca.key").stat().st_mode) == 0o600


def test_a_renewed_certificate_is_another_one_under_the_same_ca(authority):
    first = _issued(authority)
    key = (authority / "public.key").read_bytes()
    second = _issued(authority)
    assert first.serial != second.serial
    assert (authority / "public.key").read_bytes() != key
    assert (authority / "public.key.old").read_bytes() == key
    for name in ("public.key", "public.key.old"):
        assert stat.S_IMODE((authority / name).stat().st_mode) == 0o600
    assert second.names == ("localhost", "10.0.0.1")
    assert second.issuer == read_certificate(authority / "ca.crt").subject
    for name in ("crt", "key"):
        (authority / f"server.{name}").write_bytes((authority / f"public.{name}").read_bytes())
    assert _served(authority, hostname="localhost") is None


def test_days_left_are_whole_days_and_negative_when_over(authority):
    made = _issued(authority, days=10)
    assert made.days_left() == 9
    assert made.days_left(made.not_after - dt.timedelta(hours=1)) == 0
    assert made.days_left(made.not_after + dt.timedelta(hours=1)) == -1


@pytest.mark.parametrize("wrong", ["another key", "no key", "longer than the CA", "no CA"])
def test_no_certificate_is_issued_without_the_ca_that_kits_name(authority, tmp_path, wrong):
    arguments = {}
    if wrong == "another key":
        create_tls(tmp_path / "other", hosts=["localhost"])
        arguments["ca_key"] = tmp_path / "other" / "ca.key"
    if wrong == "no key":
        (authority.parent / "ca.key").unlink()
    if wrong == "longer than the CA":
        arguments["days"] = 4000
    if wrong == "no CA":
        (authority / "ca.crt").unlink()
    with pytest.raises(GemelError) as caught:
        _issued(authority, **arguments)
    assert caught.value.code == "GEM525"
    assert not (authority / "public.key").exists()
