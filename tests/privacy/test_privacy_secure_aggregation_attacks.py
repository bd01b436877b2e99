"""What a cheating coordinator or peer may send: forged, swapped, replayed, split views, both kinds of share."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from masked_sum import Party, party, plain_sum, run, speak, words

from gemel.core.canonical import canonical_bytes
from gemel.core.errors import GemelError
from gemel.core.signing import SigningKey
from gemel.privacy.secure_aggregation import Collector, Context, Participant
from gemel.privacy.secure_aggregation.collector import Step
from gemel.privacy.secure_aggregation.state import State
from gemel.privacy.secure_aggregation.wire import (
    Advertisement,
    Confirmation,
    hear,
    pack_documents,
    say,
    view_hash,
)


def _inputs(these: Party) -> dict[str, np.ndarray]:
    return {site: words(these.context, i) for i, site in enumerate(these.keys)}


def _names(*names: str) -> bytes:
    return msgspec.json.encode(names)


def _confirmed(these: Party, site: str, survivors: tuple[str, ...], key: SigningKey | None = None) -> bytes:
    """A confirmation of some survivors, by a colluder or by a forger."""
    state = State.load(these.node("site00").path)
    assert state is not None
    view = view_hash(these.context.sha256, state.roster_sha256, state.shared, survivors, inputs_sha256="")
    said = Confirmation(context_sha256=these.context.sha256, site=site, view_sha256=view)
    return say(said, key or these.keys[site])


def _unmask_request(survivors: tuple[str, ...], documents: list[bytes]) -> bytes:
    return canonical_bytes(
        {"survivors": list(survivors), "confirmations": [json.loads(d) for d in documents]}
    )


# --- step 0 and 1: keys ------------------------------------------------------------------------------


def _in_the_middle(these: Party, forger: SigningKey) -> Callable[[bytes], bytes]:
    def forge(roster: bytes) -> bytes:
        documents = [canonical_bytes(entry) for entry in json.loads(roster)]
        said = hear(documents[1], Advertisement, these.context)
        fake = Advertisement(
            context_sha256=said.context_sha256, site=said.site, seal_public="a1" * 32, mask_public="b2" * 32
        )
        return pack_documents([documents[0], say(fake, forger), *documents[2:]])

    return forge


def test_a_coordinator_cannot_put_its_own_keys_in_a_nodes_place(tmp_path: Path) -> None:
    these = party(tmp_path, 3)
    run(these, _inputs(these), until=Step.ADVERTISE)
    documents = list(these.said[Step.ADVERTISE].values())
    forged = _in_the_middle(these, SigningKey.generate())(pack_documents(documents))
    with pytest.raises(GemelError, match="GEM320"):
        these.node("site00").share(these.context, forged)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda d, other: [*d, d[0]], "GEM320"),  # one too many
        (lambda d, other: [d[0], d[0], d[2]], "GEM320"),  # a site twice
        (lambda d, other: d[1:], "GEM321"),  # the node itself left out
        (lambda d, other: d[:2], "GEM322"),  # too few
        (lambda d, other: [d[0], other, d[2]], "GEM320"),  # of another aggregation
        (lambda d, other: [d[0], d[1][:-9], d[2]], None),  # cut off
    ],
    ids=["extra", "twice", "not me", "too few", "replayed", "cut"],
)
def test_a_roster_that_is_not_the_studys_is_refused(
    tmp_path: Path, change: Callable[[list[bytes], bytes], list[bytes]], code: str | None
) -> None:
    these = party(tmp_path, 3)
    run(these, _inputs(these), until=Step.ADVERTISE)
    second = msgspec.structs.replace(these.context, task="train/2")
    other = Participant(tmp_path / "other.json", these.keys["site01"], "site01").advertise(second)
    documents = change(list(these.said[Step.ADVERTISE].values()), other)
    roster = b"[" + b",".join(documents) + b"]"
    with pytest.raises(GemelError, match=code or "GEM320"):
        these.node("site00").share(these.context, roster)


def test_a_small_order_key_is_refused(tmp_path: Path) -> None:
    these = party(tmp_path, 3)
    run(these, _inputs(these), until=Step.ADVERTISE)
    documents = list(these.said[Step.ADVERTISE].values())
    bad = Advertisement(
        context_sha256=these.context.sha256,
        site="site01",
        seal_public="00" * 32,
        mask_public="01" + "00" * 31,
    )
    documents[1] = say(bad, these.keys["site01"])
    with pytest.raises(GemelError, match="GEM320"):
        these.node("site00").share(these.context, pack_documents(documents))


def test_a_second_roster_is_not_answered(tmp_path: Path) -> None:
    these = party(tmp_path, 4)
    run(these, _inputs(these), until=Step.SHARE)
    fewer = pack_documents(list(these.said[Step.ADVERTISE].values())[:3])
    with pytest.raises(GemelError, match="GEM320"):
        these.node("site00").share(these.context, fewer)


# --- step 2: sealed shares --------------------------------------------------------------------------


def _delivery(these: Party, site: str) -> dict[str, object]:
    delivery: dict[str, object] = json.loads(these.asked[Step.MASK][site])
    return delivery


@pytest.mark.parametrize("how", ["swapped", "flipped", "cut", "missing", "no hex", "to another", "unsorted"])
def test_sealed_shares_that_were_touched_are_refused(tmp_path: Path, how: str) -> None:
    fresh = party(tmp_path, 4)
    inputs = _inputs(fresh)
    collector = run(fresh, inputs, until=Step.SHARE)
    asked = {site: json.loads(content) for site, content in collector.close_shares().items()}
    delivery = asked["site00"]
    sealed = delivery["sealed"]
    if how == "swapped":
        sealed["site01"], sealed["site02"] = sealed["site02"], sealed["site01"]
    elif how == "flipped":
        sealed["site01"] = sealed["site01"][:-1] + ("0" if sealed["site01"][-1] != "0" else "1")
    elif how == "cut":
        sealed["site01"] = sealed["site01"][:20]
    elif how == "missing":
        del sealed["site01"]
    elif how == "no hex":
        sealed["site01"] = "zz"
    elif how == "to another":
        sealed["site01"] = asked["site03"]["sealed"]["site01"]
    else:
        delivery["shared"] = delivery["shared"][::-1]
    with pytest.raises(GemelError, match="GEM320"):
        fresh.node("site00").mask(fresh.context, canonical_bytes(delivery), inputs["site00"])
    # The untouched delivery is still answered: the refusal changed nothing.
    fresh.node("site00").mask(fresh.context, collector.close_shares()["site00"], inputs["site00"])


def test_shares_sealed_in_another_aggregation_do_not_open(tmp_path: Path) -> None:
    first = party(tmp_path, 3)
    run(first, _inputs(first), until=Step.MASK)
    again = Party(tmp_path / "again", msgspec.structs.replace(first.context, task="train/2"), first.keys)
    again.folder.mkdir()
    collector = run(again, _inputs(again), until=Step.SHARE)
    delivery = json.loads(collector.close_shares()["site00"])
    delivery["sealed"]["site01"] = _delivery(first, "site00")["sealed"]["site01"]  # type: ignore[index]
    with pytest.raises(GemelError, match="GEM320"):
        again.node("site00").mask(again.context, canonical_bytes(delivery), words(again.context, 0))


# --- steps 3 and 4: views ---------------------------------------------------------------------------

ALL = tuple(f"site{i:02}" for i in range(5))


def test_a_node_confirms_one_set_of_survivors_only_also_after_a_restart(tmp_path: Path) -> None:
    these = party(tmp_path, 5)
    run(these, _inputs(these), until=Step.CONFIRM)
    with pytest.raises(GemelError, match="GEM321"):
        these.node("site00").confirm(these.context, _names(*ALL[:4]))


@pytest.mark.parametrize(
    ("survivors", "code"),
    [
        (ALL[1:], "GEM320"),  # without the node itself
        (ALL[:3], "GEM322"),
        (ALL[::-1], "GEM320"),
        ((*ALL[:4], ALL[3]), "GEM320"),
        ((*ALL[:4], "site99"), "GEM320"),
    ],
    ids=["without me", "too few", "unsorted", "twice", "unknown"],
)
def test_survivors_that_cannot_be_are_not_confirmed(
    tmp_path: Path, survivors: tuple[str, ...], code: str
) -> None:
    these = party(tmp_path, 5)
    run(these, _inputs(these), until=Step.MASK)
    with pytest.raises(GemelError, match=code):
        these.node("site00").confirm(these.context, _names(*survivors))


def test_no_survivors_are_confirmed_before_the_node_sent_its_input(tmp_path: Path) -> None:
    these = party(tmp_path, 5)
    run(these, _inputs(these), until=Step.SHARE)
    with pytest.raises(GemelError, match="GEM320"):
        these.node("site00").confirm(these.context, _names(*ALL))


def test_split_views_are_found_out_before_any_share_is_revealed(tmp_path: Path) -> None:
    """The coordinator tells two nodes that all survived, and the others that site04 dropped."""
    these = party(tmp_path, 5)
    collector = run(these, _inputs(these), until=Step.MASK)
    collector.close_masked()
    views = {"site00": ALL, "site01": ALL, "site02": ALL[:4], "site03": ALL[:4]}
    said = {s: these.node(s).confirm(these.context, _names(*v)) for s, v in views.items()}
    collector.take_confirmation("site00", said["site00"])
    with pytest.raises(GemelError, match="GEM321"):
        collector.take_confirmation("site02", said["site02"])
    for site in views:
        request = _unmask_request(views[site], list(said.values()))
        with pytest.raises(GemelError, match="GEM321"):
            these.node(site).unmask(these.context, request)
        ours = [document for s, document in said.items() if views[s] == views[site]]
        with pytest.raises(GemelError, match="GEM322"):  # what fits its view alone is too little
            these.node(site).unmask(these.context, _unmask_request(views[site], ours))
        state = State.load(these.node(site).path)
        assert state is not None
        assert state.revealed == {}


def test_nodes_that_were_sent_different_models_lift_no_mask(tmp_path: Path) -> None:
    """A model that silences all others would leave one node alone in the sum (Pasquini et al., CCS 2022)."""
    these = party(tmp_path, 5)
    inputs = _inputs(these)
    collector = run(these, inputs, until=Step.SHARE)
    deliveries = collector.close_shares()
    for site in ALL:
        sent = {"site00": "a" * 64}.get(site, "b" * 64)
        document, vector = these.node(site).mask(
            these.context, deliveries[site], inputs[site], inputs_sha256=sent
        )
        with pytest.raises(GemelError, match="GEM321"):  # an honest collector sees it at once
            collector.take_masked(site, document, vector)
    said = {site: these.node(site).confirm(these.context, _names(*ALL)) for site in ALL}
    for site in ALL:
        with pytest.raises(GemelError, match="GEM321"):
            these.node(site).unmask(these.context, _unmask_request(ALL, list(said.values())))
    with pytest.raises(GemelError, match="GEM322"):
        these.node("site00").unmask(these.context, _unmask_request(ALL, [said["site00"]]))


@pytest.mark.parametrize("forger", ["other key", "for another site", "not a survivor", "twice", "other step"])
def test_a_confirmation_that_is_forged_does_not_count(tmp_path: Path, forger: str) -> None:
    these = party(tmp_path, 5)
    collector = run(these, _inputs(these), gone={"site04": Step.MASK}, until=Step.MASK)
    survivors = ALL[:4]
    collector.close_masked()
    said = {s: these.node(s).confirm(these.context, _names(*survivors)) for s in survivors}
    documents = [said["site00"], said["site01"], said["site02"]]
    documents.append(
        {
            "other key": lambda: _confirmed(these, "site03", survivors, SigningKey.generate()),
            "for another site": lambda: _confirmed(these, "site03", survivors, these.keys["site02"]),
            "not a survivor": lambda: _confirmed(these, "site04", survivors),
            "twice": lambda: said["site02"],
            "other step": lambda: these.said[Step.MASK]["site03"],
        }[forger]()
    )
    with pytest.raises(GemelError, match="GEM32[02]"):
        these.node("site00").unmask(these.context, _unmask_request(survivors, documents))
    good = _unmask_request(survivors, list(said.values()))
    assert these.node("site00").unmask(these.context, good)


def test_both_kinds_of_share_of_one_peer_are_never_revealed_also_not_after_a_restart(tmp_path: Path) -> None:
    """After an honest unmasking the coordinator comes back with site04 as dropped, confirmed by colluders."""
    these = party(tmp_path, 5)
    run(these, _inputs(these))
    survivors = ALL[:4]
    forged = [_confirmed(these, site, survivors) for site in survivors]
    for site in survivors:
        with pytest.raises(GemelError, match="GEM323"):
            these.node(site).unmask(these.context, _unmask_request(survivors, forged))
    state = State.load(these.node("site00").path)
    assert state is not None
    assert state.revealed == dict.fromkeys(ALL, "seed")


def test_a_node_that_confirmed_but_did_not_unmask_reveals_nothing_for_another_set(tmp_path: Path) -> None:
    these = party(tmp_path, 5)
    run(these, _inputs(these), until=Step.CONFIRM)
    survivors = ALL[:4]
    forged = [_confirmed(these, site, survivors) for site in survivors]
    with pytest.raises(GemelError, match="GEM321"):
        these.node("site00").unmask(these.context, _unmask_request(survivors, forged))


def test_no_second_attempt_after_shares_were_revealed(tmp_path: Path) -> None:
    """Two sums of the same inputs, one of them without site04, would give site04's input away."""
    these = party(tmp_path, 5)
    run(these, _inputs(these))
    again = Party(tmp_path, msgspec.structs.replace(these.context, attempt=2), these.keys)
    with pytest.raises(GemelError, match="GEM323"):
        run(again, _inputs(again), gone={"site04": Step.MASK})


def test_an_attempt_that_failed_is_followed_by_another_with_fresh_keys(tmp_path: Path) -> None:
    these = party(tmp_path, 5)
    inputs = _inputs(these)
    with pytest.raises(GemelError, match="GEM322"):
        run(these, inputs, gone={"site03": Step.MASK, "site04": Step.MASK})
    first = State.load(these.node("site00").path)
    again = Party(tmp_path, msgspec.structs.replace(these.context, attempt=2), these.keys)
    collector = run(again, inputs, until=Step.MASK)
    second = State.load(these.node("site00").path)
    assert first is not None
    assert second is not None
    assert len({first.seed, second.seed, first.mask_private, second.mask_private}) == 4
    # The first attempt is over: not one step of it is answered any more.
    with pytest.raises(GemelError, match="GEM320"):
        these.node("site00").confirm(these.context, _names(*ALL))
    with pytest.raises(GemelError, match="GEM320"):
        these.node("site00").advertise(these.context)
    collector.close_masked()
    for site in ALL:
        document = again.node(site).confirm(again.context, _names(*ALL))
        collector.take_confirmation(site, document)
    request = collector.close_confirmations()
    for site in ALL:
        collector.take_unmasking(site, again.node(site).unmask(again.context, request))
    assert np.array_equal(collector.result(), plain_sum(these.context, list(inputs.values())))


def test_an_attempt_given_up_leaves_no_secrets_but_a_revealed_one_stays_on_record(tmp_path: Path) -> None:
    these = party(tmp_path, 3)
    run(these, _inputs(these), until=Step.MASK)
    these.node("site00").forget()
    assert not these.node("site00").path.exists()
    done = party(tmp_path / "done", 3)
    (tmp_path / "done").mkdir()
    run(done, _inputs(done))
    done.node("site00").forget()
    with pytest.raises(GemelError, match="GEM323"):
        done.node("site00").advertise(msgspec.structs.replace(done.context, attempt=2))


# --- every step: form, size, order ------------------------------------------------------------------


def test_a_node_of_another_key_or_name_takes_no_part(tmp_path: Path) -> None:
    these = party(tmp_path, 3)
    for node in (
        Participant(tmp_path / "a", SigningKey.generate(), "site00"),
        Participant(tmp_path / "b", these.keys["site00"], "site01"),
        Participant(tmp_path / "c", these.keys["site00"], "site99"),
    ):
        with pytest.raises(GemelError, match="GEM320"):
            node.advertise(these.context)


@pytest.mark.parametrize("step", [Step.SHARE, Step.MASK, Step.CONFIRM, Step.UNMASK])
@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1]", b"null", b'{"shared": []}', b"[" * 5000, b"9" * 200_000, b'["\\ud800"]', b"\xff\xfe"],
    ids=["empty", "torn", "number", "null", "field missing", "deep", "long", "surrogate", "no text"],
)
def test_what_is_malformed_or_too_large_is_refused_in_every_step(
    tmp_path: Path, step: Step, content: bytes
) -> None:
    these = party(tmp_path, 3)
    inputs = _inputs(these)
    run(these, inputs, until=Step(step - 1))
    node = these.node("site00")
    before = node.path.read_bytes()
    steps = {Step.MASK: lambda: node.mask(these.context, content, inputs["site00"])}
    with pytest.raises(GemelError, match="GEM320"):
        steps.get(step, lambda: speak(node, step, these.context, content))()
    assert node.path.read_bytes() == before


@settings(max_examples=60)
@given(st.data())
def test_a_document_with_any_byte_changed_is_never_taken_for_another(data: st.DataObject) -> None:
    these, documents = _finished()
    step = data.draw(st.sampled_from([Step.ADVERTISE, Step.SHARE, Step.CONFIRM, Step.UNMASK]))
    document = bytearray(documents[step]["site01"])
    at = data.draw(st.integers(0, len(document) - 1))
    document[at] ^= data.draw(st.integers(1, 255))
    from gemel.privacy.secure_aggregation import wire

    kind = (Advertisement, wire.Shares, wire.Masked, Confirmation, wire.Unmasking)[step]
    original = hear(documents[step]["site01"], kind, these.context, site="site01")
    code = ""
    try:
        said = hear(bytes(document), kind, these.context, site="site01")
    except GemelError as error:
        code = error.code
    # A hex digit of the signature in upper case is the same signature, of the same document.
    same = code == "" and said == original and bytes(document).lower() == documents[step]["site01"].lower()
    assert code == "GEM320" or same


_kept: list[tuple[Party, dict[Step, dict[str, bytes]]]] = []


def _finished() -> tuple[Party, dict[Step, dict[str, bytes]]]:
    if not _kept:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            these = party(Path(folder), 3)
            run(these, _inputs(these))
            _kept.append((these, these.said))
    return _kept[0]


@pytest.mark.parametrize("step", [Step.SHARE, Step.CONFIRM, Step.UNMASK])
def test_steps_out_of_order_are_refused_by_the_node(tmp_path: Path, step: Step) -> None:
    these, documents = _finished()
    fresh = Party(tmp_path, these.context, these.keys)
    node = fresh.node("site00")
    with pytest.raises(GemelError, match="GEM320"):
        speak(node, step, these.context, these.asked[step]["site00"])
    node.advertise(these.context)
    if step is not Step.SHARE:
        with pytest.raises(GemelError, match="GEM32[01]"):
            speak(node, step, these.context, these.asked[step]["site00"])
    assert documents


def test_a_damaged_state_is_refused_not_begun_anew(tmp_path: Path) -> None:
    these = party(tmp_path, 3)
    run(these, _inputs(these), until=Step.MASK)
    path = these.node("site00").path
    os.truncate(path, 100)
    with pytest.raises(GemelError, match="GEM320"):
        these.node("site00").advertise(msgspec.structs.replace(these.context, attempt=2))


# --- the collector ----------------------------------------------------------------------------------


def test_the_collector_takes_each_step_once_from_whom_it_asked_and_in_order(tmp_path: Path) -> None:
    these = party(tmp_path, 4)
    inputs = _inputs(these)
    run(these, inputs)
    collector = Collector(these.context)
    said = these.said
    with pytest.raises(GemelError, match="GEM320"):
        collector.take_shares("site00", said[Step.SHARE]["site00"])
    with pytest.raises(GemelError, match="GEM320"):
        collector.take_advertisement("site01", said[Step.ADVERTISE]["site00"])
    for site in list(said[Step.ADVERTISE])[:3]:
        collector.take_advertisement(site, said[Step.ADVERTISE][site])
    with pytest.raises(GemelError, match="GEM320"):
        collector.take_advertisement("site00", said[Step.ADVERTISE]["site00"])
    collector.close_advertisements()
    with pytest.raises(GemelError, match="GEM320"):  # too late
        collector.take_advertisement("site03", said[Step.ADVERTISE]["site03"])
    with pytest.raises(GemelError, match="GEM321"):  # sealed under another roster
        collector.take_shares("site00", said[Step.SHARE]["site00"])


@pytest.mark.parametrize("change", ["short", "long", "other"])
def test_a_vector_that_is_not_the_signed_one_is_not_added(tmp_path: Path, change: str) -> None:
    these = party(tmp_path, 3)
    inputs = _inputs(these)
    collector = run(these, inputs, until=Step.SHARE)
    delivery = collector.close_shares()["site00"]
    document, vector = these.node("site00").mask(these.context, delivery, inputs["site00"])
    bad = {"short": vector[:-4], "long": vector + b"1234", "other": bytes(len(vector))}[change]
    with pytest.raises(GemelError, match="GEM320"):
        collector.take_masked("site00", document, bad)
    collector.take_masked("site00", document, vector)


def test_no_sum_before_enough_nodes_revealed_their_shares(tmp_path: Path) -> None:
    these = party(tmp_path, 4)
    collector = run(these, _inputs(these), gone={"site03": Step.UNMASK, "site02": Step.UNMASK})
    assert not collector.complete
    with pytest.raises(GemelError, match="GEM322"):
        collector.result()


def test_a_node_with_noise_to_guarantee_confirms_no_smaller_sum(tmp_path: Path) -> None:
    """Least survivors above the threshold: what a share of the noise is worth rests on how many there are."""
    these = party(tmp_path, 6, threshold=4, least=5)
    run(these, _inputs(these), until=Step.MASK)
    with pytest.raises(GemelError, match="GEM322"):
        these.node("site00").confirm(these.context, _names(*(f"site{i:02}" for i in range(4))))
    with pytest.raises(GemelError, match="GEM322"):
        Context(**{**msgspec.structs.asdict(these.context), "least_survivors": 3})
