"""A custom dataset, described by a dataset.json, trains and is evaluated like the published sets."""

import csv
import json
import shutil

import numpy as np
import pytest

import training
import validation
from config_ssl_upload import dataset_defaults, parse_config
from data.custom_spec import VOLUMES_FOLDER
from tests.data.preparations import prepare_volumes
from util.config.command_line import run_command_line
from util.errors import UserError
from util.io.grids import find_reorientation, orientation, reorient_grid, reorient_volume
from util.io.image_io import read_geometry, read_volume, write_volume

pytestmark = pytest.mark.usefixtures("narrow_encoder")

DESCRIPTION = {
    "name": "Hips",
    "labels": {"background": 0, "left femur": 1, "cup": 2, "stem": 3, "right femur": 4},
    "supervoxel_min_size_vox": 60,
    "test_labels": [1, 4],
    "organ_groups": [[1], [4]],
}


@pytest.fixture(name="hips")
def _hips(phantom_dir, tmp_path):
    """The tiny phantom's volumes and supervoxels as a custom dataset, with other names for its organs."""
    [volumes] = [folder for folder in phantom_dir.iterdir() if next(folder.glob("image_*"), None)]
    shutil.copytree(volumes, tmp_path / "hips" / VOLUMES_FOLDER)
    shutil.copytree(phantom_dir / "supervoxels_60", tmp_path / "hips" / "supervoxels_60")
    (tmp_path / "hips" / "dataset.json").write_text(json.dumps(DESCRIPTION))
    return tmp_path / "hips"


def _prepare_from_turned_scans(hips, raw):
    """Replace the volumes by equal ones that were prepared from raw scans in another orientation."""
    raw.mkdir()
    for path in (hips / VOLUMES_FOLDER).glob("*_*.nii.gz"):
        voxels, geometry = read_volume(path)
        letters, turn = orientation(geometry), find_reorientation(geometry, "ILA")
        write_volume(raw / path.name, reorient_volume(voxels, turn), reorient_grid(geometry, turn))
    (raw / "dataset.json").write_text(json.dumps(DESCRIPTION | {"orientation": letters}))
    shutil.rmtree(hips / VOLUMES_FOLDER)
    prepare_volumes("Hips", raw, hips)


def _words(hips, tmp_path):
    return [
        "with",
        "dataset=Hips",
        f"path.OWN.data_dir={hips}",
        f"path.log_dir={tmp_path / 'own_runs'}",
        "model.encoder=resnet18",
        "model.feature_width=8",
        "model.encoder_weights=None",
        "n_steps=2",
        "num_workers=0",
        "device=cpu",
        "evaluation.all_slices=False",
        "evaluation.every_support=False",
        "evaluation.baselines=False",
        "evaluation.report=False",
    ]


def test_a_custom_dataset_trains_and_is_evaluated_under_its_own_names(hips, tmp_path):
    words = _words(hips, tmp_path)
    _prepare_from_turned_scans(hips, tmp_path / "raw")
    shutil.rmtree(hips / "supervoxels_60")
    assert run_command_line(training.experiment, words) == 0
    assert (hips / "supervoxels_60").is_dir()
    assert run_command_line(validation.experiment, [*words, "evaluation.original_grid=True"]) == 0
    run = tmp_path / "own_runs" / "Hips" / "fold_0" / "evaluation" / "1"
    with (run / "scores.csv").open() as file:
        organs = {row["organ"] for row in csv.DictReader(file)}
    assert organs == {"left femur", "right femur"}
    summary = json.loads((run / "scores.json").read_text())["summary"]
    info = json.loads((tmp_path / "own_runs/Hips/fold_0/training/1/info.json").read_text())
    assert summary["data_fingerprint"] == info["data_fingerprint"]
    assert not any("volumes changed" in remark for remark in summary["remarks"])
    assert list((run / "predictions" / "chunks").glob("scan_*_left_femur.nii.gz"))
    _check_original_predictions(run, tmp_path / "raw")


def _check_original_predictions(run, raw):
    """Require the predictions on the raw grids to be those on the prepared grids, with the raw names."""
    paths = sorted((run / "predictions" / "chunks").iterdir())
    assert any(read_volume(path)[0].any() for path in paths)
    for path in paths:
        name = path.name.replace("scan_", "image_")
        prepared, geometry = read_volume(path)
        result, at = read_volume(run / "predictions_original" / "chunks" / name)
        assert at.same_grid(read_geometry(raw / f"{'_'.join(name.split('.')[0].split('_')[:2])}.nii.gz"))
        turn = find_reorientation(at, orientation(geometry))
        assert np.array_equal(reorient_volume(result, turn), prepared)
    assert len(list((run / "predictions_original" / "chunks").iterdir())) == len(paths)


def test_the_evaluation_warns_of_other_volumes(hips, tmp_path, capsys):
    words = _words(hips, tmp_path)
    assert run_command_line(training.experiment, words) == 0
    volumes = hips / VOLUMES_FOLDER
    for kind in ("image", "label"):
        shutil.copy(volumes / f"{kind}_9.nii.gz", volumes / f"{kind}_8.nii.gz")
    assert run_command_line(validation.experiment, words) == 0
    assert "warning: the volumes changed since the training (fingerprint " in capsys.readouterr().out
    assert run_command_line(validation.experiment, [*words, "evaluation.original_grid=True"]) == 2
    err = capsys.readouterr().err
    assert "error: evaluation.original_grid=True: " in err
    assert "was not prepared by script/prepare.sh dataset=Hips raw=<download>" in err


def test_setting_2_takes_the_descriptions_groups(hips, tmp_path):
    words = [*_words(hips, tmp_path), "setting=2", "organ_group=1", "task.exclude_rule=all"]
    assert run_command_line(training.experiment, words) == 0
    assert (tmp_path / "own_runs" / "Hips_setting2_group1" / "fold_0" / "training" / "1").is_dir()


def test_a_description_is_read_again_when_it_changes(hips, tmp_path):
    values = dataset_defaults("Hips")
    values["path"]["OWN"]["data_dir"] = str(hips)
    assert parse_config(values).test_label == (1, 4)
    (hips / "dataset.json").write_text(
        json.dumps(DESCRIPTION | {"test_labels": [1], "organ_groups": [[1]]}) + "  "
    )
    assert parse_config(values).test_label == (1,)


def test_a_damaged_description_is_named(hips):
    values = dataset_defaults("Hips")
    values["path"]["OWN"]["data_dir"] = str(hips)
    (hips / "dataset.json").write_text("{half")
    with pytest.raises(UserError, match=r"hips/dataset\.json"):
        parse_config(values)
