"""Progress bars that move on a terminal and stay short in a log file."""

import sys
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
