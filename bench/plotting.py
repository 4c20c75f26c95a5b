"""Plot benchmark results."""

from collections.abc import Mapping, Sequence

from bench.sections import Plot, output_dir
from util.io.figures import plain_matplotlib


@plain_matplotlib()
def plot_lines(
    file_name: str,
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    labels: tuple[str, str],
    caption: str,
    log_scale: bool = False,
    quick: bool = False,
) -> Plot:
    """Plot measured points with lines and save the figure in the `plots` folder.

    Args:
        file_name: ends in `.png`.
        series: label in the legend -> (x, y).
        labels: of the x and the y axis, with units.
        caption: of the returned plot.
        log_scale: use logarithmic axes, on which proportional growth has slope 1.
        quick: save in the folder of quick runs.
    """
    from matplotlib.figure import Figure  # late: only plots need it

    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for name, (x, y) in series.items():
        axes.plot(x, y, marker="o", label=name)
    axes.set(xlabel=labels[0], ylabel=labels[1])
    if log_scale:
        axes.set(xscale="log", yscale="log")
    else:
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if len(series) > 1:
        axes.legend()
    folder = output_dir(quick=quick) / "plots"
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / file_name, dpi=120)
    return Plot(file_name, caption)
