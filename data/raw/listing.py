"""List the files below a folder, and sort names naturally."""

import os
import re
from pathlib import Path

from util.errors import UserError

_MACOS_FOLDER = "__MACOSX"  # macOS adds it to archives, besides names that start with a dot


def list_files(root: Path) -> list[Path]:
    """List the files below a folder in natural order of their names.

    Hidden files are skipped. Links to folders are followed; each folder is visited once.

    Raises:
        UserError: a folder cannot be listed.
    """
    paths: list[Path] = []
    visited: set[Path] = set()
    for folder, subfolders, names in os.walk(root, onerror=_raise_user_error, followlinks=True):
        target = Path(folder).resolve()
        if target in visited:
            subfolders.clear()
            continue
        visited.add(target)
        subfolders[:] = sorted(name for name in subfolders if _visible(name))
        paths += [Path(folder, name) for name in names if _visible(name)]
    return sorted(paths, key=lambda path: [natural_sort_key(part) for part in path.parts])


def natural_sort_key(name: str) -> list[tuple[int, int, str]]:
    """Return a sort key that puts `case_2` before `case_10`."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts]


def _visible(name: str) -> bool:
    return not name.startswith(".") and name != _MACOS_FOLDER


def _raise_user_error(error: OSError) -> None:
    raise UserError(
        f"{error.filename}: cannot be listed ({error.strerror}); make the folder readable"
    ) from error
