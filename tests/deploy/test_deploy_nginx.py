"""nginx before a real SuperLink: what a hospital needs passes, and nothing else does."""

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from running_coordinator import NGINX, admit, make_coordinator, proxied, running, wait_for

from gemel.core.supervision import free_port
from gemel.server import nginx

pytestmark = pytest.mark.skipif(shutil.which(NGINX) is None, reason="nginx is not installed")


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory):
    with running(make_coordinator(tmp_path_factory.mktemp("nginx") / "home")) as it, proxied(it):
        yield it


def _tls(coordinator, port=None, **changes):
    context = ssl.create_default_context(cafile=coordinator.ca)
    for name, value in changes.items():
        setattr(context, name, value)
    connection = socket.create_connection(("127.0.0.1", port or coordinator.config.port), timeout=10)
    return context.wrap_socket(connection, server_hostname="127.0.0.1")


def _raw(coordinator, content, *, port=None):
    """What comes back for some bytes, until the other side closes or is silent."""
    with _tls(coordinator, port) as connection:
        connection.sendall(content)
        connection.settimeout(1)
        answer = b""
        try:
            while part := connection.recv(65536):
                answer += part
        except TimeoutError:
            pass
        return answer


def _request(path, *, method="POST", host="127.0.0.1", headers="", body=b""):
    lines = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n"
    return f"{lines}{headers}Connection: close\r\n\r\n".encode() + body


def _status(answer):
    found = re.match(rb"HTTP/1\.1 (\d+)", answer)
    return int(found.group(1)) if found else None


def test_nginx_finds_no_fault_with_the_configuration(tmp_path):
    made = make_coordinator(tmp_path / "home")
    path = nginx.configuration_file(made.folder)
    done = subprocess.run([NGINX, "-t", "-c", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "test is successful" in done.stderr
    assert not re.search(r"\[(warn|emerg|alert)\]", done.stderr.replace('the "user" directive', ""))


def test_the_calls_that_pass_are_those_that_flower_has_for_nodes():
    from flwr.superlink.routers.fleet.router import router

    flower = {route.path.removeprefix("/v1/fleet/") for route in router.routes}
    assert {*nginx.FLEET_CALLS, *nginx.NOT_CALLED} == flower


def _supernode(coordinator, keys, folder):
    """Flower's own SuperNode, through nginx."""
    scripts = Path(sys.executable).parent
    environment = {
        **os.environ,
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_HOME": str(folder),
        "PATH": f"{scripts}:{os.environ['PATH']}",
    }
    arguments = [
        str(scripts / "flower-supernode"),
        *("--root-certificates", str(coordinator.ca)),
        *("--superlink", coordinator.config.fleet_address),
        *("--auth-supernode-private-key", str(keys.folder / "transport.key")),
        *("--host", "127.0.0.1", "--port", str(free_port())),
    ]
    return subprocess.Popen(
        arguments,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _statuses(coordinator):
    return {node.transport_key: node.status for node in coordinator.superlink.nodes()}


def test_a_supernode_connects_through_nginx_until_its_hospital_is_revoked(coordinator, tmp_path):
    keys = admit(coordinator, "alpha", tmp_path / "alpha")
    node = _supernode(coordinator, keys, tmp_path / "flower")
    try:
        key = keys.request.transport_public_key
        wait_for(lambda: _statuses(coordinator)[key] == "online", what="the node is online")
        coordinator.gemel("federation", "revoke", "alpha", "--home", str(coordinator.folder))
        assert _statuses(coordinator)[key] == "unregistered"
        access = coordinator.folder / "nginx" / "access.log"
        refused = '"POST /v1/fleet/pull-messages" 401'
        wait_for(lambda: refused in access.read_text(), what="its next call is refused")
    finally:
        os.killpg(node.pid, signal.SIGKILL)
        node.wait(10)


def _flower_paths():
    import flwr

    sources = (
        Path(flwr.__file__).parent / "superlink" / "routers",
        Path(flwr.__file__).parent / "supercore" / "routers",
    )
    found = set()
    for path in (file for folder in sources for file in folder.rglob("*.py")):
        text = path.read_text()
        prefix = re.search(r'prefix="(/v1/(?:control|runtime))"', text)
        if prefix:
            found |= {prefix.group(1) + end for end in re.findall(r'@router\.post\(\s*"(/[^"]+)"', text)}
    return sorted(found)


def test_no_call_of_the_control_and_runtime_apis_passes(coordinator):
    paths = _flower_paths()
    assert len(paths) > 20
    assert {path.split("/")[2] for path in paths} == {"control", "runtime"}
    others = ["/", "/docs", "/openapi.json", "/health", "/v1/fleet/", "/v1/fleet", "/v1/responses"]
    others += [f"/v1/fleet/{call}" for call in nginx.NOT_CALLED]
    for path in paths + others:
        for method in ("POST", "GET"):
            assert _status(_raw(coordinator, _request(path, method=method))) == 404, path


# What the SuperLink says when somebody calls its Control API.
REACHED = "ControlServicer"


def test_a_call_of_the_control_api_that_does_arrive_is_seen_in_the_log(coordinator):
    before = coordinator.log("superlink")
    coordinator.superlink.nodes()
    assert REACHED in coordinator.log("superlink")[len(before) :]


TRICKS = [
    "/v1/fleet/../control/list-runs",
    "/v1/fleet/%2e%2e/control/list-runs",
    "/v1/fleet/..%2fcontrol/list-runs",
    "/v1/fleet/%252e%252e/control/list-runs",
    "/v1/fleet/pull-messages/../../control/list-runs",
    "/v1/control/../fleet/pull-messages",
    "/v1/control/%2e%2e/fleet/pull-messages",
    "/v1/control/list-runs/%2e%2e/%2e%2e/fleet/pull-messages",
    "/v1//control/list-runs",
    "//v1/control/list-runs",
    "//v1/fleet/pull-messages",
    "/v1/fleet//pull-messages",
    "/v1/./fleet/pull-messages",
    "/V1/CONTROL/list-runs",
    "/v1/fleet/pull-messages%00/../../control/list-runs",
    "/v1/fleet/pull-messages;/../../control/list-runs",
    "/v1/fleet/pull-messages?/../../control/list-runs",
    "/v1/fleet/pull-messages#/../../control/list-runs",
    "/v1/fleet/pull-messages/",
    "/v1/fleet/%70ull-messages",
    "/v1/fleet/pull-messages%20",
    "/v1\\control\\list-runs",
    "http://127.0.0.1/v1/control/list-runs",
    "https://localhost:1/v1/control/list-runs",
    "*",
]


@pytest.mark.parametrize("path", TRICKS)
def test_no_way_of_writing_a_path_reaches_another_api(coordinator, path):
    before = coordinator.log("superlink")
    answer = _raw(coordinator, _request(path))
    assert _status(answer) in (400, 404), answer[:200]
    # Flower answers in protobuf; nginx in HTML.
    assert b"protobuf" not in answer
    assert REACHED not in coordinator.log("superlink")[len(before) :]


def test_a_call_of_a_node_does_reach_flower(coordinator):
    answer = _raw(
        coordinator, _request("/v1/fleet/pull-messages", headers="Content-Type: application/protobuf\r\n")
    )
    assert _status(answer) == 401, answer[:300]  # Flower's own refusal: no key
    assert _status(_raw(coordinator, _request("/v1/fleet/pull-messages", method="GET"))) == 405


SMUGGLED = b"POST /v1/control/list-runs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/protobuf\r\nContent-Length: 0\r\n\r\n"
HEAD = b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/protobuf\r\n"


@pytest.mark.parametrize(
    "content",
    [
        HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        HEAD + b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
        HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + SMUGGLED,
        HEAD + b"Transfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + SMUGGLED,
        HEAD + b"Transfer-Encoding: xchunked\r\nContent-Length: 0\r\n\r\n" + SMUGGLED,
        HEAD + b"Content-Length: 0\r\nX: a\r\n\x0bTransfer-Encoding: chunked\r\n\r\n" + SMUGGLED,
        HEAD + b"Content-Length: 0\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n\r\n" + SMUGGLED,
        HEAD + b"Content-Length: 0\r\nX-A: b\r\n\r\n" + SMUGGLED,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5;x=\x00\r\nhello\r\n0\r\n\r\n" + SMUGGLED,
        HEAD + b"Content-Length: 0\nX: y\n\n" + SMUGGLED,
    ],
)
def test_no_second_request_is_smuggled_inside_a_first(coordinator, content):
    before = coordinator.log("superlink")
    answer = _raw(coordinator, content)
    # Whatever nginx takes for a second request is judged by nginx as one.
    assert [int(code) for code in re.findall(rb"HTTP/1\.1 (\d+)", answer)] != []
    assert b"HTTP/1.1 200" not in answer
    assert REACHED not in coordinator.log("superlink")[len(before) :]


@pytest.mark.parametrize("host", ["evil.example", "169.254.169.254", "127.0.0.1.evil.example", ""])
@pytest.mark.parametrize("people", [False, True])
def test_whoever_calls_us_by_another_name_is_answered_nothing(coordinator, host, people):
    port = coordinator.config.people_port if people else coordinator.config.port
    answer = _raw(coordinator, _request("/v1/fleet/pull-messages", host=host), port=port)
    assert answer == b"" or _status(answer) == 400


def test_a_body_beyond_what_an_update_can_be_is_refused_before_it_is_read(coordinator):
    head = "POST /v1/fleet/push-object HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 70000000\r\n\r\n"
    assert _status(_raw(coordinator, head.encode())) == 413


def test_an_update_of_50_megabytes_passes_and_is_not_written_to_disk(coordinator):
    body = bytes(50_000_000)
    headers = "Content-Type: application/protobuf\r\n"
    answer = _raw(coordinator, _request("/v1/fleet/push-object", headers=headers, body=body))
    assert _status(answer) in (400, 401), answer[:200]  # it came through to Flower, whose own refusal this is
    assert b"application/json" in answer
    temporary = coordinator.folder / "nginx" / "temp"
    assert not [path for path in temporary.rglob("*") if path.is_file()]


def test_old_tls_is_refused_by_the_server(coordinator):
    context = ssl.create_default_context(cafile=coordinator.ca)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # else this side would refuse it itself
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    connection = socket.create_connection(("127.0.0.1", coordinator.config.port), timeout=10)
    with connection, pytest.raises(ssl.SSLError, match="alert protocol version"):
        context.wrap_socket(connection, server_hostname="127.0.0.1")


def test_people_get_the_service_alone_and_every_answer_says_how_browsers_shall_treat_it(coordinator):
    port = coordinator.config.people_port
    for path in ("/", "/metrics", "/v1/fleet/pull-messages", "/v1/control/list-runs", "/docs", "/api"):
        answer = _raw(coordinator, _request(path, method="GET"), port=port)
        assert _status(answer) in (301, 404), path
        assert b"protobuf" not in answer
    for header in (
        b"Strict-Transport-Security",
        b"X-Content-Type-Options",
        b"X-Frame-Options",
        b"Referrer-Policy",
    ):
        assert header in answer
    assert b"Server: nginx\r\n" in answer  # no version


def test_guessing_passwords_is_slowed_down(coordinator):
    port = coordinator.config.people_port
    codes = [_status(_raw(coordinator, _request("/api/v1/login"), port=port)) for _ in range(14)]
    assert codes[-1] == 429
    # Others are not: the service's own answer, or that it does not run.
    assert _status(_raw(coordinator, _request("/api/v1/studies", method="GET"), port=port)) != 429


def test_no_token_reaches_a_log(coordinator):
    request = _request(
        "/api/v1/studies?token=SECRET-IN-QUERY",
        method="GET",
        headers="Authorization: Bearer SECRET-IN-HEADER\r\n",
    )
    _raw(coordinator, request, port=coordinator.config.people_port)
    logs = (coordinator.folder / "nginx" / "access.log").read_text()
    assert "/api/v1/studies" in logs
    assert "SECRET" not in logs


def test_a_rotated_certificate_is_served_after_a_reload_and_believed_by_the_same_ca(coordinator):
    def serial():
        with _tls(coordinator) as connection:
            return connection.getpeercert()["serialNumber"]

    before = serial()
    coordinator.gemel("federation", "rotate-tls", str(coordinator.folder))
    path = nginx.configuration_file(coordinator.folder)
    subprocess.run([NGINX, "-c", str(path), "-s", "reload"], check=True, capture_output=True)
    wait_for(lambda: serial() != before, what="the new certificate is served", timeout_s=10)
