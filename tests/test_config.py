"""The configuration refuses what cannot work, in one line, before anything is written."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest

from config_ssl_upload import RECIPES, REPOSITORY, Config, dataset_defaults, parse_config
from script.workflows.experiment import check_paths, make_experiment
from util.config.command_line import run_command_line
from util.config.settings import plain_values
from util.errors import UserError

NAMES_SHARED_BY_THE_FIELD = {
    *(
        "dataset",
        "eval_fold",
        "n_steps",
        "seed",
        "supp_idx",
        "n_part",
        "test_label",
        "exclude_label",
        "use_gt",
    ),
    *("n_sv", "min_size", "max_iters_per_load", "lr_step_gamma", "save_snapshot_every", "print_interval"),
    *("num_workers", "batch_size", "n_shot", "optim", "path", "reload_model_path"),
}


def with_changes(dataset: str = "CHAOST2", **changes):
    values = copy.deepcopy(dataset_defaults(dataset))
    for name, value in changes.items():
        target = values
        *groups, last = name.split("__")
        for group in groups:
            target = target[group]
        target[last] = value
    return values


def test_defaults_of_every_dataset_are_valid():
    for dataset in ("CHAOST2", "SABS", "CMR", "PHANTOM"):
        config = parse_config(dataset_defaults(dataset))
        assert config.dataset == dataset
        assert config.test_label == config.spec.test_labels
        assert config.exclude_label == ()


def test_published_training_defaults_are_those_of_the_design():
    config = parse_config(dataset_defaults("CHAOST2"))
    assert (config.optim.lr, config.optim.momentum, config.optim.weight_decay) == (1e-3, 0.9, 5e-4)
    assert (config.n_steps, config.batch_size, config.seed) == (40_000, 1, 2025)
    assert (config.max_iters_per_load, config.lr_step_gamma, config.save_snapshot_every) == (
        10_000,
        0.98,
        10_000,
    )
    assert (config.supp_idx, config.n_part, config.min_size) == (2, 3, 200)
    assert (config.model.encoder, config.model.feature_width) == ("resnet101", 512)


def test_names_are_those_shared_by_the_field():
    assert set(dataset_defaults("CHAOST2")) >= NAMES_SHARED_BY_THE_FIELD
    paths = dataset_defaults("CHAOST2")["path"]
    assert "log_dir" in paths
    assert all("data_dir" in paths[name] for name in ("CHAOST2", "SABS", "CMR"))


def test_a_tilde_in_a_path_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    folders = {"data_dir": "~/scans", "supervoxel_dir": "~/supervoxels"}
    changes = {"path": {"log_dir": "~/runs", "CMR": folders}, "model": {"encoder_weights": "~/weights.pt"}}
    config = parse_config(with_changes("CMR", **changes, reload_model_path="~/net.pt"))
    assert config.layout.volumes_dir == Path("/home/me/scans/cmr_MR_normalized")
    assert config.layout.supervoxels_dir.parent == Path("/home/me/supervoxels")
    assert config.fold_dir.is_relative_to("/home/me/runs")
    assert (config.reload_model_path, config.model.encoder_weights) == (
        *("/home/me/net.pt", "/home/me/weights.pt"),
    )


def test_setting_2_tests_and_excludes_the_organ_group():
    config = parse_config(with_changes(setting=2, organ_group=1))
    assert config.test_label == (2, 3)
    assert config.exclude_label == (2, 3)
    assert "setting2_group1" in str(config.fold_dir)


def test_an_explicit_exclusion_wins_over_the_setting():
    config = parse_config(with_changes(setting=2, organ_group=0, exclude_label=[1]))
    assert config.exclude_label == (1,)
    assert config.test_label == (1, 4)


def test_supervoxel_size_follows_the_dataset_unless_set():
    assert parse_config(with_changes("CMR")).layout.supervoxels_dir.name == "supervoxels_1000"
    assert parse_config(with_changes("CMR", n_sv=77)).layout.supervoxels_dir.name == "supervoxels_77"


def test_supervoxels_may_lie_apart_from_read_only_data():
    config = parse_config(
        with_changes(path__CHAOST2__data_dir="/scans", path__CHAOST2__supervoxel_dir="/mine")
    )
    assert str(config.layout.image_path(3)) == "/scans/chaos_MR_T2_normalized/image_3.nii.gz"
    assert str(config.layout.supervoxel_path(3)) == "/mine/supervoxels_5000/superpix-MIDDLE_3.nii.gz"


def test_the_plain_form_parses_to_the_same_configuration():
    config = parse_config(with_changes("PHANTOM", image_size_px=[64, 80]))
    assert parse_config(plain_values(config)) == config
    assert isinstance(config, Config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_steps": 5.5}, r"^n_steps=5.5: must be a whole number of at least 1$"),
        ({"n_steps": True}, r"^n_steps=True: must be a whole number"),
        ({"n_steps": 0}, r"^n_steps=0: "),
        ({"use_gt": "no"}, r"^use_gt='no': must be True or False$"),
        ({"n_step": 3}, r"^n_step: unknown configuration key; did you mean n_steps\?$"),
        ({"optim__learning_rate": 1}, r"^optim.learning_rate: unknown configuration key"),
        ({"optim": 3}, r"^optim=3: is a group of keys"),
        ({"optim__lr": 0}, r"^optim.lr=0: must be a number above 0"),
        ({"optim__lr": float("nan")}, r"^optim.lr=nan: must be a number"),
        ({"optim__lr": "1e-3x"}, r"^optim.lr='1e-3x'"),
        ({"optim__momentum": 1.5}, r"^optim.momentum=1.5: .* at most 1"),
        ({"eval_fold": 5}, r"^eval_fold=5: .* at most 4$"),
        ({"setting": 3}, r"^setting=3: must be 1 or 2$"),
        ({"setting": True}, r"^setting=True: must be 1 or 2$"),
        (
            {"dataset": "CHAOS"},
            r"^dataset=CHAOS: must be CHAOST2, SABS, CMR, PHANTOM, or a custom dataset that data/CHAOS",
        ),
        ({"dataset": "../x"}, r"^dataset='../x': must be CHAOST2, .*, or a name of letters, digits and _$"),
        ({"setting": 2, "organ_group": 2}, r"^organ_group=2: CHAOST2 has 2 organ groups"),
        ({"test_label": [1, 9]}, r"^test_label=\[9\]: CHAOST2 has the labels 1 liver, "),
        ({"test_label": []}, r"^test_label=\[\]: must be a list"),
        ({"exclude_label": 1}, r"^exclude_label=1: must be a list"),
        ({"image_size_px": [256]}, r"^image_size_px=\[256\]: must be a list of 2 values"),
        ({"image_size_px": [8, 8]}, r"^image_size_px=\[8, 8\]"),
        ({"task__gamma": [2, 1]}, r"^task.gamma=\[2, 1\]: must be \[low, high\]"),
        ({"model__encoder": "vgg"}, r"^model.encoder='vgg': must be one of resnet101"),
        ({"path__log_dir": ""}, r"^path.log_dir='': must be a non-empty text$"),
        ({"path__MR": {}}, r"^path.MR: unknown configuration key"),
        ({"seed": -1}, r"^seed=-1: "),
        ({"recipe": "best"}, r"^recipe='best': must be one of published, strong$"),
        ({"model__norm": "group"}, r"^model.norm=group: .* set model.encoder_weights=None"),
        ({"optim__warmup": 1.5}, r"^optim.warmup=1.5: must be a number of at least 0 and at most 1$"),
    ],
)
def test_a_mistake_is_reported_in_one_line(changes, message):
    with pytest.raises(UserError, match=message) as caught:
        parse_config(with_changes(**changes))
    assert "\n" not in str(caught.value)


def test_the_published_recipe_changes_nothing_and_the_strong_one_what_it_declares():
    published, strong = (dataset_defaults("CHAOST2", recipe) for recipe in ("published", "strong"))
    assert published == dataset_defaults("CHAOST2") | {"recipe": "published"}
    changed = {name for name in published if strong[name] != published[name]}
    assert changed == {"recipe", *RECIPES["strong"]}
    assert strong["optim"] == published["optim"] | RECIPES["strong"]["optim"]


@pytest.mark.parametrize("dataset", ["CHAOST2", "SABS", "CMR", "PHANTOM"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_is_valid_for_every_dataset(dataset, recipe):
    config = parse_config(dataset_defaults(dataset, recipe))
    assert (config.dataset, config.recipe) == (dataset, recipe)


def test_the_command_line_wins_over_its_recipe(capsys):
    experiment = make_experiment("training")
    words = ["print_config", "with", "dataset=PHANTOM", "recipe=strong", "optim.lr=0.25"]
    assert run_command_line(experiment, words) == 0
    output = capsys.readouterr().out
    assert "lr = 0.25" in output
    assert f"schedule = '{RECIPES['strong']['optim']['schedule']}'" in output


@pytest.mark.parametrize(
    ("words", "optimiser"),
    [
        (["dataset=PHANTOM"], "adamw"),
        (["dataset=PHANTOM", "recipe=published"], "sgd"),
        (["dataset=CHAOST2"], "sgd"),
    ],
)
def test_only_the_phantom_has_another_recipe_by_default(words, optimiser, capsys):
    assert run_command_line(make_experiment("training"), ["print_config", "with", *words]) == 0
    assert f"name = '{optimiser}'" in capsys.readouterr().out


def test_a_repository_without_any_commit_does_not_keep_experiments_from_being_made(tmp_path):
    (tmp_path / "util").symlink_to(REPOSITORY / "util")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    program = (  # what make_experiment does first, without the seconds that PyTorch takes
        "from pathlib import Path; from util.config.command_line import new_experiment; "
        "experiment = new_experiment('training', Path.cwd()); "
        "print(experiment.path, experiment.save_git_info)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (result.stdout, result.stderr) == ("training False\n", "")


def test_paths_that_do_not_exist_are_refused(tmp_path):
    absent = with_changes(path__CHAOST2__data_dir=str(tmp_path / "absent"))
    with pytest.raises(UserError, match=r"no such folder; .* set path.CHAOST2.data_dir$"):
        check_paths(parse_config(absent))
    reloaded = with_changes("PHANTOM", reload_model_path=str(tmp_path / "gone.pt"))
    with pytest.raises(UserError, match=r"reload_model_path=.*gone.pt: no such snapshot or run folder"):
        check_paths(parse_config(reloaded))
    weights = with_changes("PHANTOM", model__encoder_weights=str(tmp_path / "gone.pth"))
    with pytest.raises(
        UserError, match=r"^model.encoder_weights=.*gone.pth: must be deeplabv3_coco, imagenet, "
    ):
        check_paths(parse_config(weights))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="must be a folder, found a file"):
        check_paths(parse_config(with_changes("PHANTOM", path__log_dir=str(tmp_path / "file"))))


def test_the_phantom_is_no_missing_path(tmp_path):
    check_paths(parse_config(with_changes("PHANTOM", path__PHANTOM__data_dir=str(tmp_path / "to be made"))))


@pytest.mark.parametrize(
    ("former", "present"),
    [
        ("recompute", "activation_checkpointing"),
        ("optim.average_decay", "optim.ema_decay"),
        ("evaluation.query_copies", "evaluation.test_time_augmentation"),
        ("evaluation.clean_up", "evaluation.largest_component"),
    ],
)
def test_a_former_name_of_a_key_is_refused_with_the_present_one(former, present):
    values = dataset_defaults("PHANTOM")
    *groups, name = former.split(".")
    of_group = values[groups[0]] if groups else values
    of_group[name] = of_group.pop(present.split(".")[-1])
    with pytest.raises(
        UserError, match=rf"^{former}: unknown configuration key; it is now called {present}$"
    ):
        parse_config(values)
