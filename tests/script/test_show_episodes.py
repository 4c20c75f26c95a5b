"""`show_episodes.sh`: pictures of episodes and of a query, and what it refuses."""

import numpy as np
import pytest
from PIL import Image

import training
from config_ssl_upload import REPOSITORY, dataset_defaults, parse_config
from dataloaders.episode_pictures import CAPTION_PX, GAP_PX, SIDE_PX, TRUTH_COLOUR, draw_episode
from dataloaders.evaluation_sets import EvaluationScan
from script import show_episodes
from script.workflows.training_episodes import make_training_episodes
from util.config.command_line import run_command_line
from util.errors import UserError

pytestmark = pytest.mark.usefixtures("narrow_encoder")


@pytest.fixture(scope="module")
def overrides(overrides_for, tmp_path_factory, narrow_encoder):
    """Give the overrides of a trained run, without `with`."""
    words = overrides_for(tmp_path_factory.mktemp("shown"))
    assert run_command_line(training.experiment, [*words, "optim.lr=0.00001", "seed=1"]) == 0
    return words[1:]


def test_episodes_are_those_that_training_draws(overrides, tmp_path, capsys):
    path = tmp_path / "episodes.png"
    assert show_episodes.main([*overrides, "n_episodes=3", f"output={path}"]) == 0
    assert f"picture: {path}" in capsys.readouterr().out
    picture = np.asarray(Image.open(path))
    width, height = 3 * SIDE_PX + 2 * GAP_PX, CAPTION_PX + SIDE_PX
    assert picture.shape == (2 * height + GAP_PX, 2 * width + GAP_PX, 3)
    values = {word.partition("=")[0]: word.partition("=")[2] for word in overrides}
    config = parse_config(
        dataset_defaults("PHANTOM")
        | {
            "n_steps": 3,
            "n_sv": 60,
            "phantom": {"n_scans": 10, "image_size_px": 48},
            "path": {"PHANTOM": {"data_dir": values["path.PHANTOM.data_dir"]}},
        }
    )
    second = draw_episode(make_training_episodes(config)[1])
    shown = picture[CAPTION_PX:height, width + GAP_PX :]
    assert np.abs(shown / 255 - second).max() < 0.01


def test_a_query_is_shown_with_what_the_network_makes_of_it(overrides, tmp_path):
    path = tmp_path / "query.png"
    assert show_episodes.main([*overrides, "scan=1", "organ=Right_kidney", f"output={path}"]) == 0
    picture = np.asarray(Image.open(path))
    side = show_episodes.PANEL_PX
    assert picture.shape == (2 * (CAPTION_PX + side) + GAP_PX, 4 * side + 3 * GAP_PX, 3)
    truth = np.array([int(TRUTH_COLOUR[i : i + 2], 16) for i in (1, 3, 5)])
    is_truth = (np.abs(picture.astype(int) - truth) <= 1).all(axis=-1)
    # The support's mask in the first two panels, the query's in the fourth.
    panels = [is_truth[:side, i * (side + GAP_PX) : i * (side + GAP_PX) + side].any() for i in range(4)]
    assert panels == [True, True, False, True]


def test_pictures_lie_in_the_folder_of_the_fold(overrides):
    assert show_episodes.main([*overrides, "scan=1", "organ=liver"]) == 0
    log_dir = next(word for word in overrides if word.startswith("path.log_dir=")).partition("=")[2]
    with Image.open(f"{log_dir}/PHANTOM/fold_0/scan_1_liver.png") as picture:
        assert picture.format == "PNG"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["scan=1"], "scan= and organ= belong together"),
        (["scan=1", "organ=heart"], "organ=heart: PHANTOM has liver, right_kidney"),
        (["scan=2", "organ=liver"], "scan=2: fold 0 has the queries 0, 1"),
        (["scan=one", "organ=liver"], "scan=one: must be a whole number"),
        (["n_episodes=0"], "n_episodes=0: must be a whole number from 1 to 400"),
        (["reload_model_path=/none", "scan=1", "organ=liver"], "reload_model_path=/none: no such"),
        (["n_stepz=3"], "n_stepz"),
    ],
)
def test_wrong_words_are_refused_in_one_line(overrides, words, message, capsys, tmp_path):
    assert show_episodes.main([*overrides, *words, f"output={tmp_path / 'x.png'}"]) == 2
    output = capsys.readouterr().err.strip().splitlines()
    assert message in output[-1]
    assert output[-1].startswith("error: ")
    assert not list(tmp_path.iterdir())


def _scan(scan_id, areas):
    label_map = np.zeros((len(areas), 4, 4), np.int16)
    for z, area in enumerate(areas):
        label_map[z].flat[:area] = 1
    return EvaluationScan(scan_id, None, label_map, label_map, None)


def test_the_slice_with_the_most_of_the_organ_gets_the_support_of_its_chunk():
    # The query's organ slices 1 to 6 make chunks of two; the largest, slice 5, is in the last one.
    support, query = _scan(0, [0, 1, 1, 1, 1, 1, 1]), _scan(1, [0, 1, 2, 3, 2, 9, 1])
    assert show_episodes.choose_slices(support, query, 1, n_part=3) == (6, 5)
    with pytest.raises(UserError, match="scan 1: has no label 1"):
        show_episodes.choose_slices(support, _scan(1, [0, 0]), 1, n_part=3)


def test_the_script_hands_its_words_over(clone):
    (clone.root / "script" / "show_episodes.py").write_text("import sys\nprint(sys.argv[1:])\n")
    result = clone.run("script/show_episodes.sh", "dataset=SABS", "organ=left kidney")
    assert result.stdout.strip().splitlines()[-1] == "['dataset=SABS', 'organ=left kidney']"
    help_text = clone.run("script/show_episodes.sh", "--help").stdout
    assert all(f"{key}=" in help_text for key in show_episodes.OWN_KEYS)
    assert (REPOSITORY / "script/show_episodes.sh").stat().st_mode & 0o111
