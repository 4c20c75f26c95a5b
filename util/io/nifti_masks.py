"""Write NIfTI volumes with the header geometry of another file, to the bit."""

from pathlib import Path

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
    source = nibabel.Nifti1Header(read_header_bytes(template), check=False)
    header = nibabel.Nifti1Header()
    header.set_data_dtype(volume.dtype)
    header.set_data_shape(shape)
    for field in _GEOMETRY_FIELDS:
        header[field] = source[field]
    header["pixdim"][:4] = source["pixdim"][:4]
    header["xyzt_units"] = int(source["xyzt_units"]) & _SPATIAL_UNIT
    image = nibabel.Nifti1Image(np.ascontiguousarray(volume).T, None, header)
    with atomic_write(path, suffix=".nii.gz") as temporary:
        image.to_filename(temporary)
        try:
            read_voxels(temporary, read_header(temporary))
        except UserError as error:
            raise UserError(f"{path}: cannot be written ({error}); is the disk full?") from error
