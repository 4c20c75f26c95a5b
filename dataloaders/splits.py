"""Split scans into folds: the published ones, which overlap, or disjoint ones."""

from collections.abc import Sequence
from dataclasses import dataclass

from data.layout import DatasetLayout
from util.errors import NothingToDo, UserError, shorten_list
from util.evaluation import N_FOLDS

# Forms of the folds, and what they mean for the queries.
FOLDS = {
    "overlapping": "neighbours share a scan, so some scans are queries twice",
    "disjoint": "no scan is in two of them",
}
_DEFAULT_FOLDS = "overlapping"
_MAX_NAMED = 10


def fold_scan_ids(scan_ids: Sequence[int], fold: int, *, folds: str = _DEFAULT_FOLDS) -> list[int]:
    """List the scans that fold `fold` evaluates, in id order.

    With `step = n // N_FOLDS`, the fold holds positions `fold * step` to `(fold + 1) * step` inclusive; the
    last one holds the rest and the first scan. Source: the protocol that this family of methods shares
    (CHAOST2 0-4, 4-8, 8-12, 12-16, 16-19+0). Disjoint folds are the same without the scan that is also the
    first of the next fold, so a disjoint fold is part of the overlapping one of the same number.

    Args:
        scan_ids: all scans of the dataset, in any order, each once.
        fold: 0 to `N_FOLDS - 1`.
        folds: one of `FOLDS`.

    Returns:
        Increasing ids, of overlapping folds at least two; scan 0 comes first in their last one.

    Raises:
        UserError: a number is out of range, an id occurs twice, or there are fewer scans than folds.
    """
    _check(scan_ids, fold)
    ordered = sorted(scan_ids)
    step = len(ordered) // N_FOLDS
    start, n_shared = fold * step, int(folds == "overlapping")
    if fold == N_FOLDS - 1:
        return [*ordered[:n_shared], *ordered[start:]]
    return ordered[start : start + step + n_shared]


@dataclass(frozen=True)
class Split:
    """The ids of the scans that a fold evaluates and trains on, in increasing order.

    Attributes:
        held_out: labelled scans; empty if they are too few for folds.
        training: all others, with labels or without.
        unlabelled: those of `training` without labels.
    """

    held_out: tuple[int, ...]
    training: tuple[int, ...]
    unlabelled: tuple[int, ...]


def split_scans(
    scan_ids: Sequence[int],
    labelled_ids: Sequence[int],
    fold: int,
    *,
    folds: str = _DEFAULT_FOLDS,
    source: object = "data",
) -> Split:
    """Split a dataset's scans for one fold.

    Folds are made of labelled scans (`fold_scan_ids`); scans without labels train in every fold. With fewer
    labelled scans than folds none is held out: fold 0 then trains on all scans, if some have no labels.

    Args:
        scan_ids: all scans, in any order, each once.
        labelled_ids: those with labels.
        fold: 0 to `N_FOLDS - 1`.
        folds: one of `FOLDS`.
        source: of the scans, for messages.

    Raises:
        UserError: as `fold_scan_ids` does.
        NothingToDo: there are no folds, and `fold` is not 0.
    """
    labelled = set(labelled_ids)
    unlabelled = tuple(sorted(set(scan_ids) - labelled))
    if len(labelled) >= N_FOLDS:
        held_out = fold_scan_ids(sorted(labelled), fold, folds=folds)
        training = labelled.union(unlabelled).difference(held_out)
        return Split(tuple(held_out), tuple(sorted(training)), unlabelled)
    if not unlabelled:
        raise UserError(
            f"{source}: {N_FOLDS} folds need at least {N_FOLDS} scans, got {len(labelled)}; add scans"
        )
    if fold > 0:
        raise NothingToDo(
            f"eval_fold={fold}: {len(labelled)} labelled scans make no folds; eval_fold=0 trains on all scans"
        )
    return Split((), tuple(sorted(scan_ids)), unlabelled)


def find_split(
    layout: DatasetLayout,
    fold: int,
    *,
    n_phantom_scans: int,
    folds: str = _DEFAULT_FOLDS,
    scan_ids: Sequence[int] = (),
) -> Split:
    """Split a prepared dataset for one fold.

    Args:
        layout: paths of its files.
        fold: 0 to 4.
        n_phantom_scans: number of PHANTOM's scans, all labelled, whose files may not exist yet.
        folds: one of `FOLDS`.
        scan_ids: all scans, if known.

    Raises:
        UserError, NothingToDo: as `split_scans`, `DatasetLayout.scan_ids` and `check_labels` do.
    """
    is_phantom = layout.spec.is_synthetic
    scan_ids = scan_ids or (range(n_phantom_scans) if is_phantom else layout.scan_ids())
    labelled_ids = scan_ids if is_phantom else set(layout.labelled_ids()).intersection(scan_ids)
    split = split_scans(scan_ids, sorted(labelled_ids), fold, folds=folds, source=layout.volumes_dir)
    if not is_phantom:
        layout.check_labels()
    return split


def describe_split(split: Split) -> list[str]:
    """Describe what is unusual about a split, one line each."""
    if not split.held_out:
        n_scans = len(split.training)
        return [f"all {n_scans} scans train: fewer than {N_FOLDS} have labels, which only evaluation needs"]
    if split.unlabelled:
        names = shorten_list(split.unlabelled, n_max=_MAX_NAMED)
        return [f"{len(split.unlabelled)} scan(s) without labels, which no fold evaluates: {names}"]
    return []


def _check(scan_ids: Sequence[int], fold: int) -> None:
    if not 0 <= fold < N_FOLDS:
        raise UserError(f"eval_fold={fold}: must be 0 to {N_FOLDS - 1}")
    if len(set(scan_ids)) != len(scan_ids):
        duplicate = next(scan_id for scan_id in sorted(scan_ids) if list(scan_ids).count(scan_id) > 1)
        raise UserError(f"scan ids must be unique, got {duplicate} more than once; keep one")
    if len(scan_ids) < N_FOLDS:
        raise UserError(f"{N_FOLDS} folds need at least {N_FOLDS} scans, got {len(scan_ids)}; add scans")
