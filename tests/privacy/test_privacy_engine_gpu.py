"""The engine on a GPU, against a loop over patients on the processor in float64, and against its own training there."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from one_by_one import clipped_one_by_one, relative
from torch import Tensor, nn

from gemel.core.errors import GemelError
from gemel.core.study import Clipping, TrainingPlan
from gemel.privacy.engine import DpTrainer
from gemel.privacy.engine.sums import PatientSums, Workload
from gemel.privacy.noise import NoiseSource

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")

PATIENTS = 40


class Loss(nn.Module):
    """A body, the mean over its places, a linear layer; one squared error for each patient."""

    def __init__(self, body: nn.Module, width: int) -> None:
        super().__init__()
        self.body, self.last = body, nn.Linear(width, 1)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        found = self.body(batch["x"])
        found = found[0] if isinstance(found, tuple) else found
        found = found.flatten(2).mean(2) if found.dim() > 3 else found.mean(1) if found.dim() == 3 else found
        return (self.last(found).squeeze(1) - batch["y"]) ** 2


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(width), nn.MultiheadAttention(width, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.norm(x)
        found: Tensor = x + self.attention(seen, seen, seen, need_weights=False)[0]
        return found


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv3d(1, 8, 3, padding=1), nn.GroupNorm(4, 8)
        self.second = nn.Conv3d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.second(F.relu(self.norm(self.first(x))))
        return found


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru, self.after = nn.GRU(12, 16, batch_first=True), nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.after(self.gru(x)[0])
        return found


def perceptron() -> nn.Module:
    return Loss(nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 16), nn.Tanh()), 16)


# Of a kind each: what has a rule, and what goes one patient at a time.
FAMILIES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "perceptron": (perceptron, (12,)),
    "recurrent": (lambda: Loss(nn.GRU(12, 16, batch_first=True), 16), (9, 12)),
    "attention": (lambda: Loss(Attention(12), 12), (9, 12)),
    "volumes": (lambda: Loss(Convolutions(), 8), (1, 6, 6, 6)),
    "without a rule": (lambda: Loss(nn.Sequential(nn.Linear(12, 16), nn.PReLU()), 16), (12,)),
}


def made(family: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """The model and its patients, equal at every call."""
    torch.manual_seed(0)
    build, shape = FAMILIES[family]
    return build(), {"x": torch.randn(PATIENTS, *shape), "y": torch.randn(PATIENTS)}


def plan_of(**changed: Any) -> TrainingPlan:
    values: dict[str, Any] = {
        "rounds": 1,
        "local_steps": 20,
        "learning_rate": 0.1,
        "momentum": 0.5,
        "max_grad_norm": 0.7,
        "sample_rate": 0.4,
        "noise_multiplier": 1.0,
    }
    return TrainingPlan(**{**values, **changed})


def trained(family: str, device: str, plan: TrainingPlan, **options: Any) -> Tensor:
    model, patients = made(family)
    model.to(device)
    trainer = DpTrainer(plan, noise=NoiseSource.for_tests(3), expected_patients=PATIENTS, **options)
    trainer.train(model, patients)
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()]).cpu()


@pytest.fixture(autouse=True)
def whole_precision() -> Any:
    """cuDNN's TensorFloat-32 has ten bits: it would hide what is compared here."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("clip", [0.3, 1e4])
def test_the_clipped_sum_on_a_gpu_is_that_of_a_loop_over_patients(family: str, clip: float) -> None:
    model, patients = made(family)
    expected = clipped_one_by_one(copy.deepcopy(model), patients, clip)
    model.cuda()
    on_gpu = {name: tensor.cuda() for name, tensor in patients.items()}
    workload = Workload(
        steps=99, expected_batch=PATIENTS, sampled=False, physical_batch=64, machine_code=False
    )
    sums = PatientSums(model, on_gpu, clipping=Clipping.FLAT, workload=workload)
    bound = torch.tensor(clip, dtype=torch.float64, device="cuda")
    total, _ = sums([p.detach() for p in model.parameters()], on_gpu, None, bound)
    assert total.device.type == "cuda"
    assert relative(total.cpu(), expected) < 2e-5


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("clipping", list(Clipping))
def test_a_gpu_trains_as_the_processor_does(family: str, clipping: Clipping) -> None:
    further = {"quantile_noise_multiplier": 5.0} if clipping is Clipping.ADAPTIVE else {}
    plan = plan_of(clipping=clipping, **further)
    assert relative(trained(family, "cuda", plan), trained(family, "cpu", plan)) < 1e-3


@pytest.mark.heavy
def test_machine_code_on_a_gpu_gives_the_same_training() -> None:
    compiled = trained("perceptron", "cuda", plan_of(), compile_steps=True)
    assert relative(compiled, trained("perceptron", "cpu", plan_of())) < 1e-3


def test_a_recurrent_layer_that_goes_one_patient_at_a_time_is_refused_on_a_gpu_and_not_trained() -> None:
    torch.manual_seed(0)
    model = Loss(Recurrent(), 16).cuda()
    before = copy.deepcopy(model.state_dict())
    patients = {"x": torch.randn(PATIENTS, 9, 12), "y": torch.randn(PATIENTS)}
    trainer = DpTrainer(plan_of(), noise=NoiseSource.for_tests(3), expected_patients=PATIENTS)
    with pytest.raises(GemelError, match="GEM306"):
        trainer.train(model, patients)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_patient_who_is_not_finite_counts_as_nobody_on_a_gpu() -> None:
    model, patients = made("perceptron")
    patients["x"][3, 0] = float("inf")
    model.cuda()
    plan = plan_of(sample_rate=1.0)
    DpTrainer(plan, noise=NoiseSource.for_tests(3), expected_patients=PATIENTS).train(model, patients)
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
