"""The floor: how long the operations alone take at the device's measured rate."""

from collections.abc import Iterable, Mapping

from bench.measuring import Measurement, time_calls
from bench.sections import Table, format_duration, format_seconds

DTYPES = {"fp32": "float32", "tf32": "float32", "bf16": "bfloat16"}


def measure_rates(precisions: Iterable[str], device: str) -> dict[str, float]:
    """Measure the device's `matrix_rate` in each number format."""
    from util.parallel.hardware import (
        choose_kernels,  # late: torch would take memory beside the measured processes
    )

    rates = {}
    for precision in precisions:
        choose_kernels(deterministic=False, precision=precision)
        rates[precision] = matrix_rate(DTYPES[precision], device)
    return rates


def floor_table(
    measured: Mapping[str, Measurement],
    counted: Mapping[str, Measurement],
    rates: Mapping[str, float],
    *,
    unit: str,
) -> Table:
    """Set what the fast variants take beside what their operations alone would.

    Args:
        measured: `"<precision> fast"` -> its times.
        counted: precision -> a run whose `extra` holds `flop`, its operations; a row each.
        rates: precision -> FLOP/s.
        unit: what the operations and times are of, a column's name.
    """
    rows = []
    for precision, count in counted.items():
        flop, rate = count.extra["flop"], rates[precision]
        fast, floor = measured[f"{precision} fast"], flop / rate
        rows.append(
            [
                precision,
                f"{flop / 1e12:.2f} TFLOP",
                f"{rate / 1e9:.0f} GFLOP/s",
                format_duration(floor),
                format_seconds(fast),
                f"{floor / fast.median:.0%}",
            ]
        )
    columns = ["format", "operations", "rate of a 4096 x 4096 product", "floor", unit, "share of the floor"]
    return Table("The floor: the operations at the device's measured matrix rate", columns, rows)


def matrix_rate(dtype: str, device: str = "cpu", *, n: int = 4096, repeats: int = 5) -> float:
    """Measure the device's rate in a product of square matrices.

    Args:
        dtype: a torch dtype's name, `"float32"` or `"bfloat16"`; TF32 is used if PyTorch is set to it.
        device: a torch device.
        n: size of the matrices.
        repeats: the fastest of so many counts.

    Returns:
        Floating point operations per second; a multiplication and an addition are two.
    """
    import torch

    on_cuda = torch.device(device).type == "cuda"
    first, second = (torch.randn(n, n, device=device).to(getattr(torch, dtype)) for _ in range(2))
    synchronize = torch.cuda.synchronize if on_cuda else None
    seconds = time_calls(lambda: first @ second, repeats, warm_up=2, synchronize=synchronize)
    return 2.0 * n**3 / min(seconds)
