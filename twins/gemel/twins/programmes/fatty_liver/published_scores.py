"""FIB-4 and the NAFLD fibrosis score, exactly as published, and the age-and-sex model that every gain is set beside."""

from __future__ import annotations

import numpy as np

from gemel.twins.parameters import Mark
from gemel.twins.published_score import Floats, PublishedScore

FIB_4_CUT_OFFS = (1.30, 2.67)
NFS_CUT_OFFS = (-1.455, 0.676)

_AST, _ALT, _PLATELETS = (
    "aspartate_aminotransferase_u_l",
    "alanine_aminotransferase_u_l",
    "platelets_10e9_l",
)


def fib_4(age_years: Floats, ast_u_l: Floats, alt_u_l: Floats, platelets_10e9_l: Floats) -> Floats:
    """FIB-4 = age x AST / (platelets x sqrt(ALT)); below 1.30 advanced fibrosis is unlikely, above 2.67 likely.

    >>> float(round(fib_4(np.array([60.0]), np.array([40.0]), np.array([36.0]), np.array([200.0]))[0], 3))
    2.0
    """
    return np.asarray(age_years * ast_u_l / (platelets_10e9_l * np.sqrt(alt_u_l)), np.float64)


def nafld_fibrosis_score(
    age_years: Floats,
    bmi_kg_m2: Floats,
    diabetes: Floats,
    ast_u_l: Floats,
    alt_u_l: Floats,
    platelets_10e9_l: Floats,
    albumin_g_dl: Floats,
) -> Floats:
    """The NAFLD fibrosis score; below -1.455 advanced fibrosis is unlikely, above 0.676 likely.

    `diabetes` is 1 with diabetes or impaired fasting glucose: the programme knows diabetes only.
    """
    score = -1.675 + 0.037 * age_years + 0.094 * bmi_kg_m2 + 1.13 * diabetes
    score = score + 0.99 * ast_u_l / alt_u_l - 0.013 * platelets_10e9_l - 0.66 * albumin_g_dl
    return np.asarray(score, np.float64)


FIB_4 = PublishedScore(
    name="fib_4",
    title="FIB-4",
    source="Sterling RK et al., Hepatology 2006;43:1317; cut-offs 1.30 and 2.67",
    mark=Mark.SECOND_HAND,
    endpoint="death",
    formula=lambda c: fib_4(c["age_years"], c[_AST], c[_ALT], c[_PLATELETS]),
    inputs=("age_years", _AST, _ALT, _PLATELETS),
)
NFS = PublishedScore(
    name="nafld_fibrosis_score",
    title="NAFLD fibrosis score",
    source="Angulo P et al., Hepatology 2007;45:846; cut-offs -1.455 and 0.676",
    mark=Mark.SECOND_HAND,
    endpoint="death",
    formula=lambda c: nafld_fibrosis_score(
        c["age_years"],
        c["body_mass_index_kg_m2"],
        c["diabetes_history"],
        c[_AST],
        c[_ALT],
        c[_PLATELETS],
        c["albumin_g_dl"],
    ),
    inputs=(
        "age_years",
        "body_mass_index_kg_m2",
        "diabetes_history",
        _AST,
        _ALT,
        _PLATELETS,
        "albumin_g_dl",
    ),
)
# Cox model of death on age, sex and fatty liver, all 17,549 people: a year of age 1.105, male 1.45.
AGE_AND_SEX = PublishedScore(
    name="age_and_sex",
    title="Age and sex",
    source="pooled Cox model of Olmsted County (nafld1): hazard ratios 1.105 for a year of age, 1.45 for male sex",
    mark=Mark.COMPUTED,
    endpoint="death",
    formula=lambda c: np.log(1.105) * (c["age_years"] - 55) + np.log(1.45) * c["male"],
    inputs=("age_years", "male"),
)
BASELINES = (FIB_4, NFS, AGE_AND_SEX)
