"""The literal formulas composed to the whole method behind the encoder, one query at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.models import literal
from tests.models.literal import BACKGROUND, FOREGROUND


@dataclass(frozen=True)
class Images:
    """What the encoder gives for n images: features (n, C, h, w) and tau (n, 2)."""

    features: Tensor
    tau: Tensor


@dataclass(frozen=True)
class Network:
    """The whole method behind the encoder, with weights by the names of the network's parameters."""

    weights: Mapping[str, Tensor]
    magnitude: bool = True
    prior: bool = True
    mining: bool = True
    expansion: bool = True

    def segment(
        self, support: Images, masks: Tensor, query: Images, *, tau_support: Tensor, size: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Segment the only image of `query` after shots with masks (S, H, W).

        Returns:
            Probabilities (2, H, W) and the refined prior masks (2, h, w), background first.
        """
        features, tau_query = query.features[0], query.tau[0]
        by_class = (1 - masks, masks)
        global_ = [literal.global_prototype(support.features, of_class) for of_class in by_class]
        region = [
            torch.cat(
                [
                    literal.region_prototypes(f, m, index)
                    for f, m in zip(support.features, by_class[index], strict=True)
                ]
            )
            for index in (BACKGROUND, FOREGROUND)
        ]
        pools = [
            torch.stack(
                [
                    literal.global_prototype([f], [m])
                    for f, m in zip(support.features, by_class[index], strict=True)
                ]
            )
            for index in (BACKGROUND, FOREGROUND)
        ]
        priors = self._priors(pools, region, features, tau_support=tau_support, tau_query=tau_query)
        logits = []
        for index, name in enumerate(("bg", "fg")):
            mined = self._mine(name, features, priors[index], support=support, mask=by_class[index])
            expanded, moved = global_[index], region[index]
            if self.expansion:
                strength = tau_query[1]
                if name == "bg":
                    slope, shift = (self.weights[f"matching.expand_bg.{part}"] for part in ("weight", "bias"))
                    strength = slope[0, 0] * strength + shift[0]
                step = torch.sigmoid(strength) * literal.query_prototype(mined, priors[index])
                expanded, moved = expanded + step, moved + step
            maps = literal.matching_maps(
                expanded,
                moved,
                mined,
                alpha=self.weights["similarity.alpha"],
                tau_query=tau_query,
                magnitude=self.magnitude,
                n_shots=len(masks),
            )
            logits.append(literal.decode(self.weights, f"decoder_{name}", maps))
        return torch.softmax(literal.resize(torch.cat(logits), size), dim=0), torch.stack(priors)

    def _priors(
        self,
        pools: Sequence[Tensor],
        region: Sequence[Tensor],
        features: Tensor,
        *,
        tau_support: Tensor,
        tau_query: Tensor,
    ) -> list[Tensor]:
        if not self.prior:
            return [torch.ones_like(features[0])] * 2
        raw = []
        for index in (BACKGROUND, FOREGROUND):
            prototypes = torch.cat([pools[index], region[index]])
            similarity = literal.similarities(
                prototypes, features, self.weights["similarity.alpha"], magnitude=self.magnitude
            )
            raw.append(literal.unrefined_prior(similarity, tau_query, tau_support[index]).detach())
        return [raw[BACKGROUND] * (1 - raw[FOREGROUND]), raw[FOREGROUND] * (1 - raw[BACKGROUND])]

    def _mine(self, name: str, features: Tensor, prior: Tensor, *, support: Images, mask: Tensor) -> Tensor:
        if not self.mining:
            return features
        source = torch.cat([shot.flatten(1) for shot in support.features], dim=1)
        shares = literal.resize(mask, features.shape[1:]).flatten()
        own, cross = (self._aggregation(f"mining.{kind}_attention") for kind in ("self", "cross"))
        beta = self.weights[f"mining.beta_{name}"]
        return literal.mine(own, cross, beta, query=features, prior=prior, source=source, mask=shares)

    def _aggregation(self, prefix: str) -> literal.Aggregation:
        parts = [self.weights[f"{prefix}.{part}.weight"] for part in ("wq", "wk", "wv")]
        return literal.Aggregation(*parts, mu=self.weights[f"{prefix}.mu"])

    def losses(
        self, support: Images, support_masks: Tensor, query: Images, query_masks: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Give the query loss and the alignment loss of one episode.

        Several queries, of which the formulas do not speak, are averaged; for the alignment they are shots.
        """
        size = query_masks.shape[1:]
        tau_support = support.tau.mean(dim=0)
        query_losses, predicted = [], []
        for features, tau, mask in zip(query.features, query.tau, query_masks, strict=True):
            query_images = Images(features[None], tau[None])
            result, _ = self.segment(support, support_masks, query_images, tau_support=tau_support, size=size)
            query_losses.append(literal.segmentation_loss(result, mask))
            predicted.append((result[1] > result[0]).to(result.dtype))
        query_loss, predicted = torch.stack(query_losses).mean(), torch.stack(predicted)
        if not predicted.any():
            return query_loss, torch.zeros_like(query_loss)
        shot_losses = []
        for features, mask in zip(support.features, support_masks, strict=True):
            shot = Images(features[None], query.tau.mean(dim=0, keepdim=True))
            support_result, _ = self.segment(query, predicted, shot, tau_support=tau_support, size=size)
            shot_losses.append(literal.segmentation_loss(support_result, mask))
        return query_loss, torch.stack(shot_losses).mean()
