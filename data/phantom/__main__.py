"""Make the PHANTOM dataset: `python -m data.phantom --data-dir data/PHANTOM`."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from data.phantom.scans import PhantomSettings, make_phantom
from util.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m data.phantom", description="Make the PHANTOM dataset.")
    defaults = PhantomSettings()
    parser.add_argument(
        "--data-dir", type=Path, required=True, help="folder to write to, such as data/PHANTOM"
    )
    parser.add_argument("--n-scans", type=int, default=20, help="number of scans (default: %(default)s)")
    for name, value in asdict(defaults).items():
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=int, default=value, help="default: %(default)s")
    options = parser.parse_args(arguments)
    try:
        settings = PhantomSettings(**{name: getattr(options, name) for name in asdict(defaults)})
        ids = make_phantom(options.data_dir, settings, n_scans=options.n_scans)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"PHANTOM: {len(ids)} scans in {options.data_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
