"""SABS: the 30 training scans of the Synapse abdomen CTs.

They are called `img00NN.nii.gz`, their labels `label00NN.nii.gz`.
"""

import re
from pathlib import Path

from data.raw.listing import list_files
from data.raw.pairs import group_files, inspect_pair, labels_without_image, make_scan, orient_scans
from data.raw.raw_scans import RawDataset
from data.raw.scan_checks import fold_remarks
from data.specs import DatasetSpec
from data.transforms import Preparation
from util.errors import UserError
from util.io.grids import orient_like_majority

_IMAGE = re.compile(r"img(\d+)\.nii(\.gz)?", re.IGNORECASE)
_LABEL = re.compile(r"label(\d+)\.nii(\.gz)?", re.IGNORECASE)


def find_synapse(root: Path, spec: DatasetSpec, preparation: Preparation) -> RawDataset:
    """Find the Synapse scans below a folder.

    A scan's id is its position among the names (`img0001` is 0), as the family's published folds count.
    Folders of images of which none has labels are the challenge's test part, which is left out.

    Raises:
        UserError: there are no images, or no labels.
    """
    files = list_files(root)
    images, image_faults = group_files(files, lambda path: _number(_IMAGE, path))
    labels, label_faults = group_files(files, lambda path: _number(_LABEL, path))
    if not images or not labels:
        raise UserError(
            f"{root}: must hold Synapse's img/img0001.nii.gz, ... and label/label0001.nii.gz, ..., "
            f"got {len(images)} image(s) and {len(labels)} label file(s); give the folder above both"
        )
    training = {path.parent for number, path in images.items() if number in labels}
    unlabelled = [path for path in images.values() if path.parent not in training]
    numbers = sorted(number for number, path in images.items() if path.parent in training)
    scans = tuple(
        make_scan(position, f"img{number:04d}", image=images[number], label=labels.get(number))
        for position, number in enumerate(numbers)
    )
    remarks = [
        f"{folder}: {sum(path.parent == folder for path in unlabelled)} image(s) of a folder without labels "
        "are left out"
        for folder in sorted({path.parent for path in unlabelled})
    ]
    return RawDataset(
        spec=spec,
        preparation=preparation,
        scans=orient_scans(scans, orient_like_majority),
        inspect_scan=inspect_pair,
        problems=(*image_faults, *label_faults, *labels_without_image(images, labels)),
        remarks=(*remarks, *fold_remarks(len(scans))),
    )


def _number(pattern: re.Pattern, path: Path) -> int | None:
    match = pattern.fullmatch(path.name)
    return int(match[1]) if match else None
