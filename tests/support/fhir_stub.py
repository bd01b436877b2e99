"""A small FHIR server in the test process that does exactly what a test tells it."""

import json
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


@dataclass
class Reply:
    status: int = 200
    body: bytes = b""
    headers: dict = field(default_factory=dict)
    stop_after: int | None = None  # send so many bytes of the body, then drop the connection


@dataclass
class Asked:
    method: str
    path: str
    query: dict
    headers: dict
    body: bytes


class Stub:
    """Routes by (method, path) to a Reply, a function of Asked, or a list of them that are used up in turn."""

    def __init__(self):
        self.routes, self.log, self.url = {}, [], ""

    def asked(self, path):
        return [a for a in self.log if a.path == path]

    def answer(self, asked):
        self.log.append(asked)
        route = self.routes.get((asked.method, asked.path), Reply(404))
        if isinstance(route, list):
            route = route.pop(0) if len(route) > 1 else route[0]
        return route(asked) if isinstance(route, Callable) else route


def as_json(value, status=200, **headers):
    return Reply(status, json.dumps(value).encode(), {k.replace("_", "-"): v for k, v in headers.items()})


@contextmanager
def serving():
    stub = Stub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # One packet for headers and body: else each answer waits for an acknowledgement.
        wbufsize = 1 << 16
        disable_nagle_algorithm = True

        def _do(self):
            parts = urlsplit(self.path)
            length = int(self.headers.get("content-length") or 0)
            headers = {k.lower(): v for k, v in self.headers.items()}
            asked = Asked(
                self.command,
                parts.path,
                parse_qs(parts.query, keep_blank_values=True),
                headers,
                self.rfile.read(length),
            )
            reply = stub.answer(asked)
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if reply.stop_after is None:
                self.wfile.write(reply.body)
            else:
                self.wfile.write(reply.body[: reply.stop_after])
                self.wfile.flush()
                self.close_connection = True

        do_GET = do_POST = do_DELETE = _do

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    stub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
