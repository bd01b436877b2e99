"""TLS certificates and node keys of a federation, made where they are used."""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gemel.core.errors import GemelError
from gemel.core.files import write_durably

# Hospitals hold the CA's certificate in their kits: it outlives many server certificates.
CA_DAYS = 3650
# The longest that current browsers accept of a server certificate.
SERVER_DAYS = 365
CLOCK_SLACK = dt.timedelta(minutes=5)


@dataclass(frozen=True)
class Certificate:
    """What a certificate says of itself; times are in UTC, `names` are DNS names and IP addresses.

    `sha256` is its fingerprint as `openssl x509 -fingerprint -sha256` writes it.
    """

    subject: str
    issuer: str
    names: tuple[str, ...]
    serial: str
    sha256: str
    not_before: dt.datetime
    not_after: dt.datetime

    def days_left(self, now: dt.datetime | None = None) -> int:
        """Whole days until it ends; negative afterwards."""
        return (self.not_after - (now or dt.datetime.now(dt.UTC))).days


def create_tls(
    folder: Path,
    *,
    hosts: Sequence[str],
    days: int = SERVER_DAYS,
    ca_days: int = CA_DAYS,
    ca_key: Path | None = None,
) -> None:
    """Write `ca.crt`, `server.crt`, `server.key` (EC P-256) into a folder, and the CA's key.

    Args:
        folder: Made when absent; existing keys are never overwritten (FileExistsError).
        hosts: DNS names and IP addresses that the server certificate is for.
        days: Validity of the server certificate.
        ca_days: Validity of the CA.
        ca_key: Where the CA's key goes, apart from what a server reads; `ca.key` in the folder when not given.
    """
    folder.mkdir(parents=True, exist_ok=True)
    key_file = ca_key or folder / "ca.key"
    create_ca(folder / "ca.crt", key_file, days=ca_days)
    certificate = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    server_key, server = _server_certificate(certificate, _ca_key(key_file), hosts=hosts, days=days)
    _write_private(folder / "server.key", server_key)
    (folder / "server.crt").write_bytes(server)


def create_ca(certificate: Path, key: Path, *, days: int = CA_DAYS) -> None:
    """Write a certificate authority of its own: its certificate and, never over another, its key (FileExistsError)."""
    made = ec.generate_private_key(ec.SECP256R1())
    name = _name("Gemel federation CA")
    content = (
        _builder(name, name, made.public_key(), days=days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(made.public_key()), critical=False)
        .sign(made, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    _write_private(key, _pem(made))
    write_durably(certificate, content)


def issue_certificate(
    folder: Path, name: str, *, hosts: Sequence[str], ca_key: Path, days: int = SERVER_DAYS
) -> None:
    """Write `NAME.key` and `NAME.crt`, fresh, under the CA of the folder; a pair of before stays as `.old`.

    Raises:
        GemelError: GEM525 when the CA's key cannot be read, is not that of `ca.crt`, or the CA would end first.
    """
    try:
        authority = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
        key = _ca_key(ca_key)
    except (OSError, ValueError, TypeError) as error:
        raise GemelError("GEM525", f"The CA of {folder} cannot be used: {type(error).__name__}.") from error
    if key.public_key() != authority.public_key():
        raise GemelError("GEM525", f"{ca_key} is not the key of {folder / 'ca.crt'}.")
    ends = authority.not_valid_after_utc
    if dt.datetime.now(dt.UTC) + dt.timedelta(days=days) > ends:
        raise GemelError("GEM525", f"The CA ends on {ends:%Y-%m-%d}, before {days} days are over.")
    pair = _server_certificate(authority, key, hosts=hosts, days=days)
    files = [(folder / f"{name}.key", 0o600), (folder / f"{name}.crt", 0o644)]
    for path, mode in files:
        if path.exists():
            write_durably(path.with_name(f"{path.name}.old"), path.read_bytes(), mode=mode)
    # The two do not change at one instant: whoever reads between them sees a pair that does not fit, and tries again.
    for (path, mode), content in zip(files, pair, strict=True):
        write_durably(path, content, mode=mode)


def read_certificate(path: Path) -> Certificate:
    """What the first certificate of a PEM file says. Raises GEM525 when there is none."""
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise GemelError("GEM525", f"{path} is not a certificate: {type(error).__name__}.") from error
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    return Certificate(
        subject=certificate.subject.rfc4514_string(),
        issuer=certificate.issuer.rfc4514_string(),
        names=tuple(str(name.value) for name in names),
        serial=f"{certificate.serial_number:x}",
        sha256=certificate.fingerprint(hashes.SHA256()).hex(":").upper(),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
    )


def create_transport_key(folder: Path) -> None:
    """Write `transport.key` (OpenSSH) and `transport.pub` (PEM), EC P-384: a node's identity to Flower."""
    key = ec.generate_private_key(ec.SECP384R1())
    _write_private(
        folder / "transport.key",
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        ),
    )
    (folder / "transport.pub").write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )


def load_transport_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The private half of a node's identity to Flower. Raises GEM407 when the file holds none."""
    try:
        key = serialization.load_ssh_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError) as error:
        raise GemelError("GEM407", f"{path} holds no transport key: {error}.") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise GemelError("GEM407", f"{path} holds a {type(key).__name__}, expected one of P-384.")
    return key


def _ca_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not a key on an elliptic curve")
    return key


def _server_certificate(
    authority: x509.Certificate, ca_key: ec.EllipticCurvePrivateKey, *, hosts: Sequence[str], days: int
) -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder(_name("Gemel coordinator"), authority.subject, key.public_key(), days=days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    return _pem(key), certificate.public_bytes(serialization.Encoding.PEM)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, *, days: int
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SLACK)
        .not_valid_after(now + dt.timedelta(days=days))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _write_private(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
