"""Write a configuration as the command-line overrides that reproduce it."""

import shlex
from collections.abc import Collection, Iterator, Mapping
from typing import Any


def list_overrides(
    values: Mapping[str, Any],
    defaults: Mapping[str, Any],
    *,
    always: Collection[str] = (),
    never: Collection[str] = (),
) -> list[str]:
    """List what a configuration changes of its defaults, quoted for a shell.

    Args:
        values: nested plain values.
        defaults: likewise; keys that it lacks are left out.
        always: dotted names to list in any case, first.
        never: dotted names of keys or groups to leave out.

    Returns:
        Such as `["dataset=CHAOST2", "optim.lr=0.002"]`.
    """
    flat, flat_defaults = (dict(flatten(nested, ignored_keys=never)) for nested in (values, defaults))
    changed = [name for name, value in flat.items() if name in flat_defaults and value != flat_defaults[name]]
    names = dict.fromkeys([*always, *changed])
    return [shlex.quote(f"{name}={_literal(flat[name])}") for name in names]


def flatten(
    values: Mapping[str, Any], *, ignored_keys: Collection[str] = (), prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Yield the dotted names and values of nested settings, without the ignored ones.

    Lists and tuples are alike, because JSON knows lists only.
    """
    for name, value in values.items():
        full_name = f"{prefix}{name}"
        if full_name in ignored_keys:
            continue
        if isinstance(value, Mapping):
            yield from flatten(value, ignored_keys=ignored_keys, prefix=f"{full_name}.")
        else:
            yield full_name, list(value) if isinstance(value, tuple) else value


def _literal(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)
