"""From a patient's raw values to the columns of the stroke twin: public constants only, nothing fitted on patients."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gemel.core.programme import FeatureKind, Programme
from gemel.twins.design import Design, design_of, scale

# Items of the examination: a hospital that could not assess one writes none.
ITEMS = (
    "consciousness",
    "facial_palsy",
    "arm_weakness",
    "leg_weakness",
    "language_deficit",
    "visual_deficit",
    "neglect",
    "ataxia",
)
AGE_SQUARED, NOT_ASSESSED = "age:squared", "items:missing"
ALLOCATED = ("aspirin", "heparin")
# What says how bad the deficit is; all other columns say what sort of person has it, and what is done.
EXAMINATION = (*ITEMS, NOT_ASSESSED, "infarct_visible", "haemorrhage", "glasgow_coma_scale")
# What an outcome's hazard may use of its own, beside the patient's prognosis at each time.
_OWN = (
    (
        "age_years",
        AGE_SQUARED,
        "male",
        "consciousness",
        "systolic_blood_pressure_mmhg",
        "atrial_fibrillation",
    ),
    ("age_years", "atrial_fibrillation", *ALLOCATED),
    ("age_years", "systolic_blood_pressure_mmhg", *ALLOCATED),
)

# A fixed preconditioner. The bound is on a patient's whole gradient: columns that tell little are shrunk, so that those that tell
# much have more of it; and what is allocated by lot moves slowly, so that its noise averages over all steps.
_FACTOR = 0.5
_FACTORS = {"age_years": 1.0, "consciousness": 1.0, "aspirin": 0.7, "heparin": 0.7, AGE_SQUARED: 0.25}
# One item in twenty is not assessed, usually: the column counts from there, and is 0 where none was asked for.
_MISSING_CENTRE, _MISSING_SCALE = 0.05, 0.125


class StrokeDesign(Design):
    """The scaled features but the total of the NIH Stroke Scale, age squared, and how many items are missing."""

    def columns(self, values: NDArray[np.floating]) -> NDArray[np.float32]:
        """float32 (n, p); a missing value is at its public reference."""
        scaled, missing = scale(self.programme, values)
        names = self.programme.feature_names
        by_name = {name: scaled[:, i] for i, name in enumerate(names)}
        age = by_name["age_years"] = self.age(values)
        by_name[AGE_SQUARED] = age**2 - 1
        items = missing[:, [names.index(item) for item in ITEMS]].mean(axis=1)
        by_name[NOT_ASSESSED] = np.where(items < 1, (items - _MISSING_CENTRE) / _MISSING_SCALE, 0.0)
        columns = [_FACTORS.get(name, _FACTOR) * by_name[name] for name in self.names]
        return np.stack(columns, axis=1).astype(np.float32)

    def age(self, values: NDArray[np.floating]) -> NDArray[np.float32]:
        """float32 (n,): age around the reference, in its scale."""
        kinds = [feature.kind for feature in self.programme.columns]
        feature = self.programme.columns[kinds.index(FeatureKind.AGE)]
        given = values[:, kinds.index(FeatureKind.AGE)].astype(np.float64)
        known = np.where(
            np.isfinite(given), np.clip(given, feature.low, feature.high), feature.reference_mean
        )
        return ((known - feature.reference_mean) / feature.scale).astype(np.float32)

    def chosen(self, names: tuple[str, ...]) -> NDArray[np.float32]:
        """float32 (p,): 1 for the columns of these names."""
        return np.array([name in names for name in self.names], np.float32)


def stroke_design(programme: Programme) -> StrokeDesign:
    """The design of the programme `stroke`."""
    names = (*(f.name for f in programme.columns if f.name != "nihss"), AGE_SQUARED, NOT_ASSESSED)
    usable = np.array([[name in own for name in names] for own in _OWN])
    return StrokeDesign(programme, names, usable, design_of(programme).history, may_be_missing=())
