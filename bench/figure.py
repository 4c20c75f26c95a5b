"""Plot an evaluated fold of PHANTOM: support, query, prediction and ground truth.

`python -m bench.figure runs/PHANTOM/fold_0/evaluation/1` writes docs/images/phantom.png.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from config_ssl_upload import REPOSITORY, Config, parse_config
from dataloaders.episode_pictures import PREDICTION_COLOUR, TRUTH_COLOUR
from dataloaders.evaluation_folds import EvaluationFold, plan_jobs
from dataloaders.evaluation_sets import load_evaluation_scan
from util.config.command_line import run_guarded
from util.errors import UserError
from util.evaluation.metrics import VolumeScore
from util.evaluation.report import final_method, overall_mean, select
from util.evaluation.score_files import read_scores
from util.io.figures import plain_matplotlib
from util.io.files import atomic_write
from util.io.grids import reorient_volume
from util.io.image_io import Geometry, read_volume
from util.io.slice_pictures import display_transform, find_grey_range

PROTOCOL = "chunks"
TRUTH = {"colors": TRUTH_COLOUR, "linestyles": "-"}
PREDICTION = {"colors": PREDICTION_COLOUR, "linestyles": "--"}
ROW_LABELS = ("support,\nannotated", "query", "query: prediction\nand truth")
SIDE_INCHES, MARGIN_INCHES, DPI = 1.9, (0.6, 1.25), 86
BODY_MARGIN = 0.04
UNIT_SQUARE = {"extent": (0, 1, 1, 0), "origin": "upper"}  # images and masks may differ in size
# Support slice and mask, query slice, its ground truth and prediction, each `(H, W)`.
Slices = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def main() -> None:
    """Plot one evaluation run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dir", type=Path, help="evaluation run of PHANTOM")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "docs" / "images" / "phantom.png")
    options = parser.parse_args()
    draw_result(options.run_dir, options.output)


def draw_result(run_dir: Path, path: Path) -> None:
    """Plot the query of median Dice (of an even number, the lower one) as PNG.

    Raises:
        UserError: the run is damaged, has no predictions, or is of another dataset than PHANTOM.
    """
    scores = read_scores(run_dir / "scores.json")
    method = final_method({score.method for score in scores})
    scores = select(scores, method=method, protocol=PROTOCOL, main_support=True)
    summary = json.loads((run_dir / "scores.json").read_text(encoding="utf-8"))["summary"]
    config = parse_config(summary["config"])
    if config.dataset != "PHANTOM":
        raise UserError(
            f"{run_dir}: must be a run of PHANTOM, because figures show no patients; got {config.dataset}"
        )
    dice = {i: overall_mean(select(scores, query_id=i)) for i in sorted({s.query_id for s in scores})}
    query_id = sorted(dice, key=dice.__getitem__)[(len(dice) - 1) // 2]
    query_scores = select(scores, query_id=query_id)
    caption = (
        f"PHANTOM (synthetic scans), fold {config.eval_fold}, {summary['snapshot_step']} training steps "
        f"without labels; {method}.\nSupport: scan {query_scores[0].support_id}. Query: scan {query_id}, "
        f"mean Dice {dice[query_id]:.2f}; over all {len(dice)} queries {overall_mean(scores):.2f}."
    )
    titles = [f"{score.organ}, Dice {score.dice:.2f}" for score in query_scores]
    columns = list(read_slices(config, query_scores, run_dir / "predictions" / PROTOCOL))
    draw_slices(columns, path, titles=titles, caption=caption)


def read_slices(config: Config, scores: Sequence[VolumeScore], predictions_dir: Path) -> Iterator[Slices]:
    """Yield for each organ the middle slice of the middle chunk and its support.

    `scores` has one entry per organ of the query. Raises `UserError` for missing or damaged files.
    """
    ids = {score.support_id for score in scores} | {scores[0].query_id}
    load = partial(load_evaluation_scan, config.layout, image_size_px=config.image_size_px)
    scans = {scan_id: load(scan_id) for scan_id in ids}
    query = scans[scores[0].query_id]
    organs = {score.label: score.organ for score in scores}
    fold = EvaluationFold([query], {score.label: scans[score.support_id] for score in scores})
    for job in plan_jobs(fold, organs, n_part=config.n_part, all_slices=False):
        support, part = job.support, config.n_part // 2
        chunk = job.assignment.slices[job.assignment.parts == part]
        support_slice, query_slice = job.support_slices[part], chunk[len(chunk) // 2]
        prediction, _ = read_volume(
            predictions_dir / f"scan_{query.scan_id}_{organs[job.label].replace(' ', '_')}.nii.gz"
        )
        yield (
            _upright(support.images[:, 0].numpy(), support.geometry)[support_slice],
            _upright(support.support_labels == job.label, support.geometry)[support_slice],
            _upright(query.images[:, 0].numpy(), query.geometry)[query_slice],
            _upright(query.label_map == job.label, query.geometry)[query_slice],
            _upright(prediction > 0, query.geometry)[query_slice],
        )


def _upright(volume: np.ndarray, geometry: Geometry) -> np.ndarray:
    return reorient_volume(volume, display_transform(geometry))


@plain_matplotlib()
def draw_slices(columns: Sequence[Slices], path: Path, *, titles: Sequence[str], caption: str) -> None:
    """Plot one column per organ, with outlines over the images, as PNG."""
    from matplotlib.figure import Figure  # late: only plots need it
    from matplotlib.lines import Line2D

    n_rows, n_columns = len(ROW_LABELS), len(columns)
    (top, bottom), (left, right) = _find_body(
        [image for column in columns for image in (column[0], column[2])]
    )
    height = SIDE_INCHES * (bottom - top) / (right - left) * n_rows + MARGIN_INCHES[1]
    figure = Figure((SIDE_INCHES * n_columns + MARGIN_INCHES[0], height), dpi=DPI, layout="constrained")
    grid = figure.subplots(n_rows, n_columns, squeeze=False)
    for i, (support, support_mask, query, truth, prediction) in enumerate(columns):
        grid[0, i].set_title(titles[i], fontsize="medium")
        rows = ((support, [(support_mask, TRUTH)]), (query, []))
        rows += ((query, [(truth, TRUTH), (prediction, PREDICTION)]),)
        for axes, (image, outlines) in zip(grid[:, i], rows, strict=True):
            _draw_slice(axes, image, outlines)
            axes.set(xticks=[], yticks=[], xlim=(left, right), ylim=(bottom, top))
    for axes, label in zip(grid[:, 0], ROW_LABELS, strict=True):
        axes.set_ylabel(label)
    styles = {"manual label": TRUTH, "prediction": PREDICTION}
    lines = [
        Line2D([], [], color=s["colors"], linestyle=s["linestyles"], linewidth=2) for s in styles.values()
    ]
    figure.legend(lines, styles, loc="outside upper center", ncols=len(styles), frameon=False)
    figure.supxlabel(caption, fontsize="medium")
    with atomic_write(path, suffix=".png") as temporary:
        figure.savefig(temporary, pil_kwargs={"optimize": True})


def _draw_slice(axes: Any, image: np.ndarray, outlines: Sequence[tuple[np.ndarray, dict]]) -> None:
    low, high = find_grey_range(image)
    axes.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="bilinear", **UNIT_SQUARE)
    for mask, style in outlines:
        if mask.any():
            axes.contour(mask, levels=[0.5], linewidths=2, **style, **UNIT_SQUARE)


def _find_body(images: Sequence[np.ndarray]) -> list[tuple[float, float]]:
    """Return the row and column range of the body in z-scored images, relative to the image size."""
    bright = [np.argwhere(image > 0) / image.shape for image in images]
    pairs = zip(np.min([b.min(0) for b in bright], 0), np.max([b.max(0) for b in bright], 0), strict=True)
    return [(max(first - BODY_MARGIN, 0), min(last + BODY_MARGIN, 1)) for first, last in pairs]


if __name__ == "__main__":
    sys.exit(run_guarded(main))
