import socket
import ssl
import stat
import threading

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gemel.core.pki import create_tls, create_transport_key


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
