"""Look at folders before anything is done with them."""

import os
from pathlib import Path

from util.errors import UserError


def check_folder(folder: Path, *, key: str, for_writing: bool = False) -> None:
    """Check that a folder is there or could be made.

    Args:
        folder: what the configuration names.
        key: by which it does so, for the message.
        for_writing: it must be allowed to write there, too.

    Raises:
        UserError: a file or a link to nowhere is in its place, or nothing may be written there.
    """
    try:
        for place in (folder, *folder.absolute().parents):
            if place.exists():
                break
            if place.is_symlink():
                raise UserError(
                    f"{key}={folder}: {place} is a link to {os.readlink(place)}, which does not exist; mount "
                    "or make that, or choose another folder"
                )
        is_folder, is_writable = place.is_dir(), os.access(place, os.W_OK | os.X_OK)
    except OSError as error:  # such as a name that is too long
        raise UserError(f"{key}={folder}: cannot be a folder ({error}); choose another one") from error
    if not is_folder:
        raise UserError(f"{key}={folder}: must be a folder, found a file at {place}; choose another one")
    if for_writing and not is_writable:
        raise UserError(f"{key}={folder}: cannot be written; choose another folder")
