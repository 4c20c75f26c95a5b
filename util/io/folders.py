"""Check configured folders before they are used."""

import os
from pathlib import Path

from util.errors import UserError


def check_folder(folder: Path, *, key: str, for_writing: bool = False) -> None:
    """Check that a folder exists or could be created.

    Args:
        folder: the configured path.
        key: its configuration key, for messages.
        for_writing: require write permission, too.

    Raises:
        UserError: it is a file or a broken link, or not writable.
    """
    try:
        for ancestor in (folder, *folder.absolute().parents):
            if ancestor.exists():
                break
            if ancestor.is_symlink():
                raise UserError(
                    f"{key}={folder}: {ancestor} is a link to {os.readlink(ancestor)}, which does not exist; "
                    "mount or create that, or choose another folder"
                )
        is_folder, is_writable = ancestor.is_dir(), os.access(ancestor, os.W_OK | os.X_OK)
    except OSError as error:  # such as a too long name
        raise UserError(f"{key}={folder}: not a valid folder ({error}); choose another one") from error
    if not is_folder:
        raise UserError(f"{key}={folder}: must be a folder, found a file at {ancestor}; choose another one")
    if for_writing and not is_writable:
        raise UserError(f"{key}={folder}: cannot be written; choose another folder")
