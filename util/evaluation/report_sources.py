"""List what a report's numbers come from: protocol, remarks, snapshots, versions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from util.config.overrides import flatten
from util.evaluation.method_names import SLICE_MEANINGS
from util.evaluation.metrics import VolumeScore
from util.evaluation.report_cases import Cases
from util.evaluation.report_figures import read_history
from util.evaluation.score_files import read_cases


def make_title(summary: Mapping[str, Any], scores: Sequence[VolumeScore]) -> str:
    """Return a title with dataset, setting, variant and folds."""
    config = summary.get("config") or {}
    folds = sorted({score.fold for score in scores})
    parts = [str(config.get("dataset", "evaluation"))]
    if config.get("setting") == 2:
        groups = {fold.get("organ_group") for fold in summary.get("folds") or [config]}
        parts.append("setting 2" if len(groups) > 1 else f"setting 2, organ group {groups.pop()}")
    if config.get("tag"):
        parts.append(str(config["tag"]))
    return ", ".join([*parts, f"{'folds' if len(folds) > 1 else 'fold'} {', '.join(map(str, folds))}"])


def describe_protocol(summary: Mapping[str, Any], scores: Sequence[VolumeScore]) -> list[str]:
    """Describe in three lines what was segmented with which support.

    The evaluation's own description wins.
    """
    recorded = (summary.get("protocol") or {}).get("description")
    if recorded:
        return list(recorded)
    protocols = dict.fromkeys(score.protocol for score in scores)
    supports = sorted({(score.fold, score.support_id) for score in scores})
    slices = " and ".join(f"{name} ({SLICE_MEANINGS.get(name, name)})" for name in protocols)
    support = ", ".join(f"scan {scan_id} in fold {fold}" for fold, scan_id in supports)
    n_scans = len({score.query_id for score in scores if score.has_organ})
    return [
        f"slices scored: {slices}",
        f"support: {support}",
        f"queries: {n_scans} distinct scans; one without an organ is left out of that organ's mean",
    ]


def list_folds(summary: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """List name and summary of each fold; a single evaluation has no name."""
    folds = summary.get("folds")
    if folds is None:
        return [("", summary)]
    several = len({fold.get("organ_group") for fold in folds}) > 1
    group_texts = [f", organ group {fold.get('organ_group')}" if several else "" for fold in folds]
    names = [
        f"fold {', '.join(map(str, fold['folds']))}{group}"
        for fold, group in zip(folds, group_texts, strict=True)
    ]
    return list(zip(names, folds, strict=True))


def list_remarks(summary: Mapping[str, Any], scores: Sequence[VolumeScore], cases: Cases) -> list[str]:
    """List the remarks of all folds, each once, and the folds without pictures."""
    folds_of: dict[str, list[str]] = {}
    for name, fold in list_folds(summary):
        for remark in fold.get("remarks") or ():
            folds_of.setdefault(remark, []).append(name)
    general = summary.get("remarks", []) if "folds" in summary else []
    lacking = {score.fold for score in scores} - {case.score.fold for case in cases.cases}
    general = [*general, *(f"fold {fold}: no pictures were recorded" for fold in sorted(lacking))]
    names = {remark: _join_names(folds) for remark, folds in folds_of.items()}
    return [*general, *(f"{name}: {remark}" if name else remark for remark, name in names.items())]


def _join_names(names: Sequence[str]) -> str:
    """Join names of folds: `folds 0, 1`, or in full where they name organ groups."""
    names = list(dict.fromkeys(names))
    if len(names) == 1 or any("," in name for name in names):
        return "; ".join(names)
    return f"folds {', '.join(name.removeprefix('fold ') for name in names)}"


def list_configuration(summary: Mapping[str, Any]) -> dict[str, Any]:
    """List the evaluation's settings by dotted name."""
    return dict(flatten(summary.get("config") or {}))


def list_commands(summary: Mapping[str, Any]) -> list[str]:
    """List the commands that train and evaluate each fold again."""
    return [line for _, fold in list_folds(summary) for line in fold.get("commands") or ()]


def list_facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List snapshots and data by name."""
    facts = [
        (
            " ".join(filter(None, (name, "snapshot"))),
            f"{fold.get('snapshot')}, step {fold.get('snapshot_step')}",
        )
        for name, fold in list_folds(summary)
        if fold.get("snapshot")
    ]
    return [*facts, ("data fingerprint", str(summary.get("data_fingerprint")))]


def list_environment(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return versions and machine; where folds differ, all values."""
    environments = [fold.get("environment") or {} for _, fold in list_folds(summary)]
    names = dict.fromkeys(name for environment in environments for name in environment)
    return {
        name: "; ".join(dict.fromkeys(str(environment.get(name)) for environment in environments))
        for name in names
    }


def read_cases_of_folds(summary: Mapping[str, Any]) -> Cases:
    """Read the cases saved with each fold's scores."""
    all_cases = (read_cases(Path(fold["scores"]).parent) for _, fold in list_folds(summary))
    return Cases.join(cases for cases in all_cases if cases is not None)


def read_histories(summary: Mapping[str, Any]) -> dict[str, dict]:
    """Read the metrics of the snapshots' training runs."""
    histories = {}
    for name, fold in list_folds(summary):
        if fold.get("snapshot"):
            history = read_history(Path(fold["snapshot"]).parent.parent / "metrics.json")
            if history:
                histories[name or "training"] = history
    return histories
