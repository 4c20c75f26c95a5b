"""CMR: the bSSFP scans of MS-CMRSeg.

Images are named `patient<N>_C0.nii.gz`, their labels `patient<N>_C0_manual.nii.gz`.
"""

from pathlib import Path

from data.raw.pairs import find_pairs, inspect_pair, make_scan, orient_scans
from data.raw.raw_scans import RawDataset
from data.raw.scan_checks import fold_remarks
from data.specs import DatasetSpec
from data.transforms import Preparation
from util.errors import shorten_list
from util.io.grids import orient_like_majority

_EXPECTED = "MS-CMRSeg's patient1_C0.nii.gz, ... and patient1_C0_manual.nii.gz, ..."


def find_mscmrseg(root: Path, spec: DatasetSpec, preparation: Preparation) -> RawDataset:
    """Find the bSSFP scans below a folder.

    A scan's id is the patient's number. The challenge withholds the labels of its last patients: images after
    the last labelled patient are skipped, while a missing label before it is a problem.

    Raises:
        UserError: there are no images, or no labels.
    """
    images, labels, problems = find_pairs(
        root, r"patient(\d+)_C0", r"patient(\d+)_C0_manual", expected=_EXPECTED
    )
    last = max(labels)
    unlabelled = [path.name for patient, path in sorted(images.items()) if patient > last]
    remarks = [f"left out, without labels after patient {last}: {shorten_list(unlabelled)}"]
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
        problems=tuple(problems),
        remarks=(*(remarks if unlabelled else ()), *fold_remarks(len(scans))),
    )
