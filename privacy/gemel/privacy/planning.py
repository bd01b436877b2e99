"""Divide a study's (ε, δ) among its releases: noise multipliers that spend it all, and never more."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec

from gemel.core.errors import GemelError
from gemel.core.mechanism import (
    Charge,
    Share,
    charge_for,
    is_evaluation,
    joint_noise_multiplier,
    mechanisms_by_patient,
    noisy_steps,
    noisy_tables,
)
from gemel.core.strategy_plan import Personalisation
from gemel.core.study import Clipping, PrivacyPlan, Study
from gemel.core.synthesis_plan import ROUNDS, SynthesisPlan
from gemel.core.trajectory_plan import TrajectoryPlan
from gemel.privacy.accounting import epsilon as epsilon_of

TOLERANCE = 1e-3
_MOST_DELTA = 1e-3  # as in a study
_GRAIN = 10.0**6  # multipliers have six decimals
_MAX_EVALUATIONS = 60
# Of what trajectories get, the table of strata's part.
_STRATA_PART = 0.05


class Shares(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the budget is divided, in units of 1/σ² (what Gaussian releases add up in).

    A patient of the training half pays for the count, training, synthesis and trajectories, which sum to 1. A held-out patient pays
    for the count and the metrics: at most 1 too, and just that unless told.
    For training with a sample rate below 1 the share is nominal (the central limit cost of sampling).
    Of the share of `trajectories`, which a study without them leaves at 0, a twentieth is the table of strata's.
    `quantile` is the part of training's share that adaptive clipping spends on its quantile; 0 parts for other clipping.
    """

    training: float = 0.7
    synthesis: float = 0.25
    count: float = 0.05
    metrics: float | None = None
    quantile: float = 0.05
    trajectories: float = 0.0

    @property
    def metrics_share(self) -> float:
        """What the metrics take: what was told, or all that the count leaves."""
        return 1 - self.count if self.metrics is None else self.metrics

    def with_trajectories(self, share: float) -> Shares:
        """The same division of all but a share, which trajectories get."""
        rest = 1 - share
        return msgspec.structs.replace(
            self,
            training=self.training * rest,
            synthesis=self.synthesis * rest,
            count=self.count * rest,
            metrics=None if self.metrics is None else min(self.metrics, 1 - self.count * rest),
            trajectories=share,
        )


class NoisePlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Noise multipliers of one training step, one metrics table, all of synthesis as one, the count; their ε.

    `visits` and `strata`, of one step and the one table of trajectories, are 0 without them. `quantile` is the multiplier of adaptive clipping's quantile, 0 for other clipping; `training` then the sum's alone.
    """

    training: float
    metrics: float
    synthesis: float
    count: float
    epsilon: float
    quantile: float = 0.0
    visits: float = 0.0
    strata: float = 0.0

    def privacy_plan(self, *, epsilon: float, delta: float) -> PrivacyPlan:
        """The part of a study that names this noise, with the ε that it states."""
        return PrivacyPlan(
            epsilon=epsilon,
            delta=delta,
            count_noise_multiplier=self.count,
            metrics_noise_multiplier=self.metrics,
            synthesis_noise_multiplier=self.synthesis,
        )


def plan(
    *,
    epsilon: float,
    delta: float,
    rounds: int,
    local_steps: int,
    metrics_tables: int,
    shares: Shares,
    synthesis: SynthesisPlan | None = None,
    sample_rate: float = 1.0,
    clipping: Clipping = Clipping.FLAT,
    fixed: Sequence[Charge] = (),
    evaluations: int = 1,
    twins: int = 1,
    trajectories: TrajectoryPlan | None = None,
) -> NoisePlan:
    """Solve for the noise that makes the whole study cost at most `epsilon`, and at least `epsilon` - 1e-3.

    One factor scales all shares; multipliers are rounded up to six decimals, and what is returned was accounted
    after that rounding: `accounting.price(study.charges(), delta=delta) <= epsilon`. Metrics without a share of their
    own get what is left of `epsilon` for a held-out patient. `fixed` charges (statistics, with noise of their own) are part of the
    price. `evaluations` tasks release metrics, each all of `metrics_tables`; `twins` is 2 where a personal twin takes steps of its
    own; `synthesis` and `trajectories` divide their shares: `planned_study` reads all from a study. Raises GEM305 where no noise in the allowed range meets the request.
    """
    if min(evaluations, twins) < 1:
        raise GemelError("GEM305", f"Out of range: {evaluations=}, {twins=}.")
    metrics_tables, local_steps = metrics_tables * evaluations, local_steps * twins
    counts = (rounds, local_steps, metrics_tables)
    if not (0 < epsilon <= 100 and 0 < delta <= _MOST_DELTA and 0 < sample_rate <= 1 and min(counts) >= 1):
        raise GemelError("GEM305", f"Out of range: {epsilon=}, {delta=}, {sample_rate=}, {counts=}.")
    _check_shares(shares, trajectories)
    quantile = shares.quantile if clipping is Clipping.ADAPTIVE else 0.0

    def cost(noise: NoisePlan) -> dict[Share, float]:
        own = _charges(noise, *counts, synthesis, trajectories, sample_rate=sample_rate)
        paid = mechanisms_by_patient((*fixed, *own))
        return {share: epsilon_of(mechanisms, delta=delta) for share, mechanisms in paid.items()}

    def scaled(log_scale: float) -> NoisePlan:
        noise = _divide(shares, math.exp(log_scale), *counts, sample_rate=sample_rate, quantile=quantile)
        noise = _divide_trajectories(noise, shares.trajectories * math.exp(log_scale), trajectories)
        costs = cost(noise)
        # Metrics that take what is left are solved for afterwards.
        paid = costs[Share.TRAINING] if shares.metrics is None else max(costs.values())
        return msgspec.structs.replace(noise, epsilon=paid)

    def with_metrics(log_precision: float) -> NoisePlan:
        metrics = _round_up(math.sqrt(metrics_tables / math.exp(log_precision)))
        changed = msgspec.structs.replace(noise, metrics=metrics)
        return msgspec.structs.replace(changed, epsilon=cost(changed)[Share.HELD_OUT])

    try:
        all_of_it = _gaussian_mu(epsilon, delta) ** 2
        noise = _solve(scaled, epsilon, start=math.log(all_of_it))
        if shares.metrics is None:
            noise = _solve(with_metrics, epsilon, start=math.log(max(all_of_it - noise.count**-2, 1e-9)))
        return msgspec.structs.replace(noise, epsilon=max(cost(noise).values()))
    except GemelError as error:
        message = f"No noise meets epsilon={epsilon} at delta={delta}: {error.message}"
        raise GemelError("GEM305", message) from error


def planned_study(study: Study, *, shares: Shares) -> Study:
    """The study with the noise at which all of its tasks together cost its ε, whatever its noise was.

    Every task is in: statistics at their own noise, each validation, personal twins, the cross-site matrix. Raises GEM305
    as `plan` does.
    """
    training, privacy = study.training, study.privacy
    noise = plan(
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        rounds=training.rounds,
        local_steps=training.local_steps,
        metrics_tables=study.metrics_tables,
        shares=shares,
        synthesis=study.synthesis,
        sample_rate=training.sample_rate,
        clipping=training.clipping,
        fixed=tuple(study.charge(task) for task in study.tasks if task == "describe"),
        evaluations=sum(map(is_evaluation, study.tasks)),
        twins=2 if study.strategy.personalisation is Personalisation.DITTO else 1,
        trajectories=study.trajectories,
    )
    trajectories = study.trajectories
    if trajectories is not None:
        trajectories = msgspec.structs.replace(
            trajectories, noise_multiplier=noise.visits, strata_noise_multiplier=noise.strata
        )
    return msgspec.structs.replace(
        study,
        training=msgspec.structs.replace(
            training, noise_multiplier=noise.training, quantile_noise_multiplier=noise.quantile
        ),
        privacy=noise.privacy_plan(epsilon=privacy.epsilon, delta=privacy.delta),
        trajectories=trajectories,
    )


def _divide(
    shares: Shares,
    scale: float,
    rounds: int,
    local_steps: int,
    metrics_tables: int,
    *,
    sample_rate: float,
    quantile: float,
) -> NoisePlan:
    """The shares of a precision, `scale`, as noise; its ε is not yet known."""
    step = _step_multiplier(shares.training * scale / (rounds * local_steps), sample_rate)
    return NoisePlan(
        training=_round_up(step / math.sqrt(1 - quantile)),
        quantile=_round_up(step / math.sqrt(quantile)) if quantile else 0.0,
        metrics=_round_up(math.sqrt(metrics_tables / (shares.metrics_share * scale))),
        synthesis=_round_up(1 / math.sqrt(shares.synthesis * scale)),
        count=_round_up(math.sqrt(1 / (shares.count * scale))),
        epsilon=math.inf,
    )


def _divide_trajectories(noise: NoisePlan, precision: float, plan: TrajectoryPlan | None) -> NoisePlan:
    if plan is None:
        return noise
    steps = (1 - _STRATA_PART) * precision / (plan.rounds * plan.local_steps)
    return msgspec.structs.replace(
        noise,
        visits=_round_up(1 / math.sqrt(steps)),
        strata=_round_up(1 / math.sqrt(_STRATA_PART * precision)),
    )


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `solve_noise` found, with the public numbers that it chose."""

    noise: NoisePlan
    delta: float
    sample_rate: float
    cohort_order: int


def solve_noise(
    *,
    epsilon: float,
    rounds: int,
    local_steps: int,
    cohort: int,
    batch: int | None = None,
    delta: float | None = None,
    metrics_tables: int = 1,
    synthesis: SynthesisPlan | None = None,
    shares: Shares | None = None,
    clipping: Clipping = Clipping.FLAT,
    evaluations: int = 1,
    twins: int = 1,
) -> Answer:
    """The noise for a budget, before there is a study: δ and the sample rate follow from the cohort's order of magnitude.

    `cohort` is about how many patients a hospital has: declared, never counted for this (`delta_for`). `batch` is how
    many patients a step would take on average if the cohort were as large as its order; without it, all of them. The
    rest is as for `plan`.

    Raises GEM305 when the request is out of range, or no noise meets it.
    """
    order = order_of(cohort)
    if batch is not None and not 1 <= batch <= order:
        raise GemelError("GEM305", f"A batch is 1 to {order} patients for about {cohort}, got {batch}.")
    sample_rate = 1.0 if batch is None else batch / order
    delta = delta_for(cohort) if delta is None else delta
    noise = plan(
        epsilon=epsilon,
        delta=delta,
        rounds=rounds,
        local_steps=local_steps,
        metrics_tables=metrics_tables,
        shares=Shares() if shares is None else shares,
        synthesis=synthesis,
        sample_rate=sample_rate,
        clipping=clipping,
        evaluations=evaluations,
        twins=twins,
    )
    return Answer(noise=noise, delta=delta, sample_rate=sample_rate, cohort_order=order)


def order_of(cohort: int) -> int:
    """The power of ten that a cohort of about this size does not pass.

    >>> order_of(740), order_of(1000), order_of(1001)
    (1000, 1000, 10000)
    """
    if not 1 <= cohort <= 10**9:
        raise GemelError("GEM305", f"A cohort is 1 to 1e9 patients, got {cohort}.")
    return 10 ** len(str(cohort - 1)) if cohort > 1 else 1


def delta_for(cohort: int) -> float:
    """δ for a cohort of about this size: a tenth of one over its order, at most 1e-3.

    A δ worked out from the exact number of patients would publish that number, and with it whether one patient is
    there. This one takes what somebody declared, and of that the order only: it is the same for nearly all
    neighbouring sizes, and changes at powers of ten, which are public. Were it given the true number, a change
    would tell that there are at most 1000 patients rather than 1001, say: so it never is.

    >>> delta_for(740), delta_for(5000)
    (0.0001, 1e-05)
    """
    return min(_MOST_DELTA, 1 / (10 * order_of(cohort)))


def _check_shares(shares: Shares, trajectories: TrajectoryPlan | None) -> None:
    parts = (shares.training, shares.synthesis, shares.count)
    asked = shares.trajectories > 0 if trajectories is not None else shares.trajectories == 0
    if (
        min(parts) <= 0
        or not asked
        or not math.isclose(math.fsum(parts) + shares.trajectories, 1, abs_tol=1e-9)
    ):
        raise GemelError(
            "GEM305",
            f"Shares of training, synthesis, count, and trajectories where they are asked, must be positive, with sum 1: {shares}.",
        )
    if not 0 < shares.metrics_share <= 1 - shares.count + 1e-9:
        raise GemelError("GEM305", f"The metrics' share must be positive, at most 1 - count: {shares}.")
    if not 0 < shares.quantile < 1:
        raise GemelError("GEM305", f"The quantile's part of training must lie in (0, 1): {shares}.")


def _charges(
    noise: NoisePlan,
    rounds: int,
    local_steps: int,
    metrics_tables: int,
    synthesis: SynthesisPlan | None,
    trajectories: TrajectoryPlan | None,
    *,
    sample_rate: float,
) -> tuple[Charge, ...]:
    """What a study with this noise charges, as `Study.charges`, the rounds taken together."""
    z = joint_noise_multiplier(noise.training, noise.quantile) if noise.quantile else noise.training
    return (
        charge_for("count", noisy_tables(noise.count, 1)),
        charge_for("train", noisy_steps(z, rounds * local_steps, sample_rate=sample_rate)),
        charge_for("evaluate", noisy_tables(noise.metrics, metrics_tables)),
        *_synthesis(noise.synthesis, synthesis),
        *_trajectories(noise, trajectories),
    )


def _synthesis(multiplier: float, plan: SynthesisPlan | None) -> tuple[Charge, ...]:
    """The charges of each round of synthesis; without a plan those of one Gaussian, which they add up to."""
    if plan is None:
        return (charge_for("synthesise", noisy_tables(multiplier, 1)),)
    return tuple(charge_for(task, plan.mechanism(task, multiplier)) for task in ROUNDS)


def _trajectories(noise: NoisePlan, plan: TrajectoryPlan | None) -> tuple[Charge, ...]:
    if plan is None:
        return ()
    noised = msgspec.structs.replace(
        plan, noise_multiplier=noise.visits, strata_noise_multiplier=noise.strata
    )
    return tuple(charge_for(task, noised.mechanism(task)) for task in noised.tasks)


def _solve(at: Callable[[float], NoisePlan], target: float, *, start: float) -> NoisePlan:
    """Regula falsi (Illinois) for log ε, which is almost linear in the log of the scale."""
    tolerance = min(TOLERANCE, target / 100)
    aim = math.log(target - tolerance / 2)
    ends: dict[bool, tuple[float, float]] = {}  # too much or not: (log scale, log ε - aim)
    at_scale, side_before = start, None
    for _ in range(_MAX_EVALUATIONS):
        candidate = at(at_scale)
        if target - tolerance <= candidate.epsilon <= target:
            return candidate
        # Clamped: ε may be 0, or infinite.
        excess = min(max(math.log(max(candidate.epsilon, 1e-9)) - aim, -2.0), 2.0)
        side = excess > 0
        ends[side] = (at_scale, excess)
        if (not side) not in ends:
            at_scale -= 2 * math.copysign(max(abs(excess), 0.01), excess)
            continue
        other_scale, other_excess = ends[not side]
        if side == side_before:
            ends[not side] = (other_scale, other_excess / 2)
            other_excess /= 2
        side_before = side
        at_scale -= excess * (at_scale - other_scale) / (excess - other_excess)
    raise GemelError("GEM305", f"the search ended at epsilon={candidate.epsilon}.")


def _round_up(multiplier: float) -> float:
    return math.ceil(multiplier * _GRAIN) / _GRAIN


def _step_multiplier(precision: float, sample_rate: float) -> float:
    """The noise of one step that costs `precision` (1/σ²): exact for full batches, else by the CLT.

    The central limit of Poisson sampling, q² (exp(1/z²) - 1), is from Bu, Dong, Long & Su, 2020. It only divides
    the budget; what is enforced is the accountant's ε.
    """
    if sample_rate == 1:
        return _round_up(1 / math.sqrt(precision))
    return _round_up(1 / math.sqrt(math.log1p(precision / sample_rate**2)))


def _gaussian_mu(epsilon: float, delta: float) -> float:
    """The μ at which a Gaussian mechanism is exactly (ε, δ)-DP (Balle & Wang, 2018)."""

    def tail(x: float) -> float:
        return math.erfc(x / math.sqrt(2)) / 2

    low, high = 1e-6, 100.0
    for _ in range(60):
        mu = math.sqrt(low * high)
        excess = tail(epsilon / mu - mu / 2) - math.exp(epsilon) * tail(epsilon / mu + mu / 2) > delta
        low, high = (low, mu) if excess else (mu, high)
    return low
