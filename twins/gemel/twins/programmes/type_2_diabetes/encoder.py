"""From what is known of a patient to the parameters of that person, and how sure they are.

Glycaemia at the start is a normal mean of what was measured, each by its precision: the last HbA1c (the older, the less it
says), those before it, fasting glucose, and what people like this have. What is missing has precision 0, so that any subset
will do and the person's spread tells what was there. The response to a class is its published mean effect times what people
like this have more or less of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gemel.core.programme import Programme
from gemel.twins.programmes.type_2_diabetes import DRUG_CLASSES
from gemel.twins.programmes.type_2_diabetes.physiology import (
    DRIFT,
    FULL_FILTRATION_ML_MIN,
    LIFESTYLE,
    RESPONSE,
    Theta,
    resting_product,
)
from gemel.twins.programmes.type_2_diabetes.published_models import (
    BETA_CELL_DECLINE,
    GLYCATION,
    HBA1C_TRANSIT,
    INSULIN_SENSITIVITY,
    MG_DL_PER_MMOL_L,
    POSTPRANDIAL,
    SENSITIVITY_PER_KG,
)

# What is measured of glycaemia, as HbA1c in %: last HbA1c, earlier HbA1c, fasting glucose by WHIG's steady state.
EVIDENCE = ("hba1c_percent", "earlier_hba1c_percent", "fasting_glucose_mg_dl")
# What may change a response; scaled by the programme's public constants, 0 where missing.
MODIFIERS = (
    "age_years",
    "male",
    "body_mass_index_kg_m2",
    "egfr_ml_min",
    "alanine_aminotransferase_u_l",
    "triglycerides_mg_dl",
    "hdl_cholesterol_mg_dl",
)
# Public, rough: what a person with type 2 diabetes who starts a drug has, in HbA1c, and how people differ in it.
TYPICAL_HBA1C, SPREAD_HBA1C = 8.3, 1.3
LOWEST_HBA1C, HIGHEST_HBA1C = 5.0, 16.0
_STALE_DAYS = 90.0
# Where weight was not measured: kg for each kg/m2, and its spread; where neither was: a typical adult with the disease.
_KG_PER_BMI, _BMI_SPREAD_KG, _WEIGHED_SPREAD_KG = 2.85, 9.0, 1.0
_TYPICAL_WEIGHT_KG, _SPREAD_WEIGHT_KG = 90.0, 20.0


@dataclass(frozen=True)
class PersonEncoding:
    """Parameters of B persons, each (B,), and the spread of those in which people still differ, on their scales."""

    theta: Theta
    spread: Theta


def encoder_inputs(programme: Programme, values: NDArray[np.floating]) -> dict[str, NDArray[np.float32]]:
    """What the encoder takes, from raw values (n, d): evidence (n, 3) as HbA1c and whether it is known, and so on."""
    names = programme.feature_names

    def column(name: str) -> NDArray[np.float64]:
        feature = programme.columns[names.index(name)]
        return np.clip(values[:, names.index(name)].astype(np.float64), feature.low, feature.high)

    def scaled(name: str) -> NDArray[np.float64]:
        feature = programme.columns[names.index(name)]
        centre = 0.5 if name == "male" else feature.reference_mean
        return np.nan_to_num((column(name) - centre) / feature.scale)

    glucose = column(EVIDENCE[2]) / MG_DL_PER_MMOL_L
    by_glucose = HBA1C_TRANSIT.value * (GLYCATION.value * glucose + POSTPRANDIAL.value)
    evidence = np.column_stack([column(EVIDENCE[0]), column(EVIDENCE[1]), by_glucose])
    taken = np.column_stack([column(f"earlier_{name}") for name in DRUG_CLASSES]) > 0.5
    given = (np.column_stack([column(name) for name in DRUG_CLASSES]) > 0.5) & ~taken
    weight, spread = _weight(column("body_weight_kg"), column("body_mass_index_kg_m2"))
    filtration = np.nan_to_num(column("egfr_ml_min") / FULL_FILTRATION_ML_MIN, nan=1.0)
    arrays = {
        "evidence": np.nan_to_num(evidence, nan=TYPICAL_HBA1C),
        "evidence_known": np.isfinite(evidence),
        "stale": np.nan_to_num(column("days_since_hba1c")) / _STALE_DAYS,
        "modifiers": np.column_stack([scaled(name) for name in MODIFIERS]).clip(-3, 3),
        "given": given,
        "weight": np.column_stack([weight, spread]),
        "filtration": filtration.clip(0, 1),
    }
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def _weight(
    weight: NDArray[np.float64], bmi: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    by_bmi = np.where(np.isfinite(bmi), _KG_PER_BMI * bmi, _TYPICAL_WEIGHT_KG)
    unsure = np.where(np.isfinite(bmi), _BMI_SPREAD_KG, _SPREAD_WEIGHT_KG)
    weighed = np.isfinite(weight)
    return np.where(weighed, weight, by_bmi), np.where(weighed, _WEIGHED_SPREAD_KG, unsure)


class Encoder(nn.Module):
    """See the module. All parameters start at public constants; none is larger than some units in training.

    Parameters (c classes, m modifiers): deviation (4,), log of the standard deviation of the three kinds of evidence and of a
    quarter's staleness; offset (2,) of the latter two kinds; slope (1,) of fasting glucose; people (m,), what people like this
    have; strength (c,) and strength_by (c, m + 1), log of the response, by modifiers and glycaemia; fade (c,); weight_gain
    (1 + c,), kg a year of everybody and of who starts a class. By how much people differ in response, lifestyle and gain of
    weight is public and stays: see `TypeTwoDiabetesTwin.target_loss`.
    """

    def __init__(self) -> None:
        super().__init__()
        classes, modifiers = len(DRUG_CLASSES), len(MODIFIERS)
        self.deviation = nn.Parameter(torch.tensor([0.45, 0.9, 0.9, 0.4]).log())
        self.offset = nn.Parameter(torch.tensor([-0.3, 0.0]))
        self.slope = nn.Parameter(torch.zeros(1))
        self.people = nn.Parameter(torch.zeros(modifiers))
        self.strength = nn.Parameter(torch.zeros(classes))
        self.strength_by = nn.Parameter(torch.zeros(classes, modifiers + 1))
        self.fade = nn.Parameter(torch.zeros(classes))
        self.weight_gain = nn.Parameter(torch.zeros(1 + classes))

    def forward(self, inputs: Theta) -> PersonEncoding:
        """Encode B persons from `encoder_inputs` as tensors."""
        hba1c, unsure = self.glycaemia(inputs)
        given = inputs["given"]
        modifiers = torch.cat([inputs["modifiers"], (hba1c[:, None] - TYPICAL_HBA1C) / SPREAD_HBA1C], dim=1)
        logs = 2 * torch.tanh((self.strength + modifiers @ self.strength_by.T) / 2)
        sensitivity, function = _shared(resting_product(hba1c))
        higher, lower = (
            (resting_product(hba1c + sign * unsure) / sensitivity).clamp(1e-3, 1 - 1e-3) for sign in (1, -1)
        )
        width = (torch.special.logit(lower) - torch.special.logit(higher)) / 2
        ones = torch.ones_like(hba1c)
        theta = {
            "insulin_sensitivity": sensitivity,
            "beta_cell_function": function,
            "beta_cell_decline": ones * BETA_CELL_DECLINE.value,
            "body_weight": inputs["weight"][:, 0],
            "sensitivity_per_kg": ones * SENSITIVITY_PER_KG.value,
            "glycation": ones * GLYCATION.value,
            "postprandial": ones * POSTPRANDIAL.value,
            "response": ones,
            "lifestyle": ones * 0.0,
            "fade_per_year": given @ self.fade,
            "weight_drift": self.weight_gain[0] + given @ self.weight_gain[1:],
            "filtration": inputs["filtration"],
            **{f"strength_{name}": logs[:, i].exp() for i, name in enumerate(DRUG_CLASSES)},
        }
        differs = {
            "beta_cell_function": width.clamp(0.01, 3.0),
            "beta_cell_decline": ones * BETA_CELL_DECLINE.spread,
            "body_weight": inputs["weight"][:, 1] / inputs["weight"][:, 0],
            "response": ones * RESPONSE.spread,
            "lifestyle": ones * LIFESTYLE.spread,
            "weight_drift": ones * DRIFT.spread,
        }
        return PersonEncoding(theta, differs)

    def glycaemia(self, inputs: Theta) -> tuple[Tensor, Tensor]:
        """HbA1c (%) at the start and its standard deviation, (B,) each."""
        deviation = self.deviation.exp()
        known, evidence = inputs["evidence_known"], inputs["evidence"]
        stale = deviation[3] ** 2 * inputs["stale"]
        variance = deviation[:3] ** 2 + torch.nn.functional.pad(stale[:, None], (0, 2))
        value = torch.stack(
            [
                evidence[:, 0],
                evidence[:, 1] - self.offset[0],
                self.by_glucose(evidence[:, 2]),
            ],
            dim=1,
        )
        like = TYPICAL_HBA1C + inputs["modifiers"] @ self.people
        total = (known / variance).sum(1) + SPREAD_HBA1C**-2
        mean = ((known / variance * value).sum(1) + like * SPREAD_HBA1C**-2) / total
        return mean.clamp(LOWEST_HBA1C, HIGHEST_HBA1C), total**-0.5

    def by_glucose(self, hba1c: Tensor) -> Tensor:
        """What a fasting glucose says of HbA1c, from what WHIG's steady state would have it say: same shape."""
        return TYPICAL_HBA1C + (hba1c - TYPICAL_HBA1C) * self.slope[0].exp() - self.offset[1]


def _shared(product: Tensor) -> tuple[Tensor, Tensor]:
    """Sensitivity and function with this product: the typical sensitivity, but for who would need more than all function."""
    most = 0.75
    sensitivity = (product / most).clamp(INSULIN_SENSITIVITY.value, 0.999)
    return sensitivity, (product / sensitivity).clamp(1e-3, 1 - 1e-3)
