"""Read the slices of a DICOM series, sorted by position."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from util.errors import UserError
from util.io.image_io import Geometry, read_slices
from util.io.nifti_files import spacing_fault

_SERIES, _POSITION, _ORIENTATION, _SPACING = "0020|000e", "0020|0032", "0020|0037", "0028|0030"
_MODALITY = "0008|0060"
_NAMES = {
    _POSITION: "ImagePositionPatient",
    _ORIENTATION: "ImageOrientationPatient",
    _SPACING: "PixelSpacing",
}
# Positions are often rounded to two decimals; a missing slice shows as a whole extra step.
UNEVEN_SHARE = 0.02
SAME_POSITION_MM = 0.01
_DECIMALS = 3  # to which direction cosines and pixel spacings of one series agree


@dataclass(frozen=True)
class SliceHeader:
    """Header of one DICOM slice.

    Attributes:
        path: the file.
        series: SeriesInstanceUID; empty if missing.
        size_px: rows and columns.
        spacing_mm: distance of neighbouring rows, and of neighbouring columns.
        position_mm: of the first pixel, patient `(x, y, z)`.
        orientation: direction cosines along a row, then along a column.
        modality: such as "MR"; empty if missing.
    """

    path: Path
    series: str
    size_px: tuple[int, int]
    spacing_mm: tuple[float, float]
    position_mm: tuple[float, float, float]
    orientation: tuple[float, ...]
    modality: str = ""

    @property
    def normal(self) -> np.ndarray:
        """Slice normal, along which slices are stacked, `(3,)`."""
        return np.cross(self.orientation[:3], self.orientation[3:])


def read_header(path: Path) -> SliceHeader:
    """Read the header of a single-frame DICOM file.

    Raises:
        UserError: the file is empty, not DICOM, damaged, multi-frame, or lacks a tag of position, orientation
            or spacing, for which SimpleITK would silently assume the origin or 1 mm.
    """
    if path.stat().st_size == 0:
        raise UserError(f"{path}: must be a DICOM file, got an empty one; restore the file")
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise UserError(f"{path}: must be a DICOM file, cannot be read as one; restore the file") from error
    columns, rows, *frames = reader.GetSize()
    if any(n_frames != 1 for n_frames in frames) or reader.GetNumberOfComponents() != 1:
        raise UserError(
            f"{path}: must hold one slice of single values, got size {reader.GetSize()} with "
            f"{reader.GetNumberOfComponents()} value(s) a pixel; export it as single-frame DICOM"
        )
    return SliceHeader(
        path=path,
        series=_text(reader, _SERIES),
        size_px=(rows, columns),
        spacing_mm=_numbers(reader, _SPACING, path=path, length=2),
        position_mm=_numbers(reader, _POSITION, path=path, length=3),
        orientation=_numbers(reader, _ORIENTATION, path=path, length=6),
        modality=_text(reader, _MODALITY),
    )


def series_problems(headers: Sequence[SliceHeader], folder: Path) -> list[str]:
    """Report, in one line, why slices do not form a volume; empty if they do.

    A volume is one series of at least two slices of one size, spacing and orientation, evenly spaced along
    their normal.
    """
    if len(headers) < 2:
        return [f"{folder}: must hold at least 2 DICOM slices, got {len(headers)}; restore the series"]
    # Only the first fault is reported; later checks would repeat that slices do not belong together.
    return (
        _deviating(headers, "series", lambda header: header.series)
        or _deviating(headers, "size", lambda header: header.size_px)
        or _deviating(headers, "pixel spacing (mm)", lambda header: _rounded(header.spacing_mm))
        or _deviating(headers, "orientation", lambda header: _rounded(header.orientation))
        or _skew_axes(headers[0])
        or _uneven_distances(sort_slices(headers))
        or _impossible_spacing(sort_slices(headers))
    )


def sort_slices(headers: Sequence[SliceHeader]) -> list[SliceHeader]:
    """Sort slices of one orientation by position along their normal."""
    normal = headers[0].normal
    return sorted(headers, key=lambda header: float(np.dot(header.position_mm, normal)))


def read_series(headers: Sequence[SliceHeader]) -> tuple[np.ndarray, Geometry]:
    """Read the slices of a series without `series_problems`.

    Returns:
        The voxels `(Z, H, W)` float32, slices in the order of `sort_slices`, and their geometry.

    Raises:
        UserError: a file cannot be read.
    """
    return read_slices([header.path for header in sort_slices(headers)])


def _text(reader: sitk.ImageFileReader, tag: str) -> str:
    return reader.GetMetaData(tag).strip("\0 ") if reader.HasMetaDataKey(tag) else ""


def _numbers(reader: sitk.ImageFileReader, tag: str, *, path: Path, length: int) -> tuple[float, ...]:
    text = _text(reader, tag)
    try:
        numbers = tuple(float(part) for part in text.split("\\"))
    except ValueError:
        numbers = ()
    if len(numbers) != length or not np.isfinite(numbers).all():
        raise UserError(
            f"{path}: tag {_NAMES[tag]} must hold {length} numbers, got '{text}'; "
            "the slice's position is unknown without it, so restore the file"
        )
    return numbers


def _rounded(numbers: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(number, _DECIMALS) + 0.0 for number in numbers)  # + 0.0 turns -0.0 into 0.0


def _deviating(
    headers: Sequence[SliceHeader], what: str, value: Callable[[SliceHeader], object]
) -> list[str]:
    """Report slices whose attribute differs from that of most."""
    common = Counter(map(value, headers)).most_common(1)[0][0]
    deviating = [header for header in headers if value(header) != common]
    if not deviating:
        return []
    first = min(deviating, key=lambda header: header.path)
    suffix = f" (and {len(deviating) - 1} more such files)" if len(deviating) > 1 else ""
    return [
        f"{first.path}: all slices must have the same {what}, {common} for most, "
        f"got {value(first)}{suffix}; keep one series in the folder"
    ]


def _skew_axes(header: SliceHeader) -> list[str]:
    row, column = np.reshape(header.orientation, (2, 3))
    if np.allclose([row @ row, column @ column, row @ column], [1, 1, 0], atol=10**-_DECIMALS):
        return []
    return [
        f"{header.path}: tag ImageOrientationPatient must hold two perpendicular directions of length 1, "
        f"got {header.orientation}; restore the file"
    ]


def _impossible_spacing(ordered: Sequence[SliceHeader]) -> list[str]:
    first, second = (np.asarray(header.position_mm) for header in ordered[:2])
    fault = spacing_fault((float(np.linalg.norm(second - first)), *ordered[0].spacing_mm))
    return [f"{ordered[0].path.parent}: {fault} (z, y, x); restore the series"] if fault else []


def _uneven_distances(ordered: Sequence[SliceHeader]) -> list[str]:
    normal = ordered[0].normal
    offsets = np.diff([header.position_mm for header in ordered], axis=0)
    steps = offsets @ normal
    pairs = [f"{low.path} and {high.path.name}" for low, high in pairwise(ordered)]
    if steps.min() < SAME_POSITION_MM:
        return [f"{pairs[steps.argmin()]}: slices must differ in position, got the same; keep one of them"]
    median_step = float(
        np.sort(steps)[(len(steps) - 1) // 2]
    )  # the lower median: a missing slice widens steps
    uneven = np.flatnonzero(np.abs(steps - median_step) > UNEVEN_SHARE * median_step)
    if len(uneven):
        at = int(uneven[0])
        suffix = f" (and {len(uneven) - 1} more such gaps)" if len(uneven) > 1 else ""
        is_gap = steps[at] > 1.5 * median_step
        hint = "restore the slices between them" if is_gap else "resample the series evenly first"
        return [
            f"{pairs[at]}: neighbouring slices must be {median_step:.2f} mm apart as most are, "
            f"got {steps[at]:.2f} mm{suffix}; {hint}"
        ]
    sideways = np.linalg.norm(offsets - steps[:, None] * normal, axis=1)
    if sideways.max() > UNEVEN_SHARE * median_step:
        at = int(sideways.argmax())
        return [
            f"{pairs[at]}: slices must be stacked along their normal, got {sideways[at]:.2f} mm sideways; "
            "resample the series to a straight stack first"
        ]
    return []
