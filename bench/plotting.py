"""Draw the benchmarks' plots."""

from collections.abc import Mapping, Sequence

from bench.sections import Plot, output_dir
from util.io.figures import plain_matplotlib


@plain_matplotlib()
def plot_lines(
    file_name: str,
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    x_label: str,
    y_label: str,
    caption: str,
    log_scale: bool = False,
    quick: bool = False,
) -> Plot:
    """Draw lines through measured points and save them in the plots' folder.

    Args:
        file_name: ends in `.png`; begins with the benchmark's name, and the device's unless it is the CPU.
        series: name in the legend -> (x, y).
        x_label: with the unit.
        y_label: with the unit.
        caption: the sentence that belongs to the plot.
        log_scale: both axes logarithmic, so that proportional growth is a straight line of slope 1.
        quick: into the quick runs' folder.

    Returns:
        The plot, for a `Section`.
    """
    from matplotlib.figure import Figure  # late: only plots need it; no display, no global state

    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for name, (x, y) in series.items():
        axes.plot(x, y, marker="o", label=name)
    axes.set(xlabel=x_label, ylabel=y_label)
    if log_scale:
        axes.set_xscale("log")
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if len(series) > 1:
        axes.legend()
    folder = output_dir(quick=quick) / "plots"
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / file_name, dpi=120)
    return Plot(file_name, caption)
