"""Choose the support scan of each organ in a fold."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from dataloaders.splits import Split
from util.errors import UserError
from util.remarks import remark

DEFAULT_SUPPORT = 2  # position among the candidates, by the published protocol
SUPPORT_SCANS = ("fold", "outside")
Scan = TypeVar("Scan")


def list_candidates(split: Split, support_scans: str) -> tuple[int, ...]:
    """List the labelled scans that may be a support, in order of position.

    Args:
        split: the fold's.
        support_scans: `fold`: the held-out scans, in id order; `outside`: all other labelled scans, from the
            first one after the fold on and then from the lowest id, so that folds differ in their support.
    """
    if support_scans == "fold":
        return split.held_out
    outside = set(split.training).difference(split.unlabelled)
    last = split.held_out[-1]
    return tuple(sorted(outside, key=lambda scan_id: (scan_id < last, scan_id)))


def choose_support_position(supp_idx: int, n_candidates: int, *, support_scans: str = "fold") -> int:
    """Return the position of the support among `n_candidates` scans.

    With fewer than three, as folds of 5 to 9 scans have, the default of 2 means the last one.

    Raises:
        UserError: there is no such position.
    """
    holder = "the fold holds" if support_scans == "fold" else "the data outside the fold hold"
    description = f"supp_idx={supp_idx}: {holder} {n_candidates} scans"
    if supp_idx == DEFAULT_SUPPORT and 0 < n_candidates <= DEFAULT_SUPPORT:
        remark(f"{description}, the last one is the support")
        return n_candidates - 1
    if supp_idx >= n_candidates:
        raise UserError(f"{description}, counted from 0; choose a smaller one")
    return supp_idx


def choose_supports(
    candidates: Sequence[int],
    organs: Mapping[int, str],
    *,
    position: int,
    n_slices: int,
    load: Callable[[int], Scan],
    count_slices: Callable[[Scan, int], int],
) -> tuple[dict[int, Scan], list[str]]:
    """Choose each organ's support: the requested scan, or the nearest that shows it.

    Of two scans equally near, the one of the lower position is chosen. No other scan's labels are used.

    Args:
        candidates: scan ids, by position.
        organs: label -> name.
        position: the requested position.
        n_slices: how many slices of a support must contain the organ.
        load: returns a candidate; called once per candidate, and only for those that are considered.
        count_slices: returns in how many slices a candidate contains a label.

    Returns:
        Label -> support, without organs that no candidate shows, and a line for each organ whose support is
        not the requested one.
    """
    by_distance = sorted(range(len(candidates)), key=lambda index: (abs(index - position), index))
    loaded: dict[int, Scan] = {}

    def scan_at(index: int) -> Scan:
        if index not in loaded:
            loaded[index] = load(candidates[index])
        return loaded[index]

    supports, lines = {}, []
    requested = f"scan {candidates[position]} (position {position})"
    for label, organ in organs.items():
        eligible = (index for index in by_distance if count_slices(scan_at(index), label) >= n_slices)
        nearest = next(eligible, None)
        if nearest is None:
            lines.append(
                f"{organ}: skipped in this fold, as no scan that may be its support shows it in at least "
                f"{n_slices} slices"
            )
            continue
        supports[label] = scan_at(nearest)
        if nearest != position:
            lines.append(
                f"{organ}: the support is scan {candidates[nearest]} (position {nearest}), because "
                f"{requested} shows it in {count_slices(scan_at(position), label)} slices, fewer than "
                f"{n_slices}"
            )
    return supports, lines


def describe_supports(support_ids: Mapping[str, int]) -> str:
    """Describe in one line which support serves which organs; takes organ -> scan id."""
    organs_of: dict[int, list[str]] = {}
    for organ, scan_id in support_ids.items():
        organs_of.setdefault(scan_id, []).append(organ)
    parts = (f"{scan_id} for {', '.join(organs)}" for scan_id, organs in organs_of.items())
    return f"support scans: {'; '.join(parts)}"
