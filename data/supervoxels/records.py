"""Remember what each supervoxel file was made from.

A file is redone exactly when that changed. The record of `superpix-MIDDLE_7.nii.gz` is
`superpix-MIDDLE_7.record.json` beside it. A supervoxel file without a record is somebody else's.
"""

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from util.errors import UserError
from util.files import write_text


@dataclass(frozen=True)
class FileState:
    """A file's content, and the cheap signs that it is unchanged.

    Attributes:
        size_bytes: its length.
        modified_ns: its modification time.
        sha256: hash of its bytes, in hexadecimal.
    """

    size_bytes: int
    modified_ns: int
    sha256: str


@dataclass(frozen=True)
class Recipe:
    """All but the image that a supervoxel file depends on."""

    algorithm_version: int
    min_size_vox: int
    scale: float


@dataclass(frozen=True)
class Record:
    """What one supervoxel file was made from."""

    recipe: Recipe
    n_supervoxels: int
    image: FileState
    supervoxels: FileState


def record_path(supervoxel_path: Path) -> Path:
    """Return where the record of a supervoxel file lies."""
    return supervoxel_path.with_name(supervoxel_path.name.removesuffix(".nii.gz") + ".record.json")


def file_state(path: Path) -> FileState:
    """Read a file's state; the whole file is hashed.

    Raises:
        UserError: it cannot be read.
    """
    try:
        status = path.stat()  # first: a change while we read must not get the later time
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    return FileState(size_bytes=status.st_size, modified_ns=status.st_mtime_ns, sha256=sha256)


def write_record(path: Path, record: Record) -> None:
    """Write a record as JSON in one step; raises `UserError` when that fails."""
    write_text(path, json.dumps(asdict(record), indent=2) + "\n")


def read_record(path: Path) -> Record | None:
    """Read a record; None when it is missing, damaged or not one of ours."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return Record(
            recipe=Recipe(**fields["recipe"]),
            n_supervoxels=int(fields["n_supervoxels"]),
            image=FileState(**fields["image"]),
            supervoxels=FileState(**fields["supervoxels"]),
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None


def is_current(record: Record, recipe: Recipe, *, image_path: Path, supervoxel_path: Path) -> bool:
    """Tell whether a supervoxel file is what its image and the recipe would give now.

    Size and modification time decide where they agree with the record; only where the time alone differs
    (a copied folder) is the file hashed, and the record refreshed so that the next look is quick again.
    """
    if record.recipe != recipe:
        return False
    image = _confirm(record.image, image_path)
    supervoxels = _confirm(record.supervoxels, supervoxel_path)
    if image is None or supervoxels is None:
        return False
    confirmed = replace(record, image=image, supervoxels=supervoxels)
    if confirmed != record:
        with suppress(UserError):  # in a read-only folder nothing is lost but time
            write_record(record_path(supervoxel_path), confirmed)
    return True


def _confirm(known: FileState, path: Path) -> FileState | None:
    """Return the file's present state if its content is the known one, else None."""
    try:
        status = path.stat()
    except OSError:
        return None
    if status.st_size != known.size_bytes:
        return None
    if status.st_mtime_ns == known.modified_ns:
        return known
    present = file_state(path)
    return present if present.sha256 == known.sha256 else None
