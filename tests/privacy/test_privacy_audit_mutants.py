"""Faults planted in the real code, each a small one that somebody could make: the audit has to find every one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from any_synthesis import ANY_SYNTHESIS
from torch import Tensor

from gemel.core.dataset import Dataset
from gemel.core.mechanism import Mechanism
from gemel.core.study import Clipping, PrivacyPlan, Study, TrainingPlan
from gemel.privacy import accounting
from gemel.privacy import noise as noise_module
from gemel.privacy.audit import (
    added_noise,
    canaries,
    charges,
    described,
    probes,
    sampling,
    sensitivity,
    tables,
)
from gemel.privacy.audit.report import Check, carry_out
from gemel.privacy.audit.subject import Subject
from gemel.privacy.engine import DpTrainer, gradients, sums, trainer
from gemel.privacy.noise import NoiseSource
from gemel.privacy.statistics import release
from gemel.privacy.statistics import tables as statistic_tables

PLAN = TrainingPlan(
    rounds=3,
    local_steps=4,
    learning_rate=0.5,
    momentum=0.5,
    max_grad_norm=2.0,
    sample_rate=1.0,
    noise_multiplier=5.0,
)
DELTA = 1e-5
STUDY = Study(
    schema="gemel/study/1",
    study_id="audit",
    title="An audit",
    purpose="to test it",
    programme="none",
    programme_version="1",
    training=PLAN,
    privacy=PrivacyPlan(
        epsilon=10.0,
        delta=DELTA,
        count_noise_multiplier=9.0,
        metrics_noise_multiplier=6.0,
        synthesis_noise_multiplier=3.0,
    ),
    metrics_tables=2,
    synthesis=ANY_SYNTHESIS,
    minimum_patients=1,
    quorum=1,
    round_timeout_s=60.0,
    sites={},
)
Attack = Callable[[], Iterable[Check]]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# --- the attacks, as short as they can be --------------------------------------------------------


def _visits(plan: TrainingPlan = PLAN) -> Any:
    return probes.visits_subject(plan, delta=DELTA)


def _logistic(plan: TrainingPlan = PLAN) -> Any:
    return probes.logistic_subject(plan, delta=DELTA, patients=120, inputs=12)


def on_sensitivity() -> Iterable[Check]:
    return sensitivity.attack(_visits(), victims=10)


def on_layers() -> Iterable[Check]:
    plan = msgspec.structs.replace(PLAN, clipping=Clipping.PER_LAYER)
    return sensitivity.attack(_visits(plan), victims=10)


def on_noise() -> Iterable[Check]:
    hall = Subject("a roll call", lambda: probes.RollCall(300), probes.seats(20, of=300), PLAN, DELTA)
    yield from added_noise.attack(hall, repeats=80)
    yield from added_noise.attack_source(PLAN)


def on_sampling() -> Iterable[Check]:
    return sampling.attack(PLAN, steps=150)


def on_tables() -> Iterable[Check]:
    return tables.attack(6.0, delta=DELTA, draws=20_000)


def on_charges() -> Iterable[Check]:
    return charges.attack(STUDY)


def on_statistics() -> Iterable[Check]:
    draw = np.random.default_rng(0)
    people = Dataset(
        "made_up",
        "1",
        ("age", "weight"),
        ("death",),
        tuple(f"{number:04x}" for number in range(30)),
        draw.uniform(20, 90, (30, 2)).astype(np.float32),
        draw.uniform(0, 6, (30, 1)).astype(np.float32),
        draw.integers(0, 2, (30, 1)).astype(np.int8),
    )
    return described.attack(people)


def on_canaries() -> Iterable[Check]:
    return canaries.attack(_logistic(), canaries=1000)


# --- the faults ----------------------------------------------------------------------------------

Patch = pytest.MonkeyPatch
add_noise = trainer._add_noise
gaussian = NoiseSource.gaussian
discrete_gaussian = NoiseSource.discrete_gaussian

train = DpTrainer.train
clip_factors = gradients.clip_factors
squared_norms = gradients._squared_norms


def noise_is_halved(patch: Patch) -> None:
    patch.setattr(trainer, "_add_noise", lambda total, noise, sigma: add_noise(total, noise, sigma / 2))


def noise_is_five_percent_too_small(patch: Patch) -> None:
    patch.setattr(trainer, "_add_noise", lambda total, noise, sigma: add_noise(total, noise, 0.95 * sigma))


def noise_is_uniform(patch: Patch) -> None:
    def draw(self: NoiseSource, shape: tuple[int, ...]) -> np.ndarray:
        size = int(np.prod(shape))
        drawn = (self.words(size) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return ((drawn - 0.5) * np.sqrt(12)).reshape(shape)

    patch.setattr(NoiseSource, "gaussian", draw)


def one_coordinate_has_no_noise(patch: Patch) -> None:
    def all_but_the_last(total: Tensor, noise: Tensor, sigma: float) -> None:
        add_noise(total[:-1], noise[:-1], sigma)

    patch.setattr(trainer, "_add_noise", all_but_the_last)


def coordinates_share_noise(patch: Patch) -> None:
    def draw(self: NoiseSource, shape: tuple[int, ...]) -> np.ndarray:
        return np.broadcast_to(gaussian(self, (*shape[:-1], 1)), shape).copy()

    patch.setattr(NoiseSource, "gaussian", draw)


def seed_is_reused_in_every_step(patch: Patch) -> None:
    def again(total: Tensor, noise: Tensor, sigma: float) -> None:
        generator = np.random.default_rng(os.getpid())
        add_noise(total, torch.from_numpy(generator.standard_normal(len(noise))), sigma)

    patch.setattr(trainer, "_add_noise", again)


def steps_of_one_call_share_noise(patch: Patch) -> None:
    def draw(self: NoiseSource, shape: tuple[int, ...]) -> np.ndarray:
        if len(shape) < 2:
            return gaussian(self, shape)
        return np.broadcast_to(gaussian(self, shape[1:]), shape).copy()

    patch.setattr(NoiseSource, "gaussian", draw)


def a_restart_begins_the_stream_anew(patch: Patch) -> None:
    patch.setattr(NoiseSource, "secure", classmethod(lambda cls: cls(lambda: b"k" * 32, is_secure=True)))


def a_fork_shares_the_stream(patch: Patch) -> None:
    patch.setattr(noise_module, "os", SimpleNamespace(getpid=lambda: 1, urandom=os.urandom))


def noise_beside_the_training_is_that_of_a_known_key(patch: Patch) -> None:
    patch.setattr(NoiseSource, "child", lambda self: NoiseSource(lambda: b"k" * 32, is_secure=True))


def empty_batches_have_no_noise(patch: Patch) -> None:
    def only_if_somebody(total: Tensor, noise: Tensor, sigma: float) -> None:
        if bool(total.any()):
            add_noise(total, noise, sigma)

    patch.setattr(trainer, "_add_noise", only_if_somebody)


def not_finite_batches_are_dropped_with_their_noise(patch: Patch) -> None:
    def drop(self: DpTrainer, model: Any, patients: Mapping[str, Tensor]) -> None:
        if all(bool(torch.isfinite(tensor).all()) for tensor in patients.values()):
            train(self, model, patients)

    patch.setattr(DpTrainer, "train", drop)


def not_finite_gradients_poison_the_sum(patch: Patch) -> None:
    def all_of_them(self: Any, values: Any, patients: Any, rows: Tensor, bound: Tensor) -> Any:
        if not len(rows):
            return None
        total, _, centred = self._run(values, patients, rows, self._workload.padded(len(rows)), bound)
        return total, centred

    patch.setattr(sums.PatientSums, "_chunk", all_of_them)


def one_layer_is_not_clipped(patch: Patch) -> None:
    """The norm forgets one layer: whatever is in it passes as it is."""

    def all_but_one(found: list[Any], group_of: Any, losses: Tensor) -> Any:
        return squared_norms(found[1:], group_of, losses)

    patch.setattr(gradients, "_squared_norms", all_but_one)


def layers_are_each_clipped_to_the_whole_bound(patch: Patch) -> None:
    def whole(squared: list[Tensor], *args: Any, bound: Tensor, **named: Any) -> Any:
        return clip_factors(squared, *args, bound=bound * len(squared) ** 0.5, **named)

    patch.setattr(gradients, "clip_factors", whole)


def the_bound_is_twice_what_the_noise_is_for(patch: Patch) -> None:
    def twice(*args: Any, bound: Tensor, **named: Any) -> Any:
        return clip_factors(*args, bound=2 * bound, **named)

    patch.setattr(gradients, "clip_factors", twice)


def rows_are_taken_and_clipped_in_place_of_patients(patch: Patch) -> None:
    def by_row(self: DpTrainer, model: Any, patients: Mapping[str, Tensor]) -> None:
        shapes = {tensor.shape[:2] for tensor in patients.values() if tensor.ndim > 1}
        if len(shapes) == 1 and shapes.pop()[1] == probes.VISITS:
            patients = {name: tensor.flatten(0, 1).unsqueeze(1) for name, tensor in patients.items()}
        train(self, model, patients)

    patch.setattr(DpTrainer, "train", by_row)


def the_true_count_is_the_divisor(patch: Patch) -> None:
    def exact(self: DpTrainer, model: Any, patients: Mapping[str, Tensor]) -> None:
        self._expected_patients = float(max(1, len(next(iter(patients.values())))))
        train(self, model, patients)

    patch.setattr(DpTrainer, "train", exact)


def the_true_batch_is_the_divisor(patch: Patch) -> None:
    def samples(noise: NoiseSource, *, rate: float, patients: int, steps: int) -> Iterator[np.ndarray]:
        for rows in poisson_samples(noise, rate=rate, patients=patients, steps=steps):
            sizes.append(max(1, len(rows)))
            yield rows

    sizes: list[int] = []

    def per_taken(total: Tensor, noise: Tensor, sigma: float) -> None:
        add_noise(total, noise, sigma)
        if sizes:
            total.mul_(0.2 * len(total) / sizes[-1])

    poisson_samples = trainer.poisson_samples
    patch.setattr(trainer, "poisson_samples", samples)
    patch.setattr(trainer, "_add_noise", per_taken)


def batches_are_shuffled_and_fixed(patch: Patch) -> None:
    def epochs(noise: NoiseSource, *, rate: float, patients: int, steps: int) -> Iterator[np.ndarray]:
        size, order = max(1, round(rate * patients)), np.zeros(0, dtype=np.int64)
        for _ in range(steps):
            if len(order) < size:
                order = np.argsort(noise.words(patients)).astype(np.int64)
            yield np.sort(order[:size])
            order = order[size:]

    patch.setattr(trainer, "poisson_samples", epochs)


def batches_are_of_fixed_size(patch: Patch) -> None:
    def fixed(noise: NoiseSource, *, rate: float, patients: int, steps: int) -> Iterator[np.ndarray]:
        for _ in range(steps):
            yield np.sort(np.argsort(noise.words(patients))[: round(rate * patients)])

    patch.setattr(trainer, "poisson_samples", fixed)


def the_first_sample_is_used_in_every_step(patch: Patch) -> None:
    def once(noise: NoiseSource, *, rate: float, patients: int, steps: int) -> Iterator[np.ndarray]:
        rows = np.flatnonzero(noise.bernoulli(rate, patients))
        return iter([rows] * steps)

    patch.setattr(trainer, "poisson_samples", once)


def everybody_is_taken_more_often_than_charged(patch: Patch) -> None:
    poisson_samples = trainer.poisson_samples

    def more(noise: NoiseSource, *, rate: float, patients: int, steps: int) -> Any:
        return poisson_samples(noise, rate=min(1.0, 2 * rate), patients=patients, steps=steps)

    patch.setattr(trainer, "poisson_samples", more)


def tables_take_sigma_for_a_variance(patch: Patch) -> None:
    patch.setattr(
        NoiseSource,
        "discrete_gaussian",
        lambda self, sigma, shape: discrete_gaussian(self, sigma**0.5, shape),
    )


def tables_get_a_rounded_gaussian(patch: Patch) -> None:
    """Twice as coarse as the integers: half of the numbers never come."""
    patch.setattr(
        NoiseSource,
        "discrete_gaussian",
        lambda self, sigma, shape: (2 * np.round(sigma * gaussian(self, shape) / 2)).astype(np.int64),
    )


def table_noise_has_a_bias(patch: Patch) -> None:
    patch.setattr(
        NoiseSource,
        "discrete_gaussian",
        lambda self, sigma, shape: np.abs(discrete_gaussian(self, sigma, shape)),
    )


def statistics_count_visits(patch: Patch) -> None:
    count = statistic_tables._count
    patch.setattr(statistic_tables, "_count", lambda request, columns: 3 * count(request, columns))


def statistics_take_sigma_for_a_variance(patch: Patch) -> None:
    noisy = release.noisy_counts
    patch.setattr(
        release,
        "noisy_counts",
        lambda table, *, noise_multiplier, noise: noisy(
            table, noise_multiplier=noise_multiplier**0.5, noise=noise
        ),
    )


def the_accountant_counts_equal_rounds_once(patch: Patch) -> None:
    epsilon = accounting.epsilon

    def reset(mechanisms: Iterable[Mechanism], *, delta: float) -> float:
        return epsilon(tuple(dict.fromkeys(mechanisms)), delta=delta)

    patch.setattr(charges, "epsilon", reset)


def the_accountant_counts_a_round_as_one_step(patch: Patch) -> None:
    epsilon = accounting.epsilon

    def single(mechanisms: Iterable[Mechanism], *, delta: float) -> float:
        return epsilon([msgspec.structs.replace(m, count=1) for m in mechanisms], delta=delta)

    patch.setattr(charges, "epsilon", single)


def noise_is_sixteen_times_too_small(patch: Patch) -> None:
    patch.setattr(trainer, "_add_noise", lambda total, noise, sigma: add_noise(total, noise, sigma / 16))


@dataclass(frozen=True)
class Mutant:
    """A fault and the attack that has to find it (others may find it too)."""

    plant: Callable[[Patch], None]
    found_by: Attack
    also: bool = False  # the like of another: run with the heavy tests

    @property
    def name(self) -> str:
        return self.plant.__name__.replace("_", " ")


MUTANTS = (
    Mutant(noise_is_halved, on_noise),
    Mutant(noise_is_five_percent_too_small, on_noise, also=True),
    Mutant(noise_is_uniform, on_noise, also=True),
    Mutant(one_coordinate_has_no_noise, on_noise, also=True),
    Mutant(coordinates_share_noise, on_noise, also=True),
    Mutant(seed_is_reused_in_every_step, on_noise),
    Mutant(steps_of_one_call_share_noise, on_noise, also=True),
    Mutant(a_restart_begins_the_stream_anew, on_noise, also=True),
    Mutant(a_fork_shares_the_stream, on_noise),
    Mutant(noise_beside_the_training_is_that_of_a_known_key, on_noise, also=True),
    Mutant(empty_batches_have_no_noise, on_noise),
    Mutant(not_finite_batches_are_dropped_with_their_noise, on_noise),
    Mutant(not_finite_gradients_poison_the_sum, on_sensitivity),
    Mutant(one_layer_is_not_clipped, on_sensitivity),
    Mutant(layers_are_each_clipped_to_the_whole_bound, on_layers, also=True),
    Mutant(the_bound_is_twice_what_the_noise_is_for, on_sensitivity, also=True),
    Mutant(rows_are_taken_and_clipped_in_place_of_patients, on_sensitivity, also=True),
    Mutant(rows_are_taken_and_clipped_in_place_of_patients, on_sampling),
    Mutant(the_true_count_is_the_divisor, on_sampling),
    Mutant(the_true_batch_is_the_divisor, on_sampling, also=True),
    Mutant(batches_are_shuffled_and_fixed, on_sampling),
    Mutant(batches_are_of_fixed_size, on_sampling, also=True),
    Mutant(the_first_sample_is_used_in_every_step, on_sampling, also=True),
    Mutant(everybody_is_taken_more_often_than_charged, on_sampling, also=True),
    Mutant(tables_take_sigma_for_a_variance, on_tables),
    Mutant(tables_get_a_rounded_gaussian, on_tables),
    Mutant(table_noise_has_a_bias, on_tables),
    Mutant(statistics_count_visits, on_statistics),
    Mutant(statistics_take_sigma_for_a_variance, on_statistics),
    Mutant(the_accountant_counts_equal_rounds_once, on_charges),
    Mutant(the_accountant_counts_a_round_as_one_step, on_charges),
    Mutant(noise_is_sixteen_times_too_small, on_canaries),
    Mutant(noise_is_halved, on_canaries),
)
ATTACKS = (on_sensitivity, on_noise, on_sampling, on_tables, on_statistics, on_charges, on_canaries)


def _name(value: object) -> str:
    return value.name if isinstance(value, Mutant) else getattr(value, "__name__", str(value))


@pytest.mark.heavy
def test_the_audit_passes_sound_clipping_by_layers() -> None:
    assert all(check.passed for check in on_layers())


@pytest.mark.parametrize("attack", ATTACKS, ids=_name)
def test_the_audit_passes_what_is_sound(attack: Attack) -> None:
    checks = list(carry_out("sound", attack))
    assert [check for check in checks if not check.passed] == []


@pytest.mark.parametrize(
    "mutant",
    [pytest.param(mutant, marks=pytest.mark.heavy if mutant.also else ()) for mutant in MUTANTS],
    ids=_name,
)
def test_the_audit_finds(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant.plant(monkeypatch)
    checks = list(carry_out("mutant", mutant.found_by))
    broken = [check for check in checks if not check.passed]
    assert broken, f"{mutant.name}: it survives"
    # Found by what was measured, not by an accident of the fault.
    assert any("carried out to its end" not in check.promise for check in broken)
