"""What a federated optimiser adds to each noisy step: a pull to public parameters, and a public constant.

Neither looks at a patient, and both are added after bounding and noise, so a step costs what it did: the noised sum is the
mechanism, and the pull is a function of it and of public numbers. Only the gradient of patients' loss is bounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gemel.core.errors import GemelError

Arrays = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Pull:
    """strength · (w - centre) + offset, added to the gradient of each step, by the names of parameters.

    Attributes:
        strength: FedProx's mu, Ditto's lambda; 0 for none.
        centre: Where it pulls to. Parameters that are not in it are not pulled.
        offset: SCAFFOLD's correction c - c_i. Parameters that are not in it have none.
    """

    strength: float = 0.0
    centre: Arrays = field(default_factory=dict)
    offset: Arrays = field(default_factory=dict)

    def on(self, model: nn.Module, *, like: Tensor) -> FlatPull | None:
        """The pull on the flat vector of the model's trained parameters, or None where it is nowhere anything.

        Raises GEM403 for names that are not trained, other shapes, and values that are not finite.
        """
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not (np.isfinite(self.strength) and self.strength >= 0):
            raise GemelError("GEM403", f"A pull of strength {self.strength}.")
        for name, array in (*self.centre.items(), *self.offset.items()):
            fits = name in trained and array.shape == tuple(trained[name].shape)
            if not fits or not bool(np.isfinite(array).all()):
                raise GemelError("GEM403", f"A pull on {name} {array.shape} does not fit the model.")
        if not (self.strength and self.centre) and not self.offset:
            return None
        strength = [
            torch.full(p.shape, self.strength if n in self.centre else 0.0) for n, p in trained.items()
        ]
        return FlatPull(
            strength=torch.cat([part.reshape(-1) for part in strength]).to(like),
            centre=_flat(self.centre, trained).to(like),
            offset=_flat(self.offset, trained).to(like),
        )


@dataclass(frozen=True)
class FlatPull:
    """The same, for the flat vector of parameters (p,)."""

    strength: Tensor
    centre: Tensor
    offset: Tensor

    def at(self, weights: Tensor) -> Tensor:
        """What is added to the gradient at these weights (p,)."""
        return self.strength * (weights - self.centre) + self.offset


def _flat(arrays: Arrays, trained: Mapping[str, Tensor]) -> Tensor:
    parts = [
        torch.from_numpy(np.asarray(arrays[name], np.float64)) if name in arrays else torch.zeros(p.shape)
        for name, p in trained.items()
    ]
    return torch.cat([part.reshape(-1).double() for part in parts])
