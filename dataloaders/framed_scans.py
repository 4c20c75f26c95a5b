"""Supports and queries of any grid as a trained network's input."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.label_choice import find_label_names
from data.modality import check_modality, remark_on_intensities
from data.model_frame import ModelFrame, restore_probabilities
from data.raw.input_scans import InputScan, check_image, to_label_map, to_scan
from data.raw.scan_checks import grid_problems
from data.registration.pairwise_registration import Registration, ScanVolume, register
from data.registration.registration_stages import MEASURES
from data.registration.spatial_transform import SpatialTransform, nearest_support_slice
from data.transforms import Preparation
from dataloaders.evaluation_sets import Assignment, assign_by_height, choose_support_slices, find_organ_slices
from dataloaders.prepared_scans import PreparedScan, normalise_slices, resize_in_plane
from dataloaders.warped_masks import WarpedSupport, resized_grid, warp_labels
from util.errors import ProblemList, UserError
from util.io.grids import reorient_to_grid
from util.io.image_io import Geometry
from util.remarks import remark


@dataclass(frozen=True, eq=False)
class FramedScan:
    """One scan in a network's frame.

    Attributes:
        name: for messages.
        raw: its original grid.
        preparation: what it was prepared with, including its orientation.
        geometry: the prepared grid `(Z, H, W)`.
        images: `(Z, 1, h, w)` float32, z-scored, at the network's slice size.
    """

    name: str
    raw: Geometry
    preparation: Preparation
    geometry: Geometry
    images: torch.Tensor

    def to_volume(self) -> ScanVolume:
        """Return the image as registration takes it."""
        image = self.images[:, 0].numpy()
        return ScanVolume(image, resized_grid(self.geometry, image.shape[1:]), name=self.name)

    def restore(self, probabilities: np.ndarray) -> np.ndarray:
        """Resample probabilities from the prepared grid to the scan's own grid."""
        return restore_probabilities(probabilities, self.geometry, self.raw, self.preparation)

    def slices_covering(self, first: int, end: int) -> np.ndarray:
        """List the prepared slices that raw slices `first` to `end - 1` depend on."""
        n_slices = self.geometry.shape[0]
        stacking = np.abs(self.geometry.axes.T @ self.raw.axes[:, 0])
        if stacking.argmax() != 0:  # each prepared slice crosses all of the raw ones
            return np.arange(n_slices)
        ends_mm = self.raw.position_mm([[first, 0, 0], [end - 1, 0, 0]])
        positions = np.sort(self.geometry.index_at(ends_mm)[:, 0]).round(6)
        low, high = np.clip([np.floor(positions[0]), np.ceil(positions[1])], 0, n_slices - 1).astype(int)
        return np.arange(low, high + 1)


@dataclass(frozen=True, eq=False)
class FramedSupport:
    """An annotated scan in a network's frame.

    Attributes:
        scan: its image.
        label_map: `(Z, H, W)` uint8 on the prepared grid.
        network_labels: `(Z, h, w)` int16 at the network's slice size.
        support_slices: for each label it holds the support slices, one per part.
    """

    scan: FramedScan
    label_map: np.ndarray
    network_labels: np.ndarray
    support_slices: Mapping[int, np.ndarray]

    def to_prepared(self, scan_id: int) -> PreparedScan:
        """Return the support, at the network's slice size, as episodes take it."""
        image = self.scan.images[:, 0].numpy()
        return PreparedScan(scan_id, image, self.network_labels, None, self.scan.geometry)


def frame_query(frame: ModelFrame, scan: InputScan, *, image_size_px: tuple[int, int] | None) -> FramedScan:
    """Transform a query to a network's frame; `UserError` if its voxels are unusable."""
    check_image(scan)
    return _frame(frame, scan, None, image_size_px)[0]


def frame_support(
    frame: ModelFrame,
    image: InputScan,
    label_map: np.ndarray,
    *,
    labels: Iterable[int],
    n_part: int,
    image_size_px: tuple[int, int] | None,
) -> FramedSupport:
    """Transform an annotated scan to a network's frame.

    Args:
        frame: the network's.
        image: the scan.
        label_map: on its grid, uint8.
        labels: of the organs to segment; those that the scan lacks are left out.
        n_part: support slices of each label.
        image_size_px: the network's slice size; None keeps the prepared one.

    Raises:
        UserError: preparation leaves nothing of a label, as its slices are cropped.
    """
    scan, prepared = _frame(frame, image, label_map, image_size_px)
    network_labels = resize_in_plane(prepared.astype(np.int16), image_size_px)
    support_slices = {}
    for label in labels:
        if not (label_map == label).any():
            continue
        slices = find_organ_slices(network_labels, label)
        if len(slices) == 0:
            raise UserError(
                f"{image.name}: nothing of an outlined organ is left in the network's frame "
                f"({frame.describe()}); is it at the border of the image, or smaller than a voxel?"
            )
        support_slices[label] = choose_support_slices(slices, n_part)
    return FramedSupport(scan, prepared, network_labels, support_slices)


def leave_out_unlabelled(supports: list[FramedSupport]) -> list[FramedSupport]:
    """Leave out supports that hold no label to segment, with a remark."""
    names = [support.scan.name for support in supports if not support.support_slices]
    if names:
        remark(f"{', '.join(names)}: left out, as the mask holds none of the labels to segment")
    return [support for support in supports if support.support_slices]


def read_supports(
    images: Any, masks: Any, *, assume_orientation: str | None
) -> tuple[list[InputScan], list[np.ndarray], dict[int, str]]:
    """Load annotated scans and their masks.

    Args:
        images, masks: a scan each, or a list of scans; see `to_scan`.
        assume_orientation: see `read_scan`.

    Returns:
        The scans, the label ids of each as uint16, and the ids' names if a `dataset.json` lists them.

    Raises:
        UserError: masks are missing, unusable or do not match their image; one line each.
    """
    images, masks = (list(value) if isinstance(value, list) else [value] for value in (images, masks))
    if len(images) != len(masks):
        raise UserError(
            f"support_label: must be one mask for each of {len(images)} image(s), got {len(masks)}"
        )
    problems = ProblemList()
    take = partial(to_scan, assume_orientation=assume_orientation)
    scans, labels = (
        [
            problems.attempt(partial(take, source, name=f"{kind} {number}"))
            for number, source in enumerate(sources, start=1)
        ]
        for kind, sources in (("support image", images), ("support mask", masks))
    )
    pairs = list(zip(scans, labels, strict=True))
    maps = [None if None in pair else problems.attempt(partial(_label_ids, *pair)) for pair in pairs]
    problems.raise_all()
    return scans, maps, find_label_names(mask.path for mask in labels)


def _label_ids(image: InputScan, mask: InputScan) -> np.ndarray:
    """Return a mask's label ids; raises `UserError` if mask and image do not match or are unusable."""
    check_image(image)
    voxels, geometry = reorient_to_grid(mask.voxels, mask.geometry, image.geometry)
    problems = grid_problems(Path(mask.name), geometry, image_file=Path(image.name), image=image.geometry)
    if problems:
        raise UserError(problems[0])
    return to_label_map(replace(mask, voxels=voxels, geometry=geometry))


def warp_support(support: FramedSupport, query: FramedScan, *, by_both: bool = False) -> WarpedSupport:
    """Register a support to a query, and warp its labels; failures are returned.

    With `by_both`, see `warp_supports`.
    """
    registrations: list[Registration] = []
    try:
        for measure in MEASURES:
            registrations.append(register(support.scan.to_volume(), query.to_volume(), measure=measure))
            if registrations[-1].quality.failure is None and not by_both:
                break
    except UserError as error:  # such as too few slices
        return WarpedSupport(None, {}, str(error))
    grids = (support.label_map, support.scan.geometry, query.geometry)
    return warp_labels(registrations, *grids, labels=support.support_slices)


def assign_support_slices(
    support_slices: np.ndarray,
    support: FramedScan,
    query: FramedScan,
    *,
    slices: np.ndarray,
    transform: SpatialTransform | None,
) -> Assignment:
    """Assign a support slice to each query slice.

    Args:
        support_slices: of one organ, one per part.
        support, query: the scans.
        slices: the query's slices, increasing.
        transform: from the query to the support: a slice gets the support slice nearest to its own position
            there. None: the one of the nearest relative height.
    """
    if transform is None:
        parts = assign_by_height(len(query.images), support_slices, len(support.images)).parts[slices]
        return Assignment(slices=slices, parts=parts)
    positions = np.array(
        [
            nearest_support_slice(
                int(z), transform, query_geometry=query.geometry, support_geometry=support.geometry
            )
            for z in slices
        ]
    )
    parts = np.abs(positions[:, None] - support_slices[None]).argmin(axis=1)
    return Assignment(slices=slices, parts=parts)


def _frame(
    frame: ModelFrame, scan: InputScan, label_map: np.ndarray | None, size_px: tuple[int, int] | None
) -> tuple[FramedScan, np.ndarray | None]:
    try:
        check_modality(scan.modality, frame.modality)
        image, prepared, geometry = frame.prepare(scan.voxels, scan.geometry, label_map=label_map)
    except UserError as error:
        raise UserError(f"{scan.name}: {error}") from error
    if not frame.are_prepared:
        remark_on_intensities(scan.voxels, frame.modality, name=scan.name)
    slices = normalise_slices(image, size_px, source=scan.name)
    preparation = frame.preparation_of(scan.geometry)
    images = torch.from_numpy(slices)[:, None]
    return FramedScan(scan.name, scan.geometry, preparation, geometry, images), prepared
