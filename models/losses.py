"""Losses and metrics of training episodes; `models.outputs` holds their inputs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from models.outputs import EpisodeOutput
from models.precision import upcast

CLASS_WEIGHTS = (0.1, 1.0)  # background, foreground
IGNORED_LABEL = 255
FAILED_SHARE = 0.9  # of episodes without any predicted foreground, at the end of a training

# Takes logits `(B, Q, 2, H, W)` of background and foreground, and masks `(B, Q, H, W)` of 0, 1 and 255, which
# is ignored; returns the loss of each image, `(B, Q)`.
Criterion = Callable[[Tensor, Tensor], Tensor]

# What a training step logs, in the order of `EpisodeLosses.metrics`.
METRICS = (
    "loss",
    "query_loss",
    "alignment_loss",
    "raw_prior_background",
    "raw_prior_foreground",
    "prior_background",
    "prior_foreground",
    "prior_dice_background",
    "prior_dice_foreground",
    "prior_dice_by_chance",
    "empty_predictions",
)
# Titles of plots of these metrics, with labels.
METRIC_PLOTS: dict[str, dict[str, str]] = {
    "loss": {"loss": "total", "query_loss": "support to query", "alignment_loss": "query to support"},
    "prior masks: share of the image": {
        "prior_foreground": "foreground",
        "prior_background": "background",
        "raw_prior_foreground": "foreground, with overlap",
        "raw_prior_background": "background, with overlap",
    },
    "prior masks: Dice with ground truth": {
        "prior_dice_foreground": "foreground",
        "prior_dice_background": "background",
        "prior_dice_by_chance": "foreground by chance",
    },
    "episodes without predicted foreground": {"empty_predictions": "share of the episodes"},
}


@dataclass(frozen=True)
class EpisodeLosses:
    """The losses of a training batch, and measures of its prior masks.

    Attributes:
        query, alignment: `(B,)`, one of each per episode.
        prior_areas: `(4,)`, see `PriorMasks.areas`.
        prior_agreement: `(3,)`, see `PriorMasks.agreement`.
        has_prediction: `(B,)` bool, whether any query has predicted foreground.
    """

    query: Tensor
    alignment: Tensor
    prior_areas: Tensor
    prior_agreement: Tensor
    has_prediction: Tensor

    @property
    def total(self) -> Tensor:
        """The batch's loss to minimise, a scalar."""
        return (self.query + self.alignment).mean()

    def metrics(self) -> Tensor:
        """Return the step's metrics in one tensor, in the order of `METRICS`."""
        query, alignment = self.query.detach().mean(), self.alignment.detach().mean()
        totals = torch.stack([query + alignment, query, alignment]).float()
        empty = (~self.has_prediction).float().mean()[None]
        return torch.cat([totals, self.prior_areas, self.prior_agreement, empty])


def weighted_cross_entropy(logits: Tensor, masks: Tensor) -> Tensor:
    """Return the cross entropy of each image, weighted by class.

    Probabilities are clamped by the smallest float32 step from 0 and 1, as published.

    Args:
        logits: `(B, Q, 2, H, W)` of background and foreground.
        masks: `(B, Q, H, W)` of 0 and 1; 255 is ignored.

    Returns:
        `(B, Q)`: the mean over an image's pixels, weighted by class; 0 if every pixel is ignored.
    """
    epsilon = torch.finfo(torch.float32).eps
    likelihood = upcast(logits).softmax(dim=2).clamp(epsilon, 1 - epsilon)
    foreground = masks == 1
    true_class_likelihood = torch.where(foreground, likelihood[:, :, 1], likelihood[:, :, 0])
    weights = torch.where(foreground, CLASS_WEIGHTS[1], CLASS_WEIGHTS[0])
    weights = weights * (masks != IGNORED_LABEL)
    total = (weights * -true_class_likelihood.log()).sum(dim=(-1, -2))
    return total / weights.sum(dim=(-1, -2)).clamp(min=epsilon)


# By the name that the configuration key `loss` gives; the first is the published one.
CRITERIA: dict[str, Criterion] = {"weighted_cross_entropy": weighted_cross_entropy}


def episode_losses(
    output: EpisodeOutput,
    support_masks: Tensor,
    query_masks: Tensor,
    criterion: Criterion = weighted_cross_entropy,
) -> EpisodeLosses:
    """Compute the losses of a batch of episodes, in both directions.

    Args:
        output: the network's, of `B` episodes.
        support_masks: `(B, S, H, W)` of 0 and 1.
        query_masks: `(B, Q, H, W)` of 0 and 1, or 255 for pixels to ignore.
        criterion: the loss of each image.

    Returns:
        Means over each episode's images. The alignment loss is 0 if no foreground was predicted in any query.
    """
    query = criterion(output.query.logits, query_masks).mean(dim=1)
    alignment = criterion(output.support.logits, support_masks).mean(dim=1)
    prior_masks = output.query.prior_masks
    return EpisodeLosses(
        query=query,
        alignment=torch.where(output.has_prediction, alignment, torch.zeros_like(alignment)),
        prior_areas=prior_masks.areas().detach(),
        prior_agreement=prior_masks.agreement(query_masks),
        has_prediction=output.has_prediction,
    )


def describe_metrics(means: Mapping[str, float]) -> tuple[str, str]:
    """Describe means of `METRICS`, in short for the progress bar and for the log."""
    refined = f"foreground {means['prior_foreground']:.1%}, background {means['prior_background']:.1%}"
    raw = f"{means['raw_prior_foreground']:.1%} and {means['raw_prior_background']:.1%} with overlap"
    # Exactly 0 means that the direction from query to support was never trained.
    alignment = f"query to support {means['alignment_loss']:.4f}"
    if not means["alignment_loss"]:
        alignment = "query to support not trained, as no foreground was predicted"
    empty = ""
    if means["alignment_loss"] and means["empty_predictions"] > 0:
        empty = f"; no foreground predicted in {means['empty_predictions']:.1%} of the episodes"
    return (
        f"loss {means['loss']:.3f}, foreground predicted in {1 - means['empty_predictions']:.0%} of episodes",
        f"loss {means['loss']:.4f} (support to query {means['query_loss']:.4f}, {alignment}){empty}; "
        f"prior masks: {refined} of the image ({raw})",
    )


def describe_failure(averages: Mapping[str, float]) -> str | None:
    """Describe what is wrong if a training ends with these averages, or None."""
    share = averages["empty_predictions"]
    if share < FAILED_SHARE:
        return None
    where, what = ("any episode", "nothing")
    if share < 1:
        where, what = f"{share:.0%} of the last episodes", "next to nothing"
    return (
        f"up to the end no foreground was predicted in {where}, so the network segments {what}; train "
        'longer, or change optim.lr (docs/training.md, "Reading the log")'
    )
