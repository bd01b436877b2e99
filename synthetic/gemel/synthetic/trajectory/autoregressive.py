"""A small network that says each visit from those before, with a hidden class of patients that is drawn once and stays.

Without the class, a model of visits forgets who is frail: what is alike in a patient's first and last visit is not only handed
on from visit to visit. The class k has weights that depend on the stratum, and shifts every visit; a patient's loss is

    -log sum_k p(k | stratum) prod_t p(visit t | visits before, k),

one example, whatever its length. It starts at a public guess: fields tend to stay as they are, and classes are spread evenly from
low to high levels.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gemel.synthetic.trajectory.histories import Histories, Levels, Panel

# The public guess, in log odds: that a field stays at its level, and from the lowest class to the highest on its ends.
_STAYS, _SPREAD = 1.0, 1.0


class VisitNetwork(nn.Module):
    """Parameters of the model of one panel, at public start values. `forward` gives each patient's loss for `DpTrainer`."""

    def __init__(self, panel: Panel, *, classes: int, hidden: int) -> None:
        super().__init__()
        self.panel, self.classes, self.hidden = panel, classes, hidden
        features = feature_count(panel)
        self.weights = nn.Linear(panel.strata, classes)
        self.inner = nn.Linear(features, hidden)
        self.shift = nn.Linear(classes, hidden, bias=False)
        # First whether the patient comes at all, then field after field, each given those before it in the same visit.
        sizes = (2, *panel.sizes)
        shown = hidden + features + classes
        self.heads = nn.ModuleList(
            nn.Linear(shown + sum(sizes[1:number]), size) for number, size in enumerate(sizes)
        )
        self._start()

    def _start(self) -> None:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.zero_()
            self.inner.weight.normal_(0.0, 0.3, generator=generator)
            self.shift.weight.normal_(0.0, 0.3, generator=generator)
            for number, (size, field) in enumerate(zip(self.panel.sizes, self.panel.fields, strict=True)):
                weight: Tensor = self.heads[number + 1].weight  # type: ignore[assignment]
                before = self.hidden + self.panel.strata + sum(self.panel.sizes[:number])
                weight[:, before : before + size] += _STAYS * torch.eye(size)
                places = torch.tensor(field.places, dtype=torch.float32)
                ends = places[:, None] * torch.linspace(-1, 1, self.classes)[None]
                start = self.hidden + feature_count(self.panel)
                weight[:, start : start + self.classes] += _SPREAD * ends

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """-log likelihood over the most visits (B,), of what `tensors` gives."""
        features, chosen = batch["features"], batch["chosen"]
        hidden, seen = self._hidden(features), features[:, None].expand(-1, self.classes, -1, -1)
        every = self._every_class(features)
        said = torch.zeros_like(hidden[..., 0])
        done = [hidden, seen, every]
        at = 0
        for number, size in enumerate((2, *self.panel.sizes)):
            logits = self.heads[number](torch.cat(done, dim=-1))
            one = chosen[..., at : at + size][:, None]
            said = said + (torch.log_softmax(logits, dim=-1) * one).sum(-1)
            if number:
                done.append(one.expand(-1, self.classes, -1, -1))
            at += size
        joint = torch.log_softmax(self.weights(batch["stratum"]), dim=-1) + said.sum(-1)
        return -torch.logsumexp(joint, dim=-1) / self.panel.visits

    def _hidden(self, features: Tensor) -> Tensor:
        """(B, T, F) -> (B, K, T, hidden)."""
        one_hot = torch.eye(self.classes).expand(len(features), -1, -1)
        return torch.tanh(self.inner(features)[:, None] + self.shift(one_hot)[:, :, None])

    def _every_class(self, features: Tensor) -> Tensor:
        """(B, K, T, K): which class it is."""
        one_hot = torch.eye(self.classes)[None, :, None]
        return one_hot.expand(len(features), -1, features.shape[1], -1)

    def class_shares(self, strata: Levels) -> NDArray[np.float64]:
        """(n, K): how likely each class is."""
        with torch.no_grad():
            return torch.softmax(self.weights(_one_hot(strata, self.panel.strata)), -1).numpy().astype(float)

    def chances(
        self, number: int, features: Tensor, kinds: Levels, done: list[Tensor]
    ) -> NDArray[np.float64]:
        """(n, levels): chances of head `number` at one visit, of patients of the classes `kinds` (n,).

        `features` (n, F); `done`: the one-hot levels of the fields before it in the visit.
        """
        with torch.no_grad():
            kind = _one_hot(kinds, self.classes)
            hidden = torch.tanh(self.inner(features) + self.shift(kind))
            logits = self.heads[number](torch.cat([hidden, features, kind, *done], dim=-1))
            return torch.softmax(logits, -1).numpy().astype(float)


def feature_count(panel: Panel) -> int:
    """How many numbers describe what came before a visit."""
    return panel.strata + sum(panel.sizes) + 2 * len(panel.fields) + panel.visits


def features_of(panel: Panel, strata: Levels, before: Levels) -> Tensor:
    """(n, F): what is known ahead of visit t from the t visits before it, levels (n, t, fields).

    The stratum, the last visit's levels, the mean of all and the last but one (on -1 … 1), and which visit it is.
    """
    n, t, _ = before.shape
    parts = [_one_hot(strata, panel.strata)]
    for j, size in enumerate(panel.sizes):
        parts.append(_one_hot(before[:, -1, j], size) if t else torch.zeros(n, size))
    scaled = np.stack([field.places[before[:, :, j]] for j, field in enumerate(panel.fields)], axis=2)
    nothing = np.zeros((n, len(panel.fields)))
    parts.append(torch.tensor(scaled.mean(axis=1) if t else nothing, dtype=torch.float32))
    parts.append(torch.tensor(scaled[:, -2] if t > 1 else nothing, dtype=torch.float32))
    parts.append(_one_hot(np.full(n, t), panel.visits))
    return torch.cat(parts, dim=1)


def tensors(histories: Histories) -> dict[str, Tensor]:
    """What `VisitNetwork.forward` takes: one row for each patient, all their visits in it.

    `chosen` (n, visits, 2 + levels) is one-hot where something was said at that visit, zero where nothing was.
    """
    panel, here = histories.panel, histories.here
    features, chosen = [], []
    for t in range(panel.visits):
        before = np.where(here[:, :t, None], histories.levels[:, :t], 0)
        features.append(features_of(panel, histories.strata, before))
        asked = here[:, t - 1] if t else np.zeros(len(histories), bool)
        came = torch.tensor(here[:, t].astype(np.int64))
        parts = [_one_hot(came.numpy(), 2) * torch.tensor(asked, dtype=torch.float32)[:, None]]
        for j, size in enumerate(panel.sizes):
            level = np.where(here[:, t], histories.levels[:, t, j], 0)
            parts.append(_one_hot(level, size) * came[:, None].float())
        chosen.append(torch.cat(parts, dim=1))
    return {
        "stratum": _one_hot(histories.strata, panel.strata),
        "features": torch.stack(features, dim=1),
        "chosen": torch.stack(chosen, dim=1),
    }


def _one_hot(levels: NDArray[np.integer], size: int) -> Tensor:
    return torch.eye(size)[torch.as_tensor(np.asarray(levels, np.int64))]
