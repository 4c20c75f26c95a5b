"""Stages of a registration: rigid, scaling, affine and B-spline."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk

from util.errors import UserError

STAGES = ("rigid", "affine", "bspline")
METRICS = ("correlation", "mutual_information")
_SEED = 1  # of the samples' jitter
_N_BINS = 32  # of the joint histogram
_FIRST_STEP_MM, _MIN_STEP_MM, _RELAXATION = 4.0, 0.05, 0.6  # of rigid starts
_N_START, _N_REFINE = 60, 20  # iterations of a rigid start, and of each line search
_SPLINE_ORDER = 3


@dataclass(frozen=True)
class RegistrationSettings:
    """Settings of a registration; the defaults were tuned on abdominal T2 MRI.

    Attributes:
        stage: the last stage: rigid, affine or bspline.
        metric: `correlation` for scans of one sequence, `mutual_information` for different contrasts.
        level_spacings_mm: voxel spacings of the resolution levels, coarse to fine; axes with larger spacing
            are not resampled. The rigid stage uses the coarsest, the B-spline the finest.
        start_offsets_mm: offsets from the body's centre, along the slice normal, at which the rigid stage
            starts, since scans show different parts of the body.
        margin_mm: width of the rim around the query's body that also counts: it holds the skin's edge.
        control_spacing_mm: approximate spacing of the B-spline's control points.
        sampled_share: share of the voxels that the B-spline stage uses, on a regular, jittered lattice.
        n_bspline: iterations of the B-spline stage; few, as nothing else keeps it from folding.

    Raises:
        UserError: the stage or the metric is unknown, or a number is out of range.
    """

    stage: str = "bspline"
    metric: str = "correlation"
    level_spacings_mm: tuple[float, ...] = (10.0,)
    start_offsets_mm: tuple[float, ...] = (-30.0, 0.0, 30.0)
    margin_mm: float = 20.0
    control_spacing_mm: float = 80.0
    sampled_share: float = 0.3
    n_bspline: int = 4

    def __post_init__(self) -> None:
        for name, value, allowed in (("stage", self.stage, STAGES), ("metric", self.metric, METRICS)):
            if value not in allowed:
                raise UserError(f"{name}={value}: must be one of {', '.join(allowed)}")
        if not (self.level_spacings_mm and self.start_offsets_mm):
            raise UserError("level_spacings_mm, start_offsets_mm: must not be empty")
        positive = (*self.level_spacings_mm, self.control_spacing_mm, self.sampled_share, self.n_bspline)
        if min(positive) <= 0 or self.sampled_share > 1 or self.margin_mm < 0:
            raise UserError(f"{self}: spacings, share (at most 1) and iterations must be positive")


class Level(NamedTuple):
    """Both scans at one resolution.

    Attributes:
        support, query: the images.
        region: mask of the query's voxels that count.
    """

    support: sitk.Image
    query: sitk.Image
    region: sitk.Image


def optimise(
    initial: sitk.Euler3DTransform,
    levels: Sequence[Level],
    normal: np.ndarray,
    settings: RegistrationSettings,
) -> tuple[sitk.AffineTransform, sitk.BSplineTransform | None]:
    """Run the stages up to `settings.stage`.

    Args:
        initial: where to start; not changed.
        levels: coarse to fine.
        normal: unit vector of the query's slice normal, patient (x, y, z).
        settings: see there.

    Returns:
        The affine transform, which includes the rigid one, and the B-spline, which is applied before it; None
        if not requested. A stage that ITK gives up, as the scans come apart, changes nothing.
    """
    starts = [
        _start_rigid(initial, offset_mm * normal, levels[0], settings)
        for offset_mm in settings.start_offsets_mm
    ]
    rigid = min(starts, key=lambda start: evaluate(start, levels[0], settings))
    _refine(rigid, levels[0], settings)
    if settings.stage == "rigid":
        return _copy_linear(rigid, sitk.AffineTransform(3)), None
    # Nine parameters before twelve: shear is hardly determined by thick slices.
    scaled = _copy_linear(rigid, sitk.ScaleVersor3DTransform())
    _refine(scaled, levels[0], settings)
    affine = _copy_linear(scaled, sitk.AffineTransform(3))
    for level in levels:
        _refine(affine, level, settings)
    return affine, _optimise_bspline(affine, levels[-1], settings) if settings.stage == "bspline" else None


def evaluate(transform: sitk.Transform, level: Level, settings: RegistrationSettings) -> float:
    """Return a transform's metric, lower is better; 0 without overlap."""
    method = _method(level, settings)
    method.SetInitialTransform(transform)
    with suppress(RuntimeError):
        return float(method.MetricEvaluate(level.query, level.support))
    return 0.0


def _start_rigid(
    initial: sitk.Euler3DTransform, offset_mm: np.ndarray, level: Level, settings: RegistrationSettings
) -> sitk.Euler3DTransform:
    transform = sitk.Euler3DTransform(initial)
    transform.SetTranslation((np.array(initial.GetTranslation()) + offset_mm).tolist())
    method = _method(level, settings)
    method.SetOptimizerAsRegularStepGradientDescent(_FIRST_STEP_MM, _MIN_STEP_MM, _N_START, _RELAXATION)
    method.SetOptimizerScalesFromPhysicalShift()
    _execute(method, transform, level)
    return transform


def _refine(transform: sitk.Transform, level: Level, settings: RegistrationSettings) -> None:
    method = _method(level, settings)
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
        maximumStepSizeInPhysicalUnits=min(level.query.GetSpacing()) / 2,
    )
    method.SetOptimizerScalesFromPhysicalShift()
    _execute(method, transform, level)


def _optimise_bspline(
    affine: sitk.AffineTransform, level: Level, settings: RegistrationSettings
) -> sitk.BSplineTransform:
    extents_mm = np.multiply(level.query.GetSize(), level.query.GetSpacing())
    mesh = [max(1, round(extent_mm / settings.control_spacing_mm)) for extent_mm in extents_mm]
    bspline = sitk.BSplineTransformInitializer(level.query, mesh, _SPLINE_ORDER)
    method = _method(level, settings)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(settings.sampled_share, _SEED)
    method.SetMovingInitialTransform(affine)
    method.SetOptimizerAsLBFGSB(1e-5, settings.n_bspline, 5, 2 * settings.n_bspline)
    _execute(method, bspline, level)
    return bspline


def _method(level: Level, settings: RegistrationSettings) -> sitk.ImageRegistrationMethod:
    method = sitk.ImageRegistrationMethod()
    if settings.metric == "correlation":
        method.SetMetricAsCorrelation()
    else:
        method.SetMetricAsMattesMutualInformation(_N_BINS)
    method.SetMetricFixedMask(level.region)
    method.SetInterpolator(sitk.sitkLinear)
    return method


def _execute(method: sitk.ImageRegistrationMethod, transform: sitk.Transform, level: Level) -> None:
    """Optimise a transform in place; restore it if the scans come apart."""
    parameters = transform.GetParameters()
    method.SetInitialTransform(transform, True)
    with suppress(RuntimeError):
        method.Execute(level.query, level.support)
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
