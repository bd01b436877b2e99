"""From a patient's raw values to the inputs of a twin: public constants only, nothing fitted on patients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gemel.core.errors import GemelError
from gemel.core.programme import Feature, FeatureKind, Missing, Outcome, OutcomeKind, Programme

# Chronic-disease events happen at about 10 years above the mean age of an adult cohort. Centring age there
# parts the age slope from the level, which is what plain gradient steps need. Public; not fitted on patients.
EVENT_AGE_SHIFT = 0.7
# A fixed diagonal preconditioner. Clipping bounds the whole gradient of a patient, so columns with long tails
# (measurements, squares, products with age) are shrunk: what they take of the bound the others cannot use.
MEASURED_SCALE = 0.7
PRODUCT_SCALE = 0.7
AGE_SQUARED_SCALE = 0.5


@dataclass(frozen=True)
class Design:
    """The columns of a twin's linear predictor, and what each outcome may use.

    Attributes:
        names: p column names: scaled features, missingness of measured ones, age squared, age times sex and
            times the history of each outcome.
        usable: bool (k, p); false where the column is the outcome's own history: who has it is not at risk.
        history: for each outcome the index of the feature that says it was there at the start, or None.
        may_be_missing: the indices of the measured features that have a column for being missing.
        apart: features that are no columns here, because a physiology reads them.
    """

    programme: Programme
    names: tuple[str, ...]
    usable: NDArray[np.bool_]
    history: tuple[int | None, ...]
    may_be_missing: tuple[int, ...]
    apart: frozenset[str] = frozenset()

    def columns(self, values: NDArray[np.floating]) -> NDArray[np.float32]:
        """float32 (n, p) from raw values (n, d): clipped to public bounds, scaled, missing set to 0."""
        scaled, missing = scale(self.programme, values)
        features = self.programme.columns
        measured = np.isin(np.arange(len(features)), self.may_be_missing)
        read = np.array([feature.name not in self.apart for feature in features], dtype=bool)
        parts = [(scaled * np.where(measured, MEASURED_SCALE, 1))[:, read], missing[:, measured]]
        age = scaled[:, [feature.kind is FeatureKind.AGE for feature in features]]
        if age.shape[1]:
            flags = scaled[:, _modified_by_age(self.programme)]
            parts += [AGE_SQUARED_SCALE * (age**2 - 1), PRODUCT_SCALE * age * flags]
        return np.concatenate(parts, axis=1).astype(np.float32)

    def age(self, values: NDArray[np.floating]) -> NDArray[np.float32]:
        """float32 (n,): scaled age; zeros when the programme has no age feature."""
        kinds = [feature.kind for feature in self.programme.columns]
        if FeatureKind.AGE not in kinds:
            return np.zeros(len(values), dtype=np.float32)
        scaled, _ = scale(self.programme, values)
        return scaled[:, kinds.index(FeatureKind.AGE)]

    def prevalent(self, values: NDArray[np.floating]) -> NDArray[np.bool_]:
        """bool (n, k): which outcomes the patient's history features say were there at the start."""
        present = np.zeros((len(values), len(self.history)), dtype=bool)
        for j, column in enumerate(self.history):
            if column is not None:
                present[:, j] = np.nan_to_num(values[:, column]) > 0.5
        return present


def design_of(programme: Programme, *, apart: frozenset[str] = frozenset()) -> Design:
    """The design that follows from a programme's declaration alone, without the features that only a physiology reads."""
    features = programme.columns
    names = [feature.name for feature in features if feature.name not in apart]
    may_be_missing = tuple(
        i for i, feature in enumerate(features) if feature.name not in apart and _may_be_missing(feature)
    )
    names += [f"{features[i].name}:missing" for i in may_be_missing]
    if any(feature.kind is FeatureKind.AGE for feature in features):
        names += ["age:squared", *(f"age:{features[i].name}" for i in _modified_by_age(programme))]
    history = tuple(_history_of(programme, outcome) for outcome in programme.outcomes)
    usable = np.ones((len(history), len(names)), dtype=bool)
    for j, column in enumerate(history):
        if column is not None:
            own = (features[column].name, f"age:{features[column].name}")
            usable[j] = [name not in own for name in names]
    return Design(programme, tuple(names), usable, history, may_be_missing, apart)


def scale(
    programme: Programme, values: NDArray[np.floating]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(scaled, missing), both float32 (n, d): scaled is 0 where the value is missing."""
    if values.ndim != 2 or values.shape[1] != len(programme.columns):
        raise GemelError("GEM601", f"Expected (n, {len(programme.columns)}) values, got {values.shape}.")
    low, high, centre, spread = (
        np.array([getattr(feature, name) for feature in programme.columns], dtype=np.float32)
        for name in ("low", "high", "reference_mean", "scale")
    )
    # A sex flag is centred so that it does not move with the level; age is centred where events happen.
    centre = centre + np.array(
        [
            0.5 if f.kind is FeatureKind.MALE else EVENT_AGE_SHIFT * f.scale * (f.kind is FeatureKind.AGE)
            for f in programme.columns
        ],
        dtype=np.float32,
    )
    missing = ~np.isfinite(values)
    clipped = np.clip(np.where(missing, centre, values), low, high)
    scaled = np.where(missing, 0, (clipped - centre) / spread)
    return scaled.astype(np.float32), missing.astype(np.float32)


def check_support(programme: Programme, values: NDArray[np.floating]) -> None:
    """Refuse (GEM601, naming the feature) values outside the public bounds; a missing value is inside."""
    for column, feature in enumerate(programme.columns):
        given = values[:, column]
        outside = np.isfinite(given) & ((given < feature.low) | (given > feature.high)) | np.isinf(given)
        if outside.any():
            raise GemelError(
                "GEM601",
                f"{feature.name} = {given[outside][0]:g} {feature.unit} is outside {feature.low:g} to "
                f"{feature.high:g}.",
            )


def _may_be_missing(feature: Feature) -> bool:
    """Whether a patient may have no value: measured, and not a reason to be out of the cohort. Age and sex are not measured."""
    return feature.missing_policy is Missing.MASK and feature.kind not in (FeatureKind.AGE, FeatureKind.MALE)


def _modified_by_age(programme: Programme) -> list[int]:
    """Features whose effect may change with age: sex, and the histories of the outcomes."""
    histories = {_history_of(programme, outcome) for outcome in programme.outcomes}
    return [i for i, f in enumerate(programme.columns) if f.kind is FeatureKind.MALE or i in histories]


def _history_of(programme: Programme, outcome: Outcome) -> int | None:
    if outcome.kind is OutcomeKind.NEXT_DIAGNOSIS:
        return None  # an earlier one is a risk factor of the next, not its end
    for column, feature in enumerate(programme.columns):
        if feature.kind is FeatureKind.PRESENT and set(feature.concepts) == set(outcome.concepts):
            return column
    return None
