"""The most likely parameters of each patient, with Laplace's normal approximation around them.

For twins with few parameters and smooth likelihoods: from no observation at all to dozens. Every patient is solved alone,
all in one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gemel.core.errors import GemelError
from gemel.twins.assimilation.measurements import MeasurementError, Measurements
from gemel.twins.person_prior import PersonPrior, standard_draws
from gemel.twins.physiology import OdePhysiology
from gemel.twins.solvers import Inputs, Jump, Theta, observed_course, solve_ode

# Log-likelihood (n,) of the patients' measurements under their parameters: each from that patient's row alone.
LogLikelihood = Callable[[Theta, Measurements], Tensor]

_MOST_STEPS = 100
_FLAT = 1e-6  # of the gradient in z: the objective is then within 1e-12 of its minimum
# Observations seldom tell less than nothing: a curvature below this is taken as this (twice the prior's deviation).
_LEAST_CURVATURE = 0.25


@dataclass(frozen=True)
class LaplacePosterior:
    """z is normal: mean (n, p), covariance (n, p, p), where the prior's is 0 and the identity."""

    prior: PersonPrior
    z: Tensor
    covariance: Tensor

    @property
    def theta(self) -> dict[str, Tensor]:
        """The most likely parameters, (n,) each."""
        return self.prior.theta(self.z)

    @property
    def parameters(self) -> Mapping[str, tuple[NDArray[np.float64], ...]]:
        """Of each parameter in which people differ: mean and standard deviation, (n,) each, in its unit."""
        return self.prior.moments(self.z, self.covariance.diagonal(dim1=1, dim2=2).sqrt())

    def draw(self, count: int, *, seed: int) -> dict[str, Tensor]:
        """`count` draws of everybody's parameters: (n * count,) by name, a patient's one after the other.

        A patient's draws depend on the seed and on that patient alone.
        """
        root = torch.linalg.cholesky(self.covariance)
        noise = standard_draws((count, self.z.shape[1]), seed=(seed,), dtype=self.z.dtype)
        return self.prior.theta(self.z[:, None] + noise @ root.transpose(1, 2))


@dataclass(frozen=True)
class MaximumAPosteriori:
    """Newton's method on minus the log posterior of z, damped for each patient alone."""

    log_likelihood: LogLikelihood

    def __call__(self, prior: PersonPrior, measurements: Measurements) -> LaplacePosterior:
        """The posterior. Raises GEM610 when it has no maximum that can be found for some patient."""

        def objective(z: Tensor) -> Tensor:
            return 0.5 * (z**2).sum(1) - self.log_likelihood(prior.theta(z), measurements)

        with torch.no_grad():
            z = _minimum(objective, torch.zeros_like(prior.location))
        _, curvature = _derivatives(objective, z)
        values, vectors = torch.linalg.eigh(curvature)
        inverse = vectors @ torch.diag_embed(1 / values.clamp(min=_LEAST_CURVATURE)) @ vectors.transpose(1, 2)
        return LaplacePosterior(prior, z, (inverse + inverse.transpose(1, 2)) / 2)


def ode_log_likelihood(
    physiology: OdePhysiology,
    errors: Mapping[str, MeasurementError],
    *,
    inputs: Inputs | None = None,
    jumps: tuple[Jump, ...] = (),
) -> LogLikelihood:
    """The likelihood of measurements of an ODE that starts on day 0, each with its error."""

    def log_likelihood(theta: Theta, measurements: Measurements) -> Tensor:
        days = (0.0, *(day for day in measurements.days if day > 0))
        states = solve_ode(physiology, theta, days, inputs=inputs, jumps=jumps)
        place = torch.searchsorted(torch.tensor(days, dtype=torch.float64), measurements.day)
        return course_log_likelihood(observed_course(physiology, theta, states), place, measurements, errors)

    return log_likelihood


def course_log_likelihood(
    course: Mapping[str, Tensor],
    place: Tensor,
    measurements: Measurements,
    errors: Mapping[str, MeasurementError],
) -> Tensor:
    """(n,): of what was measured, given the true course (n, T) by name and which of its times each measurement has."""
    total = torch.zeros_like(next(iter(course.values()))[:, 0])
    for name in measurements.names:
        mine = measurements.is_of(name)
        if mine.any():
            expected = course[name].gather(1, place.clamp(max=course[name].shape[1] - 1))
            density = errors[name].log_density(measurements.value, expected)
            total = total + torch.where(mine, density, 0.0).sum(1)
    return total


def _derivatives(objective: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient (n, p) and Hessian (n, p, p) of every patient: no patient's objective depends on another's z."""
    with torch.enable_grad():
        at = z.detach().requires_grad_()
        (slope,) = torch.autograd.grad(objective(at).sum(), at, create_graph=True)
        columns = [
            torch.autograd.grad(slope[:, i].sum(), at, retain_graph=True)[0] for i in range(z.shape[1])
        ]
    hessian = torch.stack(columns, dim=2)
    return slope.detach(), (hessian + hessian.transpose(1, 2)) / 2


def _minimum(objective: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """Where each patient's objective is least, near z."""
    least = objective(z)
    if not torch.isfinite(least).all():
        raise GemelError(
            "GEM610", "The typical person's likelihood is not finite: check the observations' units."
        )
    damping = torch.full_like(least, 1e-3)
    for _ in range(_MOST_STEPS):
        slope, curvature = _derivatives(objective, z)
        flat = slope.abs().amax(1) < _FLAT
        # A step that no damping lets improve: rounding, not the slope, decides.
        stuck = damping > 1e12
        if bool((flat | stuck).all()):
            break
        values, vectors = torch.linalg.eigh(curvature)
        along = (vectors.transpose(1, 2) @ slope[:, :, None])[:, :, 0]
        step = (vectors @ (along / (values.abs() + damping[:, None]))[:, :, None])[:, :, 0]
        tried = torch.where((flat | stuck)[:, None], z, z - step)
        value = objective(tried)
        better = value <= least
        z = torch.where(better[:, None], tried, z)
        least = torch.where(better, value, least)
        damping = torch.where(better, damping * 0.1, damping * 10).clamp(min=1e-12)
    slope, curvature = _derivatives(objective, z)
    values, vectors = torch.linalg.eigh(curvature)
    along = (vectors.transpose(1, 2) @ slope[:, :, None])[:, :, 0]
    # What one more step would gain. Written so that what is no number fails.
    gain = (along**2 / values.abs().clamp(min=_LEAST_CURVATURE)).sum(1)
    if not bool((gain <= 1e-6 * (1 + least.abs())).all()):
        raise GemelError("GEM610", "No most likely parameters were found for a patient's observations.")
    return z
