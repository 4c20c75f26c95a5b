"""Intervals over distinct scans, and paired comparisons of two methods."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from util.evaluation.metrics import VolumeScore, metric_value

N_RESAMPLES = 10_000
SEED = 2025
CONFIDENCE = 0.95
# With fewer pairs even equal signs give a two-sided p of 2 / 2^n > 0.05.
MIN_PAIRS = 6


@dataclass(frozen=True)
class ScanTable:
    """A metric of every distinct scan and organ.

    Attributes:
        scan_ids: of the rows, ascending; folds that share a scan are averaged.
        organs: of the columns, label -> name, ascending.
        values: `(scans, organs)`; NaN where a scan lacks the organ.
    """

    scan_ids: tuple[int, ...]
    organs: dict[int, str]
    values: np.ndarray


@dataclass(frozen=True)
class Estimate:
    """A mean with its uncertainty.

    Attributes:
        mean: over distinct scans; overall: over organs of these.
        low, high: percentile bootstrap interval over scans, 95 %; None for fewer than two scans.
        n_scans: distinct scans.
        n_folds: folds that hold them.
        fold_sd: standard deviation of the folds' means (n - 1); None for fewer than two folds.
    """

    mean: float
    low: float | None
    high: float | None
    n_scans: int
    n_folds: int
    fold_sd: float | None


@dataclass(frozen=True)
class PairedComparison:
    """Differences of a metric, second minus first, over the scans that both have.

    Attributes:
        difference: mean difference.
        low, high: percentile bootstrap interval over scans, 95 %; None for fewer than two.
        p: two-sided Wilcoxon signed-rank test.
        p_holm: p with Holm's correction over organs; None for the mean of organs, which is outside of it.
        rank_biserial: matched-pairs rank-biserial correlation, -1 to 1; above 0 if the second is larger.
        n_scans: pairs.
    """

    difference: float
    low: float | None
    high: float | None
    p: float
    p_holm: float | None
    rank_biserial: float
    n_scans: int


def tabulate_scans(scores: Sequence[VolumeScore], metric: str) -> ScanTable:
    """Average a metric per distinct scan and organ.

    Queries without the organ are left out.
    """
    scores = [score for score in scores if score.has_organ]
    scan_ids = tuple(sorted({score.query_id for score in scores}))
    organs = dict(sorted({score.label: score.organ for score in scores}.items()))
    cells: dict[tuple[int, int], list[float]] = {}
    for score in scores:
        cells.setdefault((score.query_id, score.label), []).append(metric_value(score, metric))
    values = [[np.mean(cells.get((scan_id, label), [np.nan])) for label in organs] for scan_id in scan_ids]
    return ScanTable(scan_ids, organs, np.array(values).reshape(len(scan_ids), len(organs)))


def estimate(scores: Sequence[VolumeScore], metric: str) -> dict[str, Estimate]:
    """Estimate a metric's mean for each organ and, as `mean`, over organs.

    Args:
        scores: of one method, protocol and support choice.
        metric: a name in `METRICS`.
    """
    table = tabulate_scans(scores, metric)
    folds = sorted({score.fold for score in scores if score.has_organ})
    fold_tables = [
        tabulate_scans([score for score in scores if score.fold == fold], metric) for fold in folds
    ]
    estimates = {}
    for label, organ in table.organs.items():
        columns = [_column(fold, label) for fold in fold_tables if label in fold.organs]
        estimates[organ] = _estimate(_column(table, label), columns)
    if estimates:
        estimates["mean"] = _estimate(table.values, [fold.values for fold in fold_tables])
    return estimates


def scan_means(table: ScanTable) -> dict[str, float]:
    """Average a table per organ and, as `mean`, over organs."""
    means = {
        organ: float(mean_of_organ_means(_column(table, label))) for label, organ in table.organs.items()
    }
    return {**means, "mean": float(mean_of_organ_means(table.values))}


def compare_scans(first: ScanTable, second: ScanTable) -> dict[str, PairedComparison]:
    """Compare two methods per organ and, as `mean`, over organs.

    Scans and organs that only one of both has are left out. The mean compares the scans' means over organs.
    """
    scan_ids = sorted(set(first.scan_ids) & set(second.scan_ids))
    organs = [label for label in first.organs if label in second.organs]
    differences = _select(second, scan_ids, organs) - _select(first, scan_ids, organs)
    columns = {first.organs[label]: differences[:, n] for n, label in enumerate(organs)}
    columns = {organ: column[np.isfinite(column)] for organ, column in columns.items()}
    columns = {organ: column for organ, column in columns.items() if len(column)}
    p_values = [signed_rank_p(column) for column in columns.values()]
    comparisons = {
        organ: _compare(column, p, p_holm)
        for (organ, column), p, p_holm in zip(
            columns.items(), p_values, holm_correction(p_values), strict=True
        )
    }
    if comparisons:
        scan_differences = _column_means(differences.T)
        scan_differences = scan_differences[np.isfinite(scan_differences)]
        comparisons["mean"] = _compare(scan_differences, signed_rank_p(scan_differences), None)
    return comparisons


def bootstrap_interval(values: np.ndarray) -> tuple[float, float] | tuple[None, None]:
    """Compute the percentile bootstrap interval of the mean of organ means.

    Whole scans are resampled. The same values always give the same interval.

    Args:
        values: `(scans, organs)`; NaN where a scan lacks the organ.

    Returns:
        Lower and upper end, 95 %; None and None for fewer than two scans.
    """
    if len(values) < 2:
        return None, None
    weights = _resampling_weights(len(values))
    is_present = np.isfinite(values)
    totals, counts = weights @ np.where(is_present, values, 0), weights @ is_present
    organ_means = np.divide(totals, counts, out=np.full(totals.shape, np.nan), where=counts > 0)
    means = _column_means(organ_means.T)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means[np.isfinite(means)], [tail, 1 - tail])
    return float(low), float(high)


@lru_cache(maxsize=16)
def _resampling_weights(n: int) -> np.ndarray:
    """Count how often each of n rows is drawn, `(resamples, n)`."""
    drawn = np.random.default_rng(SEED).integers(0, n, (N_RESAMPLES, n))
    rows = np.repeat(np.arange(N_RESAMPLES), n)
    return np.bincount(rows * n + drawn.ravel(), minlength=N_RESAMPLES * n).reshape(-1, n).astype(float)


def signed_rank_p(differences: np.ndarray) -> float:
    """Compute the two-sided p of Wilcoxon's signed-rank test.

    It is 1 if all differences are 0.
    """
    if not np.any(differences):
        return 1.0
    from scipy import stats  # late: only comparisons need it, and it takes a second

    return float(stats.wilcoxon(differences).pvalue)


def holm_correction(p_values: Sequence[float]) -> list[float]:
    """Adjust p values by Holm's step-down method; the order is kept."""
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for n_done, index in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - n_done) * p_values[index]))
        corrected[index] = largest
    return corrected


def rank_biserial(differences: np.ndarray) -> float:
    """Compute the matched-pairs rank-biserial correlation (Kerby 2014).

    It is 0 if all differences are 0.
    """
    nonzero = differences[differences != 0]
    if not len(nonzero):
        return 0.0
    from scipy import stats  # late, as above

    ranks = stats.rankdata(np.abs(nonzero))
    return float(np.sum(ranks * np.sign(nonzero)) / np.sum(ranks))


def mean_of_organ_means(values: np.ndarray) -> np.ndarray:
    """Average `(..., scans, organs)`, with NaN, over scans, then organs."""
    return _column_means(np.moveaxis(_column_means(values), -1, 0))


def _estimate(values: np.ndarray, fold_values: Sequence[np.ndarray]) -> Estimate:
    values = values[np.isfinite(values).any(axis=1)]
    fold_means = [float(mean_of_organ_means(fold)) for fold in fold_values]
    low, high = bootstrap_interval(values)
    return Estimate(
        mean=float(mean_of_organ_means(values)),
        low=low,
        high=high,
        n_scans=len(values),
        n_folds=len(fold_means),
        fold_sd=float(np.std(fold_means, ddof=1)) if len(fold_means) > 1 else None,
    )


def _compare(differences: np.ndarray, p: float, p_holm: float | None) -> PairedComparison:
    low, high = bootstrap_interval(differences[:, None])
    mean = float(differences.mean())
    return PairedComparison(mean, low, high, p, p_holm, rank_biserial(differences), len(differences))


def _select(table: ScanTable, scan_ids: Sequence[int], labels: Sequence[int]) -> np.ndarray:
    rows = [table.scan_ids.index(scan_id) for scan_id in scan_ids]
    columns = [list(table.organs).index(label) for label in labels]
    return table.values[np.ix_(rows, columns)]


def _column(table: ScanTable, label: int) -> np.ndarray:
    return table.values[:, [list(table.organs).index(label)]]


def _column_means(values: np.ndarray) -> np.ndarray:
    """Average over the last axis but one, or the only one, without NaN; NaN where nothing is left."""
    axis = max(values.ndim - 2, 0)
    n = np.isfinite(values).sum(axis=axis)
    total = np.nansum(values, axis=axis)
    return np.divide(total, n, out=np.full(np.shape(total), np.nan), where=n > 0)
