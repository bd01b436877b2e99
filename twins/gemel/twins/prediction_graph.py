"""A hazard twin's prediction as one torch graph, from raw values to probabilities: what can be exported to other runtimes.

`gemel.twins.course.predict` is the reference; this says the same in tensors of fixed loops, without numpy. A twin that
adds to it (a physiology, targets, another dynamics) has no such form yet, and is refused.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from gemel.core.errors import GemelError
from gemel.core.programme import FeatureKind
from gemel.twins.design import AGE_SQUARED_SCALE, EVENT_AGE_SHIFT, MEASURED_SCALE, PRODUCT_SCALE
from gemel.twins.hazard import HIGHEST_LOG_HAZARD, LOWEST_LOG_HAZARD, HazardTwin
from gemel.twins.twin import Twin

# What this graph says again; a twin that overrides one of them says something else.
_SAID = ("predict", "expected", "inputs", "covariates", "log_hazard", "hazards_in_state")


class PredictionGraph(nn.Module):
    """values float32 (n, d), NaN where missing -> cumulative incidence float32 (n, times, k), alive (n, times).

    Raises GEM533 for a twin that is more than competing hazards on a grid, or whose columns this form does not build.
    """

    low: Tensor
    high: Tensor
    centre: Tensor
    spread: Tensor
    factor: Tensor
    states: Tensor
    has: Tensor
    gains: Tensor
    stays: Tensor

    def __init__(self, twin: Twin) -> None:
        super().__init__()
        if not isinstance(twin, HazardTwin):
            raise GemelError("GEM533", f"The twin of {twin.programme.name} is not one of competing hazards.")
        if own := [name for name in _SAID if getattr(type(twin), name) is not getattr(HazardTwin, name)]:
            raise GemelError(
                "GEM533", f"The twin of {twin.programme.name} adds to competing hazards: {', '.join(own)}."
            )
        features = twin.programme.columns
        kinds = [feature.kind for feature in features]
        self.twin = twin
        self.steps = len(twin.programme.times_years) - 1
        self.measured = list(twin.design.may_be_missing)
        self.age = kinds.index(FeatureKind.AGE) if FeatureKind.AGE in kinds else None
        self.history = twin.design.history
        by_age = [name.removeprefix("age:") for name in twin.design.names if name.startswith("age:")]
        named = [feature.name for feature in features]
        self.by_age = [named.index(name) for name in by_age if name != "squared"]
        centre = [
            feature.reference_mean
            + (0.5 if feature.kind is FeatureKind.MALE else 0.0)
            + (EVENT_AGE_SHIFT * feature.scale if feature.kind is FeatureKind.AGE else 0.0)
            for feature in features
        ]
        factor = [MEASURED_SCALE if i in self.measured else 1.0 for i in range(len(kinds))]
        for name, numbers in (
            ("low", [feature.low for feature in features]),
            ("high", [feature.high for feature in features]),
            ("centre", centre),
            ("spread", [feature.scale for feature in features]),
            ("factor", factor),
        ):
            self.register_buffer(name, torch.tensor(numbers, dtype=torch.float32))
        self._make_states(len(twin.programme.outcomes) - 1)
        self._check_columns()

    def _make_states(self, diseases: int) -> None:
        """Every set of diseases, and of each pair of sets which diseases were had, came, or stayed away."""
        sets = 1 << diseases
        bits = torch.tensor([[float(state >> i & 1) for i in range(diseases)] for state in range(sets)])
        bits = bits.reshape(sets, diseases)
        before, after = bits[:, None, :], bits[None, :, :]
        self.register_buffer("states", bits)
        self.register_buffer("has", before * after)
        self.register_buffer("gains", (1 - before) * after)
        self.register_buffer("stays", (1 - before) * (1 - after))

    def _check_columns(self) -> None:
        """The columns of this graph are those of the design, at the public reference patient and beside it."""
        features = self.twin.programme.columns
        rows = [
            [feature.reference_mean + shift * feature.scale for feature in features] for shift in (-1, 0, 1)
        ]
        values = np.array([*rows, [np.nan] * len(features)], dtype=np.float32)
        own, age = self.columns(torch.from_numpy(values))
        design = self.twin.design
        for mine, theirs in ((own, design.columns(values)), (age, design.age(values))):
            if mine.shape != theirs.shape or not np.allclose(mine.numpy(), theirs, atol=1e-5):
                raise GemelError("GEM533", f"{self.twin.programme.name}: the graph's columns differ.")

    def columns(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """What `Design.columns` and `Design.age` give: (n, p) and (n,)."""
        missing = ~torch.isfinite(values)
        given = torch.where(missing, self.centre.expand_as(values), values)
        clipped = torch.minimum(torch.maximum(given, self.low), self.high)
        scaled = torch.where(missing, torch.zeros_like(values), (clipped - self.centre) / self.spread)
        parts = [scaled * self.factor, missing[:, self.measured].to(torch.float32)]
        age = torch.zeros_like(scaled[:, 0])
        if self.age is not None:
            age = scaled[:, self.age]
            parts.append((AGE_SQUARED_SCALE * (age * age - 1))[:, None])
            parts += [(PRODUCT_SCALE * age * scaled[:, i])[:, None] for i in self.by_age]
        return torch.cat(parts, dim=1), age

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities on the grid; see the class."""
        rate = self._rates(values)  # (n, sets, steps, k)
        death, survived = rate[..., 0], torch.exp(-rate[..., 0])
        both = rate[..., 1:] + death[..., None]
        onset = rate[..., 1:] / both * (1 - torch.exp(-both)) * (1 - self.states)[:, None, :]
        first = torch.cat([(1 - torch.exp(-death))[..., None], onset], dim=-1)
        moves = self._moves(rate, survived)  # (n, sets before, steps, sets after)
        occupied = self._start(values)
        incidence = [torch.zeros_like(first[:, 0, 0, :])]
        alive = [occupied.sum(dim=1)]
        for step in range(self.steps):
            incidence.append(incidence[-1] + (occupied[:, :, None] * first[:, :, step, :]).sum(dim=1))
            occupied = (occupied[:, :, None] * moves[:, :, step, :]).sum(dim=1)
            alive.append(occupied.sum(dim=1))
        return torch.stack(incidence, dim=1), torch.stack(alive, dim=1)

    def _rates(self, values: Tensor) -> Tensor:
        columns, age = self.columns(values)
        twin = self.twin
        who = twin.level + columns @ (twin.weights * twin.usable).T
        when = twin.time_basis @ twin.slopes[:, :-1].T
        ageing = age[:, None, None] * twin.time_basis[:, :1] * twin.slopes[:, -1]
        state = self.states @ (twin.couplings * twin.coupled).T  # (sets, k)
        eta = (who[:, None, :] + when + ageing + twin.log_width[:, None])[:, None, :, :] + state[:, None, :]
        limited: Tensor = torch.exp(eta.clamp(LOWEST_LOG_HAZARD, HIGHEST_LOG_HAZARD))
        return limited

    def _moves(self, rate: Tensor, survived: Tensor) -> Tensor:
        free = torch.exp(-rate[..., 1:])  # (n, sets, steps, m)
        moved = survived[..., None].expand(*survived.shape, len(self.states))
        for i in range(self.states.shape[1]):
            stays_free = free[..., i][..., None]
            had, came, stayed = (kind[:, None, :, i] for kind in (self.has, self.gains, self.stays))
            moved = moved * (had + came * (1 - stays_free) + stayed * stays_free)
        return moved

    def _start(self, values: Tensor) -> Tensor:
        """(n, sets): 1 at the set of diseases that the history features say."""
        occupied = torch.ones_like(values[:, :1]).expand(values.shape[0], len(self.states))
        for i, column in enumerate(self.history[1:]):
            present = torch.zeros_like(values[:, :1])
            if column is not None:
                # A missing history is none: a comparison with NaN is false.
                present = (values[:, column : column + 1] > 0.5).to(torch.float32)
            held = self.states[:, i]
            occupied = occupied * (present * held + (1 - present) * (1 - held))
        return occupied
