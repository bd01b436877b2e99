"""Messages that announce far more than they hold: refused before anything is allocated for them.

Stands for NVFlare CVE-2022-21822 (unbounded allocation), #4509 (bombs in archives) and CVE-2026-24204 (input validation).
"""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hostile_bytes import hostile_safetensors
from one_node import Talk

from gemel.core.arrays import MAX_HEADER_BYTES, ArraySpec, unpack_arrays
from gemel.core.dataset import Dataset
from gemel.core.errors import GemelError
from gemel.core.messages import Envelope, read_reply
from gemel.core.signing import MAX_BYTES, SigningKey, read_signed, sign_document

if TYPE_CHECKING:
    from gemel.cli.demo.federation import Federation

MakeStudy = Callable[..., Any]
DECLARED = {"level": ArraySpec((4,), "float32")}
# Far below what any of the messages announces.
MOST_BYTES, MOST_SECONDS = 64 << 20, 10.0


def _cheaply(read: Callable[[], object]) -> None:
    """Refused with a code, little memory and little time."""
    tracemalloc.start()
    began = time.monotonic()
    try:
        with pytest.raises(GemelError):
            read()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MOST_BYTES
    assert time.monotonic() - began < MOST_SECONDS


@pytest.mark.parametrize("kind", hostile_safetensors())
def test_arrays_that_announce_more_than_they_hold_are_refused_cheaply(kind: str) -> None:
    content = hostile_safetensors()[kind]
    _cheaply(lambda: unpack_arrays(content, DECLARED))


@pytest.mark.parametrize("kind", hostile_safetensors())
def test_a_data_set_that_announces_more_than_it_holds_is_refused_cheaply(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "data.safetensors"
    path.write_bytes(hostile_safetensors()[kind])
    _cheaply(lambda: Dataset.load(path))


def test_a_payload_larger_than_what_was_declared_is_refused_before_it_is_read() -> None:
    content = bytes(16 + MAX_HEADER_BYTES + 1 + (32 << 20))
    _cheaply(lambda: unpack_arrays(content, DECLARED))


def hostile_documents() -> dict[str, bytes]:
    """JSON that costs its reader more than its sender."""
    signature = {"role": "coordinator", "public_key": "00" * 32, "value": "00" * 64}
    whole = {
        "schema": "gemel/signed/1",
        "kind": "request",
        "payload": {},
        "payload_sha256": "",
        "signatures": [signature],
    }

    def with_payload(text: str) -> bytes:
        return json.dumps(whole).replace('"payload": {}', f'"payload": {text}').encode()

    return {
        "deep lists": with_payload('{"a":' + "[" * 100_000 + "]" * 100_000 + "}"),
        "deep objects": with_payload('{"a":' * 50_000 + "1" + "}" * 50_000),
        "a number of a million digits": with_payload('{"a": ' + "9" * 1_000_000 + "}"),
        "an exponent without end": with_payload('{"a": 1e999999999}'),
        "not a number": with_payload('{"a": NaN}'),
        "half a surrogate": with_payload('{"a": "\\ud800"}'),
        "not UTF-8": with_payload('{"a": "x"}').replace(b'"x"', b'"\xff\xfe"'),
        "100,000 signatures": json.dumps({**whole, "signatures": [signature] * 100_000}).encode(),
        "the same field twice": with_payload('{"a": 1, "a": 2}'),
        "beyond the cap": b'"' + b"a" * MAX_BYTES + b'"',
    }


@pytest.mark.parametrize("kind", hostile_documents())
def test_a_document_that_costs_its_reader_more_than_its_sender_is_refused(kind: str) -> None:
    content = hostile_documents()[kind]
    began = time.monotonic()
    with pytest.raises(GemelError):
        read_signed(content)
    assert time.monotonic() - began < MOST_SECONDS


def test_no_such_document_ends_a_node(federation: Federation, make_study: MakeStudy) -> None:
    talk = Talk(federation, make_study())
    good = talk.envelope("hello")
    for kind, content in hostile_documents().items():
        for parts in ({"document": content}, {"study": content}):
            fields = {"document": good.document, "study": good.study, "payload": b"", **parts}
            reply = read_reply(talk.send(Envelope(**fields)).document)[0]
            assert str(reply.status) == "refused", kind
            assert len(reply.code) == 6, kind
    assert str(talk.ask("hello").status) == "pending"


def test_a_study_cannot_ask_for_work_without_end(make_study: MakeStudy) -> None:
    """NVFlare CVE-2022-21822, by a document that is well formed."""
    import msgspec

    from gemel.core.study import parse_study

    study = make_study()
    training = study.training
    for field, value in (
        ("rounds", 10**9),
        ("local_steps", 10**9),
        ("learning_rate", 1e300),
        ("sample_rate", 0.0),
        ("noise_multiplier", 1e-9),
    ):
        changed = msgspec.structs.replace(training, **{field: value})
        with pytest.raises(GemelError, match="GEM101"):
            parse_study(msgspec.structs.replace(study, training=changed).to_payload())
    for field, value in (("metrics_tables", 10**9), ("round_timeout_s", 1e12), ("minimum_patients", 10**12)):
        with pytest.raises(GemelError, match="GEM101"):
            parse_study(msgspec.structs.replace(study, **{field: value}).to_payload())


@pytest.mark.heavy
def test_a_bomb_in_a_compressed_export_does_not_fill_the_memory(tmp_path: Path) -> None:
    """NVFlare #4509: archives that grow. An export is read a piece at a time, whatever it grows to."""
    import gzip
    import subprocess
    import sys

    folder = tmp_path / "export"
    folder.mkdir()
    line = b'{"resourceType":"Patient","id":"' + b"a" * (1 << 20) + b'"}\n'
    with gzip.open(folder / "Patient.ndjson.gz", "wb", compresslevel=9) as file:
        for _ in range(2000):
            file.write(line)
    program = (
        "import resource, sys\n"
        "from gemel.cli.data import app\n"
        "try: app(['check', sys.argv[1], '--validate', 'off', '--format', 'json'])\n"
        "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], capture_output=True, text=True, timeout=300, check=False
    )
    peak_kb = int(done.stderr.split()[-1])
    assert peak_kb < 1_000_000, (
        f"{peak_kb} kB for 2 GB that came as {(folder / 'Patient.ndjson.gz').stat().st_size} bytes"
    )


def test_the_cap_on_documents_is_above_any_study_and_below_the_memory() -> None:
    largest = sign_document("request", {"a": "x" * (1 << 20)}, SigningKey.generate(), role="coordinator")
    assert read_signed(largest.to_bytes()).payload["a"][0] == "x"
    assert MAX_BYTES <= 1 << 28
