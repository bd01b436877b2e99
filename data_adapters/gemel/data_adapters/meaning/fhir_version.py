"""Which FHIR version an export is of, by the elements that only one version has."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

# A status that is a text: R4 made a CodeableConcept of it.
STU3_STATUSES = ("$.clinicalStatus", "$.verificationStatus")

# A version counts when so much of a resource type shows it. Fewer lines are damage: they are rejected one by one
# (STU3, GEM213), or read as what they say (R5 renamed elements, and gave no old name a new meaning).
_SHARE = 0.01
_LINES = 1000


def believed_version(seen: Mapping[tuple[str, str], int], accepted: Mapping[str, int]) -> str:
    """What an export is believed to be: "R4", "R5", "STU3", or several; "R4" where nothing tells.

    STU3 shares its older elements with R4: where it is seen, those say nothing.

    Args:
        seen: Lines that show a version, by (version, resource type).
        accepted: Accepted lines by type; those of STU3 are not among them.

    >>> believed_version({("R4", "Encounter"): 5000, ("R5", "Encounter"): 20}, {"Encounter": 5020})
    'R4'
    >>> believed_version({("R4", "Encounter"): 50, ("R5", "Encounter"): 20}, {"Encounter": 70})
    'R4+R5'
    """
    lines: defaultdict[str, int] = defaultdict(int, accepted)
    for (version, name), number in seen.items():
        if version == "STU3":
            lines[name] += number
    found = {
        version
        for (version, name), number in seen.items()
        if number >= _LINES or (number and number >= _SHARE * lines[name])
    }
    if "STU3" in found:
        found.discard("R4")
    return "+".join(sorted(found)) or "R4"


def models_package(version: str) -> str:
    """The package of `fhir.resources` that has the models of an export.

    >>> models_package("R5"), models_package("R4"), models_package("R4+R5")
    ('fhir.resources', 'fhir.resources.R4B', 'fhir.resources.R4B')
    """
    # The top level of the package is R5.
    return "fhir.resources" if version == "R5" else "fhir.resources.R4B"
