"""Draw one slice of a scan with the outlines of its labels and supervoxels."""

from dataclasses import dataclass

import numpy as np

from data.prepared_files import PreparedFiles
from util.io.grids import crop_grid, orientation, reorient_grid, reorient_volume
from util.io.image_io import Geometry
from util.io.slice_pictures import display_transform, draw_borders, draw_grey, draw_rim, resize_labels

SUPERVOXEL_COLOUR = "#9fd8ff"
_SUPERVOXEL_OPACITY = 0.45
_OPPOSITE = dict(zip("LRAPSI", "RLPAIS", strict=True))


@dataclass(frozen=True, eq=False)
class Tile:
    """One scan's picture.

    Attributes:
        picture: `(H, W, 3)` float32, 0..1.
        caption: scan, slice and orientation of the file's axes (x, y, z).
        marks: sides of the patient at the left, right, upper and lower edge.
        has_supervoxels: whether their outlines are drawn.
    """

    picture: np.ndarray
    caption: str
    marks: tuple[str, str, str, str]
    has_supervoxels: bool


def draw_tile(files: PreparedFiles, title: str, *, colours: dict[int, str], tile_px: int) -> Tile:
    """Draw the middle labelled slice of a scan, or its middle slice.

    Args:
        files: of the scan.
        title: start of the caption.
        colours: label -> "#rrggbb".
        tile_px: longer side of the picture.
    """
    position = _choose_slice(files)
    geometry = crop_grid(files.geometry, (position, 0, 0), (1, *files.geometry.shape[1:]))
    turn = display_transform(geometry)
    display_geometry = reorient_grid(geometry, turn)

    def section(volume: np.ndarray) -> np.ndarray:
        return reorient_volume(volume[position : position + 1], turn)[0]

    size_px = _fit(display_geometry, tile_px)
    picture = draw_grey(section(files.image), size_px)
    if files.supervoxels is not None:
        supervoxels = resize_labels(section(files.supervoxels), size_px)
        draw_borders(picture, supervoxels, SUPERVOXEL_COLOUR, opacity=_SUPERVOXEL_OPACITY)
    if files.label_map is not None:
        labels = section(files.label_map)
        resized = resize_labels(labels, size_px)
        for label in np.unique(labels[labels > 0]).tolist():
            draw_rim(picture, resized == label, colours[label])
    caption = f"{title}, slice {position + 1} of {len(files.image)}, {orientation(geometry)}"
    if files.label_map is None:
        caption += ", no labels"
    right, lower, _ = orientation(display_geometry)
    marks = (_OPPOSITE[right], right, _OPPOSITE[lower], lower)
    return Tile(picture, caption, marks, files.supervoxels is not None)


def _choose_slice(files: PreparedFiles) -> int:
    labelled = np.flatnonzero(files.label_map.any(axis=(1, 2))) if files.label_map is not None else []
    first, last = (labelled[0], labelled[-1]) if len(labelled) else (0, len(files.image) - 1)
    return int(first + last) // 2


def _fit(geometry: Geometry, tile_px: int) -> tuple[int, int]:
    """Return a slice's `(height, width)` on the sheet, at its true aspect ratio."""
    sides_mm = [geometry.shape[axis] * geometry.spacing_mm[axis] for axis in (1, 2)]
    return tuple(max(1, round(tile_px * side / max(sides_mm))) for side in sides_mm)
