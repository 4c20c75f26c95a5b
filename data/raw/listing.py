"""List the files below a folder, and sort names as people do."""

import os
import re
from pathlib import Path

from util.errors import UserError

_NOT_DATA = "__MACOSX"  # what macOS adds to archives, beside names that begin with a dot


def list_files(root: Path) -> list[Path]:
    """List the files below a folder in the order of their names.

    Numbers in names count by value. Hidden files are left out. Links to folders are followed, each folder is
    entered once.

    Raises:
        UserError: a folder cannot be listed.
    """
    found: list[Path] = []
    entered: set[Path] = set()
    for folder, below, names in os.walk(root, onerror=_refuse, followlinks=True):
        place = Path(folder).resolve()
        if place in entered:
            below.clear()
            continue
        entered.add(place)
        below[:] = sorted(name for name in below if _visible(name))
        found += [Path(folder, name) for name in names if _visible(name)]
    return sorted(found, key=lambda path: [natural_sort_key(part) for part in path.parts])


def natural_sort_key(name: str) -> list[tuple[int, int, str]]:
    """Give the key that sorts `case_2` before `case_10`."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts]


def _visible(name: str) -> bool:
    return not name.startswith(".") and name != _NOT_DATA


def _refuse(error: OSError) -> None:
    raise UserError(
        f"{error.filename}: cannot be listed ({error.strerror}); make the folder readable"
    ) from error
