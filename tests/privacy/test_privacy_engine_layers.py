from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from one_by_one import (
    assert_rule_can_be_traced,
    assert_rule_is_exact,
    clipped_one_by_one,
    relative,
)
from opacus.layers import DPGRU
from torch import Tensor, nn

from gemel.core.study import Clipping
from gemel.privacy.engine.gradients import parameter_groups
from gemel.privacy.engine.probe import layers_to_tap
from gemel.privacy.engine.rules.base import patient_norms_squared, rule_of
from gemel.privacy.engine.rules.linear import GramProducts, OuterProducts
from gemel.privacy.engine.sums import PatientSums, Workload


def sums_of(model: nn.Module, patients: dict[str, Tensor]) -> PatientSums:
    workload = Workload(steps=99, expected_batch=4, sampled=True, physical_batch=64, machine_code=False)
    return PatientSums(model, patients, clipping=Clipping.FLAT, workload=workload)


def total_of(model: nn.Module, patients: dict[str, Tensor], clip: float) -> tuple[Tensor, bool]:
    """The engine's sum, and whether whole batches went through the model."""
    sums = sums_of(model, patients)
    trained = [p.detach() for p in model.parameters() if p.requires_grad]
    total, _ = sums(trained, patients, None, torch.tensor(clip, dtype=torch.float64))
    return total, sums.is_batched


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


sizes = st.integers(1, 6)


# In float64: in float32 no sum of some thirty products is the loop's to 1e-6.
@given(patients=sizes, places=st.lists(sizes, max_size=2), inputs=sizes, outputs=sizes, bias=st.booleans())
@settings(max_examples=25, deadline=None)
def test_a_linear_layers_gradients_are_those_of_the_loop_for_any_shape(
    patients: int, places: list[int], inputs: int, outputs: int, bias: bool
) -> None:
    layer = nn.Linear(inputs, outputs, bias=bias)
    assert_rule_is_exact(layer, {"x": normal(patients, *places, inputs)})


@pytest.mark.parametrize("shape", [(5, 40), (5, 3, 40), (5, 2, 2, 40), (5, 60, 40)])
def test_a_linear_layer_in_float32_is_within_float32_of_the_loop(shape: tuple[int, ...]) -> None:
    assert_rule_is_exact(nn.Linear(40, 30), {"x": normal(*shape)}, dtype=torch.float32, tolerance=2e-6)
    assert_rule_can_be_traced(nn.Linear(40, 30), {"x": normal(*shape)})


@pytest.mark.parametrize("frozen", ["weight", "bias"])
@pytest.mark.parametrize("shape", [(4, 30), (4, 2, 30)])
def test_a_frozen_half_of_a_linear_layer_counts_for_nothing(frozen: str, shape: tuple[int, ...]) -> None:
    layer = nn.Linear(30, 20)
    getattr(layer, frozen).requires_grad_(False)
    assert_rule_is_exact(layer, {"x": normal(*shape)})


def test_a_whole_norm_is_the_sum_of_its_parts() -> None:
    for prepared in (
        OuterProducts(normal(5, 3), normal(5, 4, seed=1), weight=True, bias=True),
        OuterProducts(normal(5, 3), normal(5, 4, seed=1), weight=True, bias=False),
        GramProducts(normal(5, 2, 30), normal(5, 2, 40, seed=1), weight=True, bias=True),
    ):
        parts = torch.stack(prepared.squared_norms()).sum(0)
        assert relative(prepared.whole_squared_norms(), parts) < 1e-12
        for each, norms in zip(prepared.each(torch.float32), prepared.squared_norms(), strict=True):
            assert relative(patient_norms_squared(each), norms) < 1e-5


def test_products_that_cancel_are_never_taken_for_a_small_gradient() -> None:
    # Two places with opposite, enormous parts: in float32 the Gram matrices' sum is rounding error.
    activation = torch.full((1, 2, 100), 1e4)
    activation[0, 1] *= 1 + 1e-4
    gradient = torch.ones(1, 2, 200)
    gradient[0, 1] *= -1
    prepared = GramProducts(activation, gradient, weight=True, bias=False)
    (squared,) = prepared.squared_norms()
    true = (gradient.double().transpose(1, 2) @ activation.double()).norm()
    assert float(squared.sqrt()) >= float(true) * 0.999


@pytest.mark.parametrize("kind", [nn.GRU, DPGRU])
@given(
    patients=sizes,
    steps=sizes,
    inputs=sizes,
    hidden=sizes,
    layers=st.integers(1, 2),
    two_ways=st.booleans(),
    bias=st.booleans(),
)
@settings(max_examples=12, deadline=None)
def test_a_grus_gradients_are_those_of_the_loop_for_any_shape(
    kind: type[nn.Module],
    patients: int,
    steps: int,
    inputs: int,
    hidden: int,
    layers: int,
    two_ways: bool,
    bias: bool,
) -> None:
    layer = kind(inputs, hidden, num_layers=layers, bidirectional=two_ways, bias=bias, batch_first=True)
    assert_rule_is_exact(layer, {"x": normal(patients, steps, inputs)})


def test_a_gru_can_be_recorded_and_needs_no_dropout() -> None:
    assert_rule_can_be_traced(nn.GRU(3, 4, batch_first=True), {"x": normal(5, 6, 3)})
    assert rule_of(nn.GRU(3, 4, num_layers=2, dropout=0.1)) is None


class Sequences(nn.Module):
    """A GRU that is used in every way: outputs, last states, a start of one's own; time or patients first."""

    def __init__(self, *, batch_first: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.start = nn.Linear(2, 4)
        self.gru = nn.GRU(3, 4, batch_first=batch_first)
        self.head = nn.Linear(8, 1)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x = batch["x"] if self.gru.batch_first else batch["x"].transpose(0, 1)
        output, last = self.gru(x, self.start(batch["s"]).unsqueeze(0))
        output = output if self.gru.batch_first else output.transpose(0, 1)
        return (self.head(torch.cat([output.mean(1), last[0]], 1)).squeeze(1) - batch["s"][:, 0]) ** 2


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("clip", [0.05, 1e4])
def test_a_gru_with_a_learned_start_trains_in_whole_batches(batch_first: bool, clip: float) -> None:
    model = Sequences(batch_first=batch_first)
    patients = {"x": normal(11, 5, 3), "s": normal(11, 2, seed=1)}
    total, batched = total_of(model, patients, clip)
    assert batched
    assert relative(total, clipped_one_by_one(model, patients, clip)) < 2e-6


class Small(nn.Module):
    """A network whose forward pass each test writes anew."""

    def __init__(self, forward: Callable[[Small, dict[str, Tensor]], Tensor], activation: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.activation = nn.Linear(3, 5), nn.Linear(5, 5), activation
        self.head = nn.Linear(5, 1)
        self.scale = nn.Parameter(torch.tensor(1.5), requires_grad=False)
        self.way = forward

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.way(self, batch)


def plain(model: Small, batch: dict[str, Tensor]) -> Tensor:
    hidden = model.activation(model.first(batch["x"]))
    return (model.head(model.activation(model.second(hidden))).squeeze(1) - batch["y"]) ** 2


def twice(model: Small, batch: dict[str, Tensor]) -> Tensor:
    hidden = model.activation(model.first(batch["x"]))
    hidden = model.activation(model.second(model.activation(model.second(hidden))))
    return (model.head(hidden).squeeze(1) - batch["y"]) ** 2


def beside(model: Small, batch: dict[str, Tensor]) -> Tensor:
    # The head's weight is used past the layer as well.
    return plain(model, batch) + (batch["x"][:, :1] * model.head.weight).sum(1) ** 2


def scaled(model: Small, batch: dict[str, Tensor]) -> Tensor:
    return plain(model, batch) * model.scale.square()


def people(count: int = 9) -> dict[str, Tensor]:
    return {"x": normal(count, 3), "y": normal(count, seed=1)}


def tied() -> Small:
    model = Small(plain, nn.Tanh())
    model.second.weight = nn.Parameter(torch.randn(5, 5))
    third = nn.Linear(5, 5)
    third.weight = model.second.weight
    model.activation = third
    return model


def bare() -> Small:
    model = Small(scaled, nn.Tanh())
    model.scale.requires_grad_(True)
    return model


@pytest.mark.parametrize(
    ("model", "batched"),
    [
        (Small(plain, nn.ReLU()), True),
        (Small(scaled, nn.Tanh()), True),
        (Small(plain, nn.LeakyReLU(0.2, inplace=True)), False),
        (Small(twice, nn.Tanh()), False),
        (Small(beside, nn.Tanh()), False),
        (tied(), False),
        (bare(), False),
        (Small(plain, nn.PReLU()), False),
    ],
    ids=[
        "layers",
        "frozen beside",
        "in place",
        "called twice",
        "used beside",
        "tied",
        "bare",
        "unknown layer",
    ],
)
@pytest.mark.parametrize("clip", [0.1, 1e4])
def test_what_no_rule_covers_goes_one_by_one_and_nothing_is_ever_frozen(
    model: Small, batched: bool, clip: float
) -> None:
    total, was_batched = total_of(model, people(), clip)
    assert was_batched == batched
    expected = clipped_one_by_one(model, people(), clip)
    assert relative(total, expected) < 2e-6
    assert (expected != 0).any()


def test_a_layer_that_the_loss_forgets_has_a_gradient_of_zero() -> None:
    def forgetful(model: Small, batch: dict[str, Tensor]) -> Tensor:
        return (model.head(model.activation(model.first(batch["x"]))).squeeze(1) - batch["y"]) ** 2

    model = Small(forgetful, nn.Tanh())
    total, batched = total_of(model, people(), 0.1)
    assert batched
    assert relative(total, clipped_one_by_one(model, people(), 0.1)) < 2e-6


def centred(model: Small, batch: dict[str, Tensor]) -> Tensor:
    return plain(model, {**batch, "x": batch["x"] - batch["x"].mean(0)})


def barely_centred(model: Small, batch: dict[str, Tensor]) -> Tensor:
    return plain(model, {**batch, "x": batch["x"] - 1e-12 * batch["x"].sum(0)})


def divided(model: Small, batch: dict[str, Tensor]) -> Tensor:
    return plain(model, batch) / len(batch["x"])


def detached(model: Small, batch: dict[str, Tensor]) -> Tensor:
    return plain(model, {**batch, "x": batch["x"] - batch["x"].detach().mean(0)})


def by_rank(model: Small, batch: dict[str, Tensor]) -> Tensor:
    rank = batch["y"].argsort().argsort().float()
    return plain(model, {**batch, "y": rank})


def by_order(model: Small, batch: dict[str, Tensor]) -> Tensor:
    return plain(model, {**batch, "y": torch.arange(len(batch["y"])).float()})


@pytest.mark.parametrize(
    "way", [centred, barely_centred, divided, detached, by_rank, by_order], ids=lambda way: way.__name__
)
def test_a_model_that_looks_at_its_batch_never_gets_a_batch(
    way: Callable[[Small, dict[str, Tensor]], Tensor],
) -> None:
    model = Small(way, nn.Tanh())
    assert layers_to_tap(model, people()) is None
    total, batched = total_of(model, people(), 0.1)
    assert not batched
    assert relative(total, clipped_one_by_one(model, people(), 0.1)) < 2e-6


def test_a_model_that_draws_random_numbers_sees_one_patient_at_a_time() -> None:
    model = Small(plain, nn.Dropout(0.5))
    assert layers_to_tap(model, people()) is None
    assert layers_to_tap(model.eval(), people()) is not None


def test_the_probe_leaves_the_model_and_the_random_state_alone() -> None:
    model = Small(plain, nn.Tanh())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    layers_to_tap(model, people())
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all("forward" not in module.__dict__ for module in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_layers_of_clipping_are_layers_with_rules_and_single_parameters_else() -> None:
    model = Small(plain, nn.PReLU())
    assert parameter_groups(model) == (
        ("first.weight", "first.bias"),
        ("second.weight", "second.bias"),
        ("activation.weight",),
        ("head.weight", "head.bias"),
    )
    gru = Sequences(batch_first=True)
    assert [len(group) for group in parameter_groups(gru)] == [2, 4, 2]


@given(values=st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=200))
def test_a_float32_norm_is_never_below_the_true_one_by_more_than_rounding(values: list[float]) -> None:
    """An underestimated norm would let a patient past the bound: tiny values count for their largest, huge ones for nobody."""
    rows = torch.tensor([values], dtype=torch.float32)
    true = float(rows.double().square().sum())
    assert float(patient_norms_squared(rows)) >= true * (1 - 1e-6)
    assert float(patient_norms_squared(torch.full((1, 50), 1e-21))) >= 50 * 1e-42
    assert float(patient_norms_squared(torch.full((1, 50), 1e20))) == float("inf")
