"""The models of dp_step.py, made-up patients for them, and how each case is cut into steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from opacus.layers import DPGRU
from torch import Tensor, nn

# Trains for at most so many steps of an epoch; None: all.
Epoch = Callable[[int | None], None]


class Perceptron(nn.Module):
    """Fully connected; without hidden layers, logistic regression."""

    def __init__(self, width: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for size in hidden:
            layers += [nn.Linear(width, size), nn.ReLU()]
            width = size
        self.layers = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).squeeze(-1)


class Recurrent(nn.Module):
    """One GRU over the hours, and a linear layer on its last state."""

    def __init__(self, *, opacus: bool = False, width: int = 16, hidden: int = 32) -> None:
        super().__init__()
        self.gru = (DPGRU if opacus else nn.GRU)(width, hidden, batch_first=True)
        self.last = nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.gru(x)
        return self.last(states[:, -1]).squeeze(-1)


class SelfAttention(nn.Module):
    """Attention made of linear layers, which every side can train."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.projection = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, places, width = x.shape
        parts = self.projection(x).view(batch, places, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        context = F.scaled_dot_product_attention(query, key, value)
        return self.out(context.transpose(1, 2).reshape(batch, places, width))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, between: int) -> None:
        super().__init__()
        self.attention = SelfAttention(width, heads)
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, between), nn.Linear(between, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm_1(x))
        return x + self.down(F.gelu(self.up(self.norm_2(x))))


class Transformer(nn.Module):
    def __init__(self, *, inputs: int = 16, width: int = 32, heads: int = 4, blocks: int = 2) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, width)
        self.blocks = nn.Sequential(*[Block(width, heads, 2 * width) for _ in range(blocks)])
        self.last = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.blocks(self.first(x)).mean(1)).squeeze(-1)


class TemporalConvolutions(nn.Module):
    def __init__(self, *, inputs: int = 16, channels: int = 32, layers: int = 3) -> None:
        super().__init__()
        sizes = [inputs] + [channels] * layers
        self.layers = nn.ModuleList(
            nn.Conv1d(sizes[i], sizes[i + 1], 3, dilation=2**i, padding=2**i) for i in range(layers)
        )
        self.last = nn.Linear(channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        for layer in self.layers:
            x = F.relu(layer(x))
        return self.last(x.mean(2)).squeeze(-1)


class Pair(nn.Module):
    """Two 3x3x3 convolutions, each with group normalisation."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv_1, self.norm_1 = nn.Conv3d(inputs, outputs, 3, padding=1), nn.GroupNorm(4, outputs)
        self.conv_2, self.norm_2 = nn.Conv3d(outputs, outputs, 3, padding=1), nn.GroupNorm(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm_2(self.conv_2(F.relu(self.norm_1(self.conv_1(x))))))


class UNet(nn.Module):
    """Three levels deep; a logit for each voxel."""

    def __init__(self, base: int = 8) -> None:
        super().__init__()
        self.down_1, self.down_2 = Pair(1, base), Pair(base, 2 * base)
        self.bottom = Pair(2 * base, 4 * base)
        self.up_2, self.up_1 = Pair(6 * base, 2 * base), Pair(3 * base, base)
        self.last = nn.Conv3d(base, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down_1(x)
        second = self.down_2(F.max_pool3d(first, 2))
        third = self.bottom(F.max_pool3d(second, 2))
        x = self.up_2(torch.cat([F.interpolate(third, scale_factor=2.0), second], 1))
        x = self.up_1(torch.cat([F.interpolate(x, scale_factor=2.0), first], 1))
        return self.last(x).flatten(1)


class Loss(nn.Module):
    """Binary cross-entropy, averaged within a patient; over patients as `reduction` says (Opacus sets it)."""

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        loss = F.binary_cross_entropy_with_logits(output, target, reduction="none")
        loss = loss.flatten(1).mean(1) if loss.dim() > 1 else loss
        return {"mean": loss.mean, "sum": loss.sum, "none": lambda: loss}[self.reduction]()


class WithLoss(nn.Module):
    """A network as Gemel trains it: patients in, their losses out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.loss = Loss("none")

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.loss(self.network(batch["x"]), batch["y"])


@dataclass(frozen=True)
class Case:
    """One model at one expected batch size.

    Attributes:
        family: Under which bar it falls.
        network: Makes the model; True for the form that Opacus takes.
        patients: A multiple of `batch`: every side then does `patients / batch` steps an epoch.
        inputs, targets: Shapes of one patient.
    """

    family: str
    network: Callable[[bool], nn.Module]
    batch: int
    patients: int
    inputs: tuple[int, ...]
    targets: tuple[int, ...] = ()

    @property
    def steps(self) -> int:
        return self.patients // self.batch

    @property
    def machine_code(self) -> bool:
        """Whether Gemel's steps are compiled: it pays where a step is mostly the way from one operation to the next."""
        return self.family == "tabular"

    def data(self) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(self.patients, *self.inputs, generator=generator)
        return x, (torch.rand(self.patients, *self.targets, generator=generator) < 0.3).float()


def _cases() -> dict[str, Case]:
    tabular: dict[str, tuple[int, tuple[int, ...]]] = {
        "logistic 30": (30, ()),
        "MLP 40-64-32-1": (40, (64, 32)),
        "MLP 60-256-128-1": (60, (256, 128)),
    }
    cases = {}
    for name, (width, hidden) in tabular.items():
        for batch in (64, 256, 1024):
            cases[f"{name}, batch {batch}"] = Case(
                "tabular", lambda _, w=width, h=hidden: Perceptron(w, h), batch, 5120, (width,)
            )
    hours = (48, 16)
    for batch in (64, 256):
        cases[f"GRU T48 F16 H32, batch {batch}"] = Case(
            "GRU", lambda opacus: Recurrent(opacus=opacus), batch, 2048, hours
        )
        cases[f"transformer T48 d32 x2, batch {batch}"] = Case(
            "transformer", lambda _: Transformer(), batch, 1024, hours
        )
        cases[f"TCN T48 C32 x3, batch {batch}"] = Case(
            "TCN", lambda _: TemporalConvolutions(), batch, 2048, hours
        )
    cases["3-D U-Net 32^3, batch 4"] = Case("U-Net", lambda _: UNet(), 4, 24, (1, 32, 32, 32), (32**3,))
    return cases


CASES = _cases()
# One of each family: what --quick does.
QUICK = tuple(name for name in CASES if name.endswith(("batch 64", "batch 4")))
