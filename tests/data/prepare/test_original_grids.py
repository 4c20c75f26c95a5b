"""Predictions of prepared scans return to the raw files' grids and names, left and right as they were."""

import json
import os
import shutil
from dataclasses import replace

import nibabel
import numpy as np
import pytest

from data.data_settings import RestoreConfig
from data.prediction_results import Segmentation
from data.prepare.__main__ import main
from data.prepare.original_grids import find_original_grids
from data.prepare.original_predictions import restore_predictions
from data.prepare.volume_preparation import find_outdated_scans
from data.raw.finding import find_raw
from data.volume_records import read_scan_record, scan_record_path
from tests.data.preparations import change_image, config_of, layout_of, prepare, prepare_volumes, raw_file
from tests.data.raw.raw_sets import write_chaos, write_custom_numbered
from tests.oriented_scans import ORIENTATIONS, is_bright, l_scan
from util.errors import UserError
from util.evaluation.metrics import dice_and_iou
from util.io.grids import find_reorientation, reorient_grid, reorient_volume
from util.io.image_io import read_volume, write_volume

OWN = {"name": "Turned", "labels": {"background": 0, "organ": 1}, "supervoxel_min_size_vox": 9}
CROPPED = OWN | {"orientation": "LAS", "size_px": [28, 30]}
RESAMPLED = CROPPED | {"spacing_mm": [4.0, 1.2, 1.2], "size_px": [40, 44]}
FIELDS = ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y")
FIELDS += ("qoffset_z", "srow_x", "srow_y", "srow_z", "pixdim", "xyzt_units")


def _write_turned(folder, description, orientations):
    """Write the L in each orientation, every other scan oblique, with differing codes of qform and sform."""
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps(description))
    for number, letters in enumerate(orientations):
        scan = l_scan(letters, is_oblique=number % 2 == 1)
        for kind, voxels in (("image", scan.voxels), ("label", is_bright(scan).astype(np.uint8))):
            image = Segmentation(voxels, scan.geometry, {}).to_nibabel()
            image.set_qform(image.affine, code=1 + number % 3)
            image.set_sform(image.affine, code=number % 4)
            image.to_filename(folder / f"{kind}_{number}.nii.gz")


def _copy_labels(layout, folder):
    """Let the prepared labels be predictions, named as an evaluation does."""
    folder.mkdir(parents=True)
    for scan_id in layout.labelled_ids():
        shutil.copy(layout.label_path(scan_id), folder / f"scan_{scan_id}.nii.gz")


def _restore(layout, folder, **options):
    return restore_predictions(
        RestoreConfig(dataset=layout.spec.name, back=str(folder), data_dir=str(layout.data_dir), **options)
    )


def test_predictions_return_exactly_in_all_48_orientations_upright_and_oblique(tmp_path):
    _write_turned(tmp_path / "raw", CROPPED, ORIENTATIONS)
    layout = prepare_volumes("Turned", tmp_path / "raw", tmp_path / "Turned")
    _copy_labels(layout, tmp_path / "run/predictions/all_slices")
    written = _restore(layout, tmp_path / "run")
    assert len(written) == 48
    for number in range(48):
        [path] = [path for path in written if path.name == f"image_{number}.nii.gz"]
        assert path.parent == tmp_path / "run/predictions_original/all_slices"
        result, raw = nibabel.load(path), nibabel.load(tmp_path / f"raw/image_{number}.nii.gz")
        label = nibabel.load(tmp_path / f"raw/label_{number}.nii.gz")
        assert np.array_equal(np.asarray(result.dataobj), np.asarray(label.dataobj)), ORIENTATIONS[number]
        assert np.asarray(result.dataobj).any()
        for field in FIELDS:
            n_numbers = 4 if field == "pixdim" else None  # the others are of time
            assert np.array_equal(
                result.header[field].flat[:n_numbers], raw.header[field].flat[:n_numbers]
            ), field


def test_resampled_predictions_return_to_their_position(tmp_path):
    letters = ORIENTATIONS[::7]
    _write_turned(tmp_path / "raw", RESAMPLED, letters)
    layout = prepare_volumes("Turned", tmp_path / "raw", tmp_path / "Turned")
    folder = tmp_path / "predictions"
    _copy_labels(layout, folder)
    label_map, geometry = read_volume(layout.label_path(0))
    write_volume(folder / "scan_0_organ.nii.gz", label_map, geometry)
    write_volume(folder / "image_0_probability_organ.nii.gz", label_map * np.float32(0.75), geometry)
    _restore(layout, folder, out=str(tmp_path / "out"))
    for number in range(len(letters)):
        result, restored = read_volume(tmp_path / f"out/image_{number}.nii.gz")
        truth, expected = read_volume(tmp_path / f"raw/label_{number}.nii.gz")
        assert restored.same_grid(expected)
        assert dice_and_iou(result, truth)[0] > 0.9
        assert max(dice_and_iou(np.flip(result, axis), truth)[0] for axis in range(3)) < 0.7
    mask, _ = read_volume(tmp_path / "out/image_0_organ.nii.gz")
    probability, _ = read_volume(tmp_path / "out/image_0_probability_organ.nii.gz")
    assert np.array_equal(mask, read_volume(tmp_path / "out/image_0.nii.gz")[0])
    assert probability.dtype == np.float32
    assert probability.max() == pytest.approx(0.75)
    assert dice_and_iou(probability > 0.375, mask)[0] > 0.95


def test_predictions_that_another_program_stored_with_other_axes_return_the_same(tmp_path):
    _write_turned(tmp_path / "raw", RESAMPLED, ["LPS", "PSR"])  # the second one is oblique
    layout = prepare_volumes("Turned", tmp_path / "raw", tmp_path / "Turned")
    _copy_labels(layout, tmp_path / "masks")
    label_map, geometry = read_volume(layout.label_path(1))
    write_volume(tmp_path / "masks/image_1_probability_organ.nii.gz", 0.75 * np.float32(label_map), geometry)
    expected = [read_volume(path) for path in _restore(layout, tmp_path / "masks")]
    for path, letters in zip(sorted((tmp_path / "masks").iterdir()), ["RIP", "SAR", "ALI"], strict=True):
        voxels, geometry = read_volume(path)
        turn = find_reorientation(geometry, letters)
        write_volume(path, reorient_volume(voxels, turn), reorient_grid(geometry, turn))
    restored = [read_volume(path) for path in _restore(layout, tmp_path / "masks", out=str(tmp_path / "out"))]
    assert len(restored) == 3
    for (voxels, grid), (expected_voxels, expected_grid) in zip(restored, expected, strict=True):
        assert np.array_equal(voxels, expected_voxels)
        assert grid == expected_grid


def test_only_label_ids_and_probabilities_return_unless_requested(tmp_path):
    _write_turned(tmp_path / "raw", RESAMPLED, ["PSR"])
    layout = prepare_volumes("Turned", tmp_path / "raw", tmp_path / "Turned")
    label_map, geometry = read_volume(layout.label_path(0))
    folder = tmp_path / "predictions"
    folder.mkdir()

    def restore(name, voxels, **options):
        path = folder / name
        write_volume(path, voxels, geometry)
        [written] = _restore(layout, folder, out=str(tmp_path / "out"), **options)
        path.unlink()
        return read_volume(written)[0]

    mask = restore("scan_0.nii.gz", label_map)
    assert np.array_equal(restore("scan_0.nii.gz", label_map.astype(np.float32)), mask)
    probability = restore("image_0_probability_organ.nii.gz", label_map.astype(np.float32))
    assert probability.dtype == np.float32
    assert ((probability > 0) & (probability < 1)).any()  # interpolated at the outline
    with pytest.raises(UserError, match=r"label ids of Turned \(1\) or probabilities of 0 to 1, got 0, 7;"):
        restore("scan_0.nii.gz", 7 * label_map)
    assert np.array_equal(restore("scan_0.nii.gz", 7 * label_map, kind="labels"), 7 * mask)
    assert np.allclose(restore("scan_0.nii.gz", 7 * label_map, kind="continuous"), 7 * probability, atol=1e-5)


def test_labels_that_touch_share_no_voxel_and_leave_no_gap(tmp_path):
    _write_turned(tmp_path / "raw", RESAMPLED, ["LPS"])
    layout = prepare_volumes("Turned", tmp_path / "raw", tmp_path / "Turned")
    [grid] = find_original_grids(layout, [0]).values()
    halves = np.ones(grid.prepared.shape, np.uint16)
    halves[:, :, halves.shape[2] // 2 :] = 300
    both = grid.restore_labels(halves)
    assert both.dtype == np.uint16
    assert np.array_equal(np.unique(both), [1, 300])
    assert (np.diff(both.astype(int), axis=2) != 0).sum(axis=2).max() == 1


@pytest.fixture(name="chaos", scope="module")
def _chaos(tmp_path_factory):
    """A download of DICOM series, an oblique one among them, and its prepared volumes."""
    folder = tmp_path_factory.mktemp("chaos")
    written = write_chaos(folder / "raw")
    return written, prepare_volumes("CHAOST2", folder / "raw", folder / "CHAOST2")


def test_a_dicom_series_gets_its_prediction_in_its_patient_coordinates(chaos, tmp_path):
    written, layout = chaos
    _copy_labels(layout, tmp_path / "masks")
    _restore(layout, tmp_path / "masks")
    for scan in written:
        result, geometry = read_volume(tmp_path / f"masks_original/{scan.scan_id}.nii.gz")
        assert geometry.same_grid(scan.geometry)
        labels = set(np.unique(scan.label_map).tolist()) - {0}
        assert labels == set(np.unique(result).tolist()) - {0}
        for label in labels:
            masks = result == label, scan.label_map == label
            centres = [geometry.position_mm(np.argwhere(mask).mean(axis=0)) for mask in masks]
            assert np.allclose(*centres, atol=4.0)  # half a slice: coronal slices became axial ones
            assert scan.scan_id == 5 or dice_and_iou(*masks)[0] > 0.9


def test_an_earlier_record_is_completed_without_rebuilding(chaos, tmp_path):
    _, layout = chaos
    shutil.copytree(layout.data_dir, tmp_path / "CHAOST2")
    copied = replace(layout, data_dir=tmp_path / "CHAOST2")
    path = scan_record_path(copied, 5)
    content = json.loads(path.read_text())
    del content["grid"]
    path.write_text(json.dumps(content))
    with pytest.raises(
        UserError, match=r"scan_5\.record\.json: is of an earlier version .* rebuilds nothing"
    ):
        find_original_grids(copied, [1, 5])
    assert find_outdated_scans(find_raw("CHAOST2", layout.data_dir.parent / "raw"), copied) == []
    assert read_scan_record(path) == read_scan_record(scan_record_path(layout, 5))


def test_changed_raw_files_are_refused_and_missing_ones_reported(workspace, capsys):
    layout = layout_of(workspace)
    _copy_labels(layout, workspace / "masks")
    words = ["dataset=CMR", "--back", f"{workspace}/masks", f"data_dir={workspace}/CMR"]
    prepare(workspace)  # the folder was copied
    capsys.readouterr()
    os.utime(raw_file(workspace, "image", 2), ns=(5, 5))
    assert main(words) == 0
    assert "remark" not in capsys.readouterr().out
    assert sorted(path.name for path in (workspace / "masks_original").iterdir()) == [
        f"patient{number}_C0.nii.gz" for number in (10, 2, 3)
    ]
    change_image(workspace, 3)
    assert main([*words, f"out={workspace}/other"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {raw_file(workspace, 'image', 3)}: has changed since scan 3 was prepared")
    assert err.count("\n") == 1
    assert not (workspace / "other").exists()
    shutil.rmtree(workspace / "download")
    assert main([*words, f"out={workspace}/other"]) == 0
    out = capsys.readouterr().out
    assert "remark: 3 raw scan(s) are no longer where they were prepared from" in out
    for path in (workspace / "masks_original").iterdir():
        assert path.read_bytes()[10:] == (workspace / "other" / path.name).read_bytes()[10:]


MISTAKES = {
    "nowhere": (["back=gone"], "back=gone: no such folder"),
    "nothing": (["back=empty"], "holds no scan_<id>"),
    "another grid": (["back=shifted"], "must be on the prepared grid of scan 2"),
    "an image": (
        ["back=images"],
        "must hold label ids of CMR (1, 2, 3) or probabilities of 0 to 1, got",
    ),
    "an image as labels": (
        ["back=images", "kind=labels"],
        "label ids (whole numbers of 0 to 65535), got",
    ),
    "an image of whole numbers": (
        ["back=counts"],
        "got 0, 7, 12; give predictions, not images",
    ),
    "unknown scan": (["back=others"], "image_77.nii.gz: was not prepared by script/prepare.sh dataset=CMR"),
    "in place of raw files": (["back=masks", "out=download/c0t2lge"], "would replace an input"),
    "no folder": (["--back"], "error: --back: needs a folder, as --back runs/"),
    "synthetic": (["back=masks", "dataset=PHANTOM"], "PHANTOM is synthetic"),
}


@pytest.mark.parametrize(("words", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_reported_in_one_line_and_writes_nothing(workspace, monkeypatch, capsys, words, message):
    monkeypatch.chdir(workspace)
    layout = layout_of(workspace)
    _copy_labels(layout, workspace / "masks")
    prepare(workspace)
    for name in ("empty", "shifted", "images", "others", "counts"):
        (workspace / name).mkdir()
    label_map, geometry = read_volume(layout.label_path(2))
    write_volume(workspace / "shifted/scan_2.nii.gz", label_map, replace(geometry, origin_mm=(0.0, 0.0, 0.0)))
    shutil.copy(layout.image_path(2), workspace / "images/image_2.nii.gz")
    shutil.copy(layout.label_path(3), workspace / "counts/image_3.nii.gz")  # nothing of it may be written
    counts = np.arange(label_map.size, dtype=np.int16).reshape(label_map.shape) % 3
    write_volume(workspace / "counts/image_2.nii.gz", np.array([0, 7, 12], np.int16)[counts], geometry)
    shutil.copy(layout.label_path(2), workspace / "others/scan_77.nii.gz")
    before = sorted(workspace.rglob("*"))
    capsys.readouterr()
    pairs = dict(word.partition("=")[::2] for word in ["dataset=CMR", "data_dir=CMR", *words])
    assert main([f"{name}={value}" if value else name for name, value in pairs.items()]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1 or "replace" in message
    assert sorted(workspace.rglob("*")) == before


def test_an_archive_is_compared_as_a_whole_and_an_earlier_one_is_unpacked_once_more(tmp_path, capsys):
    write_custom_numbered(tmp_path / "scans", n_scans=2)
    archive = shutil.make_archive(str(tmp_path / "scans"), "zip", tmp_path / "scans")
    config = config_of(archive, tmp_path / "Hips", dataset="Hips")
    main_words = [
        f"dataset={config.dataset}",
        f"raw={archive}",
        f"data_dir={config.data_dir}",
        "num_workers=1",
    ]
    assert main(main_words) == 0
    [volumes] = {path.parent for path in (tmp_path / "Hips").rglob("scan_3.record.json")}
    record = volumes / "scan_3.record.json"
    content = json.loads(record.read_text())
    assert content["grid"]["folder"] == archive
    record.write_text(json.dumps(content | {"grid": None}))
    capsys.readouterr()
    assert main(main_words) == 0
    assert "volumes: 0 made, 2 up to date" in capsys.readouterr().out
    assert json.loads(record.read_text())["grid"] == content["grid"]
    (tmp_path / "masks").mkdir()
    shutil.copy(volumes / "label_3.nii.gz", tmp_path / "masks/scan_3.nii.gz")
    words = ["dataset=Hips", f"data_dir={tmp_path}/Hips", f"back={tmp_path}/masks"]
    assert main(words) == 0
    assert "remark" not in capsys.readouterr().out
    with open(archive, "ab") as file:
        file.write(b"more")
    assert main(words) == 2
    assert f"error: {archive}: has changed since the dataset was prepared" in capsys.readouterr().err
