"""VCF (plain, gzip, BGZF, BCF): which of the programme's variants each linked sample carries.

A file lists what differs from the reference, so what it does not list gives no fact, not an absence. A fact's day is the
link table's (the specimen's), else the file's own date: nothing is known earlier than that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from gemel.core.concepts import Concept
from gemel.core.errors import GemelError
from gemel.data_adapters.inputs.account import Outcome
from gemel.data_adapters.inputs.fact_writer import FactWriter, is_plausible_day
from gemel.data_adapters.inputs.genomics import DAMAGING, DBSNP, HGNC, HGVS, GenomicConcepts
from gemel.data_adapters.inputs.links import Link, Links
from gemel.data_adapters.inputs.optional_package import load_package
from gemel.data_adapters.reading.intake import Fault

# Lengths of chromosome 1 tell the assemblies apart (NCBI assembly reports).
_CHROMOSOME_1 = {249250621: "GRCh37", 248956422: "GRCh38"}
_ASSEMBLY_NAMES = {
    "grch37": "GRCh37",
    "hg19": "GRCh37",
    "b37": "GRCh37",
    "grch38": "GRCh38",
    "hg38": "GRCh38",
}
_FILE_DATE = re.compile(r"^##fileDate=\"?(\d{4})-?(\d{2})-?(\d{2})\b", flags=re.MULTILINE)
_REFERENCE = re.compile(r"^##(?:reference|contig)=.*$", flags=re.MULTILINE)
_SILENT = 0  # HTS_LOG_OFF
_BGZF = b"\x1f\x8b\x08\x04"
_BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
# The order of SnpEff's ANN is fixed by its standard (version 1.0, 2015); VEP's is in the header.
_ANN_FIELDS = ("Allele", "Consequence", "IMPACT", "SYMBOL", "Gene", "Feature_type", "Feature")
_ANN_HGVS_C, _ANN_HGVS_P = 9, 10


class _Annotations:
    """Codes of one record's alternative alleles, from CSQ (VEP) or ANN (SnpEff)."""

    def __init__(self, raw_header: str) -> None:
        found = re.search(r'##INFO=<ID=CSQ,.*?Format: ([^">]+)', raw_header)
        self._fields = found.group(1).strip().split("|") if found is not None else []

    def codes(self, variant: Any, alternative: str) -> Iterator[tuple[str, str]]:
        """(system, code) of an allele; genes only where the impact is high enough."""
        for entry in (variant.INFO.get("CSQ") or "").split(",") if self._fields else ():
            row = dict(zip(self._fields, entry.split("|"), strict=False))
            if _is_allele(row.get("Allele", ""), variant.REF, alternative, variant.ALT):
                for name in ("HGVSg", "HGVSc", "HGVSp"):
                    if row.get(name):
                        yield HGVS, unquote(row[name])
                if row.get("IMPACT") in DAMAGING:
                    yield from ((HGNC, row[name]) for name in ("HGNC_ID", "SYMBOL") if row.get(name))
        for entry in (variant.INFO.get("ANN") or "").split(","):
            cells = entry.split("|")
            if len(cells) <= _ANN_HGVS_P or cells[0] != alternative:
                continue
            feature = cells[_ANN_FIELDS.index("Feature")]
            for cell in (cells[_ANN_HGVS_C], cells[_ANN_HGVS_P]):
                if cell:
                    yield HGVS, f"{feature}:{unquote(cell)}"
            if cells[_ANN_FIELDS.index("IMPACT")] in DAMAGING:
                yield HGNC, cells[_ANN_FIELDS.index("SYMBOL")]


def _is_allele(written: str, reference: str, alternative: str, alternatives: list[str]) -> bool:
    """Whether VEP's name of an allele means one of a record's alternatives.

    Where any alternative has another length than the reference, VEP drops the first base that all share ("-" for none).
    """
    shared = any(len(other) != len(reference) for other in alternatives) and all(
        other[:1] == reference[:1] for other in alternatives
    )
    return written == ((alternative[1:] or "-") if shared else alternative)


def read_vcf(
    path: Path,
    name: str,
    links: Links,
    writer: FactWriter,
    concepts: GenomicConcepts,
    *,
    only_pass: bool = True,
) -> None:
    """Take one file; one item a carried variant that a concept names, and one a sample that cannot be used.

    Args:
        path: The file.
        name: How the account calls it.
        links: Whose each sample is.
        writer: Takes facts and counts.
        concepts: The programme's variants.
        only_pass: Whether records that the caller filtered out are left out (FILTER other than PASS or ".").
    """
    with writer.file(name, "vcf"):
        _check_end(path)
        library = load_package("cyvcf2", "genomics")
        # htslib writes what it minds to stderr, with names of samples in it: its messages stay inside.
        library.cyvcf2.set_htslib_log_level(_SILENT)
        try:
            reader = library.VCF(str(path.resolve()))
        except Exception as error:  # a bare one, too, where the header cannot be parsed
            raise GemelError("GEM254", f"No readable VCF ({type(error).__name__}).") from error
        try:
            samples = _samples(reader, links, writer)
            if samples:
                _take(reader, samples, writer, concepts, only_pass=only_pass)
        except GemelError:
            raise
        # cyvcf2 raises bare Exceptions for records that htslib cannot parse, a cut stream among them.
        except Exception as error:
            raise GemelError(
                "GEM254", f"A record of the VCF cannot be read ({type(error).__name__})."
            ) from error
        finally:
            reader.close()


def _check_end(path: Path) -> None:
    """Refuse a BGZF file without its end mark: htslib reads what is left of a cut one without a word."""
    with path.open("rb") as stream:
        if stream.read(4) == _BGZF:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - len(_BGZF_END)))
            if stream.read() != _BGZF_END:
                raise GemelError("GEM254", "The BGZF file has no end mark: it was cut.")


def _samples(reader: Any, links: Links, writer: FactWriter) -> list[tuple[int, Link, date]]:
    """The usable samples: their number in the file, whose they are, and the day."""
    header = str(reader.raw_header)
    samples = []
    for number, sample in enumerate(reader.samples):
        link = links.find_sample(str(sample))
        blocked = writer.whose(link)
        day = (link.day if link is not None else None) or _file_day(header)
        if blocked is not None or link is None:
            writer.count(blocked or Outcome.ORPHAN)
        elif day is None:
            reason = "neither the link table (day) nor the file (##fileDate) gives a day"
            writer.reject(f"sample {number + 1}", Fault("GEM210", "", reason))
        else:
            samples.append((number, link, day))
    return samples


def _file_day(header: str) -> date | None:
    found = _FILE_DATE.search(header)
    try:
        day = date(*(int(part) for part in found.groups())) if found is not None else None
    except ValueError:
        return None
    return day if day is not None and is_plausible_day(day) else None


def find_assembly(header: str) -> str | None:
    """The assembly that a VCF's header states, by chromosome 1's length, else by name; None where they disagree.

    >>> find_assembly("##contig=<ID=chr1,length=248956422>")
    'GRCh38'
    """
    lines = " ".join(_REFERENCE.findall(header))
    lengths = re.findall(r"ID=(?:chr)?1,[^>]*?length=(\d+)", lines)
    found = {_CHROMOSOME_1[int(length)] for length in lengths if int(length) in _CHROMOSOME_1}
    found |= {name for word, name in _ASSEMBLY_NAMES.items() if word in lines.lower()}
    return found.pop() if len(found) == 1 else None


def _take(
    reader: Any,
    samples: list[tuple[int, Link, date]],
    writer: FactWriter,
    concepts: GenomicConcepts,
    *,
    only_pass: bool,
) -> None:
    header = str(reader.raw_header)
    assembly, annotations = find_assembly(header), _Annotations(header)
    seen: set[tuple[int, str]] = set()
    for variant in reader:
        named = _named(variant, assembly, annotations, concepts)
        if not named:
            continue
        genotypes = variant.genotypes
        filtered = only_pass and variant.FILTER is not None
        for number, link, day in samples:
            carried = {
                concept.name: concept
                for allele, found in named
                if allele in genotypes[number][:-1]
                for concept in found
            }
            if carried and filtered:
                writer.exclude("a variant that its caller filtered out")
            elif carried:
                for concept in carried.values():
                    if (number, concept.name) not in seen:
                        seen.add((number, concept.name))
                        writer.add(concept, link, day)
                writer.count(Outcome.USED)


def _named(
    variant: Any, assembly: str | None, annotations: _Annotations, concepts: GenomicConcepts
) -> list[tuple[int, list[Concept]]]:
    """The alternative alleles (from 1) that a concept names, with their concepts."""
    named = []
    for allele, alternative in enumerate(variant.ALT, start=1):
        found: list[Concept] = []
        codes: Iterable[tuple[str, str]] = annotations.codes(variant, alternative)
        for system, code in codes:
            found += concepts.find(system, code)
        found += concepts.find_position(assembly, variant.CHROM, variant.POS, variant.REF, alternative)
        # A dbSNP id in a record of several alleles does not say which of them it means.
        if variant.ID and len(variant.ALT) == 1:
            for code in variant.ID.split(";"):
                found += concepts.find(DBSNP, code)
        if found:
            named.append((allele, found))
    return named
