"""Make a dataset's supervoxels: `python -m data.supervoxels --dataset CHAOST2`."""

import argparse
import sys
from functools import partial
from pathlib import Path

from data.dataset_lookup import find_dataset
from data.datasets import DATASETS, default_data_dir
from data.layout import DatasetLayout
from data.supervoxels.generation import GenerationSummary, generate_supervoxels
from util.config.command_line import run_guarded


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 0, 2 (invalid input) or 130 (interrupted)."""
    options = _parser().parse_args(arguments)
    return run_guarded(partial(_generate, options), debug=options.debug)


def _generate(options: argparse.Namespace) -> None:
    data_dir = options.data_dir or Path(default_data_dir(options.dataset))
    spec = find_dataset(options.dataset, data_dir)
    layout = DatasetLayout(
        spec=spec,
        data_dir=data_dir,
        supervoxel_dir=options.supervoxel_dir or data_dir,
        supervoxel_min_vox=spec.supervoxel_min_vox if options.min_size is None else options.min_size,
    )
    print(f"{spec.name}: {layout.volumes_dir} -> {layout.supervoxels_dir}")
    summary = generate_supervoxels(
        layout, scale=options.scale, n_workers=options.workers, force=options.force
    )
    print(describe(summary))


def describe(summary: GenerationSummary) -> str:
    """Format a summary in one or two lines."""
    lines = [
        f"{len(summary.made)} made, {len(summary.skipped)} up to date, {len(summary.foreign)} foreign kept "
        f"in {summary.seconds:.1f} s"
    ]
    if summary.n_supervoxels:
        counts = ", ".join(f"{scan_id}: {count}" for scan_id, count in summary.n_supervoxels.items())
        lines.append(f"supervoxels per scan: {counts}")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data.supervoxels", description="Make a dataset's supervoxels."
    )
    parser.add_argument("--dataset", required=True, help=f"{', '.join(DATASETS)}, or a custom dataset's name")
    parser.add_argument("--data-dir", type=Path, help="prepared volumes; default data/<dataset>")
    parser.add_argument("--supervoxel-dir", type=Path, help="output folder; default the data folder")
    parser.add_argument("--min-size", type=int, help="minimum size in voxels; default the dataset's")
    parser.add_argument("--scale", type=float, default=1.0, help="larger values give larger supervoxels")
    parser.add_argument("--workers", type=int, help="processes; default one per core")
    parser.add_argument("--force", action="store_true", help="rebuild files that are up to date")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


if __name__ == "__main__":
    sys.exit(main())
