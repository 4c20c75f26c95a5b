"""Write small raw sets as the challenge sites give them, and tell what is in them.

Real files: DICOM series by SimpleITK's GDCM writer, PNG, NIfTI. What each scan holds and where its voxels lie
comes from the numbers that are written here, not from reading the files.
"""

import json
import locale
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import SimpleITK as sitk

from data.datasets import find_spec
from util.io.image_io import Geometry

CHAOS_CASES = (1, 2, 3, 5, 8)
SYNAPSE_NUMBERS = (1, 2, 3, 21, 22)
PATIENTS = (2, 3, 10, 11, 30)
GREY_LEVELS = {0: 0, 1: 63, 2: 126, 3: 189, 4: 252}
CMR_VALUES = {0: 0, 1: 200, 2: 500, 3: 600}
MARK = 3000  # brighter than everything else; one voxel of each scan

_AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
_ROWS_UP = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
_OBLIQUE = (math.cos(0.3), math.sin(0.3), 0.0, 0.0, 0.0, -1.0)  # coronal, turned by 0.3 rad


@dataclass(frozen=True)
class WrittenScan:
    """What was written of one scan.

    Attributes:
        scan_id: the id that it must get.
        image: `(Z, H, W)`, slices in the order in which they must be read.
        label_map: `(Z, H, W)` uint8, the dataset's own ids.
        geometry: where it lies, from the numbers that were written.
        image_files: in the order of the slices; one for NIfTI.
        label_files: likewise.
    """

    scan_id: int
    image: np.ndarray
    label_map: np.ndarray
    geometry: Geometry
    image_files: tuple[Path, ...]
    label_files: tuple[Path, ...]


def body(shape, labels, *, seed):
    """Make an image int16 `(Z, H, W)` with one marked voxel, and a label map with a box of each label.

    The boxes stand in a 4 x 4 pattern in the middle half of all slices but the first and the last.
    """
    n_slices, height, width = shape
    label_map = np.zeros(shape, dtype=np.uint8)
    for workspace, label in enumerate(labels):
        row, column = divmod(workspace, 4)
        top, left = height // 4 + row * height // 8, width // 4 + column * width // 8
        label_map[1:-1, top : top + height // 8 - 1, left : left + width // 8 - 1] = label
    random = np.random.default_rng(seed)
    rows, columns = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    inside = rows**2 + columns**2 < 0.9
    image = inside * (200 + 25 * label_map + random.integers(0, 20, shape)) + random.integers(0, 5, shape)
    image[n_slices // 2, height // 4, width // 2 + 3] = MARK
    return image.astype(np.int16), label_map


def write_slice(path, pixels, *, position_mm, orientation, spacing_mm, series="1.2.826.0.1.7", tags=()):
    """Write one DICOM file.

    Args:
        path: where.
        pixels: `(H, W)` int16.
        position_mm: the first pixel's place, patient `(x, y, z)`.
        orientation: cosines along a row, then along a column.
        spacing_mm: `(z, y, x)`.
        series: SeriesInstanceUID.
        tags: further `(tag, text)` pairs, or those to replace.
    """
    row, column = np.reshape(orientation, (2, 3))
    image = sitk.GetImageFromArray(np.ascontiguousarray(pixels)[None].astype(np.int16))
    image.SetSpacing([float(step) for step in reversed(spacing_mm)])
    image.SetOrigin([float(workspace) for workspace in position_mm])
    image.SetDirection(np.stack([row, column, np.cross(row, column)], axis=1).ravel().tolist())
    written = {
        "0008|0016": "1.2.840.10008.5.1.4.1.1.4",
        "0008|0018": f"{series}.{zlib.crc32(path.stem.encode())}",
        "0008|0060": "MR",
        "0020|000d": "1.2.826.0.1",
        "0020|000e": series,
        "0020|0032": "\\".join(f"{workspace:.6f}" for workspace in position_mm),
        "0020|0037": "\\".join(f"{cosine:.9f}" for cosine in orientation),
    } | dict(tags)
    for tag, text in written.items():
        image.SetMetaData(tag, text)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetFileName(str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    before = locale.setlocale(locale.LC_ALL)
    writer.Execute(image)
    locale.setlocale(locale.LC_ALL, before)  # writing DICOM leaves the process with ASCII for all text


def write_png(path, levels):
    """Write `(H, W)` grey levels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), levels):
        raise OSError(path)


def write_nifti(path, voxels, geometry):
    """Write a volume `(Z, H, W)` in its own dtype."""
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing([float(step) for step in reversed(geometry.spacing_mm)])
    image.SetOrigin([float(workspace) for workspace in geometry.origin_mm])
    image.SetDirection([float(cosine) for cosine in geometry.direction])
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def write_chaos_case(case, *, labels, shape=(6, 36, 44), orientation=_AXIAL, names="up", seed=0):
    """Write `<case>/T2SPIR/{DICOM_anon,Ground}`; names and numbers stand for nothing.

    Args:
        case: the case folder; its name is the scan's id.
        labels: the organs that are there.
        shape: `(Z, H, W)`.
        orientation: of the slices.
        names: "up" if the files' names follow the slices along their normal, "down" if they run against it,
            "mixed" if they do neither.
        seed: of the voxels.
    """
    n_slices = shape[0]
    spacing_mm, origin = (8.0, 2.5, 2.0), np.array([-41.0, -52.5, 77.25 + seed])
    row, column = np.reshape(orientation, (2, 3))
    normal = np.cross(row, column)
    image, label_map = body(shape, labels, seed=seed)
    numbers = {
        "up": np.arange(n_slices),
        "down": np.arange(n_slices)[::-1],
        "mixed": np.random.default_rng(seed).permutation(n_slices),
    }[names]
    to_level = np.array([GREY_LEVELS[label] for label in range(5)], dtype=np.uint8)
    dicoms, pngs = [], []
    for at, number in enumerate(numbers):
        stem = f"IMG-0004-{number + 1:05d}"
        dicoms.append(case / "T2SPIR" / "DICOM_anon" / f"{stem}.dcm")
        pngs.append(case / "T2SPIR" / "Ground" / f"{stem}.png")
        write_slice(
            dicoms[-1],
            image[at],
            position_mm=origin + at * spacing_mm[0] * normal,
            orientation=orientation,
            spacing_mm=spacing_mm,
            series=f"1.2.826.0.1.{case.name}",
            tags=[("0020|0013", str(number + 1))],
        )
        write_png(pngs[-1], to_level[label_map[at]])
    direction = tuple(np.stack([row, column, normal], axis=1).ravel().tolist())
    geometry = Geometry(shape, spacing_mm, tuple(origin.tolist()), direction)
    return WrittenScan(int(case.name), image, label_map, geometry, tuple(dicoms), tuple(pngs))


def write_chaos(folder, *, n_scans=5):
    """Write a CHAOS train set of up to 5 scans with all that the order of files must not decide.

    Scan 1: names against the slices' order; 2: names in no order; 3: without its right kidney; 5: oblique; 8:
    rows that run upwards, hence slices that run downwards. Beside them lies a T1 series, which is not read.
    """
    forms = [
        {"names": "down", "labels": (1, 2, 3, 4)},
        {"names": "mixed", "labels": (1, 2, 3, 4), "shape": (7, 40, 36)},
        {"labels": (1, 3, 4)},
        {"names": "mixed", "orientation": _OBLIQUE, "labels": (1, 2, 3, 4)},
        {"orientation": _ROWS_UP, "labels": (1, 2, 3, 4)},
    ]
    cases = folder / "Train_Sets" / "MR"
    write_slice(
        cases / "1" / "T1DUAL" / "DICOM_anon" / "InPhase" / "IMG-0004-00001.dcm",
        np.zeros((8, 8), np.int16),
        position_mm=(0, 0, 0),
        orientation=_AXIAL,
        spacing_mm=(8, 2, 2),
    )
    return [
        write_chaos_case(cases / str(number), seed=number, **form)
        for number, form in list(zip(CHAOS_CASES, forms, strict=True))[:n_scans]
    ]


def nifti_geometry(shape, spacing_mm, *, angle=0.0):
    """Lay a grid around the scanner's middle, turned about the patient's long axis by an angle in rad."""
    direction = (math.cos(angle), -math.sin(angle), 0, math.sin(angle), math.cos(angle), 0, 0, 0, 1)
    return Geometry(shape, spacing_mm, (-30.5, -41.25, 12.0), tuple(map(float, direction)))


def _write_pair(scan_id, image_path, label_path, *, volume, geometry, stored=None):
    image, label_map = volume
    write_nifti(image_path, image, geometry)
    values = label_map if stored is None else stored[label_map]
    write_nifti(label_path, values, geometry)
    return WrittenScan(scan_id, image, label_map, geometry, (image_path,), (label_path,))


def write_synapse(folder, *, n_scans=5, testing=True):
    """Write Synapse's `Training/{img,label}`, and a `Testing/img` that has no labels."""
    labels = tuple(find_spec("SABS").labels)
    training = folder / "RawData" / "Training"
    shape = (5, 120, 112)
    written = [
        _write_pair(
            position,
            training / "img" / f"img{number:04d}.nii.gz",
            training / "label" / f"label{number:04d}.nii.gz",
            volume=body(shape, labels, seed=number),
            geometry=nifti_geometry(shape, (5.0, 0.8, 0.8)),
        )
        for position, number in enumerate(SYNAPSE_NUMBERS[:n_scans])
    ]
    if testing:
        image, _ = body(shape, labels, seed=61)
        path = folder / "RawData" / "Testing" / "img" / "img0061.nii.gz"
        write_nifti(path, image, nifti_geometry(shape, (5.0, 0.8, 0.8)))
    return written


def write_mscmrseg(folder, *, n_scans=5, unlabelled=True):
    """Write MS-CMRSeg's images and labels in two folders, other sequences, a last patient without labels."""
    stored = np.array([CMR_VALUES[label] for label in range(4)], dtype=np.int16)
    shape = (4, 48, 56)
    written = [
        _write_pair(
            patient,
            folder / "c0t2lge" / f"patient{patient}_C0.nii.gz",
            folder / "c0gt" / f"patient{patient}_C0_manual.nii.gz",
            volume=body(shape, (1, 2, 3), seed=patient),
            geometry=nifti_geometry(shape, (8.0, 1.5, 1.5), angle=0.2),
            stored=stored,
        )
        for patient in PATIENTS[:n_scans]
    ]
    others = ["patient2_LGE.nii.gz", "patient2_T2.nii.gz", *(["patient36_C0.nii.gz"] if unlabelled else [])]
    for name in others:
        image, _ = body(shape, (1, 2, 3), seed=1)
        write_nifti(folder / "c0t2lge" / name, image, nifti_geometry(shape, (8.0, 1.5, 1.5)))
    return written


CUSTOM_JSON = {
    "name": "Hips",
    "labels": {"background": 0, "left femur": 1, "right femur": 3},
    "channel_names": {"0": "T1"},
    "numTraining": 5,
    "file_ending": ".nii.gz",
    "spacing_mm": [4.0, 2.0, 2.0],
    "size_px": [48, 48],
    "clip": {"percentile": 99.5},
    "supervoxel_min_size_vox": 60,
    "test_labels": [1, 3],
}


def write_json(path, **changes):
    """Write a `dataset.json` with some keys changed; `...` leaves a key out."""
    values = {key: value for key, value in (CUSTOM_JSON | changes).items() if value is not ...}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")


def _custom_volumes(n_scans):
    shapes = [(5, 40, 44), (6, 44, 40), (5, 48, 48), (4, 41, 43), (5, 40, 40)]
    for seed, shape in enumerate(shapes[:n_scans]):
        geometry = nifti_geometry(shape, (5.0, 2.0, 2.5), angle=0.1 * seed)
        yield body(shape, (1, 3), seed=seed), geometry


def write_custom_nnunet(folder, *, n_scans=5, **changes):
    """Write a custom dataset in nnU-Net's folders; the cases' numbers have no leading zeros."""
    write_json(folder / "dataset.json", **changes)
    return [
        _write_pair(
            position,
            folder / "imagesTr" / f"hip_{position + 8}_0000.nii.gz",
            folder / "labelsTr" / f"hip_{position + 8}.nii.gz",
            volume=volume,
            geometry=geometry,
        )
        for position, (volume, geometry) in enumerate(_custom_volumes(n_scans))
    ]


def write_custom_numbered(folder, *, n_scans=5, **changes):
    """Write a custom dataset as `image_<id>` and `label_<id>`, ids 3, 5, 7, ..."""
    write_json(folder / "dataset.json", **changes)
    return [
        _write_pair(
            2 * position + 3,
            folder / f"image_{2 * position + 3}.nii.gz",
            folder / f"label_{2 * position + 3}.nii.gz",
            volume=volume,
            geometry=geometry,
        )
        for position, (volume, geometry) in enumerate(_custom_volumes(n_scans))
    ]


WRITERS = {"CHAOST2": write_chaos, "SABS": write_synapse, "CMR": write_mscmrseg, "Hips": write_custom_nnunet}
