"""Ways to damage sets of NIfTI files: `(name, set, damage, words of the one line)`."""

import gzip
import shutil
from dataclasses import replace

import nibabel
import numpy as np
import SimpleITK as sitk

from tests.data.raw.raw_sets import write_nifti


def _bytes(do, *, of="image_files"):
    """Let a damage change the bytes of the first scan's image, or of its label file."""

    def damage(folder, written):
        path = getattr(written[0], of)[0]
        path.write_bytes(do(path.read_bytes()))

    return damage


def _plain_and_cut(content):
    return gzip.decompress(content)[:-1000]


def _flipped_bit(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0x10]) + content[middle + 1 :]


def _voxels(do, *, of="image_files"):
    """Let a damage change the voxels `(Z, H, W)` of the first scan's image, or of its label file."""

    def damage(folder, written):
        path = getattr(written[0], of)[0]
        stored = nibabel.load(path)
        voxels = do(np.asarray(stored.dataobj).T.copy())
        nibabel.save(nibabel.Nifti1Image(voxels.T, stored.affine), path)

    return damage


def _header(do, *, of="image_files"):
    """Let a damage change the header's bytes of the first scan's image."""

    def change(content):
        raw = bytearray(gzip.decompress(content))
        do(raw)
        return gzip.compress(bytes(raw))

    return _bytes(change, of=of)


def _grid(*, shape=None, **changes):
    """Write the first scan's labels on another grid."""

    def damage(folder, written):
        scan = written[0]
        label_map = scan.label_map if shape is None else np.resize(scan.label_map, shape)
        write_nifti(scan.label_files[0], label_map, replace(scan.geometry, shape=label_map.shape, **changes))

    return damage


def _with(value):
    def change(voxels):
        changed = voxels.astype(np.float32)
        changed[1, 20, 20] = value
        return changed

    return change


def _fractions(label_map):
    changed = label_map.astype(np.float32)
    changed[1, 20, 20] = 1.5
    return changed


def _only_adrenals(label_map):
    return np.where(label_map >= 12, label_map, 0).astype(np.uint8)


def _two_volumes(folder, written):
    path = written[0].image_files[0]
    voxels = np.asarray(nibabel.load(path).dataobj)
    nibabel.save(nibabel.Nifti1Image(np.stack([voxels, voxels], axis=-1), np.eye(4)), path)


def _coloured(folder, written):
    path = written[0].image_files[0]
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((5, 8, 8, 3), np.uint8), isVector=True), str(path))


def _second_version(folder, written):
    path = written[0].image_files[0]
    nibabel.save(nibabel.Nifti2Image.from_image(nibabel.load(path)), path)


def _one_slice(folder, written):
    geometry = replace(written[0].geometry, shape=(1, *written[0].geometry.shape[1:]))
    write_nifti(written[0].image_files[0], written[0].image[2:3], geometry)
    write_nifti(written[0].label_files[0], written[0].label_map[2:3], geometry)


def _sheared(raw):
    header = nibabel.Nifti1Header(bytes(raw[:348]))
    affine = header.get_best_affine()
    affine[0, 1] = 0.5  # columns lean over: no rotation does that
    header.set_sform(affine, code=1)
    header.set_qform(None, code=0)
    raw[:348] = header.binaryblock


def _mirrored_form(raw):
    header = nibabel.Nifti1Header(bytes(raw[:348]))
    mirrored = header.get_best_affine()
    mirrored[0] *= -1
    header.set_sform(mirrored, code=2)
    raw[:348] = header.binaryblock


def _no_form(raw):
    raw[252:256] = bytes(4)  # qform_code and sform_code


def _in_metres(raw):
    raw[123] = 1


def _no_spacing(raw):
    raw[84:88] = np.float32(0).tobytes()  # pixdim[2]


def _pair_form(raw):
    raw[344:348] = b"ni1\0"


def _copied(folder, written):
    path = written[0].image_files[0]
    (folder / "again").mkdir()
    shutil.copy(path, folder / "again" / path.name)


def _label_without_image(folder, written):
    written[0].image_files[0].unlink()


def _also_as(kind, name):
    """Copy a file of the first scan under another name beside it."""

    def damage(folder, written):
        path = getattr(written[0], kind)[0]
        shutil.copy(path, path.with_name(name))

    return damage


def _both_forms(folder, written):
    shutil.copy(written[0].image_files[0], folder / "image_0.nii.gz")


def _all_gone(kind):
    def damage(folder, written):
        for scan in written:
            getattr(scan, kind)[0].unlink()

    return damage


_TURNED = (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)

NIFTI = [
    (
        "gzip cut off",
        "SABS",
        _bytes(lambda content: content[:-2000]),
        r"img0001\.nii\.gz: cannot be read as an image",
    ),
    (
        "gzip of labels cut off",
        "CMR",
        _bytes(lambda content: content[:-20], of="label_files"),
        r"patient2_C0_manual\.nii\.gz: cannot be read as an image",
    ),
    (
        "gzip with a flipped bit",
        "SABS",
        _bytes(_flipped_bit),
        r"img0001\.nii\.gz: cannot be read as an image",
    ),
    ("empty file", "CMR", _bytes(lambda content: b""), r"patient2_C0\.nii\.gz: .*\(empty file\)"),
    (
        "empty label file",
        "Hips",
        _bytes(lambda content: b"", of="label_files"),
        r"hip_8\.nii\.gz: .*\(empty file\)",
    ),
    (
        "wrong magic: a web page",
        "SABS",
        _bytes(lambda content: b"<!DOCTYPE html><html>please log in</html>"),
        r"img0001\.nii\.gz: cannot be read .* starts with b'<!DO'",
    ),
    (
        "file of two bytes",
        "SABS",
        _bytes(lambda content: b"\0\1"),
        r"img0001\.nii\.gz: cannot be read .*NIfTI-1",
    ),
    (
        "header of the two-file form",
        "SABS",
        _header(_pair_form),
        r"img0001\.nii\.gz: cannot be read .*NIfTI-1",
    ),
    (
        "NIfTI-2",
        "SABS",
        _second_version,
        r"img0001\.nii\.gz: cannot be read .* starts with b'\\x1c\\x02",
    ),
    ("plain NIfTI cut off", "SABS", _bytes(_plain_and_cut), r"truncated: \d+ bytes expected, got"),
    (
        "NIfTI cut off in its header",
        "SABS",
        _bytes(lambda content: gzip.decompress(content)[:200]),
        r"header of 348 bytes expected, got 200",
    ),
    (
        "several volumes in one file",
        "SABS",
        _two_volumes,
        r"must be a 3D image of single values, got size \(112, 120, 5, 2\)",
    ),
    ("coloured volume", "SABS", _coloured, r"img0001\.nii\.gz: must "),
    (
        "spacing of 0",
        "SABS",
        _header(_no_spacing),
        r"spacing must be above 0 mm along x, y, z, got \[0\.8.*, 0\.0, 5\.0\]",
    ),
    (
        "qform and sform that disagree",
        "SABS",
        _header(_mirrored_form),
        r"img0001\.nii\.gz: the header contradicts itself: qform \(code 1\) .*; sform \(code 2\) ",
    ),
    ("neither qform nor sform", "CMR", _header(_no_form), r"patient2_C0\.nii\.gz: orientation unknown"),
    (
        "millimetres called metres",
        "SABS",
        _header(_in_metres),
        r"img0001\.nii\.gz: spacing must be .* xyzt_units",
    ),
    ("sheared axes", "SABS", _header(_sheared), r"img0001\.nii\.gz: invalid sform \(axes that are not perp"),
    (
        "NaN voxel",
        "SABS",
        _voxels(_with(np.nan)),
        r"img0001\.nii\.gz: voxels must be finite numbers, got 1 NaN or inf",
    ),
    (
        "infinite voxel",
        "CMR",
        _voxels(_with(np.inf)),
        r"patient2_C0\.nii\.gz: voxels must be finite numbers, got 1",
    ),
    (
        "value beyond float32",
        "Hips",
        _voxels(lambda voxels: np.where(voxels > 2000, 1e300, voxels)),
        r"hip_8_0000\.nii\.gz: voxels must be finite",
    ),
    ("constant image", "SABS", _voxels(np.zeros_like), r"img0001\.nii\.gz: voxels must differ, all are 0"),
    ("volume of one slice", "SABS", _one_slice, r"must have at least 2 slices, got shape \(1, 120, 112\)"),
    (
        "labels with a slice less",
        "SABS",
        _grid(shape=(4, 120, 112)),
        r"label0001\.nii\.gz: must lie on the grid of img0001\.nii\.gz, shape \(4, 120, 112\) differs from",
    ),
    (
        "labels with swapped axes",
        "SABS",
        _grid(shape=(112, 120, 5)),
        r"shape \(112, 120, 5\) differs from \(5, 120, 112\)",
    ),
    (
        "labels of another spacing",
        "SABS",
        _grid(spacing_mm=(5.0, 0.8, 0.85)),
        r"spacing \(z, y, x\) mm \(5\.0, 0\.8, 0\.85\) differs from",
    ),
    (
        "labels of another origin",
        "SABS",
        _grid(origin_mm=(-30.5, -40.25, 12.0)),
        r"origin \(x, y, z\) mm .* differs from",
    ),
    (
        "labels of another direction",
        "SABS",
        _grid(direction=_TURNED),
        r"direction \(0\.0, -1\.0.* differs from",
    ),
    (
        "label value outside the list",
        "SABS",
        _voxels(lambda label_map: label_map + (label_map == 13), of="label_files"),
        r"label0001\.nii\.gz: label values must be among 0, 1, .*, 13, got 14; correct",
    ),
    (
        "label ids instead of 200, 500, 600",
        "CMR",
        _voxels(
            lambda values: np.searchsorted([0, 200, 500, 600], values).astype(np.int16), of="label_files"
        ),
        r"C0_manual\.nii\.gz: label values must be among 0, 200, 500, 600, got 1, 2, 3",
    ),
    (
        "label values between integers",
        "Hips",
        _voxels(_fractions, of="label_files"),
        r"hip_8\.nii\.gz: .* got 1\.5",
    ),
    (
        "NaN among labels",
        "Hips",
        _voxels(_with(np.nan), of="label_files"),
        r"hip_8\.nii\.gz: .* among 0, 1, 3, got nan",
    ),
    (
        "labels without a test organ",
        "SABS",
        _voxels(_only_adrenals, of="label_files"),
        r"label0001\.nii\.gz: must hold at least one of 1 spleen, .* 6 liver, got 12, 13",
    ),
    (
        "labels empty",
        "CMR",
        _voxels(np.zeros_like, of="label_files"),
        r"C0_manual\.nii\.gz: must hold at least one of .* got background only",
    ),
    (
        "label file missing",
        "SABS",
        lambda folder, written: written[0].label_files[0].unlink(),
        r"img0001\.nii\.gz: must have a label",
    ),
    (
        "label file of CMR missing",
        "CMR",
        lambda folder, written: written[0].label_files[0].unlink(),
        r"patient2_C0\.nii\.gz: must have a label",
    ),
    ("all label files missing", "SABS", _all_gone("label_files"), r"got 3 image\(s\) and 0 label file\(s\)"),
    (
        "image file missing",
        "SABS",
        _label_without_image,
        r"label0001\.nii\.gz: must have an image of scan 1, found none",
    ),
    (
        "image twice",
        "CMR",
        _copied,
        r"patient2_C0\.nii\.gz: must be the only file of scan 2, .* is another; keep one",
    ),
    (
        "second channel",
        "Hips",
        _also_as("image_files", "hip_8_0001.nii.gz"),
        r"hip_8_0001\.nii\.gz: only the channel _0000 is read",
    ),
    (
        "image without a channel number",
        "Hips",
        _also_as("image_files", "scan.nii.gz"),
        r"scan\.nii\.gz: images must be named",
    ),
    ("both custom forms at once", "Hips", _both_forms, r"holds both imagesTr and image_<id>\.nii\.gz"),
    ("custom images missing", "Hips", _all_gone("image_files"), r"must hold imagesTr/<case>_0000\.nii\.gz"),
    (
        "ids 3 and 03",
        "numbered",
        _also_as("image_files", "image_03.nii.gz"),
        r"image_3\.nii\.gz: must be the only file of scan 3",
    ),
    (
        "file of another ending",
        "numbered",
        _also_as("label_files", "label_3.nii"),
        r"label_3\.nii: must end with \.nii\.gz",
    ),
]
