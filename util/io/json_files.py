"""Read JSON files from users and external sources."""

import json
from pathlib import Path
from typing import Any

from util.errors import UserError


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
