"""Scans, labels, supervoxels and folders that cannot be used cost one line, and nothing is lost."""

import shutil

import numpy as np
import pytest

from tests.bad_inputs import QUICK, evaluate, refusal, train

pytestmark = pytest.mark.usefixtures("narrow_encoder")


def halve(voxels):
    return voxels.astype(np.float32) / 2


def without(label, keep=0):
    """Remove an organ from a label map but for its first slices."""

    def remove(label_map):
        slices = np.flatnonzero((label_map == label).any(axis=(1, 2)))[keep:]
        label_map = label_map.copy()
        label_map[slices] = np.where(label_map[slices] == label, 0, label_map[slices])
        return label_map

    return remove


def cut(path):
    path.write_bytes(path.read_bytes()[:-500])


def link_nowhere(path):
    path.unlink(missing_ok=True)
    path.symlink_to(path.parent / "not mounted")


def foreign(workspace, *scan_ids, by):
    workspace.forget_records()
    workspace.change("superpix-MIDDLE", *scan_ids, by=by)


def rename_supervoxels(workspace, min_size_vox):
    workspace.supervoxels.rename(workspace.supervoxels.with_name(f"supervoxels_{min_size_vox}"))


SUPERVOXELS = {
    "another grid": (
        lambda workspace: foreign(workspace, 5, by=lambda voxels: voxels[:-1]),
        ["superpix-MIDDLE_5.nii.gz: supervoxel grid (25, 48, 48) differs", "(26, 48, 48); delete the file"],
    ),
    "fractions": (
        lambda workspace: foreign(workspace, 5, by=halve),
        ["superpix-MIDDLE_5.nii.gz: ids must be whole numbers, got 4.5; resample it"],
    ),
    "negative": (
        lambda workspace: foreign(workspace, 5, by=lambda voxels: voxels.astype(np.int32) - 1),
        ["superpix-MIDDLE_5.nii.gz: ids must lie in 0..2147483647, got -1..", "; rebuild the file"],
    ),
    "none": (
        lambda workspace: foreign(workspace, 5, by=np.zeros_like),
        ["superpix-MIDDLE_5.nii.gz: must hold supervoxels, got 0 everywhere; delete it and run `python -m"],
    ),
    "cut off": (
        lambda workspace: (workspace.forget_records(), cut(workspace.file("superpix-MIDDLE", 5))),
        ["superpix-MIDDLE_5.nii.gz: cannot be read as an image (", "); restore the file"],
    ),
    "empty": (
        lambda workspace: (workspace.forget_records(), workspace.file("superpix-MIDDLE", 5).write_bytes(b"")),
        ["superpix-MIDDLE_5.nii.gz: cannot be read as an image (", "); restore the file"],
    ),
    "link to nowhere": (
        lambda workspace: link_nowhere(workspace.file("superpix-MIDDLE", 5)),
        ["superpix-MIDDLE_5.nii.gz: links to a file that does not exist; mount or restore it"],
    ),
    "folder is a file": (
        lambda workspace: (shutil.rmtree(workspace.supervoxels), workspace.supervoxels.write_text("")),
        ["path.PHANTOM.supervoxel_dir=", "supervoxels_60: must be a folder, found a file at "],
    ),
}


@pytest.mark.parametrize(("damage", "messages"), SUPERVOXELS.values(), ids=SUPERVOXELS)
def test_supervoxels_that_cannot_be_used(workspace, capsys, damage, messages):
    damage(workspace)
    line = refusal(lambda: train(*workspace.words), capsys, workspace.root)
    assert all(words in line for words in messages), line


def test_our_own_supervoxels_of_another_minimum_size(workspace, capsys):
    rename_supervoxels(workspace, 20)
    line = refusal(lambda: train(*workspace.words, "n_sv=20"), capsys, workspace.root)
    assert "supervoxels_20/superpix-MIDDLE_0.nii.gz: supervoxels must have at least 20 voxels" in line
    assert "its record says 60; move it to a folder supervoxels_60 for n_sv=60, or delete it" in line


def test_supervoxels_of_others_of_a_third_of_the_minimum_size(workspace, capsys):
    workspace.forget_records()
    rename_supervoxels(workspace, 180)
    line = refusal(lambda: train(*workspace.words, "n_sv=180"), capsys, workspace.root)
    assert (
        "supervoxels_180/superpix-MIDDLE_3.nii.gz: supervoxels within the body must have at least 180" in line
    )
    assert "or delete it and run `python -m data.supervoxels --dataset PHANTOM`" in line


def test_supervoxels_of_others_of_the_right_minimum_size_train(workspace):
    workspace.forget_records()
    assert train(*workspace.words, "n_steps=1") == 0


SCANS = {
    "image cut off": (
        lambda workspace: cut(workspace.file("image", 1)),
        ["image_1.nii.gz: cannot be read", "restore"],
    ),
    "image of text": (
        lambda workspace: workspace.file("image", 1).write_text("hello"),
        ["image_1.nii.gz: cannot be read", "restore the file"],
    ),
    "image constant": (
        lambda workspace: workspace.change("image", 1, by=np.zeros_like),
        ["image_1.nii.gz: image must vary, got 0 everywhere; prepare it again"],
    ),
    "labels of another grid": (
        lambda workspace: workspace.change("label", 1, by=lambda voxels: voxels[:-1]),
        ["label_1.nii.gz: label grid (27, 48, 48) differs from image grid (28, 48, 48); re-run preparation"],
    ),
    "labels elsewhere": (
        lambda workspace: workspace.change("label", 1, by=np.copy, origin_mm=(1.0, 2.0, 3.0)),
        ["label_1.nii.gz: label grid (spacing ", "origin [1.0, 2.0, 3.0]", "re-run preparation for scan 1"],
    ),
    "labels of fractions": (
        lambda workspace: workspace.change("label", 1, by=halve),
        ["label_1.nii.gz: label values must be among", "got 0.5, 1.5;", "resample it to the nearest voxel"],
    ),
    "no scan with the organ": (
        lambda workspace: workspace.change("label", *range(10), by=without(1)),
        ["label_2.nii.gz: the support must show an organ of test_label (liver) in at least 3 slices, and so"],
    ),
    "no query with the organ": (
        lambda workspace: workspace.change("label", 0, 1, by=without(1)),
        [
            "label_0.nii.gz, ",
            "label_1.nii.gz: at least one must hold an organ of test_label (liver)",
        ],
    ),
}


@pytest.mark.parametrize(("damage", "messages"), SCANS.values(), ids=SCANS)
def test_scans_that_cannot_be_evaluated(workspace, capsys, damage, messages):
    damage(workspace)
    line = refusal(lambda: evaluate(*workspace.words, *QUICK), capsys, workspace.root)
    assert all(words in line for words in messages), line


def lose(workspace, kind, *scan_ids):
    for scan_id in scan_ids:
        workspace.own_file(kind, scan_id).unlink()


OWN = {
    "no labels": (
        lambda workspace: lose(workspace, "label", *range(10)),
        "own/volumes: evaluation's 5 folds need at least 5 scans with labels, got 0; annotate more",
    ),
    "an image lost": (
        lambda workspace: lose(workspace, "image", 1),
        "label_1.nii.gz: has no image beside it; restore image",
    ),
    "four scans": (
        lambda workspace: lose(workspace, "image", *range(4, 10)),
        "own/volumes: 5 folds need at least 5 scans, got 4; add scans",
    ),
    "no scan": (
        lambda workspace: lose(workspace, "image", *range(10)),
        "own/volumes: holds no image_<id>.nii.gz; prepare Hips",
    ),
    "no folder": (
        lambda workspace: shutil.rmtree(workspace.own_file("image", 0).parent),
        "own/volumes: no such folder; put the prepared Hips volumes there or set path.OWN.data_dir",
    ),
    "an id twice": (
        lambda workspace: shutil.copy(workspace.own_file("image", 1), workspace.own_file("image", "01")),
        "own/volumes: several image files share the id 1; keep one",
    ),
    "an id that begins with 0": (
        lambda workspace: workspace.own_file("image", 1).rename(workspace.own_file("image", "01")),
        "image_1.nii.gz: no such file, though the folder holds one of this id; rename it without",
    ),
    "a link to nowhere": (
        lambda workspace: link_nowhere(workspace.own_file("image", 1)),
        "image_1.nii.gz: no such file, though the folder holds one of this id",
    ),
    "another name": (
        lambda workspace: (workspace.root / "own/dataset.json").write_text(
            '{"name": "Knees", "labels": {"cup": 1}}'
        ),
        "own/dataset.json describes Knees; set dataset=Knees, or another folder",
    ),
    "broken description": (
        lambda workspace: (workspace.root / "own/dataset.json").write_text("{"),
        "own/dataset.json: must be JSON (",
    ),
    "wrong description": (
        lambda workspace: (workspace.root / "own/dataset.json").write_text(
            '{"name": "Hips", "labels": {"cup": -1}}'
        ),
        "own/dataset.json: labels: 'cup' must be a whole number",
    ),
    "a folder for a description": (
        lambda workspace: (
            (workspace.root / "own/dataset.json").unlink(),
            (workspace.root / "own/dataset.json").mkdir(),
        ),
        "own/dataset.json describes (no such file); run bash script/prepare.sh dataset=Hips raw=<folder>",
    ),
}


@pytest.mark.parametrize("command", [train, evaluate])
@pytest.mark.parametrize(("damage", "message"), OWN.values(), ids=OWN)
def test_custom_datasets_that_are_not_whole(workspace, capsys, damage, message, command):
    words = workspace.make_own()
    words += (
        ["use_gt=True"] if command is train else [f"reload_model_path={workspace.snapshot}", "supp_idx=0"]
    )
    damage(workspace)
    if "annotate more" in message and command is train:
        message = "label_0.nii.gz: no such label file; evaluation, setting 2 and use_gt need labels"
    assert message in refusal(lambda: command(*words), capsys, workspace.root)


def in_place(workspace, name, path):
    (workspace.root / "note").write_text("")
    (workspace.root / "link").symlink_to(workspace.root / "not mounted")
    return [*workspace.words, f"path.{name}={workspace.root / path}"]


@pytest.mark.parametrize("name", ["PHANTOM.data_dir", "PHANTOM.supervoxel_dir", "log_dir"])
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("note", ": must be a folder, found a file at "),
        ("note/below", ": must be a folder, found a file at "),
        ("link", "not mounted, which does not exist; mount or create that, or choose another folder"),
        ("x" * 300, ": not a valid folder ([Errno 36] File name too long"),
    ],
    ids=["file", "below a file", "link to nowhere", "long name"],
)
def test_folders_that_cannot_be(workspace, capsys, name, path, message):
    words = in_place(workspace, name, path)
    line = refusal(lambda: train(*words), capsys, workspace.root)
    assert line.startswith(f"path.{name}={workspace.root / path}")
    assert message in line


def test_the_volumes_folder_in_place_of_the_one_above(workspace, capsys):
    words = workspace.make_own()
    shutil.copy(workspace.root / "own" / "dataset.json", workspace.own_file("image", 0).parent)
    words.append(f"path.OWN.data_dir={workspace.root / 'own' / 'volumes'}")
    line = refusal(lambda: train(*words), capsys, workspace.root)
    assert line.endswith(
        f"no such folder; set path.OWN.data_dir to the folder above, {workspace.root / 'own'}"
    )


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("eval_fold=5", "eval_fold=5: must be a whole number of at least 0 and at most 4"),
        ("supp_idx=3", "supp_idx=3: the fold holds 3 scans, counted from 0; choose a smaller one"),
        ("test_label=[9]", "test_label=[9]: PHANTOM has the labels 1 liver, 2 right kidney"),
        ("test_label=[]", "test_label=[]: must be a list of values"),
        ("n_part=0", "n_part=0: must be a whole number of at least 1"),
        ("setting=2", "holds no trained run; train first"),
        ("device=gpu", "device=gpu: must be cpu, cuda, cuda:<n>, mps or auto"),
    ],
)
def test_evaluations_that_cannot_be(workspace, capsys, word, message):
    assert message in refusal(lambda: evaluate(*workspace.words, word), capsys, workspace.root)
