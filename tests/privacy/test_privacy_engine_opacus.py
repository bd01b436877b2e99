from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from one_by_one import relative
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.grad_sample.grad_sample_module import GradSampleHooks
from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import (
    GradSampleHooksFastGradientClipping,
)
from opacus.layers import DPGRU
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from gemel.core.study import TrainingPlan
from gemel.privacy.engine import DpTrainer, register_with_opacus
from gemel.privacy.engine.sampling import poisson_samples
from gemel.privacy.noise import NoiseSource, lattice_spacing

# Opacus' own hooks, used as the oracle, trip over a torch notice about backward hooks.
pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")

STEPS, CLIP, RATE, PATIENTS, LEARNING_RATE, MOMENTUM = 40, 0.5, 0.25, 60, 0.4, 0.5


@pytest.fixture
def kernels() -> Iterator[tuple[type[nn.Module], ...]]:
    """Our kernels within Opacus, and its own again afterwards."""
    tables = (
        GradSampleHooks.GRAD_SAMPLERS,
        GradSampleHooksFastGradientClipping.GRAD_SAMPLERS,
        GradSampleHooksFastGradientClipping.NORM_SAMPLERS,
    )
    before = [dict(table) for table in tables]
    yield register_with_opacus()
    for table, own in zip(tables, before, strict=True):
        table.clear()
        table.update(own)


class Network(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        if kind == "mlp":
            self.body: nn.Module = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4))
        else:
            self.body = (nn.GRU if kind == "gru" else DPGRU)(3, 4, batch_first=True)
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.body(x) if self.kind == "mlp" else self.body(x)[0][:, -1]
        return self.head(hidden).squeeze(1)


class WithLoss(nn.Module):
    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return (self.network(batch["x"]) - batch["y"]) ** 2


def patients_of(kind: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = (PATIENTS, 3) if kind == "mlp" else (PATIENTS, 5, 3)
    x, y = torch.randn(shape, generator=generator), torch.randn(PATIENTS, generator=generator)
    return {"x": x.double(), "y": y.double()}


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name.replace("_module.", ""): p.detach().clone() for name, p in network.named_parameters()}


def by_opacus(kind: str, noise_multiplier: float) -> dict[str, Tensor]:
    """Opacus' DPOptimizer on the batches and the noise that our trainer draws from the same seed."""
    plain, start = (
        Network(kind.replace("gru", "dpgru")).double(),
        dict(Network(kind).double().named_parameters()),
    )
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            parameter.copy_(start[name])
    network = GradSampleModule(plain, loss_reduction="sum")
    source, patients = NoiseSource.for_tests(3), patients_of(kind)
    batches = list(poisson_samples(source, rate=RATE, patients=PATIENTS, steps=STEPS))
    parameters = list(network.parameters())
    names = [name for name, _ in network.named_parameters()]
    draws = source.gaussian((STEPS, sum(p.numel() for p in parameters)))
    order = [name for name, _ in Network(kind).named_parameters()]
    optimizer = DPOptimizer(
        torch.optim.SGD(parameters, lr=LEARNING_RATE, momentum=MOMENTUM),
        noise_multiplier=0.0,
        max_grad_norm=CLIP,
        expected_batch_size=PATIENTS * RATE,
        loss_reduction="mean",
    )
    for rows, drawn in zip(batches, draws, strict=True):
        optimizer.zero_grad()
        taken = torch.from_numpy(rows)
        ((network(patients["x"][taken]) - patients["y"][taken]) ** 2).sum().backward()
        optimizer.clip_and_accumulate()
        sizes = {name.replace("_module.", ""): p for name, p in zip(names, parameters, strict=True)}
        position = 0
        for name in order:
            parameter = sizes[name]
            part = drawn[position : position + parameter.numel()]
            noise = torch.from_numpy(part).reshape(parameter.shape) * noise_multiplier * CLIP
            parameter.grad = (parameter.summed_grad + noise) / (PATIENTS * RATE)
            position += parameter.numel()
        optimizer.original_optimizer.step()
    return state(network)


def by_gemel(kind: str, noise_multiplier: float) -> dict[str, Tensor]:
    plan = TrainingPlan(
        rounds=1,
        local_steps=STEPS,
        learning_rate=LEARNING_RATE,
        momentum=MOMENTUM,
        max_grad_norm=CLIP,
        sample_rate=RATE,
        noise_multiplier=noise_multiplier,
    )
    model = WithLoss(Network(kind).double())
    DpTrainer(plan, noise=NoiseSource.for_tests(3), expected_patients=PATIENTS).train(
        model, patients_of(kind)
    )
    return {name.removeprefix("network."): tensor for name, tensor in state(model).items()}


# In float64, so that forty steps on the same path do not part by rounding.
@pytest.mark.parametrize("kind", ["mlp", "gru"])
@pytest.mark.parametrize("noise_multiplier", [0.0, 1.0])
def test_forty_steps_are_those_of_opacus_on_the_same_batches_and_noise(
    kind: str, noise_multiplier: float
) -> None:
    ours, theirs = by_gemel(kind, noise_multiplier), by_opacus(kind, noise_multiplier)
    assert set(ours) == set(theirs)
    # Opacus adds 1e-6 to each norm; we round what was noised to the lattice.
    rounding = lattice_spacing(noise_multiplier * CLIP) if noise_multiplier else 0.0
    allowed = STEPS * LEARNING_RATE / (1 - MOMENTUM) * (rounding / (PATIENTS * RATE) + 1e-6)
    moved = 0.0
    for name, tensor in ours.items():
        assert float((tensor - theirs[name]).abs().max()) < allowed, name
        moved = max(moved, float((tensor - Network(kind).double().state_dict()[name]).abs().max()))
    assert moved > 0.1


def layers() -> list[tuple[nn.Module, Tensor]]:
    generator = torch.Generator().manual_seed(2)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return [
        (nn.Linear(3, 4), normal(5, 3)),
        (nn.Linear(3, 4), normal(5, 6, 3)),
        (nn.LayerNorm(6), normal(5, 3, 6)),
        (nn.GroupNorm(2, 4), normal(5, 4, 6)),
        (nn.Conv1d(3, 4, 3, padding=1), normal(5, 3, 8)),
        (nn.Conv2d(2, 4, 3), normal(5, 2, 6, 6)),
        (nn.Embedding(7, 3), torch.randint(0, 7, (5, 4), generator=generator)),
    ]


def norms_by_ghost(layer: nn.Module, x: Tensor) -> Tensor:
    wrapped = GradSampleModuleFastGradientClipping(
        layer, loss_reduction="sum", max_grad_norm=1.0, use_ghost_clipping=True
    )
    output = wrapped(x).flatten(1)
    (output * torch.linspace(-1, 2, output.shape[1])).sum().backward()
    return torch.stack([p._norm_sample for p in wrapped.parameters()]).detach()


def gradients_by_hooks(layer: nn.Module, x: Tensor) -> list[Tensor]:
    wrapped = GradSampleModule(layer, loss_reduction="sum")
    output = wrapped(x).flatten(1)
    (output * torch.linspace(-1, 2, output.shape[1])).sum().backward()
    return [p.grad_sample.detach() for p in wrapped.parameters()]


@pytest.mark.parametrize("number", range(len(layers())))
def test_opacus_with_our_kernels_gives_opacus_numbers(
    number: int, kernels: tuple[type[nn.Module], ...]
) -> None:
    layer, x = layers()[number]
    assert type(layer) in kernels
    torch.manual_seed(0)
    ghost = norms_by_ghost(layers()[number][0].requires_grad_(True), x)
    assert ghost.shape == (len(list(layer.parameters())), 5)
    fresh = layers()[number][0]
    fresh.load_state_dict(layer.state_dict())
    gradients = gradients_by_hooks(fresh, x)
    norms = torch.stack([g.flatten(1).norm(dim=1) for g in gradients])
    # The same layer by our norms and by Opacus' own gradients: only linear layers' do not depend on the weights.
    assert relative(ghost, norms) < 1e-5


def test_opacus_ghost_mode_takes_a_linear_layer_on_four_dimensions_with_our_kernel(
    kernels: tuple[type[nn.Module], ...],
) -> None:
    x = torch.randn(5, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    ghost = norms_by_ghost(nn.Linear(4, 3), x)
    norms = torch.stack([g.flatten(1).norm(dim=1) for g in gradients_by_hooks(nn.Linear(4, 3), x)])
    assert relative(ghost, norms) < 1e-5


def test_layers_that_hooks_cannot_see_into_stay_opacus_own(kernels: tuple[type[nn.Module], ...]) -> None:
    assert not {nn.GRU, DPGRU, nn.MultiheadAttention} & set(kernels)
    assert kernels == register_with_opacus()
    assert np.isin(["Linear", "Embedding", "LayerNorm"], [kind.__name__ for kind in kernels]).all()
