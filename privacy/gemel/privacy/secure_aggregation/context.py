"""What one aggregation is: bound into every key, signature and sealed share, so that none fits another."""

from __future__ import annotations

import re

import msgspec

from gemel.core.canonical import document_hash
from gemel.core.errors import GemelError

PROTOCOL = "gemel/secure-aggregation/1"
LEAST_SITES, MOST_SITES = 3, 500
MOST_VALUES = 1 << 30
_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)


class Context(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One attempt at one aggregation, known to every node from the signed study, never from a message of a peer.

    Attributes:
        study_sha256, task: What is aggregated.
        attempt: 1 and up; a later attempt voids an earlier one of the same task.
        sites: site -> public Ed25519 key (hex), as the study names them.
        threshold: How many nodes it takes to lift masks.
        least_survivors: A node lifts no mask for fewer inputs in the sum; at least the threshold.
        bits: Word size of the ring, 32 or 64.
        length: Values in the vector.
        layout_sha256: What they are (`encoding.Layout`), "" when that is agreed elsewhere.
    """

    study_sha256: str
    task: str
    attempt: int
    sites: dict[str, str]
    threshold: int
    least_survivors: int
    bits: int
    length: int
    layout_sha256: str = ""
    protocol: str = PROTOCOL

    def __post_init__(self) -> None:
        n = len(self.sites)
        if not LEAST_SITES <= n <= MOST_SITES:
            # With two, each would learn the other's input from the sum.
            raise GemelError(
                "GEM322", f"Secure aggregation takes {LEAST_SITES} to {MOST_SITES} sites, got {n}."
            )
        if not n // 2 < self.threshold <= n:
            raise GemelError("GEM322", f"The threshold is more than half of {n} sites, got {self.threshold}.")
        if not self.threshold <= self.least_survivors <= n:
            raise GemelError(
                "GEM322", f"At least {self.threshold} inputs in a sum, got {self.least_survivors}."
            )
        well_formed = (
            self.protocol == PROTOCOL
            and self.attempt >= 1
            and self.bits in (32, 64)
            and 1 <= self.length <= MOST_VALUES
            and len(set(self.sites.values())) == n
            and all(map(_HASH.fullmatch, (self.study_sha256, *self.sites.values())))
        )
        if not well_formed:
            raise GemelError("GEM320", "The aggregation is malformed.")

    @property
    def sha256(self) -> str:
        """The hash that names this attempt in every message."""
        return document_hash(msgspec.to_builtins(self))

    @property
    def names(self) -> tuple[str, ...]:
        """The sites in the one order that everybody uses."""
        return tuple(sorted(self.sites))

    @property
    def vector_bytes(self) -> int:
        """Size of one masked vector."""
        return self.length * self.bits // 8

    @property
    def tolerated_colluders(self) -> int:
        """How many nodes may side with a cheating coordinator without laying another's input open.

        Two views of who survived both find `threshold` signatures only if 2 · threshold <= sites + colluders
        (an honest node signs one view), and the colluders' own shares must be fewer than the threshold.
        """
        return min(2 * self.threshold - len(self.sites), self.threshold) - 1

    def point(self, site: str) -> int:
        """A site's point of the secret sharing polynomials."""
        return self.names.index(site) + 1


def default_threshold(sites: int) -> int:
    """More than two thirds: safe against a coordinator in league with up to a third of the nodes.

    >>> [default_threshold(n) for n in (3, 4, 5, 10)]
    [3, 3, 4, 7]
    """
    return 2 * sites // 3 + 1
