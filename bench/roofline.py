"""Compare times with a lower bound: the operations at the matrix rate."""

from collections.abc import Iterable, Mapping

from bench import formatting
from bench.measuring import Measurement, time_calls
from bench.sections import Table

N_REPEATS = 5
DTYPES = {"fp32": "float32", "tf32": "float32", "bf16": "bfloat16"}


def measure_rates(precisions: Iterable[str], device: str) -> dict[str, float]:
    """Measure the device's `matrix_rate` in each number format."""
    # Late: torch would take memory while the other processes are measured.
    from util.parallel.hardware import choose_kernels

    rates = {}
    for precision in precisions:
        choose_kernels(deterministic=False, precision=precision)
        rates[precision] = matrix_rate(DTYPES[precision], device)
    return rates


def roofline_table(
    measured: Mapping[str, Measurement],
    counted: Mapping[str, Measurement],
    rates: Mapping[str, float],
    *,
    unit: str,
) -> Table:
    """Compare `"<precision> fast"` with its counted operations at `rates`, FLOP/s."""
    rows = []
    for precision, count in counted.items():
        flop, rate = count.extra["flop"], rates[precision]
        fast, bound = measured[f"{precision} fast"], flop / rate
        cells = [f"{flop / 1e12:.2f} TFLOP", f"{rate / 1e9:.0f} GFLOP/s", formatting.duration(bound)]
        rows.append([precision, *cells, formatting.times(fast), f"{bound / fast.median:.0%}"])
    columns = ["format", "operations", "rate of a 4096 x 4096 product", "lower bound", unit, "bound / time"]
    return Table("Lower bound: the operations at the device's measured matrix rate", columns, rows)


def matrix_rate(dtype: str, device: str = "cpu", *, n: int = 4096) -> float:
    """Return the highest rate, in FLOP/s, of products of two n x n matrices.

    A multiply-add is two operations. PyTorch's settings decide whether `"float32"` uses TF32.
    """
    import torch

    on_cuda = torch.device(device).type == "cuda"
    first, second = (torch.randn(n, n, device=device).to(getattr(torch, dtype)) for _ in range(2))
    synchronize = torch.cuda.synchronize if on_cuda else None
    seconds = time_calls(lambda: first @ second, N_REPEATS, warm_up=2, synchronize=synchronize)
    return 2.0 * n**3 / min(seconds)
