"""Compare evaluations scan by scan: differences, tests and tables."""

import csv
import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from util.config.overrides import flatten
from util.errors import UserError, shorten_list
from util.evaluation.fold_merging import describe_differences, merge_groups
from util.evaluation.metrics import METRICS, VolumeScore, metric_label
from util.evaluation.paper_tables import tabulate_metric, write_estimate_tables
from util.evaluation.report import final_method, format_table, select
from util.evaluation.score_files import SUMMARY_FOLDER, Evaluation, find_evaluation, read_evaluation
from util.evaluation.statistics import MIN_PAIRS, PairedComparison, compare_scans, scan_means, tabulate_scans
from util.io.files import write_text
from util.io.json_files import write_json

USAGE = "python validation.py compare <run> <run> [...] [out=<folder>] [common=True]"
PRINTED_METRICS = ("dice", "nsd", "hd95_mm")
# Keys of the configuration that must agree: data, organs and protocol. Networks and options may differ.
PROTOCOL_KEYS = ("dataset", "setting", "organ_group", "n_part", "supp_idx", "test_label", "protocol", "folds")
_MAX_LISTED = 4


@dataclass(frozen=True)
class Row:
    """A comparison of one metric of one organ between two runs, second minus first."""

    protocol: str
    metric: str
    organ: str
    first: str
    second: str
    first_mean: float
    second_mean: float
    comparison: PairedComparison


def compare_main(words: Sequence[str]) -> None:
    """Compare the runs named on the command line with the first of them.

    Raises:
        UserError: invalid arguments, missing or damaged files, or runs that cannot be compared.
    """
    names, out, allows_common = _parse_words(words)
    named_runs = [(name, _read_run(name)) for name in names]
    _refuse_repeated(named_runs)
    runs = dict(named_runs)
    check_comparable(runs, allows_common=allows_common)
    if allows_common:
        runs = _keep_common(runs)
    rows = compare_runs(runs)
    folder = Path(out) if out else _default_folder(names[0])
    warnings = [*describe_equal_runs(rows), *describe_small_samples(rows)]
    labels = {metric: metric_label(metric, runs[names[0]].scores) for metric in METRICS}
    tables = [
        tabulate_rows(rows, protocol, metric, label=labels[metric]) for protocol, metric in _printed(rows)
    ]
    print("\n".join([*tables, *warnings]))
    write_comparison(folder, runs, rows, warnings)
    print(f"compare.csv, compare.json, compare.md, compare.tex: {folder}")


def compare_runs(runs: dict[str, Evaluation]) -> list[Row]:
    """Compare each run with the first, by protocol and metric.

    Protocols that a run lacks are left out. The runs' scores are those of one method and the main support.
    """
    first, *others = runs
    protocols = dict.fromkeys(score.protocol for score in runs[first].scores)
    rows = []
    for other, protocol in itertools.product(others, protocols):
        pair = [select(runs[name].scores, protocol=protocol) for name in (first, other)]
        for metric in METRICS if all(pair) else ():
            rows += _compare_metric(pair, protocol, metric, names=(first, other))
    if not rows:
        shared = "no scan with the same organ and slices (chunks or all_slices) in common"
        raise UserError(f"{', '.join(runs)}: have {shared}; evaluate the same folds alike")
    return rows


def _compare_metric(
    pair: Sequence[Sequence[VolumeScore]], protocol: str, metric: str, *, names: tuple[str, str]
) -> Iterator[Row]:
    """Yield a row for each organ in the scores of two runs, and one for all organs."""
    tables = [tabulate_scans(scores, metric) for scores in pair]
    means = [scan_means(table) for table in tables]
    for organ, result in compare_scans(*tables).items():
        yield Row(protocol, metric, organ, *names, *(run_means[organ] for run_means in means), result)


def check_comparable(runs: dict[str, Evaluation], *, allows_common: bool) -> None:
    """Check that runs were evaluated on the same data, organs, supports and queries.

    Raises:
        UserError: they were not; what differs is named. Different supports and queries pass if
            `allows_common`.
    """
    first, *others = runs
    for other in others:
        settings = [_protocol_settings(runs[name]) for name in (first, other)]
        differences = describe_differences(*settings)
        if differences:
            raise UserError(
                f"{other}: was not evaluated as {first} ({differences}); evaluate both on the same data with "
                "the same protocol"
            )
        keys = [_score_keys(runs[name].scores) for name in (first, other)]
        if keys[0] != keys[1] and not allows_common:
            listed = "; ".join(
                f"only {name}: {_describe_keys(keys_of_run - other_keys)}"
                for name, keys_of_run, other_keys in ((first, *keys), (other, *keys[::-1]))
                if keys_of_run - other_keys
            )
            raise UserError(
                f"{other}: supports, queries or organs differ from {first} ({listed}); evaluate both "
                "alike, or set common=True to compare the scans and organs that both have"
            )


def describe_small_samples(rows: Sequence[Row]) -> list[str]:
    """Warn of comparisons over too few scans to reach p < 0.05."""
    small = sorted({row.comparison.n_scans for row in rows if row.comparison.n_scans < MIN_PAIRS})
    if not small:
        return []
    listed = " and ".join(map(str, small))
    return [
        f"warning: with {listed} scans no difference can reach p < 0.05 (two-sided signed-rank test; "
        f"at least {MIN_PAIRS} are needed), and intervals are too narrow; evaluate more folds"
    ]


def describe_equal_runs(rows: Sequence[Row]) -> list[str]:
    """Warn of runs whose scores are all those of the first."""
    differing = {row.second for row in rows if row.comparison.difference or row.comparison.rank_biserial}
    equal = dict.fromkeys(row.second for row in rows if row.second not in differing)
    return [f"warning: {name}: equals {rows[0].first} in every score; is it the same run?" for name in equal]


def tabulate_rows(rows: Sequence[Row], protocol: str, metric: str, *, label: str) -> str:
    """Format the comparisons of a protocol and metric as text."""
    digits = METRICS[metric].n_decimals
    lines = []
    for row in rows:
        if (row.protocol, row.metric) != (protocol, metric):
            continue
        result = row.comparison
        interval = "" if result.low is None else f" [{result.low:+.{digits}f}, {result.high:+.{digits}f}]"
        lines.append(
            [
                row.second,
                row.organ,
                f"{row.first_mean:.{digits}f}",
                f"{row.second_mean:.{digits}f}",
                f"{result.difference:+.{digits}f}{interval}",
                f"{result.p:.3f}",
                "-" if result.p_holm is None else f"{result.p_holm:.3f}",
                f"{result.rank_biserial:+.2f}",
                str(result.n_scans),
            ]
        )
    header = ["run", "organ", "first", "run's", "difference [95 %]"]
    header += ["p", "p (Holm)", "rank-biserial", "scans"]
    name = next(row.first for row in rows)
    title = f"{label}, {protocol}: difference from {name}"
    return f"{title}\n{format_table(header, lines)}\n"


def write_comparison(
    folder: Path, runs: dict[str, Evaluation], rows: Sequence[Row], warnings: Sequence[str]
) -> None:
    """Write `compare.csv`, `compare.json`, `compare.md` and `compare.tex`.

    Raises `UserError` if a file cannot be written.
    """
    entries = [{**asdict(row), **asdict(row.comparison)} for row in rows]
    for entry in entries:
        del entry["comparison"]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(entries[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(entries)
    write_text(folder / "compare.csv", text.getvalue())
    sources = {
        name: {"scores": str(run.path), "method": run.scores[0].method, "summary": run.summary}
        for name, run in runs.items()
    }
    content = {"runs": sources, "comparisons": entries, "warnings": list(warnings)}
    write_json(folder / "compare.json", content)
    tables = [
        tabulate_metric(
            {name: select(run.scores, protocol=protocol) for name, run in runs.items()}, metric, protocol
        )
        for protocol, metric in _printed(rows)
    ]
    write_estimate_tables(folder, "compare", tables)


def _parse_words(words: Sequence[str]) -> tuple[list[str], str | None, bool]:
    options = {"out": "", "common": "False"}
    names: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name in options:
            options[name] = value
        elif equals and not Path(word).exists():
            raise UserError(f"{word}: unknown option; usage: {USAGE}")
        elif word != "with":
            names.append(word.rstrip("/") or word)
    if len(names) < 2:
        raise UserError(f"compare needs two or more runs, got {len(names)}; usage: {USAGE}")
    if options["common"] not in ("True", "False"):
        raise UserError(f"common={options['common']}: must be True or False")
    return names, options["out"] or None, options["common"] == "True"


def _read_run(name: str) -> Evaluation:
    """Read the main support's scores of one method: `<folder>` or `<folder>@<method>`."""
    text, _, method = name.partition("@") if not Path(name).exists() else (name, "", "")
    path = Path(text)
    scores_path = find_evaluation(path)
    if scores_path is not None:
        run = read_evaluation(scores_path)
    elif any(path.glob("fold_*/evaluation")):
        scores, summary, _ = merge_groups([path])
        run = Evaluation(path, tuple(scores), summary)
    else:
        raise UserError(
            f"{path}: holds no scores.json and no fold_<k>/evaluation; give an evaluation run, a "
            f"{SUMMARY_FOLDER} folder or a folder of a cross-validation"
        )
    method = method or final_method({score.method for score in run.scores})
    scores = select(run.scores, method=method, main_support=True)
    if not scores:
        methods = ", ".join(dict.fromkeys(score.method for score in run.scores)) or "no"
        raise UserError(f"{name}: has no scores of {method}; it has {methods}")
    return replace(run, scores=tuple(scores))


def _refuse_repeated(runs: Sequence[tuple[str, Evaluation]]) -> None:
    """Refuse one method of one evaluation that is named twice, whatever its path."""
    names: dict[tuple[Path, str], str] = {}
    for name, run in runs:
        key = run.path.resolve(), run.scores[0].method
        if key in names:
            raise UserError(
                f"{name}: is the same run as {names[key]}; name two runs, or two methods of one, such as "
                f"{name.partition('@')[0]}@registration"
            )
        names[key] = name


def _protocol_settings(run: Evaluation) -> dict[str, Any]:
    settings = dict(flatten(run.summary.get("config") or {}))
    return {
        **{name: settings[name] for name in PROTOCOL_KEYS if name in settings},
        "data_fingerprint": run.summary.get("data_fingerprint"),
        "nsd_tolerance_mm": sorted({score.nsd_tolerance_mm for score in run.scores}),
    }


def _score_keys(scores: Sequence[VolumeScore]) -> set[tuple[str, int, int, int, str]]:
    """Return what was scored, without the protocols that one run alone may have."""
    return {(s.fold, s.support_id, s.query_id, s.organ) for s in scores if s.has_organ}


def _describe_keys(keys: set[tuple]) -> str:
    texts = [f"fold {fold} support {s} query {q} {organ}" for fold, s, q, organ in sorted(keys)]
    return shorten_list(texts, n_max=_MAX_LISTED)


def _keep_common(runs: dict[str, Evaluation]) -> dict[str, Evaluation]:
    """Keep the scans and organs that all runs have."""
    keys = [{(s.protocol, s.query_id, s.label) for s in run.scores if s.has_organ} for run in runs.values()]
    common = set.intersection(*keys)
    return {
        name: replace(run, scores=tuple(s for s in run.scores if (s.protocol, s.query_id, s.label) in common))
        for name, run in runs.items()
    }


def _printed(rows: Sequence[Row]) -> list[tuple[str, str]]:
    protocols = dict.fromkeys(row.protocol for row in rows)
    return [(protocol, metric) for protocol in protocols for metric in PRINTED_METRICS]


def _default_folder(name: str) -> Path:
    path = Path(name.partition("@")[0] if not Path(name).exists() else name)
    return path.parent if path.is_file() else path
