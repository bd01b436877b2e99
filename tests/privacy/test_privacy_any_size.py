from __future__ import annotations

import pytest
import torch
from one_by_one import clipped_one_by_one, relative
from torch import Tensor, nn

from gemel.core.study import Clipping
from gemel.privacy.engine.any_size import AnySize, record_any_size
from gemel.privacy.engine.sums import PatientSums, Workload


class Attended(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm, self.last = nn.LayerNorm(4), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(x + self.attention(x, x, x, need_weights=False)[0]).mean(1)).squeeze(1)


class Loss(nn.Module):
    """The squared output of a network on `x`, a vector for each patient."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.network(batch["x"]).flatten(1).square().mean(1)


NETWORKS = {
    "attention": (lambda: nn.Sequential(Attended(), nn.Unflatten(0, (-1, 1))), (5, 4)),
    "conv1d": (lambda: nn.Conv1d(3, 4, 3, padding=1), (3, 8)),
    "conv2d grouped": (lambda: nn.Conv2d(12, 4, 3, padding=1), (12, 12, 12)),
    "conv3d": (lambda: nn.Sequential(nn.Conv3d(4, 4, 3, padding=1), nn.GroupNorm(2, 4)), (4, 6, 6, 6)),
    "gru": (lambda: First(nn.GRU(3, 4, batch_first=True)), (6, 3)),
}


class First(nn.Module):
    """The first of what a recurrent layer returns."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layer(x)[0]
        return output


@pytest.mark.parametrize("name", NETWORKS)
def test_one_recording_gives_the_sums_of_every_size(name: str) -> None:
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    model = Loss(make())
    x = torch.randn(20, *shape)
    workload = Workload(steps=1, expected_batch=8, sampled=False, physical_batch=99, machine_code=False)
    sums = PatientSums(model, {"x": x}, clipping=Clipping.FLAT, workload=workload)
    assert sums.is_batched
    trained = [p.detach() for p in model.parameters()]
    bound = torch.tensor(0.1, dtype=torch.float64)

    def tensors(count: int) -> list[Tensor]:
        return [*trained, x[:count], torch.ones(count, dtype=torch.float64), bound]

    by_patient = [False] * len(trained) + [True, True, False]
    recorded = record_any_size(sums._sum, tensors(5), by_patient)
    for count in (2, 3, 5, 11):
        assert recorded.takes(count)
        for actual, expected in zip(recorded(*tensors(count)), sums._sum(*tensors(count)), strict=True):
            assert actual.shape == expected.shape
            assert relative(actual, expected) < 1e-6


def test_a_recording_does_not_take_sizes_that_it_decided_against() -> None:
    def by_size(x: Tensor) -> tuple[Tensor, ...]:
        return (x + 1,) if x.shape[0] < 16 else (x - 1,)

    recorded = record_any_size(by_size, [torch.zeros(4)], [True])
    assert [recorded.takes(size) for size in (0, 1, 2, 15, 16)] == [False, False, True, True, False]
    assert torch.equal(recorded(torch.zeros(9))[0], torch.ones(9))


def test_a_function_that_asks_a_tensor_for_a_value_is_not_recorded() -> None:
    def asks(x: Tensor) -> tuple[Tensor, ...]:
        return (x * float(x.sum()),)

    with pytest.raises(Exception, match=r"(?i)data-dependent|item|unbacked"):
        record_any_size(asks, [torch.zeros(4)], [True])


def test_a_program_is_called_as_it_is() -> None:
    program = AnySize(lambda *tensors: tuple(tensors), [])
    assert program(torch.ones(2))[0].sum() == 2


def test_a_torch_transformer_trains_by_its_rules_in_batches_of_any_size() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(4, 2, dim_feedforward=6, dropout=0.0, batch_first=True)
    model = Loss(nn.Sequential(layer, nn.Flatten(), nn.Linear(12, 1))).train()
    x = torch.randn(30, 3, 4)
    workload = Workload(steps=4, expected_batch=9, sampled=True, physical_batch=99, machine_code=False)
    sums = PatientSums(model, {"x": x}, clipping=Clipping.FLAT, workload=workload)
    trained = [p.detach() for p in model.parameters()]
    bound = torch.tensor(0.5, dtype=torch.float64)
    for rows in (torch.arange(7), torch.tensor([4]), torch.arange(3, 29)):
        with torch.no_grad():
            total, _ = sums(trained, {"x": x}, rows.numpy(), bound)
        assert relative(total, clipped_one_by_one(model, {"x": x[rows]}, 0.5)) < 1e-5
    assert len(sums._any_size) == 1
    assert not sums._programs
