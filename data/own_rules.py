"""Validation rules for the values of own data's `dataset.json`."""

import ast
import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from data.datasets import DATASETS
from util.config.settings import Rule, real, several, text
from util.io.grids import is_orientation

_NAME = re.compile(r"[A-Za-z0-9]\w{0,39}", re.ASCII)
_MAX_LABEL = 254  # 255 is ignored by the losses
_MAX_NAME_LENGTH = 60
_FORBIDDEN = '/\\:*?"<>|'  # in file names, on one system or another


def own_dataset_name() -> Rule:
    """Require an unused name that is valid as a folder and on the command line."""
    taken = {name.lower() for name in DATASETS}

    def parse(value: Any) -> str:
        name = text().parse(value)
        if not _NAME.fullmatch(name) or name.lower() in taken or is_literal(name):
            raise ValueError
        return name

    return Rule(
        f"a name of at most 40 letters, digits and _, none of {', '.join(DATASETS)}, and not one that "
        "command lines read as a number or literal, such as 123, 1e5 or True",
        parse,
    )


def is_literal(name: str) -> bool:
    """Tell whether sacred parses a name on the command line as anything but text."""
    try:
        return not isinstance(ast.literal_eval(name), str)
    except (ValueError, SyntaxError):
        return False


def clip() -> Rule:
    """Require a window or a percentile; parsed to a dict of that one."""
    window, percentile = several(real(-1e9, 1e9), length=2), real(0, 100, open_minimum=True)

    def parse(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict) or len(value) != 1:
            raise TypeError
        if "percentile" in value:
            return {"percentile": percentile.parse(value["percentile"])}
        low, high = window.parse(value.get("window"))
        if low >= high:
            raise ValueError
        return {"window": (low, high)}

    return Rule(
        '{"window": [low, high]} with low below high, or {"percentile": 99.5} above 0 and at most 100', parse
    )


def orientation() -> Rule:
    """Require three letters such as LPS."""

    def parse(value: Any) -> str:
        if not isinstance(value, str) or not is_orientation(value):
            raise ValueError
        return value

    return Rule('three letters, one of each of L/R, P/A and S/I, such as "LPS"', parse)


def subset_of(labels: Mapping[int, str]) -> Rule:
    """Require a list of label ids or organ names; parsed to ids."""
    ids = {organ: label for label, organ in labels.items()}
    choices = _distinct_ids(labels)

    def parse(value: Any) -> tuple[int, ...]:
        if not isinstance(value, list):
            raise TypeError
        return choices.parse([ids.get(item, item) if isinstance(item, str) else item for item in value])

    return Rule(choices.text, parse)


def disjoint_groups_of(test_labels: tuple[int, ...]) -> Rule:
    """Require disjoint groups of test organs; parsed to tuples of ids."""
    group = _distinct_ids(test_labels)

    def parse(value: Any) -> tuple[tuple[int, ...], ...]:
        groups = several(group, minimum=1).parse(value)
        members = [label for group in groups for label in group]
        if len(set(members)) != len(members):
            raise ValueError
        return groups

    return Rule(f"a list of groups without common members, each {group.text}", parse)


def _distinct_ids(choices: Collection[int]) -> Rule:
    """Require distinct ids among some choices; parsed to a tuple."""

    def parse(value: Any) -> tuple[int, ...]:
        if not isinstance(value, list | tuple):
            raise TypeError
        whole = all(isinstance(item, int) and not isinstance(item, bool) for item in value)
        if not value or not whole or len(set(value)) != len(value) or not set(value) <= set(choices):
            raise ValueError
        return tuple(value)

    return Rule(f"a list of some of {', '.join(map(str, choices))}, each once", parse)


def label_fault(organ: str, label: Any, others: Mapping[int, str]) -> str | None:
    """Describe the fault of an entry of `labels` after `others`; None if valid."""
    if isinstance(label, list):
        return f"{organ!r} must be one id, got nnU-Net's region {label}, which is not supported"
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label <= _MAX_LABEL:
        return f"{organ!r} must be a whole number of 0 to {_MAX_LABEL}, got {json.dumps(label)}"
    if organ == "ignore":
        return f"nnU-Net's 'ignore' (got {label}) is not supported, every voxel must have a label"
    if (organ == "background") != (label == 0):
        return f"0 must be 'background' and nothing else, got {organ!r}: {label}"
    if label in others:
        return f"ids must differ, {organ!r} and {others[label]!r} have {label}"
    if _as_file_name(organ) in map(_as_file_name, others.values()):
        return f"names must differ in file names, got {organ!r} twice (case and spaces apart)"
    usable = all(character.isprintable() and character not in _FORBIDDEN for character in organ)
    if not (usable and 0 < len(organ) <= _MAX_NAME_LENGTH and organ == organ.strip(" .")):
        return (
            f"names must be valid in file names (1 to {_MAX_NAME_LENGTH} characters, none of {_FORBIDDEN}, "
            f"no space or dot at an end), got {organ!r}"
        )
    return None


def _as_file_name(organ: str) -> str:
    return organ.lower().replace(" ", "_")
