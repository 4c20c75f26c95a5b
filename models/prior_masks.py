"""HCPMG: high-confidence prior masks from angle-and-magnitude similarity."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from models.precision import upcast
from models.prototypes import Prototypes
from models.similarity import Similarity, pooling_weights, sharpness

SIMILARITY_SCALE = 10.0
# Below this difference of the pooled similarities, a support's classes count as indistinguishable.
MIN_GAP = 1e-2
EPSILON = 1e-5


@dataclass(frozen=True)
class PriorMasks:
    """Masks of where a query surely shows background and foreground.

    Each is `(B, Q, h, w)` of 0 and 1; with a soft gradient, of anything between.

    Attributes:
        raw_background, raw_foreground: the thresholded similarities.
        background, foreground: those without what the other claims too.
    """

    raw_background: Tensor
    raw_foreground: Tensor
    background: Tensor
    foreground: Tensor

    def areas(self) -> Tensor:
        """Return the masks' shares of the image, in attribute order: `(4,)`, 0 to 1."""
        masks = (self.raw_background, self.raw_foreground, self.background, self.foreground)
        return torch.stack([mask.mean(dtype=torch.float32) for mask in masks])

    def agreement(self, truth: Tensor) -> Tensor:
        """Compare the refined masks with the truth.

        Args:
            truth: `(B, Q, H, W)` of 0 and 1 on the image's grid; other labels count as background.

        Returns:
            `(3,)`: the background's mean Dice, the foreground's, and the one that as large a foreground mask
            would reach by chance, `2 a p / (a + p)` for areas `a` and `p` of mask and truth. An empty mask
            has 0.
        """
        share = F.interpolate(
            (truth == 1).to(torch.float32),
            size=self.foreground.shape[-2:],
            mode="bilinear",
            align_corners=True,
        )
        background, foreground = (mask.detach().float() for mask in (self.background, self.foreground))
        area, true_area = (mask.mean(dim=(-2, -1)) for mask in (foreground, share))
        chance = 2 * area * true_area / (area + true_area + EPSILON)
        dice = (_dice(background, 1 - share), _dice(foreground, share), chance)
        return torch.stack([values.mean() for values in dice])


@dataclass(frozen=True)
class Contrast:
    """Separation of the classes by the pooled similarities on the support itself.

    Attributes:
        middle: `(B,)`, halfway between the classes' mean differences `s_fg - s_bg`.
        half_gap: `(B,)`, from there to either of them; above 0.
    """

    middle: Tensor
    half_gap: Tensor


def literal_margins(
    background: Tensor, foreground: Tensor, contrast: Contrast | None
) -> tuple[Tensor, Tensor]:
    """Scale the similarities by ten, as published."""
    return SIMILARITY_SCALE * background, SIMILARITY_SCALE * foreground


def standardised_margins(
    background: Tensor, foreground: Tensor, contrast: Contrast | None
) -> tuple[Tensor, Tensor]:
    """Compare each class's similarity with its own mean and deviation over the query."""
    return _standardise(background), _standardise(foreground)


def contrast_margins(
    background: Tensor, foreground: Tensor, contrast: Contrast | None
) -> tuple[Tensor, Tensor]:
    """Compare the classes, by the difference of their similarities.

    It is standardised over the query.
    """
    difference = _standardise(foreground - background)
    return -difference, difference


def calibrated_margins(
    background: Tensor, foreground: Tensor, contrast: Contrast | None
) -> tuple[Tensor, Tensor]:
    """Compare the classes on the scale defined by the support's own mask.

    On the support, the foreground's mean is 1 and the background's -1.
    """
    difference = foreground - background
    normalised = (difference - contrast.middle[:, None, None]) / contrast.half_gap[:, None, None]
    return -normalised, normalised


@dataclass(frozen=True)
class PriorForm:
    """A form of the prior: what is compared with which thresholds.

    Attributes:
        margins: takes the pooled similarities `(B, Q, L)` of background and foreground, and the support's
            contrast; what it returns is compared with the thresholds.
        max_threshold: thresholds are this times the sigmoid of `tau_s`, so that no training can drive
            them where masks are empty or full; None: they are `tau_s` itself.
        needs_contrast: whether the support's contrast must be measured.
    """

    margins: Callable[[Tensor, Tensor, Contrast | None], tuple[Tensor, Tensor]]
    max_threshold: float | None = None
    needs_contrast: bool = False


PRIOR_FORMS = {
    "literal": PriorForm(literal_margins),
    "standardised": PriorForm(standardised_margins, max_threshold=2.0),
    "contrast": PriorForm(contrast_margins, max_threshold=2.0),
    "calibrated": PriorForm(calibrated_margins, max_threshold=1.0, needs_contrast=True),
}
# Masks are hard and constant; hard, with the sigmoid's gradient; or the sigmoid itself.
PRIOR_GRADIENTS = ("none", "straight_through", "soft")


def make_prior_masks(
    similarity: Similarity,
    prototypes: tuple[Prototypes, Prototypes],
    features: Tensor,
    *,
    tau_support: Tensor,
    tau_query: Tensor,
    form: str = "literal",
    gradient: str = "none",
    contrast: Contrast | None = None,
) -> PriorMasks:
    """Threshold each class's pooled similarity, and take out what both classes claim.

    Args:
        similarity: the module with the learnable `alpha`.
        prototypes: of background and foreground, for `B` episodes.
        features: the queries', `(B, Q, C, h, w)`.
        tau_support: `(B, 2)`, the thresholds of background and foreground.
        tau_query: `(B, Q, 2)`.
        form: one of `PRIOR_FORMS`; `literal` is the published one.
        gradient: one of `PRIOR_GRADIENTS`; `none` is the published one.
        contrast: the support's, for the forms that need it.
    """
    prior_form = PRIOR_FORMS[form]
    with torch.set_grad_enabled(torch.is_grad_enabled() and gradient != "none"):
        pooled = _pooled_similarities(similarity, prototypes, features, tau_query)
        margins = prior_form.margins(*pooled, contrast)
        thresholds = tau_support[:, None, :, None]
        if prior_form.max_threshold is not None:
            thresholds = prior_form.max_threshold * thresholds.sigmoid()
        background, foreground = (
            _threshold(margin - thresholds[:, :, index], gradient)
            .to(upcast(features).dtype)
            .unflatten(-1, features.shape[-2:])
            for index, margin in enumerate(margins)
        )
        return PriorMasks(
            raw_background=background,
            raw_foreground=foreground,
            background=background * (1 - foreground),
            foreground=foreground * (1 - background),
        )


def measure_contrast(
    similarity: Similarity,
    prototypes: tuple[Prototypes, Prototypes],
    features: Tensor,
    *,
    masks: Tensor,
    tau_support: Tensor,
) -> Contrast:
    """Measure how well the pooled similarities separate the support's classes.

    Args:
        similarity, prototypes, tau_support: as in `make_prior_masks`.
        features: the support's, `(B, S, C, h, w)`.
        masks: the foreground's share at each of their positions, `(B, S, h, w)`.

    Returns:
        Constants: no gradient flows through them. Without foreground they are meaningless, but finite.
    """
    with torch.no_grad():
        tau = tau_support[:, None].expand(-1, features.shape[1], -1)
        background, foreground = _pooled_similarities(similarity, prototypes, features, tau)
        difference = (foreground - background).flatten(1)
        shares = masks.flatten(1).to(difference.dtype)
        inside, outside = (
            (difference * share).sum(dim=1) / (share.sum(dim=1) + EPSILON) for share in (shares, 1 - shares)
        )
        half_gap = ((inside - outside) / 2).clamp(min=MIN_GAP)
        return Contrast(middle=(inside + outside) / 2, half_gap=half_gap)


def full_prior_masks(features: Tensor) -> PriorMasks:
    """Return masks that are 1 everywhere: the network without a prior."""
    ones = upcast(features).new_ones(*features.shape[:2], *features.shape[-2:])
    return PriorMasks(raw_background=ones, raw_foreground=ones, background=ones, foreground=ones)


def _threshold(margin: Tensor, gradient: str) -> Tensor:
    if gradient == "soft":
        return margin.sigmoid()
    hard = (margin > 0).to(margin.dtype)
    if gradient == "none" or not torch.is_grad_enabled():
        return hard
    # Source: Bengio et al., "Estimating or Propagating Gradients Through Stochastic Neurons", 2013.
    soft = margin.sigmoid()
    return hard + (soft - soft.detach())


def _standardise(values: Tensor) -> Tensor:
    deviation = values.std(dim=-1, keepdim=True, correction=0)
    return (values - values.mean(dim=-1, keepdim=True)) / (deviation + EPSILON)


def _dice(mask: Tensor, truth: Tensor) -> Tensor:
    both = (mask * truth).sum(dim=(-2, -1))
    return 2 * both / (mask.sum(dim=(-2, -1)) + truth.sum(dim=(-2, -1)) + EPSILON)


def _pooled_similarities(
    similarity: Similarity, prototypes: tuple[Prototypes, Prototypes], features: Tensor, tau_query: Tensor
) -> list[Tensor]:
    """Pool over all prototypes of each class, the global ones included: each `(B, Q, L)`."""
    vectors, valid = zip(*(class_prototypes.pool() for class_prototypes in prototypes), strict=True)
    # Both classes at once: what concerns the features alone is computed once.
    similarities = similarity(torch.cat(vectors, dim=1)[:, None], features.flatten(-2))
    by_class = similarities.split([v.shape[1] for v in vectors], dim=2)
    pooled = []
    for class_similarities, is_valid in zip(by_class, valid, strict=True):
        weights = pooling_weights(class_similarities, sharpness(tau_query), is_valid[:, None])
        pooled.append((weights * class_similarities).sum(dim=-2))
    return pooled
