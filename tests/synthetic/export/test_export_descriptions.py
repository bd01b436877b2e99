"""The table and the machine-readable descriptions: Croissant and HealthDCAT-AP, against shapes of our own."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyshacl
import pytest
from cardiometabolic import PROGRAMME
from pyarrow import parquet
from rdflib import BNode, Graph, Literal, Namespace, URIRef
from virtual_patients import PASSED, unrelated_cohort

from gemel.synthetic.export import Format, Publisher, write
from gemel.twins.installed import installed

SHAPES = Path(__file__).with_name("health_dcat_shapes.ttl")
HEALTH = Namespace("http://healthdataportal.eu/ns/health#")
DPV = Namespace("https://w3id.org/dpv#")
PEER = Path(__file__).resolve().parents[3] / ".peers" / "croissant" / "bin" / "python"
READ_CROISSANT = """
import json, sys, mlcroissant
dataset = mlcroissant.Dataset(jsonld=sys.argv[1])
patients = [row["patients/virtual_patient"].decode() for row in dataset.records(record_set="patients")]
print(json.dumps({"issues": dataset.metadata.ctx.issues.report(), "patients": patients}))
"""
PUBLISHER = Publisher(
    "Clinic of Somewhere", "mailto:data@clinic.example", "https://w3id.org/dpv/legal/eu/gdpr#A6-1-e"
)


def conforms(graph: Graph) -> bool:
    found: bool = pyshacl.validate(graph, shacl_graph=Graph().parse(SHAPES))[0]
    return found


@pytest.fixture
def record(exported: Path) -> Graph:
    return Graph().parse(exported / "health_dcat.ttl")


def test_the_catalogue_record_meets_our_shapes(record: Graph) -> None:
    assert conforms(record)


@pytest.mark.parametrize(
    "predicate",
    [
        DPV.hasLegalBasis,
        HEALTH.healthTheme,
        HEALTH.minTypicalAge,
        HEALTH.maxTypicalAge,
        HEALTH.numberOfRecords,
        HEALTH.numberOfUniqueIndividuals,
        HEALTH.populationCoverage,
        HEALTH.hasCodingSystem,
        URIRef("urn:gemel:differential-privacy#epsilon"),
        URIRef("http://purl.org/dc/terms/accessRights"),
    ],
)
def test_a_record_without_one_of_the_fields_fails_them(record: Graph, predicate: URIRef) -> None:
    assert any(record.triples((None, predicate, None)))
    record.remove((None, predicate, None))
    assert not conforms(record)


def test_ages_the_wrong_way_round_fail_them(record: Graph) -> None:
    for subject, _, value in list(record.triples((None, HEALTH.minTypicalAge, None))):
        record.set((subject, HEALTH.minTypicalAge, Literal(999, datatype=value.datatype)))
    assert not conforms(record)


def test_the_record_has_no_blank_nodes_and_its_bytes_do_not_depend_on_the_hash_seed(
    exported: Path, record: Graph
) -> None:
    assert not [node for triple in record for node in triple if isinstance(node, BNode)]
    program = (
        "import sys, rdflib; sys.stdout.write(rdflib.Graph().parse(sys.argv[1]).serialize(format='turtle'))"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", program, str(exported / "health_dcat.ttl")],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(texts) == 1


def test_a_publisher_is_named_with_its_legal_basis(
    drawn: Any, provenance: dict[str, Any], tmp_path: Path
) -> None:
    write(
        drawn,
        tmp_path,
        provenance=provenance,
        decision=PASSED,
        formats=[Format.HEALTH_DCAT],
        publisher=PUBLISHER,
    )
    record = Graph().parse(tmp_path / "health_dcat.ttl")
    assert conforms(record)
    assert [str(o) for o in record.objects(None, DPV.hasLegalBasis)] == [PUBLISHER.legal_basis]
    assert Literal(PUBLISHER.name) in set(record.objects())


@pytest.mark.filterwarnings("ignore:ConjunctiveGraph:DeprecationWarning")
def test_croissant_names_every_file_and_every_column_and_is_linked_data(exported: Path, drawn: Any) -> None:
    document = json.loads((exported / "croissant.json").read_text())
    files = {f["@id"]: f["sha256"] for f in document["distribution"]}
    manifest = json.loads((exported / "cohort.json").read_text())["files"]
    assert files == {n: d for n, d in manifest.items() if n not in ("croissant.json", "health_dcat.ttl")}
    (records,) = document["recordSet"]
    columns = parquet.read_schema(exported / "cohort.parquet").names
    assert [field["source"]["extract"]["column"] for field in records["field"]] == columns
    assert document["rai:hasSyntheticData"] is True
    graph = Graph().parse(data=json.dumps(document), format="json-ld")
    epsilon = URIRef("urn:gemel:differential-privacy#epsilon")
    assert [float(value) for value in graph.objects(None, epsilon)] == [drawn.provenance.whole.epsilon]
    field_class = URIRef("http://mlcommons.org/croissant/Field")
    assert len(list(graph.subjects(None, field_class))) == len(columns)


@pytest.mark.skipif(not PEER.exists(), reason="mlcroissant is not installed as a peer: `make peers`")
def test_the_reference_reader_of_croissant_finds_nothing_to_say_and_reads_every_patient(
    exported: Path, drawn: Any
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    told = subprocess.run(
        [PEER, "-c", READ_CROISSANT, exported / "croissant.json"],
        env=environment,
        capture_output=True,
        check=True,
        text=True,
    )
    found = json.loads(told.stdout)
    assert found["issues"] == ""
    assert found["patients"] == parquet.read_table(exported / "cohort.parquet")["virtual_patient"].to_pylist()
    assert len(found["patients"]) == len(drawn)


def test_table_csv_and_manifest_agree(exported: Path, drawn: Any) -> None:
    table = parquet.read_table(exported / "cohort.parquet")
    assert table.schema.metadata[b"gemel.security"] == b"HTEST"
    assert json.loads(table.schema.metadata[b"gemel.provenance"]) == drawn.provenance.as_dict()
    for feature in PROGRAMME.columns:
        assert table.schema.field(feature.name).metadata[b"unit"].decode() == feature.unit
    with (exported / "cohort.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["synthetic"] for row in rows} == {"true"}
    for name in table.column_names[2:]:
        numbers = np.array([np.nan if r[name] == "" else float(r[name]) for r in rows], np.float32)
        assert np.allclose(numbers, np.array(table[name].to_pylist(), np.float32), equal_nan=True)
    manifest = json.loads((exported / "cohort.json").read_text())
    assert manifest["virtual_patients"] == len(rows) == len(drawn)
    assert manifest["adjusted"].keys() <= {f"outcome {o.name}" for o in PROGRAMME.outcomes}


def test_a_target_that_nobody_modelled_stays_unknown(provenance: dict[str, Any], tmp_path: Path) -> None:
    programme = next(p for p in installed() if p.name == "atrial_fibrillation")
    document = provenance | {"programme": programme.name, "programme_version": programme.version}
    cohort = unrelated_cohort(programme, document, patients=30)
    cohort = dataclasses.replace(cohort, targets=np.full_like(cohort.targets, np.nan))
    write(cohort, tmp_path, provenance=document, decision=PASSED, formats=[Format.PARQUET])
    assert json.loads((tmp_path / "cohort.json").read_text())["not_modelled"] == list(programme.target_names)
    table = parquet.read_table(tmp_path / "cohort.parquet")
    assert set(table[programme.target_names[0]].to_pylist()) == {None}
