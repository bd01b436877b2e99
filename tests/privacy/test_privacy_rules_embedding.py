from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from one_by_one import OneLayer, assert_rule_can_be_traced, assert_rule_is_exact, relative
from torch import Tensor, nn

from gemel.privacy.engine.rules.base import rule_of
from gemel.privacy.engine.rules.embedding import TokenRows
from gemel.privacy.engine.taps import prepared_gradients, tapped_layers


@given(
    vocabulary=st.integers(2, 6),
    width=st.integers(1, 4),
    padded=st.booleans(),
    tokens=st.integers(1, 3).flatmap(
        lambda people: st.integers(1, 8).flatmap(
            lambda places: st.lists(
                st.lists(st.integers(0, 5), min_size=places, max_size=places),
                min_size=people,
                max_size=people,
            )
        )
    ),
)
@settings(max_examples=60)
def test_an_embeddings_norms_and_sums_are_those_of_the_loop(
    vocabulary: int, width: int, padded: bool, tokens: list[list[int]]
) -> None:
    torch.manual_seed(0)
    layer = nn.Embedding(vocabulary, width, padding_idx=0 if padded else None)
    assert_rule_is_exact(layer, {"x": torch.tensor(tokens) % vocabulary})


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 2, 3)])
def test_tokens_may_have_any_shape_behind_the_patient(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    assert_rule_is_exact(nn.Embedding(5, 3, padding_idx=2), {"x": torch.randint(0, 5, shape)})


def test_a_patient_with_padding_only_adds_nothing() -> None:
    rows = TokenRows(torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3, 4), rows=7)
    assert float(rows.squared_norms()[0].max()) < 1e-30
    assert not rows.weighted_sum(torch.ones(2))[0].any()


def test_places_of_one_token_that_cancel_have_norm_zero() -> None:
    """What a Gram matrix could miss by rounding: 1e4 · 1e4 - 1e4 · 1e4 in float32."""
    gradient = torch.tensor([[[1e4, 1.0], [-1e4, 0.0]]])
    (squared,) = TokenRows(torch.tensor([[3, 3]]), gradient, rows=5).squared_norms()
    assert float(squared[0]) == 1.0


def test_memory_does_not_grow_with_patients_times_vocabulary() -> None:
    """40 patients x 2,000,000 tokens x 8 would be 2.5 GB; the table's own gradient is 64 MB."""
    rows = TokenRows(torch.arange(120).reshape(40, 3), torch.ones(40, 3, 8), rows=2_000_000)
    assert relative(rows.squared_norms()[0], torch.full((40,), 24.0)) < 3e-7  # float32 norms
    (total,) = rows.weighted_sum(torch.ones(40))
    assert float(total.sum()) == 40 * 3 * 8


def test_nobody_in_the_batch_gives_zero_sums() -> None:
    model = OneLayer(nn.Embedding(5, 3))
    layers = tapped_layers(model)
    assert layers is not None
    _, (prepared,) = prepared_gradients(model, layers, {"x": torch.zeros(0, 4, dtype=torch.long)})
    assert prepared is not None
    assert prepared.squared_norms()[0].shape == (0,)
    assert not prepared.weighted_sum(torch.zeros(0))[0].any()


def test_an_embedding_can_be_traced() -> None:
    tokens: Tensor = torch.tensor([[1, 1, 0], [2, 3, 2], [0, 0, 0]])
    assert_rule_can_be_traced(nn.Embedding(4, 3, padding_idx=0), {"x": tokens})


def test_settings_that_couple_patients_have_no_rule() -> None:
    assert rule_of(nn.Embedding(4, 3)) is not None
    assert rule_of(nn.Embedding(4, 3, scale_grad_by_freq=True)) is None
    assert rule_of(nn.Embedding(4, 3, max_norm=1.0)) is None
