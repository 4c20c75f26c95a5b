"""Print how many organ groups setting II has for a dataset.

Usage: `python -m data.organ_groups <dataset> <folder of its prepared volumes>`.
"""

import sys
from pathlib import Path

from data.dataset_lookup import find_dataset
from util.errors import EXIT_USER_ERROR, UserError


def main(arguments: list[str]) -> int:
    """Print the number and return the exit code."""
    name, data_dir = arguments
    try:
        print(len(find_dataset(name, Path(data_dir).expanduser()).organ_groups))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
