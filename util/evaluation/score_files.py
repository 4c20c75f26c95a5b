"""Write, read and find the scores and cases of evaluations."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from util.errors import UserError
from util.evaluation.metrics import VolumeScore
from util.evaluation.report_cases import Case, Cases, PriorMask, SliceDice, SlicePair, View
from util.io.files import write_text
from util.io.json_files import write_json

SCORES_NAME, SUMMARY_FOLDER = "scores.json", "summary"
CASES_NAME = "report_cases.json"
# Increased when scores hold other columns, and cases other values.
FORMAT, _CASES_FORMAT = 2, 2
_READABLE_CASES = (1, _CASES_FORMAT)  # the first had no prior masks


@dataclass(frozen=True)
class Evaluation:
    """The content of a `scores.json`.

    Attributes:
        path: the file.
        scores: of all methods, protocols and supports.
        summary: means, settings and provenance.
    """

    path: Path
    scores: tuple[VolumeScore, ...]
    summary: dict[str, Any]


def write_scores(folder: Path, scores: Sequence[VolumeScore], summary: dict[str, Any]) -> None:
    """Write `scores.csv`, with a line per score, and `scores.json`, with a summary."""
    text = io.StringIO()
    names = [entry.name for entry in fields(VolumeScore)]
    writer = csv.DictWriter(text, fieldnames=names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(score) for score in scores)
    write_text(folder / "scores.csv", text.getvalue())
    content = {"format": FORMAT, "summary": summary, "scores": [asdict(score) for score in scores]}
    write_json(folder / SCORES_NAME, content)


def read_evaluation(path: Path) -> Evaluation:
    """Read a `scores.json`.

    Raises:
        UserError: it is damaged, or was written before the present metrics existed.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        is_old = "summary" in content and content.get("format") != FORMAT
        scores = () if is_old else tuple(VolumeScore(**score) for score in content["scores"])
        summary = dict(content.get("summary", {}))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: is damaged ({error}); evaluate the fold again") from error
    if is_old:
        raise UserError(
            f"{path}: was written by another version, with other metrics; evaluate the fold again"
        )
    return Evaluation(path, scores, summary)


def read_scores(path: Path) -> list[VolumeScore]:
    """Read the scores of a `scores.json`; raises as `read_evaluation`."""
    return list(read_evaluation(path).scores)


def find_newest_of_folds(runs_dir: Path) -> dict[int, Path]:
    """Find the newest `scores.json` of each evaluated fold.

    Args:
        runs_dir: holds `fold_<k>/evaluation/<number>/`.
    """
    newest = {}
    for path in runs_dir.glob(f"fold_*/evaluation/*/{SCORES_NAME}"):
        fold, number = path.parents[2].name.removeprefix("fold_"), path.parent.name
        if fold.isdecimal() and number.isdecimal():
            best = newest.get(int(fold))
            if best is None or int(best.parent.name) < int(number):
                newest[int(fold)] = path
    return dict(sorted(newest.items()))


def find_evaluation(path: Path) -> Path | None:
    """Find the `scores.json` of a run folder; None if it holds none itself."""
    if path.is_file():
        return path
    scores_path = path / SCORES_NAME
    return scores_path if scores_path.is_file() else None


def write_cases(folder: Path, cases: Cases) -> None:
    """Write cases as JSON."""
    write_json(folder / CASES_NAME, {"format": _CASES_FORMAT, **asdict(cases)}, indent=None)


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
        if content["format"] not in _READABLE_CASES:
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
