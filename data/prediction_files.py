"""Write a prediction: masks on the scans' own grids, tables and a record."""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.dicom_seg import DICOM_SEG_ENDING
from data.label_choice import BACKGROUND
from data.prediction_results import ScanSummary, SupportScore, sort_by_doubt
from data.raw.input_scans import InputScan, scan_ending
from util.errors import UserError
from util.io.files import write_text
from util.io.folders import check_folder
from util.io.image_io import write_volume
from util.io.itk_files import write_itk_volume
from util.io.json_files import write_json
from util.io.nifti_masks import write_volume_like
from util.io.nifti_names import NIFTI_ENDINGS

VOLUMES_CSV, AGREEMENT_CSV, SUPPORTS_CSV = "volumes.csv", "agreement.csv", "supports.csv"
RECORD_JSON, PAGE_HTML = "prediction.json", "predictions.html"
PROBABILITY_SUFFIX = "_probability"  # of a result's name, before the organ's
RECORD_NAMES = (VOLUMES_CSV, AGREEMENT_CSV, SUPPORTS_CSV, RECORD_JSON, PAGE_HTML)


def check_out(out: Path, *, names: Iterable[str], inputs: Iterable[Path]) -> None:
    """Check, before any work, that results can be written and replace no input.

    Args:
        out: folder of the results; may be missing.
        names: of the files to write.
        inputs: all scans and masks that are read.

    Raises:
        UserError: the folder cannot be written, or a result would replace an input.
    """
    input_paths = {path.resolve() for path in inputs}
    replaced = next((out / name for name in names if (out / name).resolve() in input_paths), None)
    if replaced is not None:
        raise UserError(f"out={out}: {replaced} would replace an input; choose another folder")
    check_folder(out, key="out", for_writing=True)


def write_result(path: Path, volume: np.ndarray, scan: InputScan) -> None:
    """Write a label map or probabilities on a scan's own grid.

    Results of a NIfTI file have its qform and sform. Raises `UserError` if the file cannot be written.

    Args:
        path: the file; its ending selects the format (see `name_outputs`).
        volume: `(Z, H, W)`, uint8, uint16 or float32.
        scan: what was segmented.
    """
    if not path.name.endswith(NIFTI_ENDINGS):
        write_itk_volume(path, volume, scan.geometry)
    elif scan.path is not None and scan_ending(scan.path) in NIFTI_ENDINGS and not scan.path.is_dir():
        write_volume_like(path, volume, scan.path)
    else:
        write_volume(path, volume, scan.geometry)


def probability_names(result_name: str, labels: Mapping[int, str]) -> dict[int, str]:
    """Return the file names of the labels' probabilities beside a result's.

    They are NIfTI beside a DICOM-SEG. Labels' ids follow the organs if their names alone would not differ in
    files.

    Args:
        result_name: file name of the result.
        labels: id -> name.
    """
    endings = (".nii.gz", ".nrrd", ".mha", DICOM_SEG_ENDING)
    ending = next(candidate for candidate in endings if result_name.endswith(candidate))
    written = ".nii.gz" if ending == DICOM_SEG_ENDING else ending
    organs = {label: re.sub(r"[^\w.-]+", "_", name) for label, name in labels.items()}
    if len({organ.lower() for organ in organs.values()}) < len(organs):  # some disks ignore the case
        organs = {label: f"{organ}_{label}" for label, organ in organs.items()}
    stem = result_name.removesuffix(ending)
    return {label: f"{stem}{PROBABILITY_SUFFIX}_{organ}{written}" for label, organ in organs.items()}


def write_tables(out: Path, summaries: Mapping[str, ScanSummary], labels: Mapping[int, str]) -> None:
    """Write volumes in ml with confidences, and agreements, as CSV.

    Args:
        out: the folder.
        summaries: file name of the result -> summary.
        labels: id -> name.
    """
    volumes = [
        (name, label, labels[label], ml, summary.confidences[label])
        for name, summary in summaries.items()
        for label, ml in summary.volumes_ml.items()
    ]
    _write_table(out / VOLUMES_CSV, ("scan", "label", "name", "volume_ml", "confidence"), volumes)
    agreements = [
        (
            *(name, summaries[name].confidence, row.label, labels[row.label], row.support),
            *(*row.values, summaries[name].similarities.get(row.support)),
            summaries[name].failures.get(row.support),
        )
        for name in sort_by_doubt(summaries)
        for row in summaries[name].agreements
    ]
    header = ("scan", "confidence_of_scan", "label", "name", "support", "dice_network_registration")
    header += ("dice_network_unet", "dice_between_versions", "dice_support_joint")
    header += ("registration_similarity", "registration_failure")
    _write_table(out / AGREEMENT_CSV, header, agreements)


def write_support_table(out: Path, scores: Sequence[SupportScore], labels: Mapping[int, str]) -> None:
    """Write how well each support segments the others as CSV.

    Args:
        out: the folder.
        scores: see `SupportScore`.
        labels: id -> name.
    """
    rows = [
        (
            *(score.label, labels[score.label], score.scan, score.support),
            *(score.alone, score.together, score.without),
        )
        for score in scores
    ]
    header = ("label", "name", "segmented_support", "support", "dice_alone", "dice_together", "dice_without")
    _write_table(out / SUPPORTS_CSV, header, rows)


def write_prediction_record(out: Path, labels: Mapping[int, str], record: Mapping[str, Any]) -> None:
    """Write labels, in nnU-Net's form, and what a prediction was made with as JSON."""
    values = {"labels": {BACKGROUND: 0} | {name: label for label, name in labels.items()}, **record}
    write_json(out / RECORD_JSON, values, indent=2, ensure_ascii=False)


def _write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([f"{value:.4f}" if isinstance(value, float) else value for value in row] for row in rows)
    write_text(path, text.getvalue())
