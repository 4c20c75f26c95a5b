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
class SupervoxelParameters:
    """Inputs of a supervoxel file other than the image."""

    algorithm_version: int
    min_size_vox: int
    scale: float


@dataclass(frozen=True)
class SupervoxelRecord:
    """Inputs and state of one supervoxel file."""

    parameters: Annotated[SupervoxelParameters, Field(validation_alias="recipe")]
    n_supervoxels: Annotated[int, Field(ge=0)]
    image: FileState
    supervoxels: FileState


def supervoxel_record_path(supervoxel_path: Path) -> Path:
    """Return the path of a supervoxel file's record."""
    return supervoxel_path.with_name(supervoxel_path.name.removesuffix(".nii.gz") + ".record.json")


def write_supervoxel_record(path: Path, record: SupervoxelRecord) -> None:
    """Write a record as JSON, atomically; raise `UserError` if that fails."""
    fields = asdict(record)
    fields = {"recipe": fields.pop("parameters"), **fields}  # the parameters' name in every version's files
    write_json(path, fields, indent=2)


def read_supervoxel_record(path: Path) -> SupervoxelRecord | None:
    """Read a record; None if it is missing, damaged or in another format."""
    return read_json(path, SupervoxelRecord)


def supervoxels_are_current(
    record: SupervoxelRecord, parameters: SupervoxelParameters, *, image_path: Path, supervoxel_path: Path
) -> bool:
    """Test whether a supervoxel file matches its image and the parameters.

    If only file times differ (as in a copied folder), the record is updated, to speed up the next check.
    """
    if record.parameters != parameters:
        return False
    image = confirm_state(record.image, image_path)
    supervoxels = confirm_state(record.supervoxels, supervoxel_path)
    if image is None or supervoxels is None:
        return False
    confirmed = replace(record, image=image, supervoxels=supervoxels)
    if confirmed != record:
        with suppress(UserError):  # in a read-only folder the next check is slow again
            write_supervoxel_record(supervoxel_record_path(supervoxel_path), confirmed)
    return True
