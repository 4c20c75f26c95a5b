"""Progress bars for terminals and log files."""

import sys
import time
from typing import Any

from tqdm import tqdm

LOG_INTERVAL_S = 30.0


def progress_bar(*arguments: Any, **options: Any) -> tqdm:
    """Create a tqdm bar that is refreshed rarely if stderr is not a terminal."""
    is_terminal = sys.stderr.isatty()
    options.setdefault("mininterval", 0.2 if is_terminal else LOG_INTERVAL_S)
    options.setdefault("maxinterval", 10.0 if is_terminal else LOG_INTERVAL_S)
    options.setdefault("dynamic_ncols", is_terminal)
    return tqdm(*arguments, **options)


def note_on_bar(bar: tqdm, text: str) -> None:
    """Set a bar's postfix between updates, respecting its refresh interval."""
    if bar.disable:
        return
    bar.set_postfix_str(text, refresh=False)
    if time.time() - bar.last_print_t >= bar.mininterval:
        bar.refresh()
        bar.last_print_t = time.time()


def describe_duration(seconds: float) -> str:
    """Describe a duration in its natural unit, such as "45 s", "12 min" or "3.2 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def describe_pace(*, n_done: int, n_left: int, elapsed_s: float) -> str:
    """Describe the seconds per step so far, and the time left at this pace.

    Args:
        n_done: steps done in `elapsed_s`, at least one.
        n_left: steps left.
        elapsed_s: seconds since the first of them began.
    """
    step_s = elapsed_s / n_done
    left = f"{describe_duration(n_left * step_s)} left" if n_left else "done"
    return f"{step_s:.3g} s a step, {left}"
