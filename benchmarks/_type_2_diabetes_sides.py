"""What the twin of type 2 diabetes is set beside: linear models of one hospital, and what truly would have happened."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau
from sklearn.linear_model import LinearRegression, RidgeCV

from gemel.core.dataset import Dataset
from gemel.twins.programmes.type_2_diabetes import DRUG_CLASSES, PROGRAMME
from gemel.twins.programmes.type_2_diabetes.simulated_people import SITES, Form, Site
from gemel.twins.programmes.type_2_diabetes.simulated_records import (
    SimulatedHospital,
    dataset_of,
    rows_in_order,
    simulated_hospitals,
)

Floats = NDArray[np.float64]
# From raw values (n, d) to HbA1c after 6 months (n,).
Predictor = Callable[[Floats], Floats]
TARGET = PROGRAMME.target_names.index("hba1c_182")
# The covariates of the five-drug form: drug times each of these.
FIVE_DRUG = (
    "hba1c_percent",
    "egfr_ml_min",
    "alanine_aminotransferase_u_l",
    "body_mass_index_kg_m2",
    "age_years",
    "male",
)
EVERYTHING = tuple(name for name in PROGRAMME.feature_names if name not in DRUG_CLASSES)
_PENALTIES = np.logspace(-2, 3, 20)


def column(values: Floats, name: str) -> Floats:
    """A column of raw values."""
    return values[:, PROGRAMME.feature_names.index(name)].astype(np.float64)


def started(values: Floats) -> Floats:
    """(n, classes) 0/1: given on the index date, and not before."""
    given = np.column_stack([column(values, name) for name in DRUG_CLASSES]) > 0.5
    earlier = np.column_stack([column(values, f"earlier_{name}") for name in DRUG_CLASSES]) > 0.5
    return (given & ~earlier).astype(float)


def terms(values: Floats, names: Sequence[str], *, interactions: bool) -> Floats:
    """The columns of a linear model: covariates (missing at the public mean), classes, and their products."""
    features = [PROGRAMME.columns[PROGRAMME.feature_names.index(name)] for name in names]
    x = np.column_stack([column(values, f.name) for f in features])
    mean, scale = (np.array([getattr(f, part) for f in features]) for part in ("reference_mean", "scale"))
    x = (np.where(np.isnan(x), mean, x) - mean) / scale
    new = started(values)
    products = [new[:, [k]] * x for k in range(new.shape[1])] if interactions else []
    return np.concatenate([x, new, *products], axis=1)


def linear(
    training: Sequence[Dataset],
    names: Sequence[str] = FIVE_DRUG,
    *,
    interactions: bool = True,
    ridge: bool = False,
) -> Predictor:
    """A linear model fitted on patients whose HbA1c after 6 months is known; ridge with the penalty of least error left out."""
    values = np.concatenate([dataset.values for dataset in training]).astype(np.float64)
    target = np.concatenate([dataset.targets[:, TARGET] for dataset in training])
    known = np.isfinite(target)
    model = RidgeCV(_PENALTIES) if ridge else LinearRegression()
    model.fit(terms(values, names, interactions=interactions)[known], target[known])
    return lambda v: np.asarray(model.predict(terms(v, names, interactions=interactions)), np.float64)


def last_value(values: Floats) -> Floats:
    """HbA1c carried forward; the public mean where none was measured within a year."""
    last = column(values, "hba1c_percent")
    mean = PROGRAMME.columns[PROGRAMME.feature_names.index("hba1c_percent")].reference_mean
    return np.where(np.isnan(last), mean, last)


def squared_errors(predict: Predictor, dataset: Dataset) -> Floats:
    """Of the patients whose HbA1c after 6 months was measured."""
    target = dataset.targets[:, TARGET].astype(np.float64)
    known = np.isfinite(target)
    return np.asarray((predict(dataset.values.astype(np.float64))[known] - target[known]) ** 2)


def root_mean_square(
    predictors: Mapping[str, Predictor], tests: Mapping[str, Dataset]
) -> tuple[float, float]:
    """Mean over hospitals of each one's RMSE, and the RMSE of all their patients together."""
    errors = {name: squared_errors(predictors[name], dataset) for name, dataset in tests.items()}
    by_hospital = [float(np.sqrt(squared.mean())) for squared in errors.values()]
    return float(np.mean(by_hospital)), float(np.sqrt(np.concatenate(list(errors.values())).mean()))


def under_each_class(values: Floats) -> Floats:
    """Raw values (classes, n, d) of the same patients, each of whom starts each class alone beside what they take."""
    everyone = np.repeat(values[None].astype(np.float64), len(DRUG_CLASSES), axis=0)
    for number, name in enumerate(DRUG_CLASSES):
        for other in DRUG_CLASSES:
            column_of = PROGRAMME.feature_names.index(other)
            everyone[number, :, column_of] = np.maximum(column(values, f"earlier_{other}"), other == name)
    return everyone


def ranking(predict: Predictor, dataset: Dataset, truth: Floats) -> Floats:
    """Kendall's τ (n,) of the classes that a patient does not take yet, by HbA1c after 6 months; NaN with fewer than three."""
    predicted = np.stack([predict(values) for values in under_each_class(dataset.values)], axis=1)
    earlier = np.column_stack([column(dataset.values, f"earlier_{name}") for name in DRUG_CLASSES]) > 0.5
    found = np.full(len(dataset), np.nan)
    for i in range(len(dataset)):
        open_classes = ~earlier[i]
        if open_classes.sum() >= 3:
            found[i] = kendalltau(predicted[i, open_classes], truth[i, open_classes]).statistic
    return found


def hospitals_and_tests(
    seed: int, form: Form, *, fresh: int, scale: float = 1.0
) -> tuple[dict[str, Dataset], dict[str, Dataset], dict[str, SimulatedHospital]]:
    """Data sets of the hospitals; of `fresh` other patients of each; and those other hospitals themselves."""
    sites = tuple(replace(site, patients=round(site.patients * scale)) for site in SITES)
    trained = simulated_hospitals(seed=seed, form=form, sites=sites)
    others = simulated_hospitals(
        seed=seed + 1_000_000, form=form, sites=tuple(replace(site, patients=fresh) for site in sites)
    )
    return (
        {hospital.site.name: dataset_of(hospital) for hospital in trained},
        {hospital.site.name: dataset_of(hospital) for hospital in others},
        {hospital.site.name: hospital for hospital in others},
    )


def true_hba1c(hospital: SimulatedHospital) -> Floats:
    """(n, classes) after 6 months, in the order of the data set."""
    return hospital.true_hba1c(182)[rows_in_order(hospital)]


__all__ = [
    "EVERYTHING",
    "FIVE_DRUG",
    "Form",
    "Predictor",
    "Site",
    "hospitals_and_tests",
    "last_value",
    "linear",
    "ranking",
    "root_mean_square",
    "true_hba1c",
]
