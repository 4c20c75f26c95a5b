"""Draw one slice of a scan with the outlines of its labels and supervoxels."""

from dataclasses import dataclass

import cv2
import numpy as np

from data.prepared_files import PreparedFiles
from util.io.grids import crop_grid, find_reorientation, orientation, reorient_grid, reorient_volume
from util.io.image_io import Geometry

SUPERVOXEL_COLOUR = "#9fd8ff"
_SUPERVOXEL_OPACITY = 0.45
# Intensities of a slice below and above these percentiles are black and white.
_BLACK, _WHITE = 0.5, 99.5
# Directions of columns and rows for slices seen from the feet, from the front or from the left.
_VIEWS = {"IS": "LP", "AP": "LI", "RL": "PI"}
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
    axes = orientation(geometry)
    view = next(view for ends, view in _VIEWS.items() if axes[2] in ends)
    turn = find_reorientation(geometry, view + axes[2])

    def section(volume: np.ndarray) -> np.ndarray:
        return reorient_volume(volume[position : position + 1], turn)[0]

    size_px = _fit(reorient_grid(geometry, turn), tile_px)
    picture = grey(section(files.image), size_px)
    if files.supervoxels is not None:
        edges = _outlines(enlarge(section(files.supervoxels), size_px))
        colour = rgb(SUPERVOXEL_COLOUR)
        picture[edges] += _SUPERVOXEL_OPACITY * (colour - picture[edges])
    if files.label_map is not None:
        labels = section(files.label_map)
        shown = enlarge(labels, size_px)
        for label in np.unique(labels[labels > 0]).tolist():
            picture[rim(shown == label)] = rgb(colours[label])
    caption = f"{title}, slice {position + 1} of {len(files.image)}, {axes}"
    if files.label_map is None:
        caption += ", no labels"
    marks = (_OPPOSITE[view[0]], view[0], _OPPOSITE[view[1]], view[1])
    return Tile(picture, caption, marks, files.supervoxels is not None)


def _choose_slice(files: PreparedFiles) -> int:
    labelled = np.flatnonzero(files.label_map.any(axis=(1, 2))) if files.label_map is not None else []
    first, last = (labelled[0], labelled[-1]) if len(labelled) else (0, len(files.image) - 1)
    return int(first + last) // 2


def _fit(geometry: Geometry, tile_px: int) -> tuple[int, int]:
    """Return a slice's `(height, width)` on the sheet, at its true aspect ratio."""
    sides_mm = [geometry.shape[axis] * geometry.spacing_mm[axis] for axis in (1, 2)]
    return tuple(max(1, round(tile_px * side / max(sides_mm))) for side in sides_mm)


def grey(image: np.ndarray, size_px: tuple[int, int]) -> np.ndarray:
    """Return a slice as `(H, W, 3)` float32, 0..1."""
    black, white = np.percentile(image, (_BLACK, _WHITE))
    if white <= black:
        black, white = image.min(), max(image.max(), image.min() + 1)
    shade = np.clip((image.astype(np.float32) - black) / (white - black), 0, 1).astype(np.float32)
    shrinks = size_px[0] < image.shape[0]
    shade = cv2.resize(shade, size_px[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.repeat(shade[..., None], 3, axis=2)


def enlarge(labels: np.ndarray, size_px: tuple[int, int]) -> np.ndarray:
    """Resize a label slice by nearest-neighbour interpolation."""
    rows, columns = (
        (np.arange(new) + 0.5) * old // new for old, new in zip(labels.shape, size_px, strict=True)
    )
    return labels[rows.astype(int)[:, None], columns.astype(int)]


def _outlines(labels: np.ndarray) -> np.ndarray:
    """Return the pixels whose right or lower neighbour has another label."""
    edges = np.zeros(labels.shape, bool)
    edges[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edges[:-1] |= labels[:-1] != labels[1:]
    return edges


def rim(mask: np.ndarray) -> np.ndarray:
    """Return the outermost two pixels of a mask."""
    inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=2, borderValue=0)
    return mask & (inner == 0)


def rgb(colour: str) -> np.ndarray:
    """Return "#rrggbb" as three numbers in 0..1."""
    return np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)], np.float32)
