"""Read JSON files from users and external sources, and our own ones."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from util.errors import UserError
from util.io.files import write_text

T = TypeVar("T")


def write_json(path: Path, values: Any, *, indent: int | None = 1, ensure_ascii: bool = True) -> None:
    """Write plain values as JSON atomically; options as in `json.dumps`, errors as in `atomic_write`."""
    write_text(path, json.dumps(values, indent=indent, ensure_ascii=ensure_ascii) + "\n")


def read_json(path: Path, restore: Callable[[Any], T]) -> T | None:
    """Read a file of `write_json`; None if it is missing, damaged or of another format.

    Args:
        path: the file.
        restore: makes the result of the plain values; may raise Python's own errors, which mean another
            format.
    """
    try:
        return restore(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def read_json_object(path: Path, *, kind: str) -> dict[str, Any]:
    """Read a JSON object from a file.

    Args:
        path: the file.
        kind: its name in messages, such as "configuration file".

    Raises:
        UserError: it is missing, not JSON, not an object, or has duplicate keys, of which JSON readers
            silently keep the last.
    """
    duplicates: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        duplicates.extend(sorted({key for key in keys if keys.count(key) > 1}))
        return dict(pairs)

    try:
        values = json.loads(Path(path).read_text(encoding="utf-8-sig"), object_pairs_hook=unique)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a {kind}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: must be JSON ({error}); correct the {kind}") from error
    if duplicates:
        raise UserError(f"{path}: duplicate keys {', '.join(duplicates)}; keep one of each")
    if not isinstance(values, dict):
        raise UserError(f"{path}: must be a JSON object, got a {type(values).__name__}; correct it")
    return values
