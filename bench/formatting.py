"""Format measurements as text and tables as Markdown."""

import statistics
from collections.abc import Iterable, Sequence

from bench.measuring import Measurement


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table; raises ValueError for a row of another length."""
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"a row must have {len(columns)} cells, got {row}")
    lines = [
        " | ".join(cell.replace("|", "\\|") for cell in cells)
        for cells in (columns, ["---"] * len(columns), *rows)
    ]
    return "\n".join(f"| {line} |" for line in lines)


def duration(seconds: float) -> str:
    """Format a time with three digits in a suitable unit: `"45.6 ms"`."""
    for unit, name in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= 0.9995 * unit:
            return f"{_three_digits(seconds / unit)} {name}"
    return f"{_three_digits(seconds / 1e-6)} µs"


def times(measurement: Measurement) -> str:
    """Format median and range in the median's unit: `"1.23 s (1.20-1.31)"`."""
    median = duration(measurement.median)
    unit = {"s": 1.0, "ms": 1e-3, "µs": 1e-6}[median.split()[1]]
    low, high = (_three_digits(bound(measurement.seconds) / unit) for bound in (min, max))
    return f"{median} ({low}-{high})"


def time_ratio(slow: Measurement, fast: Measurement) -> str:
    """Format the ratio of the median times: `"12.3x"`."""
    return f"{_three_digits(slow.median / fast.median)}x"


def memory(measurement: Measurement) -> str:
    """Format the peak memory: `"256 MB"`, or in GB from 10,000 MB."""
    peak_mb = measurement.peak_mb
    return f"{peak_mb:.0f} MB" if peak_mb < 1e4 else f"{peak_mb / 1e3:.1f} GB"


def memory_ratio(large: Measurement, small: Measurement) -> str:
    """Format the ratio of the peaks: `"4.1x"`."""
    return f"{_three_digits(large.peak_mb / small.peak_mb)}x"


def spread(values: Iterable[float]) -> str:
    """Format the mean with the range: `"0.563 (0.538-0.589)"`.

    Equal values have no range; none give an empty text.
    """
    values = list(values)
    if not values:
        return ""
    mean, low, high = (f"{function(values):.3f}" for function in (statistics.fmean, min, max))
    return mean if low == high else f"{mean} ({low}-{high})"


def _three_digits(number: float) -> str:
    n_decimals = 2 if abs(number) < 9.995 else 1 if abs(number) < 99.95 else 0
    return f"{number:.{n_decimals}f}"
