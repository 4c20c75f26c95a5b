"""Masks with the header geometry of their scan: qform, sform, codes and spacing are copied to the bit."""

import nibabel
import numpy as np
import pytest

from util.errors import UserError
from util.io.nifti_masks import write_volume_like

FIELDS = ("pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d")
FIELDS += ("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z")


def _affine():
    cosine, sine = np.cos(0.4), np.sin(0.4)
    rotation = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([-0.7, 0.7, 5.0])
    affine[:3, 3] = (31.25, -12.5, 4.125)
    return affine


@pytest.mark.parametrize(("qform", "sform"), [(1, 0), (0, 2), (3, 4)])
def test_header_geometry_is_copied_to_the_bit(tmp_path, qform, sform):
    image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), None)
    image.set_qform(_affine(), code=qform)
    image.set_sform(_affine(), code=sform)
    image.header.set_xyzt_units("mm")
    image.to_filename(tmp_path / "scan.nii.gz")
    mask = np.arange(24, dtype=np.uint8).reshape(4, 3, 2)
    write_volume_like(tmp_path / "mask.nii.gz", mask, tmp_path / "scan.nii.gz")
    written, template = nibabel.load(tmp_path / "mask.nii.gz"), nibabel.load(tmp_path / "scan.nii.gz")
    assert np.array_equal(np.asarray(written.dataobj), mask.T)
    assert written.get_data_dtype() == np.uint8
    for field in FIELDS:
        assert np.array_equal(written.header[field], template.header[field]), field
    assert written.header.get_xyzt_units()[0] == "mm"
    assert np.array_equal(written.affine, template.affine)


def test_a_big_endian_scan_and_one_with_a_time_axis_are_templates(tmp_path):
    image = nibabel.Nifti1Image(
        np.zeros((2, 3, 4, 1), ">i2"), _affine(), header=nibabel.Nifti1Header(endianness=">")
    )
    image.to_filename(tmp_path / "scan.nii")
    mask = np.ones((4, 3, 2), np.float32)
    write_volume_like(tmp_path / "mask.nii.gz", mask, tmp_path / "scan.nii")
    written = nibabel.load(tmp_path / "mask.nii.gz")
    assert written.shape == (2, 3, 4)
    assert np.array_equal(written.affine, nibabel.load(tmp_path / "scan.nii").affine)


def test_a_mask_of_another_shape_is_a_defect_and_a_full_folder_an_error(tmp_path):
    nibabel.Nifti1Image(np.zeros((2, 3, 4), np.int16), _affine()).to_filename(tmp_path / "scan.nii")
    with pytest.raises(ValueError, match="must equal the template's"):
        write_volume_like(tmp_path / "m.nii.gz", np.zeros((2, 3, 4), np.uint8), tmp_path / "scan.nii")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_volume_like(tmp_path / "file/m.nii.gz", np.zeros((4, 3, 2), np.uint8), tmp_path / "scan.nii")
