from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant
from one_by_one import clipped_one_by_one, gradients_one_by_one, relative
from torch import Tensor, nn

from gemel.core.errors import GemelError
from gemel.core.study import Clipping, TrainingPlan
from gemel.privacy.engine import DpTrainer
from gemel.privacy.engine import trainer as trainer_module
from gemel.privacy.engine.clipping import FURTHEST, AdaptiveBound
from gemel.privacy.engine.gradients import parameter_groups
from gemel.privacy.engine.sums import PatientSums, Workload
from gemel.privacy.noise import NoiseSource


class Network(nn.Module):
    """Trains by layers, or one patient at a time where it has a bare parameter."""

    def __init__(self, *, bare: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 1))
        self.scale = nn.Parameter(torch.ones(()), requires_grad=bare)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return (self.network(batch["x"]).squeeze(1) * self.scale - batch["y"]) ** 2


def people(count: int, *, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"x": torch.randn(count, 3, generator=generator), "y": torch.randn(count, generator=generator)}


def plan_of(**changed: Any) -> TrainingPlan:
    values: dict[str, Any] = {
        "rounds": 1,
        "local_steps": 1,
        "learning_rate": 0.5,
        "momentum": 0.0,
        "max_grad_norm": 0.7,
        "sample_rate": 1.0,
        "noise_multiplier": 0.0,
    }
    return TrainingPlan(**{**values, **changed})


def sums_of(
    model: nn.Module, patients: dict[str, Tensor], clipping: Clipping | None, **changed: Any
) -> PatientSums:
    values = {
        "steps": 5_000,
        "expected_batch": 8,
        "sampled": True,
        "physical_batch": 64,
        "machine_code": False,
    }
    return PatientSums(model, patients, clipping=clipping, workload=Workload(**{**values, **changed}))


def total_of(
    model: nn.Module,
    patients: dict[str, Tensor],
    clipping: Clipping | None,
    clip: float,
    **changed: Any,
) -> tuple[Tensor, float]:
    return sum_by(sums_of(model, patients, clipping, **changed), model, patients, clip)


def sum_by(
    sums: PatientSums, model: nn.Module, patients: dict[str, Tensor], clip: float
) -> tuple[Tensor, float]:
    trained = [p.detach() for p in model.parameters() if p.requires_grad]
    total, centred = sums(trained, patients, None, torch.tensor(clip, dtype=torch.float64))
    return total, float(centred)


def layer_by_layer(model: nn.Module, patients: dict[str, Tensor], clip: float) -> Tensor:
    """The oracle: each layer's part of each patient's gradient is scaled to at most clip / √layers."""
    gradients = gradients_one_by_one(model, patients)
    groups = parameter_groups(model)
    totals = {}
    for group in groups:
        rows = torch.cat([gradients[name].reshape(len(gradients[name]), -1) for name in group], dim=1)
        share = clip / math.sqrt(len(groups))
        weights = share / rows.norm(dim=1).clamp(min=share)
        totals.update({name: torch.tensordot(weights, gradients[name], 1) for name in group})
    return torch.cat([totals[name].reshape(-1) for name in gradients])


kinds = pytest.mark.parametrize("clipping", list(Clipping))
ways = pytest.mark.parametrize("bare", [False, True], ids=["layers", "one by one"])


@ways
@kinds
def test_each_kind_is_that_of_the_loop_on_either_way(clipping: Clipping, bare: bool) -> None:
    model, patients = Network(bare=bare), people(30)
    oracle = layer_by_layer if clipping is Clipping.PER_LAYER else clipped_one_by_one
    sums = sums_of(model, patients, clipping)
    for clip in (0.05, 0.7, 1e4):
        total, centred = sum_by(sums, model, patients, clip)
        assert relative(total, oracle(model, patients, clip)) < 2e-6, clip
        if clipping is not Clipping.ADAPTIVE:
            assert centred == 0
            continue
        rows = torch.cat(
            [g.reshape(len(g), -1) for g in gradients_one_by_one(model, patients).values()], dim=1
        )
        assert centred == float(((rows.norm(dim=1) <= clip).double() - 0.5).sum())


@ways
@kinds
@pytest.mark.parametrize("steps", [1, 5_000], ids=["few steps", "many"])
def test_a_patient_without_a_finite_gradient_adds_exactly_nothing(
    clipping: Clipping, bare: bool, steps: int
) -> None:
    model, patients = Network(bare=bare), people(9)
    sums = sums_of(model, patients, clipping, steps=steps)
    for poison, place in product([math.inf, -math.inf, math.nan, 3e38], [0, 4, 8]):
        poisoned = {name: tensor.clone() for name, tensor in patients.items()}
        for tensor in poisoned.values():
            tensor[place] = poison
        kept = torch.arange(9) != place
        others = {name: tensor[kept] for name, tensor in patients.items()}
        with_them, counted = sum_by(sums, model, poisoned, 0.7)
        without, expected = sum_by(sums, model, others, 0.7)
        assert torch.equal(with_them, without), (poison, place)
        assert counted == expected


@ways
@pytest.mark.parametrize("part", ["loss", "all"])
def test_where_nobody_is_finite_the_sum_is_zero(bare: bool, part: str) -> None:
    patients = people(5)
    patients["y"] = torch.full((5,), math.inf)
    if part == "all":
        patients["x"] = torch.full((5, 3), math.nan)
    total, _ = total_of(Network(bare=bare), patients, Clipping.FLAT, 0.7)
    assert torch.equal(total, torch.zeros_like(total))


def test_a_loss_that_is_not_finite_counts_as_zero_though_its_gradient_is() -> None:
    class Offset(Network):
        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            return super().forward(batch) + batch["offset"]

    patients = {**people(6), "offset": torch.tensor([0.0, 0.0, math.inf, 0.0, math.nan, 0.0])}
    kept = torch.tensor([0, 1, 3, 5])
    total, _ = total_of(Offset(bare=False), patients, Clipping.FLAT, 0.7)
    others, _ = total_of(
        Offset(bare=False), {name: t[kept] for name, t in patients.items()}, Clipping.FLAT, 0.7
    )
    assert relative(total, others) < 1e-6


@ways
@kinds
@pytest.mark.parametrize("changed", [{"physical_batch": 7}, {"sampled": False}, {"expected_batch": 400}])
def test_chunks_and_padding_change_nothing(clipping: Clipping, bare: bool, changed: dict[str, Any]) -> None:
    model, patients = Network(bare=bare), people(30)
    usual, count = total_of(model, patients, clipping, 0.3)
    total, other_count = total_of(model, patients, clipping, 0.3, **changed)
    assert relative(total, usual) < 1e-6
    assert count == other_count


@kinds
def test_one_patient_moves_the_sum_by_at_most_the_bound_and_the_count_by_a_half(clipping: Clipping) -> None:
    patients = people(20)
    patients["x"][3] *= 1e6
    model = Network(bare=False)
    sums = sums_of(model, patients, clipping)
    everybody, count = sum_by(sums, model, patients, 0.2)
    for gone in (0, 3, 19):
        kept = torch.arange(20) != gone
        others, fewer = sum_by(sums, model, {n: t[kept] for n, t in patients.items()}, 0.2)
        assert float((everybody - others).norm()) <= 0.2 * (1 + 1e-5)
        assert abs(count - fewer) <= 0.5


def test_the_plain_sum_of_gradients_is_there_for_benchmarks() -> None:
    model, patients = Network(bare=False), people(12)
    total, _ = total_of(model, patients, None, 1.0)
    assert relative(total, clipped_one_by_one(model, patients, 1e9)) < 1e-6


def adaptive_plan(**changed: Any) -> TrainingPlan:
    return plan_of(
        **{
            "clipping": Clipping.ADAPTIVE,
            "quantile_noise_multiplier": 4.0,
            "clip_learning_rate": 0.3,
            **changed,
        }
    )


def test_the_bound_follows_the_quantile_of_the_norms() -> None:
    patients = people(400)
    model = Network(bare=False)
    rows = torch.cat([g.reshape(len(g), -1) for g in gradients_one_by_one(model, patients).values()], dim=1)
    target = float(rows.norm(dim=1).quantile(0.75))
    seen: list[float] = []

    class Watched(AdaptiveBound):
        def move(self, noisy_centred_count: float) -> None:
            super().move(noisy_centred_count)
            seen.append(self.value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_module, "AdaptiveBound", Watched)
        plan = adaptive_plan(local_steps=60, learning_rate=1e-9, max_grad_norm=0.01, target_quantile=0.75)
        DpTrainer(plan, noise=NoiseSource.for_tests(0), expected_patients=400).train(model, patients)
    assert len(seen) == 60
    assert abs(np.mean(seen[-10:]) / target - 1) < 0.1


def test_the_counts_noise_is_its_multiplier_times_a_half_and_comes_from_the_source() -> None:
    bound = AdaptiveBound(adaptive_plan(), expected_batch=100.0)
    assert bound.count_noise == 2.0
    moved: list[float] = []

    class Watched(AdaptiveBound):
        def move(self, noisy_centred_count: float) -> None:
            moved.append(noisy_centred_count)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_module, "AdaptiveBound", Watched)
        plan = adaptive_plan(local_steps=2_000, noise_multiplier=1.0)
        DpTrainer(plan, noise=NoiseSource.for_tests(1), expected_patients=10).train(
            Network(bare=False), people(0)
        )
    assert abs(np.std(moved) / 2.0 - 1) < 0.06
    assert abs(np.mean(moved)) < 0.2


def test_a_bound_moves_down_when_too_many_are_under_it_and_stays_in_its_limits() -> None:
    bound = AdaptiveBound(adaptive_plan(max_grad_norm=2.0), expected_batch=100.0)
    bound.move(50.0)  # everybody is under it
    assert bound.value == pytest.approx(2.0 * math.exp(-0.3 * 0.5))
    for _ in range(500):
        bound.move(1e9)
    assert bound.value == 2.0 / FURTHEST
    for _ in range(500):
        bound.move(-1e9)
    assert bound.value == pytest.approx(2.0 * FURTHEST)


def test_the_noise_of_a_step_follows_the_steps_bound() -> None:
    sigmas: list[float] = []
    bounds: list[float] = []
    add, call = trainer_module._add_noise, PatientSums.__call__

    def noted(total: Tensor, noise: Tensor, sigma: float) -> None:
        sigmas.append(sigma)
        add(total, noise, sigma)

    def summed(self: PatientSums, trained: Any, patients: Any, rows: Any, bound: Tensor) -> Any:
        bounds.append(float(bound))
        return call(self, trained, patients, rows, bound)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_module, "_add_noise", noted)
        patch.setattr(PatientSums, "__call__", summed)
        plan = adaptive_plan(local_steps=8, noise_multiplier=1.5)
        DpTrainer(plan, noise=NoiseSource.for_tests(1), expected_patients=30).train(
            Network(bare=False), people(30)
        )
    assert len(set(bounds)) == 8
    assert sigmas == pytest.approx([1.5 * bound for bound in bounds])


def test_sum_and_count_together_cost_one_gaussian_of_the_plans_multiplier() -> None:
    plan = adaptive_plan(noise_multiplier=1.2, quantile_noise_multiplier=5.0)
    assert plan.step_noise_multiplier == pytest.approx((1.2**-2 + 5.0**-2) ** -0.5)
    epsilons = []
    for event in (
        dp_event.GaussianDpEvent(plan.step_noise_multiplier),
        # Two answers on the same patients: the sum, and a count of sensitivity ½ with noise 5 · ½.
        dp_event.ComposedDpEvent([dp_event.GaussianDpEvent(1.2), dp_event.GaussianDpEvent(2.5 / 0.5)]),
    ):
        accountant = PLDAccountant(value_discretization_interval=1e-3)
        epsilons.append(accountant.compose(event).get_epsilon(1e-5))
    assert epsilons[0] == pytest.approx(epsilons[1], rel=2e-3)


def test_an_adaptive_plan_whose_count_has_no_noise_is_refused_from_a_secure_source() -> None:
    plan = adaptive_plan(noise_multiplier=1.0, quantile_noise_multiplier=0.0)
    with pytest.raises(GemelError, match="GEM305"):
        DpTrainer(plan, noise=NoiseSource.secure(), expected_patients=10)
