"""How much of each patient's gradient is kept: flat, layer by layer, or under a bound that follows the norms.

One patient changes a step's sum by at most the bound C in 2-norm, in each kind:

- flat: the whole gradient is scaled to at most C;
- per layer: each of L layers' gradients is scaled to at most C / √L;
- adaptive (Andrew et al., NeurIPS 2021): flat, and the step also answers Σ (b_i - ½) with noise, b_i = 1 where the norm
  was at most C. One patient changes that by ½. Sum and count are answered on one sample: a single Gaussian mechanism,
  with the squared ratios of sensitivity to noise added: 1/z² + 1/z_b², `core.study.joint_noise_multiplier`. From the
  noisy share of patients under the bound, the next step's bound is C · exp(-η (share - target)): post-processing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from gemel.core.study import TrainingPlan

# The bound moves within this factor of where it began: noise alone must not carry it to 0 or out of the floats.
FURTHEST = 1e4


def clip_factors(
    squared: Sequence[Tensor], losses: Tensor, *, bound: Tensor, valid: Tensor
) -> tuple[list[Tensor], Tensor]:
    """What each group's gradients are multiplied by, and each patient's squared norm.

    Args:
        squared: For each group of parameters (B,) float64, the patients' squared norms.
        losses: (B,).
        bound: () float64, the bound over all groups together.
        valid: (B,) float64, 1, and 0 for padding.

    Returns:
        For each group (B,) float64 factors; (B,) float64 squared norms over all groups, not finite where loss or gradient
        is not: then no factor of the batch is to be used.
    """
    share = bound if len(squared) == 1 else bound / math.sqrt(len(squared))
    # The square root's reciprocal of 0 is inf: nothing to bound.
    factors = [(part.rsqrt() * share).clamp(max=1.0) * valid for part in squared]
    whole = squared[0]
    for part in squared[1:]:
        whole = whole + part
    return factors, whole + (losses - losses)


def centred_count(squared: Tensor, *, bound: Tensor, valid: Tensor) -> Tensor:
    """() float64: Σ (b_i - ½) over patients, b_i = 1 where the norm is at most the bound."""
    return (((squared <= bound * bound).double() - 0.5) * valid).sum()


class AdaptiveBound:
    """The bound of each step, and how a noisy count moves it."""

    def __init__(self, plan: TrainingPlan, *, expected_batch: float) -> None:
        self._plan = plan
        self._expected_batch = expected_batch
        self.value = plan.max_grad_norm

    @property
    def count_noise(self) -> float:
        """The standard deviation of the noise on the centred count: its multiplier times the sensitivity ½."""
        return self._plan.quantile_noise_multiplier / 2

    def move(self, noisy_centred_count: float) -> None:
        """Take the noisy count of one step."""
        share = 0.5 + noisy_centred_count / self._expected_batch
        error = min(max(share, 0.0), 1.0) - self._plan.target_quantile
        moved = self.value * math.exp(-self._plan.clip_learning_rate * error)
        start = self._plan.max_grad_norm
        self.value = min(max(moved, start / FURTHEST), start * FURTHEST)
