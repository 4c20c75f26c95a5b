"""Bodies whose intensities are known at every position, sampled on any grid."""

import numpy as np

from data.registration.pairwise_registration import ScanVolume
from util.io.image_io import Geometry

# Centre and radii in mm, patient (x, y, z), and intensity; later ones cover earlier ones.
BODY = ((0, 0, 0), (75, 55, 80), 1.0)
ORGANS = {
    1: ((-35, 8, 12), (26, 30, 34), 2.0),
    2: ((38, 12, 18), (16, 18, 24), 3.0),
    3: ((30, -16, -24), (14, 16, 20), 2.5),
}
OTHERS = [((0, 34, 0), (13, 12, 70), 0.3), ((-28, -20, -34), (18, 14, 18), 1.6)]


def rotation(axis, degrees):
    """Return the matrix (3, 3) of a rotation about a patient axis."""
    first, second = [other for other in range(3) if other != axis]
    matrix = np.eye(3)
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix[first, first] = matrix[second, second] = cosine
    matrix[first, second], matrix[second, first] = -sine, sine
    return matrix


def grid(shape=(28, 56, 60), spacing_mm=(7.0, 3.0, 3.0), direction=None, centre_mm=(0.0, 0.0, 0.0)):
    """Return a geometry whose middle is at a position."""
    direction = np.eye(3) if direction is None else np.asarray(direction)
    corner = Geometry(shape, spacing_mm, (0.0, 0.0, 0.0), tuple(direction.ravel().tolist()))
    middle = corner.position_mm((np.array(shape) - 1) / 2)
    origin_mm = tuple((np.asarray(centre_mm) - middle).tolist())
    return Geometry(shape, spacing_mm, origin_mm, corner.direction)


def positions_mm(geometry):
    """Return the positions `(Z, H, W, 3)` of a grid's voxels."""
    return geometry.position_mm(np.stack(np.indices(geometry.shape), axis=-1))


def body_scan(geometry, to_body=lambda points_mm: points_mm, *, noise=0.02, seed=0):
    """Sample the body; `to_body` maps positions on the grid to the body's own."""
    points_mm = to_body(positions_mm(geometry))
    voxels = np.zeros(geometry.shape, np.float32)
    for centre, radii, intensity in (BODY, *ORGANS.values(), *OTHERS):
        voxels[_inside(points_mm, centre, radii)] = intensity
    voxels += noise * np.random.default_rng(seed).standard_normal(geometry.shape, dtype=np.float32)
    return ScanVolume(voxels, geometry)


def organ_labels(geometry, to_body=lambda points_mm: points_mm):
    """Return the label map of the organs."""
    points_mm = to_body(positions_mm(geometry))
    label_map = np.zeros(geometry.shape, np.uint8)
    for label, (centre, radii, _) in ORGANS.items():
        label_map[_inside(points_mm, centre, radii)] = label
    return label_map


def _inside(points_mm, centre, radii):
    return (((points_mm - centre) / radii) ** 2).sum(axis=-1) <= 1
