"""Write an evaluation's cases, and read them for the report of all folds."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from util.errors import UserError
from util.evaluation.metrics import VolumeScore
from util.evaluation.report_cases import Case, Cases, PriorMask, SliceDice, SlicePair, View
from util.io.json_files import write_json

CASES_NAME = "report_cases.json"
_FORMAT = 2  # increased when cases hold other values
_READABLE_FORMATS = (1, _FORMAT)  # the first had no prior masks


def write_cases(folder: Path, cases: Cases) -> None:
    """Write cases as JSON."""
    write_json(folder / CASES_NAME, {"format": _FORMAT, **asdict(cases)}, indent=None)


def read_cases(folder: Path) -> Cases | None:
    """Read the cases of an evaluation's folder; None if it has none of this version.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / CASES_NAME
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] not in _READABLE_FORMATS:
            return None
        return Cases([_restore_case(values) for values in content["cases"]], dict(content["images"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: is damaged ({error}); evaluate the fold again") from error


def _restore_case(values: dict[str, Any]) -> Case:
    slices = tuple(SliceDice(**entry) for entry in values["slices"])
    return Case(VolumeScore(**values["score"]), tuple(map(_restore_pair, values["pairs"])), slices)


def _restore_pair(values: dict[str, Any]) -> SlicePair:
    prior = values.get("prior")
    parts = {
        "query": View(**values["query"]),
        "support": View(**values["support"]),
        "prior": None if prior is None else PriorMask(**prior),
    }
    return SlicePair(**{**values, **parts})
