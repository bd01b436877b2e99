"""The cohort's record for a catalogue of health data: HealthDCAT-AP in Turtle, the same bytes for the same cohort.

Namespaces as the specification's release 5 has them. What only a publisher can say (who publishes, on what legal basis)
is taken from `Publisher`; without one the record says that it is to be stated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rdflib import DCAT, DCTERMS, FOAF, PROV, RDF, SKOS, XSD, Graph, Literal, Namespace, URIRef
from rdflib.term import Node

from gemel.core.concepts import ICD_10
from gemel.synthetic.export.codes import chosen_code
from gemel.synthetic.export.croissant import LIMITATIONS, NOT_FOR, USES
from gemel.synthetic.export.publisher import RESTRICTED, Publisher
from gemel.synthetic.export.releasing import condition_in_words, decision_sha256

if TYPE_CHECKING:
    from gemel.synthetic.cohort import VirtualCohort
    from gemel.synthetic.report.gate import Decision

HEALTH = Namespace("http://healthdataportal.eu/ns/health#")
DPV = Namespace("https://w3id.org/dpv#")
DP = Namespace("urn:gemel:differential-privacy#")

_THEME = URIRef("http://publications.europa.eu/resource/authority/data-theme/HEAL")
_MEDIA_TYPES = {
    ".ndjson": "https://www.iana.org/assignments/media-types/application/fhir+json",
    ".parquet": "https://www.iana.org/assignments/media-types/application/vnd.apache.parquet",
    ".csv": "https://www.iana.org/assignments/media-types/text/csv",
    ".json": "https://www.iana.org/assignments/media-types/application/ld+json",
}
# The specification wants Wikidata's property of a system's codes; where we have no source for it, FHIR's URI.
_CODING_SYSTEMS = {ICD_10: "https://www.wikidata.org/entity/P494"}


def health_dcat(
    cohort: VirtualCohort,
    sizes: Mapping[str, int],
    *,
    decision: Decision,
    publisher: Publisher | None = None,
) -> str:
    """The record about the files (bytes by name) of a cohort that leaves by a decision: Turtle without blank nodes."""
    graph = Graph()
    for prefix, space in (("healthdcatap", HEALTH), ("dpv", DPV), ("dp", DP)):
        graph.bind(prefix, space)
    dataset = URIRef(f"urn:gemel:release:{cohort.release}")
    for predicate, node in (
        *_general(cohort, publisher),
        *_population(cohort),
        *_provenance(cohort),
        *_release(decision),
    ):
        graph.add((dataset, predicate, node))
    theme = URIRef(f"urn:gemel:programme:{cohort.programme.name}")
    graph.add((dataset, HEALTH.healthTheme, theme))
    graph.add((theme, RDF.type, SKOS.Concept))
    graph.add((theme, SKOS.prefLabel, Literal(cohort.programme.title, lang="en")))
    _describe_publisher(graph, dataset, publisher)
    for name, size in sorted(sizes.items()):
        part = URIRef(f"{dataset}/{name}")
        graph.add((dataset, DCAT.distribution, part))
        graph.add((part, RDF.type, DCAT.Distribution))
        graph.add((part, DCTERMS.title, Literal(name)))
        graph.add((part, DCAT.accessURL, part))
        graph.add((part, DCAT.byteSize, Literal(size, datatype=XSD.nonNegativeInteger)))
        media = _MEDIA_TYPES.get(name[name.rindex(".") :])
        if media is not None:
            graph.add((part, DCAT.mediaType, URIRef(media)))
    return graph.serialize(format="turtle")


def _general(cohort: VirtualCohort, publisher: Publisher | None) -> list[tuple[URIRef, Node]]:
    about = f"{len(cohort)} virtual patients, none of whom exists. {cohort.programme.question}"
    text = " ".join(part for part in (about, condition_in_words(cohort), LIMITATIONS) if part)
    rights = URIRef(RESTRICTED if publisher is None else publisher.access_rights)
    day = Literal(cohort.provenance.created[:10], datatype=XSD.date)
    return [
        (RDF.type, DCAT.Dataset),
        (DCTERMS.identifier, Literal(f"urn:gemel:release:{cohort.release}")),
        (DCTERMS.title, Literal(f"Virtual cohort: {cohort.programme.title}", lang="en")),
        (DCTERMS.description, Literal(text, lang="en")),
        (DCTERMS.issued, day),
        (DCTERMS.accessRights, rights),
        (DCAT.theme, _THEME),
        (DCAT.keyword, Literal("synthetic data", lang="en")),
        (DCAT.keyword, Literal("differential privacy", lang="en")),
        (DPV.hasPurpose, Literal(f"{USES} Not for: {NOT_FOR}", lang="en")),
    ]


def _population(cohort: VirtualCohort) -> list[tuple[URIRef, Node]]:
    """Who is in it: the programme's public bounds, and numbers of virtual patients, never of real ones."""
    programme = cohort.programme
    limits = programme.cohort
    systems = {chosen_code(programme, concept.name).system for concept in programme.concepts}
    coverage = (
        f"Virtual patients of {limits.minimum_age_years:g} to {limits.maximum_age_years:g} years. "
        f"{programme.title}."
    )

    def whole(number: float) -> Literal:
        return Literal(int(number), datatype=XSD.nonNegativeInteger)

    found: list[tuple[URIRef, Node]] = [
        (HEALTH.minTypicalAge, whole(limits.minimum_age_years)),
        (HEALTH.maxTypicalAge, whole(limits.maximum_age_years)),
        (HEALTH.numberOfRecords, whole(len(cohort))),
        (HEALTH.numberOfUniqueIndividuals, whole(len(cohort))),
        (HEALTH.populationCoverage, Literal(coverage, lang="en")),
    ]
    return found + [(HEALTH.hasCodingSystem, URIRef(_CODING_SYSTEMS.get(s, s))) for s in sorted(systems)]


def _provenance(cohort: VirtualCohort) -> list[tuple[URIRef, Node]]:
    whole = cohort.provenance.whole
    return [
        (PROV.wasDerivedFrom, URIRef(f"urn:sha256:{cohort.provenance.study_sha256}")),
        (DP.epsilon, Literal(whole.epsilon)),
        (DP.delta, Literal(whole.delta)),
        (DP.unit, Literal(whole.unit)),
        (DP.neighbouring, Literal(whole.neighbouring)),
    ]


def _release(decision: Decision) -> list[tuple[URIRef, Node]]:
    """The report, the verdict, and who answers for it."""
    found: list[tuple[URIRef, Node]] = [
        (HEALTH.analytics, URIRef(f"urn:sha256:{decision.report_sha256}")),
        (DP.model, URIRef(f"urn:sha256:{decision.model_sha256}")),
        (DP.decision, URIRef(f"urn:sha256:{decision_sha256(decision)}")),
        (DP.outcome, Literal(decision.outcome.value)),
        *((DP.failed, Literal(row)) for row in decision.failed),
        *((DP.notTested, Literal(row)) for row in decision.untested),
    ]
    override = decision.override
    if override is not None:
        found += [
            (DP.releasedBy, Literal(override.by)),
            (DP.reason, Literal(override.reason)),
            (DP.releasedAt, Literal(override.at)),
        ]
    return found


def _describe_publisher(graph: Graph, dataset: URIRef, publisher: Publisher | None) -> None:
    """Who publishes it and on what legal basis; what nobody said is said to be missing."""
    agent, basis = URIRef(f"{dataset}/publisher"), URIRef(f"{dataset}/legal-basis")
    if publisher is not None:
        basis = URIRef(publisher.legal_basis)
        graph.add((dataset, DCAT.contactPoint, URIRef(publisher.contact)))
    else:
        graph.add((basis, SKOS.prefLabel, Literal("to be stated by the publisher", lang="en")))
    graph.add((dataset, DCTERMS.publisher, agent))
    graph.add((agent, RDF.type, FOAF.Agent))
    graph.add((agent, FOAF.name, Literal(publisher.name if publisher else "to be stated by the publisher")))
    graph.add((dataset, DPV.hasLegalBasis, basis))
    graph.add((basis, RDF.type, DPV.LegalBasis))
