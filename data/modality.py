"""Check that scans are of the modality that a network, or clipping, expects."""

import numpy as np

from util.errors import UserError
from util.remarks import remark

_IMAGING_MODALITIES = ("CR", "CT", "DX", "MG", "MR", "NM", "PT", "US", "XA")  # DICOM's; others may be either
# Air, in or around the body, is about -1000 HU; fat is -100 HU.
_MAX_LOWEST_CT_HU, _MIN_LOWEST_MR = -100, -500


def check_modality(found: str, expected: str | None) -> None:
    """Check that a scan is of the expected modality, if both are known.

    Args:
        found: by its DICOM header; may be empty.
        expected: "MR" or "CT"; None: unknown.

    Raises:
        UserError: they differ.
    """
    if expected is not None and found != expected and found in _IMAGING_MODALITIES:
        raise UserError(
            f"must be {expected}, as modality= or the training scans are, got {found} by its DICOM header; "
            "leave the scan out"
        )


def remark_on_intensities(voxels: np.ndarray, expected: str | None, *, name: str) -> None:
    """Remark on a scan whose lowest intensity is unusual for the expected modality.

    Args:
        voxels: of the scan as acquired, finite, any shape but empty.
        expected: "MR" or "CT"; None: unknown, about which nothing is said.
        name: of the scan.
    """
    lowest = voxels.min()
    if expected == "CT" and lowest >= _MAX_LOWEST_CT_HU:
        usual = f"CT in Hounsfield units, which has values below {_MAX_LOWEST_CT_HU}"
    elif expected == "MR" and lowest < _MIN_LOWEST_MR:
        usual = f"MR, which has no values below {_MIN_LOWEST_MR}"
    else:
        return
    remark(
        f"{name}: the lowest intensity is {lowest:g}, but modality= or the network expects {usual}; if it is "
        "something else, set modality= to the scan's own, or use another network"
    )
