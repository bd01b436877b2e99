"""Canonical JSON and its SHA-256: the same document gives the same bytes on any machine."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def canonical_bytes(document: Any) -> bytes:
    """Encode a JSON document with sorted keys, no spaces, UTF-8, shortest floats; NaN is refused.

    >>> canonical_bytes({"b": 1, "a": [True, None, 0.5]})
    b'{"a":[true,null,0.5],"b":1}'
    """
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def sha256_hex(content: bytes) -> str:
    """Hex digest of some bytes.

    >>> sha256_hex(b"")[:8]
    'e3b0c442'
    """
    return hashlib.sha256(content).hexdigest()


def document_hash(document: Any) -> str:
    """The hash that names a JSON document: SHA-256 of its canonical bytes.

    >>> document_hash({"a": 1, "b": 2}) == document_hash({"b": 2, "a": 1})
    True
    """
    return sha256_hex(canonical_bytes(document))
