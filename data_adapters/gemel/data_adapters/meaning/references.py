"""References between resources as SQL: literal ones of every form, logical ones by identifier."""

from __future__ import annotations

_KEY = r"([A-Za-z0-9.\-]{1,64})(?:/_history/[^/]+)?$"

MACROS = (
    # The id in a reference to a resource of a type; NULL when it names something else (another type, a contained one).
    rf"""CREATE OR REPLACE TEMP MACRO fhir_key(reference, type_name) AS CASE
        WHEN starts_with(reference, type_name || '/') AND NOT contains(substr(reference, length(type_name) + 2), '/')
            THEN substr(reference, length(type_name) + 2)
        WHEN starts_with(reference, 'urn:uuid:') THEN substr(reference, 10)
        ELSE nullif(regexp_extract(reference, '(?:^|/)' || type_name || '/{_KEY}', 1), '') END""",
    # The same for a conditional reference, "Patient?identifier=system|value": a search that must find one patient.
    r"""CREATE OR REPLACE TEMP MACRO fhir_condition(reference) AS
        nullif(regexp_extract(url_decode(reference), '^(?:[^?]*/)?Patient\?identifier=([^&|]*\|[^&]+)$', 1), '')""",
    # What a reference or identifier says of whom: of nobody by name, then perhaps by an identifier.
    """CREATE OR REPLACE TEMP MACRO fhir_unnamed(subject) AS
        coalesce(subject.reference, '') = '' OR contains(subject.reference, '?')""",
    """CREATE OR REPLACE TEMP MACRO fhir_named_by(subject) AS CASE
        WHEN coalesce(subject.reference, '') = '' THEN fhir_identifier(subject.identifier)
        ELSE fhir_condition(subject.reference) END""",
    # One text for an identifier; NULL when it has no value.
    """CREATE OR REPLACE TEMP MACRO fhir_identifier(identifier) AS
        CASE WHEN identifier.value <> '' THEN coalesce(identifier.system, '') || '|' || identifier.value END""",
)
