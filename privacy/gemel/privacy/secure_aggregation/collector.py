"""The coordinator's side: it passes documents on, adds up masked vectors, and lifts what nodes let it lift.

Nothing here is secret from the coordinator. Documents taken are those to keep: taken again in the same order, they
bring a new collector to where this one was, and what it asks next is the same bytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Iterator, Sized
from enum import IntEnum

import msgspec
import numpy as np

from gemel.core.canonical import sha256_hex
from gemel.core.errors import GemelError
from gemel.privacy.secure_aggregation import masks, shamir, steps
from gemel.privacy.secure_aggregation.context import Context
from gemel.privacy.secure_aggregation.masks import Stream, Words
from gemel.privacy.secure_aggregation.state import PublicKeys
from gemel.privacy.secure_aggregation.wire import (
    Advertisement,
    Confirmation,
    Delivery,
    Masked,
    Shares,
    Unmasking,
    UnmaskRequest,
    hear,
    pack,
    pack_documents,
    view_hash,
)

# A node may send a wrong share: so many sets of shares are tried against the secret's public half.
_MOST_TRIES = 64
_STREAMS_AT_ONCE = 64


class Step(IntEnum):
    """What the collector takes now."""

    ADVERTISE = 0
    SHARE = 1
    MASK = 2
    CONFIRM = 3
    UNMASK = 4


class Collector:
    """One attempt at one sum.

    For each step: `take_…` once for each node that answered, `close_…` for what to ask next. A `take_…` raises GEM320
    for a document that is not the step, the site's or the context's, and GEM321 where it contradicts what was asked;
    a `close_…` raises GEM322 when too few answered, and nothing was or can be unmasked then.

    `inputs_sha256` is the hash of what the vectors are computed from: every node must have been sent the same.
    """

    def __init__(self, context: Context, *, inputs_sha256: str = "") -> None:
        self.context = context
        self._inputs_sha256 = inputs_sha256
        self._context_sha256 = context.sha256
        self._step = Step.ADVERTISE
        self._advertised: dict[str, bytes] = {}
        self._peers: dict[str, PublicKeys] = {}
        self._roster_sha256 = ""
        self._shares: dict[str, Shares] = {}
        self._shared: tuple[str, ...] = ()
        self._total: Words = np.zeros(context.length, dtype=f"u{context.bits // 8}")
        self._masked: set[str] = set()
        self._survivors: tuple[str, ...] = ()
        self._view_sha256 = ""
        self._confirmations: dict[str, bytes] = {}
        self._unmaskings: dict[str, Unmasking] = {}

    @property
    def step(self) -> Step:
        """What is taken now."""
        return self._step

    @property
    def survivors(self) -> tuple[str, ...]:
        """Whose inputs are in the sum, once step 2 is closed."""
        return self._survivors

    @property
    def shared(self) -> tuple[str, ...]:
        """Who shared, once step 1 is closed: those to ask for an input."""
        return self._shared

    def take_advertisement(self, site: str, document: bytes) -> None:
        """Step 0: a node's keys."""
        self._expect(Step.ADVERTISE, site, self._advertised)
        said = hear(document, Advertisement, self.context, site=site)
        self._advertised[site] = document
        self._peers[site] = PublicKeys(said.seal_public, said.mask_public)

    def close_advertisements(self) -> bytes:
        """The roster: every advertisement, for each node that made one."""
        self._enough(self._advertised)
        self._peers = dict(sorted(self._peers.items()))
        self._roster_sha256 = steps.roster_hash(self.context, self._peers)
        self._step = Step.SHARE
        return pack_documents([self._advertised[site] for site in self._peers])

    def take_shares(self, site: str, document: bytes) -> None:
        """Step 1: what a node sealed for each peer."""
        self._expect(Step.SHARE, site, self._shares, among=self._peers)
        said = hear(document, Shares, self.context, site=site)
        self._same(said.roster_sha256, self._roster_sha256, site)
        if set(said.sealed) != set(self._peers):
            raise GemelError("GEM320", f"{site} shared with others than advertised.")
        self._shares[site] = said

    def close_shares(self) -> dict[str, bytes]:
        """For each node that shared: what its peers sealed for it."""
        self._enough(self._shares)
        self._shared = tuple(sorted(self._shares))
        self._step = Step.MASK
        return {site: pack(self._delivery(site)) for site in self._shared}

    def _delivery(self, site: str) -> Delivery:
        sealed = {source: self._shares[source].sealed[site] for source in self._shared}
        return Delivery(shared=self._shared, sealed=sealed)

    def take_masked(self, site: str, document: bytes, vector: bytes) -> None:
        """Step 2: a masked vector, added to the sum at once and not kept."""
        self._expect(Step.MASK, site, self._masked, among=self._shared)
        said = hear(document, Masked, self.context, site=site)
        self._same(said.roster_sha256, self._roster_sha256, site)
        if said.shared != self._shared:
            raise GemelError("GEM321", f"{site} masked among others than those who shared.")
        self._same(said.inputs_sha256, self._inputs_sha256, site)
        if len(vector) != self.context.vector_bytes or sha256_hex(vector) != said.vector_sha256:
            raise GemelError("GEM320", f"The vector of {site} is not the one it signed.")
        words = np.frombuffer(vector, dtype=self._total.dtype.newbyteorder("<"))
        np.add(self._total, words, out=self._total)
        self._masked.add(site)

    def close_masked(self) -> bytes:
        """The survivors, for each of them to confirm."""
        self._enough(self._masked)
        self._survivors = tuple(sorted(self._masked))
        self._view_sha256 = view_hash(
            self._context_sha256,
            self._roster_sha256,
            self._shared,
            self._survivors,
            inputs_sha256=self._inputs_sha256,
        )
        self._step = Step.CONFIRM
        return msgspec.json.encode(self._survivors)

    def take_confirmation(self, site: str, document: bytes) -> None:
        """Step 3: a node's signature under what it was told."""
        self._expect(Step.CONFIRM, site, self._confirmations, among=self._survivors)
        said = hear(document, Confirmation, self.context, site=site)
        self._same(said.view_sha256, self._view_sha256, site)
        self._confirmations[site] = document

    def close_confirmations(self) -> bytes:
        """All confirmations, for each node that made one."""
        if len(self._confirmations) < self.context.threshold:
            raise GemelError("GEM322", f"{len(self._confirmations)} confirmations: too few to unmask.")
        self._step = Step.UNMASK
        documents = [msgspec.json.decode(self._confirmations[s]) for s in sorted(self._confirmations)]
        return pack(UnmaskRequest(survivors=self._survivors, confirmations=tuple(documents)))

    def take_unmasking(self, site: str, document: bytes) -> None:
        """Step 4: a node's shares of its peers' secrets."""
        self._expect(Step.UNMASK, site, self._unmaskings, among=self._survivors)
        said = hear(document, Unmasking, self.context, site=site)
        self._same(said.view_sha256, self._view_sha256, site)
        if set(said.seeds) != set(self._survivors) or set(said.mask_keys) != set(self._dropped):
            raise GemelError("GEM320", f"{site} revealed other shares than were asked.")
        self._unmaskings[site] = said

    @property
    def complete(self) -> bool:
        """True when enough nodes revealed their shares: later ones change nothing."""
        return len(self._unmaskings) >= self.context.threshold

    def result(self) -> Words:
        """The sum of the survivors' vectors in the ring: shape (length,), uint32 or uint64. May be called once.

        Raises GEM322 with fewer revealed shares than the threshold, GEM320 when they give no secret that was committed to.
        """
        if self._step is not Step.UNMASK or not self.complete:
            raise GemelError("GEM322", f"{len(self._unmaskings)} nodes revealed shares: too few to unmask.")
        streams = itertools.chain(self._self_masks(), self._left_over_pair_masks())
        total, self._total = self._total, np.zeros(0, dtype=self._total.dtype)
        while group := list(itertools.islice(streams, _STREAMS_AT_ONCE)):
            masks.apply_streams(total, group)
        return total

    @property
    def _dropped(self) -> tuple[str, ...]:
        return tuple(site for site in self._shared if site not in self._survivors)

    @property
    def _about(self) -> list[str]:
        return [self._context_sha256, self._roster_sha256]

    def _self_masks(self) -> Iterator[Stream]:
        """What each survivor added on its own, taken off."""

        def one(site: str) -> Stream:
            expected = self._shares[site].seed_commitment
            seed = self._secret(
                {s: said.seeds[site] for s, said in self._unmaskings.items()},
                lambda value: masks.commitment(value, about=self._context_sha256) == expected,
            )
            return masks.self_stream(seed, about=self._about).inverse

        return itertools.chain.from_iterable([one(site)] for site in self._survivors)

    def _left_over_pair_masks(self) -> Iterator[Stream]:
        """What survivors added for each peer that then dropped, taken off."""

        def of(dropped: str) -> list[Stream]:
            public = self._peers[dropped].mask_public
            private = self._secret(
                {s: said.mask_keys[dropped] for s, said in self._unmaskings.items()},
                lambda value: masks.public_half(value) == public,
            )
            # Seen from the dropped side a pair's mask has the opposite sign: adding it takes the survivor's off.
            return [
                masks.pair_stream(
                    private, dropped, site, peer_public=self._peers[site].mask_public, about=self._about
                )
                for site in self._survivors
            ]

        return itertools.chain.from_iterable(of(site) for site in self._dropped)

    def _secret(self, shares: dict[str, str], fits: Callable[[bytes], bool]) -> bytes:
        """The secret that enough of the shares agree on and that fits what its owner made public."""
        threshold = self.context.threshold
        for sites in itertools.islice(itertools.combinations(sorted(shares), threshold), _MOST_TRIES):
            try:
                value = shamir.combine({self.context.point(s): bytes.fromhex(shares[s]) for s in sites})
            except (GemelError, ValueError):
                continue
            if fits(value):
                return value
        raise GemelError("GEM320", "The revealed shares do not give the secret that was shared.")

    def _expect(
        self, step: Step, site: str, taken: Container[str], *, among: Container[str] | None = None
    ) -> None:
        """Refuse what comes too early, too late, twice, or from whom it is not asked."""
        if self._step is not step:
            raise GemelError("GEM320", f"{site} answers step {step.name}, now is {self._step.name}.")
        if site in taken or site not in (self.context.sites if among is None else among):
            raise GemelError("GEM320", f"{site} is not asked for step {step.name} now.")

    def _same(self, got: str, expected: str, site: str) -> None:
        if got != expected:
            raise GemelError("GEM321", f"{site} was told something else than the others.")

    def _enough(self, answered: Sized) -> None:
        count, least = len(answered), self.context.least_survivors
        if count < least:
            raise GemelError("GEM322", f"{count} nodes after step {self._step.name}, {least} needed.")
