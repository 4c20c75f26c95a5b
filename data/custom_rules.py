"""Types and checks of the values of a custom dataset's `dataset.json`."""

import ast
import json
import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from data.datasets import DATASETS, RAW_DATASETS
from util.config.settings import ListAsTuple, MustBe, Settings, Text, key
from util.io.grids import is_orientation

_NAME = re.compile(r"[A-Za-z0-9]\w{0,39}", re.ASCII)
_MAX_LABEL = 254  # 255 is ignored by the losses
_MAX_NAME_LENGTH = 60
_FORBIDDEN = '/\\:*?"<>|'  # in file names, on one system or another
_NAME_REQUIREMENT = (
    f"a name of at most 40 letters, digits and _, none of {', '.join(DATASETS)}, and not one that "
    "command lines read as a number or literal, such as 123, 1e5 or True"
)


def _check_custom_name(name: str) -> str:
    """Check that a name is unused, and valid as a folder and on the command line."""
    reserved = {name.lower() for name in DATASETS}
    if not _NAME.fullmatch(name) or name.lower() in reserved or is_literal(name):
        raise ValueError("not a valid name")
    return name


def is_literal(name: str) -> bool:
    """Return whether sacred parses a name on the command line as a literal, not text."""
    try:
        return not isinstance(ast.literal_eval(name), str)
    except (ValueError, SyntaxError):
        return False


def _check_orientation(letters: str) -> str:
    if not is_orientation(letters):
        raise ValueError("not an orientation")
    return letters


CustomName = Annotated[Text, AfterValidator(_check_custom_name), MustBe(_NAME_REQUIREMENT)]
# A named dataset with a download, or a custom one.
RawName = Annotated[
    Text,
    AfterValidator(lambda name: name if name in DATASETS else _check_custom_name(name)),
    MustBe(f"{', '.join(RAW_DATASETS)}, or {_NAME_REQUIREMENT}"),
]
Orientation = Annotated[
    str,
    AfterValidator(_check_orientation),
    MustBe('three letters, one of each of L/R, P/A and S/I, such as "LPS"'),
]
_Intensity = Annotated[float, Field(ge=-1e9, le=1e9)]


class _ClipKeys(Settings):
    window: Annotated[tuple[_Intensity, _Intensity], ListAsTuple] | None = key(None, "lowest and highest")
    percentile: float | None = key(None, "highest, in percent of the voxels", gt=0, le=100)

    @model_validator(mode="after")
    def _check(self) -> "_ClipKeys":
        if (self.window is None) == (self.percentile is None):
            raise ValueError("one of both")
        if self.window is not None and self.window[0] >= self.window[1]:
            raise ValueError("empty window")
        return self


Clip = Annotated[
    _ClipKeys,
    MustBe('{"window": [low, high]} with low below high, or {"percentile": 99.5} above 0 and at most 100'),
]


def parse_labels_among(value: Any, labels: Mapping[int, str]) -> tuple[int, ...]:
    """Parse a list of distinct label ids or organ names to ids; raises ValueError."""
    if not isinstance(value, list):
        raise ValueError
    ids = {organ: label for label, organ in labels.items()}
    return _parse_distinct([ids.get(item, item) if isinstance(item, str) else item for item in value], labels)


def parse_groups_of(value: Any, test_labels: Collection[int]) -> tuple[tuple[int, ...], ...]:
    """Parse a list of disjoint groups of test labels; raises ValueError."""
    if not isinstance(value, list) or not value:
        raise ValueError
    groups = tuple(_parse_distinct(group, test_labels) for group in value)
    _parse_distinct([label for group in groups for label in group], test_labels)
    return groups


def _parse_distinct(value: Any, choices: Collection[int]) -> tuple[int, ...]:
    are_ids = isinstance(value, list) and all(type(item) is int for item in value)
    if not value or not are_ids or len(set(value)) != len(value) or not set(value) <= set(choices):
        raise ValueError
    return tuple(value)


def label_fault(organ: str, label: Any, other_labels: Mapping[int, str]) -> str | None:
    """Describe the fault of an entry of `labels` after `other_labels`; None if valid."""
    if isinstance(label, list):
        return f"{organ!r} must be one id, got nnU-Net's region {label}, which is not supported"
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label <= _MAX_LABEL:
        return f"{organ!r} must be a whole number of 0 to {_MAX_LABEL}, got {json.dumps(label)}"
    if organ == "ignore":
        return f"nnU-Net's 'ignore' (got {label}) is not supported, every voxel must have a label"
    if (organ == "background") != (label == 0):
        return f"0 must be 'background' and nothing else, got {organ!r}: {label}"
    if label in other_labels:
        return f"ids must differ, {organ!r} and {other_labels[label]!r} have {label}"
    if _as_file_name(organ) in map(_as_file_name, other_labels.values()):
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
