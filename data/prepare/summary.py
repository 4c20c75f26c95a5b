"""Summarise a prepared dataset: fingerprint, contact sheet and a table."""

import json
from dataclasses import asdict
from pathlib import Path

from data.contact_sheet import draw_contact_sheet
from data.fingerprint import FINGERPRINT_NAME, ScanFingerprint, read_fingerprint, write_fingerprint
from data.layout import DatasetLayout
from data.volume_records import PREPARATION_VERSION
from util.io.files import remove_file
from util.io.json_files import read_json, write_json
from util.remarks import remark

CONTACT_SHEET_NAME = "contact_sheet.png"
_RECORD_NAME = "summary.record.json"


def update_summaries(layout: DatasetLayout, *, n_workers: int | None = None) -> bool:
    """Update fingerprint and contact sheet; returns whether they were outdated.

    Raises:
        UserError: a volume cannot be read or a file cannot be written.
    """
    inputs = _summary_inputs(layout)
    record_path = layout.volumes_dir / _RECORD_NAME
    if read_json(record_path, dict) == {"described": inputs, "written": _summary_outputs(layout)}:
        return False
    remove_summaries(layout)
    write_fingerprint(layout, n_workers=n_workers)
    try:
        draw_contact_sheet(layout, layout.data_dir / CONTACT_SHEET_NAME, n_workers=n_workers)
    except ImportError as error:
        remark(f"{layout.data_dir}: no {CONTACT_SHEET_NAME}, as matplotlib cannot be used ({error})")
    record = {"described": inputs, "written": _summary_outputs(layout)}
    write_json(record_path, record)
    return True


def remove_summaries(layout: DatasetLayout) -> None:
    """Remove fingerprint and contact sheet until the changing volumes are complete."""
    for name in (FINGERPRINT_NAME, CONTACT_SHEET_NAME):
        remove_file(layout.data_dir / name)


def describe_scans(layout: DatasetLayout) -> str:
    """Format the fingerprint of each scan as a table; empty without a fingerprint."""
    fingerprint = read_fingerprint(layout)
    if fingerprint is None:
        return ""
    rows = [("scan", "name", "slices x rows x columns", "spacing (z, y, x) mm", "supervoxels", "organs")]
    rows += [_row(scan) for scan in fingerprint.scans]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _row(scan: ScanFingerprint) -> tuple[str, ...]:
    organs = "no labels"
    if scan.organs is not None:
        missing = [organ.name for organ in scan.organs if organ.n_voxels == 0]
        organs = f"{len(scan.organs) - len(missing)} of {len(scan.organs)}"
        organs += f", without {', '.join(missing)}" if missing else ""
    return (
        str(scan.scan_id),
        scan.name or "",
        " x ".join(map(str, scan.shape)),
        ", ".join(f"{step:g}" for step in scan.spacing_mm),
        str(scan.supervoxels.count) if scan.supervoxels else "none",
        organs,
    )


def _summary_inputs(layout: DatasetLayout) -> dict:
    """Return what the summaries depend on, files by size and time, as plain values."""
    files = [
        path
        for scan_id in layout.scan_ids()
        for path in (layout.image_path(scan_id), layout.label_path(scan_id), layout.supervoxel_path(scan_id))
    ]
    values = {
        "preparation_version": PREPARATION_VERSION,
        "spec": asdict(layout.spec),
        "supervoxel_min_vox": layout.supervoxel_min_vox,
        "files": {path.name: _size_and_time(path) for path in files if path.exists()},
    }
    return json.loads(json.dumps(values))


def _summary_outputs(layout: DatasetLayout) -> dict:
    paths = [layout.data_dir / name for name in (FINGERPRINT_NAME, CONTACT_SHEET_NAME)]
    return {path.name: _size_and_time(path) for path in paths if path.exists()}


def _size_and_time(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
