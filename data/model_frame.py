"""The frame of a network's scans: orientation, spacing, size and intensities."""

from dataclasses import dataclass, replace

import numpy as np

from data.custom_spec import DATASET_JSON, read_dataset_json
from data.datasets import DATASETS
from data.layout import DatasetLayout
from data.transforms import Preparation, border_box, centred_box, prepare_volume, resampled_grid
from util.errors import UserError
from util.io.grids import (
    crop_grid,
    crop_volume,
    find_reorientation,
    is_orientation,
    orient_like,
    orient_slices,
    orientation,
    reorient_grid,
    reorient_volume,
)
from util.io.image_io import Geometry, read_geometry
from util.io.resampling import resample_linear

# How intensities of scans without a dataset are clipped, by modality: as a dataset's.
CLIPPING = {
    modality: {name: getattr(DATASETS[dataset].preparation, name) for name in ("window", "clip_percentile")}
    for modality, dataset in (("MR", "CHAOST2"), ("CT", "SABS"))  # SABS: the window of soft tissue
}
MAX_REGISTERED_PX = 256  # of slices, as in the published data: larger ones cost memory, and gain nothing
_RAW_SIZE_PX = 512  # of the CT slices for which a preparation gives its border and factor


@dataclass(frozen=True)
class ModelFrame:
    """How scans of any grid become a network's input.

    Attributes:
        preparation: of the training scans; its orientation may be None.
        reference: grid of a training scan, whose axes scans are turned to without an orientation; None: each
            scan keeps the axis that its slices are stacked along.
        source: where the orientation is from, for messages.
        max_side_px: slices with longer sides get larger pixels; None for no limit.
        modality: of the training scans, one of `CLIPPING`; None: unknown.
        are_prepared: scans' intensities are those of prepared volumes, not the scanner's.
    """

    preparation: Preparation
    reference: Geometry | None
    source: str
    max_side_px: int | None = None
    modality: str | None = None
    are_prepared: bool = False

    def preparation_of(self, geometry: Geometry) -> Preparation:
        """Return the preparation of a scan on a grid, with its orientation.

        Borders and pixel factors, which the dataset gives for slices of 512 px, are scaled with the size.
        """
        letters = self.preparation.orientation
        if letters is None and self.reference is not None:
            letters = orient_like(geometry, self.reference)
        letters = letters or orient_slices(geometry)
        preparation = replace(self.preparation, orientation=letters)
        oriented = reorient_grid(geometry, find_reorientation(geometry, letters))
        if self.max_side_px is not None and max(oriented.shape[1:]) > self.max_side_px:
            return replace(preparation, in_plane_factor=max(oriented.shape[1:]) / self.max_side_px)
        if preparation.in_plane_factor is None:
            return preparation
        scale = max(oriented.shape[1:]) / _RAW_SIZE_PX
        border_px, factor = round(preparation.border_px * scale), preparation.in_plane_factor * scale
        return replace(preparation, border_px=border_px, in_plane_factor=factor)

    def prepare(
        self, image: np.ndarray, geometry: Geometry, *, label_map: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray | None, Geometry]:
        """Transform a scan to this frame; see `prepare_volume`.

        Args:
            image: `(Z, H, W)`, finite.
            geometry: its grid.
            label_map: on that grid, ids of 0 to 255; None for a query.
        """
        labels = () if label_map is None else np.unique(label_map).tolist()
        return prepare_volume(image, label_map, geometry, self.preparation_of(geometry), labels=labels)

    def describe(self) -> str:
        """Describe the frame in one line."""
        preparation = self.preparation
        letters = preparation.orientation or (
            "slices as stacked" if self.reference is None else f"{orientation(self.reference)} or nearest"
        )
        parts = [f"orientation {letters} ({self.source})"]
        if self.max_side_px:
            parts.append(f"slices of at most {self.max_side_px} px")
        if preparation.spacing_mm:
            parts.append(
                "spacing " + " x ".join(f"{mm:g}" for mm in preparation.spacing_mm) + " mm (z, y, x)"
            )
        if preparation.in_plane_factor:
            parts.append(
                f"slices of {_RAW_SIZE_PX} px, pixels enlarged {preparation.in_plane_factor:g} times"
            )
        if preparation.size_px:
            parts.append(f"slices of {preparation.size_px[0]} x {preparation.size_px[1]} px")
        if preparation.window:
            parts.append(f"intensities {preparation.window[0]:g} to {preparation.window[1]:g}")
        if preparation.clip_percentile:
            parts.append(f"clipped at the {preparation.clip_percentile:g}th percentile")
        return ", ".join(parts)


def find_frame(
    layout: DatasetLayout, *, orientation_letters: str | None = None, are_prepared: bool = False
) -> ModelFrame:
    """Find the frame of a dataset's prepared scans.

    The orientation is that of the prepared volumes if they are on this machine, as others' may differ from
    ours; else that of our preparation.

    Args:
        layout: paths of the dataset.
        orientation_letters: axis codes (x, y, z) that replace the dataset's; None keeps them.
        are_prepared: the scans' intensities and borders are those of prepared volumes already.

    Raises:
        UserError: the orientation is invalid or unknown, or a file is damaged.
    """
    preparation = _find_preparation(layout)
    known = {"modality": _find_modality(layout, preparation), "are_prepared": are_prepared}
    if are_prepared:
        preparation = replace(preparation, window=None, clip_percentile=None, rescale_to=None, border_px=0)
        preparation = replace(preparation, in_plane_factor=None)
    if orientation_letters is not None:
        if not is_orientation(orientation_letters):
            raise UserError(
                f"orientation={orientation_letters}: must be three letters, one of each of L/R, P/A and S/I, "
                "such as LPS"
            )
        preparation = replace(preparation, orientation=orientation_letters)
        return ModelFrame(preparation, None, "as requested", **known)
    if layout.spec.keeps_slice_axes:
        return ModelFrame(preparation, None, f"{DATASET_JSON} sets none", **known)
    reference = _first_grid(layout)
    if reference is None and preparation.orientation is None:
        raise UserError(
            f"{layout.volumes_dir}: holds no prepared {layout.spec.name} volume, whose orientation the "
            "network expects; set data_dir to them, or orientation"
        )
    if reference is None:
        return ModelFrame(preparation, None, f"{layout.spec.name}'s preparation", **known)
    if preparation.orientation is not None:
        preparation = replace(preparation, orientation=orientation(reference))
    return ModelFrame(preparation, reference, f"that of {layout.volumes_dir}", **known)


def registration_frame(modality: str | None) -> ModelFrame:
    """Return the frame of registration alone: the scans' own grids.

    Args:
        modality: one of `CLIPPING`; None: intensities are not clipped, as they were before.

    Raises:
        UserError: there is no such modality.
    """
    if modality is not None and modality not in CLIPPING:
        raise UserError(f"modality={modality!r}: must be one of {', '.join(CLIPPING)}, or None")
    clipping = CLIPPING[modality] if modality else {}
    return ModelFrame(Preparation(**clipping), None, "each scan's own", MAX_REGISTERED_PX, modality)


def restore_probabilities(
    probabilities: np.ndarray, prepared: Geometry, raw: Geometry, preparation: Preparation
) -> np.ndarray:
    """Restore probabilities of a prepared scan on its original grid.

    If preparation only reoriented and cropped the scan, its voxels are copied unchanged; otherwise the
    probabilities are interpolated linearly.

    Args:
        probabilities: `(Z, H, W)` on the prepared grid.
        prepared: that grid.
        raw: the original grid.
        preparation: what the scan was prepared with.

    Returns:
        float32 of the original's shape; 0 where preparation cut the scan off.
    """
    turn = find_reorientation(raw, preparation.orientation)
    oriented = reorient_grid(raw, turn)
    start, shape = border_box(oriented.shape, preparation.border_px)
    within = crop_grid(oriented, start, shape)
    resampled = resampled_grid(within, preparation)
    if resampled != within:
        # The last slice lies up to a step before the end of the scan, which would be cut off.
        longer = crop_grid(prepared, (0, 0, 0), (prepared.shape[0] + 1, *prepared.shape[1:]))
        return resample_linear(np.pad(probabilities, ((0, 1), (0, 0), (0, 0)), "edge"), longer, raw, fill=0)
    if preparation.size_px is not None:
        first, _ = centred_box(within.shape, preparation.size_px)
        probabilities = crop_volume(probabilities, _negated(first), within.shape, fill=0)
    probabilities = crop_volume(probabilities, _negated(start), oriented.shape, fill=0)
    return reorient_volume(probabilities, _inverse(turn))


def _negated(start: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(-first for first in start)


def _inverse(turn: np.ndarray) -> np.ndarray:
    """Invert a nibabel orientation transform `(3, 2)`."""
    inverse = np.empty_like(turn)
    for axis, (target, sign) in enumerate(turn):
        inverse[int(target)] = axis, sign
    return inverse


def _find_preparation(layout: DatasetLayout) -> Preparation:
    dataset = DATASETS.get(layout.spec.name)
    if dataset is None:
        return read_dataset_json(layout.data_dir / DATASET_JSON).preparation
    if dataset.preparation is not None:
        return dataset.preparation
    grid = _first_grid(layout)
    if grid is None:
        raise UserError(
            f"{layout.volumes_dir}: holds no {layout.spec.name} scan, on whose grid the network was trained; "
            "set data_dir to the folder of the training"
        )
    return Preparation(orientation=orientation(grid), spacing_mm=grid.spacing_mm, size_px=grid.shape[1:])


def _find_modality(layout: DatasetLayout, preparation: Preparation) -> str | None:
    """Return the modality of a dataset's scans; None if unknown."""
    if layout.spec.name not in DATASETS:
        channel = read_dataset_json(layout.data_dir / DATASET_JSON).channel
        return channel if channel in CLIPPING else None
    for modality, clipping in CLIPPING.items():
        if all(getattr(preparation, name) == value for name, value in clipping.items()):
            return modality
    return None


def _first_grid(layout: DatasetLayout) -> Geometry | None:
    """Return the grid of the first prepared scan, or None without scans."""
    if not any(layout.volumes_dir.glob("image_*.nii.gz")):
        return None
    return read_geometry(layout.image_path(layout.scan_ids()[0]))
