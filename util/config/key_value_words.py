"""Parse the `key=value` words of a command that is not a sacred experiment."""

import ast
from collections.abc import Collection, Sequence
from typing import Any

from util.config.settings import Model, SettingsError, parse_values
from util.errors import UserError


def parse_words(
    model: type[Model], words: Sequence[str], *, flags: Collection[str] = (), texts: Collection[str] = ()
) -> Model:
    """Parse `key=value` words, optionally after `with`.

    Values are read as sacred does: as a Python literal if they are one, or as text.

    Args:
        model: the keys.
        words: of the command line.
        flags: options such as `--check` that set the key of their name to True.
        texts: keys whose values are texts even if they are literals: a folder may be named 2019.

    Raises:
        UserError: a word cannot be parsed; or keys are unknown or missing, or values break their rules, in a
            line each.
    """
    values: dict[str, Any] = {}
    for word in words[1:] if words[:1] == ["with"] else words:
        name, equals, text = (part.strip() for part in word.partition("="))
        if word in flags:
            values[word.removeprefix("--")] = True
        elif not name or not equals or name.startswith("-"):
            raise UserError(f"cannot understand {word!r}; write key=value, or --help for the keys")
        else:
            values[name] = _value(text, is_text=name in texts)
    try:
        return parse_values(model, values)
    except SettingsError as error:
        raise UserError("\n".join(error.problems)) from error


def _value(text: str, *, is_text: bool) -> Any:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return text if is_text and not isinstance(value, str | None) else value
