"""Register a support scan to a query scan, and measure the quality."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk

from data.registration.registration_stages import (
    CORRELATION,
    MARGIN_MM,
    SPACING_MM,
    ScanPair,
    evaluate,
    optimise,
)
from data.registration.spatial_transform import SpatialTransform, max_stretch, min_jacobian
from data.supervoxels.body import check_volume, find_body, scale_intensities
from util.errors import UserError
from util.io.image_io import Geometry, to_sitk

# Eight pairs of abdominal T2 MRI reached overlaps of 0.76 to 0.93, below 1 as scans end at different heights;
# a support cut to a third reached 0.61.
MIN_BODY_OVERLAP = 0.7
# The pairs reached -0.40 to -0.71 with correlation, noise in place of the support -0.005.
MAX_METRIC = -0.1
METRIC_TOLERANCE = 1e-3  # scans that are aligned already gain nothing
MIN_JACOBIAN = 0.0  # below, the B-spline folds; the pairs had at least 0.2
MAX_STRETCH = 2.0  # along any axis; the affine parts of 14 pairs had at most 1.51, noise in a thin slab 4
MIN_LENGTH_VOX = 4  # along each axis, also after shrinking: ITK's recursive Gaussian needs as many
_CLIP_PERCENT = 0.5  # of the body's voxels, at either end of the intensities
_SMOOTHING_MM = 0.25 * SPACING_MM  # sigma; averaging blocks smooths, too


class ScanVolume(NamedTuple):
    """A scan to register.

    Attributes:
        voxels: `(Z, H, W)`, any real dtype, finite; such as a z-scored image.
        geometry: its grid.
        name: for messages.
    """

    voxels: np.ndarray
    geometry: Geometry
    name: str = "scan"


@dataclass(frozen=True)
class Quality:
    """Quality of a registration.

    Attributes:
        body_overlap: Dice of the warped support's body and the query's, 0..1.
        metric_before: the negated squared correlation, lower is better, with aligned body centres.
        metric_after: the same after registration.
        min_jacobian: smallest Jacobian determinant of the B-spline around the query's body.
        stretch: largest factor by which the affine part stretches or shrinks along any direction.
    """

    body_overlap: float
    metric_before: float
    metric_after: float
    min_jacobian: float
    stretch: float

    @property
    def similarity(self) -> float:
        """Similarity of both scans, 0..1: the squared correlation."""
        return max(0.0, -self.metric_after)

    @property
    def failure(self) -> str | None:
        """Why the registration failed, in a few words; None if it succeeded."""
        # Negated, so that NaN fails.
        if not self.body_overlap >= MIN_BODY_OVERLAP:
            return f"bodies overlap by {self.body_overlap:.2f}, below {MIN_BODY_OVERLAP:g}"
        if not self.metric_after <= self.metric_before + METRIC_TOLERANCE:
            return f"metric got worse, from {self.metric_before:.3g} to {self.metric_after:.3g}"
        if not self.metric_after <= MAX_METRIC:
            return f"scans are hardly related: metric {self.metric_after:.3g}, above {MAX_METRIC:g}"
        if not self.stretch <= MAX_STRETCH:
            return f"one scan would be stretched by {self.stretch:.1f}, above {MAX_STRETCH:g}"
        if not self.min_jacobian > MIN_JACOBIAN:
            return f"B-spline folds (Jacobian determinant {self.min_jacobian:.2f})"
        return None


@dataclass(frozen=True)
class Registration:
    """Result of a registration.

    Attributes:
        transform: from positions in the query to positions in the support.
        quality: of the transform; `quality.failure` states why a registration failed.
    """

    transform: SpatialTransform
    quality: Quality


def register(support: ScanVolume, query: ScanVolume, *, measure: str = CORRELATION) -> Registration:
    """Register a support scan to a query scan.

    The rigid stage starts at the bodies' centres, with several offsets along the slice normal; the best
    result initialises an anisotropic scaling, that an affine transform, and that a cubic B-spline (Rueckert
    et al., IEEE Transactions on Medical Imaging 18, 1999). ITK uses one thread meanwhile, as sums over
    threads differ in the last bits: results are bit-identical for any number of threads.

    Args:
        support, query: the scans; their grids may differ in shape, spacing and direction.
        measure: of similarity, one of `registration_stages.MEASURES`. The quality is that of the correlation
            in any case.

    Raises:
        UserError: as `check_scan` does.
    """
    for scan in (support, query):
        check_scan(scan)
    with _one_silent_thread():
        return _register(support, query, measure)


def check_scan(scan: ScanVolume) -> None:
    """Check that a scan can be registered.

    Raises:
        UserError: the volume is not 3D, real, finite and varying, is too small, or is not of its geometry's
            shape; or the geometry is singular.
    """
    shape, geometry = scan.voxels.shape, scan.geometry
    try:
        check_volume(scan.voxels)
        if shape != geometry.shape:
            raise UserError(f"volume: shape must be the geometry's {geometry.shape}, got {shape}")
        if min(shape) < MIN_LENGTH_VOX:
            raise UserError(f"volume: must have at least {MIN_LENGTH_VOX} voxels per axis, got {shape}")
        if scan.voxels.min() == scan.voxels.max():
            raise UserError("volume: must not be constant; is the scan empty?")
        if min(geometry.spacing_mm) <= 0 or abs(np.linalg.det(geometry.axes)) < 1e-3:
            raise UserError("geometry: spacing must be positive and direction invertible; fix the header")
    except UserError as error:
        raise UserError(f"{scan.name}: {error}") from error


def _register(support: ScanVolume, query: ScanVolume, measure: str) -> Registration:
    support_body, query_body = (find_body(scale_intensities(scan.voxels)) for scan in (support, query))
    support_share, query_share = _body_share(support, support_body), _body_share(query, query_body)
    pair = ScanPair(
        _smooth_and_shrink(support, support_body),
        _smooth_and_shrink(query, query_body),
        _dilate(query_share >= 0.5, MARGIN_MM),
        CORRELATION,
    )
    initial = _align_centres(_centre_mm(support, support_body), _centre_mm(query, query_body))
    transform = SpatialTransform.from_sitk(
        *optimise(initial, pair._replace(measure=measure), query.geometry.axes[:, 0])
    )
    to_support = transform.to_sitk()
    quality = Quality(
        body_overlap=_overlap(sitk.Resample(support_share, query_share, to_support), query_share),
        metric_before=evaluate(initial, pair),
        metric_after=evaluate(to_support, pair),
        min_jacobian=min_jacobian(transform, pair.query, sitk.GetArrayFromImage(pair.region) > 0),
        stretch=max_stretch(transform),
    )
    return Registration(transform, quality)


def _smooth_and_shrink(scan: ScanVolume, body: np.ndarray) -> sitk.Image:
    """Clip outliers, and resample the axes finer than `SPACING_MM` to about that spacing."""
    # In float64, so that equal values in another dtype give equal bits, as the cache expects.
    voxels = scan.voxels[body].astype(np.float64)
    low, high = np.percentile(voxels, [_CLIP_PERCENT, 100 - _CLIP_PERCENT])
    image = to_sitk(np.clip(scan.voxels, low, high).astype(np.float32), scan.geometry)
    for axis, factor in enumerate(_shrink_factors(image)):
        if factor > 1:
            image = sitk.RecursiveGaussian(image, _SMOOTHING_MM, direction=axis)
    return _shrink(image)


def _body_share(scan: ScanVolume, body: np.ndarray) -> sitk.Image:
    """Return the body's share, 0..1, of each shrunk voxel."""
    return _shrink(to_sitk(body.astype(np.uint8), scan.geometry))


def _shrink(image: sitk.Image) -> sitk.Image:
    """Average blocks of voxels; ITK's Shrink would shift the image by half a voxel for even factors."""
    return sitk.BinShrink(sitk.Cast(image, sitk.sitkFloat32), _shrink_factors(image))


def _shrink_factors(image: sitk.Image) -> list[int]:
    return [
        int(np.clip(round(SPACING_MM / step), 1, length // MIN_LENGTH_VOX))
        for step, length in zip(image.GetSpacing(), image.GetSize(), strict=True)
    ]


def _dilate(mask: sitk.Image, margin_mm: float) -> sitk.Image:
    return sitk.BinaryDilate(mask, [round(margin_mm / step) for step in mask.GetSpacing()])


def _centre_mm(scan: ScanVolume, body: np.ndarray) -> np.ndarray:
    return scan.geometry.position_mm(np.argwhere(body).mean(axis=0))


def _align_centres(support_mm: np.ndarray, query_mm: np.ndarray) -> sitk.Euler3DTransform:
    transform = sitk.Euler3DTransform()
    transform.SetCenter(query_mm.tolist())
    transform.SetTranslation((support_mm - query_mm).tolist())
    return transform


def _overlap(shares: sitk.Image, other_shares: sitk.Image) -> float:
    """Return the Dice of two masks on one grid, given the bodies' shares of the voxels."""
    mask, other = (sitk.GetArrayFromImage(image) >= 0.5 for image in (shares, other_shares))
    total = np.count_nonzero(mask) + np.count_nonzero(other)
    return float(2 * np.count_nonzero(mask & other) / total) if total else 0.0


@contextmanager
def _one_silent_thread() -> Iterator[None]:
    """Limit ITK to one thread in the block, and suppress its warnings of missing overlap."""
    switches = sitk.ProcessObject
    n_threads, warns = switches.GetGlobalDefaultNumberOfThreads(), switches.GetGlobalWarningDisplay()
    switches.SetGlobalDefaultNumberOfThreads(1)
    switches.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        switches.SetGlobalDefaultNumberOfThreads(n_threads)
        switches.SetGlobalWarningDisplay(warns)
