"""Configuration keys: what each rule takes and refuses, and what becomes of it."""

import math
from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError, create_model

from util.config.settings import (
    MAX_WHOLE,
    Amount,
    Count,
    Counts,
    ListAsTuple,
    Positive,
    Range,
    Settings,
    SettingsError,
    Text,
    TextOrNumber,
    Whole,
    default_values,
    describe_keys,
    group,
    key,
    markdown_table,
    merge_values,
    parse_values,
    plain_values,
    with_defaults,
    with_present_names,
)
from util.errors import UserError


class Inner(Settings):
    lr: float = key(0.5, "rate", gt=0)
    sizes: Annotated[tuple[Count, Count], ListAsTuple] | None = key((3, 4), "sizes")


class Outer(Settings):
    n_steps: Count = key(10, "steps", old_name="steps")
    name: Text | None = key(None, "name")
    optim: Inner = group(Inner)


Share = Annotated[float, Field(ge=0, le=1)]
Side = Annotated[int, Field(ge=0, le=4)]
Pair = Annotated[tuple[Count, Count], ListAsTuple]
ACCEPTED = [
    (Count, 1, 1),
    (Side, 4, 4),
    (Whole, 0, 0),
    (Amount, 0, 0.0),
    (Amount, 3, 3.0),
    (Share, 1.0, 1.0),
    (Positive, 1e-300, 1e-300),
    (bool, True, True),
    (bool, False, False),
    (Text, "cuda:1", "cuda:1"),
    (Literal["a", "b"], "b", "b"),
    (TextOrNumber, 3, "3"),
    (TextOrNumber, "latest", "latest"),
    (Literal[1, 2], 2, 2),
    (Count | None, None, None),
    (Count | None, 5, 5),
    (Counts, [], ()),
    (Counts, [1, 2], (1, 2)),
    (Pair, [3, 4], (3, 4)),
    (Range, [1, 1.5], (1.0, 1.5)),
    (Range, [1, 1], (1.0, 1.0)),
]


def one_key(kind, **constraints):
    """Return a configuration of one key."""
    return create_model("OneKey", __base__=Settings, value=(kind, key(..., "the key", **constraints)))


@pytest.mark.parametrize(("kind", "value", "expected"), ACCEPTED)
def test_a_valid_value_is_converted_to_its_final_type(kind, value, expected):
    parsed = parse_values(one_key(kind), {"value": value}).value
    assert parsed == expected
    assert type(parsed) is type(expected)
    if isinstance(expected, tuple):
        assert [type(item) for item in parsed] == [type(item) for item in expected]


REFUSED = [
    (Count, 0),
    (Side, 5),
    (Count, 5.5),
    (Count, 5.0),
    (Whole, True),
    (Count, "5"),
    (Count, None),
    (Amount, -1e-9),
    (Share, 1.5),
    (Positive, 0),
    (Amount, True),
    (Amount, math.nan),
    (Amount, math.inf),
    (Amount, "0.1"),
    (Amount, None),
    (bool, "no"),
    (bool, "True"),
    (bool, 0),
    (bool, 1),
    (bool, None),
    (Text, ""),
    (Text, "  "),
    (Text, 5),
    (Text, None),
    (Literal["a", "b"], "c"),
    (TextOrNumber, 0),
    (TextOrNumber, True),
    (TextOrNumber, ""),
    (Literal["1", "2"], 1),
    (Count | None, 0),
    (Text | None, ""),
    (Counts, 1),
    (Counts, "12"),
    (Counts, [1, 0]),
    (Counts, [True]),
    (Counts, {1: 2}),
    (Counts, {1, 2}),
    (Pair, [1]),
    (Pair, [1, 2, 3]),
    (Range, [1.5, 0.5]),
    (Range, [0.5]),
    (Range, [0, 1]),
    (Range, [0.5, math.nan]),
]


@pytest.mark.parametrize(("kind", "value"), REFUSED)
def test_an_invalid_value_is_refused_by_its_key(kind, value):
    with pytest.raises(SettingsError, match=r"^value=.*must be .+"):
        parse_values(one_key(kind), {"value": value})


@pytest.mark.parametrize(
    ("kind", "constraints", "requirement"),
    [
        (Count, {}, "a whole number of at least 1"),
        (Side, {}, "a whole number of at least 0 and at most 4"),
        (Positive, {}, "a number above 0"),
        (Share, {}, "a number of at least 0 and at most 1"),
        (bool, {}, "True or False"),
        (Literal["any", "all"], {}, "one of any, all"),
        (Literal["any"], {}, "one of any"),
        (str, {"must_be": "the letter a"}, "the letter a"),
        (Text, {"old_name": "word"}, "a non-empty text"),
        (Text | None, {}, "a non-empty text, or None"),
        (Pair, {}, "a list of 2 values, each a whole number of at least 1"),
        (Range, {}, "[low, high] with low at most high, each a number above 0"),
    ],
)
def test_requirements_follow_from_type_and_constraints(kind, constraints, requirement):
    assert [text for _, _, text, _ in describe_keys(one_key(kind, **constraints))] == [requirement]


def test_former_names_are_refused_with_the_present_one_or_renamed():
    with pytest.raises(UserError, match=r"^steps: unknown configuration key; it is now called n_steps$"):
        parse_values(Outer, {"steps": 3})
    values, notes = with_present_names(Outer, {"steps": 3, "optim": {"lr": 1}})
    assert values == {"n_steps": 3, "optim": {"lr": 1}}
    assert notes == ["steps: now n_steps"]


def test_all_invalid_values_are_named_at_once():
    values = {"n_steps": 0, "nam": 1, "optim": {"lr": 0, "sizes": [0, 0]}}
    with pytest.raises(SettingsError) as caught:
        parse_values(Outer, values)
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "nam",
        "n_steps=0",
        "optim.lr=0",
        "optim.sizes=[0, 0]",
    ]
    assert len(str(caught.value).splitlines()) == 1


def test_the_json_schema_holds_types_bounds_and_meanings():
    schema = Outer.model_json_schema()
    assert schema["properties"]["n_steps"] == {
        "default": 10,
        "description": "steps",
        "old_name": "steps",
        "maximum": MAX_WHOLE,
        "minimum": 1,
        "title": "N Steps",
        "type": "integer",
    }
    assert schema["additionalProperties"] is False


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
    with pytest.raises(ValidationError):
        config.n_steps = 8


def test_plain_values_parse_to_the_same_object():
    config = Outer(n_steps=3, name="x", optim=Inner(lr=0.25, sizes=(8, 9)))
    plain = plain_values(config)
    assert plain == {"n_steps": 3, "name": "x", "optim": {"lr": 0.25, "sizes": [8, 9]}}
    assert parse_values(Outer, plain) == config


def test_derived_defaults_keep_meanings_and_constraints():
    of = with_defaults(Inner, lr=2.0)
    assert next(describe_keys(of)) == ("lr", 2.0, "a number above 0", "rate")
    assert parse_values(of, {"sizes": [1, 2]}) == of(lr=2.0, sizes=(1, 2))
    with pytest.raises(UserError, match="lr=-1: must be a number above 0"):
        parse_values(of, {"lr": -1})
    with pytest.raises(KeyError):
        with_defaults(Inner, rate=1.0)
    assert Inner().lr == 0.5


def test_a_missing_key_that_has_no_default_is_named_with_an_example():
    with pytest.raises(UserError, match=r"^value: missing key; set it, as value=3$"):
        parse_values(one_key(Count, examples=[3]), {})


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
        (_changed(optim={"lr": 0, "sizes": None}), "optim.lr=0: must be a number above 0"),
        (
            _changed(optim=0.1),
            "optim=0.1: is a group of keys; set them one by one, as optim.<key>=<value>",
        ),
        (_changed(n_steps="no"), "n_steps='no': must be a whole number of at least 1"),
        (_changed(n_steps={"a": 1}), "n_steps={'a': 1}: must be a whole number of at least 1"),
        (_changed(**{"5": 1}), "5: unknown configuration key; known keys: n_steps, name, optim"),
    ],
)
def test_an_unknown_key_or_invalid_value_is_named(values, message):
    with pytest.raises(UserError) as caught:
        parse_values(Outer, values)
    assert str(caught.value) == message


def test_keys_are_described_in_order_with_dotted_names():
    assert list(describe_keys(Outer)) == [
        ("n_steps", 10, "a whole number of at least 1", "steps"),
        ("name", None, "a non-empty text, or None", "name"),
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
        ({"name": "a\0"}, "name='a\\x00': must be a non-empty text, or None"),
        ({"name": ["x" * 5000]}, "...xxxxx"),
    ],
)
def test_huge_and_hidden_values_are_refused_in_a_short_line(values, message):
    with pytest.raises(UserError) as caught:
        parse_values(Outer, merge_values(default_values(Outer), values))
    assert message in str(caught.value)
    assert len(str(caught.value)) < 300
