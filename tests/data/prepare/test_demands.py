"""What later steps demand is checked before anything is written, on the grids that would be made."""

import json

import nibabel
import numpy as np
import pytest

from data.prepare.__main__ import main
from data.supervoxels.body import MIN_SIZE_SHARE, suggest_min_size
from tests.data.raw.raw_sets import write_synapse
from util.io.image_io import read_geometry

# Ellipsoids in patient RAS mm: centre, radii.
BODY, LIVER, STONE = ((0, 0, 0), (85, 70, 60)), ((35, 10, 12), (28, 22, 20)), ((-40, -25, -14), (2, 2, 2))


def affine_of(codes, spacing, extent_mm=(192, 160, 144), *, turn=None):
    """Return the RAS affine and shape of a grid around 0 whose axes run to `codes`, turned by a rotation."""
    ends = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
    affine, shape = np.eye(4), []
    for axis, end in enumerate(codes):
        patient_axis, sign = ends[end]
        shape.append(round(extent_mm[patient_axis] / spacing[axis]))
        affine[:3, axis] = 0
        affine[patient_axis, axis] = sign * spacing[axis]
    if turn is not None:
        affine[:3, :3] = turn @ affine[:3, :3]
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine, shape


def write_scan(folder, scan_id, affine, shape, *, organs=(LIVER,), label=True):
    positions = (
        np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) @ affine[:3, :3].T + affine[:3, 3]
    )

    def inside(centre, radii):
        return (((positions - np.array(centre)) / radii) ** 2).sum(-1) <= 1

    rng = np.random.default_rng(scan_id)
    image = rng.normal(5, 1, shape) + 100 * inside(*BODY)
    label_map = np.zeros(shape, np.uint8)
    for number, organ in enumerate(organs, start=1):
        label_map[inside(*organ)] = number
    image += 60 * label_map
    for name, voxels in (("image", image.astype(np.float32)), ("label", label_map)):
        if name == "image" or label:
            file = nibabel.Nifti1Image(voxels, affine)
            file.set_qform(affine, 1)
            file.set_sform(affine, 1)
            nibabel.save(file, folder / f"{name}_{scan_id}.nii.gz")


def describe(folder, **values):
    folder.mkdir(parents=True, exist_ok=True)
    values = {"labels": {"background": 0, "liver": 1, "stone": 2}, "supervoxel_min_size_vox": 100} | values
    (folder / "dataset.json").write_text(json.dumps({k: v for k, v in values.items() if v is not ...}))


def prepare(tmp_path, *words):
    return main(["dataset=Own", f"raw={tmp_path}/raw", f"data_dir={tmp_path}/out", "num_workers=1", *words])


@pytest.mark.parametrize("check", [(), ("--check",)], ids=["prepare", "check"])
@pytest.mark.parametrize(
    ("values", "spacing", "message"),
    [
        (
            {},
            (3, 5, 8),
            "image_1.nii.gz: after preparation, spacing: pixels must be square within 1 percent, got 5 x",
        ),
        ({"spacing_mm": [1.5, 1.5, 6]}, (3, 3, 6), "pixels must be square within 1 percent, got 1.5 x 6 mm"),
        (
            {"spacing_mm": [144, 3, 3]},
            (3, 3, 36),
            "must have at least 2 slices after preparation, got 1 at 144 mm",
        ),
    ],
)
def test_a_grid_that_supervoxels_or_episodes_would_refuse_is_refused(
    tmp_path, capsys, values, spacing, message, check
):
    describe(tmp_path / "raw", **values)
    write_scan(tmp_path / "raw", 1, *affine_of("LPS", spacing))
    assert prepare(tmp_path, *check) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
    assert "dataset.json" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("check", [(), ("--check",)], ids=["prepare", "check"])
def test_slices_of_several_sizes_need_a_size(tmp_path, capsys, check):
    describe(tmp_path / "raw")
    for scan_id, extent_mm in ((1, (192, 160, 144)), (2, (192, 160, 144)), (3, (150, 160, 144))):
        write_scan(tmp_path / "raw", scan_id, *affine_of("LPS", (3, 3, 6), extent_mm))
    assert prepare(tmp_path, *check) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert (
        "image_3.nii.gz: slices must have one size in all scans, 53 x 64 px for most, got 53 x 50 px; set"
        in line
    )
    assert not (tmp_path / "out").exists()
    describe(tmp_path / "raw", size_px=[48, 48])
    assert prepare(tmp_path, *check) == 0


def test_a_size_is_compared_with_scans_that_were_prepared_before(tmp_path, capsys):
    describe(tmp_path / "raw")
    for scan_id in (1, 2):
        write_scan(tmp_path / "raw", scan_id, *affine_of("LPS", (3, 3, 6)))
    assert prepare(tmp_path) == 0
    write_scan(tmp_path / "raw", 3, *affine_of("LPS", (3, 3, 6), (150, 160, 144)))
    assert prepare(tmp_path) == 2
    assert "image_3.nii.gz: slices must have one size in all scans, 53 x 64 px" in capsys.readouterr().err


def test_an_organ_that_resampling_removes_is_said_and_the_only_one_is_refused(tmp_path, capsys):
    describe(tmp_path / "raw", spacing_mm=[12, 6, 6])
    write_scan(tmp_path / "raw", 1, *affine_of("LPS", (2, 2, 4)), organs=(LIVER, STONE))
    assert prepare(tmp_path) == 0
    assert "label_1.nii.gz: nothing is left of 2 stone after resampling" in capsys.readouterr().out
    describe(tmp_path / "raw", spacing_mm=[12, 6, 6], test_labels=[2])
    assert prepare(tmp_path, "--check") == 2
    assert "label_1.nii.gz: nothing is left of 2 stone after resampling; use finer" in capsys.readouterr().err


def test_scans_of_every_orientation_keep_their_slices_in_one_set(tmp_path):
    tilt, lean = np.radians(35), np.radians(50)
    about_z = np.array([[np.cos(lean), -np.sin(lean), 0], [np.sin(lean), np.cos(lean), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    stored = {
        1: affine_of("LPS", (2, 2, 6)),
        2: affine_of("RAS", (2, 2, 6)),
        3: affine_of("LIP", (2, 2, 6)),  # coronal
        4: affine_of("PIR", (2, 2, 6)),  # sagittal
        5: affine_of("SLA", (2, 2, 6)),
        6: affine_of("LSP", (2, 6, 2)),  # slices are the second axis
        7: affine_of("LPS", (2, 2, 6), (200, 200, 200), turn=about_z @ about_x),  # short axis of a heart
    }
    describe(tmp_path / "raw", size_px=[120, 120])
    for scan_id, (affine, shape) in stored.items():
        write_scan(tmp_path / "raw", scan_id, affine, shape)
    assert prepare(tmp_path) == 0
    axes = {}
    for scan_id, (affine, shape) in stored.items():
        image, label = (
            nibabel.load(tmp_path / f"out/volumes/{kind}_{scan_id}.nii.gz") for kind in ("image", "label")
        )
        np.testing.assert_allclose(image.affine, label.affine)
        axes[scan_id] = "".join(nibabel.aff2axcodes(image.affine))
        np.testing.assert_allclose(image.header.get_zooms(), (2, 2, 6), rtol=1e-5)
        assert image.shape[2] == shape[int(np.argmax(np.linalg.norm(affine[:3, :3], axis=0)))]
        voxels = np.argwhere(np.asarray(label.dataobj) == 1)
        centre = label.affine @ [*voxels.mean(axis=0), 1]
        np.testing.assert_allclose(centre[:3], LIVER[0], atol=1.5)
        volume_mm3 = len(voxels) * 24
        assert volume_mm3 == pytest.approx(4 / 3 * np.pi * np.prod(LIVER[1]), rel=0.05)
        inside = np.asarray(image.dataobj)[np.asarray(label.dataobj) == 1]
        assert inside.mean() == pytest.approx(165, abs=3)
    assert {axes[i] for i in (1, 2)} == {"LPS"}
    assert axes[3] == "LSP"
    assert axes[4] == "PSL"
    assert axes[5] == "LSP"
    assert axes[6] == "LPS"


def test_an_orientation_in_dataset_json_holds_for_all(tmp_path):
    describe(tmp_path / "raw", orientation="RAI", spacing_mm=[4, 4, 4], size_px=[48, 48])
    for scan_id, codes in ((1, "LPS"), (2, "LIP"), (3, "PSL")):
        write_scan(tmp_path / "raw", scan_id, *affine_of(codes, (4, 4, 4)))
    assert prepare(tmp_path) == 0
    for scan_id in (1, 2, 3):
        affine = nibabel.load(tmp_path / f"out/volumes/image_{scan_id}.nii.gz").affine
        assert "".join(nibabel.aff2axcodes(affine)) == "RAI"


def test_the_minimum_size_of_supervoxels_is_chosen_by_the_bodies_and_stays(tmp_path, capsys):
    describe(tmp_path / "raw", supervoxel_min_size_vox=...)
    for scan_id in (1, 2, 3):
        write_scan(tmp_path / "raw", scan_id, *affine_of("LPS", (3, 3, 6)))
    n_body_vox = 4 / 3 * np.pi * np.prod(BODY[1]) / (3 * 3 * 6)
    expected = suggest_min_size(n_body_vox)
    assert prepare(tmp_path, "--check") == 0
    printed = capsys.readouterr().out
    min_size_vox = int(printed.split("supervoxels: minimum size ")[1].split()[0])
    assert min_size_vox == pytest.approx(expected, rel=0.1)
    assert "0.38 % of the median body's" in printed
    assert prepare(tmp_path) == 0
    assert (tmp_path / f"out/supervoxels_{min_size_vox}").is_dir()
    assert json.loads((tmp_path / "out/dataset.json").read_text())["supervoxel_min_size_vox"] == min_size_vox
    # A further scan of another size does not change what is there.
    write_scan(tmp_path / "raw", 4, *affine_of("LPS", (3, 3, 6), (192, 160, 300)))
    assert prepare(tmp_path) == 0
    assert [path.name for path in (tmp_path / "out").glob("supervoxels_*")] == [f"supervoxels_{min_size_vox}"]


@pytest.mark.parametrize(("n_body_vox", "published"), [(1_318_734, 5000), (264_000, 1000), (47_500, 180)])
def test_the_share_of_the_body_gives_the_published_sizes(n_body_vox, published):
    assert suggest_min_size(n_body_vox) == published
    assert pytest.approx(0.0038, rel=0.01) == MIN_SIZE_SHARE


def test_few_supervoxels_are_remarked_on(tmp_path, capsys):
    describe(tmp_path / "raw", supervoxel_min_size_vox=20_000)
    write_scan(tmp_path / "raw", 1, *affine_of("LPS", (3, 3, 6)))
    assert prepare(tmp_path) == 0
    assert "fewer than 10 supervoxels in 1 scans (scan 1: " in capsys.readouterr().out


def test_scans_without_labels_are_prepared_and_said(tmp_path, capsys):
    describe(tmp_path / "raw")
    for scan_id in (1, 2, 3):
        write_scan(tmp_path / "raw", scan_id, *affine_of("LPS", (3, 3, 6)), label=scan_id == 2)
    assert prepare(tmp_path) == 0
    printed = capsys.readouterr().out
    assert "remark: 2 scan(s) without labels, for training alone: image_1, image_3" in printed
    assert "1 scan(s) with labels can be prepared, but evaluation's 5 folds need at least 5" in printed
    volumes = tmp_path / "out/volumes"
    assert {path.name for path in volumes.glob("*.nii.gz")} == {
        *(f"image_{i}.nii.gz" for i in (1, 2, 3)),
        "label_2.nii.gz",
    }
    assert read_geometry(volumes / "image_3.nii.gz").same_grid(read_geometry(volumes / "image_2.nii.gz"))
    assert prepare(tmp_path) == 0
    assert "volumes: 0 made, 3 up to date" in capsys.readouterr().out


def test_a_set_without_any_label_is_refused(tmp_path, capsys):
    describe(tmp_path / "raw")
    write_scan(tmp_path / "raw", 1, *affine_of("LPS", (3, 3, 6)), label=False)
    assert prepare(tmp_path) == 2
    assert "must hold the labels of at least one scan, got none; annotate one" in capsys.readouterr().err


def write_nnunet(folder, cases, *, test_cases=(), **values):
    """Write nnU-Net's folders, from scans in the other form."""
    scratch = folder.parent / "scratch"
    scratch.mkdir(parents=True)
    describe(folder, **values)
    for workspace in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / workspace).mkdir()
    for number, case in enumerate([*cases, *test_cases]):
        write_scan(scratch, number, *affine_of("LPS", (3, 3, 6)))
        is_test = number >= len(cases)
        image_dir = folder / ("imagesTs" if is_test else "imagesTr")
        (scratch / f"image_{number}.nii.gz").rename(image_dir / f"{case}_0000.nii.gz")
        if not is_test:
            (scratch / f"label_{number}.nii.gz").rename(folder / "labelsTr" / f"{case}.nii.gz")


def test_nnunets_test_images_train_without_labels_and_come_last(tmp_path, capsys):
    write_nnunet(tmp_path / "raw", ["case_10", "case_9"], test_cases=["case_1"], name="Dataset007 Belly")
    assert prepare(tmp_path) == 0
    assert 'its name "Dataset007 Belly" is ignored, the dataset is named Own' in capsys.readouterr().out
    names = json.loads((tmp_path / "out/cases.json").read_text())["scans"]
    assert names == {"0": "case_9", "1": "case_10", "2": "case_1"}
    labels = (tmp_path / "out/volumes").glob("label_*.nii.gz")
    assert sorted(path.name for path in labels) == ["label_0.nii.gz", "label_1.nii.gz"]


def test_every_file_that_may_be_a_scan_and_is_not_used_is_named(tmp_path, capsys):
    write_nnunet(tmp_path / "raw", ["a", "b"])
    for name in (
        "imagesTr/c.nrrd",
        "labelsTr/c.mha",
        "extra.nii.gz",
        "imagesTs/notes.txt",
        "imagesTr/._a.nii.gz",
    ):
        (tmp_path / "raw" / name).write_bytes(b"x")
    assert prepare(tmp_path) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if "not used" in line]
    assert line.endswith("not used, although it may be a scan: imagesTr/c.nrrd, labelsTr/c.mha, extra.nii.gz")


@pytest.mark.parametrize("name", ["image_2.NII.GZ", "label_2.Nii.gz", "image_2.nii"])
def test_a_scan_of_another_ending_is_a_problem(tmp_path, capsys, name):
    describe(tmp_path / "raw")
    write_scan(tmp_path / "raw", 1, *affine_of("LPS", (3, 3, 6)))
    (tmp_path / "raw" / name).write_bytes(b"x")
    assert prepare(tmp_path) == 2
    assert f"{name}: must end with .nii.gz, which file_ending of dataset.json says" in capsys.readouterr().err


def test_other_files_beside_numbered_scans_are_named(tmp_path, capsys):
    describe(tmp_path / "raw")
    write_scan(tmp_path / "raw", 1, *affine_of("LPS", (3, 3, 6)))
    for name in ("image-2.nii.gz", "Image_3.nii.gz", "scan.mhd"):
        (tmp_path / "raw" / name).write_bytes(b"x")
    assert prepare(tmp_path) == 0
    printed = capsys.readouterr().out
    assert "not used, although it may be a scan: Image_3.nii.gz, image-2.nii.gz, scan.mhd" in printed


@pytest.mark.parametrize("check", [(), ("--check",)], ids=["prepare", "check"])
@pytest.mark.parametrize("min_size", [100, ...], ids=["size-given", "size-chosen"])
@pytest.mark.parametrize(
    "clip", [{"window": [5000, 6000]}, {"percentile": 0.01}], ids=["window", "percentile"]
)
def test_an_image_of_which_clipping_leaves_nothing_is_refused(tmp_path, capsys, clip, min_size, check):
    describe(tmp_path / "raw", clip=clip, supervoxel_min_size_vox=min_size)
    affine, shape = affine_of("LPS", (3, 3, 6))
    write_scan(tmp_path / "raw", 1, affine, shape)
    if "percentile" in clip:  # nearly all of it is background
        voxels = np.zeros(shape, np.float32)
        voxels[30:32, 20:30, 10] = 9
        nibabel.save(nibabel.Nifti1Image(voxels, affine), tmp_path / "raw/image_1.nii.gz")
    assert prepare(tmp_path, *check) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "raw/image_1.nii.gz: intensities must differ after clipping, got " in line
    assert "correct clip in dataset.json" in line
    assert not (tmp_path / "out").exists()


def test_a_grid_larger_than_any_scan_is_refused_before_it_is_made(tmp_path, capsys):
    describe(tmp_path / "raw", spacing_mm=[0.05, 0.05, 0.05], size_px=[4096, 4096])
    write_scan(tmp_path / "raw", 1, *affine_of("LPS", (3, 3, 6)))
    assert prepare(tmp_path, "--check") == 2
    printed = capsys.readouterr().err
    assert "image_1.nii.gz: must have at most 2^30 voxels after preparation, got 2" in printed
    assert "4096 x 4096; set coarser spacing_mm" in printed


def test_a_folder_that_holds_another_dataset_is_kept(tmp_path, capsys):
    describe(tmp_path / "raw")
    write_scan(tmp_path / "raw", 1, *affine_of("LPS", (3, 3, 6)))
    assert prepare(tmp_path) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert prepare(tmp_path, "dataset=Hips") == 2
    assert "cases.json: the folder holds the prepared dataset Own; choose another" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before
    assert prepare(tmp_path, "dataset=Hips", "--force") == 0
    assert json.loads((tmp_path / "out/cases.json").read_text())["dataset"] == "Hips"


def _min_size(tmp_path):
    return json.loads((tmp_path / "out/dataset.json").read_text())["supervoxel_min_size_vox"]


def test_training_uses_the_minimum_size_that_was_set_last(tmp_path):
    describe(tmp_path / "raw", supervoxel_min_size_vox=...)
    write_scan(tmp_path / "raw", 1, *affine_of("LPS", (3, 3, 6)))
    assert prepare(tmp_path) == 0
    for words, expected in ((["n_sv=50"], 50), (["n_sv=120"], 120), ([], 120)):
        assert prepare(tmp_path, *words) == 0
        assert _min_size(tmp_path) == expected
        assert (tmp_path / f"out/supervoxels_{expected}/superpix-MIDDLE_1.nii.gz").exists()


def test_the_minimum_size_is_chosen_again_for_another_spacing(tmp_path, capsys):
    describe(tmp_path / "raw", supervoxel_min_size_vox=..., spacing_mm=[6, 6, 6])
    write_scan(tmp_path / "raw", 1, *affine_of("LPS", (3, 3, 6)))
    assert prepare(tmp_path) == 0
    coarse = _min_size(tmp_path)
    describe(tmp_path / "raw", supervoxel_min_size_vox=..., spacing_mm=[6, 3, 3])
    capsys.readouterr()
    assert prepare(tmp_path) == 0
    assert "supervoxels: minimum size " in capsys.readouterr().out
    assert _min_size(tmp_path) == pytest.approx(4 * coarse, rel=0.1)


def test_slices_along_several_patient_axes_are_remarked_on(tmp_path, capsys):
    describe(tmp_path / "raw", size_px=[48, 48])
    for scan_id, codes in ((1, "LPS"), (2, "RAS"), (3, "LSP")):
        write_scan(tmp_path / "raw", scan_id, *affine_of(codes, (4, 4, 6)))
    assert prepare(tmp_path, "--check") == 0
    assert "remark: slices of 2 axial, 1 coronal scans in one set: support and" in capsys.readouterr().out


def test_labels_that_have_no_image_are_named_where_none_has(tmp_path, capsys):
    describe(tmp_path / "raw")
    write_scan(tmp_path / "raw", 1, *affine_of("LPS", (3, 3, 6)))
    for kind, name in (("image", "imagesTr/a_0000"), ("label", "labelsTr/a_seg")):
        (tmp_path / "raw" / name).parent.mkdir()
        (tmp_path / f"raw/{kind}_1.nii.gz").rename(tmp_path / f"raw/{name}.nii.gz")
    assert prepare(tmp_path, "--check") == 2
    printed = capsys.readouterr().err
    assert "labelsTr/a_seg.nii.gz: must have an image of scan a_seg, found none" in printed
    assert "must hold the labels of at least one scan, got none" in printed


def test_a_border_is_cut_from_slices_as_they_are_once_turned(tmp_path, capsys):
    write_synapse(tmp_path / "raw")
    rng = np.random.default_rng(0)
    for kind in ("img", "label"):
        path = tmp_path / f"raw/{kind}/{kind}0003.nii.gz"
        [path] = [path] if path.exists() else sorted((tmp_path / "raw").rglob(f"{kind}*03.nii.gz"))
        affine, shape = affine_of("PSR", (2, 2, 12))
        voxels = rng.integers(1, 9, shape)
        nibabel.save(nibabel.Nifti1Image(voxels.astype(np.int16), affine), path)
    assert (
        main(["dataset=SABS", f"raw={tmp_path}/raw", f"data_dir={tmp_path}/out", "num_workers=1", "--check"])
        == 2
    )
    printed = capsys.readouterr().err
    assert "03.nii.gz: slices must be larger than twice the border of 32 px that is cut off, got" in printed
    assert "once turned to" in printed
