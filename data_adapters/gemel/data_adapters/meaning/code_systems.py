"""Code systems under their other names, and codes as their system's own rules write them."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from types import MappingProxyType

from gemel.core.concepts import ATC, CODE_SYSTEMS, ICD_10, ICD_10_CM, ICD_10_GM, LOINC, RXNORM, SNOMED_CT

# The same code systems in messages of HL7 v2 and CDA (hl7.org/fhir/terminologies-systems.html).
_SYSTEM_OF_OID: Mapping[str, str] = MappingProxyType(
    {
        "2.16.840.1.113883.6.1": LOINC,
        "2.16.840.1.113883.6.96": SNOMED_CT,
        "2.16.840.1.113883.6.3": ICD_10,
        "2.16.840.1.113883.6.90": ICD_10_CM,
        "2.16.840.1.113883.6.73": ATC,
        "2.16.840.1.113883.6.88": RXNORM,
    }
)
# URIs without their scheme, in lower case.
_SYSTEM_OF_URI: Mapping[str, str] = MappingProxyType(
    {
        **{uri.partition("://")[2].lower(): uri for uri in (*CODE_SYSTEMS.values(), RXNORM)},
        "www.loinc.org": LOINC,
        "www.snomed.info/sct": SNOMED_CT,
        "www.hl7.org/fhir/sid/icd-10": ICD_10,
        "www.hl7.org/fhir/sid/icd-10-cm": ICD_10_CM,
        "fhir.de/codesystem/dimdi/icd-10-gm": ICD_10_GM,
        "whocc.no/atc": ATC,
        "fhir.de/codesystem/bfarm/atc": ATC,
        "fhir.de/codesystem/dimdi/atc": ATC,
    }
)
# Names that are no URI. A person may write them in a mapping; in records they are only suggested.
_SYSTEM_OF_NAME: Mapping[str, str] = MappingProxyType(
    {
        "ln": LOINC,
        "loinc": LOINC,
        "sct": SNOMED_CT,
        "snomed": SNOMED_CT,
        "snomedct": SNOMED_CT,
        "i10": ICD_10,
        "icd10": ICD_10,
        "icd10who": ICD_10,
        "icd10cm": ICD_10_CM,
        "icd10gm": ICD_10_GM,
        "atc": ATC,
        "rxnorm": RXNORM,
    }
)
_ICD = (ICD_10, ICD_10_CM, ICD_10_GM)
# WHO's ICD-10 marks dagger and asterisk codes; the German modification adds "!".
_ICD_MARKS = {ICD_10: "†*+", ICD_10_GM: "†*+!", ICD_10_CM: ""}
_UNDOTTED_ICD = re.compile(r"([A-Z]\d[0-9A-Z])([0-9A-Z]{1,4})", re.ASCII)
# What may follow a category; behind it, German records note whether a diagnosis is excluded ("A") or suspected ("V").
_WELL_FORMED: Mapping[str, re.Pattern[str]] = MappingProxyType(
    {
        ICD_10: re.compile(r"[A-Z]\d\d(\.\d{1,2})?", re.ASCII),
        ICD_10_GM: re.compile(r"[A-Z]\d\d(\.\d{1,2})?", re.ASCII),
        ICD_10_CM: re.compile(r"[A-Z]\d[0-9A-Z](\.[0-9A-Z]{1,4})?", re.ASCII),
        ATC: re.compile(r"[A-Z](\d\d([A-Z]([A-Z](\d\d)?)?)?)?", re.ASCII),
    }
)
_LOINC_CODE = re.compile(r"\d{1,7}-\d", re.ASCII)


@functools.lru_cache(maxsize=4096)
def standard_system(system: str) -> str:
    """The FHIR URI of a code system under any of its URIs or OIDs; what is not known stays as it is.

    >>> standard_system("https://loinc.org/"), standard_system("urn:oid:2.16.840.1.113883.6.73")
    ('http://loinc.org', 'http://www.whocc.no/atc')
    """
    # A canonical reference may name a version.
    bare = system.strip().partition("|")[0].rstrip("/")
    if bare.lower().startswith("urn:oid:"):
        return _SYSTEM_OF_OID.get(bare[8:], system)
    scheme, separator, rest = bare.partition("://")
    rest = rest.lower()
    if not separator or scheme.lower() not in ("http", "https"):
        return system
    # SNOMED CT names its editions behind the URI.
    if rest.startswith("snomed.info/sct/"):
        return SNOMED_CT
    return _SYSTEM_OF_URI.get(rest, system)


def named_system(name: str) -> str | None:
    """The code system that a person calls so: by URI, OID or short name; None when it is not known.

    >>> named_system("LN"), named_system("ICD-10-GM"), named_system("2.16.840.1.113883.6.1"), named_system("LAB")
    ('http://loinc.org', 'http://fhir.de/CodeSystem/bfarm/icd-10-gm', 'http://loinc.org', None)
    """
    known = standard_system(name)
    if known in _SYSTEM_OF_URI.values():
        return known
    name = name.strip()
    return _SYSTEM_OF_OID.get(name) or _SYSTEM_OF_NAME.get(re.sub(r"[\s_-]", "", name).lower())


@functools.lru_cache(maxsize=65_536)
def standard_code(system: str, code: str) -> str:
    """A code as its system writes it; other systems' codes stay as they are.

    ICD-10 has capital letters, a dot behind the third character, and marks (dagger, asterisk, the German "!") that are
    no part of the code; ".-" stands for all children. ATC has capital letters.

    >>> standard_code(ICD_10_GM, "k760"), standard_code(ICD_10_GM, "E11.30†"), standard_code(ICD_10_GM, "I48.-")
    ('K76.0', 'E11.30', 'I48')
    """
    code = code.strip()
    if system in _ICD:
        code = code.upper().rstrip(_ICD_MARKS[system]).rstrip("-").rstrip(".")
        undotted = _UNDOTTED_ICD.fullmatch(code)
        return f"{undotted[1]}.{undotted[2]}" if undotted is not None else code
    return code.upper() if system == ATC else code


def is_child(system: str, code: str, category: str) -> bool:
    """Whether a code, written as its system writes it, is a category or stands under it.

    >>> is_child(ICD_10_GM, "I48.0", "I48"), is_child(ICD_10_GM, "I48.0A", "I48")
    (True, False)
    """
    if not code.startswith(category):
        return False
    form = _WELL_FORMED.get(system)
    return form is None or form.fullmatch(code) is not None


def code_problem(system: str, code: str) -> str | None:
    """What is wrong with the form of a code of a standard terminology, or None.

    >>> code_problem(LOINC, "2085-9"), code_problem(LOINC, "2085-8")
    (None, '2085-8 is no LOINC code: its check digit would be 9')
    """
    if not code.strip():
        return "the code is empty"
    if system != LOINC:
        return None
    if _LOINC_CODE.fullmatch(code) is None:
        return f"{code} is no LOINC code"
    digits = [int(digit) for digit in reversed(code[:-2])]
    doubled = [sum(divmod(2 * d, 10)) if i % 2 == 0 else d for i, d in enumerate(digits)]
    expected = -sum(doubled) % 10
    return (
        None if int(code[-1]) == expected else f"{code} is no LOINC code: its check digit would be {expected}"
    )
