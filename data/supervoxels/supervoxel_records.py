"""Record the inputs of each supervoxel file, to rebuild it when they change.

The record of `superpix-MIDDLE_7.nii.gz` is `superpix-MIDDLE_7.record.json` beside it. A supervoxel file
without a record is foreign, that is made by another tool.
"""

from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from data.file_states import FileState, confirm_state
from util.errors import UserError
from util.io.json_files import read_json, write_json


@dataclass(frozen=True)
class Recipe:
    """Inputs of a supervoxel file other than the image."""

    algorithm_version: int
    min_size_vox: int
    scale: float


@dataclass(frozen=True)
class Record:
    """Inputs and state of one supervoxel file."""

    recipe: Recipe
    n_supervoxels: Annotated[int, Field(ge=0)]
    image: FileState
    supervoxels: FileState


def record_path(supervoxel_path: Path) -> Path:
    """Return the path of a supervoxel file's record."""
    return supervoxel_path.with_name(supervoxel_path.name.removesuffix(".nii.gz") + ".record.json")


def write_record(path: Path, record: Record) -> None:
    """Write a record as JSON, atomically; raise `UserError` if that fails."""
    write_json(path, asdict(record), indent=2)


def read_record(path: Path) -> Record | None:
    """Read a record; None if it is missing, damaged or in another format."""
    return read_json(path, Record)


def is_current(record: Record, recipe: Recipe, *, image_path: Path, supervoxel_path: Path) -> bool:
    """Test whether a supervoxel file matches its image and the recipe.

    If only file times differ (as in a copied folder), the record is updated, to speed up the next check.
    """
    if record.recipe != recipe:
        return False
    image = confirm_state(record.image, image_path)
    supervoxels = confirm_state(record.supervoxels, supervoxel_path)
    if image is None or supervoxels is None:
        return False
    confirmed = replace(record, image=image, supervoxels=supervoxels)
    if confirmed != record:
        with suppress(UserError):  # in a read-only folder the next check is slow again
            write_record(record_path(supervoxel_path), confirmed)
    return True
