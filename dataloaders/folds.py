"""Split scans into the published folds, of which neighbours share one scan."""

from collections.abc import Sequence
from pathlib import Path

from util.errors import UserError


def fold_scan_ids(scan_ids: Sequence[int], fold: int, n_folds: int = 5) -> list[int]:
    """List the scans that fold `fold` evaluates, in id order.

    With `step = n // n_folds`, the fold holds positions `fold * step` to `(fold + 1) * step` inclusive; the
    last one holds all that is left and the first scan. Source: the protocol that this family of methods
    shares (CHAOST2 0-4, 4-8, 8-12, 12-16, 16-19+0).

    Args:
        scan_ids: all scans of the dataset, in any order, each once.
        fold: 0 to `n_folds - 1`.
        n_folds: at least 2.

    Returns:
        At least two ids, increasing; scan 0 therefore comes first in the last fold.

    Raises:
        UserError: a number is out of range, an id occurs twice, or there are fewer scans than folds.
    """
    _check(scan_ids, fold, n_folds)
    ordered = sorted(scan_ids)
    step = len(ordered) // n_folds
    start = fold * step
    if fold == n_folds - 1:
        return [ordered[0], *ordered[start:]]
    return ordered[start : start + step + 1]


def training_scan_ids(scan_ids: Sequence[int], fold: int, n_folds: int = 5) -> list[int]:
    """List the scans outside fold `fold`, in id order.

    See `fold_scan_ids` for the arguments.

    Raises:
        UserError: as `fold_scan_ids` does, or the fold leaves no scan to train on.
    """
    held_out = set(fold_scan_ids(scan_ids, fold, n_folds))
    remaining = [scan_id for scan_id in sorted(scan_ids) if scan_id not in held_out]
    if not remaining:
        raise UserError(
            f"eval_fold={fold}: leaves none of {len(scan_ids)} scans to train on; "
            "neighbour folds share a scan, so add scans or use more folds"
        )
    return remaining


def check_number(scan_ids: Sequence[int], n_folds: int, *, folder: Path) -> None:
    """Raise `UserError`, which names their folder, for too few scans."""
    if len(scan_ids) < n_folds:
        raise UserError(
            f"{folder}: {n_folds} folds need at least {n_folds} scans, got {len(scan_ids)}; add scans"
        )


def _check(scan_ids: Sequence[int], fold: int, n_folds: int) -> None:
    if n_folds < 2:
        raise UserError(f"n_folds={n_folds}: must be at least 2")
    if not 0 <= fold < n_folds:
        raise UserError(f"eval_fold={fold}: must be 0 to {n_folds - 1}")
    if len(set(scan_ids)) != len(scan_ids):
        duplicate = next(scan_id for scan_id in sorted(scan_ids) if list(scan_ids).count(scan_id) > 1)
        raise UserError(f"scan ids must be unique, got {duplicate} more than once; keep one")
    if len(scan_ids) < n_folds:
        raise UserError(f"{n_folds} folds need at least {n_folds} scans, got {len(scan_ids)}; add scans")
