"""DICOM-SEG: what three independent readers find in it, and which series cannot be referenced."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK

from data.dicom_seg import REQUIREMENTS, check_dicom_queries, check_dicom_seg, write_dicom_seg
from tests.data.dicom_series import (
    FRAME_OF_REFERENCE_UID,
    STUDY_UID,
    assert_same_points,
    write_series,
)
from tests.oriented_scans import is_bright, l_scan
from util.errors import UserError

LABELS = {500: "Drüse 肝", 7: "left\\right kidney"}


@pytest.fixture(name="pydicom", scope="module")
def _pydicom():
    pytest.importorskip("highdicom", reason=f"see {REQUIREMENTS}")
    return pytest.importorskip("pydicom")


@pytest.fixture(name="series", scope="module")
def _series(tmp_path_factory, pydicom):
    """Coronal oblique slices of a patient with a Latin-1 name, and their geometry."""
    folder = tmp_path_factory.mktemp("dicom") / "series"
    scan = l_scan("LIP", is_oblique=True)
    write_series(folder, scan.voxels, scan.geometry)
    for path in folder.iterdir():
        header = pydicom.dcmread(path)
        header.SpecificCharacterSet, header.PatientName = "ISO_IR 100", "Müller"
        header.SpacingBetweenSlices = "99"  # contradicts the positions
        header.save_as(path)
    return folder, scan


@pytest.fixture(name="label_map", scope="module")
def _label_map(series):
    label_map = 500 * is_bright(series[1]).astype(np.uint16)
    label_map[4, 3:6, 2:9] = 7
    return label_map


@pytest.fixture(name="written", scope="module")
def _written(series, label_map):
    path = series[0].parent / "seg.dcm"
    write_dicom_seg(path, label_map, series[0], LABELS)
    return path


def test_each_frame_lies_where_its_header_says(written, series, label_map, pydicom):
    dataset = pydicom.dcmread(written)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    cosines = np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3)).astype(float)
    measures = shared.PixelMeasuresSequence[0]
    down_mm, across_mm = map(float, measures.PixelSpacing)
    points = {1: [], 2: []}
    frames = zip(dataset.pixel_array, dataset.PerFrameFunctionalGroupsSequence, strict=True)
    for pixels, groups in frames:
        origin = np.asarray(groups.PlanePositionSequence[0].ImagePositionPatient, float)
        rows, columns = np.nonzero(pixels)
        steps = np.stack([columns * across_mm, rows * down_mm], axis=1)
        points[groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber] += [origin + steps @ cosines]
    for number, label in ((1, 7), (2, 500)):
        expected = series[1].geometry.position_mm(np.argwhere(label_map == label))
        assert_same_points(np.concatenate(points[number]), expected)
    assert float(measures.SpacingBetweenSlices) == pytest.approx(series[1].geometry.spacing_mm[0])


def test_gdcm_finds_the_same_pixels(written, series, label_map, pydicom):
    frames = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(written)))
    groups = pydicom.dcmread(written, stop_before_pixels=True).PerFrameFunctionalGroupsSequence
    assert len(frames) == len(groups) == sum((label_map == label).any(axis=(1, 2)).sum() for label in LABELS)
    for pixels, group in zip(frames, groups, strict=True):
        position = [float(workspace) for workspace in group.PlanePositionSequence[0].ImagePositionPatient]
        number = round(series[1].geometry.index_at(position)[0])
        label = (None, 7, 500)[group.SegmentIdentificationSequence[0].ReferencedSegmentNumber]
        assert np.array_equal(pixels > 0, label_map[number] == label)


def test_dcmqi_places_the_same_voxels(written, series, label_map, tmp_path):
    reader = shutil.which("segimage2itkimage")
    if reader is None:
        pytest.skip("no dcmqi on the PATH; pip install dcmqi in a separate environment")
    words = ["--inputDICOM", str(written), "--outputDirectory", str(tmp_path), "-t", "nrrd"]
    subprocess.run([reader, *words], capture_output=True, check=True)
    result = json.loads((tmp_path / "meta.json").read_text(encoding="utf-8"))["segmentAttributes"]
    assert [segment[0]["SegmentedPropertyTypeCodeSequence"]["CodeValue"] for segment in result] == [
        "7",
        "500",
    ]
    for number, label in ((1, 7), (2, 500)):
        image = SimpleITK.ReadImage(str(tmp_path / f"{number}.nrrd"))
        indices = np.argwhere(SimpleITK.GetArrayFromImage(image))[:, ::-1]
        points = [image.TransformIndexToPhysicalPoint(index) for index in indices.tolist()]
        assert_same_points(points, series[1].geometry.position_mm(np.argwhere(label_map == label)))


def test_source_patient_and_labels_are_referenced(written, series, pydicom):
    dataset = pydicom.dcmread(written)
    sources = [pydicom.dcmread(path, stop_before_pixels=True) for path in series[0].iterdir()]
    assert (dataset.StudyInstanceUID, dataset.FrameOfReferenceUID) == (STUDY_UID, FRAME_OF_REFERENCE_UID)
    [referenced] = dataset.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == sources[0].SeriesInstanceUID != dataset.SeriesInstanceUID
    uids = {instance.ReferencedSOPInstanceUID for instance in referenced.ReferencedInstanceSequence}
    assert uids == {source.SOPInstanceUID for source in sources}
    assert str(dataset.PatientName) == "Müller"
    assert dataset.ContentDescription == "Research use only: not a medical device"
    segments = dataset.SegmentSequence
    assert [segment.SegmentLabel for segment in segments] == ["left/right kidney", "Drüse 肝"]
    codes = [segment.SegmentedPropertyTypeCodeSequence[0].CodeValue for segment in segments]
    assert codes == ["7", "500"]


def test_a_scan_without_any_organ_is_written_too(series, label_map, tmp_path, pydicom):
    write_dicom_seg(tmp_path / "a.dcm", np.zeros_like(label_map), series[0], {1: "liver"})
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    assert dataset.NumberOfFrames == len(label_map)
    assert not dataset.pixel_array.any()


def _change(folder, pydicom, tag, value, *, names):
    for path in sorted(folder.iterdir())[names]:
        header = pydicom.dcmread(path)
        if value is None:
            delattr(header, tag)
        else:
            setattr(header, tag, value)
        header.save_as(path)


@pytest.mark.parametrize(
    ("tag", "value", "names", "message"),
    [
        ("FrameOfReferenceUID", None, slice(3, 4), r"tag FrameOfReferenceUID must be set"),
        ("StudyInstanceUID", "1.2.3", slice(3, 4), "all slices must have the same StudyInstanceUID"),
        ("PatientSex", "U", slice(None), "cannot be referenced by a DICOM-SEG .*PatientSex"),
        ("SeriesInstanceUID", "1.2.3", slice(3, 4), "all slices must have the same series"),
    ],
)
def test_a_series_that_cannot_be_referenced_is_refused(series, pydicom, tmp_path, tag, value, names, message):
    folder = tmp_path / "series"
    shutil.copytree(series[0], folder)
    check_dicom_seg(folder)
    _change(folder, pydicom, tag, value, names=names)
    with pytest.raises(UserError, match=message):
        check_dicom_seg(folder)


def test_absent_names_and_rounded_orientations_are_no_obstacle(series, label_map, pydicom, tmp_path):
    folder = tmp_path / "series"
    shutil.copytree(series[0], folder)
    _change(folder, pydicom, "PatientName", None, names=slice(None))
    cosines = pydicom.dcmread(folder / "99.dcm").ImageOrientationPatient
    rounded = [f"{float(cosine):.4f}" for cosine in cosines]
    _change(folder, pydicom, "ImageOrientationPatient", rounded, names=slice(3, 5))
    check_dicom_seg(folder)
    write_dicom_seg(tmp_path / "a.dcm", label_map, folder, LABELS)
    assert not pydicom.dcmread(tmp_path / "a.dcm").PatientName


def test_a_missing_package_is_named_with_its_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(UserError, match=rf"needs highdicom; install it with .*pip install -r {REQUIREMENTS}"):
        check_dicom_queries([tmp_path], tmp_path / "out", patterns=[str(tmp_path)])
