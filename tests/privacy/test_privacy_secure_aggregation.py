"""Whole aggregations: the sum is exact for whoever survives, and nothing but the sum can be had."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from masked_sum import Party, party, plain_sum, run, speak, words
from scipy import stats

from gemel.core.errors import GemelError
from gemel.privacy.secure_aggregation import Collector, Context, default_threshold, masks, shamir
from gemel.privacy.secure_aggregation.collector import Step
from gemel.privacy.secure_aggregation.state import State


def _inputs(these: Party, seed: int = 0) -> dict[str, np.ndarray]:
    return {site: words(these.context, seed + i) for i, site in enumerate(these.keys)}


@pytest.mark.parametrize("bits", [32, 64])
def test_the_sum_of_all_is_exact(tmp_path: Path, bits: int) -> None:
    these = party(tmp_path, 4, bits=bits, length=70_001)
    inputs = _inputs(these)
    total = run(these, inputs).result()
    assert total.dtype == np.dtype(f"u{bits // 8}")
    assert np.array_equal(total, plain_sum(these.context, list(inputs.values())))


@settings(max_examples=40)
@given(st.data())
def test_whoever_survives_is_summed_exactly_and_below_the_threshold_nothing_is(data: st.DataObject) -> None:
    nodes = data.draw(st.integers(3, 8), label="nodes")
    threshold = data.draw(st.integers(nodes // 2 + 1, nodes), label="threshold")
    bits = data.draw(st.sampled_from([32, 64]), label="bits")
    gone = data.draw(
        st.dictionaries(st.sampled_from([f"site{i:02}" for i in range(nodes)]), st.sampled_from(list(Step))),
        label="gone",
    )
    with tempfile.TemporaryDirectory() as folder:
        these = party(Path(folder), nodes, threshold=threshold, bits=bits, length=7)
        inputs = _inputs(these, data.draw(st.integers(0, 1000), label="seed"))
        left = {step: [s for s in these.keys if gone.get(s, 99) > step] for step in Step}
        if min(map(len, left.values())) < threshold:
            with pytest.raises(GemelError, match="GEM322"):
                run(these, inputs, gone=gone).result()
            return
        collector = run(these, inputs, gone=gone)
        assert list(collector.survivors) == left[Step.MASK]
        expected = plain_sum(these.context, [inputs[s] for s in left[Step.MASK]])
        assert np.array_equal(collector.result(), expected)


def test_a_node_may_die_between_any_two_steps_and_says_the_same_again(tmp_path: Path) -> None:
    these = party(tmp_path, 3)
    inputs = _inputs(these)
    collector = run(these, inputs)
    for step in (Step.ADVERTISE, Step.SHARE, Step.CONFIRM, Step.UNMASK):
        for site, document in these.said[step].items():
            assert speak(these.node(site), step, these.context, these.asked[step][site]) == document
    assert np.array_equal(collector.result(), plain_sum(these.context, list(inputs.values())))


def test_a_masked_vector_is_the_same_again_until_it_is_unmasked(tmp_path: Path) -> None:
    these = party(tmp_path, 3)
    inputs = _inputs(these)
    run(these, inputs, until=Step.CONFIRM)
    again = these.node("site01").mask(these.context, these.asked[Step.MASK]["site01"], inputs["site01"])
    assert again == (these.said[Step.MASK]["site01"], these.vectors["site01"])


def test_a_new_collector_that_takes_the_kept_documents_asks_the_same(tmp_path: Path) -> None:
    these = party(tmp_path, 4)
    inputs = _inputs(these)
    first = run(these, inputs, gone={"site02": Step.MASK}).result()
    second = Collector(these.context)
    for site, document in these.said[Step.ADVERTISE].items():
        second.take_advertisement(site, document)
    assert second.close_advertisements() == these.asked[Step.SHARE]["site00"]
    for site, document in these.said[Step.SHARE].items():
        second.take_shares(site, document)
    assert second.close_shares() == these.asked[Step.MASK]
    for site, document in these.said[Step.MASK].items():
        second.take_masked(site, document, these.vectors[site])
    assert second.close_masked() == these.asked[Step.CONFIRM]["site00"]
    for site, document in these.said[Step.CONFIRM].items():
        second.take_confirmation(site, document)
    assert second.close_confirmations() == these.asked[Step.UNMASK]["site00"]
    for site, document in these.said[Step.UNMASK].items():
        second.take_unmasking(site, document)
    assert np.array_equal(second.result(), first)


def test_secrets_are_the_owners_alone_and_gone_once_shares_are_revealed(tmp_path: Path) -> None:
    these = party(tmp_path, 3)
    run(these, _inputs(these), until=Step.CONFIRM)
    path = these.node("site00").path
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    before = State.load(path)
    assert before is not None
    assert len({before.seed, before.mask_private, before.seal_private}) == 3
    again = party(tmp_path / "second", 3)
    (tmp_path / "second").mkdir()
    run(again, _inputs(again))
    after = State.load(again.node("site00").path)
    assert after is not None
    assert (after.seed, after.mask_private, after.seal_private, after.received) == ("", "", "", {})
    assert before.seed not in repr(before)


def test_masked_vectors_look_uniform_whatever_was_masked(tmp_path: Path) -> None:
    these = party(tmp_path, 3, length=50_000)
    zeros = np.zeros(these.context.length, dtype=np.uint32)
    run(these, dict.fromkeys(these.keys, zeros), until=Step.MASK)
    for content in these.vectors.values():
        counts = np.bincount(np.frombuffer(content, np.uint8), minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-6
    # What is masked is zero, so this test would see a mask that is missing, short or repeated.
    assert len(set(these.vectors.values())) == 3
    unmasked = np.bincount(zeros.view(np.uint8), minlength=256)
    assert stats.chisquare(unmasked).pvalue < 1e-6


def test_two_inputs_under_the_same_masks_differ_by_their_difference(tmp_path: Path) -> None:
    """Why one state masks one vector only: here the masks are taken from the state's file by force."""
    from gemel.privacy.secure_aggregation import steps

    these = party(tmp_path, 3)
    inputs = _inputs(these)
    run(these, inputs, until=Step.MASK)
    state = State.load(these.node("site00").path)
    assert state is not None
    other = words(these.context, 99)
    first, second = (
        np.frombuffer(steps.masked(state, vector), np.uint32) for vector in (inputs["site00"], other)
    )
    assert np.array_equal(first - second, inputs["site00"] - other)
    assert not np.array_equal(first, inputs["site00"])
    with pytest.raises(GemelError, match="GEM320"):
        these.node("site00").mask(these.context, these.asked[Step.MASK]["site00"], other)


def test_fewer_colluders_than_the_threshold_cannot_take_a_mask_off(tmp_path: Path) -> None:
    """The coordinator with two of five nodes' whole states, at threshold four, against site00."""
    these = party(tmp_path, 5)
    inputs = _inputs(these)
    run(these, inputs, until=Step.MASK)
    stolen = [State.load(these.node(site).path) for site in ("site03", "site04")]
    victim = State.load(these.node("site00").path)
    assert victim is not None
    about = these.context.sha256
    commitment = masks.commitment(bytes.fromhex(victim.seed), about=about)
    shares = {}
    for state in stolen:
        assert state is not None
        shares[these.context.point(state.site)] = bytes.fromhex(state.received["site00"].seed)
    try:
        guess = shamir.combine(shares)
    except GemelError:
        guess = bytes(32)
    assert masks.commitment(guess, about=about) != commitment
    # With the threshold's number of shares it is the seed: the attempt above can fail only for want of shares.
    for site in ("site01", "site02"):
        state = State.load(these.node(site).path)
        assert state is not None
        shares[these.context.point(site)] = bytes.fromhex(state.received["site00"].seed)
    assert masks.commitment(shamir.combine(shares), about=about) == commitment


def test_a_peer_that_reveals_a_wrong_share_is_worked_around(tmp_path: Path) -> None:
    these = party(tmp_path, 5)
    inputs = _inputs(these)
    collector = run(these, inputs, gone={"site04": Step.MASK})
    assert collector.complete
    # Of the four that answered all are needed at threshold four; with three one may lie.
    lenient = party(tmp_path / "lenient", 5, threshold=3)
    (tmp_path / "lenient").mkdir()
    inputs = _inputs(lenient)
    collector = run(lenient, inputs, gone={"site04": Step.MASK})
    said = collector._unmaskings["site00"]
    said.seeds["site01"] = "00" * 33
    said.mask_keys["site04"] = "not hex"
    expected = plain_sum(lenient.context, [v for s, v in inputs.items() if s != "site04"])
    assert np.array_equal(collector.result(), expected)


def test_wrong_shares_of_too_many_give_an_error_not_a_wrong_sum(tmp_path: Path) -> None:
    these = party(tmp_path, 3)
    collector = run(these, _inputs(these))
    collector._unmaskings["site00"].seeds["site01"] = "00" * 33
    with pytest.raises(GemelError, match="GEM320"):
        collector.result()


@pytest.mark.parametrize(("nodes", "threshold"), [(3, 1), (4, 2), (10, 5), (3, 4), (2, 2)])
def test_a_threshold_of_half_or_less_is_no_aggregation(tmp_path: Path, nodes: int, threshold: int) -> None:
    with pytest.raises(GemelError, match="GEM322"):
        party(tmp_path, nodes, threshold=threshold)


@pytest.mark.parametrize("nodes", range(3, 40))
def test_at_the_default_threshold_a_third_of_the_nodes_may_collude(tmp_path: Path, nodes: int) -> None:
    context = party(tmp_path, nodes).context
    assert context.threshold == default_threshold(nodes) > 2 * nodes / 3
    # Two views need 2 · threshold signatures, of which honest nodes give one each and colluders two.
    colluders = context.tolerated_colluders
    assert colluders >= (nodes - 1) // 3
    assert 2 * context.threshold > (nodes - colluders) + 2 * colluders
    assert colluders < context.threshold


@pytest.mark.parametrize(
    "changes",
    [{"bits": 16}, {"length": 0}, {"attempt": 0}, {"study_sha256": "x"}, {"protocol": "other"}],
    ids=str,
)
def test_a_malformed_context_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(GemelError, match="GEM320"):
        party(tmp_path, 3, **changes)


def test_a_vector_of_another_size_or_word_is_refused(tmp_path: Path) -> None:
    these = party(tmp_path, 3)
    run(these, _inputs(these), until=Step.SHARE)
    for vector in (np.zeros(39, np.uint32), np.zeros(40, np.uint64), np.zeros(40, np.int32)):
        with pytest.raises(GemelError, match="GEM324"):
            these.node("site00").mask(these.context, b"{}", vector)


def test_the_context_of_one_field_changed_has_another_hash(tmp_path: Path) -> None:
    import msgspec

    context = party(tmp_path, 3).context
    others = [
        msgspec.structs.replace(context, **change)
        for change in ({"task": "train/2"}, {"attempt": 2}, {"study_sha256": "6" * 64}, {"bits": 64})
    ]
    assert len({context.sha256, *(other.sha256 for other in others)}) == 5
    assert isinstance(others[0], Context)


def test_the_interface_is_five_questions_to_a_node_and_five_answers_to_the_collector() -> None:
    """The contract with nodes and coordinator: what they call, with which arguments, in which order."""
    import inspect

    from gemel.privacy.secure_aggregation import Participant

    asked = {
        Step.ADVERTISE: (["self", "context"], "take_advertisement", "close_advertisements"),
        Step.SHARE: (["self", "context", "roster"], "take_shares", "close_shares"),
        Step.MASK: (
            ["self", "context", "delivery", "vector", "inputs_sha256"],
            "take_masked",
            "close_masked",
        ),
        Step.CONFIRM: (["self", "context", "survivors"], "take_confirmation", "close_confirmations"),
        Step.UNMASK: (["self", "context", "request"], "take_unmasking", "result"),
    }
    assert list(asked) == sorted(Step)
    for step, (arguments, take, then) in asked.items():
        assert list(inspect.signature(getattr(Participant, step.name.lower())).parameters) == arguments
        vector = ["vector"] if step is Step.MASK else []
        taken = inspect.signature(getattr(Collector, take)).parameters
        assert list(taken) == ["self", "site", "document", *vector]
        assert list(inspect.signature(getattr(Collector, then)).parameters) == ["self"]


def test_nothing_of_it_needs_a_transport_or_a_model(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys, gemel.privacy.secure_aggregation\n"
        "sys.exit(bool({'flwr', 'torch', 'pandas', 'gemel.server', 'gemel.client_node'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 0
