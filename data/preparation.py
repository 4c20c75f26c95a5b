"""Ensure that a dataset's prepared volumes exist and have not changed."""

from data.fingerprint import FINGERPRINT_NAME, hash_dataset, read_fingerprint
from data.layout import DatasetLayout
from data.phantom.scans import PhantomSettings, make_phantom
from data.prepared_files import CASES_NAME, check_axes, read_case_names
from util.errors import UserError


def ensure_volumes(layout: DatasetLayout, *, phantom: PhantomSettings, n_phantom_scans: int) -> list[int]:
    """Return the ids of a dataset's scans, after making missing ones of PHANTOM.

    Raises:
        UserError: volumes of a real dataset are missing, or PHANTOM's cannot be written.
    """
    if layout.spec.is_synthetic:
        make_phantom(layout.data_dir, phantom, n_scans=n_phantom_scans)
    scan_ids = layout.scan_ids()
    layout.check_labels()
    missing = sorted(set(read_case_names(layout)) - set(scan_ids))
    if missing:
        raise UserError(
            f"{layout.volumes_dir}: lacks {len(missing)} scans that {CASES_NAME} lists, {missing[0]} the "
            "first; run script/prepare.sh again, which resumes where it was interrupted"
        )
    check_axes(layout, scan_ids)
    return scan_ids


def hash_volumes(layout: DatasetLayout) -> str:
    """Return the hash of a dataset's fingerprint.

    It is recomputed from all volumes unless the fingerprint was written after them.

    Raises:
        UserError: a volume or the fingerprint is damaged.
    """
    path = layout.data_dir / FINGERPRINT_NAME
    if path.is_file():
        scan_ids, labelled_ids = layout.scan_ids(), layout.labelled_ids()
        files = [*map(layout.image_path, scan_ids), *map(layout.label_path, labelled_ids)]
        written = path.stat().st_mtime_ns
        if all(file.stat().st_mtime_ns <= written for file in files):
            fingerprint = read_fingerprint(layout)
            if fingerprint is not None and fingerprint.matches(scan_ids, labelled_ids):
                return fingerprint.hash
    return hash_dataset(layout)


def describe_change(hash_before: str | None, hash_now: str | None) -> list[str]:
    """Warn, in one line, of a changed hash of the volumes; None means unknown."""
    if None in (hash_before, hash_now) or hash_before == hash_now:
        return []
    return [f"warning: the volumes changed since the training (fingerprint {hash_before}, now {hash_now})"]
