"""Stages of a registration: rigid, scaling, affine and B-spline."""

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk

# Tuned on abdominal T2 MRI.
SPACING_MM = 10.0  # of both scans' voxels; axes with larger spacing are not resampled
# Starts of the rigid stage along the slice normal, since scans show different parts of the body.
START_OFFSETS_MM = (-30.0, 0.0, 30.0)
MARGIN_MM = 20.0  # of the rim around the query's body that also counts: it holds the skin's edge
CONTROL_SPACING_MM = 80.0  # about, of the B-spline's control points
SAMPLED_SHARE = 0.3  # of the voxels, which the B-spline stage uses, on a regular, jittered lattice
N_BSPLINE = 4  # iterations of the B-spline stage; few, since nothing else prevents folding
_SEED = 1  # of the samples' jitter
_FIRST_STEP_MM, _MIN_STEP_MM, _RELAXATION = 4.0, 0.05, 0.6  # of rigid starts
_N_START, _N_REFINE = 60, 20  # iterations of a rigid start, and of each line search
_SPLINE_ORDER = 3

# Measures of similarity that a registration can maximise. Mutual information (Mattes et al., IEEE TMI 22,
# 2003) is less accurate for most pairs, but succeeds where correlation is misled, as by a large bright cyst.
CORRELATION, MUTUAL_INFORMATION = MEASURES = ("correlation", "mutual information")
_N_BINS = 24  # of the joint histogram


class ScanPair(NamedTuple):
    """Both scans at the resolution of the registration.

    Attributes:
        support, query: the images.
        region: mask of the query's voxels that count.
        measure: one of `MEASURES`.
    """

    support: sitk.Image
    query: sitk.Image
    region: sitk.Image
    measure: str


def optimise(
    initial: sitk.Euler3DTransform, pair: ScanPair, normal: np.ndarray
) -> tuple[sitk.AffineTransform, sitk.BSplineTransform]:
    """Run all stages.

    Args:
        initial: where to start; not changed.
        pair: the scans.
        normal: unit vector of the query's slice normal, patient (x, y, z).

    Returns:
        The affine transform, which includes the rigid one, and the B-spline, which is applied before it. A
        stage that ITK gives up, as the scans come apart, changes nothing.
    """
    starts = [_start_rigid(initial, offset_mm * normal, pair) for offset_mm in START_OFFSETS_MM]
    rigid = choose_start(starts, pair)
    _refine(rigid, pair)
    # Nine parameters before twelve: shear is hardly determined by thick slices.
    scaled = _copy_linear(rigid, sitk.ScaleVersor3DTransform())
    _refine(scaled, pair)
    affine = _copy_linear(scaled, sitk.AffineTransform(3))
    _refine(affine, pair)
    return affine, _optimise_bspline(affine, pair)


def choose_start(starts: Sequence[sitk.Transform], pair: ScanPair) -> sitk.Transform:
    """Choose the transform with the best metric, weighted by its coverage.

    This is the share of the query that lies within the support. Unweighted, scans that overlap in a few
    slices alone could win: less has to match there.
    """
    return min(starts, key=lambda start: evaluate(start, pair) * _coverage(start, pair))


def evaluate(transform: sitk.Transform, pair: ScanPair) -> float:
    """Return a transform's metric, lower is better; 0 without overlap."""
    method = _method(pair)
    method.SetInitialTransform(transform)
    with suppress(RuntimeError):
        return float(method.MetricEvaluate(pair.query, pair.support))
    return 0.0


def _coverage(transform: sitk.Transform, pair: ScanPair) -> float:
    """Return the share of the query's region that lies within the support's volume, 0..1."""
    volume = sitk.Image(pair.support.GetSize(), sitk.sitkUInt8)
    volume.CopyInformation(pair.support)
    inside = sitk.Resample(volume + 1, pair.query, transform, sitk.sitkNearestNeighbor, 0)
    region = sitk.GetArrayViewFromImage(pair.region) > 0
    return float(sitk.GetArrayViewFromImage(inside)[region].mean()) if region.any() else 0.0


def _start_rigid(
    initial: sitk.Euler3DTransform, offset_mm: np.ndarray, pair: ScanPair
) -> sitk.Euler3DTransform:
    transform = sitk.Euler3DTransform(initial)
    transform.SetTranslation((np.array(initial.GetTranslation()) + offset_mm).tolist())
    method = _method(pair)
    method.SetOptimizerAsRegularStepGradientDescent(_FIRST_STEP_MM, _MIN_STEP_MM, _N_START, _RELAXATION)
    method.SetOptimizerScalesFromPhysicalShift()
    _execute(method, transform, pair)
    return transform


def _refine(transform: sitk.Transform, pair: ScanPair) -> None:
    method = _method(pair)
    # Steps limited in mm: once translations have converged, a step of fixed length in parameter space would
    # turn scales negative.
    method.SetOptimizerAsConjugateGradientLineSearch(
        learningRate=1.0,
        numberOfIterations=_N_REFINE,
        convergenceMinimumValue=1e-5,
        convergenceWindowSize=6,
        lineSearchUpperLimit=2.0,
        lineSearchEpsilon=0.05,
        lineSearchMaximumIterations=12,
        estimateLearningRate=method.EachIteration,
        maximumStepSizeInPhysicalUnits=min(pair.query.GetSpacing()) / 2,
    )
    method.SetOptimizerScalesFromPhysicalShift()
    _execute(method, transform, pair)


def _optimise_bspline(affine: sitk.AffineTransform, pair: ScanPair) -> sitk.BSplineTransform:
    extents_mm = np.multiply(pair.query.GetSize(), pair.query.GetSpacing())
    mesh = [max(1, round(extent_mm / CONTROL_SPACING_MM)) for extent_mm in extents_mm]
    bspline = sitk.BSplineTransformInitializer(pair.query, mesh, _SPLINE_ORDER)
    method = _method(pair)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(SAMPLED_SHARE, _SEED)
    method.SetMovingInitialTransform(affine)
    method.SetOptimizerAsLBFGSB(1e-5, N_BSPLINE, 5, 2 * N_BSPLINE)
    _execute(method, bspline, pair)
    return bspline


def _method(pair: ScanPair) -> sitk.ImageRegistrationMethod:
    method = sitk.ImageRegistrationMethod()
    if pair.measure == CORRELATION:
        method.SetMetricAsCorrelation()
    else:
        method.SetMetricAsMattesMutualInformation(_N_BINS)
    method.SetMetricFixedMask(pair.region)
    method.SetInterpolator(sitk.sitkLinear)
    return method


def _execute(method: sitk.ImageRegistrationMethod, transform: sitk.Transform, pair: ScanPair) -> None:
    """Optimise a transform in place; restore it if the scans come apart."""
    parameters = transform.GetParameters()
    method.SetInitialTransform(transform, True)
    with suppress(RuntimeError):
        method.Execute(pair.query, pair.support)
        if np.isfinite(transform.GetParameters()).all():
            return
    transform.SetParameters(parameters)


def _copy_linear(source: sitk.Transform, target: sitk.Transform) -> sitk.Transform:
    """Copy centre, rotation or matrix, and translation."""
    target.SetCenter(source.GetCenter())
    if isinstance(target, sitk.ScaleVersor3DTransform):
        versor = sitk.VersorRigid3DTransform()
        versor.SetMatrix(source.GetMatrix())
        target.SetRotation(versor.GetVersor())
    else:
        target.SetMatrix(source.GetMatrix())
    target.SetTranslation(source.GetTranslation())
    return target
