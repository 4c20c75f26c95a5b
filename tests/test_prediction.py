"""Scans of one's own: masks on their own grids in all formats and orientations; the evaluation's figures."""

import csv
import doctest
import json
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
import torch

import prediction
from config_ssl_upload import EvaluationConfig, dataset_defaults, parse_config
from data.dicom_seg import REQUIREMENTS
from data.model_frame import ModelFrame
from data.prediction_files import RECORD_NAMES, SUPPORTS_CSV
from data.prediction_settings import MAX_VERSIONS
from data.raw.input_scans import InputScan, read_scan
from data.transforms import Preparation
from dataloaders.evaluation_folds import EvaluationFold, plan_jobs
from dataloaders.evaluation_sets import EvaluationScan
from dataloaders.prepared_scans import normalise_slices
from dataloaders.warped_masks import WarpedSupport, warp_supports
from models.inference import test_time_augmentation
from models.inference.segmenters import CopySegmenter, NetworkSegmenter
from prediction import main
from script.workflows import networks, refinement, support_ensemble, unet_training
from script.workflows.evaluation_methods import segment_jobs
from script.workflows.networks import make_network
from script.workflows.refinement import refine_job
from script.workflows.scan_segmenter import Segmenter
from script.workflows.support_ensemble import Options
from tests.bright_segmenter import BrightSegmenter
from tests.data.dicom_series import assert_same_points, write_series
from tests.data.registration.synthetic_bodies import body_scan, grid, organ_labels, rotation
from tests.models.small_network import make_network as make_small_network
from tests.oriented_scans import BRIGHT, ORIENTATIONS, is_bright, l_scan
from util.config.settings import plain_values
from util.engine.snapshots import Snapshot, save_snapshot
from util.errors import UserError
from util.evaluation.metrics import dice_and_iou
from util.io.image_io import write_volume
from util.io.itk_files import write_itk_volume

CPU = torch.device("cpu")
TURNED = ModelFrame(Preparation(orientation="LAS"), None, "test")
RESAMPLED = ModelFrame(
    Preparation(orientation="LAS", spacing_mm=(4.0, 1.2, 1.2), size_px=(40, 44)), None, "test"
)


def _mask(scan, label=1):
    return InputScan(label * is_bright(scan).astype(np.uint16), scan.geometry, "mask")


def _segmenter(slices=None, frame=TURNED, *, supports=1, **options):
    segmenter = Segmenter(
        slices or BrightSegmenter(), frame, device=CPU, options=Options(guided=False, **options)
    )
    scan = l_scan("PSR")
    segmenter.set_support([scan] * supports, [_mask(scan)] * supports)
    return segmenter


@pytest.mark.parametrize("is_oblique", [False, True])
def test_left_and_right_are_never_exchanged_in_any_of_48_orientations(is_oblique):
    segmenter = _segmenter()
    for letters in ORIENTATIONS:
        scan = l_scan(letters, is_oblique=is_oblique)
        result = segmenter.segment(scan)
        assert result.geometry == scan.geometry
        assert np.array_equal(result.label_map, is_bright(scan)), letters


def test_a_query_that_must_be_resampled_gets_its_mask_in_place():
    segmenter = _segmenter(frame=RESAMPLED)
    for letters in ORIENTATIONS[::7]:
        scan = l_scan(letters, is_oblique=True)
        assert dice_and_iou(segmenter.segment(scan).label_map, is_bright(scan))[0] > 0.85


def test_a_range_of_slices_gives_the_same_mask_there_and_none_elsewhere():
    for letters, frame in (("LPI", TURNED), ("SLP", TURNED), ("RPI", RESAMPLED)):
        segmenter, scan = _segmenter(frame=frame), l_scan(letters)
        whole, part = segmenter.segment(scan).label_map, segmenter.segment(scan, slices=(4, 8)).label_map
        assert part.any()
        assert np.array_equal(part[4:8], whole[4:8])
        assert not part[:4].any()
        assert not part[8:].any()


def test_ids_volumes_and_images_are_the_users():
    scan = l_scan("PSR")
    segmenter = Segmenter(BrightSegmenter(), TURNED, device=CPU, options=Options(guided=False))
    segmenter.set_support(scan, _mask(scan, label=500), labels={500: "gland"})
    result = segmenter.segment(scan)
    n_voxels = int(is_bright(scan).sum())
    assert np.array_equal(np.unique(result.label_map), [0, 500])
    assert result.volumes_ml == {500: pytest.approx(n_voxels * 5.0 * 1.5 * 1.5 / 1000)}
    assert result.labels == {500: "gland"}
    assert segmenter.segment(result.to_sitk()).geometry.same_grid(scan.geometry)
    assert segmenter.segment(result.to_nibabel()).geometry.same_grid(scan.geometry)


def _labelled_scan(seed):
    """Return a body as an input scan, with its labels on the same grid."""
    geometry = grid(shape=(9 + seed, 33, 35), spacing_mm=(18.0, 5.0, 5.0))
    scan = body_scan(geometry, seed=seed)
    return InputScan(scan.voxels, geometry, f"body {seed}"), organ_labels(geometry).astype(np.uint8)


@pytest.mark.parametrize("largest_component", [False, True])
def test_probabilities_are_those_of_the_evaluation_over_all_slices(largest_component):
    scans = [_labelled_scan(seed) for seed in (0, 1)]
    slices = NetworkSegmenter(make_small_network().float())
    frame = ModelFrame(Preparation(orientation="LPS"), None, "test")
    options = Options(guided=False, largest_component=largest_component)
    segmenter = Segmenter(slices, frame, device=CPU, options=options)
    segmenter.set_support(scans[0][0], InputScan(scans[0][1], scans[0][0].geometry, "labels"), labels=[1, 2])
    evaluated = [
        EvaluationScan(
            number,
            torch.from_numpy(normalise_slices(scan.voxels, None, source=scan.name))[:, None],
            *(labels.astype(np.int16),) * 2,
            scan.geometry,
        )
        for number, (scan, labels) in enumerate(scans)
    ]
    organs = {1: "one", 2: "two"}
    fold = EvaluationFold(evaluated, dict.fromkeys(organs, evaluated[0]))
    jobs = plan_jobs(fold, organs, n_part=3, chunks=False)
    config = parse_config(dataset_defaults("PHANTOM"))
    config = config.model_copy(update={"evaluation": EvaluationConfig(largest_component=largest_component)})
    results = {scan.name: segmenter.segment(scan, confidence=True) for scan, _ in scans[1:]}
    compared = 0
    for job, probabilities in segment_jobs(slices, jobs, config=config, device=CPU, name="test"):
        result = results[scans[job.query.scan_id][0].name]
        assert np.array_equal(result.probabilities[job.label], probabilities)
        compared += 1
    assert compared == 2


@pytest.fixture(name="guided", scope="module")
def _guided():
    """A query that is the support's body, shifted and turned; its organs are bright alike."""
    support, labels = _body((0.0, 0.0, 0.0), 0)
    query, truth = _body((12.0, -8.0, 10.0), 8)
    frame = ModelFrame(Preparation(orientation="LPS"), None, "test")
    result = []
    for options in (Options(guided=False), Options()):
        segmenter = Segmenter(BrightSegmenter(0.7, 1.8), frame, device=CPU, options=options)
        segmenter.set_support(support, InputScan(labels, support.geometry, "labels"), labels=[1, 2])
        result.append(segmenter.segment(query))
    return truth, *result


def _body(shift_mm, degrees):
    geometry = grid()

    def to_body(points_mm):
        return (points_mm - shift_mm) @ rotation(2, degrees)

    scan = body_scan(geometry, to_body, seed=degrees)
    return InputScan(scan.voxels, geometry, f"body at {degrees}"), organ_labels(geometry, to_body)


def test_registration_guides_the_network_and_tells_how_far_both_agree(guided):
    truth, alone, joint = guided
    for label in (1, 2):
        before, after = (
            dice_and_iou(result.label_map == label, truth == label)[0] for result in (alone, joint)
        )
        assert after > 0.85 > before
    assert not joint.failures
    assert [agreement.label for agreement in joint.agreements] == [1, 2]
    assert all(0.05 < agreement.with_registration < 0.95 for agreement in joint.agreements)
    # What the network is sure of, sharpened a little; to it both labels are alike, and the first gets all.
    assert alone.confidences == {1: pytest.approx(0.7, abs=0.02), 2: 0.0}
    assert 0.5 < joint.confidence < 1


def test_registration_alone_gives_the_warped_masks_of_the_evaluation():
    scans = [_body((0.0, 0.0, 0.0), 0), _body((12.0, -8.0, 10.0), 8)]
    support, query = (
        EvaluationScan(
            number,
            torch.from_numpy(normalise_slices(scan.voxels, None, source=scan.name))[:, None],
            *(labels.astype(np.int16),) * 2,
            scan.geometry,
        )
        for number, (scan, labels) in enumerate(scans)
    )
    fold = EvaluationFold((query,), {1: support, 2: support})
    jobs = plan_jobs(fold, {1: "a", 2: "b"}, n_part=1)
    warped = warp_supports(jobs, cache_dir=None, progress=False).by_pair[0, 1].masks
    annotated = scans[0][0], InputScan(scans[0][1], scans[0][0].geometry, "labels")
    segmenter = Segmenter.by_registration(None, intensity_weight=0)
    segmenter.set_support(*annotated, labels=[1, 2])
    result = segmenter.segment(scans[1][0], confidence=True)
    refining = Segmenter.by_registration(None)
    refining.set_support(*annotated, labels=[1, 2])
    refined = refining.segment(scans[1][0], confidence=True)
    options = EvaluationConfig(intensity_weight=2)
    by_label = {job.label: job for job in jobs if job.protocol == "all_slices"}
    for label in (1, 2):
        assert np.array_equal(result.probabilities[label], warped[label])
        expected = refine_job(warped[label], by_label[label], options)
        assert np.array_equal(refined.probabilities[label], expected)
        assert not np.array_equal(expected, warped[label])
        assert dice_and_iou(result.label_map == label, scans[1][1] == label)[0] > 0.85
    assert 0.5 < result.similarities[scans[0][0].name] <= 1
    expected = [warped[label][warped[label] > 0.5].mean() for label in (1, 2)]
    assert list(result.confidences.values()) == pytest.approx(expected)
    assert result.confidence == pytest.approx(np.mean(expected))


def test_registration_alone_averages_supports_and_leaves_out_failed_ones(monkeypatch):
    masks = [np.zeros(l_scan("LPS").geometry.shape, np.float32) for _ in range(2)]
    masks[0][2:6], masks[1][4:8] = 0.9, 0.5
    results = {name: WarpedSupport(None, {1: mask}, None) for name, mask in zip("ab", masks, strict=True)}
    results["c"] = WarpedSupport(None, {}, "bodies hardly overlap")
    monkeypatch.setattr(
        support_ensemble, "warp_support", lambda support, query, **_: results[support.scan.name]
    )
    segmenter, scan = Segmenter.by_registration("MR"), l_scan("LPS")
    segmenter.set_support([replace(scan, name=name) for name in "abc"], [_mask(scan)] * 3)
    result = segmenter.segment(scan, confidence=True)
    slices = result.probabilities[1][:, 0, 0]
    assert np.allclose(slices, [0, 0, 0.45, 0.45, 0.7, 0.7, 0.25, 0.25, 0, 0, 0, 0])
    assert result.label_map[:, 0, 0].tolist() == [0, 0, 0, 0, 1, 1, *[0] * 6]
    assert [agreement.with_joint for agreement in result.agreements] == [pytest.approx(2 / 3), 0.0, None]
    assert result.confidences == {1: pytest.approx(0.7)}
    assert result.confidence == pytest.approx(0.7 * 2 / 3)  # one of three registrations failed
    assert result.failures == {"c": "bodies hardly overlap"}


@pytest.mark.parametrize(("measures", "shift_mm", "chooses"), [(1, 5, False), (2, 5, True), (2, 0, False)])
def test_the_registration_that_agrees_with_the_network_guides(monkeypatch, measures, shift_mm, chooses):
    scan = l_scan("LAS")
    organ = is_bright(scan).astype(np.float32)
    missing, right = (WarpedSupport(None, {1: mask}, None) for mask in (np.roll(organ, 20, axis=2), organ))
    by_both = []

    def warp_support(support, query, **options):
        by_both.append(options["by_both"])
        return replace(missing, alternative=right) if options["by_both"] else missing

    monkeypatch.setattr(support_ensemble, "warp_support", warp_support)
    guiding = EvaluationConfig(guide_measures=measures, guide_shift_mm=shift_mm)
    segmenter = Segmenter(BrightSegmenter(), TURNED, device=CPU, options=Options(guiding=guiding))
    segmenter.set_support(scan, _mask(scan))
    (agreement,) = segmenter.segment(scan).agreements
    assert by_both == [chooses]
    assert agreement.with_registration == pytest.approx(1.0 if chooses else 0.0, abs=0.2)


def test_supports_are_averaged_and_compared_with_the_joint_result():
    scan = l_scan("LAS")
    halves = [np.zeros(scan.geometry.shape, np.uint8) for _ in range(3)]
    for half, columns in zip(halves, (slice(0, 10), slice(0, 10), slice(10, 20)), strict=True):
        half[:, 5:9, columns] = 1
    segmenter = Segmenter(CopySegmenter(), TURNED, device=CPU, options=Options(guided=False))
    segmenter.set_support([scan] * 3, [InputScan(half, scan.geometry, "half") for half in halves])
    result = segmenter.segment(scan, confidence=True)
    assert np.array_equal(result.label_map, halves[0])  # two of three agree
    assert np.allclose(result.probabilities[1], np.mean(halves, axis=0))
    assert [agreement.with_joint for agreement in result.agreements] == [1.0, 1.0, 0.0]
    assert result.confidence == pytest.approx(2 / 3)  # the third lowers the joint probability


def test_each_voxel_gets_the_most_probable_label():
    scan = l_scan("LAS")
    masks = [np.zeros(scan.geometry.shape, np.uint8) for _ in range(3)]
    masks[0][:, 5:9, 0:10] = 1
    masks[1][:, 5:9, 0:10], masks[1][:, 5:9, 8:12] = 1, 2
    masks[2][:, 5:9, 8:12] = 2
    segmenter = Segmenter(CopySegmenter(), TURNED, device=CPU, options=Options(guided=False))
    segmenter.set_support([scan] * 3, [InputScan(mask, scan.geometry, "mask") for mask in masks])
    row = segmenter.segment(scan).label_map[3, 6, :13]
    # Label 1 is in two supports: 1 in columns 0-7, 1/2 in 8 and 9; label 2 is in two: 1 in columns 8-11.
    assert row.tolist() == [1] * 8 + [2] * 4 + [0]


@pytest.mark.parametrize(("columns", "confidence"), [(slice(5, 12), 1.0), (slice(5, 10), 0.0)])
def test_confidence_is_that_of_the_mask_that_is_written(columns, confidence):
    scan = l_scan("LAS")
    masks = np.zeros((2, *scan.geometry.shape), np.uint8)
    masks[0][:, 5:9, 0:10], masks[1][:, 5:9, columns] = 1, 2  # where both are as probable, 1 is chosen
    segmenter = Segmenter(CopySegmenter(), TURNED, device=CPU, options=Options(guided=False))
    segmenter.set_support([scan] * 2, [InputScan(mask, scan.geometry, "mask") for mask in masks])
    result = segmenter.segment(scan)
    assert (result.volumes_ml[2] > 0) == (confidence > 0)
    assert result.confidences == {1: 1.0, 2: confidence}
    assert result.confidence == (1 + confidence) / 2


def test_supports_must_be_set_first():
    segmenter = Segmenter(BrightSegmenter(), TURNED, device=CPU)
    with pytest.raises(UserError, match="set_support must be called"):
        segmenter.segment(l_scan())


def test_invalid_settings_are_refused_in_python_too():
    with pytest.raises(UserError, match=r"guide='registratoin': must be .*; precision='fp8': must be"):
        Segmenter.from_snapshot("net.pt", guide="registratoin", precision="fp8")
    with pytest.raises(UserError, match="modality='PET': must be one of MR, CT"):
        Segmenter.by_registration("PET")
    with pytest.raises(UserError, match="intensity_weight=-1: must be a number"):
        Segmenter.by_registration("MR", intensity_weight=-1)


OWN = {"name": "Tiny", "labels": {"background": 0, "liver": 1}, "orientation": "LPS", "size_px": [32, 32]}


@pytest.fixture(name="workspace")
def _workspace(tmp_path, monkeypatch, narrow_encoder, switches_restored):
    """A folder with a snapshot of random weights, an annotated scan and queries in several formats."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/dataset.json").write_text(json.dumps(OWN | {"supervoxel_min_size_vox": 9}))
    values = dataset_defaults("PHANTOM")
    values["path"]["OWN"]["data_dir"], values["dataset"] = str(tmp_path / "data"), "Tiny"
    values["model"]["feature_width"] = 8
    config = parse_config(values)
    weights = make_network(config).state_dict()
    save_snapshot(tmp_path / "net.pt", Snapshot(1, weights, plain_values(config), {"python": "3"}))
    support = l_scan("LPS")
    write_volume(tmp_path / "a.nii.gz", support.voxels, support.geometry)
    write_volume(tmp_path / "a_seg.nii.gz", is_bright(support).astype(np.uint8), support.geometry)
    (tmp_path / "scans").mkdir()
    queries = {"b.nii.gz": "RAS", "c.nrrd": "SAL", "d.mha": "LIP"}
    for name, letters in queries.items():
        scan = l_scan(letters, is_oblique=True)
        write = write_volume if name.endswith(".gz") else write_itk_volume
        write(tmp_path / "scans" / name, scan.voxels, scan.geometry)
    return tmp_path


WORDS = ["reload_model_path=net.pt", "support_image=a.nii.gz", "support_label=a_seg.nii.gz", "query=scans"]
WORDS += ["out=masks", "device=cpu"]


def _set(**changes):
    words = dict(word.split("=", 1) for word in WORDS) | changes
    return [f"{name}={value}" for name, value in words.items() if value is not None]


@pytest.fixture(name="bright")
def _bright(monkeypatch):
    monkeypatch.setattr(networks, "NetworkSegmenter", lambda network, precision: BrightSegmenter())


def test_one_command_segments_a_folder_of_all_formats(workspace, bright, capsys):
    (workspace / "scans/bad.nii").write_bytes(b"damaged")
    assert main([*_set(guide="none", confidence="True", labels="1:liver")]) == 3
    out, err = capsys.readouterr()
    assert "not a medical device" in out
    assert err.startswith("error: scans/bad.nii: cannot be read")
    names = {"b.nii.gz", "c.nrrd", "d.mha"}
    written = {path.name for path in (workspace / "masks").iterdir()}
    probabilities = {"b_probability_liver.nii.gz", "c_probability_liver.nrrd", "d_probability_liver.mha"}
    assert written == (names | probabilities | set(RECORD_NAMES)) - {SUPPORTS_CSV}
    for name in names:
        mask, scan = read_scan(workspace / "masks" / name), read_scan(workspace / "scans" / name)
        assert mask.geometry.same_grid(scan.geometry, tolerance_mm=1e-5)
        assert np.array_equal(mask.voxels, scan.voxels == BRIGHT)
    image, mask = (nibabel.load(workspace / folder / "b.nii.gz") for folder in ("scans", "masks"))
    for form in ("get_qform", "get_sform"):
        assert np.array_equal(getattr(image, form)(coded=True)[0], getattr(mask, form)(coded=True)[0])
    page = (workspace / "masks/predictions.html").read_text(encoding="utf-8")
    assert all(f'data-scan="{name}"' in page for name in names)
    assert "not a medical device" in page
    assert "not segmented: scans/bad.nii: cannot be read" in page
    assert "Support a.nii.gz, whole slice 3: outlines of liver" in page
    assert f"pictures, to be checked: {Path('masks/predictions.html')}" in out
    record = json.loads((workspace / "masks/prediction.json").read_text())
    assert record["labels"] == {"background": 0, "liver": 1}
    assert list(record["failed"]) == ["scans/bad.nii"]
    rows = list(csv.DictReader((workspace / "masks/volumes.csv").open()))
    assert {row["scan"] for row in rows} == names
    volume_ml = int(is_bright(l_scan()).sum()) * 5.0 * 1.5 * 1.5 / 1000
    assert all(float(row["volume_ml"]) == pytest.approx(volume_ml, abs=1e-3) for row in rows)


def test_threads_do_not_spin_on_busy_cores_while_the_command_works(workspace, bright, monkeypatch):
    states, segment = [], Segmenter.segment

    @contextmanager
    def policy():
        states.append("on")
        yield
        states.append("off")

    def segment_and_note(*arguments, **options):
        states.append("segments")
        return segment(*arguments, **options)

    monkeypatch.setattr(prediction, "AdaptiveWaitPolicy", policy)
    monkeypatch.setattr(Segmenter, "segment", segment_and_note)
    assert main(_set(query="scans/b.nii.gz", guide="none")) == 0
    assert states == ["on", "segments", "off"]


def test_a_tilde_stands_for_the_home_folder(workspace, bright, monkeypatch):
    monkeypatch.setenv("HOME", str(workspace))
    names = ("reload_model_path", "support_image", "support_label", "out", "work")
    values = dict(word.split("=", 1) for word in WORDS) | {"work": "work"}
    words = _set(**{name: f"~/{values[name]}" for name in names}, query="scans/b.nii.gz,~/scans/c.nrrd")
    assert main([*words, "guide=none"]) == 0
    assert {"b.nii.gz", "c.nrrd"} < {path.name for path in (workspace / "masks").iterdir()}
    assert not (workspace / "~").exists()


def test_probabilities_of_every_label_are_written_whatever_its_name(workspace, bright):
    scan = l_scan("LPS")
    labels = is_bright(scan).astype(np.uint8)
    labels[labels.shape[0] // 2 :] *= 2
    write_volume(workspace / "a_seg.nii.gz", labels, scan.geometry)
    words = _set(query="scans/b.nii.gz", guide="none", confidence="True")
    assert main([*words, "labels=1:kidney (left),2:kidney [left]"]) == 0
    names = {path.name for path in (workspace / "masks").glob("*_probability_*")}
    assert names == {f"b_probability_kidney_left__{label}.nii.gz" for label in (1, 2)}


@pytest.fixture(name="series")
def _series(workspace):
    """Coronal DICOM slices, from anterior to posterior, in the folder `series`."""
    scan = l_scan("LIP", is_oblique=True)
    write_series(workspace / "series", scan.voxels, scan.geometry)
    return scan


def test_a_dicom_series_gets_a_mask_at_its_position_in_the_patient(workspace, bright, series):
    assert main(_set(query="series", guide="none")) == 0
    mask = nibabel.load(workspace / "masks/series.nii.gz")
    result = np.argwhere(np.asarray(mask.dataobj) == 1)
    expected = np.argwhere(is_bright(series))
    assert len(result) == len(expected)
    centre = nibabel.affines.apply_affine(mask.affine, result.mean(axis=0))
    centre_lps = series.geometry.position_mm(expected.mean(axis=0))
    assert np.allclose(centre, centre_lps * (-1, -1, 1), atol=0.05)


def test_a_dicom_seg_holds_the_voxels_of_the_nifti_result_at_their_positions(workspace, bright, series):
    highdicom = pytest.importorskip("highdicom", reason=f"see {REQUIREMENTS}")
    words = {"query": "series", "guide": "none", "labels": "1:liver"}
    assert main(_set(**words)) == 0
    assert main(_set(**words, format="dicom_seg", out="segs", confidence="True")) == 0
    written = {path.name for path in (workspace / "segs").iterdir()}
    assert written == {"series.dcm", "series_probability_liver.nii.gz", *RECORD_NAMES} - {SUPPORTS_CSV}
    mask = nibabel.load(workspace / "masks/series.nii.gz")
    volume = highdicom.seg.segread(workspace / "segs/series.dcm").get_volume(combine_segments=True)
    ras_mm = nibabel.affines.apply_affine(mask.affine, np.argwhere(np.asarray(mask.dataobj) == 1))
    lps_mm = nibabel.affines.apply_affine(volume.affine, np.argwhere(volume.array == 1))
    assert len(ras_mm) == int(is_bright(series).sum())
    assert_same_points(lps_mm, ras_mm * (-1, -1, 1))


def test_a_series_that_cannot_be_referenced_is_reported_early_in_one_line(workspace, bright, series, capsys):
    pytest.importorskip("highdicom", reason=f"see {REQUIREMENTS}")
    write_series(workspace / "other", series.voxels, series.geometry, tags=[("0020|0052", "")])
    assert main(_set(query="series,other", guide="none", format="dicom_seg")) == 3
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: other/99.dcm: tag FrameOfReferenceUID must be set")
    assert [path.name for path in (workspace / "masks").glob("*.dcm")] == ["series.dcm"]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "format=dicom_seg: queries must be folders of a DICOM series, got scans/b.nii.gz (and 2 more"),
        ({"query": "series", "out": "series/masks"}, "out=series/masks: DICOM results must not lie among"),
        ({"query": "seri*", "out": "masks"}, "out=masks: DICOM results must not lie among"),
    ],
)
def test_what_dicom_seg_cannot_do_is_refused_before_any_work(workspace, series, capsys, changes, line):
    pytest.importorskip("highdicom", reason=f"see {REQUIREMENTS}")
    before = sorted(workspace.rglob("*"))
    assert main(_set(format="dicom_seg", **changes)) == 2
    [result] = capsys.readouterr().err.splitlines()
    assert result.startswith(f"error: {line}")
    assert sorted(workspace.rglob("*")) == before


def test_a_series_of_another_modality_is_reported_in_one_line(workspace, capsys):
    scan = l_scan("LIP")
    for modality in ("CT", "MR"):
        tags = [("0008|0060", modality)]
        write_series(workspace / "series" / modality, scan.voxels, scan.geometry, tags=tags)
    assert main(_set(**REGISTRATION, query="series")) == 3
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: series/CT: must be MR, as modality= or the training")
    assert (workspace / "masks/MR.nii.gz").exists()
    assert not (workspace / "masks/CT.nii.gz").exists()


def test_each_unusable_query_is_reported_in_one_line(workspace, bright, capsys):
    scan, queries = l_scan("LPS"), workspace / "scans"
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    nibabel.Nifti1Image(np.ones((4, 5, 6, 2), np.int16), affine).to_filename(queries / "1_series.nii")
    colours = SimpleITK.GetImageFromArray(np.zeros((3, 4, 5, 3), np.uint8), isVector=True)
    SimpleITK.WriteImage(colours, str(queries / "2_colours.nrrd"))
    write_volume(queries / "3_slice.nii.gz", scan.voxels[:1], replace(scan.geometry, shape=(1, 30, 32)))
    write_volume(queries / "4_constant.nii.gz", 0 * scan.voxels, scan.geometry)
    nibabel.Nifti1Image(scan.voxels, None).to_filename(queries / "5_lost.nii")
    assert main(_set(guide="none")) == 3
    lines = capsys.readouterr().err.splitlines()
    texts = ("1_series.nii: must be a 3D image", "2_colours.nrrd: must be a 3D image", "at least 2 slices")
    texts += ("voxels must differ", "5_lost.nii: orientation unknown")
    assert len(lines) == 5
    assert all(line.startswith("error: scans/") for line in lines)
    assert all(text in line for line, text in zip(lines, texts, strict=True))
    assert len(list(csv.DictReader((workspace / "masks/volumes.csv").open()))) == 3


def test_several_supports_are_compared_and_an_old_comparison_goes(workspace, bright, capsys):
    words = _set(support_image="a.nii.gz,b.nii.gz", support_label="a_seg.nii.gz,b_seg.nii.gz", guide="none")
    for ending in ("", "_seg"):
        (workspace / f"b{ending}.nii.gz").write_bytes((workspace / f"a{ending}.nii.gz").read_bytes())
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "supports, each segmented from the others by the network: mean Dice 1.00" in out
    assert "from a.nii.gz alone: 1.00" in out
    rows = list(csv.DictReader((workspace / "masks" / SUPPORTS_CSV).open()))
    pairs = [(row["segmented_support"], row["support"], row["dice_without"]) for row in rows]
    assert pairs == [("a.nii.gz", "b.nii.gz", ""), ("b.nii.gz", "a.nii.gz", "")]
    assert {float(row["dice_alone"]) for row in rows} == {1.0}
    page = workspace / "masks/predictions.html"
    assert "How much each support helps" in page.read_text(encoding="utf-8")
    assert main([*words, "compare_supports=False"]) == 0
    assert not (workspace / "masks" / SUPPORTS_CSV).exists()
    assert "How much each support helps" not in page.read_text(encoding="utf-8")


def test_doubtful_scans_stand_first(workspace, bright, capsys):
    short = l_scan("LPS")
    write_volume(workspace / "scans/z.nii.gz", short.voxels[:3], replace(short.geometry, shape=(3, 30, 32)))
    (workspace / "scans/c.nrrd").unlink()
    (workspace / "scans/d.mha").unlink()
    assert main(WORDS) == 0
    rows = list(csv.DictReader((workspace / "masks/agreement.csv").open()))
    assert [row["scan"] for row in rows] == ["z.nii.gz", "b.nii.gz"]
    assert float(rows[0]["confidence_of_scan"]) == 0
    assert "at least 4 voxels" in rows[0]["registration_failure"]
    assert "check the masks of lowest confidence first: z.nii.gz (0.00)" in capsys.readouterr().out


REGISTRATION = {"reload_model_path": None, "method": "registration", "modality": "MR"}


def test_registration_alone_needs_no_network(workspace, monkeypatch, capsys):
    (workspace / "net.pt").unlink()
    monkeypatch.setattr(Segmenter, "from_snapshot", None)
    short = l_scan("LPS")
    write_volume(workspace / "scans/z.nii.gz", short.voxels[:3], replace(short.geometry, shape=(3, 30, 32)))
    assert main(_set(**REGISTRATION, confidence="True")) == 3
    out, err = capsys.readouterr()
    assert err.startswith("error: scans/z.nii.gz: registration failed (scans/z.nii.gz: volume: must have at")
    assert "registration alone, no network\n" in out
    assert "clipped at the 99.5th percentile" in out
    assert "adaptation" not in out
    rows = list(csv.DictReader((workspace / "masks/agreement.csv").open()))
    confidences = [float(row["confidence_of_scan"]) for row in rows]
    assert all(0.5 < float(row["registration_similarity"]) <= 1 for row in rows)
    assert confidences == sorted(confidences)
    assert f"check the masks of lowest confidence first: {rows[0]['scan']} ({confidences[0]:.2f})" in out
    for name in ("b.nii.gz", "c.nrrd", "d.mha"):
        mask, scan = read_scan(workspace / "masks" / name), read_scan(workspace / "scans" / name)
        assert mask.geometry.same_grid(scan.geometry, tolerance_mm=1e-5)
        assert dice_and_iou(mask.voxels == 1, scan.voxels == BRIGHT)[0] > 0.7
    written = {path.name for path in (workspace / "masks").iterdir()}
    assert {*RECORD_NAMES, "c_probability_label_1.nrrd"} - {SUPPORTS_CSV} < written
    assert json.loads((workspace / "masks/prediction.json").read_text())["snapshot"] is None


def test_nothing_segmented_is_exit_code_2_and_no_old_result_stays(workspace, bright, capsys):
    (workspace / "scans/b.nii.gz").write_bytes(b"damaged")
    (workspace / "masks").mkdir()
    for name in ("b.nii.gz", "b_probability_label_1.nii.gz"):
        (workspace / "masks" / name).write_bytes(b"of an earlier call")
    assert main(_set(query="scans/b.nii.gz")) == 2
    assert not list((workspace / "masks").glob("b*"))
    assert "confidence" not in capsys.readouterr().out


def test_supports_in_the_queries_folder_are_left_out(workspace, bright, capsys):
    (workspace / "masks").mkdir()
    (workspace / "masks/predictions.html").write_text("of an earlier call")
    assert main(_set(query="*.nii.gz,scans/b.nii.gz", guide="none", report="False")) == 0
    assert not (workspace / "masks/predictions.html").exists()
    assert "2 of the queries are supports or their masks" in capsys.readouterr().out
    assert {path.name for path in (workspace / "masks").glob("*.nii.gz")} == {"b.nii.gz"}


def test_a_second_call_with_a_recursive_pattern_does_not_segment_results_of_the_first(
    workspace, bright, capsys
):
    words = _set(query="scans/**/*.*", out="scans/masks", guide="none", confidence="True")
    assert main(words) == 0
    first = {path: path.read_bytes() for path in (workspace / "scans/masks").glob("*.nii.gz")}
    assert first
    capsys.readouterr()
    assert main(words) == 0
    assert "6 of the queries lie in out or work, and are left out" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in (workspace / "scans/masks").glob("*.nii.gz")} == first


def test_masks_are_not_written_among_the_slices_of_a_series(workspace, bright, series, capsys):
    before = sorted(workspace.rglob("*"))
    assert main(_set(query="series", out="series")) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line == "error: out=series: is the folder of a DICOM series; choose another folder"
    assert sorted(workspace.rglob("*")) == before


MISTAKES = {
    "nothing": (dict.fromkeys(("query", "out")), ["query: missing key", "out: missing key"]),
    "a typing error": ({"laebls": "1"}, ["laebls: unknown configuration key; did you mean labels?"]),
    "a range": ({"slices": "9:2"}, ["slices='9:2': must be a:b with whole numbers a below b"]),
    "an orientation": ({"orientation": "up"}, ["orientation='up': must be three letters"]),
    "no such label": ({"labels": "7"}, ["labels=7: must be a label of the supports' masks, which hold 1;"]),
    "an adaptation": ({"adaptation": "-1"}, ["adaptation=-1: must be a whole number of steps, or auto"]),
    "no time is spent on adaptation": (
        {"adaptation": "1000000000", "query": "none*"},
        ["query=none*: matches 0 files"],
    ),
    "no network and no modality": (
        {"reload_model_path": None, "data_dir": "data"},
        [
            "modality: missing key; without reload_model_path a network",
            "data_dir=data: describes the training",
        ],
    ),
    "no network and other mistakes": (
        {"reload_model_path": None, "modality": "MR", "labels": "7", "device": "tpu", "work": "net.pt"},
        ["labels=7: must be a label", "device=tpu: must be", "work=net.pt: must be a folder"],
    ),
    "registration and a network": (
        {"method": "registration", "guide": "none", "minutes": "3", "unet_steps": "9"},
        [
            "reload_model_path=net.pt: method=registration has no network; leave",
            "minutes=3.0: method=registration has no network; leave minutes out",
            "unet_steps=9: method=registration has no network; leave unet_steps out",
            "guide=none: leaves nothing",
            "modality: missing key; method=registration clips",
        ],
    ),
    "a network and a modality": (
        {"modality": "CT", "minutes": "5"},
        [
            "modality=CT: is for training, which reload_model_path",
            "minutes=5.0: is for training, which reload_model_path",
        ],
    ),
    "no best snapshot": (
        {"reload_model_path": "best"},
        ["reload_model_path=best: runs holds no trained run;"],
    ),
    "no snapshot": ({"reload_model_path": "none"}, ["none: no such file or folder"]),
    "no query": ({"query": "none*"}, ["query=none*: matches 0 files"]),
    "out is a file": ({"out": "net.pt"}, ["out=net.pt: must be a folder, found a file"]),
    "out holds the queries": ({"out": "scans"}, ["out=scans: scans/b.nii.gz would replace an input"]),
    "an image as mask": ({"support_label": "a.nii.gz"}, ["a.nii.gz: must hold"]),
    "masks are missing": ({"support_image": "a.nii.gz,scans/b.nii.gz"}, ["support_label: must be one mask"]),
    "another grid": ({"support_image": "scans/b.nii.gz"}, ["a_seg.nii.gz: must lie on the grid of b.nii.gz"]),
    "all at once": (
        {"reload_model_path": "none", "support_image": "x.nii", "query": "y.nii", "out": "net.pt"},
        ["query=y.nii: no such file", "out=net.pt: must be", "none: no such file or", "x.nii: no such file"],
    ),
}


@pytest.mark.parametrize(("changes", "lines"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_cost_one_line_each_before_any_work(workspace, capsys, changes, lines):
    if "a.nii.gz: must hold" in lines[0]:
        scan = l_scan("LPS")
        write_volume(workspace / "a.nii.gz", scan.voxels - np.float32(0.5), scan.geometry)
    before = sorted(workspace.rglob("*"))
    assert main(_set(**changes)) == 2
    result = capsys.readouterr().err.splitlines()
    assert len(result) == len(lines)
    assert all(line.startswith(f"error: {text}") for line, text in zip(result, lines, strict=True))
    assert sorted(workspace.rglob("*")) == before


def test_a_damaged_snapshot_and_one_without_its_data_are_refused(workspace, capsys):
    (workspace / "data/dataset.json").unlink()
    assert main(WORDS) == 2
    assert "set data_dir, or train it again" in capsys.readouterr().err
    (workspace / "net.pt").write_bytes(b"x")
    assert main(WORDS) == 2
    assert "net.pt: is damaged or not a snapshot" in capsys.readouterr().err


def test_the_network_itself_predicts_and_does_so_again(workspace):
    segmenter = Segmenter.from_snapshot("net.pt", device="cpu", guide="none")
    segmenter.set_support("a.nii.gz", "a_seg.nii.gz")
    first, again = (segmenter.segment("scans/c.nrrd", confidence=True) for _ in range(2))
    assert first.probabilities[1].std() > 0
    assert np.array_equal(first.probabilities[1], again.probabilities[1])
    assert segmenter.labels == {1: "label 1"}
    segmenter.set_support("a.nii.gz", "a_seg.nii.gz", labels=["liver"])
    assert segmenter.labels == {1: "liver"}


def test_the_best_snapshot_of_a_run_or_of_the_only_training_serves(workspace, bright, capsys):
    run_dir = workspace / "runs/Tiny/fold_0/training/1"
    (run_dir / "snapshots").mkdir(parents=True)
    for name in ("best.pt", "snapshot_000002.pt"):
        (run_dir / "snapshots" / name).write_bytes((workspace / "net.pt").read_bytes())
    for path in ("best", "runs/Tiny/fold_0/training/best", "runs/Tiny/fold_0/training/1/best"):
        assert main(_set(reload_model_path=path, guide="none", query="scans/b.nii.gz")) == 0
        assert "snapshot: runs/Tiny/fold_0/training/1/snapshots/best.pt\n" in capsys.readouterr().out


def _probabilities(**options):
    """Segment one query by two supports of different organs."""
    segmenter = Segmenter.from_snapshot("net.pt", device="cpu", guide="none", **options)
    scans = [l_scan(letters) for letters in ("LPS", "RAS")]
    masks = [_mask(scan, label) for label, scan in zip((3, 7), scans, strict=True)]
    segmenter.set_support(scans, masks)
    return segmenter.segment("scans/c.nrrd", confidence=True).probabilities


def test_the_network_learns_from_all_supports_and_is_cached_for_a_second_call(workspace, capsys):
    trained, adapted = (_probabilities(adaptation=n, cache_dir="kept") for n in (0, 2))
    assert "adapting to support image 1, support image 2: 2 steps" not in capsys.readouterr().err
    assert set(trained) == set(adapted) == {3, 7}
    assert not any(np.allclose(trained[label], adapted[label], atol=1e-4) for label in (3, 7))
    [cached] = [path for path in (workspace / "kept").iterdir() if not path.name.startswith("unet_")]
    written = cached.stat().st_mtime_ns
    again = _probabilities(adaptation=2, cache_dir="kept")
    assert all(np.array_equal(again[label], adapted[label]) for label in (3, 7))
    assert cached.stat().st_mtime_ns == written
    assert "steps in" not in capsys.readouterr().out


def test_a_unet_of_the_supports_joins_each_label():
    scan = l_scan("PSR")
    shapes = []

    def train_unet(supports, n_labels):
        shapes.append(([support.scan.images.shape for support in supports], n_labels))
        levels = torch.tensor([0.3, 0.6, 0.1])  # of the background and two labels
        return lambda slices: levels[None, :, None, None].expand(len(slices), -1, *slices.shape[-2:])

    segmenter = Segmenter(
        BrightSegmenter(0.8), TURNED, device=CPU, options=Options(guided=False), train_unet=train_unet
    )
    mask = _mask(scan, label=4).voxels
    mask[0] = 9
    segmenter.set_support([scan], [InputScan(mask, scan.geometry, "mask")])
    assert shapes == [([segmenter.supports[0].scan.images.shape], 2)]
    result = segmenter.segment(scan, confidence=True).probabilities
    bright = is_bright(scan)
    for label, unet in ((4, 0.6), (9, None)):  # the second has no foreground, and is not joined
        inside, outside = (
            p if unet is None else 1 / (1 + ((1 - p) / p * (1 - unet) / unet) ** 0.5) for p in (0.8, 0.2)
        )
        np.testing.assert_allclose(result[label], np.where(bright, inside, outside), atol=1e-4)


def test_network_and_unet_are_compared():
    scan = l_scan("LAS")
    half = is_bright(scan) & (np.arange(scan.geometry.shape[0]) < 6)[:, None, None]

    def find_half(slices):
        foreground = torch.from_numpy(half)[:, None].float() * (slices > 2)
        return torch.cat([1 - foreground, foreground], dim=1)

    segmenter = Segmenter(
        BrightSegmenter(),
        TURNED,
        device=CPU,
        options=Options(guided=False),
        train_unet=lambda supports, n_labels: find_half,
    )
    segmenter.set_support(scan, _mask(scan))
    result = segmenter.segment(scan)
    expected = dice_and_iou(half, is_bright(scan))[0]
    assert 0 < expected < 1
    assert [entry.with_unet for entry in result.agreements] == [pytest.approx(expected)]


def test_versions_of_a_scan_are_averaged_and_compared():
    segmenters = [
        _segmenter(BrightSegmenter(0.7), guiding=EvaluationConfig(test_time_augmentation=n)) for n in (1, 3)
    ]
    scan = l_scan("RSA")
    alone, averaged = (segmenter.segment(scan, confidence=True) for segmenter in segmenters)
    assert not np.array_equal(alone.probabilities[1], averaged.probabilities[1])
    assert alone.agreements[0].between_versions is None
    assert 0.5 < averaged.agreements[0].between_versions < 1
    assert alone.confidence != averaged.confidence


def test_a_unet_is_trained_on_all_supports_repeatably(workspace, monkeypatch):
    pytest.importorskip("monai", reason="MONAI, which U-Nets need, is not installed")
    monkeypatch.setattr(unet_training, "CHANNELS", (4, 4, 4, 4))
    drawn = []
    iterate = unet_training.iterate_labelled_slices

    def recording(images, classes, **options):
        drawn.append((images.shape, np.unique(classes).tolist(), options["n_batches"]))
        return iterate(images, classes, **options)

    monkeypatch.setattr(unet_training, "iterate_labelled_slices", recording)
    # So that what three steps teach counts as foreground.
    monkeypatch.setattr(refinement, "THRESHOLD", 0.0)
    alone, joined, again = (_probabilities(unet_steps=n) for n in (0, 3, 3))
    [(shape, classes, n_batches), repeated] = drawn
    assert repeated == drawn[0]
    assert shape[0] == sum(l_scan(letters).voxels.shape[0] for letters in ("LPS", "RAS"))
    assert (classes, n_batches) == ([0, 1, 2], 3)
    assert all(np.array_equal(joined[label], again[label]) for label in (3, 7))
    assert not any(np.allclose(joined[label], alone[label], atol=1e-4) for label in (3, 7))


@pytest.mark.parametrize("case", ["sizes", "labels"])
def test_supports_that_do_not_suit_a_unet_train_none_unless_requested(workspace, monkeypatch, case):
    pytest.importorskip("monai", reason="MONAI, which U-Nets need, is not installed")
    monkeypatch.setattr(unet_training, "CHANNELS", (4, 4, 4, 4))
    if case == "sizes":
        own = {name: value for name, value in OWN.items() if name != "size_px"}
        (workspace / "data/dataset.json").write_text(json.dumps(own | {"supervoxel_min_size_vox": 9}))
    scans = [l_scan("LPS"), l_scan("LPS", shape=(12, 34, 40) if case == "sizes" else (12, 30, 32))]
    masks = [_mask(scan, 1 if case == "sizes" else n) for n, scan in enumerate(scans, start=1)]
    options = {"device": "cpu", "guide": "none", "auto_steps": 1}
    segmenter = Segmenter.from_snapshot("net.pt", **options)
    text = "slices differ in size" if case == "sizes" else "labels that a support lacks"
    with pytest.warns(UserWarning, match=f"no U-Net is trained: .*{text}"):
        segmenter.set_support(scans, masks)
    assert segmenter.segment(scans[1]).agreements[0].with_unet is None
    segmenter = Segmenter.from_snapshot("net.pt", adaptation=0, unet_steps=1, **options)
    if case == "sizes":
        with pytest.raises(UserError, match="unet_steps=1: the supports' slices differ in size; set"):
            segmenter.set_support(scans, masks)
        return
    with pytest.warns(UserWarning, match=f"unet_steps=1: .*{text}"):
        segmenter.set_support(scans, masks)
    assert segmenter.segment(scans[1]).agreements[0].with_unet is not None


def test_a_support_without_a_label_to_segment_is_named():
    scan, segmenter = l_scan("PSR"), _segmenter()
    with pytest.warns(UserWarning, match="empty: left out, as the mask holds none of the labels"):
        segmenter.set_support([scan, replace(scan, name="empty")], [_mask(scan), _mask(scan, label=0)])
    assert segmenter.support_names == [scan.name]


def test_mistakes_are_found_before_a_network_is_trained(workspace, monkeypatch, capsys):
    monkeypatch.setattr(unet_training, "find_spec", lambda name: None)
    before = sorted(workspace.rglob("*"))
    words = {"reload_model_path": None, "modality": "MR"}
    assert main(_set(**words)) == 2
    assert capsys.readouterr().err.startswith("error: unet_steps: the package monai is not installed;")
    assert main(_set(**words, test_time_augmentation="6")) == 2
    assert "error: test_time_augmentation=6: must be" in capsys.readouterr().err
    assert sorted(workspace.rglob("*")) == before
    assert MAX_VERSIONS == test_time_augmentation.MAX_VERSIONS


def test_a_comparison_that_fails_does_not_stop_the_segmentation(workspace, bright, monkeypatch, capsys):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(Segmenter, "compare_supports", fail)
    assert main(_set(guide="none", query="scans/b.nii.gz")) == 0
    assert "supports are not compared: not enough memory" in capsys.readouterr().out


def test_a_unet_without_monai_is_refused_before_any_work(workspace, monkeypatch, capsys):
    monkeypatch.setattr(unet_training, "find_spec", lambda name: None)
    before = sorted(workspace.rglob("*"))
    assert main(_set(unet_steps="600")) == 2
    assert "error: unet_steps: the package monai is not installed;" in capsys.readouterr().err
    assert sorted(workspace.rglob("*")) == before


def test_without_a_gpu_nothing_is_adapted_unless_requested(workspace):
    trained, default = (_probabilities(**options) for options in ({"adaptation": 0}, {}))
    assert all(np.array_equal(trained[label], default[label]) for label in (3, 7))


def test_the_command_adapts_once_and_prints_the_duration(workspace, capsys):
    words = _set(guide="none", query="scans/c.nrrd", adaptation="2")
    assert main(words) == 0
    assert "adapting to a.nii.gz: 2 steps in" in capsys.readouterr().out
    cached = sorted((workspace / "masks/work/adapted").iterdir())
    assert [path.name.startswith("unet_") for path in cached] == [False, True]  # as many steps of a U-Net
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "steps in" not in out
    assert "is not adapted" not in out
    assert cached == sorted((workspace / "masks/work/adapted").iterdir())
    assert main([*_set(guide="none", query="scans/c.nrrd")]) == 0
    assert "adaptation=150 does so" in capsys.readouterr().out


def test_an_organ_too_small_to_learn_from_is_refused_if_learning_was_requested(workspace, capsys):
    scan = l_scan("LPS")
    mask = np.zeros(scan.geometry.shape, np.uint8)
    mask[3, 8, 8] = 1
    write_volume(workspace / "a_seg.nii.gz", mask, scan.geometry)
    assert main(_set(guide="none", adaptation="2")) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: adaptation=2: no episode can be sampled: none of 1")
    assert line.endswith("or set adaptation=0")
    assert not (workspace / "masks").exists()


def test_the_examples_of_the_documentation_run(workspace):
    write_volume(workspace / "b.nii.gz", l_scan("RPS").voxels, l_scan("RPS").geometry)
    (workspace / "runs/training/1/snapshots").mkdir(parents=True)
    (workspace / "net.pt").rename(workspace / "runs/training/1/snapshots/snapshot_000001.pt")
    page = Path(prediction.__file__).parent / "docs/prediction.md"
    examples = doctest.DocTestParser().get_doctest(page.read_text(), {}, page.name, str(page), 0)
    assert len(examples.examples) > 10
    assert doctest.DocTestRunner().run(examples).failed == 0
