"""The configuration of the nginx that stands before a coordinator: all that is ever open to the outside.

Hospitals' port: the calls of Flower's Fleet API that a node makes, named one by one, to the SuperLink on loopback. Its Control
and Runtime APIs have no users and share that port: they are never passed on. People's port: the coordinator's service.
"""

from __future__ import annotations

import getpass
from pathlib import Path

from gemel.core.files import write_durably
from gemel.server.federation_config import FederationConfig, bracketed

# What our nodes call, of Flower 1.41's Fleet API (a contract test compares them with Flower's routes). Nodes are registered
# by the coordinator, and fetch no bundle of code.
NOT_CALLED = ("get-fab", "get-run", "register-node", "unregister-node")
FLEET_CALLS = (
    "activate-node",
    "confirm-message-received",
    "deactivate-node",
    "pull-messages",
    "pull-object",
    "push-messages",
    "push-object",
    "send-node-heartbeat",
)
# Where passwords and tokens are tried.
LOGIN_PATHS = "^/api/v1/(login|setup|me/password)"
LARGEST_REQUEST = "2m"

_TEMPORARY = ("body", "proxy", "fastcgi", "uwsgi", "scgi")
_FOLDER = "nginx"
CERTIFICATE = "public"
PEOPLES_CERTIFICATE = "people"


def configuration_file(folder: Path) -> Path:
    """Where nginx finds its configuration: `nginx -c` this."""
    return folder.resolve() / _FOLDER / "nginx.conf"


def write_configuration(folder: Path, config: FederationConfig, *, user: str | None = None) -> Path:
    """Write HOME/nginx/nginx.conf and the folders it names; returns its path. `user`: whom nginx runs as when root starts it."""
    path = configuration_file(folder)
    for name in _TEMPORARY:
        (path.parent / "temp" / name).mkdir(parents=True, exist_ok=True)
    content = configuration(folder.resolve(), config, user=user or getpass.getuser()).encode()
    if not path.exists() or path.read_bytes() != content:
        write_durably(path, content)
    return path


def configuration(folder: Path, config: FederationConfig, *, user: str) -> str:
    """The whole of nginx.conf for a coordinator's home."""
    place = folder / _FOLDER
    temporary = "\n".join(
        f"    {'client_body' if name == 'body' else name}_temp_path {place}/temp/{name};"
        for name in _TEMPORARY
    )
    names = " ".join(bracketed(name) for name in (config.host, *config.aliases))
    return f"""\
# Made by `gemel federation` from {folder}/federation.json: changes here are overwritten.
user {user};
worker_processes 2;
pid {place}/nginx.pid;
error_log {place}/error.log warn;

events {{
    worker_connections 4096;
}}

http {{
{temporary}
    server_tokens off;
    default_type application/octet-stream;
    # No query, no header: a token must not reach a log.
    log_format gemel '$remote_addr $time_iso8601 $server_port "$request_method $uri" $status $request_length $bytes_sent $request_time';
    access_log {place}/access.log gemel;

    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_ciphers ECDHE+AESGCM:ECDHE+CHACHA20;
    ssl_prefer_server_ciphers off;
    ssl_session_cache shared:tls:4m;
    ssl_session_timeout 1h;
    ssl_session_tickets off;

    # Refusals of these have status 503, upon which a node tries again later.
    limit_conn_zone $binary_remote_addr zone=connections:4m;
    limit_req_zone $binary_remote_addr zone=fleet:4m rate=200r/s;
    limit_req_zone $binary_remote_addr zone=people:4m rate=20r/s;
    limit_req_zone $binary_remote_addr zone=login:4m rate=10r/m;

    upstream superlink {{
        server 127.0.0.1:{config.superlink_port};
        keepalive 64;
    }}
    upstream service {{
        server 127.0.0.1:{config.service_port};
        keepalive 16;
    }}

{_stranger(folder, config, config.port, CERTIFICATE)}
{_hospitals(folder, config, names)}
{_stranger(folder, config, config.people_port, _peoples(folder))}
{_people(folder, config, names)}
}}
"""


def _peoples(folder: Path) -> str:
    """A certificate that browsers know already may be put beside ours."""
    return PEOPLES_CERTIFICATE if (folder / "tls" / f"{PEOPLES_CERTIFICATE}.crt").exists() else CERTIFICATE


def _listen(folder: Path, config: FederationConfig, port: int, certificate: str, options: str = "") -> str:
    return f"""\
        listen {bracketed(config.listen)}:{port} ssl{options};
        ssl_certificate {folder}/tls/{certificate}.crt;
        ssl_certificate_key {folder}/tls/{certificate}.key;"""


def _stranger(folder: Path, config: FederationConfig, port: int, certificate: str) -> str:
    """Whoever calls us by another name is answered nothing."""
    return f"""\
    server {{
{_listen(folder, config, port, certificate, " default_server")}
        server_name _;
        return 444;
    }}
"""


def _hospitals(folder: Path, config: FederationConfig, names: str) -> str:
    return f"""\
    # Hospitals.
    server {{
{_listen(folder, config, config.port, CERTIFICATE)}
        server_name {names};
        merge_slashes off;
        limit_conn connections 64;

        location / {{
            return 404;
        }}

        location ~ "^/v1/fleet/({"|".join(FLEET_CALLS)})$" {{
            # The path as it was sent, not as nginx read it: no dots, no encoding, no query.
            if ($request_uri !~ "^/v1/fleet/[a-z-]+$") {{
                return 404;
            }}
            if ($request_method != POST) {{
                return 405;
            }}
            limit_req zone=fleet burst=400 nodelay;

            client_max_body_size {config.largest_update_mb}m;
            client_body_buffer_size 1m;
            client_body_timeout 120s;
            send_timeout 120s;

            proxy_pass https://superlink;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host localhost;
            proxy_set_header X-Forwarded-For $remote_addr;
            # Updates flow through, and are never written to this disk.
            proxy_request_buffering off;
            proxy_buffers 32 64k;
            proxy_buffer_size 64k;
            proxy_busy_buffers_size 128k;
            proxy_max_temp_file_size 0;
            proxy_connect_timeout 5s;
            proxy_send_timeout 120s;
            proxy_read_timeout 300s;
            # A call is not repeated behind the node's back; it repeats it itself.
            proxy_next_upstream off;

            proxy_ssl_verify on;
            proxy_ssl_trusted_certificate {folder}/tls/ca.crt;
            proxy_ssl_name localhost;
            proxy_ssl_server_name on;
            proxy_ssl_protocols TLSv1.2 TLSv1.3;
            proxy_ssl_session_reuse on;
        }}
    }}
"""


def _people(folder: Path, config: FederationConfig, names: str) -> str:
    passed_on = """\
            proxy_pass http://service;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Proto https;
            proxy_read_timeout 60s;"""
    return f"""\
    # People.
    server {{
{_listen(folder, config, config.people_port, _peoples(folder))}
        server_name {names};
        merge_slashes off;
        limit_conn connections 32;
        limit_req zone=people burst=100 nodelay;
        client_max_body_size {LARGEST_REQUEST};
        client_body_timeout 30s;

        add_header Strict-Transport-Security "max-age=31536000" always;
        add_header X-Content-Type-Options nosniff always;
        add_header X-Frame-Options DENY always;
        add_header Referrer-Policy no-referrer always;
        add_header Cross-Origin-Opener-Policy same-origin always;

        location / {{
            return 404;
        }}
        location /api/ {{
{passed_on}
        }}
        location ~ "{LOGIN_PATHS}" {{
            limit_req zone=login burst=10 nodelay;
            limit_req_status 429;
{passed_on}
        }}
    }}"""
