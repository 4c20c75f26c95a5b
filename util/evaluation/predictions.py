"""Write predicted masks on the full grid of the scan that they belong to."""

from pathlib import Path

import numpy as np

from util.io.image_io import Geometry, write_volume


class PredictionWriter:
    """Writes one organ after the other, then a label map of all of them.

    `<folder>/scan_<id>_<organ>.nii.gz` is one organ's mask, `scan_<id>.nii.gz` the label map (the more
    probable organ where two overlap). Slices that were not segmented are there and empty.
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
        """Write one organ's mask, and keep what the scan's label map needs.

        Args:
            scan_id: the scan.
            geometry: of its own grid `(Z, H, W)`.
            label, organ: the organ's id and name.
            slices: `(n,)`, positions of the segmented slices.
            probabilities: `(n, H, W)`, the organ's probability there; above 1/2 it is predicted.

        Raises:
            UserError: the file cannot be written.
        """
        predicted = probabilities > 0.5
        mask = np.zeros(geometry.shape, dtype=np.uint8)
        mask[slices] = predicted
        write_volume(self._folder / f"scan_{scan_id}_{organ.replace(' ', '_')}.nii.gz", mask, geometry)
        fresh = (geometry, np.zeros(geometry.shape, np.uint8), np.zeros(geometry.shape, np.float32))
        _, label_map, best = self._label_maps.setdefault(scan_id, fresh)
        wins = predicted & (probabilities > best[slices])
        label_map[slices] = np.where(wins, label, label_map[slices])
        best[slices] = np.where(wins, probabilities, best[slices])

    def write_label_maps(self) -> None:
        """Write the label maps of all scans so far.

        Raises `UserError` when a file cannot be written.
        """
        for scan_id, (geometry, label_map, _) in self._label_maps.items():
            write_volume(self._folder / f"scan_{scan_id}.nii.gz", label_map, geometry)
