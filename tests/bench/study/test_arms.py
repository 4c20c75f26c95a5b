"""Every arm is a valid configuration that differs from the reference as described."""

import pytest

from bench.study.arms import ARMS, PROFILES, REFERENCE, STARTS, changes_of, make_config
from bench.study.trial import Trial
from config_ssl_upload import DATASETS, RECIPES, dataset_defaults, parse_config
from util.config.settings import merge_values, plain_values

TRIALS = [(profile, arm) for profile in PROFILES for arm in PROFILES[profile].named_arms()]


def _config(profile, arm, seed=1):
    return make_config(PROFILES[profile], ARMS[arm], seed, overrides={})


def _flatten(values, prefix=""):
    flat = {}
    for name, value in values.items():
        inner = _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
        flat |= inner
    return flat


def _differences(arm, other=REFERENCE, profile="phantom"):
    values, other_values = (_flatten(plain_values(_config(profile, name))) for name in (arm, other))
    return {name: value for name, value in values.items() if other_values[name] != value}


@pytest.mark.parametrize(("profile", "arm"), TRIALS)
def test_every_arm_is_a_valid_configuration_with_the_profiles_number_of_episodes(profile, arm):
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
def test_an_arm_differs_from_the_reference_only_as_described(arm, differences):
    assert _differences(arm) == differences


@pytest.mark.parametrize("arm", STARTS)
def test_a_start_differs_from_its_twin_in_its_episodes_alone(arm):
    differences = _differences(arm, "strong", "phantom_start")
    assert all(name.startswith("task.") for name in differences)
    assert differences
    assert differences.get("task.more_sv", [90, 360]) == [90, 360]


def test_the_twin_trains_like_the_strong_arm_that_has_all_rows():
    twin, strong = (
        make_config(PROFILES[name], ARMS["strong"], 3, overrides={})
        for name in ("phantom_start", "phantom_scan")
    )
    assert twin == strong


def test_the_phantom_s_strong_arm_trains_like_a_command_without_arguments():
    plain = {"dataset": "PHANTOM", "recipe": DATASETS["PHANTOM"].recipe}
    default = _flatten(plain_values(parse_config(merge_values(dataset_defaults(*plain.values()), plain))))
    arm_values = _flatten(plain_values(_config("phantom_scan", "strong", seed=default["seed"])))
    changed = {name for name, value in default.items() if arm_values[name] != value}
    # Besides the precision, which is the machine's fastest, these affect what is logged, saved and scored.
    ignored = {"save_snapshot_every", "print_interval", "evaluation.baselines", "evaluation.save_predictions"}
    assert changed - ignored == {"precision"}


def test_the_held_out_fold_of_real_scans_is_not_used_for_selection():
    for name, profile in PROFILES.items():
        if profile.dataset != "PHANTOM":
            assert profile.for_selection == (profile.eval_fold != 0), name


def test_larger_batches_take_fewer_steps_and_decay_their_rate_at_the_same_episode():
    differences = _differences("batch_4_linear")
    assert differences["n_steps"] == 250
    assert differences["max_iters_per_load"] == 200
    assert differences["optim.lr"] == pytest.approx(1.2e-2)


def test_all_arms_differ():
    configs = [
        str(_flatten(plain_values(_config("phantom", arm)))) for arm in PROFILES["phantom"].named_arms()
    ]
    assert len(set(configs)) == len(configs)


def test_the_strong_arm_uses_the_recipe_unchanged():
    config = _flatten(plain_values(_config("phantom", "strong")))
    for name, value in _flatten(RECIPES["strong"]).items():
        assert config[name] == value


def test_the_key_of_a_record_depends_on_profile_arm_and_seed():
    keys = {
        Trial("phantom", "start", 1).key,
        Trial("phantom", "start", 2).key,
        Trial("phantom", "no_prior", 1).key,
        Trial("chaost2_choice", "start", 1).key,
    }
    assert len(keys) == 4
    assert Trial("phantom", "start", 1).key == Trial("phantom", "start", 1).key


def test_changing_a_recipe_invalidates_its_trials_only(monkeypatch):
    before = Trial("phantom", "strong", 1).key, Trial("phantom", "start", 1).key
    monkeypatch.setitem(RECIPES, "strong", {"optim": {"lr": 0.123}})
    after = Trial("phantom", "strong", 1).key, Trial("phantom", "start", 1).key
    assert before[0] != after[0]
    assert before[1] == after[1]
    assert changes_of(PROFILES["phantom"], ARMS["strong"], 1)["optim"] == {"lr": 0.123}
