"""A coordinator's home is made, and its certificates renewed.

keys/ (0700) holds what signs: the coordinator's key and the CA's, each 0600, and the store's URL where it may hold a password.
tls/ holds what servers read: `public` (nginx's, for the names that hospitals and people use), `server` (the SuperLink's, for
loopback alone: whoever takes it cannot pass for the coordinator).
"""

from __future__ import annotations

from pathlib import Path

from gemel.core import pki
from gemel.core.errors import GemelError
from gemel.core.files import write_durably
from gemel.server import federation_config, nginx
from gemel.server.federation_config import FederationConfig
from gemel.server.home import CoordinatorHome
from gemel.server.store import URL_FILE, open_store, store_url

LOOPBACK = ("localhost", "127.0.0.1")
# Said in `status` and by `doctor`: time enough to renew on a working day.
WARN_DAYS = 30
# The SuperLink's certificate lasts nearly as long as its CA: nobody but this machine sees it. A month is left for the switch.
_LOOPBACK_DAYS = pki.CA_DAYS - 32


def create(folder: Path, config: FederationConfig, *, database: str = "") -> CoordinatorHome:
    """Make a coordinator's home with fresh keys, certificates, an empty store and nginx's configuration.

    Args:
        folder: Must not hold a coordinator yet.
        config: The settings.
        database: URL of a PostgreSQL database; SQLite in the home when empty.

    Raises:
        GemelError: GEM524 when the settings are not sound or there is a coordinator already; GEM520 when the store does not open.
    """
    federation_config.checked(config)
    if database:
        open_store(database).dispose()  # before anything is made
    if (folder / "keys").exists() or (folder / federation_config.FILE).exists():
        raise GemelError("GEM524", f"{folder} already holds a coordinator; nothing was changed.")
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    home = CoordinatorHome.create(folder)
    if database:
        write_durably(folder / "keys" / URL_FILE, database.encode() + b"\n", mode=0o600)
    pki.create_tls(folder / "tls", hosts=LOOPBACK, days=_LOOPBACK_DAYS, ca_key=ca_key(folder))
    rotate(folder, config)
    open_store(store_url(folder)).dispose()
    federation_config.save(folder, config)  # last: a home with settings is whole
    return home


def rotate(folder: Path, config: FederationConfig, *, days: int = pki.SERVER_DAYS) -> pki.Certificate:
    """A fresh certificate and key for the outer ports under the same CA; kits stay valid. Raises GEM525."""
    tls = folder / "tls"
    pki.issue_certificate(
        tls, nginx.CERTIFICATE, hosts=config.certificate_names, ca_key=ca_key(folder), days=days
    )
    nginx.write_configuration(folder, config)
    return pki.read_certificate(tls / f"{nginx.CERTIFICATE}.crt")


def prepare_ca(folder: Path) -> Path:
    """Make the next CA beside the present one, once; returns its certificate, which every hospital must hold before the switch."""
    certificate, key = folder / "tls" / "ca.next.crt", folder / "keys" / "ca.next.key"
    if not certificate.exists():
        key.unlink(missing_ok=True)  # of an attempt that was interrupted: nobody has seen its certificate
        pki.create_ca(certificate, key)
    return certificate


def switch_ca(folder: Path, config: FederationConfig) -> None:
    """Let the next CA take the present one's place, with fresh certificates; nothing may run. May be repeated. Raises GEM525."""
    tls, keys = folder / "tls", folder / "keys"
    try:
        certificate, key = (tls / "ca.next.crt").read_bytes(), (keys / "ca.next.key").read_bytes()
    except OSError as error:
        raise GemelError(
            "GEM525", "No CA was prepared: `gemel federation rotate-ca` without --switch."
        ) from error
    if (tls / "ca.crt").read_bytes() != certificate:
        write_durably(tls / "ca.crt.old", (tls / "ca.crt").read_bytes())
    write_durably(ca_key(folder), key, mode=0o600)
    write_durably(tls / "ca.crt", certificate)
    pki.issue_certificate(tls, "server", hosts=LOOPBACK, ca_key=ca_key(folder), days=_LOOPBACK_DAYS)
    rotate(folder, config)
    (keys / "ca.next.key").unlink()
    (tls / "ca.next.crt").unlink()


def certificates(folder: Path) -> dict[str, pki.Certificate]:
    """The certificates of a home: of the CA, on the outer ports, on loopback, and on people's port where it has its own."""
    tls = folder / "tls"
    named = {
        "ca": "ca",
        "public": nginx.CERTIFICATE,
        "loopback": "server",
        "people": nginx.PEOPLES_CERTIFICATE,
    }
    files = {what: tls / f"{name}.crt" for what, name in named.items()}
    return {
        what: pki.read_certificate(path) for what, path in files.items() if what != "people" or path.exists()
    }


def ca_key(folder: Path) -> Path:
    """The CA's key; only `init` and `rotate-tls` read it, so it may be kept on a stick and put back for them."""
    return folder / "keys" / "ca.key"
