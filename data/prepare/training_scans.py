"""Write scans of any format as a custom dataset to train on."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np

from data.custom_spec import DATASET_JSON, VOLUMES_FOLDER, write_dataset_json
from data.modality import check_modality, remark_on_intensities
from data.model_frame import CLIPPING
from data.raw.input_scans import InputScan, check_image, read_scan
from data.specs import CustomDataset, DatasetSpec
from data.transforms import Preparation
from util.errors import UserError
from util.io.files import remove_file
from util.io.grids import find_reorientation, orient_slices, reorient_grid
from util.io.image_io import Geometry, write_volume
from util.io.json_files import read_json, write_json
from util.io.volume_hash import hash_volume

DATASET_NAME = "OwnScans"
MAX_SIDE_PX = 256  # of prepared slices, as in the published data
_SIDE_STEP_PX, _MIN_SIDE_PX = 8, 32
_SCANS_JSON = "scans.json"
_SHORT_DTYPES = (np.uint8, np.int8, np.uint16, np.int16)


def write_training_scans(
    folder: Path, sources: Sequence[Path], mask: np.ndarray, *, modality: str
) -> dict[Path, str]:
    """Write scans as a raw custom dataset, unless they were written before.

    Preparation needs the labels of one scan; training on supervoxels never uses them.

    Args:
        folder: where the volumes and `dataset.json` go.
        sources: files or DICOM folders; the first is the annotated scan, whose slice axis all get.
        mask: that scan's organs, above 0.
        modality: one of `CLIPPING`.

    Returns:
        The scans that cannot be read or used, and why.

    Raises:
        UserError: the annotated scan is not usable, no other one is, or the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = _read_record(folder)
    grids: list[Geometry] = []
    record: dict[str, str] = {}
    unusable: dict[Path, str] = {}
    for source in sources:
        try:
            scan = _read_training_scan(source, modality)
        except UserError as error:
            if source == sources[0]:
                raise
            unusable[source] = str(error)
            continue
        name = f"image_{len(grids)}.nii.gz"
        record[name] = hash_volume(scan.voxels, scan.geometry)
        if written.get(name) != record[name] or not (folder / name).is_file():
            write_volume(folder / name, _short(scan.voxels), scan.geometry)
        if not grids:
            record["label_0.nii.gz"] = hash_volume(mask, scan.geometry)
            if written.get("label_0.nii.gz") != record["label_0.nii.gz"]:
                write_volume(folder / "label_0.nii.gz", (mask > 0).astype(np.uint8), scan.geometry)
        grids.append(scan.geometry)
    if len(grids) < 2:
        raise UserError("query: none of the scans can be read, so there is nothing to train on")
    _finish(folder, record, written, choose_preparation(grids, modality=modality), modality=modality)
    return unusable


def choose_preparation(grids: Sequence[Geometry], *, modality: str) -> Preparation:
    """Choose the frame in which a network trains on scans.

    It has the slice axis of the first scan, the median distance of slices, and square slices that hold each
    scan's whole, with at most `MAX_SIDE_PX` pixels a side.

    Args:
        grids: of the scans.
        modality: one of `CLIPPING`.
    """
    letters = orient_slices(grids[0])
    oriented = [reorient_grid(grid, find_reorientation(grid, letters)) for grid in grids]
    side_mm = max(
        n_px * mm for grid in oriented for n_px, mm in zip(grid.shape[1:], grid.spacing_mm[1:], strict=True)
    )
    pixel_mm = max(median(max(grid.spacing_mm[1:]) for grid in oriented), side_mm / MAX_SIDE_PX)
    n_px = max(_MIN_SIDE_PX, math.ceil(side_mm / pixel_mm / _SIDE_STEP_PX - 1e-6) * _SIDE_STEP_PX)
    step_mm = median(grid.spacing_mm[0] for grid in oriented)
    return Preparation(
        orientation=letters,
        spacing_mm=(step_mm, pixel_mm, pixel_mm),
        size_px=(n_px, n_px),
        **CLIPPING[modality],
    )


def _read_training_scan(source: Path, modality: str) -> InputScan:
    scan = read_scan(source)
    check_image(scan)
    try:
        check_modality(scan.modality, modality)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    remark_on_intensities(scan.voxels, modality, name=scan.name)
    return scan


def _finish(
    folder: Path,
    record: Mapping[str, str],
    written: Mapping[str, str],
    preparation: Preparation,
    *,
    modality: str,
) -> None:
    """Write `dataset.json` and the record, and remove the volumes of other scans."""
    for name in set(written) - set(record):
        remove_file(folder / name)
    spec = DatasetSpec(DATASET_NAME, VOLUMES_FOLDER, {1: "label 1"}, (1,), ((1,),), None)
    dataset = CustomDataset(spec, preparation, channel=modality)
    write_dataset_json(folder / DATASET_JSON, dataset)
    write_json(folder / _SCANS_JSON, record, indent=2)


def _read_record(folder: Path) -> dict[str, str]:
    """Read the hash of each volume that was written; empty if unknown."""
    return read_json(folder / _SCANS_JSON, dict[str, str]) or {}


def _short(voxels: np.ndarray) -> np.ndarray:
    return voxels if voxels.dtype in _SHORT_DTYPES else voxels.astype(np.float32)
