"""Who publishes a virtual cohort: what a catalogue's record needs and nobody but the publisher can say."""

from __future__ import annotations

from dataclasses import dataclass

HEALTH_DCAT = "health_dcat.ttl"
RESTRICTED = "http://publications.europa.eu/resource/authority/access-right/RESTRICTED"


@dataclass(frozen=True)
class Publisher:
    """Who publishes a cohort.

    Attributes:
        name: Of the organisation. contact: A `mailto:` or `https:` address.
        legal_basis: The IRI of a legal basis, such as one of DPV's extension for the GDPR.
        access_rights: An IRI of the EU's authority table.
    """

    name: str
    contact: str
    legal_basis: str
    access_rights: str = RESTRICTED
