"""How a concept names a variant, a gene or a finding, and how what laboratories write is looked up in that.

| system | a code there | checked at |
|---|---|---|
| http://varnomen.hgvs.org | an HGVS expression: "NC_000007.14:g.140753336A>T", "NM_004333.6:c.1799T>A" | THO CodeSystem v3-hgvs |
| http://www.genenames.org | an HGNC id, "HGNC:1097" (older guides: http://www.genenames.org/geneId) | THO CodeSystem v3-hgnc 3.1.0 |
| http://www.ncbi.nlm.nih.gov/projects/SNP | "rs113488022" | THO CodeSystem v3-dbSNP |
| http://human-phenotype-ontology.org | "HP:0001250" | THO CodeSystem HPO |
| http://purl.obolibrary.org/obo/mondo.owl | "MONDO:0005015" | OBO Foundry; no THO record found |
| http://www.omim.org | "613254" | FHIR R4 genomics value sets |

A gene's code stands for a variant in it only where the annotation's impact is HIGH or MODERATE: else everybody has one.
Genomic HGVS is compared by position and bases for substitutions (g.1A>T); everything else as text, so a deletion must be
written as the laboratory's annotation writes it. Ontologies are not loaded: a term does not take its children.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from gemel.core.concepts import Concept
from gemel.core.programme import Programme

HGVS = "http://varnomen.hgvs.org"
HGNC = "http://www.genenames.org"
DBSNP = "http://www.ncbi.nlm.nih.gov/projects/SNP"
HPO = "http://human-phenotype-ontology.org"
MONDO = "http://purl.obolibrary.org/obo/mondo.owl"
OMIM = "http://www.omim.org"

_SAME_SYSTEM = {f"{HGNC}/geneId": HGNC, f"{HGVS}/": HGVS, "http://www.hgvs.org/mutnomen": HGVS}
# RefSeq accession versions of the chromosomes 1 to 22, X, Y of both assemblies (NCBI assembly reports).
_VERSIONS = {
    "GRCh37": (10, 11, 11, 11, 9, 11, 13, 10, 11, 10, 9, 11, 10, 8, 9, 9, 10, 9, 9, 10, 8, 10, 10, 9),
    "GRCh38": (11, 12, 12, 12, 10, 12, 14, 11, 12, 11, 10, 12, 11, 9, 10, 10, 11, 10, 10, 11, 9, 11, 11, 10),
}
CHROMOSOMES = (*(str(n) for n in range(1, 23)), "X", "Y")
_ACCESSIONS = {
    f"NC_{number:06d}.{version}": (assembly, CHROMOSOMES[number - 1])
    for assembly, versions in _VERSIONS.items()
    for number, version in enumerate(versions, start=1)
}
_SUBSTITUTION = re.compile(r"(NC_\d{6}\.\d+):g\.(\d{1,9})([ACGT])>([ACGT])")
DAMAGING = ("HIGH", "MODERATE")


class Position(NamedTuple):
    """One change of bases at a place of an assembly; `start` counts from 1."""

    assembly: str
    chromosome: str
    start: int
    reference: str
    alternative: str


class GenomicConcepts:
    """The programme's concepts by codes of genomes and phenotypes."""

    def __init__(self, programme: Programme) -> None:
        self._by_code: dict[tuple[str, str], dict[str, Concept]] = {}
        self._by_position: dict[Position, dict[str, Concept]] = {}
        for concept in programme.concepts:
            for code in concept.codes:
                system = _SAME_SYSTEM.get(code.system, code.system)
                position = hgvs_position(code.code) if system == HGVS else None
                if position is not None:
                    self._by_position.setdefault(position, {})[concept.name] = concept
                text = normal_hgvs(code.code) if system == HGVS else code.code
                self._by_code.setdefault((system, text), {})[concept.name] = concept

    def find(self, system: str, code: str) -> Iterable[Concept]:
        """The concepts of one code."""
        text = normal_hgvs(code) if system == HGVS else code
        return self._by_code.get((system, text), {}).values()

    def find_position(
        self, assembly: str | None, chromosome: str, start: int, reference: str, alternative: str
    ) -> Iterable[Concept]:
        """The concepts of a change of bases; none where the assembly is not known."""
        if assembly is None:
            return ()
        start, reference, alternative = trim(start, reference.upper(), alternative.upper())
        name = chromosome_name(chromosome)
        return self._by_position.get(Position(assembly, name, start, reference, alternative), {}).values()


def hgvs_position(text: str) -> Position | None:
    """Where a genomic substitution lies; None for any other expression.

    >>> hgvs_position("NC_000007.14:g.140753336A>T")
    Position(assembly='GRCh38', chromosome='7', start=140753336, reference='A', alternative='T')
    """
    found = _SUBSTITUTION.fullmatch(text)
    if found is None or found.group(1) not in _ACCESSIONS:
        return None
    return Position(*_ACCESSIONS[found.group(1)], int(found.group(2)), found.group(3), found.group(4))


def normal_hgvs(text: str) -> str:
    """An expression without the parentheses that mark a protein change as predicted.

    >>> normal_hgvs("NP_004324.2:p.(Val600Glu)")
    'NP_004324.2:p.Val600Glu'
    """
    head, mark, change = text.partition(":p.(")
    return f"{head}:p.{change.removesuffix(')')}" if mark else text


def trim(start: int, reference: str, alternative: str) -> tuple[int, str, str]:
    """The shortest form of a change: bases that both share are dropped, the end first, one of each is kept.

    >>> trim(100, "GAC", "GTC")
    (101, 'A', 'T')
    """
    while min(len(reference), len(alternative)) > 1 and reference[-1] == alternative[-1]:
        reference, alternative = reference[:-1], alternative[:-1]
    while min(len(reference), len(alternative)) > 1 and reference[0] == alternative[0]:
        start, reference, alternative = start + 1, reference[1:], alternative[1:]
    return start, reference, alternative


def chromosome_name(text: str) -> str:
    """A chromosome without "chr", or of a RefSeq accession.

    >>> chromosome_name("chrX"), chromosome_name("NC_000007.13")
    ('X', '7')
    """
    if text in _ACCESSIONS:
        return _ACCESSIONS[text][1]
    return text.removeprefix("chr")
