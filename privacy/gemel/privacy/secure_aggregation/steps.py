"""What a node checks and computes in each step: functions of its state and of what it was sent."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np

from gemel.core.canonical import canonical_bytes, document_hash
from gemel.core.errors import GemelError
from gemel.privacy.secure_aggregation import masks, shamir
from gemel.privacy.secure_aggregation.context import Context
from gemel.privacy.secure_aggregation.masks import Words
from gemel.privacy.secure_aggregation.state import PublicKeys, Received, State
from gemel.privacy.secure_aggregation.wire import (
    Advertisement,
    Confirmation,
    Delivery,
    UnmaskRequest,
    hear,
    unpack_documents,
)


def admit_attempt(state: State, context: Context) -> None:
    """Refuse an attempt beside the one that stands: GEM323 after shares were revealed, GEM320 for an older one."""
    before = state.context
    if (before.study_sha256, before.task) != (context.study_sha256, context.task):
        raise GemelError("GEM320", "This state is of another task.")
    if state.revealed:
        raise GemelError("GEM323", f"{context.task} was unmasked in attempt {before.attempt}.")
    if context.attempt <= before.attempt:
        raise GemelError("GEM320", f"Attempt {context.attempt} is over: {before.attempt} stands.")


def read_roster(state: State, roster: bytes) -> dict[str, PublicKeys]:
    """Verify the advertisements of step 0: site -> keys."""
    context = state.context
    heard = [hear(entry, Advertisement, context) for entry in unpack_documents(roster, context)]
    peers = {said.site: PublicKeys(said.seal_public, said.mask_public) for said in heard}
    keys = [key for entry in peers.values() for key in (entry.seal_public, entry.mask_public)]
    if len(peers) != len(heard) or len(set(keys)) != len(keys):
        raise GemelError("GEM320", "A site or a key is advertised twice.")
    if peers.get(state.site) != state.own_keys:
        raise GemelError("GEM321", "This node's own keys are not among the advertised ones.")
    _enough(context, len(peers), "advertised")
    return dict(sorted(peers.items()))


def roster_hash(context: Context, peers: Mapping[str, PublicKeys]) -> str:
    """The hash of all keys advertised in this context."""
    keys = {site: msgspec.to_builtins(entry) for site, entry in peers.items()}
    return document_hash([context.sha256, keys])


def seed_commitment(state: State) -> str:
    """This node's commitment to its seed."""
    return masks.commitment(bytes.fromhex(state.seed), about=state.context.sha256)


def seal_shares(state: State, peers: Mapping[str, PublicKeys]) -> dict[str, str]:
    """Split seed and mask key, and seal each peer's shares for it, this node's own included: site -> hex."""
    context, roster_sha256 = state.context, roster_hash(state.context, peers)
    split = [
        shamir.split(bytes.fromhex(secret), threshold=context.threshold, points=len(context.sites))
        for secret in (state.seed, state.mask_private)
    ]
    sealed = {}
    for site in peers:
        point = context.point(site)
        way = [roster_sha256, state.site, site]
        key = _seal_key(state, peers[site], way)
        sealed[site] = masks.seal(key, split[0][point] + split[1][point], about=way).hex()
    return sealed


def open_shares(state: State, delivery: Delivery) -> dict[str, Received]:
    """Open what every peer that shared sealed for this node. Raises GEM320 or GEM322."""
    shared = delivery.shared
    ordered = tuple(sorted(set(shared))) == shared
    if not ordered or state.site not in shared or not set(shared) <= set(state.peers):
        raise GemelError("GEM320", "Who shared is not a sorted list of advertised sites with this node.")
    if set(delivery.sealed) != set(shared):
        raise GemelError("GEM320", "The sealed shares are not those of the sites that shared.")
    _enough(state.context, len(shared), "shared")
    return {site: _open_one(state, site, delivery.sealed[site]) for site in shared}


def _open_one(state: State, source: str, sealed: str) -> Received:
    way = [state.roster_sha256, source, state.site]
    try:
        content = bytes.fromhex(sealed)
    except ValueError as error:
        raise GemelError("GEM320", f"The shares of {source} are malformed.") from error
    opened = masks.unseal(_seal_key(state, state.peers[source], way), content, about=way)
    if len(opened) != 2 * shamir.SHARE_BYTES:
        raise GemelError("GEM320", f"The shares of {source} have another size.")
    return Received(opened[: shamir.SHARE_BYTES].hex(), opened[shamir.SHARE_BYTES :].hex())


def _seal_key(state: State, peer: PublicKeys, way: list[str]) -> bytes:
    """The key of one direction between two nodes: `way` is the roster's hash, source and target."""
    return masks.agreed(bytes.fromhex(state.seal_private), peer.seal_public, purpose="seal", about=way)


def check_vector(context: Context, vector: Words) -> None:
    """Refuse (GEM324) what is not a vector of the context's words."""
    if vector.shape != (context.length,) or vector.dtype != np.dtype(f"u{context.bits // 8}"):
        raise GemelError(
            "GEM324",
            f"Expected {context.length} words of {context.bits} bits, got {vector.dtype} {vector.shape}.",
        )


def masked(state: State, vector: Words) -> bytes:
    """The vector under this node's own mask and one with each peer that shared: little-endian words."""
    if not state.seed:
        raise GemelError("GEM320", "The secrets of this aggregation are gone: it was unmasked.")
    about = [state.context.sha256, state.roster_sha256]
    private = bytes.fromhex(state.mask_private)
    streams = [masks.self_stream(bytes.fromhex(state.seed), about=about)]
    streams += [
        masks.pair_stream(private, state.site, peer, peer_public=state.peers[peer].mask_public, about=about)
        for peer in state.shared
        if peer != state.site
    ]
    result = vector.copy()
    masks.apply_streams(result, streams)
    return result.astype(result.dtype.newbyteorder("<"), copy=False).tobytes()


def check_survivors(state: State, survivors: tuple[str, ...]) -> None:
    """Refuse (GEM320, GEM322) a list that this node may not confirm."""
    if "mask" not in state.said:
        raise GemelError("GEM320", "This node has sent no input yet.")
    ordered = tuple(sorted(set(survivors))) == survivors
    if not ordered or state.site not in survivors or not set(survivors) <= set(state.shared):
        raise GemelError("GEM320", "The survivors are not a sorted list of sites that shared with this node.")
    _enough(state.context, len(survivors), "left")


def check_confirmations(state: State, request: UnmaskRequest) -> None:
    """Refuse unless enough survivors confirmed exactly this node's view, and none another."""
    if not state.survivors or request.survivors != state.survivors:
        raise GemelError("GEM321", "Shares are asked for other survivors than this node confirmed.")
    _enough(state.context, len(state.survivors), "left")
    context = state.context
    confirmed: set[str] = set()
    for entry in request.confirmations:
        said = hear(canonical_bytes(entry), Confirmation, context)
        if said.view_sha256 != state.view_sha256:
            raise GemelError("GEM321", f"{said.site} was told of other participants or survivors.")
        if said.site not in state.survivors:
            raise GemelError("GEM320", f"{said.site} confirms, but is no survivor.")
        confirmed.add(said.site)
    if len(confirmed) < context.threshold:
        raise GemelError("GEM322", f"{len(confirmed)} confirmations, {context.threshold} needed.")


def reveal(state: State) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Which kind of share of each peer is revealed, the shares of seeds, and those of mask keys."""
    if state.revealed:
        raise GemelError("GEM323", "Shares were revealed before.")
    dropped = [site for site in state.shared if site not in state.survivors]
    seeds = {site: state.received[site].seed for site in state.survivors}
    mask_keys = {site: state.received[site].mask_key for site in dropped}
    return {**dict.fromkeys(seeds, "seed"), **dict.fromkeys(mask_keys, "mask_key")}, seeds, mask_keys


def _enough(context: Context, count: int, what: str) -> None:
    if count < context.least_survivors:
        raise GemelError("GEM322", f"{count} nodes {what}, {context.least_survivors} needed.")
