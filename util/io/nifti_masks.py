"""Write NIfTI volumes with the header geometry of another file, to the bit."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from util.errors import UserError
from util.io.files import atomic_write
from util.io.nifti_files import read_header, read_header_bytes, read_voxels

_GEOMETRY_FIELDS = (
    *("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)
_SPATIAL_UNIT = 7  # bits of xyzt_units


def read_header_geometry(path: Path) -> dict[str, Any]:
    """Read a NIfTI file's spacing, unit, qform, sform and their codes.

    Returns:
        Header fields as plain numbers and lists, which survive JSON to the bit.

    Raises:
        UserError: the file cannot be read.
    """
    read_header(path)  # refuses what cannot be trusted
    source = nibabel.Nifti1Header(read_header_bytes(path), check=False)
    fields = {name: source[name].tolist() for name in _GEOMETRY_FIELDS}
    fields["pixdim"] = source["pixdim"][:4].tolist()
    fields["xyzt_units"] = int(source["xyzt_units"]) & _SPATIAL_UNIT
    return fields


def write_volume_like(path: Path, volume: np.ndarray, template: Path) -> None:
    """Write a volume on the grid of a NIfTI file, with that file's qform and sform.

    Spacing, unit, qform, sform and their codes are copied; description, scaling and extensions are not.

    Args:
        path: the file to write, atomically, as compressed NIfTI.
        volume: `(Z, H, W)`, uint8, uint16 or float32.
        template: the NIfTI file of the same shape.

    Raises:
        ValueError: the shapes differ.
        UserError: the template cannot be read any more, or the file cannot be written.
    """
    shape = read_header(template).shape
    if volume.shape[::-1] != shape:
        raise ValueError(f"{path}: volume shape {volume.shape} must equal the template's {shape[::-1]}")
    write_with_header_geometry(path, volume, read_header_geometry(template))


def write_with_header_geometry(path: Path, volume: np.ndarray, fields: Mapping[str, Any]) -> None:
    """Write a volume with the header fields that `read_header_geometry` returned.

    `path` and `volume` are those of `write_volume_like`; raises `UserError` if the file cannot be written.
    """
    header = nibabel.Nifti1Header()
    header.set_data_dtype(volume.dtype)
    header.set_data_shape(volume.shape[::-1])
    for name in _GEOMETRY_FIELDS:
        header[name] = fields[name]
    header["pixdim"][:4] = fields["pixdim"]
    header["xyzt_units"] = fields["xyzt_units"]
    image = nibabel.Nifti1Image(np.ascontiguousarray(volume).T, None, header)
    with atomic_write(path, suffix=".nii.gz") as temporary:
        image.to_filename(temporary)
        try:
            read_voxels(temporary, read_header(temporary))
        except UserError as error:
            raise UserError(f"{path}: cannot be written ({error}); is the disk full?") from error
