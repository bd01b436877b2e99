"""GA4GH Phenopackets (version 2, JSON): findings, diseases, measurements and interpreted variants of one person."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from gemel.core.concepts import LOINC, SNOMED_CT, Concept
from gemel.core.errors import GemelError
from gemel.data_adapters.inputs.account import Outcome
from gemel.data_adapters.inputs.fact_writer import FactWriter, is_plausible_day
from gemel.data_adapters.inputs.genomics import HGNC, HGVS, HPO, MONDO, OMIM, GenomicConcepts
from gemel.data_adapters.inputs.links import Link, Links
from gemel.data_adapters.inputs.optional_package import load_package
from gemel.data_adapters.reading.intake import Fault

MAX_BYTES = 1 << 26
# Prefixes of CURIEs as Phenopackets write them; the systems are those of `genomics` and of FHIR R4.
SYSTEMS = {
    "HP": HPO,
    "MONDO": MONDO,
    "OMIM": OMIM,
    "ORPHA": "http://www.orpha.net",
    "SNOMED": SNOMED_CT,
    "SNOMEDCT": SNOMED_CT,
    "SCTID": SNOMED_CT,
    "LOINC": LOINC,
    "HGNC": HGNC,
}
_ASSEMBLIES = {"GRCh37": "GRCh37", "hg19": "GRCh37", "GRCh38": "GRCh38", "hg38": "GRCh38"}
_AGE = re.compile(r"P(?=.)(?:(\d{1,3})Y)?(?:(\d{1,4})M)?(?:(\d{1,4})W)?(?:(\d{1,5})D)?(?:T.*)?")
_DAYS_PER_YEAR = 365.25
_REJECTED_INTERPRETATION = 1  # GenomicInterpretation.InterpretationStatus.REJECTED


def read_phenopacket(
    path: Path, name: str, links: Links, writer: FactWriter, concepts: GenomicConcepts
) -> None:
    """Take one Phenopacket; one item a finding, disease, measurement or interpreted variant.

    Its day is the onset: a timestamp, or an age where the export gives the day of birth; else the day on which the
    packet was made, for that is when it was known.
    """
    with writer.file(name, "phenopacket"):
        packet = _parse(path)
        subject = str(packet.subject.id)
        link = links.find_subject(*(n for n in (subject, name, path.stem) if n))
        reader = _Reader(packet, link, writer, concepts)
        reader.read()


def _parse(path: Path) -> Any:
    if path.stat().st_size > MAX_BYTES:
        raise GemelError("GEM254", f"A Phenopacket of more than {MAX_BYTES} bytes.")
    phenopackets = load_package("phenopackets", "genomics")
    json_format = load_package("google.protobuf.json_format", "genomics")
    try:
        return json_format.Parse(path.read_bytes(), phenopackets.Phenopacket())
    except (json_format.ParseError, UnicodeDecodeError, RecursionError, ValueError) as error:
        # The parser's text repeats what it found there, so it is not shown.
        raise GemelError(
            "GEM254", "No Phenopacket of schema version 2 (an element unknown or ill-typed)."
        ) from error


class _Reader:
    """One person's packet."""

    def __init__(self, packet: Any, link: Link | None, writer: FactWriter, concepts: GenomicConcepts) -> None:
        self._packet = packet
        self._link = link
        self._writer = writer
        self._concepts = concepts
        self._blocked = writer.whose(link)
        self._birth = writer.birth_day(link.patient) if link is not None and self._blocked is None else None
        self._made = _day(packet.meta_data.created)

    def read(self) -> None:
        """Take every item."""
        for i, feature in enumerate(self._packet.phenotypic_features):
            place = f"phenotypicFeatures[{i}]"
            self._term(place, feature.type.id, feature.onset, feature.resolution, excluded=feature.excluded)
        for i, disease in enumerate(self._packet.diseases):
            place = f"diseases[{i}]"
            self._term(place, disease.term.id, disease.onset, disease.resolution, excluded=disease.excluded)
        for i, measurement in enumerate(self._packet.measurements):
            self._measurement(f"measurements[{i}]", measurement)
        for i, interpretation in enumerate(self._packet.interpretations):
            for j, finding in enumerate(interpretation.diagnosis.genomic_interpretations):
                self._variant(f"interpretations[{i}].genomicInterpretations[{j}]", finding)

    def _term(self, place: str, curie: str, onset: Any, resolution: Any, *, excluded: bool) -> None:
        if excluded:
            self._writer.exclude("a finding or disease that was excluded")
            return
        found = {concept.name: concept for code in codes_of(curie) for concept in self._concepts.find(*code)}
        self._add(place, found.values(), "|".join(codes_of(curie)[0]), onset, self._time(resolution))

    def _measurement(self, place: str, measurement: Any) -> None:
        found = [c for code in codes_of(measurement.assay.id) for c in self._concepts.find(*code)]
        quantity = measurement.value.quantity
        if not found:
            self._writer.not_covered("|".join(codes_of(measurement.assay.id)[0]))
            return
        if not measurement.value.HasField("quantity"):
            self._writer.reject(place, Fault("GEM207", "", "the measurement has no quantity"))
            return
        unit = str(quantity.unit.id).removeprefix("UCUM:")
        values = [(concept, self._writer.convert(concept, quantity.value, unit)) for concept in found]
        faults = [value for _, value in values if isinstance(value, Fault)]
        if faults:
            self._writer.reject(place, faults[0])
            return
        usable = {c: value for c, value in values if not isinstance(value, Fault)}
        self._add(place, usable, "", measurement.time_observed, None, usable)

    def _variant(self, place: str, finding: Any) -> None:
        if finding.interpretation_status == _REJECTED_INTERPRETATION:
            self._writer.exclude("an interpretation that was rejected")
            return
        found: dict[str, Concept] = {}
        descriptor = finding.variant_interpretation.variation_descriptor
        for expression in descriptor.expressions:
            if expression.syntax.startswith("hgvs"):
                found |= {c.name: c for c in self._concepts.find(HGVS, expression.value)}
        for gene in (descriptor.gene_context, finding.gene):
            for code in (gene.value_id, gene.symbol):
                found |= {c.name: c for c in self._concepts.find(HGNC, code)} if code else {}
        record = descriptor.vcf_record
        if record.alt:
            assembly = _ASSEMBLIES.get(record.genome_assembly.split(".")[0])
            place_found = self._concepts.find_position(
                assembly, record.chrom, int(record.pos), record.ref, record.alt
            )
            found |= {c.name: c for c in place_found}
        self._add(place, found.values(), "variant", None, None)

    def _add(
        self,
        place: str,
        concepts: Iterable[Concept],
        code: str,
        onset: Any,
        end_day: date | None,
        values: dict[Concept, float] | None = None,
    ) -> None:
        concepts = list(concepts)
        day = self._time(onset) or self._made
        if not concepts:
            self._writer.not_covered(code)
        elif self._blocked is not None or self._link is None:
            self._writer.count(self._blocked or Outcome.ORPHAN)
        elif day is None or (end_day is not None and end_day < day):
            reason = "no day: neither onset nor metaData.created, or an end before the start"
            self._writer.reject(place, Fault("GEM210", "", reason))
        else:
            for concept in concepts:
                value = values[concept] if values is not None else None
                self._writer.add(concept, self._link, day, value=value, end_day=end_day)
            self._writer.count(Outcome.USED)

    def _time(self, element: Any) -> date | None:
        """The day of a TimeElement; None where it gives none that can be dated."""
        kind = element.WhichOneof("element") if element is not None else None
        if kind == "timestamp":
            return _day(element.timestamp)
        if kind == "interval":
            return _day(element.interval.start)
        if kind == "age" and self._birth is not None:
            days = age_days(element.age.iso8601duration)
            day = self._birth + timedelta(days=days) if days is not None else None
            return day if day is not None and is_plausible_day(day) else None
        return None


def codes_of(curie: str) -> list[tuple[str, str]]:
    """A CURIE as (system, code), with and without its prefix: HPO and HGNC keep theirs in codes, OMIM does not.

    >>> codes_of("OMIM:613254")
    [('http://www.omim.org', 'OMIM:613254'), ('http://www.omim.org', '613254')]
    """
    prefix, _, local = curie.partition(":")
    system = SYSTEMS.get(prefix, prefix)
    return [(system, curie), (system, local)]


def age_days(duration: str) -> float | None:
    """Days of an ISO 8601 age such as "P34Y5M"; None for what is none.

    >>> age_days("P1Y"), age_days("P")
    (365.25, None)
    """
    found = _AGE.fullmatch(duration)
    if found is None:
        return None
    years, months, weeks, days = (int(part or 0) for part in found.groups())
    return (years + months / 12) * _DAYS_PER_YEAR + weeks * 7 + days


def _day(timestamp: Any) -> date | None:
    """The day of a protobuf Timestamp (UTC); None where it is not set."""
    if not timestamp.seconds:
        return None
    day = date(1970, 1, 1) + timedelta(days=int(timestamp.seconds // 86_400))
    return day if is_plausible_day(day) else None
