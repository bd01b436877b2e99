"""Bytes that run code, or fill memory, in a reader that trusts them; each says when it was obeyed by making a folder."""

from __future__ import annotations

import gzip
import io
import json
import marshal
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np


class Bomb:
    """Unpickled, it makes a folder."""

    def __init__(self, canary: Path) -> None:
        self.canary = str(canary)

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return (os.mkdir, (self.canary,))


def hostile_bytes(canary: Path) -> dict[str, bytes]:
    """By what reads them: pickles, a torch archive, YAML, named classes, arrays of objects, archives that escape."""
    bomb = Bomb(canary)
    arrays = np.empty(1, dtype=object)
    arrays[0] = bomb
    npy = io.BytesIO()
    np.save(npy, arrays, allow_pickle=True)
    return {
        "pickle 0": pickle.dumps(bomb, protocol=0),
        "pickle 5": pickle.dumps(bomb, protocol=5),
        "pickle in gzip": gzip.compress(pickle.dumps(bomb)),
        "torch archive": torch_archive(pickle.dumps(bomb, protocol=2)),
        "npy of objects": npy.getvalue(),
        "marshal": marshal.dumps(compile(f"__import__('os').mkdir({str(canary)!r})", "x", "exec")),
        "yaml object": f"!!python/object/apply:os.mkdir [{canary}]\n".encode(),
        "json that names a class": json.dumps(
            {"type_name": "os.mkdir", "__class__": "os.mkdir", "py/object": "os.mkdir", "args": [str(canary)]}
        ).encode(),
        "safetensors with a class": safetensors({"__metadata__": {"format": "pt", "loader": "os.mkdir"}}),
        "tar that escapes": tar_that_escapes(canary),
        "python": f"import os\nos.mkdir({str(canary)!r})\n".encode(),
    }


def torch_archive(content: bytes) -> bytes:
    """What `torch.save` writes, with another pickle inside."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return buffer.getvalue()


def tar_that_escapes(canary: Path) -> bytes:
    """A tar archive whose member is an absolute path."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo(str(canary))
        member.type = tarfile.DIRTYPE
        archive.addfile(member)
    return buffer.getvalue()


def safetensors(header: dict[str, Any], data: bytes = b"", *, announced: int | None = None) -> bytes:
    """A safetensors file with any header; `announced`: another length of the header than it has."""
    content = json.dumps(header).encode()
    return struct.pack("<Q", len(content) if announced is None else announced) + content + data


def hostile_safetensors() -> dict[str, bytes]:
    """Files that announce far more than they hold."""
    tensor = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    many = {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(20_000)}
    return {
        "header of 2^63 bytes": safetensors({"level": tensor}, bytes(16), announced=(1 << 63) - 1),
        "header of 4 GB": safetensors({"level": tensor}, bytes(16), announced=1 << 32),
        "header longer than the file": safetensors({"level": tensor}, bytes(16), announced=10_000),
        "tensor of 2^60 numbers": safetensors(
            {"level": {"dtype": "F32", "shape": [1 << 60], "data_offsets": [0, 1 << 62]}}, bytes(16)
        ),
        "shape whose product overflows": safetensors(
            {"level": {"dtype": "F32", "shape": [1 << 33, 1 << 33], "data_offsets": [0, 16]}}, bytes(16)
        ),
        "offsets that go back": safetensors(
            {"level": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}}, bytes(16)
        ),
        "offsets that overlap": safetensors({"level": tensor, "slopes": tensor}, bytes(16)),
        "20,000 empty tensors": safetensors(many),
        "header that nests without end": struct.pack("<Q", 200_000) + b"[" * 200_000,
        "empty": b"",
        "eight zeros": bytes(8),
    }
