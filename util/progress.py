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
