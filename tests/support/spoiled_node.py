"""A node that has gone wrong, or belongs to an attacker: it has the node's keys, and spoils what it says.

    python spoiled_node.py HOME FOLDER

FOLDER/spoil is a JSON object, task -> how (`SPOILS`), read anew for each answer; what was spoiled is a line in
FOLDER/spoiled. With FOLDER/echo there, every call that changes something at the SuperLink is sent twice, with an
earlier one in between.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np

from gemel.client_node.flower import client_app
from gemel.client_node.home import NodeHome
from gemel.client_node.node import answer
from gemel.client_node.serving import serve
from gemel.core.arrays import pack_arrays
from gemel.core.canonical import sha256_hex
from gemel.core.messages import Envelope, read_reply, read_request, sign_reply
from gemel.core.signing import SigningKey

Spoil = Callable[[NodeHome, Envelope, Envelope | None], Envelope]


def _resigned(home: NodeHome, got: Envelope, payload: bytes, **changes: Any) -> Envelope:
    """Another payload with its right hash under the node's own signature."""
    reply, _ = read_reply(got.document)
    reply = msgspec.structs.replace(reply, payload_sha256=sha256_hex(payload), **changes)
    return Envelope(document=sign_reply(reply, home.key).to_bytes(), payload=payload)


def _arrays(got: Envelope) -> dict[str, Any]:
    from safetensors.numpy import load

    return dict(load(got.payload))


def _not_finite(home: NodeHome, got: Envelope, _last: Envelope | None) -> Envelope:
    return _resigned(
        home, got, pack_arrays({name: np.full_like(array, np.nan) for name, array in _arrays(got).items()})
    )


def _other_shapes(home: NodeHome, got: Envelope, _last: Envelope | None) -> Envelope:
    arrays = {name: np.zeros((*array.shape, 2), array.dtype) for name, array in _arrays(got).items()}
    return _resigned(home, got, pack_arrays(arrays))


def _huge(home: NodeHome, got: Envelope, _last: Envelope | None) -> Envelope:
    return _resigned(home, got, pack_arrays({**_arrays(got), "more": np.zeros(25_000_000, np.float32)}))


def _pickled(home: NodeHome, got: Envelope, _last: Envelope | None) -> Envelope:
    return _resigned(home, got, pickle.dumps({"twin": [1.0, 2.0]}))


def _another_site(home: NodeHome, got: Envelope, _last: Envelope | None) -> Envelope:
    return _resigned(home, got, got.payload, site="alpha")


def _unsigned(_home: NodeHome, got: Envelope, _last: Envelope | None) -> Envelope:
    reply, _ = read_reply(got.document)
    return Envelope(document=sign_reply(reply, SigningKey.generate()).to_bytes(), payload=got.payload)


def _changed_after(_home: NodeHome, got: Envelope, _last: Envelope | None) -> Envelope:
    arrays = {name: array + 1 for name, array in _arrays(got).items()}
    return Envelope(document=got.document, payload=pack_arrays(arrays))


def _earlier(_home: NodeHome, got: Envelope, last: Envelope | None) -> Envelope:
    return last or got


def _no_document(_home: NodeHome, got: Envelope, _last: Envelope | None) -> Envelope:
    return Envelope(document=b"\xff{" * 1000, payload=got.payload)


SPOILS: dict[str, Spoil] = {
    "not finite": _not_finite,
    "other shapes": _other_shapes,
    "huge": _huge,
    "pickled": _pickled,
    "another site": _another_site,
    "unsigned": _unsigned,
    "changed after": _changed_after,
    "earlier": _earlier,
    "no document": _no_document,
}


def main(folder: Path, told: Path) -> None:
    said: dict[str, Envelope] = {}

    def spoiled(home: NodeHome, envelope: Envelope, **options: Any) -> Envelope:
        got, task = answer(home, envelope, **options), read_request(envelope.document)[0].task
        wishes = json.loads((told / "spoil").read_text())
        # Of another task: who is silent is asked again, and then the last thing said is this very answer.
        before = next((got for other, got in reversed(said.items()) if other != task), None)
        if got.payload:
            said.setdefault(task, got)
        if task not in wishes or not got.payload:
            return got
        with (told / "spoiled").open("a") as file:
            file.write(f"{task}\n")
        return SPOILS[wishes[task]](home, got, before)

    client_app.answer = spoiled
    if (told / "echo").exists():
        _echo(told)
    serve(NodeHome.open(folder))


def _echo(told: Path) -> None:
    """Send twice, as one does whose first answer was lost on the way, with an older call between the two."""
    send, kept = httpx.Client.send, list[httpx.Request]()

    def copy(request: httpx.Request) -> httpx.Request:
        return httpx.Request(request.method, request.url, headers=request.headers, content=request.content)

    def twice(client: httpx.Client, request: httpx.Request, **options: Any) -> httpx.Response:
        if not any(word in request.url.path for word in ("push", "confirm")):
            return send(client, request, **options)
        request.read()
        kept.append(copy(request))
        for old in (kept[-1], random.choice(kept)):
            status = send(client, copy(old)).status_code
            with (told / "echoed").open("a") as file:
                file.write(f"{old.url.path} {status}\n")
        return send(client, request, **options)

    httpx.Client.send = twice  # type: ignore[method-assign]


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
