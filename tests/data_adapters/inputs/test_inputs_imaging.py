"""DICOM series, NIfTI and segmentations: geometry against nibabel, links, and hostile files."""

import gzip
import random
import warnings
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless, SegmentationStorage

from gemel.core.concepts import SNOMED_CT
from gemel.core.errors import GemelError
from gemel.data_adapters.inputs import optional_package
from gemel.data_adapters.inputs.account import InputAccount, Outcome
from gemel.data_adapters.inputs.imaging import image_table
from gemel.data_adapters.inputs.links import Link, Links, SeriesLink, _agree, imaging_studies, load_links
from gemel.data_adapters.inputs.read import read_input
from gemel.data_adapters.inputs.volume import orientation, spacing_mm, voxel_ml

SERIES, STUDY, DRAWN = "1.2.840.99999999.1.5", "1.2.840.99999999.2", "1.2.840.99999999.1.9"
DAY = date(2020, 3, 1)
LINKS = Links(
    imaging_series={SERIES: SeriesLink("p1", DAY), "1.2.3.4": SeriesLink("p9", DAY)},
    labels={"1": "tumour_volume"},
    modalities={"CT": "ct_image"},
)
SECRET = "DOE^JANE"
# Oblique: turned by 30 degrees about z, then by 20 about x.
A, B = np.deg2rad(30), np.deg2rad(20)
TURN = np.array([[1, 0, 0], [0, np.cos(B), -np.sin(B)], [0, np.sin(B), np.cos(B)]]) @ np.array(
    [[np.cos(A), -np.sin(A), 0], [np.sin(A), np.cos(A), 0], [0, 0, 1]]
)
ORIGIN = np.array([-120.5, 40.25, 300.0])
ROW_MM, COLUMN_MM, GAP_MM = 0.7, 0.5, 2.5


def slice_of(number: int, pixels: np.ndarray[Any, Any], **changes: Any) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = f"1.2.840.99999999.3.{number + 1}"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.SeriesInstanceUID, dataset.StudyInstanceUID, dataset.Modality = SERIES, STUDY, "CT"
    dataset.PatientName, dataset.PatientID, dataset.InstitutionName = SECRET, "p2", SECRET
    dataset.AcquisitionDate = "20200302"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.RescaleSlope, dataset.RescaleIntercept = "1", "-1024"
    dataset.PixelSpacing = [ROW_MM, COLUMN_MM]
    dataset.ImageOrientationPatient = [f"{x:.10f}" for x in (*TURN[:, 0], *TURN[:, 1])]
    dataset.ImagePositionPatient = [f"{x:.8f}" for x in ORIGIN + number * GAP_MM * TURN[:, 2]]
    dataset.SliceThickness, dataset.SpacingBetweenSlices = GAP_MM, GAP_MM
    dataset.PixelData = pixels.astype("<u2").tobytes()
    for name, value in changes.items():
        setattr(dataset, name, value)
    return dataset


STACK = np.random.default_rng(1).integers(0, 4096, size=(6, 5, 4))  # slice, row, column


def write_series(
    folder: Path, change: Callable[[int, Dataset], Dataset | None] = lambda number, dataset: dataset
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{name}.dcm" for name in range(len(STACK))]
    random.Random(3).shuffle(names)
    for number, name in enumerate(names):
        dataset = change(number, slice_of(number, STACK[number]))
        if dataset is not None:
            dataset.save_as(folder / name, enforce_file_format=True)
    return folder


@pytest.fixture
def read(hospital: Any, programme: Any, tmp_path: Path) -> Callable[..., InputAccount]:
    def run(path: Path, links: Links = LINKS, **more: Any) -> InputAccount:
        account = read_input(path, programme, hospital, links=links, images=tmp_path / "images", **more)
        assert account.read == account.outcomes.total()
        return account

    return run


def only_image(account: InputAccount, tmp_path: Path) -> tuple[dict[str, Any], np.ndarray[Any, Any]]:
    [row] = image_table(account.images).to_pylist()
    return row, np.load(tmp_path / "images" / row["path"], mmap_mode="r")


def test_a_shuffled_oblique_series_is_one_volume_in_hounsfield_units(read: Any, tmp_path: Path) -> None:
    account = read(write_series(tmp_path / "ct"))
    row, voxels = only_image(account, tmp_path)
    assert account.outcomes == {Outcome.IMAGE: 1}
    assert voxels.dtype == np.int16
    np.testing.assert_array_equal(voxels, STACK.transpose(2, 1, 0) - 1024)
    assert row["patient_id"] == "p1"
    assert (row["concept"], row["day"], row["modality"]) == ("ct_image", DAY, "CT")
    assert row["spacing_mm"] == pytest.approx([COLUMN_MM, ROW_MM, GAP_MM])


def test_the_affine_of_a_series_is_nibabels_turned_from_lps_to_ras(read: Any, tmp_path: Path) -> None:
    row, _ = only_image(read(write_series(tmp_path / "ct")), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nibabel.nicom import dicomwrappers

        theirs = dicomwrappers.wrapper_from_data(slice_of(0, STACK[0])).affine
    # nibabel's first axis runs over rows, ours over columns; the normal's sign is a stack's, which it does not see.
    turn = np.diag([-1, -1, 1, 1])
    ours = np.array(row["affine_ras"]).reshape(4, 4)
    np.testing.assert_allclose(ours[:, [0, 1, 3]], (turn @ theirs)[:, [1, 0, 3]], atol=1e-4)
    last = np.array([*slice_of(5, STACK[5]).ImagePositionPatient, 1], dtype=float)
    np.testing.assert_allclose(ours @ [0, 0, 5, 1], turn @ last, atol=1e-4)
    assert row["orientation"] == "".join(nibabel.aff2axcodes(ours))


def test_no_text_of_a_header_is_kept_anywhere(read: Any, tmp_path: Path) -> None:
    account = read(write_series(tmp_path / "ct"))
    kept = b"".join(file.read_bytes() for file in (tmp_path / "images").iterdir()) + repr(account).encode()
    assert SECRET.encode() not in kept
    assert SERIES.encode() not in kept
    assert STUDY.encode() not in kept


def test_the_same_volume_has_the_same_name_whatever_the_files_are_called(read: Any, tmp_path: Path) -> None:
    first = read(write_series(tmp_path / "one")).images[0]["path"]
    (tmp_path / "two").mkdir()
    for number, dataset in enumerate(slice_of(i, STACK[i]) for i in range(len(STACK))):
        dataset.save_as(tmp_path / "two" / f"IM{number}", enforce_file_format=True)
    assert read(tmp_path / "two").images[0]["path"] == first


def put(**changes: Any) -> Callable[[int, Dataset], Dataset]:
    def change(number: int, dataset: Dataset) -> Dataset:
        if number == 2:
            for name, value in changes.items():
                setattr(dataset, name, value)
        return dataset

    return change


def at(shift_mm: float, axis: int = 2) -> list[str]:
    return [f"{x:.8f}" for x in ORIGIN + 2 * GAP_MM * TURN[:, 2] + shift_mm * TURN[:, axis]]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda number, dataset: None if number == 3 else dataset, "1 slices are missing inside the series."),
        (put(ImagePositionPatient=at(GAP_MM)), "Two slices lie at the same place."),
        (put(ImagePositionPatient=at(0.1)), "mm apart."),
        (put(ImagePositionPatient=at(5.0, 0)), "shifted against each other (a tilted gantry)."),
        (put(PixelSpacing=[1, 1]), "differ in orientation, pixel spacing or size."),
        (put(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "right angles and of length 1."),
        (put(SOPInstanceUID="1.2.840.99999999.3.1"), "The same image stands twice."),
        (put(RescaleSlope="0"), "RescaleSlope is 0, or not finite."),
        (lambda number, dataset: dataset if number == 0 else None, "A single slice is no volume."),
        (put(SamplesPerPixel=3), "The series has colours, or no pixels."),
    ],
)
def test_slices_that_are_not_one_even_stack_are_refused_with_the_reason(
    read: Any, hospital: Any, tmp_path: Path, change: Any, reason: str
) -> None:
    account = read(write_series(tmp_path / "ct", change))
    assert account.images == []
    assert account.files_rejected == 1
    [reject] = account.rejects
    assert reject.code == "GEM255"
    assert reject.reason.endswith(reason)


def test_positions_may_differ_by_a_rounding(read: Any, tmp_path: Path) -> None:
    assert read(write_series(tmp_path / "ct", put(ImagePositionPatient=at(0.009)))).outcomes == {
        Outcome.IMAGE: 1
    }


def test_a_series_cut_at_its_end_is_known_by_its_imaging_study(read: Any, tmp_path: Path) -> None:
    links = Links(imaging_series={SERIES: SeriesLink("p1", DAY, instances=6)})
    folder = write_series(tmp_path / "ct", lambda number, dataset: None if number == 5 else dataset)
    [reject] = read(folder, links).rejects
    assert reject.reason == "5 of the 6 images that the ImagingStudy says are here."
    assert read(write_series(tmp_path / "whole"), links).outcomes == {Outcome.IMAGE: 1}


def test_pixels_are_rescaled_to_floats_where_int16_cannot_hold_them(read: Any, tmp_path: Path) -> None:
    def change(number: int, dataset: Dataset) -> Dataset:
        dataset.RescaleSlope, dataset.RescaleIntercept, dataset.Modality = "0.5", "10", "PT"
        return dataset

    _, voxels = only_image(read(write_series(tmp_path / "pt", change)), tmp_path)
    assert voxels.dtype == np.float32
    np.testing.assert_allclose(voxels, STACK.transpose(2, 1, 0) * 0.5 + 10)


def test_run_length_coded_pixels_are_the_same_pixels(read: Any, tmp_path: Path) -> None:
    def change(number: int, dataset: Dataset) -> Dataset:
        dataset.compress(RLELossless, generate_instance_uid=False)
        return dataset

    plain = read(write_series(tmp_path / "plain")).images[0]["path"]
    assert read(write_series(tmp_path / "rle", change)).images[0]["path"] == plain


@pytest.mark.parametrize(
    ("links", "withheld", "outcome"),
    [
        (Links(), frozenset(), Outcome.ORPHAN),
        (Links(imaging_series={SERIES: None}), frozenset(), Outcome.ORPHAN),
        (Links(subjects={"p2": Link("p2")}, subject_is_patient=True), frozenset(), Outcome.ORPHAN),
        (LINKS, frozenset({"p1"}), Outcome.WITHHELD),
        (Links(imaging_studies={STUDY: SeriesLink("p3", DAY)}), frozenset(), Outcome.IMAGE),
        (Links(series={SERIES: Link("p2", DAY)}), frozenset(), Outcome.IMAGE),
    ],
)
def test_a_series_is_a_patients_by_study_or_table_and_never_by_its_header(
    read: Any, tmp_path: Path, links: Links, withheld: frozenset[str], outcome: Outcome
) -> None:
    account = read(write_series(tmp_path / "ct"), links, withheld=withheld)
    assert account.outcomes == {outcome: 1}
    assert bool(account.images) == (outcome is Outcome.IMAGE)


def test_hostile_files_are_named_and_the_whole_series_beside_them_is_read(
    read: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_series(tmp_path / "in" / "ct")
    good = slice_of(0, STACK[0])
    good.SeriesInstanceUID = "1.2.3.4"

    def save(name: str, dataset: Dataset) -> Path:
        dataset.save_as(folder / name, enforce_file_format=True)
        return folder / name

    jpeg = slice_of(0, STACK[0])
    jpeg.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.201"  # HTJ2K: no decoder here
    jpeg.PixelData = pydicom.encaps.encapsulate([b"\0" * 64])
    save("htj2k", jpeg)
    deflated = slice_of(0, STACK[0])
    deflated.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    save("deflated", deflated)
    (folder / "noise").write_bytes(b"\0" * 128 + b"DICM" + random.Random(1).randbytes(5000))
    (folder / "cut").write_bytes(save("whole", slice_of(0, STACK[0])).read_bytes()[:300])
    (folder / "whole").unlink()
    (folder / "letter.txt").write_text("Dear colleague")
    (tmp_path / "elsewhere").write_bytes(b"secret")
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "loop").symlink_to(folder / "loop")
    account = read(tmp_path / "in")
    assert account.outcomes == {Outcome.IMAGE: 1}
    faults = {file.file.rpartition("/")[2]: file.fault.reason for file in account.files if file.fault}
    assert sorted(faults) == ["cut", "deflated", "htj2k", "noise"]
    assert faults["htj2k"].startswith("no decoder here for ")
    assert sorted(account.unread) == [
        "ct/letter.txt: of no known kind",
        "ct/link: a link out of the folder, or no file",
        "ct/loop: a link out of the folder, or no file",
    ]


@pytest.mark.parametrize("size", [(65535, 65535), (5, 60000)])
def test_pixels_that_are_fewer_than_declared_are_no_image(
    read: Any, tmp_path: Path, size: tuple[int, int]
) -> None:
    def change(number: int, dataset: Dataset) -> Dataset:
        dataset.Rows, dataset.Columns = size
        return dataset

    [reject] = read(write_series(tmp_path / "ct", change)).rejects
    assert reject.code == "GEM254"


def test_a_file_cut_in_its_pixels_rejects_the_series(read: Any, tmp_path: Path) -> None:
    folder = write_series(tmp_path / "ct")
    file = folder / "0.dcm"
    file.write_bytes(file.read_bytes()[:-7])
    [reject] = read(folder).rejects
    assert (reject.code, reject.reason[:26]) == ("GEM254", "The pixels cannot be read ")


AFFINE = np.array([[-1.2, 0.1, 0.0, 90], [0.1, 1.1, 0.3, -80], [0.0, -0.3, 2.0, 5], [0, 0, 0, 1]])
LABELS = np.zeros((6, 7, 8), dtype=np.uint8)
LABELS[1:3, 2:4, 2:5], LABELS[4, 4, 4] = 1, 7


def write_nifti(
    path: Path, voxels: Any = LABELS, affine: Any = AFFINE, kind: Any = nibabel.Nifti1Image
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = kind(voxels, affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_the_volume_of_a_label_is_nibabels(
    read: Any, hospital: Any, tmp_path: Path, suffix: str, kind: Any
) -> None:
    path = write_nifti(tmp_path / "in" / f"scan_{SERIES}_seg{suffix}", kind=kind)
    account = read(path)
    image = nibabel.load(path)
    expected = np.prod(image.header.get_zooms(), dtype=float) * 12 / 1000
    cubic = abs(np.linalg.det(image.affine[:3, :3])) * 12 / 1000  # with shear the two would differ
    [(patient, concept, day, value)] = hospital.of("patient_id", "concept", "day", "value")
    assert (patient, concept, day) == ("p1", "tumour_volume", DAY)
    assert value == pytest.approx(cubic)
    assert value == pytest.approx(expected, rel=0.05)
    assert account.not_covered == {"label|7": 1}


def test_a_nifti_volume_keeps_its_voxels_and_its_affine(read: Any, tmp_path: Path) -> None:
    voxels = np.random.default_rng(2).normal(size=(4, 5, 6)).astype(np.float32)
    path = write_nifti(tmp_path / "in" / "t1.nii.gz", voxels)
    account = read(path, Links(files={"t1.nii.gz": Link("p2", DAY)}))
    row, found = only_image(account, tmp_path)
    image = nibabel.load(path)
    np.testing.assert_array_equal(found, voxels)
    np.testing.assert_allclose(np.array(row["affine_ras"]).reshape(4, 4), image.affine)
    assert row["spacing_mm"] == pytest.approx(nibabel.affines.voxel_sizes(image.affine).tolist())
    assert row["orientation"] == "".join(nibabel.aff2axcodes(image.affine))
    assert row["patient_id"] == "p2"


def _huge(head: bytearray) -> None:
    head[42:48] = np.array([30000, 30000, 30000], dtype="<i2").tobytes()


def _four(head: bytearray) -> None:
    head[40:50] = np.array([4, 6, 7, 8, 3], dtype="<i2").tobytes()


def _far(head: bytearray) -> None:
    head[108:112] = np.array([3e9], dtype="<f4").tobytes()


def _nowhere(head: bytearray) -> None:
    head[252:256] = b"\0" * 4


def _flat(head: bytearray) -> None:
    head[280:328] = b"\0" * 48
    head[252:256] = np.array([0, 2], dtype="<i2").tobytes()


def _wrong_unit(head: bytearray) -> None:
    head[123] = 1  # metres


@pytest.mark.parametrize("damage", [_huge, _four, _far, _nowhere, _flat, _wrong_unit])
@pytest.mark.parametrize("packed", [False, True])
def test_a_nifti_that_lies_about_itself_is_refused(
    read: Any, hospital: Any, tmp_path: Path, damage: Any, packed: bool
) -> None:
    path = write_nifti(tmp_path / f"scan_{SERIES}_seg.nii")
    content = bytearray(path.read_bytes())
    damage(content)
    file = tmp_path / "in" / (path.name + ".gz" * packed)
    file.parent.mkdir()
    file.write_bytes(gzip.compress(bytes(content)) if packed else bytes(content))
    account = read(file)
    assert account.files_rejected == 1
    assert hospital.of("value") == []


def test_cut_voxels_and_labels_that_are_no_labels_are_refused(
    read: Any, hospital: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    whole = write_nifti(folder / f"a_{SERIES}_seg.nii")
    whole.write_bytes(whole.read_bytes()[:-50])
    write_nifti(folder / f"b_{SERIES}_seg.nii.gz", LABELS + np.float32(0.5))
    write_nifti(folder / f"c_{SERIES}_seg.nii.gz", np.full((2, 2, 2), np.nan, np.float32))
    packed = write_nifti(
        folder / f"d_{SERIES}_seg.nii.gz", np.random.default_rng(1).integers(0, 3, (30, 30, 30), np.int16)
    )
    packed.write_bytes(packed.read_bytes()[:-500])
    assert read(folder).files_rejected == 4
    assert hospital.of("value") == []


def test_table_and_imaging_study_that_disagree_refuse_the_file(read: Any, tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "in" / f"x_{SERIES}_seg.nii")
    links = Links(imaging_series=LINKS.imaging_series, files={path.name: Link("p2", DAY)})
    assert read(path, links).files_rejected == 1


def segmentation(frames: np.ndarray[Any, Any], depths: list[int], numbers: list[int]) -> Dataset:
    dataset = slice_of(0, STACK[0])
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = SegmentationStorage
    dataset.SeriesInstanceUID, dataset.Modality, dataset.SegmentationType = DRAWN, "SEG", "BINARY"
    dataset.Rows, dataset.Columns, dataset.NumberOfFrames = *frames.shape[1:], len(frames)
    dataset.BitsAllocated = dataset.BitsStored = 1
    dataset.HighBit = 0
    dataset.PixelData = pydicom.pixels.pack_bits(frames.astype(np.uint8).ravel())
    reference = Dataset()
    reference.SeriesInstanceUID = SERIES
    dataset.ReferencedSeriesSequence = Sequence([reference])
    code, segment = Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "108369006", "SCT", "Neoplasm"
    segment.SegmentNumber, segment.SegmentLabel = 1, SECRET
    segment.SegmentedPropertyTypeCodeSequence = Sequence([code])
    dataset.SegmentSequence = Sequence([segment])
    measures, plane, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = [ROW_MM, COLUMN_MM]
    plane.ImageOrientationPatient = dataset.ImageOrientationPatient
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Sequence([measures]), Sequence([plane])
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    groups = []
    for depth, number in zip(depths, numbers, strict=True):
        position, identification, group = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [f"{x:.6f}" for x in ORIGIN + depth * GAP_MM * TURN[:, 2]]
        identification.ReferencedSegmentNumber = number
        group.PlanePositionSequence = Sequence([position])
        group.SegmentIdentificationSequence = Sequence([identification])
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(groups)
    return dataset


def test_a_dicom_segmentation_gives_the_volume_of_its_coded_segment(
    read: Any, hospital: Any, tmp_path: Path
) -> None:
    frames = np.random.default_rng(5).integers(0, 2, size=(3, 5, 4))
    (tmp_path / "in").mkdir()
    segmentation(frames, [0, 1, 3], [1, 1, 1]).save_as(tmp_path / "in" / "seg", enforce_file_format=True)
    account = read(tmp_path / "in", Links(imaging_series=LINKS.imaging_series))
    # The diagnosis of the same code gets nothing: it is not measured in millilitres.
    [(concept, value)] = hospital.of("concept", "value")
    assert concept == "tumour_volume"
    assert value == pytest.approx(frames.sum() * ROW_MM * COLUMN_MM * GAP_MM / 1000)
    assert account.outcomes == {Outcome.USED: 1}
    assert SECRET not in repr(account)


@pytest.mark.parametrize(("depths", "numbers"), [([0, 1, 3], [1, 1, 2]), ([0, 0, 0], [1, 1, 1])])
def test_a_segmentation_that_contradicts_itself_is_refused(
    read: Any, hospital: Any, tmp_path: Path, depths: list[int], numbers: list[int]
) -> None:
    (tmp_path / "in").mkdir()
    dataset = segmentation(np.ones((3, 5, 4), dtype=int), depths, numbers)
    dataset.save_as(tmp_path / "in" / "seg", enforce_file_format=True)
    assert read(tmp_path / "in").files_rejected == 1
    assert hospital.of("value") == []


def test_imaging_studies_of_an_export_say_whose_a_series_is(fhir: Any, tmp_path: Path) -> None:
    def study(patient: str, uid: str, **more: Any) -> dict[str, Any]:
        series = [{"uid": uid, "started": "2020-03-01T23:30:00-05:00", "numberOfInstances": 6}]
        subject = {"reference": f"Patient/{patient}"}
        return {"resourceType": "ImagingStudy", "id": uid, "subject": subject, "series": series} | more

    lines = [
        study("p1", "1.1"),
        study("p1", "1.2"),
        study("p2", "1.2"),
        study("p2", "1.3", status="entered-in-error"),
        study("p3", "1.4", series=[], identifier=[{"system": "urn:dicom:uid", "value": "urn:oid:1.9"}]),
        {"resourceType": "Basic", "id": "ImagingStudy"},
        b'{"resourceType": "ImagingStudy", "series": 3}',
    ]
    export = fhir.write(tmp_path / "export", {"ImagingStudy.ndjson.gz": lines})
    series, studies = imaging_studies(export)
    assert series == {"1.1": SeriesLink("p1", date(2020, 3, 1), 6), "1.2": None}
    assert studies == {"1.9": SeriesLink("p3", None)}
    assert load_links(export=export).find_series("1.1") == series["1.1"]


def test_series_that_a_real_export_gives_to_two_patients_are_nobodys(shared_data: Path) -> None:
    site = shared_data / "fhir" / "site_a_smart_r4_2019" / "ImagingStudy.ndjson.gz"
    if not site.exists():
        pytest.skip("the shared data are not here")
    series, _ = imaging_studies(site)
    assert len(series) == 273
    assert sum(link is None for link in series.values()) == 4


@given(
    st.permutations(
        [SeriesLink("p1", DAY, 6), SeriesLink("p1", date(2020, 1, 1), 6), SeriesLink("p1", DAY, 5)]
    )
)
def test_what_two_studies_say_of_a_series_does_not_depend_on_their_order(links: list[SeriesLink]) -> None:
    table: dict[str, SeriesLink | None] = {}
    for link in links:
        _agree(table, "1.1", link)
    assert table == {"1.1": SeriesLink("p1", None, None)}


angles = st.floats(-3, 3)


@settings(max_examples=60)
@given(angles, angles, angles, st.lists(st.floats(0.1, 9), min_size=3, max_size=3))
def test_spacing_volume_and_axes_of_any_turned_grid_are_nibabels(
    a: float, b: float, c: float, sizes: list[float]
) -> None:
    affine = nibabel.affines.from_matvec(nibabel.eulerangles.euler2mat(a, b, c) @ np.diag(sizes), [1, 2, 3])
    np.testing.assert_allclose(spacing_mm(affine), nibabel.affines.voxel_sizes(affine))
    assert voxel_ml(affine) == pytest.approx(np.prod(sizes) / 1000)
    codes = orientation(affine)
    assert {frozenset("LR"), frozenset("PA"), frozenset("IS")} == {
        frozenset({"L": "LR", "R": "LR", "P": "PA", "A": "PA", "I": "IS", "S": "IS"}[axis]) for axis in codes
    }
    if np.sort(np.abs(affine[:3, :3] / sizes), axis=0)[-1].min() > 0.8:  # else two axes are almost as near
        assert codes == "".join(nibabel.aff2axcodes(affine))


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(optional_package.importlib, "import_module", absent)
    with pytest.raises(GemelError) as caught:
        optional_package.load_package("pydicom", "imaging")
    assert caught.value.code == "GEM256"
    assert "gemel[imaging]" in caught.value.hint


def test_snomed_is_the_system_of_dicoms_sct() -> None:
    from gemel.data_adapters.inputs.segmentation import SYSTEMS

    assert SYSTEMS["SCT"] == SNOMED_CT
