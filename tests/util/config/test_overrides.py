import shlex

import pytest

from util.config.overrides import flatten, list_overrides

DEFAULTS = {"dataset": "CHAOST2", "n_steps": 100, "optim": {"lr": 0.1, "betas": [0.9, 0.99]}, "tag": None}


def test_only_what_differs_is_listed_with_dotted_names():
    values = {**DEFAULTS, "n_steps": 5, "optim": {"lr": 1e-05, "betas": (0.9, 0.99)}}
    assert list_overrides(values, DEFAULTS) == ["n_steps=5", "optim.lr=1e-05"]
    assert list_overrides(DEFAULTS, DEFAULTS) == []


def test_some_are_always_listed_first_and_some_never():
    values = {**DEFAULTS, "n_steps": 5, "optim": {"lr": 1.0, "betas": []}}
    assert list_overrides(values, DEFAULTS, always=["dataset"], never=["optim"]) == [
        "dataset=CHAOST2",
        "n_steps=5",
    ]
    assert list_overrides(values, DEFAULTS, always=["n_steps"], never=["optim.lr"]) == [
        "n_steps=5",
        "'optim.betas=[]'",
    ]


def test_keys_without_a_default_are_left_out():
    assert list_overrides({**DEFAULTS, "former": 3}, DEFAULTS) == []


@pytest.mark.parametrize("value", ["with blank", "it's", "$HOME", [1, 2], None, True, "a;b"])
def test_a_shell_reads_each_as_one_word(value):
    values = {**DEFAULTS, "tag": value, "dataset": "X"}
    words = list_overrides(values, {**DEFAULTS, "tag": "other"})
    expected = value if isinstance(value, str) else repr(value)
    assert shlex.split(" ".join(words)) == ["dataset=X", f"tag={expected}"]


def test_settings_are_flattened_and_tuples_are_lists():
    result = dict(flatten({"a": {"b": (1, 2), "c": {"d": 3}}, "e": 4}, ignored_keys={"a.c", "e"}))
    assert result == {"a.b": [1, 2]}
