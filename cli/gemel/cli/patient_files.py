"""One patient as files: values by feature, observations by what is observed, a treatment plan, and a twin's parameters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from gemel.core.arrays import unpack_arrays
from gemel.core.errors import GemelError
from gemel.core.programme import Feature, FeatureKind, Programme
from gemel.core.series import Series
from gemel.twins.design import check_support
from gemel.twins.treatment_plan import TreatmentPlan, check_plan, read_plan

if TYPE_CHECKING:
    from gemel.twins.definition import TwinDefinition
    from gemel.twins.twin import Twin

_FLAGS = (FeatureKind.MALE, FeatureKind.PRESENT)
Pairs = tuple[tuple[float, float], ...]


def open_twin(definition: TwinDefinition, path: Path | None) -> Twin:
    """The twin of a file of parameters, or at its public start. Raises GEM602, GEM806."""
    twin = definition.twin(definition.programme)
    if path is not None:
        try:
            twin.load_arrays(unpack_arrays(_content(path), twin.array_specs()))
        except GemelError as error:
            if error.code != "GEM403":
                raise
            raise GemelError("GEM602", f"{path}: {error.message}") from error
    return twin


def patient_row(programme: Programme, given: Mapping[str, Any]) -> NDArray[np.float64]:
    """Values (1, d) in the programme's columns; what is not given, or null, is missing.

    Raises GEM806 for a feature that the programme does not have and for what is no number, GEM601 outside the bounds.
    """
    columns = {feature.name: feature for feature in programme.columns}
    unknown = sorted(set(given) - set(columns))
    if unknown:
        raise GemelError(
            "GEM806", f"{programme.name} has no feature {', '.join(unknown)}; it has {', '.join(columns)}."
        )
    row = np.full((1, len(columns)), np.nan)
    for position, (name, feature) in enumerate(columns.items()):
        if given.get(name) is not None:
            row[0, position] = _number(feature, given[name])
    check_support(programme, row)
    return row


def read_patient(programme: Programme, path: Path) -> NDArray[np.float64]:
    """`patient_row` of a JSON object: feature -> value in the declared unit."""
    return patient_row(programme, _object(path))


def read_plan_file(programme: Programme, path: Path) -> TreatmentPlan:
    """A treatment plan that fits the programme. Raises GEM603, GEM806."""
    plan = read_plan(_object(path))
    check_plan(programme, plan)
    return plan


def read_observations(path: Path) -> dict[str, Pairs]:
    """Observations of a JSON object: what is observed -> [[day since the index date, value], ...]. Raises GEM806."""
    try:
        return msgspec.json.decode(_content(path), type=dict[str, tuple[tuple[float, float], ...]])
    except msgspec.DecodeError as error:
        raise GemelError(
            "GEM806", f'{path} is not {{"what is observed": [[day, value], …]}}: {error}.'
        ) from error


def check_observations(twin: Twin, observed: Mapping[str, Pairs]) -> None:
    """Refuse (GEM604) what the twin does not observe, and what lies before the index date."""
    if not twin.observables:
        raise GemelError("GEM604", f"The twin of {twin.programme.name} takes no observations.")
    for name, pairs in observed.items():
        if name not in twin.observables:
            takes = ", ".join(f"{known} ({unit})" for known, unit in twin.observables.items())
            raise GemelError(
                "GEM604", f"{twin.programme.name} takes no observation of {name}; it takes {takes}."
            )
        for day, value in pairs:
            # Written so that a number which is none fails too.
            if not (day >= 0 and np.isfinite(day) and np.isfinite(value)):
                raise GemelError(
                    "GEM604", f"{name}: ({day:g}, {value:g}) is no day from the index date on, with a value."
                )


def first_observations(observed: Mapping[str, Pairs], count: int) -> dict[str, Series]:
    """The first `count` of all observations by day, as the runs of one patient that a twin takes in."""
    ordered = sorted((day, name, value) for name, pairs in observed.items() for day, value in pairs)[:count]
    return {
        name: Series(
            np.array([0, len(mine)], np.int64),
            np.array([day for day, _ in mine], np.float32),
            np.array([value for _, value in mine], np.float32),
        )
        for name in observed
        if (mine := [(day, value) for day, whose, value in ordered if whose == name])
    }


def _number(feature: Feature, value: Any) -> float:
    known = isinstance(value, int | float) and (feature.kind in _FLAGS or not isinstance(value, bool))
    if not known or (feature.kind in _FLAGS and float(value) not in (0.0, 1.0)):
        expected = "true, false, 1 or 0" if feature.kind in _FLAGS else f"a number in {feature.unit}"
        raise GemelError("GEM806", f"{feature.name} = {value!r}: expected {expected}, or null.")
    return float(value)


def _object(path: Path) -> dict[str, Any]:
    try:
        document = msgspec.json.decode(_content(path))
    except msgspec.DecodeError as error:
        raise GemelError("GEM806", f"{path} is no JSON: {error}.") from error
    if not isinstance(document, dict):
        raise GemelError("GEM806", f"{path} holds no JSON object.")
    return document


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise GemelError("GEM806", f"{path} cannot be read: {error.strerror}.") from error
