"""Plot the study's Dice and prior masks against the length of training."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from util.evaluation.method_names import COPIED_MASK, UNTRAINED
from util.io.figures import plain_matplotlib

CURVES = ("start", "published", "strong", "no_prior")


@plain_matplotlib()
def plot_curves(records: Sequence[Mapping[str, Any]], path: Path, *, title: str) -> None:
    """Plot the main arms' mean Dice against episodes, for one profile's records."""
    from matplotlib.figure import Figure  # late: only plots need it

    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for arm in CURVES:
        arm_records = [record for record in records if record["arm"] == arm]
        if not arm_records:
            continue
        episodes = [int(step) * arm_records[0]["batch_size"] for step in arm_records[0]["curve"]]
        points = list(
            zip(*([p["mean"] for p in record["curve"].values()] for record in arm_records), strict=True)
        )
        means = [statistics.fmean(values) for values in points]
        axes.plot(episodes, means, "o-", label=arm.replace("_", " "))
        if len(arm_records) > 1:
            axes.fill_between(episodes, list(map(min, points)), list(map(max, points)), alpha=0.15)
    baselines = [record["baselines"] for record in records if "baselines" in record]
    if baselines:
        untrained, copied = (
            statistics.fmean(methods[name]["mean"] for methods in baselines)
            for name in (UNTRAINED, COPIED_MASK)
        )
        axes.plot(0, untrained, "x", color="grey", label=UNTRAINED)
        axes.axhline(copied, color="grey", linestyle=":", label=COPIED_MASK)
    axes.set(title=title, xlabel="episodes", ylabel="mean Dice", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


@plain_matplotlib()
def plot_priors(arms: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Plot the refined foreground masks' area and Dice above chance, by arm."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    area_axes, dice_axes = figure.subplots(1, 2)
    for i, (arm, records) in enumerate(arms.items()):
        style = {"color": f"C{i}", "linestyle": "--" if arm.endswith("_through") else "-", "label": arm}
        steps = records[0]["training"]["prior_foreground"]["steps"]
        area, dice, chance = (
            list(map(statistics.fmean, zip(*(r["training"][metric]["values"] for r in records), strict=True)))
            for metric in ("prior_foreground", "prior_dice_foreground", "prior_dice_by_chance")
        )
        area_axes.plot(steps, area, **style)
        dice_axes.plot(steps, [d - c for d, c in zip(dice, chance, strict=True)], **style)
    area_axes.set(xlabel="episodes", ylabel="area, share of the image", ylim=(0, 1))
    area_axes.set_title("refined foreground masks")
    dice_axes.set(xlabel="episodes", ylabel="Dice - chance Dice")
    dice_axes.set_title("against the true query masks")
    for axes in (area_axes, dice_axes):
        axes.grid(alpha=0.3)
    figure.legend(*area_axes.get_legend_handles_labels(), loc="outside right center", fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
