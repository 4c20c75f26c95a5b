"""Write label maps as DICOM Segmentations that reference their source series."""

import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.raw.dicom import read_header, series_problems, sort_slices
from data.raw.input_scans import list_dicom_files
from util.errors import UserError
from util.io.files import atomic_write

if TYPE_CHECKING:
    from highdicom.seg import Segmentation
    from pydicom import Dataset

DICOM_SEG_ENDING = ".dcm"
REQUIREMENTS = "script/requirements/dicom.txt"
_SOFTWARE, _UNVERSIONED = "HCPMNet", "none"  # the standard requires versions and serial numbers
_CODING_SCHEME = "99HCPMNET"  # private, as the standard requires of names that begin with 99
_SERIES_NUMBER = 9001  # far from a scanner's own
_MAX_CHARACTERS = 64  # of a DICOM long string
_COMMON = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
_REFERENCED = ("SOPClassUID", "SOPInstanceUID", *_COMMON)
# The standard lets them be empty, but not absent.
_PATIENT_AND_STUDY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime"),
)


def check_dicom_queries(queries: Sequence[Path], out: Path, *, patterns: Sequence[str]) -> None:
    """Check what `format=dicom_seg` requires of a call, without reading a scan.

    Args:
        queries: scans to segment.
        out: folder of the results.
        patterns: paths and patterns that named the queries.

    Raises:
        UserError: highdicom is missing, a query is no DICOM series, or results would lie among DICOM files.
    """
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"format=dicom_seg needs highdicom; install it with `{sys.executable} -m pip install -r "
            f"{REQUIREMENTS}`"
        ) from error
    files = [query for query in queries if not query.is_dir()]
    if files:
        suffix = f" (and {len(files) - 1} more such queries)" if len(files) > 1 else ""
        raise UserError(
            f"format=dicom_seg: queries must be folders of a DICOM series, got {files[0]}{suffix}; leave out "
            "format=dicom_seg for these"
        )
    named = set(map(Path, patterns))
    folders = {query.resolve() for query in queries}
    folders |= {query.resolve().parent for query in queries if query not in named}
    if folders & {out.resolve(), out.resolve().parent}:  # a later call would take the results for a series
        raise UserError(f"out={out}: DICOM results must not lie among the scans; choose another folder")


def check_dicom_seg(folder: Path) -> None:
    """Check, before computing, that a segmentation can reference a DICOM series.

    Raises:
        UserError: the files are no series, or lack or contradict what a segmentation references.
    """
    first = read_source_headers(folder)[:1]
    mask = np.ones((1, first[0].Rows, first[0].Columns), np.uint8)
    _make_segmentation(mask, first, {1: "label"}, folder=folder)


def write_dicom_seg(path: Path, label_map: np.ndarray, folder: Path, labels: Mapping[int, str]) -> None:
    """Write a label map as a binary DICOM-SEG, atomically.

    There is one segment per label, in the order of the ids and numbered from 1, as the standard requires; the
    id is the code value of the segment's property type, and the name its label. Frames without any voxel of a
    segment are left out.

    Args:
        path: the file.
        label_map: `(Z, H, W)`, integers, slices in the order of `sort_slices`.
        folder: the source series.
        labels: id -> name.

    Raises:
        UserError: as `check_dicom_seg`, or the file cannot be written.
    """
    segmentation = _make_segmentation(label_map, read_source_headers(folder), labels, folder=folder)
    with atomic_write(path, suffix=DICOM_SEG_ENDING) as temporary:
        segmentation.save_as(temporary)


def read_source_headers(folder: Path) -> list["Dataset"]:
    """Read the headers of a series with pydicom, without voxels.

    They are in the order of `sort_slices`. What highdicom requires and files may lack or round differently is
    completed in memory.

    Raises:
        UserError: the files are no series, or lack an identifier that a segmentation references.
    """
    slices = [read_header(path) for path in list_dicom_files(folder)]
    problems = series_problems(slices, folder)
    if problems:
        raise UserError(problems[0])
    slices = sort_slices(slices)
    headers = [_read_source_header(entry.path) for entry in slices]
    for name in _COMMON:
        if len({header.get(name) for header in headers}) > 1:
            raise UserError(f"{folder}: all slices must have the same {name}; restore the series")
    positions_mm = np.asarray([entry.position_mm for entry in slices])
    distance_mm = float(np.linalg.norm(positions_mm[-1] - positions_mm[0])) / (len(slices) - 1)
    for header in headers:
        # SpacingBetweenSlices may be missing, or contradict the positions, which readers of volumes use.
        header.SpacingBetweenSlices = distance_mm
        header.SliceThickness = header.get("SliceThickness") or distance_mm
        header.ImageOrientationPatient = headers[0].ImageOrientationPatient  # equal within rounding
    return headers


def _read_source_header(path: Path) -> "Dataset":
    import pydicom

    try:
        header = pydicom.dcmread(path, stop_before_pixels=True)
        missing = [name for name in _REFERENCED if not header.get(name)]
    except (OSError, ValueError, AttributeError, pydicom.errors.InvalidDicomError) as error:
        raise UserError(f"{path}: cannot be read as DICOM ({error}); restore the file") from error
    if missing:
        raise UserError(
            f"{path}: tag {missing[0]} must be set, as a DICOM-SEG references it; restore the file, or leave "
            "out format=dicom_seg"
        )
    for name in _PATIENT_AND_STUDY:
        if name not in header:
            setattr(header, name, "")
    return header


def _make_segmentation(
    label_map: np.ndarray, headers: list["Dataset"], labels: Mapping[int, str], *, folder: Path
) -> "Segmentation":
    from highdicom import UID, seg

    numbers = np.zeros(max(labels) + 1, np.uint16)
    numbers[sorted(labels)] = np.arange(1, len(labels) + 1)
    try:
        with warnings.catch_warnings():
            # Anonymised names have one part only.
            warnings.filterwarnings(
                "ignore", message="The string .* is unlikely to represent", category=UserWarning
            )
            return seg.Segmentation(
                source_images=headers,
                pixel_array=numbers[label_map],
                segmentation_type=seg.SegmentationTypeValues.BINARY,
                segment_descriptions=_describe_segments(labels),
                series_instance_uid=UID(),
                series_number=_SERIES_NUMBER,
                sop_instance_uid=UID(),
                instance_number=1,
                manufacturer=_SOFTWARE,
                manufacturer_model_name=_SOFTWARE,
                software_versions=_UNVERSIONED,
                device_serial_number=_UNVERSIONED,
                content_label="SEGMENTATION",
                content_description="Research use only: not a medical device",
                series_description=f"{_SOFTWARE} segmentation (research use only)",
                specific_character_set="ISO_IR 192",  # UTF-8, for names of labels in any language
                omit_empty_frames=bool(label_map.any()),
            )
    except (ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{folder}: cannot be referenced by a DICOM-SEG ({reason}); restore the series, or leave out "
            "format=dicom_seg"
        ) from error


def _describe_segments(labels: Mapping[int, str]) -> list[Any]:
    from highdicom import AlgorithmIdentificationSequence, seg
    from highdicom.sr import CodedConcept
    from pydicom.sr.codedict import codes

    algorithm = AlgorithmIdentificationSequence(
        name=_SOFTWARE, version=_UNVERSIONED, family=codes.DCM.ArtificialIntelligence
    )
    # A backslash would separate two values.
    names = {label: labels[label].replace("\\", "/")[:_MAX_CHARACTERS] for label in sorted(labels)}
    return [
        seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=CodedConcept(str(label), _CODING_SCHEME, name),
            algorithm_type=seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for number, (label, name) in enumerate(names.items(), start=1)
    ]
