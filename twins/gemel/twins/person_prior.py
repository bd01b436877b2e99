"""What is believed of people's parameters before any of their observations is known: each normal on its own scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gemel.twins.parameters import Parameter, Scale

_DEVIATES = (4,)
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(21)


def to_scale(parameter: Parameter, value: Tensor) -> Tensor:
    """Where a value lies on its parameter's scale: itself, its logarithm, or its logit between the bounds."""
    if parameter.scale is Scale.NATURAL:
        return value
    if parameter.scale is Scale.LOG:
        return value.log()
    return ((value - parameter.low) / (parameter.high - value)).log()


def from_scale(parameter: Parameter, place: Tensor) -> Tensor:
    """The value at a place on its parameter's scale, kept within the parameter's bounds; the inverse of `to_scale`."""
    if parameter.scale is Scale.LOGIT:
        value = parameter.low + (parameter.high - parameter.low) * torch.sigmoid(place)
    else:
        value = place if parameter.scale is Scale.NATURAL else place.exp()
    return value.clamp(parameter.low, parameter.high)


@dataclass(frozen=True)
class PersonPrior:
    """The parameters of n people before their observations.

    The p parameters in which people differ are given by standard normal deviates z (n, p): place = location + spread * z.
    All assimilators work on z, where the prior is the same for every parameter.

    Attributes:
        differing: The p parameters with a spread.
        location, spread: (n, p), on the parameters' scales.
        same: All else that a physiology needs by name, (n,) each: parameters that are one for all, covariates.
    """

    differing: tuple[Parameter, ...]
    location: Tensor
    spread: Tensor
    same: Mapping[str, Tensor]

    @property
    def persons(self) -> int:
        """n."""
        return len(self.location)

    def theta(self, z: Tensor) -> dict[str, Tensor]:
        """Parameters by name, (n,) each, of deviates (n, p); or (n * m,) of (n, m, p), a person's one after the other."""
        members = z.shape[1] if z.dim() == 3 else 1
        flat = z.reshape(self.persons * members, len(self.differing))
        place = _repeated(self.location, members) + _repeated(self.spread, members) * flat
        moved = {p.name: from_scale(p, place[:, i]) for i, p in enumerate(self.differing)}
        return {**{name: _repeated(value, members) for name, value in self.same.items()}, **moved}

    def moments(self, z: Tensor, deviation: Tensor) -> dict[str, tuple[NDArray[np.float64], ...]]:
        """Mean and standard deviation (n,) of each parameter, in its unit, where z is normal (n, p) with this deviation."""
        nodes = torch.as_tensor(_NODES, dtype=z.dtype)
        weights = torch.as_tensor(_WEIGHTS / _WEIGHTS.sum(), dtype=z.dtype)
        found: dict[str, tuple[NDArray[np.float64], ...]] = {}
        for i, parameter in enumerate(self.differing):
            at = z[:, i, None] + deviation[:, i, None] * nodes
            value = from_scale(parameter, self.location[:, i, None] + self.spread[:, i, None] * at)
            mean = value @ weights
            variance = ((value - mean[:, None]) ** 2) @ weights
            found[parameter.name] = (_array(mean), _array(variance.clamp(min=0).sqrt()))
        return found


def person_prior(
    parameters: Sequence[Parameter],
    persons: int,
    *,
    typical: Mapping[str, Tensor] | None = None,
    spread: Mapping[str, Tensor] | None = None,
    covariates: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype = torch.float64,
) -> PersonPrior:
    """The prior of `persons` people.

    Args:
        parameters: Of the physiology.
        persons: n.
        typical: What an encoder says of some of them, (n,) in the parameter's unit; else the parameter's own value.
        spread: What an encoder says of how sure it is, (n,) on the parameter's scale; else the parameter's own spread.
        covariates: What else the physiology needs by name, (n,).
        dtype: Of all that is computed from it.
    """
    typical, spread = typical or {}, spread or {}
    differing = tuple(p for p in parameters if p.spread > 0 or p.name in spread)
    columns: dict[str, tuple[Tensor, Tensor]] = {}
    same = {name: value.to(dtype) for name, value in (covariates or {}).items()}
    for parameter in parameters:
        value = torch.as_tensor(typical.get(parameter.name, parameter.value), dtype=dtype).expand(persons)
        if parameter in differing:
            width = torch.as_tensor(spread.get(parameter.name, parameter.spread), dtype=dtype)
            columns[parameter.name] = (to_scale(parameter, value), width.expand(persons))
        else:
            same[parameter.name] = value
    nothing = torch.zeros(persons, 0, dtype=dtype)
    return PersonPrior(
        differing,
        torch.stack([place for place, _ in columns.values()], dim=1) if columns else nothing,
        torch.stack([width for _, width in columns.values()], dim=1) if columns else nothing,
        same,
    )


def standard_draws(size: Sequence[int], *, seed: Sequence[int], dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normal numbers that depend on the seed alone, of a stream that no caller's plain seed has."""
    random = np.random.default_rng(np.random.SeedSequence(list(seed), spawn_key=_DEVIATES))
    return torch.from_numpy(random.standard_normal(tuple(size))).to(dtype)


def _repeated(value: Tensor, members: int) -> Tensor:
    return value if members == 1 else value.repeat_interleave(members, dim=0)


def _array(value: Tensor) -> NDArray[np.float64]:
    array: NDArray[np.float64] = value.detach().numpy().astype(np.float64)
    return array
