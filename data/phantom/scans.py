"""PHANTOM: synthetic abdominal T2-like scans with CHAOST2's four organs.

A scan is a function of the settings and its id. `python -m data.phantom --data-dir data/PHANTOM` writes scans
in the layout of prepared volumes.
"""

import re
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.datasets import find_spec
from data.layout import DatasetLayout
from data.phantom.anatomy import draw_patient
from data.phantom.space import Axes, Space, smooth_field
from util.errors import UserError
from util.io.image_io import Geometry, write_volume
from util.io.json_files import read_json, write_json

# Increase it whenever the same parameters give other scans: data of another version is rebuilt.
GENERATOR_VERSION = 2

# The grid of CHAOST2's prepared scans: 256 x 256 pixels of 1.25 mm, slices 7.7 mm apart.
_FIELD_OF_VIEW_MM = 320.0
_SLICE_STEP_MM = 7.7
# A thick slice averages this many thin ones.
_THIN_PER_SLICE = 2
# Lower end of the kidneys and top of the liver, nominal millimetres above the kidneys' middle.
_ORGANS_FROM_MM, _ORGANS_TO_MM = -56.0, 112.0
# Fewer slices or pixels cannot hold four organs.
_MIN_SLICES, _MIN_SIZE_PX = 18, 32
_CLIP_PERCENTILE = 99.5
_RECORD_NAME = "phantom.json"
_MADE_BY = "data.phantom"


@dataclass(frozen=True)
class PhantomSettings:
    """Parameters of the scans.

    Attributes:
        image_size_px: side of the square slices; the field of view is always 320 mm.
        min_slices, max_slices: range of a scan's number of slices, inclusive; each 7.7 mm.
        seed: of the whole dataset.

    Raises:
        UserError: a value is out of range.
    """

    image_size_px: int = 64
    min_slices: int = 20
    max_slices: int = 28
    seed: int = 2025

    def __post_init__(self):
        if self.image_size_px < _MIN_SIZE_PX:
            raise UserError(
                f"phantom: image_size_px must be at least {_MIN_SIZE_PX}, got {self.image_size_px}"
            )
        if not _MIN_SLICES <= self.min_slices <= self.max_slices:
            raise UserError(
                f"phantom: slices must satisfy {_MIN_SLICES} <= min_slices <= max_slices, "
                f"got {self.min_slices} and {self.max_slices}"
            )
        if self.seed < 0:
            raise UserError(f"phantom: seed must be 0 or more, got {self.seed}")


def render_scan(scan_id: int, settings: PhantomSettings) -> tuple[np.ndarray, np.ndarray, Geometry]:
    """Render one scan; a pure function of its arguments.

    Args:
        scan_id: 0 or more.
        settings: grid and seed.

    Returns:
        The image `(Z, H, W)` int16 (0 to about 1500), the label map `(Z, H, W)` uint8 (CHAOST2's labels) and
        their geometry. Slices run from feet to head, rows from back to front, columns from the patient's
        right to the left, as in CHAOST2's files.
    """
    rng = np.random.default_rng([settings.seed, scan_id])
    n_slices = int(rng.integers(settings.min_slices, settings.max_slices + 1))
    space = _draw_space(rng, n_slices=n_slices, image_size_px=settings.image_size_px)
    signal, shares = draw_patient(rng, space)
    label_map = _label_map({label: _average_thin_slices(share) for label, share in shares.items()})
    image = _acquire(rng, _average_thin_slices(signal), _slices_of(space.axes))
    step_mm = _FIELD_OF_VIEW_MM / settings.image_size_px
    geometry = Geometry(
        shape=image.shape,
        spacing_mm=(_SLICE_STEP_MM, step_mm, step_mm),
        # The table is rarely exactly in the isocentre.
        origin_mm=(
            -_FIELD_OF_VIEW_MM / 2 + float(rng.uniform(-20, 20)),
            _FIELD_OF_VIEW_MM / 2 + float(rng.uniform(-20, 20)),
            float(rng.uniform(-150, -50)),
        ),
        direction=(1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0),
    )
    return image, label_map, geometry


def make_phantom(
    data_dir: Path, settings: PhantomSettings = PhantomSettings(), *, n_scans: int = 20, progress: bool = True
) -> list[int]:
    """Write the scans that `data_dir` lacks, and return the ids of all.

    `phantom.json` records the settings. Other settings or another version of the generator rebuild all scans,
    a smaller `n_scans` removes the surplus, an unchanged call returns at once.

    Args:
        data_dir: folder that holds the volumes folder; created if missing.
        settings: grid and seed.
        n_scans: number of scans; ids are 0 to `n_scans - 1`.
        progress: show a progress bar.

    Raises:
        UserError: `n_scans` is not positive, or the folder cannot be written or holds foreign volumes.
    """
    if n_scans < 1:
        raise UserError(f"phantom: n_scans must be at least 1, got {n_scans}")
    data_dir = Path(data_dir)
    spec = find_spec("PHANTOM")
    layout = DatasetLayout(spec, data_dir, data_dir, spec.supervoxel_min_vox)
    parameters = {"made_by": _MADE_BY, "generator_version": GENERATOR_VERSION, **asdict(settings)}
    record = {**parameters, "n_scans": n_scans}
    previous = _read_record(data_dir / _RECORD_NAME)
    _check_no_foreign_volumes(layout, n_own=previous.get("n_scans", 0))
    # This order survives an interruption: the record always names every scan that the folder holds.
    has_same_parameters = {**previous, "n_scans": n_scans} == record
    _remove_scans(layout, range(n_scans if has_same_parameters else 0, previous.get("n_scans", 0)))
    if previous != record:
        write_json(data_dir / _RECORD_NAME, record, indent=2)
    ids = list(range(n_scans))
    missing = [i for i in ids if not (layout.image_path(i).is_file() and layout.label_path(i).is_file())]
    for scan_id in tqdm(missing, desc="phantom scans", unit="scan", disable=not (progress and missing)):
        image, label_map, geometry = render_scan(scan_id, settings)
        write_volume(layout.label_path(scan_id), label_map, geometry)
        write_volume(layout.image_path(scan_id), image, geometry)
    return ids


def _draw_space(rng: np.random.Generator, *, n_slices: int, image_size_px: int) -> Space:
    """Position the grid around a patient of random build, position and posture."""
    scale_x, scale_y, scale_z = rng.uniform((0.88, 0.88, 0.92), (1.06, 1.1, 1.08))
    span_mm = n_slices * _SLICE_STEP_MM
    from_mm, to_mm = _ORGANS_FROM_MM * scale_z, _ORGANS_TO_MM * scale_z
    # A long stack shows more at both ends; a short one truncates organs.
    start_mm = from_mm + rng.uniform() * (to_mm - from_mm - span_mm)
    thin = np.arange(n_slices * _THIN_PER_SLICE) + 0.5
    pixels = (np.arange(image_size_px) + 0.5) / image_size_px - 0.5
    in_plane_mm = pixels * _FIELD_OF_VIEW_MM
    axes = Axes(z_mm=start_mm + thin * _SLICE_STEP_MM / _THIN_PER_SLICE, y_mm=in_plane_mm, x_mm=in_plane_mm)
    shift_x, shift_y = rng.uniform(-18, 18, 2)
    x, y, z = (3.5 * smooth_field(rng, axes, 70) for _ in range(3))
    x += ((axes.x_mm - shift_x) / scale_x).astype(np.float32)
    y += ((axes.y_mm - shift_y) / scale_y).astype(np.float32)[:, None]
    z += (axes.z_mm / scale_z).astype(np.float32)[:, None, None]
    return Space(axes=axes, x=x, y=y, z=z)


def _slices_of(axes: Axes) -> Axes:
    return Axes(z_mm=axes.z_mm.reshape(-1, _THIN_PER_SLICE).mean(1), y_mm=axes.y_mm, x_mm=axes.x_mm)


def _average_thin_slices(volume: np.ndarray) -> np.ndarray:
    """Average thin slices `(Z * thin, H, W)` to thick ones `(Z, H, W)`."""
    return volume.reshape(-1, _THIN_PER_SLICE, *volume.shape[1:]).mean(1)


def _label_map(shares: dict[int, np.ndarray]) -> np.ndarray:
    """Label each voxel with the organ that fills more than half of it."""
    labels = np.array([0, *shares], np.uint8)
    stacked = np.stack([np.full_like(next(iter(shares.values())), 0.5), *shares.values()])
    return labels[stacked.argmax(0)]


def _acquire(rng: np.random.Generator, signal: np.ndarray, axes: Axes) -> np.ndarray:
    """Simulate the acquisition: contrast, coil shading, Rician noise and grey levels."""
    contrast = np.maximum(signal, 0) ** rng.uniform(0.75, 1.2)
    # The coil is weaker at the ends of the stack, and its shading differs from patient to patient.
    height = (axes.z_mm - axes.z_mm.mean()) / (axes.z_mm[-1] - axes.z_mm[0])
    ends = 1 - rng.uniform(0.3, 1.2) * np.abs(height + rng.uniform(-0.1, 0.1)) ** 2
    shading = np.exp(rng.uniform(0.2, 0.35) * smooth_field(rng, axes, 130)) * ends[:, None, None]
    noise = rng.uniform(0.004, 0.009) * rng.standard_normal((2, *signal.shape))
    magnitude = np.hypot(contrast * shading + noise[0], noise[1])
    clipped = np.minimum(magnitude, np.percentile(magnitude, _CLIP_PERCENTILE))
    return np.rint(clipped * rng.uniform(700, 1100)).astype(np.int16)


def _read_record(path: Path) -> dict:
    """Read a folder's record, `{}` if missing; raises `UserError` if invalid."""
    if not path.exists():
        return {}
    record = read_json(path, dict) or {}
    if record.get("made_by") == _MADE_BY and type(record.get("n_scans")) is int:
        return record
    raise UserError(f"{path}: not a record of the phantom; choose another folder or remove this file")


def _check_no_foreign_volumes(layout: DatasetLayout, *, n_own: int) -> None:
    """Raise `UserError` if a scan's id is `n_own` or more."""
    if layout.volumes_dir.exists() and not layout.volumes_dir.is_dir():
        raise UserError(f"{layout.volumes_dir}: must be a folder; choose another one or remove this file")
    entries = sorted(layout.volumes_dir.iterdir()) if layout.volumes_dir.is_dir() else []
    for entry in entries:
        match = re.fullmatch(r"(?:image|label)_(\d+)\.nii(?:\.gz)?", entry.name)
        if match and int(match[1]) >= n_own:
            raise UserError(
                f"{entry}: not made by the phantom's generator, which would overwrite it; "
                "choose another folder or move this file away"
            )


def _remove_scans(layout: DatasetLayout, scan_ids: range) -> None:
    """Remove existing files; a damaged record may claim any number of scans."""
    entries = list(layout.volumes_dir.iterdir()) if layout.volumes_dir.is_dir() else []
    for entry in entries:
        match = re.fullmatch(r"(?:image|label)_(\d+)\.nii\.gz", entry.name)
        if match and int(match[1]) in scan_ids:
            entry.unlink(missing_ok=True)
