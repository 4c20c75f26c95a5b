"""The phantom's coordinates, random fields, implicit solids and canvas.

A solid is a field of signed depths in mm, positive inside and 0 on the surface: `np.minimum` intersects two
solids, `np.maximum` unites them and negation gives the complement.
"""

from dataclasses import dataclass

import numpy as np

# RMS, along one axis, of a sum of cubic B-splines with weights of variance 1: sqrt(151 / 315).
_SPLINE_RMS = 0.6924
# Edges spread over this many in-plane steps, as by the scanner's point spread function.
_EDGE_STEPS = 1.2


@dataclass(frozen=True)
class Axes:
    """Scanner coordinates of the voxel centres, one array per axis."""

    z_mm: np.ndarray  # (Z,), towards the head
    y_mm: np.ndarray  # (H,), from back to front
    x_mm: np.ndarray  # (W,), towards the patient's left

    @property
    def shape(self) -> tuple[int, int, int]:
        """The grid `(Z, H, W)`."""
        return len(self.z_mm), len(self.y_mm), len(self.x_mm)


@dataclass(frozen=True)
class Space:
    """Patient coordinates at every voxel, in nominal millimetres.

    Attributes:
        axes: scanner coordinates of the voxels.
        x, y, z: `(Z, H, W)` float32, scaled and warped to a patient of average build; the origin is the
            middle of the trunk at the height of the kidneys.
    """

    axes: Axes
    x: np.ndarray
    y: np.ndarray
    z: np.ndarray

    @property
    def edge_mm(self) -> float:
        """Width of the transition from inside to outside."""
        return _EDGE_STEPS * float(self.axes.x_mm[1] - self.axes.x_mm[0])

    def field(self, rng: np.random.Generator, correlation_mm: float) -> np.ndarray:
        """Sample a smooth random field `(Z, H, W)`; see `smooth_field`."""
        return smooth_field(rng, self.axes, correlation_mm)

    def perturb_surface(
        self, depth: np.ndarray, rng: np.random.Generator, *, by_mm: float, over_mm: float
    ) -> np.ndarray:
        """Perturb a solid's surface by about `by_mm`, smoothly over `over_mm`."""
        return depth + by_mm * self.field(rng, over_mm)


def smooth_field(rng: np.random.Generator, axes: Axes, correlation_mm: float) -> np.ndarray:
    """Sample a Gaussian random field `(Z, H, W)` float32 of mean 0 and variance 1.

    Cubic B-splines with random weights on a lattice with steps of `correlation_mm`: cheap for any length.
    """
    basis_z, basis_y, basis_x = (
        _spline_basis(axis, correlation_mm) for axis in (axes.z_mm, axes.y_mm, axes.x_mm)
    )
    nodes = (basis_z.shape[1], basis_y.shape[1], basis_x.shape[1])
    weights = rng.standard_normal(nodes, dtype=np.float32) / np.float32(_SPLINE_RMS**3)
    planes = basis_y @ weights @ basis_x.T
    return np.tensordot(basis_z, planes, axes=1)


def _spline_basis(positions_mm: np.ndarray, node_step_mm: float) -> np.ndarray:
    """Return each position's weights on a lattice, `(positions, nodes)`."""
    in_nodes = (positions_mm - positions_mm[0]) / node_step_mm + 1
    nodes = np.arange(int(in_nodes[-1]) + 3)
    distance = np.abs(in_nodes[:, None] - nodes)
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.maximum(2 - distance, 0) ** 3 / 6
    return np.where(distance < 1, near, far).astype(np.float32)


def ellipsoid(
    space: Space,
    centre_mm: tuple[float, float, float],
    radii_mm: tuple[float, float, float],
    *,
    roll_deg: float = 0.0,
    lean: tuple[float, float] = (0.0, 0.0),
) -> np.ndarray:
    """Return the depth inside an ellipsoid.

    Args:
        space: patient coordinates.
        centre_mm: `(x, y, z)`.
        radii_mm: semi-axes along `(x, y, z)` before rotation.
        roll_deg: in-plane rotation, from x towards y.
        lean: shift of the centre in x and in y per mm of height.

    Returns:
        `(Z, H, W)` float32 in mm, to first order the distance from the surface.
    """
    (centre_x, centre_y, centre_z), (radius_x, radius_y, radius_z) = centre_mm, radii_mm
    up = space.z - centre_z
    across = space.x - centre_x - lean[0] * up
    along = space.y - centre_y - lean[1] * up
    if roll_deg:
        cosine, sine = np.cos(np.radians(roll_deg)), np.sin(np.radians(roll_deg))
        across, along = cosine * across + sine * along, cosine * along - sine * across
    across, along, up = across / radius_x, along / radius_y, up / radius_z
    level = np.sqrt(across**2 + along**2 + up**2)
    slope = np.sqrt((across / radius_x) ** 2 + (along / radius_y) ** 2 + (up / radius_z) ** 2)
    return level * (1 - level) / np.maximum(slope, 1e-4)


def column(space: Space, centre_mm: tuple[float, float], radii_mm: tuple[float, float]) -> np.ndarray:
    """Return the depth inside an upright elliptic column, `(Z, H, W)` in mm."""
    across = (space.x - centre_mm[0]) / radii_mm[0]
    along = (space.y - centre_mm[1]) / radii_mm[1]
    return (1 - np.sqrt(across**2 + along**2)) * min(radii_mm)


def vessel_tree(space: Space, rng: np.random.Generator, *, radius_mm: float, over_mm: float) -> np.ndarray:
    """Return the depth inside winding tubes, the common zeros of two random fields."""
    off_centre = np.hypot(space.field(rng, over_mm), space.field(rng, over_mm))
    return radius_mm - 0.8 * over_mm * off_centre


def jitter(rng: np.random.Generator, nominal: tuple[float, ...], spread: float) -> tuple[float, ...]:
    """Shift each coordinate independently by up to `spread`."""
    return tuple(value + float(rng.uniform(-spread, spread)) for value in nominal)


def rescale(rng: np.random.Generator, nominal: tuple[float, ...], spread: float) -> tuple[float, ...]:
    """Scale all lengths jointly by up to `spread`, and each by up to half of that."""
    scale = 1 + rng.uniform(-spread, spread)
    return tuple(value * float(scale * (1 + rng.uniform(-spread / 2, spread / 2))) for value in nominal)


class Canvas:
    """An image `(Z, H, W)` of tissue signal, painted layer over layer.

    Attributes:
        signal: painted so far, float32.
    """

    def __init__(self, space: Space):
        self.space = space
        self.signal = np.zeros(space.axes.shape, np.float32)

    def paint(self, depth: np.ndarray, signal: float | np.ndarray) -> np.ndarray:
        """Cover the inside of a solid with `signal`; returns each voxel's coverage, 0..1."""
        cover = np.clip(0.5 + depth / self.space.edge_mm, 0, 1).astype(np.float32)
        self.signal += cover * (np.asarray(signal, np.float32) - self.signal)
        return cover
