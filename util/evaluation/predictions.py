"""Write predicted masks and label maps on the full grid of their scan."""

from pathlib import Path

import numpy as np

from util.evaluation.postprocess import THRESHOLD
from util.io.image_io import Geometry, write_volume


class PredictionWriter:
    """Write a mask per organ, then a label map of all organs.

    `<folder>/scan_<id>_<organ>.nii.gz` is the mask of an organ, `scan_<id>.nii.gz` the label map, with the
    more probable organ where two overlap. Slices that were not segmented are empty.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._label_maps: dict[int, tuple[Geometry, np.ndarray, np.ndarray]] = {}

    def add(
        self,
        scan_id: int,
        geometry: Geometry,
        *,
        label: int,
        organ: str,
        slices: np.ndarray,
        probabilities: np.ndarray,
    ) -> None:
        """Write the mask of an organ, and add it to the scan's label map.

        Args:
            scan_id: the scan.
            geometry: of its full grid `(Z, H, W)`.
            label, organ: the organ's id and name.
            slices: `(n,)`, positions of the segmented slices.
            probabilities: `(n, H, W)`, of the organ in these slices; predicted above 1/2.

        Raises:
            UserError: the file cannot be written.
        """
        predicted = probabilities > THRESHOLD
        mask = np.zeros(geometry.shape, dtype=np.uint8)
        mask[slices] = predicted
        write_volume(self._folder / f"scan_{scan_id}_{organ.replace(' ', '_')}.nii.gz", mask, geometry)
        empty = (geometry, np.zeros(geometry.shape, np.uint8), np.zeros(geometry.shape, np.float32))
        _, label_map, best = self._label_maps.setdefault(scan_id, empty)
        wins = predicted & (probabilities > best[slices])
        label_map[slices] = np.where(wins, label, label_map[slices])
        best[slices] = np.where(wins, probabilities, best[slices])

    def write_label_maps(self) -> None:
        """Write the label maps of all scans; raises `UserError` if one cannot be."""
        for scan_id, (geometry, label_map, _) in self._label_maps.items():
            write_volume(self._folder / f"scan_{scan_id}.nii.gz", label_map, geometry)
