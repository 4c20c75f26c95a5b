"""SABS: the 30 training scans of the Synapse abdomen CTs.

Images are named `img00NN.nii.gz`, their labels `label00NN.nii.gz`.
"""

from pathlib import Path

from data.raw.pairs import find_pairs, inspect_pair, make_scan, orient_scans
from data.raw.raw_scans import RawDataset
from data.raw.scan_checks import fold_remarks
from data.specs import DatasetSpec
from data.transforms import Preparation
from util.io.grids import orient_like_majority

_EXPECTED = "Synapse's img/img0001.nii.gz, ... and label/label0001.nii.gz, ..."


def find_synapse(root: Path, spec: DatasetSpec, preparation: Preparation) -> RawDataset:
    """Find the Synapse scans below a folder.

    A scan's id is its position in the order of names (`img0001` is 0), as in the published folds. Image
    folders without any labels are the challenge's test part and are skipped.

    Raises:
        UserError: there are no images, or no labels.
    """
    images, labels, problems = find_pairs(root, r"img(\d+)", r"label(\d+)", expected=_EXPECTED)
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
        problems=tuple(problems),
        remarks=(*remarks, *fold_remarks(len(scans))),
    )
