"""A node's side: five steps, each answered once, on a state that is durable before anything is said.

The node may die between any two instructions: the same question again gets the same bytes, another one is refused.
Secrets are gone from the disk the moment that shares of peers are revealed.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gemel.core.canonical import sha256_hex
from gemel.core.errors import GemelError
from gemel.core.files import write_durably
from gemel.core.signing import SigningKey
from gemel.privacy.secure_aggregation import shamir, steps
from gemel.privacy.secure_aggregation.context import Context
from gemel.privacy.secure_aggregation.masks import KEY_BYTES, Words
from gemel.privacy.secure_aggregation.state import State
from gemel.privacy.secure_aggregation.wire import (
    Advertisement,
    Confirmation,
    Delivery,
    Masked,
    Shares,
    Unmasking,
    UnmaskRequest,
    ask,
    say,
    view_hash,
)

assert KEY_BYTES == shamir.SECRET_BYTES  # noqa: S101  # what is shared is a key


@dataclass(frozen=True)
class Participant:
    """One node in one task's aggregation.

    Args:
        path: Where the state is kept, one file for each (study, task), readable by its owner only.
        key: The node's signing key; the context names its public half.
        site: Its name.
    """

    path: Path
    key: SigningKey
    site: str

    def advertise(self, context: Context) -> bytes:
        """Step 0: fresh keys for this attempt. Everything of an earlier attempt is forgotten first.

        Raises GEM323 when shares of another attempt were revealed: two sums of one task could differ by one input.
        GEM320 when the context does not name this node with its key, or is older than what stands here.
        """
        if context.sites.get(self.site) != self.key.public_hex:
            raise GemelError("GEM320", f"The aggregation does not name {self.site} with this node's key.")
        state = State.load(self.path)
        if state is not None and state.context == context:
            return self._said(state, "advertise")
        if state is not None:
            steps.admit_attempt(state, context)
        state = State(
            context=context,
            site=self.site,
            seal_private=secrets.token_hex(KEY_BYTES),
            mask_private=secrets.token_hex(KEY_BYTES),
            seed=secrets.token_hex(KEY_BYTES),
        )
        own = state.own_keys
        said = Advertisement(
            context_sha256=context.sha256,
            site=self.site,
            seal_public=own.seal_public,
            mask_public=own.mask_public,
        )
        return self._keep_and_say(state, "advertise", say(said, self.key))

    def share(self, context: Context, roster: bytes) -> bytes:
        """Step 1: for each advertised peer, sealed shares of both secrets.

        `roster` is the list of the signed advertisements (`wire.pack_documents`). Raises GEM320 unless each is signed
        by the site that the study names, all keys differ and this node's are its own; GEM322 for too few.
        """
        state, asked = self._open(context), sha256_hex(roster)
        if "share" in state.said:
            return self._again(state, "share", same=state.asked["share"] == asked)
        peers = steps.read_roster(state, roster)
        roster_sha256 = steps.roster_hash(context, peers)
        sealed = steps.seal_shares(state, peers)
        said = Shares(
            context_sha256=context.sha256,
            site=self.site,
            roster_sha256=roster_sha256,
            seed_commitment=steps.seed_commitment(state),
            sealed=sealed,
        )
        state = msgspec.structs.replace(
            state, peers=peers, roster_sha256=roster_sha256, asked={**state.asked, "share": asked}
        )
        return self._keep_and_say(state, "share", say(said, self.key))

    def mask(
        self, context: Context, delivery: bytes, vector: Words, *, inputs_sha256: str = ""
    ) -> tuple[bytes, bytes]:
        """Step 2: the vector under the masks of all who shared. Gives the signed document and the masked bytes.

        `vector` holds ring words, shape (context.length,), dtype uint32 or uint64 by context.bits; it is not changed.
        One state masks one vector: another one under the same masks would give their difference away (GEM320).
        `inputs_sha256` names what the coordinator sent to compute it from. Nodes that were sent different models lift
        no mask: one for whom all others' updates are nothing would be alone in the sum.
        """
        state = self._open(context)
        steps.check_vector(context, vector)
        if "mask" in state.said:
            content = steps.masked(state, vector)
            told = (sha256_hex(delivery) + sha256_hex(content), inputs_sha256)
            same = (state.asked["mask"], state.inputs_sha256) == told
            return self._again(state, "mask", same=same), content
        request = ask(delivery, Delivery, context)
        received = steps.open_shares(state, request)
        state = msgspec.structs.replace(
            state, shared=request.shared, received=received, inputs_sha256=inputs_sha256
        )
        content = steps.masked(state, vector)
        vector_sha256 = sha256_hex(content)
        said = Masked(
            context_sha256=context.sha256,
            site=self.site,
            roster_sha256=state.roster_sha256,
            shared=state.shared,
            vector_sha256=vector_sha256,
            inputs_sha256=inputs_sha256,
        )
        asked = {**state.asked, "mask": sha256_hex(delivery) + vector_sha256}
        state = msgspec.structs.replace(state, asked=asked)
        return self._keep_and_say(state, "mask", say(said, self.key)), content

    def confirm(self, context: Context, survivors: bytes) -> bytes:
        """Step 3: sign whose inputs the coordinator says it has. Only one such list is ever signed (GEM321).

        `survivors` is a JSON list of names. Raises GEM322 for fewer than the context's least, GEM320 unless this node
        is among them and all of them shared.
        """
        state = self._open(context)
        names = ask(survivors, tuple[str, ...], context)
        if "confirm" in state.said:
            return self._again(state, "confirm", same=names == state.survivors, otherwise="GEM321")
        steps.check_survivors(state, names)
        view = view_hash(
            context.sha256,
            state.roster_sha256,
            state.shared,
            names,
            inputs_sha256=state.inputs_sha256,
        )
        said = Confirmation(context_sha256=context.sha256, site=self.site, view_sha256=view)
        state = msgspec.structs.replace(state, survivors=names, view_sha256=view)
        return self._keep_and_say(state, "confirm", say(said, self.key))

    def unmask(self, context: Context, request: bytes) -> bytes:
        """Step 4: a share of each survivor's seed and of each dropped peer's mask key, never both of one peer.

        Raises GEM321 when a node confirmed another view, GEM322 without the threshold's number of confirmations of
        this one, GEM323 when other shares were revealed before.
        """
        state = self._open(context)
        asked = ask(request, UnmaskRequest, context)
        if state.revealed:
            return self._again(state, "unmask", same=asked.survivors == state.survivors, otherwise="GEM323")
        steps.check_confirmations(state, asked)
        revealed, seeds, mask_keys = steps.reveal(state)
        said = Unmasking(
            context_sha256=context.sha256,
            site=self.site,
            view_sha256=state.view_sha256,
            seeds=seeds,
            mask_keys=mask_keys,
        )
        return self._keep_and_say(state.without_secrets(revealed), "unmask", say(said, self.key))

    def forget(self) -> None:
        """Drop the secrets of an attempt that is given up; what was revealed stays on record."""
        state = State.load(self.path)
        if state is not None and not state.revealed:
            self.path.unlink()

    def _open(self, context: Context) -> State:
        state = State.load(self.path)
        if state is None or state.site != self.site:
            raise GemelError("GEM320", "This node advertised no keys for the aggregation.")
        if state.context != context:
            steps.admit_attempt(state, context)
            raise GemelError("GEM320", "This node advertised no keys for this attempt.")
        return state

    def _keep_and_say(self, state: State, step: str, document: bytes) -> bytes:
        """Durable first: what this returns was recorded as said before anybody can hear it."""
        state = msgspec.structs.replace(state, said={**state.said, step: document.decode()})
        write_durably(self.path, state.to_bytes(), mode=0o600)
        return document

    def _said(self, state: State, step: str) -> bytes:
        return state.said[step].encode()

    def _again(self, state: State, step: str, *, same: bool, otherwise: str = "GEM320") -> bytes:
        if not same:
            raise GemelError(otherwise, f"The step {step!r} was answered to another question.")
        if step not in state.said:
            raise GemelError("GEM320", f"The step {step!r} is over.")
        return self._said(state, step)
