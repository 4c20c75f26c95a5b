"""Write predicted masks and label maps on a grid of their scan."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from util.evaluation.postprocess import THRESHOLD
from util.io.image_io import Geometry, write_volume
from util.io.resampling import assign_label


class TargetGrid(Protocol):
    """A grid to write predictions on.

    Attributes:
        name: starts the names of the scan's files.
    """

    name: str

    def restore(self, probabilities: np.ndarray) -> np.ndarray:
        """Resample probabilities from the scan's prepared grid to this one."""

    def write(self, path: Path, volume: np.ndarray) -> None:
        """Write a volume on this grid as NIfTI."""


@dataclass(frozen=True)
class PreparedGrid:
    """The grid on which a scan is segmented; see `TargetGrid`."""

    name: str
    geometry: Geometry

    def restore(self, probabilities: np.ndarray) -> np.ndarray:
        """Return the probabilities as they are."""
        return probabilities

    def write(self, path: Path, volume: np.ndarray) -> None:
        """Write a volume as NIfTI."""
        write_volume(path, volume, self.geometry)


class PredictionWriter:
    """Write a mask per organ, then a label map of all organs.

    `<folder>/scan_<id>_<organ>.nii.gz` is the mask of an organ, `scan_<id>.nii.gz` the label map, with the
    more probable organ where two overlap. Slices that were not segmented are empty.

    Args:
        folder: of the files.
        grids: scan id -> the grid to write on, whose name replaces `scan_<id>`; None: the prepared ones.
    """

    def __init__(self, folder: Path, grids: Mapping[int, TargetGrid] | None = None) -> None:
        self._folder, self._grids = folder, grids
        self._label_maps: dict[int, tuple[TargetGrid, np.ndarray, np.ndarray]] = {}

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
            geometry: of its full prepared grid `(Z, H, W)`.
            label, organ: the organ's id and name.
            slices: `(n,)`, positions of the segmented slices.
            probabilities: `(n, H, W)`, of the organ in these slices; predicted above 1/2.

        Raises:
            UserError: the file cannot be written.
        """
        grid = PreparedGrid(f"scan_{scan_id}", geometry) if self._grids is None else self._grids[scan_id]
        full = np.zeros(geometry.shape, np.float32)
        full[slices] = probabilities
        full = grid.restore(full)
        predicted = full > THRESHOLD
        grid.write(self._folder / f"{grid.name}_{organ.replace(' ', '_')}.nii.gz", predicted.astype(np.uint8))
        empty = (grid, np.zeros(full.shape, np.uint8), np.full(full.shape, THRESHOLD, np.float32))
        _, label_map, best = self._label_maps.setdefault(scan_id, empty)
        assign_label(label_map, label, full, best)

    def write_label_maps(self) -> None:
        """Write the label maps of all scans; raises `UserError` if one cannot be."""
        for grid, label_map, _ in self._label_maps.values():
            grid.write(self._folder / f"{grid.name}.nii.gz", label_map)
