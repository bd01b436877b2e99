"""Files damaged at random: each is read, rejected or not recognised, and the account always adds up."""

import csv
import gzip
import json
import random
from collections import defaultdict
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from gemel.core.errors import GemelError
from gemel.data_adapters.inputs.account import Outcome
from gemel.data_adapters.inputs.links import Link, Links, SeriesLink
from gemel.data_adapters.inputs.read import read_input

MUTATIONS = 60
UID = "1.2.840.99999999.1.5"
LINKS = Links(
    subjects={"s1": Link("p1")},
    samples={"S1": Link("p1")},
    imaging_series={UID: SeriesLink("p1", date(2020, 1, 1))},
    labels={"1": "tumour_volume"},
)
JUNK = (b"\0", b"-1", b"99999999999", b"\xff\xff\xff\xff", b'"', b"\t", b"\n", b"nan", b"[")


def mutate(content: bytes, rng: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at, draw = rng.randrange(len(data)), rng.random()
        if draw < 0.6:
            data[at] = rng.randrange(256)
        elif draw < 0.7:
            del data[at : at + rng.randrange(1, 40)]
        elif draw < 0.8:
            data[at:at] = rng.choice(JUNK)
        elif draw < 0.9:
            data[at:at] = data[at : at + rng.randrange(1, 40)]
        else:
            del data[at:]
        data = data or bytearray(b"x")
    return bytes(data)


def _dicom(folder: Path) -> bytes:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.SeriesInstanceUID, dataset.StudyInstanceUID, dataset.Modality = UID, "1.2", "CT"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 4, 4, 1
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation, dataset.PhotometricInterpretation = 15, 0, "MONOCHROME2"
    dataset.PixelSpacing, dataset.ImageOrientationPatient = [1, 1], [1, 0, 0, 0, 1, 0]
    dataset.ImagePositionPatient, dataset.PixelData = [0, 0, 0], bytes(32)
    dataset.save_as(folder / "seed", enforce_file_format=True)
    other = pydicom.dcmread(folder / "seed")
    other.SOPInstanceUID, other.ImagePositionPatient = "1.2.4", [0, 0, 2]
    other.save_as(folder / "in" / "other")
    return (folder / "seed").read_bytes()


def _nifti(folder: Path) -> bytes:
    import nibabel

    nibabel.save(nibabel.Nifti1Image(np.ones((3, 3, 3), np.uint8), np.eye(4)), folder / "seed.nii")
    return (folder / "seed.nii").read_bytes()


def _vcf(folder: Path) -> bytes:
    head = (
        '##fileformat=VCFv4.2\n##fileDate=20200101\n##FORMAT=<ID=GT,Number=1,Type=String,Description="g">\n'
    )
    columns = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tS1\n"
    return (head + "##contig=<ID=1>\n" + columns + "1\t5\trs6025\tA\tT\t.\t.\t.\tGT\t0/1\n" * 3).encode()


def _packet(folder: Path) -> bytes:
    feature = {"type": {"id": "HP:0001250", "label": ""}}
    made = {"created": "2020-01-01T00:00:00Z"}
    return json.dumps({"subject": {"id": "s1"}, "phenotypicFeatures": [feature], "metaData": made}).encode()


def _apple(folder: Path) -> bytes:
    at = "2020-01-01 08:00:00 +0000"
    record = f'<Record type="HKQuantityTypeIdentifierHeartRate" unit="count/min" value="60" startDate="{at}" endDate="{at}"/>'
    return f"<!DOCTYPE HealthData []><HealthData>{record * 3}</HealthData>".encode()


def _points(folder: Path) -> bytes:
    header = {"schema_id": {"namespace": "omh", "name": "heart-rate", "version": "2.0"}, "user_id": "s1"}
    body = {
        "heart_rate": {"value": 50, "unit": "beats/min"},
        "effective_time_frame": {"date_time": "2020-02-05T07:25:00Z"},
    }
    return (json.dumps({"header": header, "body": body}) + "\n").encode() * 3


def _sampled(folder: Path) -> bytes:
    series = {"origin": {"value": 0, "code": "/min"}, "period": 1000, "dimensions": 1, "data": "60 61 E"}
    resource = {
        "resourceType": "Observation",
        "id": "o",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
        "subject": {"reference": "Patient/p1"},
        "effectiveDateTime": "2020-01-01T08:00:00Z",
        "valueSampledData": series,
    }
    return json.dumps(resource).encode()


SEEDS = {
    "image": _dicom,
    f"{UID}_seg.nii": _nifti,
    "a.vcf": _vcf,
    "s1.json": _packet,
    "s1.xml": _apple,
    "points.json": _points,
    "Observation.ndjson": _sampled,
}


@pytest.mark.parametrize("name", SEEDS)
def test_a_file_damaged_at_random_never_breaks_the_account(
    hospital: Any, programme: Any, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    seed = SEEDS[name](tmp_path)
    rng = random.Random(name)
    (folder / name).write_bytes(seed)
    whole = read_input(folder, programme, hospital, links=LINKS)
    assert whole.files_rejected == 0
    assert whole.outcomes[Outcome.USED] + whole.outcomes[Outcome.IMAGE] >= 1
    for _ in range(MUTATIONS):
        (folder / name).write_bytes(mutate(seed, rng))
        [(before,)] = hospital.run("SELECT count(*) FROM fact")
        try:
            account = read_input(folder, programme, hospital, links=LINKS)
        except GemelError as error:
            code = error.code
            facts = 0
        else:
            code = "GEM254"
            facts = account.facts.total()
            assert account.read == account.outcomes.total()
        assert code in ("GEM254", "GEM208")
        [(after,)] = hospital.run("SELECT count(*) FROM fact")
        assert after - before == facts


def test_a_real_cohorts_wearables_come_through_unchanged(
    hospital: Any, programme: Any, shared_data: Path, tmp_path: Path
) -> None:
    table = shared_data / "clinical" / "covid_hrv_welltory" / "wearables.csv.gz"
    if not table.exists():
        pytest.skip("the shared data are not here")
    expected: dict[str, dict[tuple[str, str], float]] = defaultdict(dict)
    with gzip.open(table, "rt") as stream:
        for row in csv.DictReader(stream):
            for column, concept in (("steps_count", "steps"), ("pulse_average", "heart_rate")):
                if row[column]:
                    expected[row["user_code"]][concept, row["day"]] = float(row[column])
    people = sorted(expected)[:40]
    hospital.add_rows("person", [{"patient_id": user} for user in people])
    kinds = {
        "steps": ("HKQuantityTypeIdentifierStepCount", "count"),
        "heart_rate": ("HKQuantityTypeIdentifierHeartRate", "count/min"),
    }
    for user in people:
        records = []
        for (concept, day), value in expected[user].items():
            kind, unit = kinds[concept]
            span = f'startDate="{day} 09:00:00 +0300" endDate="{day} 10:00:00 +0300"'
            records.append(f'<Record type="{kind}" unit="{unit}" {span} value="{value}"/>')
        folder = tmp_path / "in" / user
        folder.mkdir(parents=True)
        (folder / "export.xml").write_text(f"<HealthData>{''.join(records)}</HealthData>")
    account = read_input(tmp_path / "in", programme, hospital, links=Links(subject_is_patient=True))
    found = {(r[0], r[1], str(r[2])): r[3] for r in hospital.of("patient_id", "concept", "day", "value")}
    bounds = {concept.name: (concept.low, concept.high) for concept in programme.concepts}
    plausible = {
        (user, concept, day): value
        for user in people
        for (concept, day), value in expected[user].items()
        if bounds[concept][0] <= value <= bounds[concept][1]
    }
    assert len(plausible) > 1000
    assert found == plausible
    assert account.outcomes[Outcome.USED] == len(plausible)
