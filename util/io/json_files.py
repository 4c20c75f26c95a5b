"""Read JSON files from users and external sources, and our own ones."""

import json
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from util.errors import UserError
from util.io.files import write_text

T = TypeVar("T")


def write_json(path: Path, values: Any, *, indent: int | None = 1, ensure_ascii: bool = True) -> None:
    """Write plain values as JSON, as `json.dumps` does; raises as `atomic_write`."""
    write_text(path, json.dumps(values, indent=indent, ensure_ascii=ensure_ascii) + "\n")


def read_json(path: Path, kind: type[T]) -> T | None:
    """Read a file of `write_json`; None if missing, damaged or of another format.

    Args:
        path: the file.
        kind: type of the result, such as `dict` or a dataclass, of which nested ones are restored, too.
    """
    try:
        return _adapter(kind).validate_json(path.read_bytes(), strict=True)
    except (OSError, ValueError):
        return None


@cache
def _adapter(kind: type[T]) -> TypeAdapter[T]:
    return TypeAdapter(kind)


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
