"""What the twin expects for one patient under two plans, and whether it may say so.

    answer = what_if(twin, values, plan, other_plan, seed=1)

A refusal is an answer: `answer.refused` is then true and `answer.reasons` say why. What kind of claim a difference is stands
beside it: randomised, from the literature, or an association with its E-value.
`associate` is something else: what the twin expects had a *feature* been different. That is an association, never an effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gemel.core.errors import GemelError
from gemel.core.programme import FeatureKind, Programme
from gemel.twins.causal.e_value import EValue, e_value, risk_ratio_of_mean_difference
from gemel.twins.causal.estimand import (
    Basis,
    assumptions_of,
    basis_of,
    horizons_of,
    is_mean,
    treatments_compared,
)
from gemel.twins.causal.paired_course import PairedDifference, paired_differences
from gemel.twins.causal.population_effect import error_and_reach, moved_twins, same
from gemel.twins.causal.precision import Parameters
from gemel.twins.causal.support import Propensity, Reason, SupportEvidence, check_plans
from gemel.twins.design import check_support
from gemel.twins.prediction import Prediction
from gemel.twins.treatment_plan import TreatmentPlan
from gemel.twins.twin import Observations, Twin

_FIXED = (FeatureKind.AGE, FeatureKind.MALE)
PATHS = 1000


@dataclass(frozen=True)
class ExpectedDifference:
    """An endpoint at one horizon: risk (or value) under the plan, under the other, and their difference.

    `interval` is where the difference lies in 95 of 100 cases as far as the twin's parameters go; None where their error is not
    known. `e_value` is that of this patient's ratio: of an association only, and where there is one.
    """

    endpoint: str
    horizon_days: int
    expected: float
    other_expected: float
    e_value: EValue | None
    interval: tuple[float, float] | None = None

    @property
    def difference(self) -> float:
        """Under the plan minus under the other."""
        return self.expected - self.other_expected

    @property
    def is_known(self) -> bool:
        """False when the twin knows of no effect on this endpoint: a difference of 0 that nobody found."""
        return not same(self.expected, self.other_expected)


@dataclass(frozen=True)
class WhatIf:
    """One patient under two plans.

    Attributes:
        basis: What kind of claim this is; None when the plans differ in nothing.
        claim: The same in a sentence. assumptions: What has to hold for it.
        reasons: Why it is refused; empty when it is not, and then the predictions are there.
        propensity: The chance of each plan in people like this one, (1,) each; NaN where nothing here knows it.
        unchecked: What nothing here could check.
        prediction, other_prediction: Under the plan and under the other (first axis 1).
        differences: Each endpoint at each horizon.
        simulated: The same from pairs of simulated futures; empty for a twin fitted to observations, which predicts only.
    """

    plan: TreatmentPlan
    other_plan: TreatmentPlan
    basis: Basis | None
    claim: str
    assumptions: tuple[str, ...]
    reasons: tuple[Reason, ...]
    propensity: Propensity
    unchecked: tuple[str, ...]
    prediction: Prediction | None = None
    other_prediction: Prediction | None = None
    differences: tuple[ExpectedDifference, ...] = ()
    simulated: tuple[PairedDifference, ...] = ()

    @property
    def refused(self) -> bool:
        """Whether the twin may not say."""
        return bool(self.reasons)


def what_if(
    twin: Twin,
    values: NDArray[np.floating],
    plan: TreatmentPlan,
    other_plan: TreatmentPlan,
    *,
    observations: Observations | None = None,
    evidence: SupportEvidence | None = None,
    parameters: Sequence[Parameters] = (),
    paths: int = PATHS,
    seed: int = 0,
) -> WhatIf:
    """Compare one patient, raw values (d,) or (1, d), under two plans.

    Args:
        twin: Any programme's.
        values: The patient's, NaN where missing.
        plan: What a plan does not name stays as it is in the record.
        other_plan: What it is compared with.
        observations: What was seen of the patient since the index date: the twin is fitted to it first (abduction), then
            both plans are tried on the twin so fitted (action, prediction).
        evidence: What is known of the people that the twin learnt from: `LocalSupport` or `ReleasedSupport`.
        parameters: How far the twin's parameters may be off: draws of them (`gemel.twins.causal.precision`).
        paths: Pairs of simulated futures; 0 for none.
        seed: Of their noise.

    Raises GEM603 for a plan that does not fit the programme, GEM604 for observations that the twin does not take.
    """
    programme = twin.programme
    row = np.asarray(values, dtype=np.float64).reshape(1, -1)
    support = check_plans(programme, row, plan, other_plan, evidence=evidence)
    compared = treatments_compared(programme, plan, other_plan)
    basis = basis_of(compared) if compared else None
    reasons = support.reasons(0)
    frame = (plan, other_plan, basis, _CLAIMS[basis], assumptions_of(basis) if basis else ())
    if reasons:
        return WhatIf(*frame, reasons, support.propensity, support.unchecked)
    here, there = _predicted(twin, row, (plan, other_plan), observations)
    if compared and _equal(here, there):
        names = ", ".join(treatment.name for treatment in compared)
        message = f"{names}: the twin expects exactly the same under both plans, so it knows nothing of it."
        return WhatIf(*frame, (Reason("GEM624", message),), support.propensity, support.unchecked)
    simulated = (
        paired_differences(twin, row, plan, other_plan, paths=paths, seed=seed)
        if paths and observations is None
        else ()
    )
    differences = _differences(programme, here, there, basis)
    if len(parameters) > 1:
        again = (_predicted(m, row, (plan, other_plan), observations) for m in moved_twins(twin, parameters))
        moved = [_differences(programme, *pair, None) for pair in again]
        differences = tuple(_with_interval(d, drawn) for d, *drawn in zip(differences, *moved, strict=True))
    return WhatIf(*frame, (), support.propensity, support.unchecked, here, there, differences, simulated)


@dataclass(frozen=True)
class Association:
    """What the twin expects of one patient as is and with other values of some features: no effect of changing them.

    Other features stay as they are (a blood pressure does not fall with the weight), and what made people's values differ in
    the data was not randomised.
    """

    factual: Prediction
    counterfactual: Prediction
    changes: dict[str, float]

    @property
    def difference(self) -> NDArray[np.float64]:
        """(T, k): cumulative incidence with the changed features minus as is."""
        after, before = self.counterfactual.cumulative_incidence, self.factual.cumulative_incidence
        difference: NDArray[np.float64] = after[0] - before[0]
        return difference


def associate(twin: Twin, values: NDArray[np.floating], changes: Mapping[str, float]) -> Association:
    """Compare one patient, raw values (d,) or (1, d), with the same one given other values of some features.

    `changes` maps a feature's name to its new value in the feature's unit. Raises GEM601 for an unknown feature, for age or sex,
    for what a treatment set (that takes a plan), for a feature that the patient lacks, and for values outside the public bounds.
    """
    factual = np.asarray(values, dtype=np.float64).reshape(1, -1)
    counterfactual = factual.copy()
    names = twin.programme.feature_names
    treated = {treatment.feature for treatment in twin.programme.treatments}
    for name, value in changes.items():
        if name not in names or twin.programme.columns[names.index(name)].kind in _FIXED:
            raise GemelError("GEM601", f"{name} is not a feature that can be changed.")
        if name in treated:
            raise GemelError("GEM601", f"{name} is a treatment: compare two plans.")
        if not np.isfinite(value) or not np.isfinite(factual[0, names.index(name)]):
            raise GemelError("GEM601", f"{name} must be known before and after the change.")
        counterfactual[0, names.index(name)] = value
    for given in (factual, counterfactual):
        check_support(twin.programme, given)
    return Association(twin.predict(factual), twin.predict(counterfactual), dict(changes))


def _predicted(
    twin: Twin,
    row: NDArray[np.float64],
    plans: tuple[TreatmentPlan, TreatmentPlan],
    observations: Observations | None,
) -> tuple[Prediction, Prediction]:
    fitted = twin.assimilate(row, observations) if observations is not None else None
    first, second = (
        twin.predict(row, plan=plan) if fitted is None else fitted.predict(plan=plan) for plan in plans
    )
    return first, second


def _with_interval(difference: ExpectedDifference, drawn: Sequence[ExpectedDifference]) -> ExpectedDifference:
    value = difference.difference
    _, reach = error_and_reach([one.difference - value for one in drawn])
    return replace(difference, interval=(value - reach, value + reach))


def _equal(here: Prediction, there: Prediction) -> bool:
    """Whether two predictions are the same in everything: a difference of 0 that nobody learnt or read anywhere."""
    pairs = [
        (here.cumulative_incidence, there.cumulative_incidence),
        *((here.targets[name], there.targets[name]) for name in here.targets),
        *((here.courses[name].mean, there.courses[name].mean) for name in here.courses),
    ]
    return all(same(one, other) for one, other in pairs)


def _differences(
    programme: Programme, here: Prediction, there: Prediction, basis: Basis | None
) -> tuple[ExpectedDifference, ...]:
    found = []
    for endpoint in programme.endpoints:
        if endpoint.target and endpoint.target not in here.targets:
            continue
        if endpoint.outcome and here.prevalent[0, here.outcomes.index(endpoint.outcome)]:
            continue
        risks = here.risk(programme, endpoint)[0], there.risk(programme, endpoint)[0]
        for day, risk, other in zip(horizons_of(programme, endpoint), *risks, strict=True):
            strength = None
            if basis is Basis.ASSOCIATION and not same(risk, other):
                deviation = there.targets[endpoint.target][0, 1] if is_mean(programme, endpoint) else None
                strength = _strength(float(risk), float(other), deviation)
            found.append(ExpectedDifference(endpoint.name, day, float(risk), float(other), strength))
    return tuple(found)


def _strength(expected: float, other: float, deviation: float | None) -> EValue | None:
    """The E-value of one patient's ratio; of a measured value by its standard deviation."""
    if deviation is not None:
        if not deviation > 0:
            return None
        return e_value(risk_ratio_of_mean_difference(expected - other, standard_deviation=deviation))
    return e_value(expected / other) if expected > 0 and other > 0 else None


_CLAIMS: Mapping[Basis | None, str] = {
    Basis.RANDOMISED: (
        "Randomised: treatment was given by lot in the data, so its mean effect is not confounded. That it holds for this "
        "patient rests on the twin."
    ),
    Basis.LITERATURE: "From the literature: the twin has this effect from cited publications, not from its data.",
    Basis.ASSOCIATION: (
        "Observational association: an effect only if the covariates hold all that drove treatment and outcome. The E-value "
        "says how strong what they leave out would have to be."
    ),
    None: "The two plans are the same.",
}
