"""Restore predictions of prepared scans on the grids and names of the raw files."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from data.data_settings import RestoreConfig
from data.dataset_lookup import find_dataset
from data.label_maps import distinct_values, format_value
from data.layout import DatasetLayout
from data.prediction_files import PROBABILITY_SUFFIX
from data.prepare.original_grids import OriginalGrid, find_original_grids
from data.specs import DatasetSpec
from util.errors import ProblemList, UserError, shorten_list
from util.io.folders import check_folder
from util.io.grids import reorient_to_grid
from util.io.image_io import Geometry, read_volume
from util.io.nifti_names import NIFTI_ENDINGS
from util.remarks import printed_remarks, remark

_PREDICTIONS = "predictions"  # folder of an evaluation
_NAME = re.compile(r"(?:scan|image)_(\d+)((?:_.+)?)\.nii(?:\.gz)?")
_MAX_LABEL = 65535


@dataclass(frozen=True)
class _Prediction:
    """A file to restore: its scan, the rest of its name, and its folder below that of all."""

    path: Path
    scan_id: int
    suffix: str
    folder: Path


def restore_predictions(config: RestoreConfig) -> list[Path]:
    """Restore predictions on the raw grids, and print the result.

    All are checked first. Label maps are resampled label by label, probabilities are interpolated.

    Returns:
        The written files.

    Raises:
        UserError: there are no predictions, a raw grid is unknown or its files have changed, a prediction is
            not on its scan's prepared grid or no prediction, or a raw file would be replaced; one line each,
            before any work. Or a file cannot be written.
    """
    with printed_remarks():
        source = _find_source(Path(config.back))
        out = Path(config.out) if config.out else source.with_name(f"{source.name}_original")
        check_folder(out, key="out", for_writing=True)
        spec = find_dataset(config.dataset, config.folder)
        layout = DatasetLayout(spec, config.folder, config.folder, spec.supervoxel_min_vox or 1)
        predictions = _list_predictions(source)
        grids = find_original_grids(layout, sorted({prediction.scan_id for prediction in predictions}))
        targets = [
            out / entry.folder / f"{grids[entry.scan_id].name}{entry.suffix}.nii.gz" for entry in predictions
        ]
        are_labels = _check(predictions, grids, targets, spec=spec, kind=config.kind)
        for prediction, target, is_label_map in zip(predictions, targets, are_labels, strict=True):
            _restore(prediction, grids[prediction.scan_id], target, is_label_map=is_label_map)
    print(f"{len(targets)} file(s) of {len(grids)} scan(s) on the raw grids: {out}")
    return targets


def _find_source(folder: Path) -> Path:
    if not folder.is_dir():
        raise UserError(
            f"back={folder}: no such folder; give a folder of predictions, or an evaluation's run folder"
        )
    folder = folder.absolute()
    return folder / _PREDICTIONS if (folder / _PREDICTIONS).is_dir() else folder


def _list_predictions(source: Path) -> list[_Prediction]:
    """List the predictions directly in a folder, or else those of its subfolders."""
    folders = [source]
    if not any(path.name.endswith(NIFTI_ENDINGS) for path in source.iterdir()):
        folders = sorted(path for path in source.iterdir() if path.is_dir())
    predictions, unmatched = [], []
    for path in (path for folder in folders for path in sorted(folder.iterdir())):
        match = _NAME.fullmatch(path.name)
        if match and path.is_file():
            folder = path.parent.relative_to(source)
            predictions.append(_Prediction(path, int(match[1]), match[2], folder))
        elif path.name.endswith(NIFTI_ENDINGS):
            unmatched.append(path.name)
    if not predictions:
        raise UserError(
            f"back={source}: holds no scan_<id>*.nii.gz or image_<id>*.nii.gz; give a folder of predictions "
            "of prepared scans"
        )
    if unmatched:
        remark(f"{source}: left out, as their names give no scan: {', '.join(unmatched)}")
    return predictions


def _check(
    predictions: Sequence[_Prediction],
    grids: dict[int, OriginalGrid],
    targets: Sequence[Path],
    *,
    spec: DatasetSpec,
    kind: str,
) -> list[bool]:
    """Return which predictions are label maps; raises all problems of what they hold and would replace."""
    problems, are_labels = ProblemList(), []
    protected = {path.resolve() for grid in grids.values() for path in grid.files}
    protected |= {prediction.path.resolve() for prediction in predictions}
    for prediction, target in zip(predictions, targets, strict=True):
        check = partial(_is_label_map, prediction, grids[prediction.scan_id], spec=spec, kind=kind)
        are_labels.append(problems.attempt(check))
        if target.resolve() in protected:
            problems.lines.append(f"out: {target} would replace an input; choose another folder")
    problems.raise_all()
    return are_labels


def _read(prediction: _Prediction, grid: OriginalGrid) -> tuple[np.ndarray, Geometry]:
    return reorient_to_grid(*read_volume(prediction.path), grid.prepared)


def _is_label_map(prediction: _Prediction, grid: OriginalGrid, *, spec: DatasetSpec, kind: str) -> bool:
    """Return whether a prediction holds label ids, and not probabilities.

    Raises:
        UserError: it is on another grid, or holds neither.
    """
    voxels, geometry = _read(prediction, grid)
    if not geometry.same_grid(grid.prepared):
        raise UserError(
            f"{prediction.path}: must be on the prepared grid of scan {prediction.scan_id}, "
            f"{grid.prepared.shape}, got another of {geometry.shape}; give predictions of the present volumes"
        )
    values = distinct_values(voxels)
    if kind == "continuous" or (
        # A probability of 0 or 1 everywhere is no label.
        kind == "auto" and prediction.suffix.startswith(PROBABILITY_SUFFIX) and _are_probabilities(values)
    ):
        return False
    if _are_labels(values, None if kind == "labels" else spec):
        return True
    if kind == "auto" and _are_probabilities(values):
        return False
    text = shorten_list(map(format_value, values))
    if kind == "labels":
        raise UserError(
            f"{prediction.path}: must hold label ids (whole numbers of 0 to {_MAX_LABEL}), got {text}"
        )
    raise UserError(
        f"{prediction.path}: must hold label ids of {spec.name} ({', '.join(map(str, spec.labels))}) or "
        f"probabilities of 0 to 1, got {text}; give predictions, not images, or set kind=labels for other "
        "ids, or kind=continuous for numbers to be interpolated"
    )


def _are_labels(values: Sequence[float], spec: DatasetSpec | None) -> bool:
    """Return whether all values are label ids: a dataset's, its raw ids or 1 in a mask; None: any."""
    if spec is None:
        return all(0 <= value <= _MAX_LABEL and float(value).is_integer() for value in values)
    ids = {0, 1, *spec.labels}
    return set(values) <= ids or set(values) <= {0, *spec.raw_labels}


def _are_probabilities(values: Sequence[float]) -> bool:
    return values[0] >= 0 and values[-1] <= 1


def _restore(prediction: _Prediction, grid: OriginalGrid, target: Path, *, is_label_map: bool) -> None:
    voxels, _ = _read(prediction, grid)
    if is_label_map:
        dtype = np.uint8 if voxels.max() <= np.iinfo(np.uint8).max else np.uint16
        grid.write(target, grid.restore_labels(voxels.astype(dtype)))
    else:
        grid.write(target, grid.restore(voxels.astype(np.float32)))
