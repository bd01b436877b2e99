"""What a node keeps of an aggregation between its steps: secret, in one file, replaced as a whole."""

from __future__ import annotations

from pathlib import Path

import msgspec

from gemel.core.errors import GemelError
from gemel.privacy.secure_aggregation.context import Context
from gemel.privacy.secure_aggregation.masks import public_half


class PublicKeys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A site's two advertised keys, hex."""

    seal_public: str
    mask_public: str


class Received(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The shares (hex) that one peer entrusted to this node: of its seed and of its mask key."""

    seed: str
    mask_key: str


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One node's state; all secrets hex.

    Attributes:
        seal_private, mask_private, seed: This attempt's secrets, "" once shares of peers were revealed.
        peers, roster_sha256: Who advertised which keys, from step 1 on.
        shared, received: Who shared, and what they entrusted, from step 2 on.
        inputs_sha256: What the vector was computed from.
        survivors, view_sha256: What this node confirmed, from step 3 on.
        revealed: peer -> "seed" or "mask_key": which kind of share left, from step 4 on.
        said, asked: The answer to each step, and the hash of the question.
    """

    context: Context
    site: str
    seal_private: str = ""
    mask_private: str = ""
    seed: str = ""
    peers: dict[str, PublicKeys] = msgspec.field(default_factory=dict)
    roster_sha256: str = ""
    shared: tuple[str, ...] = ()
    received: dict[str, Received] = msgspec.field(default_factory=dict)
    inputs_sha256: str = ""
    survivors: tuple[str, ...] = ()
    view_sha256: str = ""
    revealed: dict[str, str] = msgspec.field(default_factory=dict)
    said: dict[str, str] = msgspec.field(default_factory=dict)
    asked: dict[str, str] = msgspec.field(default_factory=dict)

    @property
    def own_keys(self) -> PublicKeys:
        """The public halves of this node's two keys."""
        return PublicKeys(
            public_half(bytes.fromhex(self.seal_private)), public_half(bytes.fromhex(self.mask_private))
        )

    def without_secrets(self, revealed: dict[str, str]) -> State:
        """What stays after step 4: that it happened, and what was said."""
        return msgspec.structs.replace(
            self, seal_private="", mask_private="", seed="", received={}, peers={}, revealed=revealed
        )

    def to_bytes(self) -> bytes:
        """JSON, for this node's own disk."""
        return msgspec.json.encode(self)

    @classmethod
    def load(cls, path: Path) -> State | None:
        """The state in a file, None where there is none. Raises GEM320 when it is damaged."""
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, GemelError) as error:
            raise GemelError("GEM320", f"The masking state {path.name} is damaged.") from error

    def __repr__(self) -> str:
        return f"State(site={self.site!r}, attempt={self.context.attempt}, said={sorted(self.said)})"
