"""The phantom's patient: four labelled organs in their surroundings."""

import numpy as np

from data.phantom.space import Canvas, Space, ellipsoid, jitter, rescale, vessel_tree
from data.phantom.surroundings import (
    Tissue,
    draw_tissue,
    draw_trunk,
    paint_back,
    paint_bowel,
    paint_chest,
    paint_great_vessels,
    paint_trunk,
    paint_upper_gut,
)

# Labels of the dataset's spec.
LIVER, RIGHT_KIDNEY, LEFT_KIDNEY, SPLEEN = 1, 2, 3, 4


def draw_patient(rng: np.random.Generator, space: Space) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """Render one patient.

    Args:
        rng: source of the variation between patients.
        space: patient coordinates at each voxel.

    Returns:
        The tissue signal `(Z, H, W)` float32, and per label the organ's partial volume in each voxel,
        `(Z, H, W)` float32 in 0..1; except at edges, those of one voxel sum to at most 1.
    """
    tissue = draw_tissue(rng)
    canvas = Canvas(space)
    trunk = draw_trunk(rng, space)
    paint_trunk(canvas, rng, trunk=trunk, tissue=tissue)
    paint_bowel(canvas, rng, trunk=trunk, tissue=tissue)
    stomach = paint_upper_gut(canvas, rng, trunk=trunk, tissue=tissue)
    paint_back(canvas, rng, trunk=trunk, tissue=tissue)
    vessels = paint_great_vessels(canvas, rng, tissue=tissue)
    paint_chest(canvas, rng, trunk=trunk, tissue=tissue)
    right_kidney = _kidney(rng, space, side=-1)
    left_kidney = _kidney(rng, space, side=1)
    kidneys = np.maximum(right_kidney, left_kidney)
    bladder = _gallbladder(rng, space)
    in_abdomen = trunk.abdomen - 2
    liver = np.minimum(_liver(rng, space), in_abdomen)
    liver = np.minimum(liver, -np.maximum(np.maximum(kidneys + 4, bladder), vessels + 1))
    spleen = np.minimum(_spleen(rng, space), in_abdomen)
    spleen = np.minimum(spleen, -np.maximum(np.maximum(kidneys + 5, stomach + 2), liver + 4))
    # A film of fat separates the organs from the gut; without it they would merge in slices this coarse.
    for organ, film_mm in ((liver, 2.5), (spleen, 4), (kidneys, 5)):
        canvas.paint(np.minimum(organ + film_mm, in_abdomen + 2), tissue.fat)
    canvas.paint(np.minimum(bladder, in_abdomen), tissue.bile)
    shares = {
        LIVER: _paint_liver(canvas, rng, liver=liver, tissue=tissue),
        SPLEEN: _paint_spleen(canvas, rng, spleen=spleen, tissue=tissue),
        RIGHT_KIDNEY: _paint_kidney(canvas, rng, kidney=right_kidney, tissue=tissue),
        LEFT_KIDNEY: _paint_kidney(canvas, rng, kidney=left_kidney, tissue=tissue),
    }
    return canvas.signal, shares


def _kidney(rng: np.random.Generator, space: Space, *, side: int) -> np.ndarray:
    """Return the depth of one kidney, notched at the hilum; side -1 is the right one."""
    centre = jitter(rng, (side * 65, -36, 0 if side < 0 else 12), 13)
    radii = rescale(rng, (24, 34, 54), 0.16)
    roll_deg = side * rng.uniform(20, 60)
    lean = (-side * rng.uniform(0.08, 0.22), -rng.uniform(0.05, 0.2))
    kidney = ellipsoid(space, centre, radii, roll_deg=roll_deg, lean=lean)
    kidney = space.perturb_surface(kidney, rng, by_mm=1.8, over_mm=28)
    hilum_centre = (centre[0] - side * 0.95 * radii[0], centre[1] + 0.5 * radii[1], centre[2])
    hilum = ellipsoid(space, hilum_centre, (13, 10, 0.3 * radii[2]), roll_deg=-side * 30)
    return np.minimum(kidney, -hilum)


def _liver(rng: np.random.Generator, space: Space) -> np.ndarray:
    """Return the depth of the liver, not yet cut by its neighbours."""
    right = ellipsoid(
        space,
        jitter(rng, (-80, 4, 38), 10),
        rescale(rng, (64, 92, 86), 0.12),
        roll_deg=rng.uniform(-12, 8),
        lean=(0.2, 0.0),
    )
    left = ellipsoid(
        space,
        jitter(rng, (0, 50, 66), 14),
        rescale(rng, (74, 42, 38), 0.22),
        roll_deg=rng.uniform(-20, 5),
        lean=(0.1, -0.2),
    )
    # The gut and the porta press into the liver from below and from the middle.
    porta = ellipsoid(space, jitter(rng, (-14, 28, 6), 10), rescale(rng, (44, 40, 40), 0.12))
    beside_spine = np.maximum(-28 - space.x, space.y - 10)
    # Behind the liver's lower half lies the fat around the right kidney.
    renal_bed = ellipsoid(space, (-58, -90, -4), (42, 62, 66))
    solid = np.minimum(np.maximum(right, left), -np.maximum(porta, renal_bed))
    solid = np.minimum(solid, beside_spine)
    return space.perturb_surface(solid, rng, by_mm=3, over_mm=40)


def _spleen(rng: np.random.Generator, space: Space) -> np.ndarray:
    """Return the depth of the spleen, not yet cut by its neighbours."""
    spleen = ellipsoid(
        space,
        jitter(rng, (95, -34, 57), 12),
        rescale(rng, (36, 58, 48), 0.25),
        roll_deg=rng.uniform(-5, 35),
        lean=(-0.25, -0.1),
    )
    return space.perturb_surface(spleen, rng, by_mm=3, over_mm=32)


def _gallbladder(rng: np.random.Generator, space: Space) -> np.ndarray:
    return ellipsoid(
        space,
        jitter(rng, (-52, 60, 2), 10),
        rescale(rng, (13, 18, 22), 0.3),
        roll_deg=rng.uniform(-50, 0),
    )


def _paint_liver(
    canvas: Canvas, rng: np.random.Generator, *, liver: np.ndarray, tissue: Tissue
) -> np.ndarray:
    space = canvas.space
    grain = 1 + 0.03 * space.field(rng, 6) + 0.07 * space.field(rng, 40)
    cover = canvas.paint(liver, tissue.liver * grain)
    for radius_mm, over_mm, shine in ((3.5, 30, 0.9), (2.2, 15, 0.75)):
        branches = vessel_tree(space, rng, radius_mm=radius_mm, over_mm=over_mm)
        canvas.paint(np.minimum(branches, liver - 4), max(shine * tissue.vessel, 1.6 * tissue.liver))
    return cover


def _paint_spleen(
    canvas: Canvas, rng: np.random.Generator, *, spleen: np.ndarray, tissue: Tissue
) -> np.ndarray:
    grain = 1 + 0.04 * canvas.space.field(rng, 5) + 0.08 * canvas.space.field(rng, 40)
    return canvas.paint(spleen, tissue.spleen * grain)


def _paint_kidney(
    canvas: Canvas, rng: np.random.Generator, *, kidney: np.ndarray, tissue: Tissue
) -> np.ndarray:
    """Paint cortex, pyramids and the sinus with its fat and its urine."""
    space = canvas.space
    cover = canvas.paint(kidney, tissue.cortex * (1 + 0.05 * space.field(rng, 6)))
    pyramids = np.minimum(kidney - 5, 5 * space.field(rng, 10) + 2)
    canvas.paint(pyramids, tissue.medulla)
    sinus = np.minimum(kidney - 14, 4 * space.field(rng, 8))
    canvas.paint(sinus, 0.35 * tissue.cortex)
    canvas.paint(np.minimum(kidney - 14, vessel_tree(space, rng, radius_mm=2, over_mm=12)), 1.0)
    return cover
