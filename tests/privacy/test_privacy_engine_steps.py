from __future__ import annotations

import math
import os
import threading
from typing import Any

import numpy as np
import pytest
import torch
from one_by_one import relative
from torch import Tensor, nn

from gemel.core.study import Clipping, TrainingPlan
from gemel.privacy.engine import DpTrainer
from gemel.privacy.engine import graph as graph_module
from gemel.privacy.engine import trainer as trainer_module
from gemel.privacy.engine.graph import as_machine_code, as_operations, record
from gemel.privacy.engine.noise_ahead import normals
from gemel.privacy.engine.step import CompiledStep, usual_sample
from gemel.privacy.noise import NoiseSource, lattice_spacing


class Network(nn.Module):
    def __init__(self, *, hidden: int = 6) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(3, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return (self.network(batch["x"]).squeeze(1) - batch["y"]) ** 2


def people(count: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {"x": torch.randn(count, 3, generator=generator), "y": torch.randn(count, generator=generator)}


def plan_of(**changed: Any) -> TrainingPlan:
    values: dict[str, Any] = {
        "rounds": 1,
        "local_steps": 30,
        "learning_rate": 0.3,
        "momentum": 0.5,
        "max_grad_norm": 0.7,
        "sample_rate": 0.2,
        "noise_multiplier": 1.0,
    }
    return TrainingPlan(**{**values, **changed})


def trained(plan: TrainingPlan, patients: dict[str, Tensor], **options: Any) -> Tensor:
    model = Network()
    noise = options.pop("noise", NoiseSource.for_tests(3))
    DpTrainer(plan, noise=noise, expected_patients=100, **options).train(model, patients)
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def recorded_only(module: Any, examples: Any) -> Any:
    """In place of machine code: the same whole step, operation by operation."""
    return as_operations(module)


@pytest.fixture
def steps_recorded_whole(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Whole steps, without a compiler; the list gets the size of each step's sample."""
    sizes: list[int] = []
    build, call = CompiledStep.build.__func__, CompiledStep.__call__  # type: ignore[attr-defined]

    def building(cls: type[CompiledStep], *args: Any, **named: Any) -> Any:
        return build(cls, *args, **{**named, "compiled": recorded_only})

    def calling(self: CompiledStep, weights: Tensor, momentum: Tensor, rows: np.ndarray, *rest: Any) -> Any:
        sizes.append(len(rows))
        return call(self, weights, momentum, rows, *rest)

    monkeypatch.setattr(CompiledStep, "build", classmethod(building))
    monkeypatch.setattr(CompiledStep, "__call__", calling)
    return sizes


@pytest.mark.parametrize("clipping", list(Clipping))
def test_a_step_in_one_piece_is_the_step_in_pieces(
    clipping: Clipping, steps_recorded_whole: list[int]
) -> None:
    adaptive = {"quantile_noise_multiplier": 5.0} if clipping is Clipping.ADAPTIVE else {}
    plan = plan_of(clipping=clipping, **adaptive)
    pieces, whole = (
        trained(plan, people(100)),
        trained(plan, people(100), compile_steps=True),
    )
    assert len(steps_recorded_whole) >= 25
    assert relative(whole, pieces) < 1e-5


def test_a_step_in_one_piece_leaves_out_whoever_is_not_finite(steps_recorded_whole: list[int]) -> None:
    poisoned = people(100)
    poisoned["x"][17], poisoned["y"][60] = math.inf, math.nan
    pieces = trained(plan_of(), poisoned)
    whole = trained(plan_of(), poisoned, compile_steps=True)
    assert torch.isfinite(whole).all()
    assert relative(whole, pieces) < 1e-5


@pytest.mark.parametrize(("expected", "size"), [(0.0, 0), (64.0, 80), (20.0, 32), (1024.0, 1088)])
def test_most_samples_fit_the_compiled_size(expected: float, size: int) -> None:
    assert usual_sample(expected) == size


def test_empty_and_oversized_samples_go_in_pieces(
    steps_recorded_whole: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_module, "usual_sample", lambda expected: 24)
    plan = plan_of(local_steps=60)
    whole = trained(plan, people(100), compile_steps=True)
    assert 0 < len(steps_recorded_whole) < 60
    assert max(steps_recorded_whole) <= 24
    monkeypatch.undo()
    assert relative(whole, trained(plan, people(100))) < 1e-5
    empty = plan_of(sample_rate=1e-9)
    assert relative(trained(empty, people(10), compile_steps=True), trained(empty, people(10))) == 0


def test_without_a_compiler_the_steps_run_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch._inductor, "compile", broken)
    assert as_machine_code(record(lambda x: (x + 1,), [torch.ones(2)]), [torch.ones(2)]) is None
    plan = plan_of()
    # The sums of one size are padded otherwise, which may change the last bits.
    assert relative(trained(plan, people(100), compile_steps=True), trained(plan, people(100))) < 1e-6


@pytest.mark.heavy
@pytest.mark.filterwarnings("default")
def test_machine_code_gives_the_same_training_and_survives_patients_that_are_not_finite(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built: list[object] = []
    original = graph_module.as_machine_code

    def noted(module: Any, examples: Any) -> Any:
        built.append(original(module, examples))
        return built[-1]

    build = CompiledStep.build.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(
        CompiledStep,
        "build",
        classmethod(lambda cls, *args, **named: build(cls, *args, **{**named, "compiled": noted})),
    )
    poisoned = people(100)
    poisoned["x"][17], poisoned["y"][60], poisoned["x"][61] = math.inf, math.nan, 3e38
    for patients in (people(100), poisoned):
        ours = trained(plan_of(local_steps=60), patients, compile_steps=True)
        assert relative(ours, trained(plan_of(local_steps=60), patients)) < 1e-5
    assert built
    assert None not in built, "inductor did not compile"


def test_a_recording_takes_no_values_from_tensors_and_gives_what_the_function_gives() -> None:
    def function(x: Tensor) -> tuple[Tensor, ...]:
        return (torch.lerp(x, x.sin(), 0.5).T @ x, x.detach() * torch.ones_like(x))

    x = torch.randn(3, 4)
    program = as_operations(record(function, [torch.randn(3, 4)]))
    for ours, direct in zip(program(x), function(x), strict=True):
        assert torch.equal(ours, direct)
    with pytest.raises(Exception, match="."):
        record(lambda x: (x if float(x.sum()) > 0 else -x,), [x])


def test_what_was_noised_lies_on_the_lattice() -> None:
    total = torch.randn(5_000, dtype=torch.float64) * 3
    noise = torch.from_numpy(NoiseSource.for_tests(0).gaussian((5_000,)))
    noised = total.clone()
    trainer_module._add_noise(noised, noise, 0.83)
    spacing = lattice_spacing(0.83)
    assert spacing == 2.0**-21
    units = noised / spacing
    assert torch.equal(units, units.round())
    assert float((noised - (total + 0.83 * noise)).abs().max()) <= spacing / 2


def test_a_step_of_the_trainer_releases_a_sum_on_the_lattice() -> None:
    model = Network().double()
    before = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    plan = plan_of(local_steps=1, sample_rate=1.0, momentum=0.0, learning_rate=1.0)
    patients = {name: t.double() for name, t in people(40).items()}
    DpTrainer(plan, noise=NoiseSource.for_tests(3), expected_patients=1.0).train(model, patients)
    after = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    units = (before - after) / lattice_spacing(0.7)
    assert float((units - units.round()).abs().max()) < 1e-6


def test_a_model_is_trained_again_by_what_was_recorded_before(monkeypatch: pytest.MonkeyPatch) -> None:
    model, patients = Network(), people(100)
    trainer = DpTrainer(plan_of(), noise=NoiseSource.for_tests(3), expected_patients=100)
    trainer.train(model, patients)
    first = trainer._last
    trainer.train(model, {name: t.flip(0) for name, t in patients.items()})
    assert trainer._last is first
    trainer.train(model.eval(), patients)
    assert trainer._last is not first
    again = DpTrainer(plan_of(), noise=NoiseSource.for_tests(3), expected_patients=100)
    twice = Network()
    again.train(twice, patients)
    again.train(twice, {name: t.flip(0) for name, t in patients.items()})
    again.train(twice.eval(), patients)
    for one, other in zip(model.parameters(), twice.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("size", "steps"), [(1, 70), (30, 5), (20_000, 3)])
@pytest.mark.parametrize("beside", [False, True])
def test_each_draw_is_given_once_and_is_standard_normal(size: int, steps: int, beside: bool) -> None:
    source = NoiseSource.for_tests(1)
    with normals(source, size=size, steps=steps, beside=beside) as draws:
        drawn = list(draws)
    assert [len(part) for part in drawn] == [size] * steps
    together = np.concatenate(drawn)
    assert len(np.unique(together)) == size * steps
    assert abs(together.std() - 1) < 6 / math.sqrt(2 * len(together))
    with normals(NoiseSource.for_tests(1), size=size, steps=steps, beside=beside) as draws:
        assert np.array_equal(np.concatenate(list(draws)), together)


def test_noise_beside_the_training_gives_the_same_kind_of_training_and_ends_its_thread() -> None:
    before = threading.active_count()
    first, second = (trained(plan_of(), people(100), noise_beside=True) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, trained(plan_of(), people(100), noise_beside=False))
    assert threading.active_count() == before


def test_training_that_stops_half_way_ends_the_thread_and_leaves_the_model_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, calls, model = threading.active_count(), [], Network()
    start = [p.detach().clone() for p in model.parameters()]
    add = trainer_module._add_noise

    def failing(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 3:
            raise RuntimeError("stopped")
        add(*args)

    monkeypatch.setattr(trainer_module, "_add_noise", failing)
    trainer = DpTrainer(plan_of(), noise=NoiseSource.for_tests(3), expected_patients=100, noise_beside=True)
    with pytest.raises(RuntimeError, match="stopped"):
        trainer.train(model, people(100))
    assert threading.active_count() == before
    assert all(torch.equal(old, p) for old, p in zip(start, model.parameters(), strict=True))


def test_a_failing_source_fails_the_training_and_not_silently() -> None:
    class Failing(NoiseSource):
        def child(self) -> NoiseSource:
            return Failing(lambda: bytes(32), is_secure=False)

        def gaussian(self, shape: tuple[int, ...]) -> np.ndarray:
            raise OSError("no noise")

    with pytest.raises(OSError, match="no noise"):
        trained(plan_of(), people(10), noise=Failing(lambda: bytes(32), is_secure=False), noise_beside=True)


def test_training_is_repeatable_to_the_bit_in_test_mode() -> None:
    assert torch.equal(trained(plan_of(), people(100)), trained(plan_of(), people(100)))
    assert os.getpid() > 0
