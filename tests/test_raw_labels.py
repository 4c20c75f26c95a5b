"""Publicly shared prepared CMR, whose labels are the challenge's raw ids, is used as mapped labels are."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch

import training
import validation
from config_ssl_upload import dataset_defaults, parse_config
from data.fingerprint import hash_dataset
from data.supervoxels.generation import generate_supervoxels
from dataloaders.prepared_scans import load_scan
from script.workflows.training_episodes import make_training_episodes
from util.config.command_line import run_command_line
from util.config.settings import merge_values
from util.io.image_io import read_volume, write_volume
from util.remarks import Remark

pytestmark = pytest.mark.usefixtures("narrow_encoder")

RAW_IDS = {1: 200, 2: 500, 3: 600}
WORDS = (
    *("dataset=CMR", "n_sv=60", "min_size=60", "model.encoder=resnet18", "model.encoder_weights=None"),
    *("model.feature_width=8", "n_steps=2", "num_workers=0", "device=cpu"),
    *("evaluation.all_slices=False", "evaluation.every_support=False", "evaluation.baselines=False"),
    "evaluation.report=False",
)


@pytest.fixture(scope="module", name="datasets")
def _datasets_dir(phantom_dir, tmp_path_factory):
    """The same ten scans and supervoxels twice, as CMR with raw ids and with mapped ones."""
    root = tmp_path_factory.mktemp("cmr")
    [source] = [path.parent for path in phantom_dir.glob("*/image_0.nii.gz")]
    for name in ("raw", "mapped"):
        folder = root / name / "cmr_MR_normalized"
        shutil.copytree(source, folder)
        shutil.copytree(phantom_dir / "supervoxels_60", root / name / "supervoxels_60")
        for path in folder.glob("label_*.nii.gz"):
            label_map, geometry = read_volume(path)
            label_map = np.where(label_map == 4, 0, label_map).astype(np.int16)
            label_map[len(label_map) // 2 :] = 0  # so that slices without any organ are left to train on
            if name == "raw":
                label_map = np.select([label_map == label for label in RAW_IDS], RAW_IDS.values(), 0)
            write_volume(path, label_map.astype(np.int16), geometry)
    return root


def _config(datasets, name, **changes):
    values = merge_values(
        dataset_defaults("CMR"),
        {"n_sv": 60, "min_size": 60, "path": {"CMR": {"data_dir": str(datasets / name)}}},
    )
    return parse_config(merge_values(values, changes))


@pytest.mark.parametrize("name", ["raw", "mapped"])
def test_the_file_holds_what_its_name_promises(datasets, name):
    label_map, _ = read_volume(datasets / name / "cmr_MR_normalized/label_1.nii.gz")
    assert set(np.unique(label_map)) == ({0, 200, 500, 600} if name == "raw" else {0, 1, 2, 3})


@pytest.mark.filterwarnings("ignore::util.remarks.Remark")
def test_loading_and_the_fingerprint_do_not_tell_them_apart(datasets):
    layouts = [_config(datasets, name).layout for name in ("raw", "mapped")]
    raw, mapped = (load_scan(layout, 3, with_labels=True) for layout in layouts)
    np.testing.assert_array_equal(raw.label_map, mapped.label_map)
    assert set(np.unique(raw.label_map)) == {0, 1, 2, 3}
    assert hash_dataset(layouts[0]) == hash_dataset(layouts[1])


@pytest.mark.filterwarnings("ignore::util.remarks.Remark")
@pytest.mark.parametrize(
    "changes",
    [{"setting": 2}, {"use_gt": True, "test_label": [1]}, {"setting": 2, "task": {"exclude_rule": "all"}}],
    ids=["setting 2", "use_gt", "exclude all"],
)
def test_episodes_are_made_of_the_same_windows(datasets, changes):
    raw, mapped = (make_training_episodes(_config(datasets, name, **changes)) for name in ("raw", "mapped"))
    assert raw.content_hash() == mapped.content_hash()
    np.testing.assert_array_equal(raw.index.window_starts, mapped.index.window_starts)
    np.testing.assert_array_equal(raw.index.target_ids, mapped.index.target_ids)


@pytest.mark.filterwarnings("ignore::util.remarks.Remark")
def test_setting_2_leaves_the_organs_slices_out(datasets):
    config = _config(datasets, "raw", setting=2)
    strict = make_training_episodes(config)
    everything = make_training_episodes(config.model_copy(update={"exclude_label": ()}))
    assert 0 < len(strict.index.window_starts) < len(everything.index.window_starts)
    for index in range(20):
        episode = strict[index]
        scan = load_scan(config.layout, int(episode["scan_id"]), with_labels=True)
        assert not scan.label_map[episode["slice_indices"]].any()


@pytest.mark.parametrize("setting", [1, 2])
def test_trainings_and_evaluations_are_equal(datasets, tmp_path, capsys, setting):
    result = []
    for name in ("raw", "mapped"):
        words = [
            *WORDS,
            f"setting={setting}",
            f"path.CMR.data_dir={datasets / name}",
            f"path.log_dir={tmp_path / name}",
        ]
        assert run_command_line(training.experiment, words) == 0
        assert run_command_line(validation.experiment, words) == 0
        printed = capsys.readouterr().out
        assert printed.count("CMR: label files with raw ids, read 200 as 1 LV myocardium, 500 as 2") == (
            2 if name == "raw" else 0  # once by each command
        )
        runs = tmp_path / name / ("CMR" if setting == 1 else "CMR_setting2_group0") / "fold_0"
        snapshot = torch.load(runs / "training/1/snapshots/snapshot_000002.pt", weights_only=True)
        with (runs / "evaluation/1/scores.csv").open() as file:
            result.append((snapshot["weights"], list(csv.DictReader(file))))
        fingerprint = json.loads((runs / "training/1/info.json").read_text())["data_fingerprint"]
        result[-1] += (fingerprint,)
    (weights, scores, data), (expected_weights, expected_scores, expected_data) = result
    assert all(torch.equal(weights[key], value) for key, value in expected_weights.items())
    assert scores == expected_scores
    assert {row["organ"] for row in scores} == {"LV myocardium", "LV blood pool", "right ventricle"}
    assert data == expected_data


def test_a_label_of_neither_numbering_is_refused_with_file_and_value(datasets, tmp_path, capsys):
    shutil.copytree(datasets / "raw", tmp_path / "odd")
    path = tmp_path / "odd/cmr_MR_normalized/label_2.nii.gz"
    label_map, geometry = read_volume(path)
    label_map[0, 0, 0] = 421
    write_volume(path, label_map, geometry)
    words = [*WORDS, f"path.CMR.data_dir={tmp_path / 'odd'}", f"path.log_dir={tmp_path / 'runs'}"]
    assert run_command_line(training.experiment, words) == 2
    error = capsys.readouterr().err
    assert "label_2.nii.gz: label values must be among 0, 1, 2, 3, 200, 500, 600, got 421; correct" in error


def test_setting_2_does_not_start_where_nothing_is_excluded(datasets, tmp_path, capsys):
    shutil.copytree(datasets / "mapped", tmp_path / "bare")
    for scan_id in range(3, 10):  # what fold 0 trains on
        path = tmp_path / f"bare/cmr_MR_normalized/label_{scan_id}.nii.gz"
        label_map, geometry = read_volume(path)
        write_volume(path, np.zeros_like(label_map), geometry)
    words = [
        *WORDS,
        "setting=2",
        f"path.CMR.data_dir={tmp_path / 'bare'}",
        f"path.log_dir={tmp_path / 'runs'}",
    ]
    assert run_command_line(training.experiment, words) == 2
    assert (
        "exclude_label=[1, 2, 3]: setting 2 must leave test organs out, but no slice of 7"
        in capsys.readouterr().err
    )


def test_supervoxels_are_made_without_labels(datasets, tmp_path):
    shutil.copytree(datasets / "raw", tmp_path / "unlabelled")
    shutil.rmtree(tmp_path / "unlabelled/supervoxels_60")
    for path in (tmp_path / "unlabelled/cmr_MR_normalized").glob("label_*"):
        path.unlink()
    layout = _config(tmp_path, "unlabelled").layout
    assert len(generate_supervoxels(layout, progress=False).n_supervoxels) == 10


def test_the_remark_is_a_warning_outside_of_commands(datasets):
    with pytest.warns(Remark, match="label files with raw ids"):
        load_scan(_config(datasets, "raw").layout, 1, with_labels=True)
