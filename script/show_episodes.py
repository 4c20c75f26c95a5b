"""Draw training episodes, or what the network makes of a query.

Usage: `python -m script.show_episodes [scan=<id> organ=<name>] [n_episodes=12] [output=<file>.png] [key=value
...]`. `show_episodes.sh` prepares the environment and executes this; its --help documents the behaviour.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from config_ssl_upload import Config, parse_config
from dataloaders.episode_pictures import (
    PREDICTION_COLOUR,
    TRUTH_COLOUR,
    add_caption,
    draw_episode,
    draw_heat,
    draw_regions,
    draw_slice,
    stack_pictures,
)
from dataloaders.evaluation_folds import load_fold
from dataloaders.evaluation_sets import (
    EvaluationScan,
    assign_chunks,
    choose_support_slices,
    find_organ_slices,
)
from models.inference.inspection import Inspection, inspect_query
from script.workflows.experiment import check_paths, make_experiment
from script.workflows.networks import adopt_network, load_trained
from script.workflows.training_episodes import make_training_episodes
from util.config.command_line import run_command_line
from util.engine.snapshots import load_snapshot
from util.engine.training_choice import choose_training
from util.errors import UserError
from util.evaluation.postprocess import THRESHOLD
from util.io.figures import write_png
from util.parallel.devices import choose_device
from util.parallel.ranks import find_ranks

OWN_KEYS = ("scan", "organ", "n_episodes", "output")
N_EPISODES, MAX_EPISODES, N_COLUMNS = 12, 400, 2
PANEL_PX = 288


def main(arguments: Sequence[str]) -> int:
    """Draw one figure; returns the exit code."""
    words = [word for word in arguments if word.partition("=")[0] not in OWN_KEYS]
    values = dict(word.split("=", 1) for word in arguments if word not in words)
    experiment = make_experiment("figures")

    @experiment.command(unobserved=True)
    def draw(_config: dict[str, Any]) -> None:
        config = parse_config(_config)
        check_paths(config)
        show(config, values)

    return run_command_line(experiment, ["draw", *words])


def show(config: Config, values: Mapping[str, str]) -> None:
    """Draw episodes, or a query if a scan is named, as PNG, and print its path.

    Args:
        config: of the fold.
        values: values of `OWN_KEYS`, as given on the command line.

    Raises:
        UserError: a value is invalid, or data or snapshot are not usable.
    """
    if ("scan" in values) != ("organ" in values):
        raise UserError("scan= and organ= belong together: they name a query of the evaluation; give both")
    if "scan" in values:
        scan_id = _parse_count("scan", values["scan"], at_least=0, at_most=10**9)
        label = find_label(config, values["organ"])
        organ = config.spec.labels[label].replace(" ", "_")
        path, picture = config.fold_dir / f"scan_{scan_id}_{organ}.png", draw_query(config, scan_id, label)
    else:
        n = _parse_count(
            "n_episodes", values.get("n_episodes", str(N_EPISODES)), at_least=1, at_most=MAX_EPISODES
        )
        path, picture = config.fold_dir / "episodes.png", draw_episodes(config, n)
    path = Path(values.get("output", path))
    write_png(path, picture)
    print(f"picture: {path}")


def draw_episodes(config: Config, n_episodes: int) -> np.ndarray:
    """Draw the first episodes of a training, after augmentation."""
    dataset = make_training_episodes(config)
    pictures = []
    for index in range(min(n_episodes, len(dataset))):
        episode = dataset[index]
        slices = ", ".join(str(z + 1) for z in episode["slice_indices"].tolist())
        target = "label" if config.use_gt else "supervoxel"
        scan_id, target_id = int(episode["scan_id"]), int(episode["supervoxel_id"])
        text = f"episode {index}: scan {scan_id}, slices {slices}, {target} {target_id}"
        pictures.append(add_caption(draw_episode(episode), text))
    n_columns = min(N_COLUMNS, len(pictures))
    pictures += [np.zeros_like(pictures[0])] * (-len(pictures) % n_columns)
    rows = [pictures[start : start + n_columns] for start in range(0, len(pictures), n_columns)]
    return stack_pictures([stack_pictures(row, axis=1) for row in rows], axis=0)


def find_label(config: Config, organ: str) -> int:
    """Return the label of an organ's name.

    Underscores stand for spaces, and case does not matter.

    Raises:
        UserError: the dataset has no such organ.
    """
    name = organ.replace("_", " ").lower()
    labels = config.spec.labels
    matches = [label for label, text in labels.items() if text.replace("_", " ").lower() == name]
    if not matches:
        known = ", ".join(name.replace(" ", "_") for name in config.spec.labels.values())
        raise UserError(f"organ={organ}: {config.dataset} has {known}")
    return matches[0]


def draw_query(config: Config, scan_id: int, label: int) -> np.ndarray:
    """Draw the query slice that shows most of an organ, as the network sees it.

    Raises:
        UserError: the scan is no query of the fold, or support or query lack the organ.
    """
    choice = choose_training(config.fold_dir / "training", config.reload_model_path, folds=config.folds)
    snapshot = load_snapshot(choice.snapshot)
    config = adopt_network(config, snapshot)
    organ = {label: config.spec.labels[label]}
    fold = load_fold(config.layout, config.find_split(), organ, **config.support_options)
    support = fold.supports[label]
    queries = {scan.scan_id: scan for scan in fold.queries if scan is not support}
    if scan_id not in queries:
        raise UserError(
            f"scan={scan_id}: fold {config.eval_fold} has the queries {', '.join(map(str, queries))}"
        )
    query = queries[scan_id]
    support_slice, query_slice = choose_slices(support, query, label, n_part=config.n_part)
    device = choose_device(config.device, find_ranks())
    mask = torch.from_numpy(support.support_labels[support_slice] == label).float()
    images = (support.images[support_slice], query.images[query_slice])
    network = load_trained(config, snapshot).to(device).eval()
    inspection = inspect_query(network, images[0].to(device), mask.to(device), images[1].to(device))
    truth = query.support_labels[query_slice] == label
    names = [f"support: scan {support.scan_id}, slice {support_slice + 1}"]
    names.append(f"query: scan {scan_id}, slice {query_slice + 1}")
    support, query = (image[0].numpy() for image in images)
    return draw_inspection(support, mask.numpy(), query, truth=truth, inspection=inspection, names=names)


def choose_slices(
    support: EvaluationScan, query: EvaluationScan, label: int, *, n_part: int
) -> tuple[int, int]:
    """Return the query slice of the largest area, after its support slice.

    The published protocol assigns them.

    Raises:
        UserError: one of the scans lacks the organ.
    """
    slices = {}
    for scan, label_map in ((support, support.support_labels), (query, query.label_map)):
        slices[scan.scan_id] = find_organ_slices(label_map, label)
        if not len(slices[scan.scan_id]):
            raise UserError(f"scan {scan.scan_id}: has no label {label}; choose another organ or scan")
    support_slices = choose_support_slices(slices[support.scan_id], n_part)
    plan = assign_chunks(slices[query.scan_id], n_part)
    largest = int((query.label_map[plan.slices] == label).sum(axis=(1, 2)).argmax())
    return int(support_slices[plan.parts[largest]]), int(plan.slices[largest])


def draw_inspection(
    support: np.ndarray,
    mask: np.ndarray,
    query: np.ndarray,
    *,
    truth: np.ndarray,
    inspection: Inspection,
    names: Sequence[str],
) -> np.ndarray:
    """Draw an inspection in two rows of four panels.

    Args:
        support, mask, query, truth: `(H, W)`.
        inspection: of them.
        names: of support and query slice, for the captions.
    """
    priors = inspection.prior_masks
    maps = {
        f"prior mask, foreground: {priors.foreground.mean():.1%}": priors.foreground,
        f"prior mask, background: {priors.background.mean():.1%}": priors.background,
        "query's attention to itself": inspection.query_attention,
    }
    probabilities, regions = inspection.probabilities.cpu().numpy(), inspection.regions.cpu().numpy()
    outlines = [(truth, TRUTH_COLOUR), (probabilities > THRESHOLD, PREDICTION_COLOUR)]
    panels = [
        (names[0], draw_slice(support, [(mask, TRUTH_COLOUR)], side_px=PANEL_PX)),
        (f"{len(regions)} foreground prototypes", draw_regions(support, mask, regions, side_px=PANEL_PX)),
        ("query's attention to the support", _draw_map(support, inspection.support_attention)),
        (names[1], draw_slice(query, outlines, side_px=PANEL_PX)),
        ("foreground's probability", draw_heat(query, probabilities, side_px=PANEL_PX)),
        *((name, _draw_map(query, values)) for name, values in maps.items()),
    ]
    pictures = [add_caption(picture, name) for name, picture in panels]
    return stack_pictures([stack_pictures(pictures[i : i + 4], axis=1) for i in (0, 4)], axis=0)


def _draw_map(image: np.ndarray, values: torch.Tensor | None) -> np.ndarray:
    """Draw a map over a slice; without values, the slice alone."""
    if values is None:
        return draw_slice(image, side_px=PANEL_PX)
    heat = values.reshape(values.shape[-2:]).float().cpu().numpy()
    return draw_heat(image, heat, side_px=PANEL_PX)


def _parse_count(key: str, text: str, *, at_least: int, at_most: int) -> int:
    if not text.isdecimal() or not at_least <= int(text) <= at_most:
        raise UserError(f"{key}={text}: must be a whole number from {at_least} to {at_most}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
