"""Configuration keys: what each rule takes and refuses, and what becomes of it."""

import math
from dataclasses import FrozenInstanceError, dataclass
from typing import Any

import pytest

from util.config.settings import (
    default_values,
    describe_keys,
    flag,
    group,
    increasing_pair,
    key,
    markdown_table,
    matching,
    merge_values,
    one_of,
    optional,
    parse_values,
    plain_values,
    real,
    several,
    text,
    text_or_number,
    whole,
)
from util.errors import UserError


@dataclass(frozen=True)
class Inner:
    lr: float = key(0.5, real(0, open_minimum=True), "rate")
    sizes: tuple[int, ...] | None = key((3, 4), optional(several(whole(1), length=2)), "sizes")


@dataclass(frozen=True)
class Outer:
    n_steps: int = key(10, whole(1), "steps")
    name: str | None = key(None, optional(text()), "name")
    optim: Any = group(Inner)  # noqa: RUF009 - makes a field, as `dataclasses.field` does


ACCEPTED = [
    (whole(1), 1, 1),
    (whole(0, 4), 4, 4),
    (whole(-3), -3, -3),
    (real(0), 0, 0.0),
    (real(0), 3, 3.0),
    (real(0, 1), 1.0, 1.0),
    (real(0, open_minimum=True), 1e-300, 1e-300),
    (flag(), True, True),
    (flag(), False, False),
    (text(), "cuda:1", "cuda:1"),
    (one_of("a", "b"), "b", "b"),
    (text_or_number(), 3, "3"),
    (text_or_number(), "latest", "latest"),
    (matching(r"a\d", "a and a digit"), "a7", "a7"),
    (one_of(1, 2), 2, 2),
    (optional(whole(1)), None, None),
    (optional(whole(1)), 5, 5),
    (several(whole(1)), [], ()),
    (several(whole(1)), [1, 2], (1, 2)),
    (several(whole(1), length=2), (3, 4), (3, 4)),
    (several(real(0)), [1, 0.5], (1.0, 0.5)),
    (increasing_pair(real(0)), [0.5, 1.5], (0.5, 1.5)),
    (increasing_pair(real(0)), [1, 1], (1.0, 1.0)),
]


@pytest.mark.parametrize(("rule", "value", "expected"), ACCEPTED)
def test_a_value_within_the_rule_is_taken_in_its_final_type(rule, value, expected):
    parsed = rule.parse(value)
    assert parsed == expected
    assert type(parsed) is type(expected)
    if isinstance(expected, tuple):
        assert [type(item) for item in parsed] == [type(item) for item in expected]


REFUSED = [
    (whole(1), 0),
    (whole(0, 4), 5),
    (whole(1), 5.5),
    (whole(1), 5.0),
    (whole(0), True),
    (whole(1), "5"),
    (whole(1), None),
    (real(0), -1e-9),
    (real(0, 1), 1.5),
    (real(0, open_minimum=True), 0),
    (real(0), True),
    (real(0), math.nan),
    (real(0), math.inf),
    (real(0), "0.1"),
    (real(0), None),
    (flag(), "no"),
    (flag(), "True"),
    (flag(), 0),
    (flag(), 1),
    (flag(), None),
    (text(), ""),
    (text(), "  "),
    (text(), 5),
    (text(), None),
    (one_of("a", "b"), "c"),
    (text_or_number(), 0),
    (text_or_number(), True),
    (text_or_number(), ""),
    (matching(r"a\d", "a and a digit"), "a77"),
    (matching(r"a\d", "a and a digit"), 7),
    (one_of(1, 2), True),
    (one_of(1, 2), 1.0),
    (one_of("1", "2"), 1),
    (optional(whole(1)), 0),
    (optional(text()), ""),
    (several(whole(1)), 1),
    (several(whole(1)), "12"),
    (several(whole(1)), [1, 0]),
    (several(whole(1)), [True]),
    (several(whole(1)), {1: 2}),
    (several(whole(1), minimum=1), []),
    (several(whole(1), length=2), [1]),
    (several(whole(1), length=2), [1, 2, 3]),
    (increasing_pair(real(0)), [1.5, 0.5]),
    (increasing_pair(real(0)), [0.5]),
    (increasing_pair(real(0)), [0.5, math.nan]),
]


@pytest.mark.parametrize(("rule", "value"), REFUSED)
def test_a_value_outside_the_rule_is_refused(rule, value):
    with pytest.raises((TypeError, ValueError)):
        rule.parse(value)


@pytest.mark.parametrize(
    ("rule", "meaning"),
    [
        (whole(1), "a whole number of at least 1"),
        (whole(0, 4), "a whole number of at least 0 and at most 4"),
        (real(0, open_minimum=True), "a number above 0"),
        (real(0, 1), "a number of at least 0 and at most 1"),
        (one_of("any", "all"), "one of any, all"),
        (matching("a", "the letter a"), "the letter a"),
        (optional(text()), "a text that is not empty, or None"),
        (several(whole(1), length=2), "a list of 2 values, each a whole number of at least 1"),
        (increasing_pair(real(0)), "[low, high] with low at most high, each a number of at least 0"),
    ],
)
def test_rules_describe_themselves(rule, meaning):
    assert rule.text == meaning


def test_defaults_are_plain_values():
    assert default_values(Outer) == {
        "n_steps": 10,
        "name": None,
        "optim": {"lr": 0.5, "sizes": [3, 4]},
    }


def test_parsing_gives_a_frozen_object_of_final_types():
    config = parse_values(Outer, {"n_steps": 7, "name": "x", "optim": {"lr": 1, "sizes": None}})
    assert config == Outer(n_steps=7, name="x", optim=Inner(lr=1.0, sizes=None))
    assert isinstance(config.optim.lr, float)
    with pytest.raises(FrozenInstanceError):
        config.n_steps = 8


def test_plain_values_parse_to_the_same_object():
    config = Outer(n_steps=3, name="x", optim=Inner(lr=0.25, sizes=(8, 9)))
    plain = plain_values(config)
    assert plain == {"n_steps": 3, "name": "x", "optim": {"lr": 0.25, "sizes": [8, 9]}}
    assert parse_values(Outer, plain) == config


def test_parsing_leaves_its_input_as_it_was():
    values = {"n_steps": 7, "name": None, "optim": {"lr": 1, "sizes": [1, 2]}}
    parse_values(Outer, values)
    assert values == {"n_steps": 7, "name": None, "optim": {"lr": 1, "sizes": [1, 2]}}


def _changed(**changes):
    return {**default_values(Outer), **changes}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (_changed(n_stps=3), "n_stps: unknown configuration key; did you mean n_steps?"),
        (_changed(zzz=3), "zzz: unknown configuration key; known keys: n_steps, name, optim"),
        (_changed(optim={"lrr": 1}), "optim.lrr: unknown configuration key; did you mean optim.lr?"),
        (_changed(optim={"lr": 1.0}), "optim.sizes: missing configuration key"),
        (_changed(optim={"lr": 0, "sizes": None}), "optim.lr=0: must be a number above 0"),
        (
            _changed(optim=0.1),
            "optim=0.1: is a group of keys; set them one by one, as optim.<key>=<value>",
        ),
        (_changed(n_steps="no"), "n_steps='no': must be a whole number of at least 1"),
        (_changed(n_steps={"a": 1}), "n_steps={'a': 1}: must be a whole number of at least 1"),
        ({"n_steps": 1, "optim": default_values(Inner)}, "name: missing configuration key"),
        (_changed(**{"5": 1}), "5: unknown configuration key; known keys: n_steps, name, optim"),
    ],
)
def test_the_first_invalid_value_is_named_by_its_key(values, message):
    with pytest.raises(UserError) as caught:
        parse_values(Outer, values)
    assert str(caught.value) == message


def test_keys_are_described_in_order_with_dotted_names():
    assert list(describe_keys(Outer)) == [
        ("n_steps", 10, "a whole number of at least 1", "steps"),
        ("name", None, "a text that is not empty, or None", "name"),
        ("optim.lr", 0.5, "a number above 0", "rate"),
        (
            "optim.sizes",
            [3, 4],
            "a list of 2 values, each a whole number of at least 1, or None",
            "sizes",
        ),
    ]


def test_the_table_has_a_row_per_key():
    lines = markdown_table(Outer).splitlines()
    assert lines[:3] == [
        "| key | default | must be | what it is |",
        "|---|---|---|---|",
        "| `n_steps` | `10` | a whole number of at least 1 | steps |",
    ]
    assert lines[4] == "| `optim.lr` | `0.5` | a number above 0 | rate |"
    assert len(lines) == 6
    assert all(line.count("|") == 5 for line in lines)


def test_only_changed_values_are_replaced_at_any_depth():
    values = {"n_steps": 10, "optim": {"lr": 0.5, "sizes": [3, 4], "inner": {"a": 1, "b": None}}}
    changes = {"optim": {"sizes": None, "inner": {"b": 2}}}
    assert merge_values(values, changes) == {
        "n_steps": 10,
        "optim": {"lr": 0.5, "sizes": None, "inner": {"a": 1, "b": 2}},
    }
    assert merge_values(values, {}) == values


def test_merging_leaves_values_and_changes_as_they_were():
    values, changes = {"optim": {"lr": 0.5}}, {"optim": {"lr": 0.1}}
    merged = merge_values(values, changes)
    merged["optim"]["lr"] = 7
    assert values == {"optim": {"lr": 0.5}}
    assert changes == {"optim": {"lr": 0.1}}


def test_changes_of_unknown_groups_are_refused():
    with pytest.raises(KeyError, match="optimiser"):
        merge_values({"optim": {"lr": 0.5}}, {"optimiser": {"lr": 0.1}})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_steps": 10**20}, f"n_steps={10**20}: is too large; must be a whole number of at least 1"),
        ({"optim": {"lr": 10**400, "sizes": None}}, "000: is too large; must be a number above 0"),
        ({"name": "a\0"}, "name='a\\x00': must be a text that is not empty, or None"),
        ({"name": ["x" * 5000]}, "...xxxxx"),
    ],
)
def test_huge_and_hidden_values_are_refused_in_a_short_line(values, message):
    with pytest.raises(UserError) as caught:
        parse_values(Outer, merge_values(default_values(Outer), values))
    assert message in str(caught.value)
    assert len(str(caught.value)) < 300
