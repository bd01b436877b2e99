"""VCF and Phenopackets: which variants and findings become facts, whose, of which day, and what is refused."""

import gzip
import json
from datetime import date
from pathlib import Path
from typing import Any

import cyvcf2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemel.data_adapters.inputs.account import InputAccount, Outcome
from gemel.data_adapters.inputs.genomics import GenomicConcepts, hgvs_position, trim
from gemel.data_adapters.inputs.links import Link, Links
from gemel.data_adapters.inputs.read import read_input
from gemel.data_adapters.inputs.vcf import find_assembly

LINKS = Links(samples={"S1": Link("p1", date(2019, 5, 1)), "S2": Link("p2")}, subjects={"case-7": Link("p1")})
CSQ = (
    '##INFO=<ID=CSQ,Number=.,Type=String,Description="Consequence annotations from Ensembl VEP. Format: '
    'Allele|Consequence|IMPACT|SYMBOL|HGNC_ID|HGVSc|HGVSp">'
)
ANN = '##INFO=<ID=ANN,Number=.,Type=String,Description="Functional annotations">'
BRAF = "chr7\t140753336\t.\tA\tT\t50\tPASS\t.\tGT\t0/1\t0/0\t0/1"


def vcf(*records: str, header: str = "##contig=<ID=chr1,length=248956422>", day: str = "20200401") -> str:
    lines = [
        "##fileformat=VCFv4.2",
        f"##fileDate={day}",
        header,
        "##contig=<ID=chr7,length=159345973>",
        "##contig=<ID=chr12,length=133275309>",
        '##FILTER=<ID=q10,Description="low">',
        '##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">',
        CSQ,
        ANN,
        "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tS1\tS2\tS3",
        *records,
    ]
    return "\n".join(lines) + "\n"


def line(alt: str, info: str = ".", genotypes: str = "0/1\t0/0\t0/0", ident: str = ".", **more: str) -> str:
    cells = {"chrom": "chr12", "pos": "25245350", "ref": "C", "filter": "PASS"} | more
    place = f"{cells['chrom']}\t{cells['pos']}\t{ident}\t{cells['ref']}\t{alt}"
    return f"{place}\t50\t{cells['filter']}\t{info}\tGT\t{genotypes}"


@pytest.fixture
def read(hospital: Any, programme: Any, tmp_path: Path) -> Any:
    def run(text: str | bytes, name: str = "a.vcf", links: Links = LINKS, **more: Any) -> InputAccount:
        file = tmp_path / name
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        account = read_input(file, programme, hospital, links=links, **more)
        assert account.read == account.outcomes.total()
        return account

    return run


def test_a_variant_at_its_place_is_a_fact_of_each_linked_carrier(read: Any, hospital: Any) -> None:
    account = read(vcf(BRAF.replace("0/0", "1|1")))
    assert hospital.of("patient_id", "concept", "day", "value") == [
        ("p1", "braf_v600e", date(2019, 5, 1), None),  # the specimen's day by the link table
        ("p2", "braf_v600e", date(2020, 4, 1), None),  # else the file's
    ]
    assert account.outcomes == {Outcome.ORPHAN: 1, Outcome.USED: 2}


@pytest.mark.parametrize("form", ["plain", "gzip"])
def test_a_packed_file_is_the_same_file(read: Any, hospital: Any, form: str) -> None:
    text = vcf(BRAF)
    read(gzip.compress(text.encode()) if form == "gzip" else text, "a.vcf.gz" if form == "gzip" else "a.vcf")
    assert hospital.of("concept") == [("braf_v600e",)]


@pytest.mark.parametrize(
    ("record", "header", "found"),
    [
        (BRAF, "##contig=<ID=chr1,length=249250621>", []),  # the other assembly
        (BRAF, "##contig=<ID=chr1,length=248956422,assembly=hg19>", []),  # says two things
        (BRAF, "##source=caller", []),  # says nothing
        (BRAF, "##reference=file:///ref/GRCh38.fa", ["braf_v600e"]),
        (BRAF.replace("0/1", "./."), "##reference=hg38", []),
        (BRAF.replace("0/1", "0/0"), "##reference=hg38", []),
        (BRAF.replace("A\tT", "A\tG,T").replace("0/1", "0/2"), "##reference=hg38", ["braf_v600e"]),
        (BRAF.replace("A\tT", "A\tG,T"), "##reference=hg38", []),  # carries the other allele
        (BRAF.replace("140753336\t.\tA\tT", "140753335\t.\tCAC\tCTC"), "##reference=hg38", ["braf_v600e"]),
    ],
)
def test_place_bases_assembly_and_genotype_must_all_agree(
    read: Any, hospital: Any, record: str, header: str, found: list[str]
) -> None:
    read(vcf(record, header=header))
    assert [row[0] for row in hospital.of("concept")] == found


CSQ_MISSENSE = (
    "CSQ=T|missense_variant|MODERATE|BRAF|HGNC:1097|ENST00000311936.8:c.35G>A|NP_005219.2:p.Leu858Arg"
)


@pytest.mark.parametrize(
    ("record", "found"),
    [
        (line("T", CSQ_MISSENSE), ["braf_any", "egfr_protein", "kras_g12d"]),
        (line("T", CSQ_MISSENSE.replace("MODERATE", "LOW")), ["egfr_protein", "kras_g12d"]),
        (line("G", CSQ_MISSENSE), []),  # the annotation is of another allele
        (
            line("T", CSQ_MISSENSE.replace("Leu858Arg", "%28Leu858Arg%29")),
            ["braf_any", "egfr_protein", "kras_g12d"],
        ),
        (
            line(
                "T",
                "ANN=T|missense_variant|HIGH|KRAS|ENSG|transcript|ENST00000311936.8|pc|2/5|c.35G>A|p.Gly12Asp",
            ),
            ["kras_g12d"],
        ),
        (line("T", ident="rs6025"), ["factor_v"]),
        (line("T", ident="rs1;rs6025"), ["factor_v"]),
        (line("T,G", ident="rs6025"), []),  # of which allele?
        (line("T", ident="rs60251"), []),
        (
            line("C", CSQ_MISSENSE.replace("CSQ=T", "CSQ=-"), ref="CT"),
            ["braf_any", "egfr_protein", "kras_g12d"],
        ),
        (line("<DEL>", "."), []),
    ],
)
def test_annotations_and_dbsnp_name_variants_too(
    read: Any, hospital: Any, record: str, found: list[str]
) -> None:
    read(vcf(record))
    assert [row[0] for row in hospital.of("concept")] == found


def test_a_variant_that_two_records_name_is_one_fact(read: Any, hospital: Any) -> None:
    account = read(vcf(line("T", ident="rs6025"), line("G", ident="rs6025", pos="25245351")))
    assert len(hospital.of("concept")) == 1
    assert account.outcomes[Outcome.USED] == 2


def test_what_the_caller_filtered_out_is_excluded(read: Any, hospital: Any) -> None:
    account = read(vcf(line("T", ident="rs6025", filter="q10")))
    assert hospital.of("concept") == []
    assert account.excluded == {"a variant that its caller filtered out": 1}


def test_samples_that_are_nobodys_withheld_or_undated_give_nothing(read: Any, hospital: Any) -> None:
    links = Links(samples={"S1": Link("p1"), "S2": Link("p2")})
    account = read(vcf(BRAF, day="unknown"), links=links, withheld=frozenset({"p2"}))
    assert hospital.of("concept") == []
    assert account.outcomes == {Outcome.REJECTED: 1, Outcome.WITHHELD: 1, Outcome.ORPHAN: 1}


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-20].encode(),
        lambda text: text.replace("140753336", "far").encode(),
        lambda text: text.replace("\tS1\tS2\tS3", "\tS1\tS1\tS3").encode(),
        lambda text: gzip.compress(text.encode())[:-30],
        lambda text: b"##fileformat=VCFv4.2\nnothing\n",
    ],
)
def test_a_damaged_vcf_is_refused_as_a_whole(read: Any, hospital: Any, damage: Any) -> None:
    records = [line("T", ident="rs6025", pos=str(1000 + i)) for i in range(300)]
    account = read(damage(vcf(*records, BRAF)))
    assert account.files_rejected == 1
    assert hospital.of("concept") == []


def test_a_bgzf_file_without_its_end_mark_was_cut(read: Any, hospital: Any, tmp_path: Path) -> None:
    source = tmp_path / "source.vcf"
    source.write_text(vcf(BRAF))
    reader = cyvcf2.VCF(str(source))
    writer = cyvcf2.Writer(str(tmp_path / "b.vcf.gz"), reader, "wz")
    for variant in reader:
        writer.write_record(variant)
    writer.close()
    content = (tmp_path / "b.vcf.gz").read_bytes()
    assert read(content[:-28], "cut.vcf.gz").files_rejected == 1
    assert hospital.of("concept") == []
    assert read(content, "whole.vcf.gz").outcomes[Outcome.USED] == 1


bases = st.text("ACGT", min_size=1, max_size=5)


@given(bases, bases, st.text("ACGT", max_size=4), st.text("ACGT", max_size=4))
def test_padding_a_change_with_shared_bases_does_not_change_its_shortest_form(
    reference: str, alternative: str, before: str, after: str
) -> None:
    short = trim(100, reference, alternative)
    start, shorter, other = trim(100 - len(before), before + reference + after, before + alternative + after)
    if (
        len(reference) == len(alternative) and reference != alternative
    ):  # insertions need the genome to be placed
        assert (start, shorter, other) == short


def test_a_genomic_substitution_says_its_assembly() -> None:
    assert hgvs_position("NC_000024.9:g.5A>C") is not None
    for other in ("NC_000007.12:g.5A>C", "NC_000007.14:g.5del", "NM_004333.6:c.5A>C", ""):
        assert hgvs_position(other) is None
    assert find_assembly("##contig=<ID=1,length=249250621>") == "GRCh37"


def test_both_uris_of_a_gene_are_one_system(programme: Any) -> None:
    found = GenomicConcepts(programme).find("http://www.genenames.org", "HGNC:1097")
    assert [concept.name for concept in found] == ["braf_any"]


def packet(**changes: Any) -> dict[str, Any]:
    return {
        "id": "x",
        "subject": {"id": "case-7", "sex": "MALE"},
        "phenotypicFeatures": [
            {
                "type": {"id": "HP:0001250", "label": "Seizure"},
                "onset": {"age": {"iso8601duration": "P40Y6M"}},
            },
            {"type": {"id": "HP:0001250", "label": "Seizure"}, "excluded": True},
            {"type": {"id": "HP:0000001", "label": "All"}},
        ],
        "diseases": [
            {
                "term": {"id": "OMIM:192600", "label": "Cardiomyopathy"},
                "onset": {"timestamp": "2010-03-05T23:00:00Z"},
                "resolution": {"timestamp": "2011-01-01T00:00:00Z"},
            }
        ],
        "measurements": [
            {
                "assay": {"id": "LOINC:29463-7", "label": "Weight"},
                "value": {"quantity": {"unit": {"id": "UCUM:kg", "label": "kg"}, "value": 70.5}},
                "timeObserved": {"timestamp": "2020-01-02T00:00:00Z"},
            }
        ],
        "interpretations": [
            {
                "id": "i",
                "progressStatus": "SOLVED",
                "diagnosis": {
                    "disease": {"id": "OMIM:192600", "label": ""},
                    "genomicInterpretations": [
                        _finding(
                            "CAUSATIVE",
                            expressions=[{"syntax": "hgvs.g", "value": "NC_000007.14:g.140753336A>T"}],
                        ),
                        _finding(
                            "CONTRIBUTORY",
                            vcfRecord={
                                "genomeAssembly": "GRCh38.p13",
                                "chrom": "chr7",
                                "pos": "140753336",
                                "ref": "A",
                                "alt": "T",
                            },
                        ),
                        _finding("CAUSATIVE", geneContext={"valueId": "HGNC:1097", "symbol": "BRAF"}),
                        _finding("REJECTED", geneContext={"valueId": "HGNC:1097", "symbol": "BRAF"}),
                    ],
                },
            }
        ],
        "metaData": {
            "created": "2021-06-07T08:00:00Z",
            "createdBy": "lab",
            "phenopacketSchemaVersion": "2.0",
        },
    } | changes


def _finding(status: str, **descriptor: Any) -> dict[str, Any]:
    described = {"variationDescriptor": {"id": "v"} | descriptor}
    return {
        "subjectOrBiosampleId": "case-7",
        "interpretationStatus": status,
        "variantInterpretation": described,
    }


def test_a_phenopacket_gives_findings_diseases_measurements_and_variants(read: Any, hospital: Any) -> None:
    account = read(json.dumps(packet()), "case.json")
    made = date(2021, 6, 7)
    assert hospital.of("concept", "day", "end_day", "value") == sorted(
        [
            ("braf_any", made, None, None),
            ("braf_v600e", made, None, None),
            ("braf_v600e", made, None, None),
            ("hcm", date(2010, 3, 5), date(2011, 1, 1), None),
            ("seizure", date(2000, 7, 1), None, None),  # born 1960-01-01, aged 40.5 years of 365.25 days
            ("weight", date(2020, 1, 2), None, 70.5),
        ],
        key=lambda row: row[0],
    )
    assert account.outcomes == {Outcome.USED: 6, Outcome.EXCLUDED: 2, Outcome.NOT_COVERED: 1}
    assert account.not_covered == {"http://human-phenotype-ontology.org|HP:0000001": 1}


def test_a_packet_of_nobody_is_an_orphan(read: Any, hospital: Any) -> None:
    account = read(json.dumps(packet(subject={"id": "case-8"})), "case.json")
    assert hospital.of("concept") == []
    assert account.outcomes[Outcome.ORPHAN] == 6


def test_without_onset_or_date_a_finding_is_rejected(read: Any, hospital: Any) -> None:
    account = read(json.dumps(packet(metaData={"createdBy": "lab"})), "case.json")
    assert [row[0] for row in hospital.of("concept")] == ["hcm", "seizure", "weight"]
    assert account.outcomes[Outcome.REJECTED] == 3


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(packet(hiddenDiagnosis="secret")),
        json.dumps(packet(phenotypicFeatures="many")),
        json.dumps(packet(subject={"id": "case-7", "dateOfBirth": "secret"})),
        json.dumps(packet(metaData={"created": "secret"})),
    ],
)
def test_a_packet_of_another_schema_is_refused_without_repeating_it(
    read: Any, hospital: Any, text: str
) -> None:
    account = read(text, "case.json")
    assert account.files_rejected == 1
    assert "secret" not in account.rejects[0].reason
    assert hospital.of("concept") == []


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"unit": {"id": "UCUM:m", "label": ""}, "value": 1}, "GEM203"),
        ({"value": 70}, "GEM202"),
        ({"unit": {"id": "UCUM:kg", "label": ""}, "value": 7000}, "GEM206"),
    ],
)
def test_a_measurement_obeys_units_and_bounds(read: Any, hospital: Any, change: Any, code: str) -> None:
    measurement = {"assay": {"id": "LOINC:29463-7", "label": ""}, "value": {"quantity": change}}
    account = read(json.dumps(packet(measurements=[measurement])), "case.json")
    assert [reject.code for reject in account.rejects] == [code]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("\tS1\tS2\tS3", "\tJane_SECRET\tJane_SECRET\tS3"),
        lambda text: text.replace("\tS1\tS2", "\tS1\tJane_SECRET").replace("0/1", "SECRET/1"),
        lambda text: text.replace("chr7\t14", "SECRET\t14"),
        lambda text: text.replace("140753336", "SECRET"),
    ],
)
def test_nothing_of_a_damaged_vcf_is_written_to_the_screen(read: Any, capfd: Any, damage: Any) -> None:
    read(damage(vcf(BRAF)))
    assert capfd.readouterr() == ("", "")
