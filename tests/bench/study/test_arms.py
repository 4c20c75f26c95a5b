"""The study's arms are valid configurations, and each differs from the common start by what it says."""

import pytest

from bench.study.arms import ARMS, PROFILES, START, arms_of, changes_of, make_config
from bench.study.trial import key_of
from config_ssl_upload import RECIPES, dataset_defaults, parse_config
from util.config.settings import merge_values, plain_values

TRIALS = [(profile, arm) for profile in PROFILES for arm in arms_of(PROFILES[profile])]


def _config(profile, arm, seed=1):
    return make_config(PROFILES[profile], ARMS[arm], seed, more={})


def _flat(values, prefix=""):
    flat = {}
    for name, value in values.items():
        inner = _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
        flat |= inner
    return flat


def _differences(arm, other=START, profile="phantom"):
    one, two = (_flat(plain_values(_config(profile, name))) for name in (arm, other))
    return {name: value for name, value in one.items() if two[name] != value}


@pytest.mark.parametrize(("profile", "arm"), TRIALS)
def test_every_arm_is_a_valid_configuration_of_as_many_episodes(profile, arm):
    config = _config(profile, arm, seed=7)
    assert config.n_steps * config.batch_size == PROFILES[profile].n_episodes
    assert (config.seed, config.eval_fold) == (7, PROFILES[profile].eval_fold)
    assert config.recipe == ARMS[arm].recipe


@pytest.mark.parametrize(
    ("arm", "differences"),
    [
        ("no_prior", {"model.prior": False}),
        ("angle_only", {"model.magnitude": False}),
        ("prior_calibrated", {"model.prior_form": "calibrated"}),
        ("prior_literal_through", {"model.prior_gradient": "straight_through"}),
        ("published", {"optim.lr": 1e-3, "max_iters_per_load": 10_000, "lr_step_gamma": 0.98}),
        ("mixed_sizes", {"task.more_sv": [90, 360]}),
        ("fp32", {"precision": "fp32"}),
        ("cosine", {"optim.schedule": "cosine", "optim.warmup": 0.05}),
    ],
)
def test_an_arm_differs_from_the_start_by_what_it_says_alone(arm, differences):
    assert _differences(arm) == differences


def test_the_default_profile_trains_as_phantom_is_trained_without_words():
    plain = {"dataset": "PHANTOM", "recipe": "published"}
    default = _flat(plain_values(parse_config(merge_values(dataset_defaults(*plain.values()), plain))))
    studied = _flat(plain_values(_config("phantom_default", START, seed=default["seed"])))
    changed = {name for name, value in default.items() if studied[name] != value}
    # What is kept and scored of the training, not what is trained.
    assert changed == {"save_snapshot_every", "evaluation.baselines", "evaluation.save_predictions"}


def test_no_choice_is_made_by_the_held_out_fold_of_real_scans():
    for name, profile in PROFILES.items():
        if profile.dataset != "PHANTOM":
            assert profile.chooses == (profile.eval_fold != 0), name


def test_larger_batches_take_fewer_steps_and_cut_their_rate_as_early():
    differences = _differences("batch_4_linear")
    assert differences["n_steps"] == 250
    assert differences["max_iters_per_load"] == 200
    assert differences["optim.lr"] == pytest.approx(1.2e-2)


def test_no_two_arms_are_the_same():
    configs = [str(_flat(plain_values(_config("phantom", arm)))) for arm in arms_of(PROFILES["phantom"])]
    assert len(set(configs)) == len(configs)


def test_the_strong_arm_takes_the_recipe_as_it_is():
    config = _flat(plain_values(_config("phantom", "strong")))
    for name, value in _flat(RECIPES["strong"]).items():
        assert config[name] == value


def test_a_records_key_depends_on_what_its_figures_depend_on():
    keys = {
        key_of("phantom", "start", 1),
        key_of("phantom", "start", 2),
        key_of("phantom", "no_prior", 1),
        key_of("chaost2_choice", "start", 1),
    }
    assert len(keys) == 4
    assert key_of("phantom", "start", 1) == key_of("phantom", "start", 1)


def test_a_recipe_that_changes_makes_its_trials_anew(monkeypatch):
    before = key_of("phantom", "strong", 1), key_of("phantom", "start", 1)
    monkeypatch.setitem(RECIPES, "strong", {"optim": {"lr": 0.123}})
    after = key_of("phantom", "strong", 1), key_of("phantom", "start", 1)
    assert before[0] != after[0]
    assert before[1] == after[1]
    assert changes_of(PROFILES["phantom"], ARMS["strong"], 1)["optim"] == {"lr": 0.123}
