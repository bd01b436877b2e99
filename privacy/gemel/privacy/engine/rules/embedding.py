"""The embedding: a patient's gradient has one row for each distinct token that the patient has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from gemel.privacy.engine.rules.base import (
    LayerRule,
    Prepared,
    Tap,
    patient_norms_squared,
    register_rule,
)


@register_rule(nn.Embedding)
class EmbeddingRule(LayerRule):
    """Rows of a table by tokens (B, …); a token may come several times, and `padding_idx` has no gradient."""

    def covers(self, module: nn.Module) -> bool:
        """False where the layer rescales rows in use, or scales gradients by how often the *batch* has a token."""
        layer = cast(nn.Embedding, module)
        return layer.max_norm is None and not layer.scale_grad_by_freq

    def prepare(self, module: nn.Module, taps: Sequence[Tap]) -> Prepared:
        """See `LayerRule`."""
        (tap,) = taps
        layer = cast(nn.Embedding, module)
        tokens = tap.saved[0].unsqueeze(-1).flatten(1)
        gradient = tap.gradient.unsqueeze(-2).flatten(1, -2)
        if layer.padding_idx is not None:
            gradient = gradient * (tokens != layer.padding_idx).unsqueeze(2)
        return TokenRows(tokens, gradient, rows=layer.num_embeddings)


class TokenRows(Prepared):
    """Gradients as rows by token: tokens (B, T), gradient (B, T, D); never B x vocabulary x D."""

    def __init__(self, tokens: Tensor, gradient: Tensor, *, rows: int) -> None:
        self._tokens, self._gradient, self._rows = tokens, gradient, rows

    def squared_norms(self) -> tuple[Tensor, ...]:
        """See `Prepared`: rows of equal tokens are added up first, so nothing can cancel in the norm alone."""
        if self._tokens.shape[1] == 1:
            return (patient_norms_squared(self._gradient),)
        tokens, order = self._tokens.sort(dim=1)
        # Equal tokens now stand together: each run gets the number of runs before it.
        changes = (tokens[:, 1:] != tokens[:, :-1]).long()
        run = torch.cat([changes.new_zeros(changes.shape[0], 1), changes.cumsum(1)], dim=1)
        ordered = self._gradient.gather(1, order.unsqueeze(2).expand_as(self._gradient))
        summed = torch.zeros_like(ordered).scatter_add(1, run.unsqueeze(2).expand_as(ordered), ordered)
        return (patient_norms_squared(summed),)

    def weighted_sum(self, weights: Tensor) -> tuple[Tensor, ...]:
        """See `Prepared`."""
        scaled = (self._gradient * weights[:, None, None]).flatten(0, 1)
        table = scaled.new_zeros(self._rows, scaled.shape[1])
        return (table.index_add(0, self._tokens.flatten(), scaled),)
