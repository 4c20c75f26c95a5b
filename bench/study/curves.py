"""Draw the study's curves of Dice against the length of training."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from util.io.figures import plain_matplotlib

CURVES = {"start": "start", "published": "published", "strong": "strong", "no_prior": "no prior"}


@plain_matplotlib()
def plot_curves(records: Sequence[Mapping[str, Any]], path: Path, *, title: str) -> None:
    """Draw the main arms' mean Dice against the episodes that were played.

    Args:
        records: of one profile.
        path: of the picture.
        title: stands above it.
    """
    from matplotlib.figure import Figure  # late: only plots need it

    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for arm, label in CURVES.items():
        of_arm = [record for record in records if record["arm"] == arm]
        if not of_arm:
            continue
        episodes = [int(step) * of_arm[0]["batch_size"] for step in of_arm[0]["curve"]]
        curves = [[point["mean"] for point in record["curve"].values()] for record in of_arm]
        means = [statistics.fmean(values) for values in zip(*curves, strict=True)]
        axes.plot(episodes, means, "o-", label=label)
        if len(curves) > 1:
            low, high = ([pick(values) for values in zip(*curves, strict=True)] for pick in (min, max))
            axes.fill_between(episodes, low, high, alpha=0.15)
    baselines = [record["baselines"] for record in records if "baselines" in record]
    if baselines:
        untrained, copied = (
            statistics.fmean(of_seed[method]["mean"] for of_seed in baselines)
            for method in ("untrained", "copied support mask")
        )
        axes.plot(0, untrained, "x", color="grey", label="untrained")
        axes.axhline(copied, color="grey", linestyle=":", label="copied support mask")
    axes.set(title=title, xlabel="episodes", ylabel="mean Dice", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


@plain_matplotlib()
def plot_priors(of_arm: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Draw the refined foreground masks against the episodes.

    Left their area, right their Dice less what chance would reach.

    Args:
        of_arm: records by arm.
        path: of the picture.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    areas, dice = figure.subplots(1, 2)
    for i, (arm, records) in enumerate(of_arm.items()):
        style = {"color": f"C{i}", "linestyle": "--" if arm.endswith("_through") else "-", "label": arm}
        steps = records[0]["training"]["prior_foreground"]["steps"]
        area, reached, by_chance = (
            [statistics.fmean(values) for values in zip(*of_seeds, strict=True)]
            for of_seeds in (
                [record["training"][metric]["values"] for record in records]
                for metric in ("prior_foreground", "prior_dice_foreground", "prior_dice_by_chance")
            )
        )
        areas.plot(steps, area, **style)
        dice.plot(steps, [value - chance for value, chance in zip(reached, by_chance, strict=True)], **style)
    areas.set(xlabel="episodes", ylabel="area, share of the image", ylim=(0, 1))
    areas.set_title("refined foreground masks")
    dice.set(xlabel="episodes", ylabel="Dice - Dice by chance")
    dice.set_title("against the true query masks")
    for axes in (areas, dice):
        axes.grid(alpha=0.3)
    figure.legend(*areas.get_legend_handles_labels(), loc="outside right center", fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
