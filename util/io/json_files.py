"""Read JSON files that people wrote or that came from elsewhere."""

import json
from pathlib import Path
from typing import Any

from util.errors import UserError


def read_json_object(path: Path, *, what: str) -> dict[str, Any]:
    """Read a JSON file of keys and values.

    Args:
        path: the file.
        what: the word for it in messages, such as "configuration file".

    Raises:
        UserError: it is missing, no JSON, holds something else, or a key stands twice, of which JSON readers
            keep the last in silence.
    """
    twice: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        twice.extend(sorted({key for key in keys if keys.count(key) > 1}))
        return dict(pairs)

    try:
        values = json.loads(Path(path).read_text(encoding="utf-8-sig"), object_pairs_hook=unique)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a {what}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: must be JSON ({error}); correct the {what}") from error
    if twice:
        raise UserError(f"{path}: keys must stand once, got {', '.join(twice)} more than once; correct it")
    if not isinstance(values, dict):
        raise UserError(
            f"{path}: must be a JSON object of keys and values, got a {type(values).__name__}; correct it"
        )
    return values
