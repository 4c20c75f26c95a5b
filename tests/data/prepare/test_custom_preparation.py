"""Custom datasets are prepared as their description says, and describe themselves afterwards."""

import json
import shutil

import numpy as np
import pytest

from data.custom_spec import read_dataset_json
from data.prepare import dataset as preparation
from tests.data.preparations import (
    config_of,
    files_of,
)
from tests.data.raw.raw_sets import write_custom_numbered
from util.errors import UserError
from util.io.image_io import read_volume, write_volume


def test_custom_datasets_describe_themselves(tmp_path, capsys):
    write_custom_numbered(tmp_path / "scans", n_scans=2)
    config = config_of(tmp_path / "scans", tmp_path / "Hips", dataset="Hips")
    preparation.prepare_dataset(config, progress=False)
    prepared, raw = (read_dataset_json(tmp_path / folder / "dataset.json") for folder in ("Hips", "scans"))
    assert prepared == raw
    assert json.loads((tmp_path / "Hips/cases.json").read_text()) == {
        "dataset": "Hips",
        "scans": {"3": "image_3", "5": "image_5"},
    }
    before = (tmp_path / "Hips/dataset.json").stat().st_mtime_ns
    capsys.readouterr()
    preparation.prepare_dataset(config, progress=False)
    assert "volumes: 0 made, 2 up to date" in capsys.readouterr().out
    assert (tmp_path / "Hips/dataset.json").stat().st_mtime_ns == before


def test_an_archive_of_a_custom_dataset_is_known_again(tmp_path, capsys):
    write_custom_numbered(tmp_path / "scans", n_scans=2)
    shutil.make_archive(str(tmp_path / "scans"), "zip", tmp_path / "scans")
    config = config_of(tmp_path / "scans.zip", tmp_path / "Hips", dataset="Hips")
    for _ in range(2):
        capsys.readouterr()
        preparation.prepare_dataset(config, progress=False)
    assert "unchanged since all was prepared" in capsys.readouterr().out
    (tmp_path / "Hips/dataset.json").unlink()
    preparation.prepare_dataset(config, progress=False)
    assert "volumes: 0 made, 2 up to date" in capsys.readouterr().out
    assert (tmp_path / "Hips/dataset.json").is_file()


def test_other_parameters_of_a_custom_dataset_make_it_again(tmp_path, capsys):
    write_custom_numbered(tmp_path / "scans", n_scans=2)
    config = config_of(tmp_path / "scans", tmp_path / "Hips", dataset="Hips")
    preparation.prepare_dataset(config, progress=False)
    write_custom_numbered(tmp_path / "scans", n_scans=2, size_px=[40, 52])
    preparation.prepare_dataset(config, progress=False)
    assert "volumes: 2 made, 0 up to date" in capsys.readouterr().out
    assert read_volume(tmp_path / "Hips/volumes/image_3.nii.gz")[0].shape[1:] == (40, 52)
    assert read_dataset_json(tmp_path / "Hips/dataset.json").preparation.size_px == (40, 52)


@pytest.mark.parametrize("workspace", ["scans", "scans/prepared"])
def test_custom_datasets_are_not_prepared_into_their_own_folder(tmp_path, workspace):
    write_custom_numbered(tmp_path / "scans", n_scans=2)
    before = files_of(tmp_path)
    with pytest.raises(UserError, match=r"^data_dir=.*: must not lie in the folder of the raw data"):
        preparation.prepare_dataset(
            config_of(tmp_path / "scans", tmp_path / workspace, dataset="Hips", force=True), progress=False
        )
    assert files_of(tmp_path) == before


def test_a_description_of_others_is_not_overwritten_but_by_force(tmp_path):
    write_custom_numbered(tmp_path / "scans", n_scans=2)
    write_custom_numbered(tmp_path / "Hips", n_scans=1, size_px=[16, 16])
    config = config_of(tmp_path / "scans", tmp_path / "Hips", dataset="Hips")
    before = files_of(tmp_path)
    with pytest.raises(UserError, match=r"dataset\.json: was not made by this command"):
        preparation.prepare_dataset(config, progress=False)
    assert files_of(tmp_path) == before
    preparation.prepare_dataset(config.model_copy(update={"force": True}), progress=False)
    assert read_dataset_json(tmp_path / "Hips/dataset.json").preparation.size_px == (48, 48)


def test_a_description_may_be_named_instead_of_its_folder(tmp_path, capsys):
    scans = write_custom_numbered(tmp_path / "scans", n_scans=2)
    config = config_of(tmp_path / "scans/dataset.json", tmp_path / "Hips", dataset="Hips")
    preparation.prepare_dataset(config, progress=False)
    write_volume(scans[0].image_files[0], scans[0].image + np.int16(1), scans[0].geometry)
    preparation.prepare_dataset(config, progress=False)
    assert "volumes: 1 made, 1 up to date" in capsys.readouterr().out
