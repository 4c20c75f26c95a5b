"""CMR: the bSSFP scans of MS-CMRSeg.

They are called `patient<N>_C0.nii.gz`, their labels `patient<N>_C0_manual.nii.gz`.
"""

import re
from pathlib import Path

from data.label_maps import shorten_list
from data.raw.listing import list_files
from data.raw.pairs import group_files, inspect_pair, labels_without_image, make_scan, orient_scans
from data.raw.raw_scans import RawDataset
from data.raw.scan_checks import fold_remarks
from data.specs import DatasetSpec
from data.transforms import Preparation
from util.errors import UserError
from util.io.grids import orient_like_majority

_IMAGE = re.compile(r"patient(\d+)_C0\.nii(\.gz)?", re.IGNORECASE)
_LABEL = re.compile(r"patient(\d+)_C0_manual\.nii(\.gz)?", re.IGNORECASE)


def find_mscmrseg(root: Path, spec: DatasetSpec, preparation: Preparation) -> RawDataset:
    """Find the bSSFP scans below a folder.

    Images and labels may lie in different ones. A scan's id is the patient's number. The challenge keeps the
    labels of its last patients to itself: images behind the last labelled patient are left out, one among the
    others that lacks its labels is a problem.

    Raises:
        UserError: there are no images, or no labels.
    """
    files = list_files(root)
    images, image_faults = group_files(files, lambda path: _patient(_IMAGE, path))
    labels, label_faults = group_files(files, lambda path: _patient(_LABEL, path))
    if not images or not labels:
        raise UserError(
            f"{root}: must hold MS-CMRSeg's patient1_C0.nii.gz, ... and patient1_C0_manual.nii.gz, ..., "
            f"got {len(images)} image(s) and {len(labels)} label file(s); give the folder above both"
        )
    last = max(labels)
    unlabelled = [path.name for patient, path in sorted(images.items()) if patient > last]
    remarks = (
        [f"left out, without labels behind patient {last}: {shorten_list(unlabelled)}"] if unlabelled else []
    )
    scans = tuple(
        make_scan(patient, f"patient{patient}", image=images[patient], label=labels.get(patient))
        for patient in sorted(images)
        if patient <= last
    )
    return RawDataset(
        spec=spec,
        preparation=preparation,
        scans=orient_scans(scans, orient_like_majority),
        inspect_scan=inspect_pair,
        problems=(*image_faults, *label_faults, *labels_without_image(images, labels)),
        remarks=(*remarks, *fold_remarks(len(scans))),
    )


def _patient(pattern: re.Pattern, path: Path) -> int | None:
    match = pattern.fullmatch(path.name)
    return int(match[1]) if match else None
