"""Choose which labels of the supports to segment, and name them."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from data.custom_spec import DATASET_JSON
from util.errors import UserError
from util.io.json_files import read_json_object

BACKGROUND = "background"  # the name of 0
_NO_LABEL = "labels: the supports' masks hold no label above 0; outline the organ in one scan"
_MAX_LABELS = 254  # as renumbered label maps are uint8


def find_label_names(mask_paths: Iterable[Path | None]) -> dict[int, str]:
    """Read label names from a `dataset.json` beside a mask or in the folder above.

    Returns:
        Label id -> name without the background; empty without a usable file.
    """
    folders = [folder for path in mask_paths if path for folder in path.absolute().parents[:2]]
    for folder in folders:
        path = folder / DATASET_JSON
        if path.is_file():
            labels = read_json_object(path, kind=DATASET_JSON).get("labels")
            pairs = labels.items() if isinstance(labels, dict) else ()
            return {label: name for name, label in pairs if type(label) is int and label > 0}
    return {}


def choose_labels(
    requested: Sequence[str | int] | Mapping[int, str] | str | int | None,
    present: Collection[int],
    *,
    names: Mapping[int, str],
    training_names: Mapping[int, str],
) -> dict[int, str]:
    """Choose the labels to segment.

    Args:
        requested: ids, names, texts such as `1:liver` (one or several), or id -> name; None: all that are
            present.
        present: ids in the supports' masks.
        names: of ids, if known.
        training_names: of the labels of the training data; they name an id only if it is requested so,
            as the supports' ids may mean something else.

    Returns:
        Label id -> name in increasing order; "label <id>" if no name is known.

    Raises:
        UserError: a label is unknown, in none of the masks or named twice, or a name is used twice or is the
            background's; one line each.
    """
    selected: dict[int, str] = {}
    problems = []
    available = ", ".join(
        f"{label} {names[label]}" if label in names else str(label) for label in sorted(present)
    )
    if isinstance(requested, str | int):
        requested = (requested,)
    entries = requested.items() if isinstance(requested, Mapping) else requested
    for entry in sorted(present) if entries is None else entries:
        label, name = _parse_entry(entry, names, training_names)
        if label not in present:
            text = f"{entry[0]}:{entry[1]}" if isinstance(entry, tuple) else entry
            problems.append(
                f"labels={text}: must be a label of the supports' masks, which hold {available or 'none'}; "
                "give ids, or id:name"
            )
            continue
        name = name or names.get(label, f"label {label}")
        if selected.setdefault(label, name) != name:
            problems.append(f"labels: {label} must have one name, got {selected[label]} and {name}")
    problems += _selection_problems(selected) if selected or problems else [_NO_LABEL]
    if problems:
        raise UserError("\n".join(problems))
    return dict(sorted(selected.items()))


def _selection_problems(selected: Mapping[int, str]) -> list[str]:
    """List what is wrong with names and number of the chosen labels."""
    problems = []
    if len(set(selected.values())) < len(selected):
        problems.append(f"labels: names must differ, got {', '.join(selected.values())}")
    if BACKGROUND in selected.values():
        problems.append(f"labels: {BACKGROUND} names the voxels without a label; choose another name")
    if len(selected) > _MAX_LABELS:
        problems.append(
            f"labels: at most {_MAX_LABELS} at once, got {len(selected)}; choose some of them, or "
            "give the mask if this is the image"
        )
    return problems


def _parse_entry(
    entry: str | int | tuple[int, str], names: Mapping[int, str], training_names: Mapping[int, str]
) -> tuple[int | None, str | None]:
    """Return the id, None if unknown, and the name, None if not given."""
    if isinstance(entry, tuple):
        return entry
    number, colon, name = (part.strip() for part in str(entry).partition(":"))
    if number.isdecimal():
        return int(number), name if colon and name else None
    for known in (names, training_names):
        label = next((label for label, organ in known.items() if organ == str(entry).strip()), None)
        if label is not None:
            return label, known[label]
    return None, None


def renumber_labels(label_map: np.ndarray, labels: Iterable[int]) -> np.ndarray:
    """Renumber the chosen ids as 1, 2, ... in order; returns uint8, others are 0."""
    renumbered = np.zeros(label_map.shape, np.uint8)
    for position, label in enumerate(labels, start=1):
        renumbered[label_map == label] = position
    return renumbered
