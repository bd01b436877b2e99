from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from gemel.core.errors import GemelError
from gemel.core.study import Clipping, TrainingPlan
from gemel.privacy.engine import DpTrainer
from gemel.privacy.engine.sums import PatientSums, Workload
from gemel.privacy.noise import NoiseSource

# Opacus' own hooks, used as the oracle, trip over a torch notice about backward hooks.
pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Regression(nn.Module):
    """Squared error of one linear layer after a small network: more than one parameter tensor."""

    def __init__(self, *, hidden: int = 4, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.network = nn.Sequential(nn.Linear(3, hidden), nn.Tanh(), nn.Linear(hidden, 1))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        loss: Tensor = (self.network(batch["x"]).squeeze(1) - batch["y"]) ** 2
        return loss


def people(count: int, *, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(count, 3, generator=generator),
        "y": torch.randn(count, generator=generator),
    }


def plan_of(**changed: float) -> TrainingPlan:
    values: dict[str, float] = {
        "rounds": 1,
        "local_steps": 1,
        "learning_rate": 0.5,
        "momentum": 0.0,
        "max_grad_norm": 0.7,
        "sample_rate": 1.0,
        "noise_multiplier": 0.0,
    }
    return TrainingPlan(**{**values, **changed})  # type: ignore[arg-type]


def trainer(plan: TrainingPlan, *, seed: int = 3, expected: float = 50.0, chunk: int = 4096) -> DpTrainer:
    return DpTrainer(
        plan, noise=NoiseSource.for_tests(seed), expected_patients=expected, physical_batch=chunk
    )


def flat(model: nn.Module) -> np.ndarray:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()]).double().numpy()


def one_by_one(model: nn.Module, patients: dict[str, Tensor], clip: float) -> np.ndarray:
    """The oracle: a loop over patients, one backward pass each."""
    total = np.zeros(sum(p.numel() for p in model.parameters() if p.requires_grad))
    for i in range(len(patients["y"])):
        model.zero_grad()
        model({name: tensor[i : i + 1] for name, tensor in patients.items()}).sum().backward()
        row = (
            torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None]).double().numpy()
        )
        total += row * min(1.0, clip / np.linalg.norm(row))
    model.zero_grad()
    return total


def sums_of(model: nn.Module, patients: dict[str, Tensor], chunk: int = 4096) -> PatientSums:
    workload = Workload(steps=1, expected_batch=4, sampled=True, physical_batch=chunk, machine_code=False)
    return PatientSums(model, patients, clipping=Clipping.FLAT, workload=workload)


def clipped_sum(
    model: nn.Module,
    patients: dict[str, Tensor],
    clip: float = 0.7,
    chunk: int = 4096,
    sums: PatientSums | None = None,
) -> np.ndarray:
    sums = sums or sums_of(model, patients, chunk)
    trained = [p.detach() for p in model.parameters() if p.requires_grad]
    return sums(trained, patients, None, torch.tensor(clip, dtype=torch.float64))[0].numpy()


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize("clip", [0.05, 0.7, 1e5])
def test_the_clipped_sum_is_that_of_a_loop_over_patients(clip: float) -> None:
    model, patients = Regression(), people(50)
    assert relative(clipped_sum(model, patients, clip), one_by_one(model, patients, clip)) < 1e-6


def test_one_step_without_noise_moves_by_the_mean_clipped_gradient() -> None:
    model, patients = Regression(), people(50)
    before, expected = flat(model), one_by_one(model, patients, 0.7)
    trainer(plan_of(), expected=50.0).train(model, patients)
    assert relative(before - flat(model), 0.5 * expected / 50) < 1e-5


def test_the_clipped_sum_is_that_of_opacus() -> None:
    torch.manual_seed(0)
    layer, patients = nn.Linear(3, 1), people(64)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            loss: Tensor = (self.layer(batch["x"]).squeeze(1) - batch["y"]) ** 2
            return loss

    ours = clipped_sum(Model(), patients)
    wrapped = GradSampleModule(nn.Linear(3, 1))
    wrapped._module.load_state_dict(layer.state_dict())
    optimizer = DPOptimizer(
        torch.optim.SGD(wrapped.parameters(), lr=0.1),
        noise_multiplier=0.0,
        max_grad_norm=0.7,
        expected_batch_size=64,
    )
    ((wrapped(patients["x"]).squeeze(1) - patients["y"]) ** 2).mean().backward()
    optimizer.clip_and_accumulate()
    theirs = torch.cat([p.summed_grad.reshape(-1) for p in wrapped.parameters()]).detach().double().numpy()
    assert relative(theirs, ours) < 1e-5


def test_several_steps_are_those_of_torch_sgd_with_momentum() -> None:
    model, patients = Regression(), people(40)
    oracle = Regression()
    optimizer = torch.optim.SGD(oracle.parameters(), lr=0.5, momentum=0.9)
    for _ in range(6):
        gradient = torch.from_numpy(one_by_one(oracle, patients, 0.7) / 40).float()
        position = 0
        for parameter in oracle.parameters():
            parameter.grad = gradient[position : position + parameter.numel()].reshape(parameter.shape)
            position += parameter.numel()
        optimizer.step()
    trainer(plan_of(local_steps=6, momentum=0.9), expected=40.0).train(model, patients)
    assert relative(flat(model), flat(oracle)) < 1e-5


@pytest.mark.parametrize("chunk", [1, 7, 50, 64])
def test_physical_chunks_do_not_change_the_result(chunk: int) -> None:
    plan = plan_of(local_steps=3, noise_multiplier=1.0, momentum=0.5, sample_rate=0.5)
    whole, pieces = Regression(), Regression()
    trainer(plan).train(whole, people(50))
    trainer(plan, chunk=chunk).train(pieces, people(50))
    assert relative(flat(pieces), flat(whole)) < 1e-6


def test_measured_noise_has_the_planned_standard_deviation() -> None:
    plan = plan_of(noise_multiplier=1.7, learning_rate=1.0)
    draws = []
    for seed in range(120):
        model = Regression(hidden=16)
        before = flat(model)
        # The update is float32 around weights of order 1; with 20 expected patients that is far below the noise.
        trainer(plan, seed=seed, expected=20.0).train(model, people(0))
        draws.append((before - flat(model)) * 20.0)
    noise = np.concatenate(draws)
    assert abs(noise.std() / (1.7 * 0.7) - 1) < 0.02
    assert abs(noise.mean()) < 4 * 1.7 * 0.7 / np.sqrt(len(noise))


def test_noise_comes_fresh_at_every_step_and_every_call() -> None:
    class Recorder(NoiseSource):
        drawn: list[np.ndarray]

        def gaussian(self, shape: tuple[int, ...]) -> np.ndarray:
            self.drawn.append(super().gaussian(shape))
            return self.drawn[-1]

    noise = Recorder(lambda: bytes(32), is_secure=False)
    noise.drawn = []
    dp = DpTrainer(plan_of(local_steps=3, noise_multiplier=1.0), noise=noise, expected_patients=50)
    dp.train(Regression(), people(5))
    dp.train(Regression(), people(5))
    drawn = np.concatenate([part.reshape(-1) for part in noise.drawn])
    assert len(np.unique(drawn)) == len(drawn) == 6 * 21


def test_an_empty_batch_adds_noise_and_counts_as_a_step() -> None:
    sampled = plan_of(sample_rate=1e-9, noise_multiplier=1.0, local_steps=2)
    model = Regression()
    before = flat(model)
    trainer(sampled).train(model, people(10))
    assert np.all(flat(model) != before)
    nobody = Regression()
    trainer(plan_of(noise_multiplier=1.0)).train(nobody, people(0))
    assert np.all(flat(nobody) != before)


def test_poisson_sampling_takes_each_patient_at_its_rate_at_each_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[int] = []
    plan = plan_of(sample_rate=0.3, local_steps=40)
    original = PatientSums.__call__

    def call(self: PatientSums, trained: object, patients: object, rows: np.ndarray, bound: object) -> object:
        taken.append(len(rows))
        return original(self, trained, patients, rows, bound)  # type: ignore[arg-type]

    monkeypatch.setattr(PatientSums, "__call__", call)
    trainer(plan, expected=500.0).train(Regression(), people(500))
    assert len(taken) == 40
    assert abs(np.mean(taken) - 150) < 4 * np.sqrt(500 * 0.3 * 0.7 / 40)
    assert len(set(taken)) > 5


def test_the_divisor_is_the_expected_number_and_not_the_true_one() -> None:
    model = Regression()
    before, total = flat(model), clipped_sum(Regression(), people(30))
    trainer(plan_of(), expected=100.0).train(model, people(30))
    assert relative(before - flat(model), 0.5 * total / 100) < 1e-5


def test_a_sampled_step_is_the_sum_over_the_sample_by_the_expected_sample_size() -> None:
    model, patients = Regression(), people(60)
    taken = torch.from_numpy(NoiseSource.for_tests(3).bernoulli(0.25, 60))
    total = one_by_one(Regression(), {name: tensor[taken] for name, tensor in patients.items()}, 0.7)
    before = flat(model)
    trainer(plan_of(sample_rate=0.25), expected=80.0).train(model, patients)
    assert relative(before - flat(model), 0.5 * total / (80 * 0.25)) < 1e-5


@cache
def sums_for_removal() -> PatientSums:
    return sums_of(Regression(), people(1))


@given(
    values=st.lists(
        st.tuples(*[st.floats(-(2.0**100), 2.0**100, width=32)] * 4) | st.tuples(*[st.floats(width=32)] * 4),
        min_size=1,
        max_size=6,
    ),
    clip=st.sampled_from([0.01, 1.0, 30.0]),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_removing_one_patient_changes_the_sum_by_at_most_the_clip(
    values: list[tuple[float, ...]], clip: float, data: st.DataObject
) -> None:
    rows = torch.tensor(values, dtype=torch.float32)
    removed = data.draw(st.integers(0, len(rows) - 1))
    kept = torch.arange(len(rows)) != removed
    model, sums = Regression(), sums_for_removal()
    everybody = clipped_sum(model, {"x": rows[:, :3], "y": rows[:, 3]}, clip, sums=sums)
    others = clipped_sum(model, {"x": rows[kept, :3], "y": rows[kept, 3]}, clip, sums=sums)
    assert np.isfinite(everybody).all()
    # Float32 gradients of the others may differ in their last bits with the size of the batch.
    assert np.linalg.norm(everybody - others) <= clip * (1 + 1e-5 * len(rows))


@pytest.mark.parametrize("poison", [float("inf"), float("nan"), 3e38])
def test_a_row_that_is_not_finite_counts_as_zero_and_poisons_nobody(poison: float) -> None:
    patients = people(20)
    poisoned = {
        "x": torch.cat([patients["x"], torch.full((1, 3), poison)]),
        "y": torch.cat([patients["y"], torch.tensor([poison])]),
    }
    assert relative(clipped_sum(Regression(), poisoned), clipped_sum(Regression(), patients)) < 1e-6


def test_only_trainable_parameters_move_and_count_for_the_norm() -> None:
    model, patients = Regression(), people(30)
    first = model.network[0]
    assert isinstance(first, nn.Linear)
    first.weight.requires_grad_(False)
    frozen = first.weight.clone()
    assert relative(clipped_sum(model, patients), one_by_one(model, patients, 0.7)) < 1e-6
    trainer(plan_of(noise_multiplier=1.0)).train(model, patients)
    assert torch.equal(first.weight, frozen)
    assert first.weight.grad is None


class Coupled(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.head = nn.Linear(3, 1)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        loss: Tensor = self.head(self.layer(batch["x"])).squeeze(1)
        return loss


class Summed(Regression):
    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return super().forward(batch).sum()


class Branching(Regression):
    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        loss = super().forward(batch)
        return loss if float(loss.sum()) > 0 else -loss


def frozen_norm() -> nn.Module:
    layer = nn.BatchNorm1d(3)
    layer.requires_grad_(False)
    return layer


def trainable_without_anything() -> nn.Module:
    model = Regression()
    model.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    "model",
    [
        Coupled(nn.BatchNorm1d(3)),
        Coupled(nn.BatchNorm1d(3, affine=False)),
        Coupled(frozen_norm()),
        Summed(),
        Branching(),
        trainable_without_anything(),
    ],
    ids=["batch norm", "without weights", "frozen", "one loss for all", "branching on data", "frozen whole"],
)
def test_a_model_that_couples_patients_is_refused_untouched(model: nn.Module) -> None:
    before = flat(model)
    with pytest.raises(GemelError) as caught:
        trainer(plan_of(noise_multiplier=1.0)).train(model, people(8))
    assert caught.value.code == "GEM306"
    assert np.array_equal(flat(model), before)


def test_a_model_that_looks_at_its_batch_sees_one_patient_only() -> None:
    class Centred(Regression):
        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            loss = super().forward(batch)
            return loss - loss.mean()

    assert np.array_equal(clipped_sum(Centred(), people(8)), np.zeros(21))


def test_tensors_with_unequal_numbers_of_rows_are_refused() -> None:
    with pytest.raises(GemelError, match="GEM306"):
        trainer(plan_of()).train(Regression(), {"x": torch.zeros(3, 3), "y": torch.zeros(4)})


@pytest.mark.parametrize(
    "changed",
    [
        {"noise_multiplier": -1.0},
        {"max_grad_norm": 0.0},
        {"sample_rate": 0.0},
        {"learning_rate": float("nan")},
    ],
)
def test_an_impossible_plan_is_refused(changed: dict[str, float]) -> None:
    with pytest.raises(GemelError, match="GEM305"):
        trainer(plan_of(**changed))


def test_no_noise_is_refused_from_a_secure_source_and_no_patients_always() -> None:
    with pytest.raises(GemelError, match="GEM305"):
        DpTrainer(plan_of(), noise=NoiseSource.secure(), expected_patients=10)
    with pytest.raises(GemelError, match="GEM305"):
        DpTrainer(plan_of(noise_multiplier=1.0), noise=NoiseSource.secure(), expected_patients=0)
