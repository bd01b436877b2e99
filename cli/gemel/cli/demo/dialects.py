"""How the demo's hospitals differ: terminologies, units, panels, kinds of statement, files."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Dialect:
    """How one hospital records and exports.

    Attributes:
        snomed: Diagnoses by SNOMED CT where a concept has a code of it; else by ICD-10.
        molar_units: Glucose, HDL cholesterol and the like as amount of substance, HbA1c by IFCC.
        pressure_panel: A blood pressure as one panel with two components.
        pounds: Weights in pounds.
        administrations: Drugs as they were given; else as they were ordered.
        diagnosis_text: Diagnoses with their text beside the code.
    """

    name: str
    title: str
    snomed: bool = False
    molar_units: bool = False
    pressure_panel: bool = True
    pounds: bool = False
    administrations: bool = False
    diagnosis_text: bool = False
    gzipped: bool = False
    files_per_type: int = 1


DIALECTS = (
    Dialect("north", "North University Hospital"),
    Dialect(
        "lake",
        "Lake District Hospital",
        snomed=True,
        molar_units=True,
        pressure_panel=False,
        administrations=True,
        gzipped=True,
    ),
    Dialect("valley", "Valley Clinic", pounds=True, diagnosis_text=True, files_per_type=3),
    Dialect("coast", "Coast General Hospital", molar_units=True, administrations=True, files_per_type=2),
    Dialect("forest", "Forest Hospital", snomed=True, pressure_panel=False, gzipped=True),
)
