"""Progress bars that move on a terminal and stay short in a log file."""

import sys
import time
from typing import Any

from tqdm import tqdm

LOG_INTERVAL_S = 30.0


def progress_bar(*arguments: Any, **options: Any) -> tqdm:
    """Make a tqdm bar.

    Where stderr is no terminal it is drawn only every half minute.
    """
    is_terminal = sys.stderr.isatty()
    options.setdefault("mininterval", 0.2 if is_terminal else LOG_INTERVAL_S)
    options.setdefault("maxinterval", 10.0 if is_terminal else LOG_INTERVAL_S)
    options.setdefault("dynamic_ncols", is_terminal)
    return tqdm(*arguments, **options)


def note_on_bar(bar: tqdm, text: str) -> None:
    """Put a remark at a bar's end: a sign of life where the bar does not move.

    It is drawn if the last drawing is long enough ago.
    """
    if bar.disable:
        return
    bar.set_postfix_str(text, refresh=False)
    if time.time() - bar.last_print_t >= bar.mininterval:
        bar.refresh()
        bar.last_print_t = time.time()
