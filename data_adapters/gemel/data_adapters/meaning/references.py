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
    # One text for an identifier; NULL when it has no value.
    """CREATE OR REPLACE TEMP MACRO fhir_identifier(identifier) AS
        CASE WHEN identifier.value <> '' THEN coalesce(identifier.system, '') || '|' || identifier.value END""",
)
