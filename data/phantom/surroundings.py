"""The phantom's unlabelled anatomy: trunk, gut, spine, vessels and chest.

Lengths are those of a patient of average build (see `Space`); signals are fractions of the cerebrospinal
fluid's in a fat-suppressed T2 image. Positions and sizes follow axial T2-SPIR slices. Much of it has an
organ's intensity, so that intensity alone does not segment organs.
"""

from dataclasses import dataclass, make_dataclass

import numpy as np

from data.phantom.space import Canvas, Space, column, ellipsoid, jitter, rescale, vessel_tree

# Signal ranges of tissues; they overlap, so that no signal belongs to one organ alone.
_TISSUE_RANGES = {
    "fat": (0.09, 0.16),
    "muscle": (0.15, 0.27),
    "marrow": (0.22, 0.45),
    "lung": (0.04, 0.06),
    "liver": (0.28, 0.46),
    "spleen": (0.46, 0.74),
    "cortex": (0.48, 0.72),
    "medulla": (0.72, 1.00),
    "bowel": (0.34, 0.66),
    "stomach": (0.30, 0.70),
    "pancreas": (0.30, 0.50),
    "vessel": (0.55, 0.95),
    "bile": (0.75, 1.10),
}
Tissue = make_dataclass("Tissue", [(name, float) for name in _TISSUE_RANGES], frozen=True)  # of one patient


@dataclass(frozen=True)
class Trunk:
    """The body and its cavities, as depths `(Z, H, W)` in mm."""

    body: np.ndarray  # inside the skin
    wall: np.ndarray  # inside the subcutaneous fat
    cavity: np.ndarray  # inside the body wall's muscles
    abdomen: np.ndarray  # the cavity below the diaphragm


def draw_tissue(rng: np.random.Generator) -> Tissue:
    """Sample one patient's tissue signals."""
    return Tissue(**{name: float(rng.uniform(low, high)) for name, (low, high) in _TISSUE_RANGES.items()})


def draw_trunk(rng: np.random.Generator, space: Space) -> Trunk:
    """Sample the outline of the body, its layers and its diaphragm."""
    half_depth = 101 + 0.12 * space.z
    half_width = 144 - 0.06 * space.z
    power = rng.uniform(2.2, 2.7)
    level = (np.abs(space.x / half_width) ** power + np.abs(space.y / half_depth) ** power) ** (1 / power)
    groove = rng.uniform(3, 9) * np.exp(-((space.x / 16) ** 2)) * (space.y < -50)
    body = half_depth * (1 - level) - groove
    # Fat gathers at the flanks and low on the back.
    fat_mm = rng.uniform(5, 12) + rng.uniform(0, 9) * np.abs(space.x / 140) ** 2 - 0.03 * space.z
    wall = body - np.maximum(fat_mm, 3) - 1.5 * space.field(rng, 50)
    cavity = wall - rng.uniform(6, 10)
    dome_mm = rng.uniform(100, 116)
    right_dome = dome_mm - ((space.x + 62) / 13) ** 2 - (space.y / 14) ** 2
    left_dome = dome_mm - rng.uniform(4, 14) - ((space.x - 62) / 13) ** 2 - (space.y / 14) ** 2
    # A rounded maximum: the domes meet in a saddle, not in a crease.
    below_diaphragm = 10 * np.logaddexp(right_dome / 10, left_dome / 10) - space.z
    return Trunk(body=body, wall=wall, cavity=cavity, abdomen=np.minimum(cavity, 0.7 * below_diaphragm))


def paint_trunk(canvas: Canvas, rng: np.random.Generator, *, trunk: Trunk, tissue: Tissue) -> None:
    """Paint fat, body wall with ribs, and the mesentery that fills the cavity."""
    space = canvas.space
    # Where the field is uneven the fat suppression fails: patches of fat as bright as an organ.
    unsuppressed = np.clip(space.field(rng, 90) - rng.uniform(0.2, 1.2), 0, 1.5)
    fat = tissue.fat * (1 + 0.15 * space.field(rng, 12)) + 0.3 * unsuppressed
    canvas.paint(trunk.body, fat)
    septa = vessel_tree(space, rng, radius_mm=1.5, over_mm=30)
    canvas.paint(np.minimum(septa, trunk.body - 2), 2.2 * tissue.fat)
    streaks = 1 + 0.2 * space.field(rng, 7)
    canvas.paint(trunk.wall, tissue.muscle * streaks)
    ribs = np.minimum(vessel_tree(space, rng, radius_mm=4, over_mm=34), 5 - np.abs(trunk.wall - 6))
    canvas.paint(ribs, tissue.marrow)
    canvas.paint(trunk.cavity, tissue.fat * (1.2 + 0.3 * space.field(rng, 14)))
    mesentery = vessel_tree(space, rng, radius_mm=2.5, over_mm=20)
    canvas.paint(np.minimum(mesentery, trunk.cavity), 0.7 * tissue.vessel)


def paint_bowel(canvas: Canvas, rng: np.random.Generator, *, trunk: Trunk, tissue: Tissue) -> None:
    """Fill the front and the flanks with bowel loops of gas to fluid."""
    space = canvas.space
    front = space.y - rng.uniform(-8, 12)
    flanks = np.abs(space.x) - rng.uniform(72, 90)
    low = rng.uniform(45, 75) - space.z
    room = space.perturb_surface(np.minimum(np.maximum(front, flanks), low), rng, by_mm=7, over_mm=26)
    # Two fields' zero surfaces part the room into loops; mesenteric fat lies between them.
    over_mm = rng.uniform(24, 34)
    first, second = space.field(rng, over_mm), space.field(rng, over_mm)
    between = 0.45 * over_mm * np.minimum(np.abs(first), np.abs(second))
    loops = np.minimum(between - 1.5, np.minimum(room, trunk.abdomen - 3))
    filling = 0.95 + 0.25 * np.sign(first) * np.sign(second) + 0.45 * space.field(rng, 45)
    folds = 1 + 0.15 * space.field(rng, 6)
    canvas.paint(loops, tissue.bowel * rng.uniform(0.8, 1.2))
    canvas.paint(loops - 3, tissue.bowel * np.clip(filling * folds, 0.15, 2))


def paint_upper_gut(canvas: Canvas, rng: np.random.Generator, *, trunk: Trunk, tissue: Tissue) -> np.ndarray:
    """Paint pancreas, duodenum and stomach; returns the stomach's depth."""
    space = canvas.space
    pancreas = ellipsoid(
        space,
        jitter(rng, (15, 12, 28), 8),
        rescale(rng, (62, 11, 16), 0.2),
        roll_deg=rng.uniform(-25, -5),
    )
    pancreas = space.perturb_surface(pancreas, rng, by_mm=2.5, over_mm=14)
    canvas.paint(np.minimum(pancreas, trunk.abdomen), tissue.pancreas * (1 + 0.2 * space.field(rng, 6)))
    duodenum = ellipsoid(space, jitter(rng, (-32, 18, 5), 8), rescale(rng, (13, 15, 34), 0.2))
    canvas.paint(duodenum, tissue.bowel * (1 + 0.3 * space.field(rng, 8)))
    stomach = ellipsoid(
        space,
        jitter(rng, (55, 28, 62), 12),
        rescale(rng, (42, 44, 42), 0.22),
        roll_deg=rng.uniform(-40, 10),
        lean=(0.25, -0.35),
    )
    stomach = np.minimum(space.perturb_surface(stomach, rng, by_mm=4, over_mm=30), trunk.abdomen - 2)
    canvas.paint(stomach, 0.85 * tissue.stomach)
    folds = tissue.stomach * (1 + 0.3 * space.field(rng, 9) + 0.35 * space.field(rng, 28))
    # Gas rises to the front of a patient on the back.
    gas = np.clip((space.y - rng.uniform(30, 60)) / 6, 0, 1)
    canvas.paint(stomach - 5, np.clip(folds * (1 - 0.8 * gas), 0.05, 1.1))
    return stomach


def paint_back(canvas: Canvas, rng: np.random.Generator, *, trunk: Trunk, tissue: Tissue) -> None:
    """Paint the spine and the muscles beside it."""
    space = canvas.space
    muscle = tissue.muscle * (1 + 0.25 * space.field(rng, 6))
    spine_y = rng.uniform(-30, -20)
    for side in (-1, 1):
        erector = column(space, (side * 35, spine_y - 44), rescale(rng, (34, 25), 0.12))
        canvas.paint(np.minimum(erector, trunk.body - 7), muscle)
        psoas_mm = np.clip(19 - 0.16 * space.z, 0, 24)
        psoas = psoas_mm - np.hypot(space.x - side * (36 - 0.12 * space.z), space.y - spine_y - 4)
        canvas.paint(psoas, 1.1 * muscle)
    # Discs come every 36 mm or so between the vertebral bodies.
    disc = np.cos(2 * np.pi * (space.z / rng.uniform(32, 38) + rng.uniform())) > 0.75
    bone = np.where(disc, 0.7 * tissue.marrow, tissue.marrow) * (1 + 0.15 * space.field(rng, 6))
    canvas.paint(column(space, (0, spine_y), rescale(rng, (22, 17), 0.1)), bone)
    canvas.paint(column(space, (0, spine_y - 24), (17, 11)), 0.7 * tissue.muscle)
    process = np.minimum(column(space, (0, spine_y - 44), (4, 18)), trunk.body - 8)
    canvas.paint(process, 0.8 * tissue.marrow)
    canal = column(space, (0, spine_y - 22), rescale(rng, (10, 8), 0.1))
    canvas.paint(canal, 1.0)
    canvas.paint(canal - 5, rng.uniform(0.45, 0.8))


def paint_great_vessels(canvas: Canvas, rng: np.random.Generator, *, tissue: Tissue) -> np.ndarray:
    """Paint aorta and inferior vena cava; returns the vein's depth."""
    space = canvas.space
    aorta = column(space, jitter(rng, (9, 3), 6), rescale(rng, (10, 10), 0.15))
    vein = column(space, jitter(rng, (-18, 4), 5), rescale(rng, (12, 9), 0.15))
    # Fast blood leaves a void; slow blood shines, more so far from the heart.
    void = np.clip((space.z - rng.uniform(-20, 60)) / 40, 0, 1)
    for vessel in (aorta, vein):
        canvas.paint(vessel, 0.6 * tissue.vessel)
        canvas.paint(vessel - 2, tissue.vessel * (1 - 0.75 * void))
    return vein


def paint_chest(canvas: Canvas, rng: np.random.Generator, *, trunk: Trunk, tissue: Tissue) -> None:
    """Paint lung and heart above the diaphragm."""
    space = canvas.space
    chest = np.minimum(trunk.cavity, -trunk.abdomen - 3)
    canvas.paint(chest, tissue.lung)
    bronchi = vessel_tree(space, rng, radius_mm=2, over_mm=18)
    canvas.paint(np.minimum(bronchi, chest - 3), 3 * tissue.lung)
    heart = ellipsoid(space, jitter(rng, (28, 38, 128), 8), rescale(rng, (52, 40, 36), 0.12), roll_deg=-25)
    blurred = 0.35 * tissue.vessel * (1 + 0.4 * space.field(rng, 16))
    canvas.paint(np.minimum(heart, chest), np.clip(blurred, 0.05, 1))
