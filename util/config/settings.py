"""Declare configuration keys with default, validation rule and documentation.

A configuration is a frozen dataclass whose fields are made by `key` or `group` (a nested dataclass). Its
defaults, validation, typed object and table in docs/configuration.md are derived from them.
"""

import difflib
import math
import re
import reprlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields, is_dataclass
from typing import Any

from util.errors import UserError

_MAX_WHOLE = 2**31 - 1  # of integers without an upper bound


@dataclass(frozen=True)
class Rule:
    """Validation rule of a value.

    Attributes:
        text: completes "must be ...".
        parse: returns the value in its final type, or raises ValueError or TypeError.
    """

    text: str
    parse: Callable[[Any], Any]


def whole(minimum: int, maximum: int | None = None) -> Rule:
    """Require an integer within inclusive bounds."""

    def parse(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError
        if maximum is None and value > _MAX_WHOLE:
            raise OverflowError
        return _bounded(value, minimum, math.inf if maximum is None else maximum)

    upper = "" if maximum is None else f" and at most {maximum}"
    return Rule(f"a whole number of at least {minimum}{upper}", parse)


def real(minimum: float, maximum: float = math.inf, *, open_minimum: bool = False) -> Rule:
    """Require a finite number within bounds; `open_minimum` excludes the lower one."""

    def parse(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise TypeError
        if open_minimum and value <= minimum:
            raise ValueError
        return float(_bounded(value, minimum, maximum))

    lower = f"above {minimum}" if open_minimum else f"of at least {minimum}"
    upper = "" if maximum == math.inf else f" and at most {maximum}"
    return Rule(f"a number {lower}{upper}", parse)


def flag() -> Rule:
    """Require True or False."""

    def parse(value: Any) -> bool:
        if not isinstance(value, bool):
            raise TypeError
        return value

    return Rule("True or False", parse)


def text() -> Rule:
    """Require a non-empty string."""

    def parse(value: Any) -> str:
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            raise TypeError
        return value

    return Rule("a text that is not empty", parse)


def text_or_number() -> Rule:
    """Require a non-empty string or a positive integer, converted to a string."""

    def parse(value: Any) -> str:
        if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
            return str(value)
        return text().parse(value)

    return Rule("a text or a whole number of at least 1", parse)


def matching(pattern: str, meaning: str) -> Rule:
    """Require a string that matches a regular expression, described by `meaning`."""

    def parse(value: Any) -> str:
        if not isinstance(value, str):
            raise TypeError
        if re.fullmatch(pattern, value) is None:
            raise ValueError
        return value

    return Rule(meaning, parse)


def one_of(*choices: Any) -> Rule:
    """Require one of the given values, of the same type."""

    def parse(value: Any) -> Any:
        if not any(value == choice and type(value) is type(choice) for choice in choices):
            raise ValueError
        return value

    return Rule(f"one of {', '.join(map(str, choices))}", parse)


def optional(rule: Rule) -> Rule:
    """Allow None besides what `rule` allows."""
    return Rule(f"{rule.text}, or None", lambda value: None if value is None else rule.parse(value))


def several(rule: Rule, *, length: int | None = None, minimum: int = 0) -> Rule:
    """Require a list of what `rule` allows, converted to a tuple."""

    def parse(value: Any) -> tuple:
        if not isinstance(value, list | tuple):
            raise TypeError
        if len(value) < minimum or (length is not None and len(value) != length):
            raise ValueError
        return tuple(rule.parse(item) for item in value)

    number = f"{length} values" if length is not None else "values"
    return Rule(f"a list of {number}, each {rule.text}", parse)


def increasing_pair(rule: Rule) -> Rule:
    """Require `[low, high]` with low not above high."""
    pair = several(rule, length=2)

    def parse(value: Any) -> tuple:
        low, high = pair.parse(value)
        if low > high:
            raise ValueError
        return low, high

    return Rule(f"[low, high] with low at most high, each {rule.text}", parse)


def key(default: Any, rule: Rule, meaning: str, *, formerly: str | None = None) -> Any:
    """Declare a configuration key; `formerly` is its name in earlier versions."""
    return field(default=default, metadata={"rule": rule, "meaning": meaning, "formerly": formerly})


def group(of: type) -> Any:
    """Declare a nested dataclass of keys."""
    return field(default_factory=of, metadata={"group": of})


def default_values(of: type) -> dict[str, Any]:
    """Return the defaults as a nested dict of plain values; tuples become lists."""
    return {
        entry.name: default_values(entry.metadata["group"])
        if "group" in entry.metadata
        else _plain(entry.default)
        for entry in fields(of)
    }


def parse_values(of: type, values: Mapping[str, Any], *, prefix: str = "") -> Any:
    """Validate a nested mapping and build the configuration object.

    Raises:
        UserError: a key is unknown or missing, or a value is invalid; the first one found is named.
    """
    known = {entry.name: entry for entry in fields(of)}
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known keys: {', '.join(known)}"
            renamed = renamed_keys(of).get(name)
            if renamed is not None:
                hint = f"it is now called {prefix}{renamed}"
            raise UserError(f"{prefix}{name}: unknown configuration key; {hint}")
    parsed = {}
    for name, entry in known.items():
        if name not in values:
            raise UserError(f"{prefix}{name}: missing configuration key")
        parsed[name] = _parse_entry(entry, values[name], prefix=prefix)
    return of(**parsed)


def renamed_keys(of: type) -> dict[str, str]:
    """Map the former names of a group's own keys to the present ones."""
    names = {entry.metadata.get("formerly"): entry.name for entry in fields(of)}
    return {former: name for former, name in names.items() if former}


def with_present_names(
    of: type, values: Mapping[str, Any], *, prefix: str = ""
) -> tuple[dict[str, Any], list[str]]:
    """Rename the keys of a configuration that an earlier version saved.

    Returns:
        The nested values under the present names, and a text for each renamed key, such as
        "optim.average_decay: now optim.ema_decay".
    """
    renamed = renamed_keys(of)
    groups = {entry.name: entry.metadata["group"] for entry in fields(of) if "group" in entry.metadata}
    result, notes = {}, []
    for name, value in values.items():
        present = renamed.get(name, name)
        if present != name:
            notes.append(f"{prefix}{name}: now {prefix}{present}")
        if present in groups and isinstance(value, Mapping):
            value, group_notes = with_present_names(groups[present], value, prefix=f"{prefix}{present}.")
            notes += group_notes
        result[present] = value
    return result, notes


def describe_keys(of: type, *, prefix: str = "") -> Iterator[tuple[str, Any, str, str]]:
    """Yield each key's dotted name, default, rule and meaning, in declared order."""
    for entry in fields(of):
        name = f"{prefix}{entry.name}"
        if "group" in entry.metadata:
            yield from describe_keys(entry.metadata["group"], prefix=f"{name}.")
        else:
            yield name, _plain(entry.default), entry.metadata["rule"].text, entry.metadata["meaning"]


def markdown_table(of: type) -> str:
    """Format all keys, defaults, rules and meanings as a Markdown table."""
    lines = ["| key | default | must be | what it is |", "|---|---|---|---|"]
    lines += [
        f"| `{name}` | `{default}` | {rule} | {meaning} |"
        for name, default, rule, meaning in describe_keys(of)
    ]
    return "\n".join(lines)


def plain_values(config: Any) -> Any:
    """Convert a configuration object to nested dicts and lists."""
    if is_dataclass(config):
        return {entry.name: plain_values(getattr(config, entry.name)) for entry in fields(config)}
    return _plain(config)


def _parse_entry(entry: Field, value: Any, *, prefix: str) -> Any:
    name = f"{prefix}{entry.name}"
    if "group" in entry.metadata:
        if not isinstance(value, Mapping):
            raise UserError(
                f"{name}={_shown(value)}: is a group of keys; set them one by one, as {name}.<key>=<value>"
            )
        return parse_values(entry.metadata["group"], value, prefix=f"{name}.")
    rule: Rule = entry.metadata["rule"]
    try:
        return rule.parse(value)
    except (TypeError, ValueError):
        raise UserError(f"{name}={_shown(value)}: must be {rule.text}") from None
    except OverflowError:
        raise UserError(f"{name}={_shown(value)}: is too large; must be {rule.text}") from None


def _shown(value: Any) -> str:
    """Format a value, eliding the middle of a long one."""
    shortener = reprlib.Repr()
    shortener.maxstring = shortener.maxlong = shortener.maxother = 120
    return shortener.repr(value)


def _bounded(value: Any, minimum: float, maximum: float) -> Any:
    if not minimum <= value <= maximum:
        raise ValueError
    return value


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def merge_values(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values with changes applied; raises KeyError for unknown keys."""
    result = dict(values)
    for name, value in changes.items():
        if name not in values:
            raise KeyError(name)
        result[name] = merge_values(result[name], value) if isinstance(value, Mapping) else value
    return result
