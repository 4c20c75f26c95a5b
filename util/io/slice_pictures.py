"""Convert slices and masks to arrays, JPEG data and SVG paths.

Pictures are arrays `(H, W, 3)`, float32, 0 to 1.
Paths are in px; the pixel in row y and column x covers the square from (x, y) to (x + 1, y + 1).
"""

import base64

import cv2
import numpy as np

from util.io.grids import find_reorientation, orient_slices, orientation, reorient_grid, reorient_volume
from util.io.image_io import Geometry

_GREY_PERCENTILES = (0.5, 99.5)  # of a slice; what lies below and above is black and white
_JPEG_QUALITY = 85
_MAX_SIDE_PX = 512
_OUTLINE_TOLERANCE_PX = 0.2  # merges collinear points only
_MIN_WINDOW_SHARE, _WINDOW_MARGIN_SHARE = 0.25, 0.06  # of the slice's longer side
# Right at the left; anterior, or else superior, at the top. Ends that rows and columns point to.
_DISPLAYED_ENDS = "LPI"
_PATIENT_AXIS = {"R": 0, "L": 0, "A": 1, "P": 1, "I": 2, "S": 2}


def display_transform(geometry: Geometry) -> np.ndarray:
    """Return the nibabel transform of a volume to radiological convention.

    Slices keep their order. In axial slices the patient's right is on the left and anterior is up; in others
    superior is up.
    """
    return _transform_to(geometry, orientation(geometry)[2])


def stack_transform(geometry: Geometry) -> np.ndarray:
    """Return the transform of a volume of any axis order to radiological convention.

    Slices are then stacked along the scan's slice axis (see `orient_slices`), in the file's order.
    """
    axis = _PATIENT_AXIS[orient_slices(geometry)[2]]
    return _transform_to(geometry, next(end for end in orientation(geometry) if _PATIENT_AXIS[end] == axis))


def _transform_to(geometry: Geometry, last: str) -> np.ndarray:
    """Return the transform to slices along the patient axis that points to `last`."""
    in_plane = [end for end in _DISPLAYED_ENDS if _PATIENT_AXIS[end] != _PATIENT_AXIS[last]]
    return find_reorientation(geometry, f"{''.join(in_plane)}{last}")


def display_slice(slice_: np.ndarray, transform: np.ndarray) -> np.ndarray:
    """Reorient a slice `(H, W)` for display."""
    return reorient_volume(slice_[None], transform)[0]


def display_spacing_mm(geometry: Geometry, transform: np.ndarray) -> tuple[float, float]:
    """Return the spacing `(y, x)` of a displayed slice."""
    _, *in_plane = reorient_grid(geometry, transform).spacing_mm
    return tuple(in_plane)


def find_grey_range(image: np.ndarray) -> tuple[float, float]:
    """Return the intensities of a slice that are shown black and white."""
    black, white = np.percentile(image, _GREY_PERCENTILES)
    if white <= black:
        black, white = image.min(), max(image.max(), image.min() + 1)
    return black, white


def to_grey(image: np.ndarray) -> np.ndarray:
    """Window a slice: float32, 0 (black) to 1 (white), of the same shape."""
    black, white = find_grey_range(image)
    return np.clip((image.astype(np.float32) - black) / (white - black), 0, 1).astype(np.float32)


def draw_grey(image: np.ndarray, size_px: tuple[int, int]) -> np.ndarray:
    """Draw a slice in grey at a size `(height, width)`."""
    shrinks = size_px[0] < image.shape[0]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    grey = cv2.resize(to_grey(image), size_px[::-1], interpolation=interpolation)
    return np.repeat(grey[..., None], 3, axis=2)


def draw_rim(picture: np.ndarray, mask: np.ndarray, colour: str) -> None:
    """Colour the outermost two pixels of a mask `(H, W)` in a picture, in place."""
    inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=2, borderValue=0)
    picture[mask & (inner == 0)] = rgb(colour)


def draw_borders(picture: np.ndarray, labels: np.ndarray, colour: str, *, opacity: float) -> None:
    """Colour the pixels whose right or lower neighbour has another label, in place."""
    borders = np.zeros(labels.shape, bool)
    borders[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    borders[:-1] |= labels[:-1] != labels[1:]
    picture[borders] += opacity * (rgb(colour) - picture[borders])


def resize_labels(labels: np.ndarray, size_px: tuple[int, int]) -> np.ndarray:
    """Resize a slice of labels or a mask by nearest-neighbour interpolation."""
    rows, columns = (
        (np.arange(new) + 0.5) * old // new for old, new in zip(labels.shape, size_px, strict=True)
    )
    return labels[rows.astype(int)[:, None], columns.astype(int)]


def rgb(colour: str) -> np.ndarray:
    """Return "#rrggbb" as three numbers in 0..1."""
    return np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)], np.float32)


def encode_slice(image: np.ndarray) -> str:
    """Encode a slice `(h, w)` as the data URI of a greyscale JPEG.

    It has at most 512 px a side.
    """
    grey = np.round(255 * to_grey(image)).astype(np.uint8)
    shrink = _MAX_SIDE_PX / max(grey.shape)
    if shrink < 1:
        grey = cv2.resize(grey, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


def outline_path(mask: np.ndarray) -> str:
    """Trace the outlines of a mask `(H, W)` as an SVG path; empty for an empty mask."""
    from skimage.measure import approximate_polygon, find_contours  # late: with them comes scipy.stats

    parts = []
    for contour in find_contours(np.pad(mask, 1).astype(float), 0.5):
        # Contours connect the centres of pixels, of which the padding is the first.
        points = approximate_polygon(contour, _OUTLINE_TOLERANCE_PX) - 0.5
        parts.append("M" + "L".join(f"{x:g},{y:g}" for y, x in points[:-1]) + "Z")
    return "".join(parts)


def fill_path(mask: np.ndarray) -> str:
    """Cover exactly the pixels of a mask `(H, W)` by an SVG path of horizontal bars."""
    edges = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    starts, ends = np.argwhere(edges == 1), np.argwhere(edges == -1)
    return "".join(f"M{x},{y}h{end - x}v1h{x - end}z" for (y, x), (_, end) in zip(starts, ends, strict=True))


def find_window(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Return x, y, width and height in px of a square around a mask.

    An empty mask gives the whole slice. The square has a margin, is at least a quarter of the slice's longer
    side, and lies within the slice.
    """
    height, width = mask.shape
    positions = np.argwhere(mask)
    if not len(positions):
        return 0, 0, width, height
    longer = max(mask.shape)
    first, last = positions.min(0), positions.max(0) + 1
    side = max((last - first).max() + 2 * _WINDOW_MARGIN_SHARE * longer, _MIN_WINDOW_SHARE * longer)
    sides = np.minimum(np.ceil(side).astype(int), mask.shape)
    start = np.clip((first + last - sides) // 2, 0, np.array(mask.shape) - sides)
    return int(start[1]), int(start[0]), int(sides[1]), int(sides[0])
