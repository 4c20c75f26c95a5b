"""Remember what each prepared volume was made from.

The record of scan 7 is `scan_7.record.json` beside `image_7.nii.gz` and `label_7.nii.gz`. The scan is made
anew exactly when the content of its raw files, its parameters or the code's version changed, or when a volume
is no longer what was written. A volume without a record is somebody else's.
"""

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from data.file_states import FileState, confirm_state, file_state
from data.layout import DatasetLayout
from data.raw.raw_scans import RawScan
from data.specs import DatasetSpec
from data.transforms import Preparation
from util.errors import UserError
from util.io.files import write_text

# Raise it with every change of readers or transforms that alters a prepared voxel or its place: volumes made
# by an older version are then made anew.
PREPARATION_VERSION = 2

_RECORD_NAME = re.compile(r"scan_(\d+)\.record\.json")


@dataclass(frozen=True)
class ScanRecord:
    """What one scan's volumes were made from.

    Attributes:
        recipe: all but the raw files that they depend on; see `make_recipe`.
        name: what the download calls the scan.
        raw: (role, name, state) of each raw file; not its folder, so that a download may move.
        image: the written image.
        label_map: the written label map; None for a scan without labels.
    """

    recipe: dict
    name: str
    raw: tuple[tuple[str, str, FileState], ...]
    image: FileState
    label_map: FileState | None


def make_recipe(spec: DatasetSpec, preparation: Preparation) -> dict:
    """Put all parameters that voxels depend on into plain values.

    They are as JSON gives them back.
    """
    recipe = {
        "preparation_version": PREPARATION_VERSION,
        "dataset": spec.name,
        "labels": sorted(spec.labels),
        "preparation": asdict(preparation),
    }
    return json.loads(json.dumps(recipe))


def hash_raw_files(scan: RawScan) -> tuple[tuple[str, str, FileState], ...]:
    """Hash a scan's raw files.

    Raises:
        UserError: one cannot be read.
    """
    return tuple((role, path.name, file_state(path)) for role, path in _raw_files(scan))


def record_path(layout: DatasetLayout, scan_id: int) -> Path:
    """Return where the record of a scan lies."""
    return layout.volumes_dir / f"scan_{scan_id}.record.json"


def list_recorded_ids(layout: DatasetLayout) -> list[int]:
    """List the ids of the scans that have a record, in increasing order.

    It may be damaged.
    """
    entries = layout.volumes_dir.iterdir() if layout.volumes_dir.is_dir() else ()
    return sorted(int(match[1]) for entry in entries if (match := _RECORD_NAME.fullmatch(entry.name)))


def write_record(path: Path, record: ScanRecord) -> None:
    """Write a record as JSON in one step; raises `UserError` when that fails."""
    write_text(path, json.dumps(asdict(record), indent=1) + "\n")


def read_record(path: Path) -> ScanRecord | None:
    """Read a record; None when it is missing, damaged or not one of ours."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        label_map = fields["label_map"]
        return ScanRecord(
            recipe=dict(fields["recipe"]),
            name=str(fields["name"]),
            raw=tuple((str(role), str(name), FileState(**state)) for role, name, state in fields["raw"]),
            image=FileState(**fields["image"]),
            label_map=None if label_map is None else FileState(**label_map),
        )
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def is_current(layout: DatasetLayout, scan_id: int, recipe: dict, *, scan: RawScan | None) -> bool:
    """Tell whether a scan's volumes are what its files and the recipe would give.

    Files are hashed only where their times differ from the record, which is then refreshed, so that the next
    look is quick again.

    Args:
        layout: where the volumes lie.
        scan_id: the scan's id.
        recipe: the present one.
        scan: its raw files; None where they are known to be unchanged.
    """
    path = record_path(layout, scan_id)
    record = read_record(path)
    if record is None or record.recipe != recipe:
        return False
    raw = record.raw if scan is None else _confirm_raw(record.raw, scan)
    image = confirm_state(record.image, layout.image_path(scan_id))
    is_same_label, label_map = _confirm_label(record.label_map, layout.label_path(scan_id))
    if raw is None or image is None or not is_same_label:
        return False
    confirmed = replace(record, raw=raw, image=image, label_map=label_map)
    if confirmed != record:
        with suppress(UserError):  # in a read-only folder nothing is lost but time
            write_record(path, confirmed)
    return True


def _confirm_label(known: FileState | None, path: Path) -> tuple[bool, FileState | None]:
    """Tell whether a label map is as known, or still missing; with its state now."""
    if known is None:
        return not path.exists(), None
    present = confirm_state(known, path)
    return present is not None, present


def _raw_files(scan: RawScan) -> Iterable[tuple[str, Path]]:
    yield from (("image", path) for path in scan.image_files)
    yield from (("label", path) for path in scan.label_files)


def _confirm_raw(
    known: tuple[tuple[str, str, FileState], ...], scan: RawScan
) -> tuple[tuple[str, str, FileState], ...] | None:
    """Return the raw files' present states if they are the known ones, else None."""
    files = list(_raw_files(scan))
    if [(role, path.name) for role, path in files] != [(role, name) for role, name, _ in known]:
        return None
    states = [confirm_state(state, path) for (_, _, state), (_, path) in zip(known, files, strict=True)]
    if None in states:
        return None
    return tuple((role, path.name, state) for (role, path), state in zip(files, states, strict=True))
