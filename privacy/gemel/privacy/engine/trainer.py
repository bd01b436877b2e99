"""The trainer: one object, one verb, a plan's noisy steps on a hospital's patients."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gemel.core.errors import GemelError
from gemel.core.study import Clipping, TrainingPlan
from gemel.privacy.engine.clipping import AdaptiveBound
from gemel.privacy.engine.noise_ahead import normals
from gemel.privacy.engine.probe import check_trainable
from gemel.privacy.engine.pull import FlatPull, Pull
from gemel.privacy.engine.sampling import poisson_samples
from gemel.privacy.engine.step import CompiledStep, Update, usual_sample
from gemel.privacy.engine.sums import PatientSums, Workload
from gemel.privacy.noise import NoiseSource, lattice_spacing

# Patients whose gradients are held in memory at once; of no consequence for the result.
PHYSICAL_BATCH = 4096
# Compiling takes some seconds to a minute: a tenth of a millisecond a step must pay for it.
_COMPILE_FROM_STEPS = 50_000
_MOST_EXACT = 2.0**51


class DpTrainer:
    """Trains a model under a plan: `plan.local_steps` noisy steps for each call of `train`.

    One step, with C = `max_grad_norm`, q = `sample_rate`, z = `noise_multiplier`:
    every patient is taken with probability q, independently (all of them when q = 1); the gradient of each one's
    loss is bounded to a 2-norm of at most C over all trainable parameters, in the way that `plan.clipping` says (a
    gradient or loss that is not finite counts as zero); to their sum Gaussian noise of standard deviation z·C is
    added, also when nobody was taken, and the noised sum is rounded to a lattice that is fine beside the noise; the
    result over q · `expected_patients` is the gradient of SGD with heavy-ball momentum. Adding or removing one
    patient changes the sum by at most C, so the step costs one (Poisson-sampled) Gaussian mechanism of
    `plan.step_noise_multiplier`. For adaptive clipping C is the step's bound and the step answers a count too: see
    `gemel.privacy.engine.clipping`.

    Rounding what was noised costs nothing and changes nothing of the privacy (it is post-processing), and it takes the
    low-order bits away, which tell what a float was added to (Mironov, CCS 2012).

    Momentum and the adaptive bound live within one call of `train`: they are computed from what was noised already.
    Source: Abadi et al., CCS 2016.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        *,
        noise: NoiseSource,
        expected_patients: float,
        physical_batch: int = PHYSICAL_BATCH,
        compile_steps: bool | None = None,
        noise_beside: bool | None = None,
    ) -> None:
        """Take a plan.

        Args:
            plan: The training part of the signed study.
            noise: Where sampling and noise come from.
            expected_patients: A public or already noised number of patients, never the true one.
            physical_batch: How many patients' gradients are held in memory at once.
            compile_steps: Turn the steps into machine code (needs a C++ compiler; without one they run as they are);
                None: when there are very many. Results agree up to rounding.
            noise_beside: Draw noise in a second thread; None: where it pays.

        Raises:
            GemelError: GEM305 for a plan without noise or limits. (Noise 0 is for tests: it is taken only
                from a source that is not secure.)
        """
        numbers = (plan.noise_multiplier, plan.max_grad_norm, expected_patients, plan.learning_rate)
        if not all(math.isfinite(number) and number >= 0 for number in numbers) or physical_batch < 1:
            raise GemelError("GEM305", f"Not a plan to train by: {plan}, {expected_patients} patients.")
        if plan.max_grad_norm == 0 or expected_patients == 0 or not 0 < plan.sample_rate <= 1:
            raise GemelError("GEM305", f"Not a plan to train by: {plan}, {expected_patients} patients.")
        counted = plan.clipping is not Clipping.ADAPTIVE or plan.quantile_noise_multiplier > 0
        if (plan.noise_multiplier == 0 or not counted) and noise.is_secure:
            raise GemelError("GEM305", "A plan without noise gives no privacy.")
        self._plan = plan
        self._noise = noise
        self._expected_patients = expected_patients
        self._physical_batch = physical_batch
        self._compile_steps = compile_steps
        self._noise_beside = noise_beside
        self._last: tuple[object, PatientSums] | None = None
        self._last_compiled: tuple[PatientSums, object, object, CompiledStep | None] | None = None

    def train(self, model: nn.Module, patients: Mapping[str, Tensor], *, pull: Pull | None = None) -> None:
        """Train in place. `model(batch)` gives the loss of each patient, shape (B,).

        Shapes: every tensor of `patients` has one row for each patient, all that belongs to them (their whole history).
        Patients are moved to the model's device. `pull` is what a federated optimiser adds to each noised gradient;
        it costs no privacy. Raises GEM306 when the model couples patients or has no per-patient gradient, GEM403 for
        a pull that does not fit; then nothing was changed.
        """
        check_trainable(model)
        count = _patient_count(patients)
        trained = [p for p in model.parameters() if p.requires_grad]
        device = trained[0].device
        patients = {name: tensor.to(device) for name, tensor in patients.items()}
        sums = self._sums(model, patients, count)
        with torch.no_grad():
            weights = torch.cat([p.detach().reshape(-1) for p in trained])
            pulled = None if pull is None else pull.on(model, like=weights)
            self._steps(sums, weights, [p.shape for p in trained], patients, count, pulled)
            for parameter, value in zip(trained, _views(weights, [p.shape for p in trained]), strict=True):
                parameter.copy_(value)

    def _steps(
        self,
        sums: PatientSums,
        weights: Tensor,
        shapes: list[torch.Size],
        patients: Mapping[str, Tensor],
        count: int,
        pull: FlatPull | None,
    ) -> None:
        """All steps, on the flat vector of weights in place."""
        plan, divisor = self._plan, self._expected_patients * self._plan.sample_rate
        views, momentum = _views(weights, shapes), torch.zeros_like(weights)
        adaptive = AdaptiveBound(plan, expected_batch=divisor) if plan.clipping is Clipping.ADAPTIVE else None
        bound = torch.tensor(plan.max_grad_norm, dtype=torch.float64, device=weights.device)
        size = len(weights) + (adaptive is not None)
        # The compiled step is the whole step, and knows no pull.
        compiled = self._compiled(sums, weights, shapes, patients, count) if pull is None else None
        samples = self._samples(count)
        with normals(self._noise, size=size, steps=plan.local_steps, beside=self._noise_beside) as draws:
            for rows, drawn in zip(samples, draws, strict=True):
                noise, sigma = drawn[: len(weights)], plan.noise_multiplier * float(bound)
                done = None
                if compiled is not None and rows is not None and 0 < len(rows) <= compiled.size:
                    done = compiled(weights, momentum, rows, noise, bound, sigma)
                if done is not None:
                    weights.copy_(done[0])
                    momentum, centred = done[1:]
                else:
                    total, centred = sums(views, patients, rows, bound)
                    _add_noise(total, torch.from_numpy(noise).to(weights.device), sigma)
                    momentum.mul_(plan.momentum).add_(total, alpha=1 / divisor)
                    if pull is not None:
                        momentum.add_(pull.at(weights))
                    weights.add_(momentum, alpha=-plan.learning_rate)
                if adaptive is not None:
                    adaptive.move(float(centred) + adaptive.count_noise * float(drawn[-1]))
                    bound.fill_(adaptive.value)

    def _compiled(
        self,
        sums: PatientSums,
        weights: Tensor,
        shapes: list[torch.Size],
        patients: Mapping[str, Tensor],
        count: int,
    ) -> CompiledStep | None:
        """The step as machine code, if that is asked for and works; kept with the sums."""
        plan = self._plan
        if not self._compiles_steps() or not count:
            return None
        key = tuple((tensor.data_ptr(), tensor.shape) for tensor in patients.values())
        if self._last_compiled is None or self._last_compiled[0] is not sums or self._last_compiled[1] != key:
            summed, fixed = sums.as_function()
            divisor = self._expected_patients * plan.sample_rate
            step = CompiledStep.build(
                summed,
                shapes=shapes,
                fixed=fixed,
                patients=patients,
                update=Update(plan.learning_rate, plan.momentum, divisor),
                weights=weights,
                size=min(usual_sample(count * plan.sample_rate), self._physical_batch),
            )
            self._last_compiled = (sums, key, patients, step)
        return self._last_compiled[3]

    def _samples(self, count: int) -> Iterator[NDArray[np.int64] | None]:
        plan = self._plan
        if plan.sample_rate == 1:
            return iter([None] * plan.local_steps)
        return poisson_samples(self._noise, rate=plan.sample_rate, patients=count, steps=plan.local_steps)

    def _sums(self, model: nn.Module, patients: Mapping[str, Tensor], count: int) -> PatientSums:
        """Recorded programs are kept for the next call with the same model and shapes."""
        rows = tuple((name, t.dtype, t.device, t.shape[1:]) for name, t in patients.items())
        tensors = tuple(
            (name, p.requires_grad, p.dtype, p.device, p.shape) for name, p in model.named_parameters()
        )
        modules = tuple((module, module.training) for module in model.modules())
        key = (modules, tensors, rows, count)
        if self._last is None or self._last[0] != key:
            sums = PatientSums(model, patients, clipping=self._plan.clipping, workload=self._workload(count))
            self._last = (key, sums)
        return self._last[1]

    def _compiles(self) -> bool:
        if self._compile_steps is None:
            return self._plan.local_steps >= _COMPILE_FROM_STEPS
        return self._compile_steps

    def _compiles_steps(self) -> bool:
        """Whole steps: of samples of about one size, to which noise is added."""
        return self._compiles() and self._plan.sample_rate < 1 and self._plan.noise_multiplier > 0

    def _workload(self, count: int) -> Workload:
        plan = self._plan
        return Workload(
            steps=plan.local_steps,
            expected_batch=count * plan.sample_rate,
            sampled=plan.sample_rate < 1,
            physical_batch=self._physical_batch,
            machine_code=self._compiles() and not self._compiles_steps(),
        )


def _add_noise(total: Tensor, noise: Tensor, sigma: float) -> None:
    """total + σ · noise, rounded to the lattice of σ, in place; float64."""
    if sigma == 0:
        return
    total.add_(noise, alpha=sigma)
    # Adding and taking away 1.5 · 2^52 of the lattice's units rounds to a whole number of them.
    shift = 3 * _MOST_EXACT * lattice_spacing(sigma)
    total.add_(shift).sub_(shift)


def _views(weights: Tensor, shapes: list[torch.Size]) -> list[Tensor]:
    parts = torch.split(weights, [shape.numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def _patient_count(patients: Mapping[str, Tensor]) -> int:
    counts = {len(tensor) for tensor in patients.values()}
    if len(counts) != 1:
        raise GemelError("GEM306", f"Every tensor needs one row for each patient, got {sorted(counts)} rows.")
    return counts.pop()
