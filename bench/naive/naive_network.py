"""Naive implementation of the network: its formulas, literally.

It shares the encoder and all parameters, for one episode of one shot and one query. Features are upsampled to
the image and unfolded into windows, distances use the difference of every pair of prototype and position,
attention is computed separately for each class with its own projection of the masked keys, and the support is
encoded again for each query.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.few_shot_seg import FewShotSeg
from models.losses import weighted_cross_entropy
from models.mining import InformationAggregation

WINDOW_PX, STRIDE_PX, MAX_WINDOWS, MAX_PIXELS = 16, 8, 150, 100
GAMMA = 3.5
EPSILON = 1e-5


class NaiveFewShotSeg(nn.Module):
    """Naive forward pass with the parameters of a network.

    Args:
        model: provides the encoder and all parameters.
        randomly: sample prototypes at random, as in training; False samples them evenly.
    """

    def __init__(self, model: FewShotSeg, *, randomly: bool = False) -> None:
        super().__init__()
        self.model = model
        self.randomly = randomly

    def forward(
        self, support_image: Tensor, support_mask: Tensor, query_image: Tensor, query_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return query and alignment loss of images `(1, 1, H, W)`, masks `(1, H, W)`."""
        features, tau = self.model.encoder(torch.cat([support_image, query_image]))
        (support, query), (tau_support, tau_query) = features.split(1), tau
        segment = partial(self.segment, tau_support=tau_support, tau_query=tau_query)
        query_prediction = segment(support, support_mask, query)
        query_loss = weighted_cross_entropy(query_prediction.log()[:, None], query_mask[:, None])[0, 0]
        predicted = query_prediction.argmax(dim=1)
        if not predicted.any():
            return query_loss, torch.zeros_like(query_loss)
        support_prediction = segment(query, predicted.to(support_mask.dtype), support)
        alignment_loss = weighted_cross_entropy(support_prediction.log()[:, None], support_mask[:, None])
        return query_loss, alignment_loss[0, 0]

    def predict(self, support_image: Tensor, support_mask: Tensor, query_image: Tensor) -> Tensor:
        """Return the probabilities `(1, 2, H, W)` of one query."""
        features, tau = self.model.encoder(torch.cat([support_image, query_image]))
        support, query = features.split(1)
        return self.segment(support, support_mask, query, tau_support=tau[0], tau_query=tau[1])

    def segment(
        self, support: Tensor, mask: Tensor, query: Tensor, *, tau_support: Tensor, tau_query: Tensor
    ) -> Tensor:
        """Segment query features `(1, C, h, w)` given a support mask `(1, H, W)`."""
        masks = (1 - mask, mask)
        prototypes = [self.prototypes(support, masks[index], index) for index in (0, 1)]
        priors = self.priors(prototypes, query, tau_support=tau_support, tau_query=tau_query)
        logits = []
        matching = self.model.matching
        for index, decoder in enumerate((matching.decoder_bg, matching.decoder_fg)):
            mined = self.mine(query, priors[index], support, masks[index], index)
            maps = self.match(mined, priors[index], *prototypes[index], index=index, tau_query=tau_query)
            logits.append(decoder(maps))
        upsampled = _resize(torch.cat(logits, dim=1), mask.shape[-2:])
        return upsampled.softmax(dim=1)

    def prototypes(self, features: Tensor, mask: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """Return the global `(1, C)` and region `(P, C)` prototypes of a class."""
        full = _resize(features, mask.shape[-2:])
        masked = full * mask[:, None]
        global_ = masked.sum(dim=(2, 3)) / (mask.sum() + EPSILON)
        n_channels = full.shape[1]
        sums = F.unfold(masked, WINDOW_PX, stride=STRIDE_PX).view(n_channels, WINDOW_PX**2, -1).sum(dim=1)
        areas = F.unfold(mask[:, None], WINDOW_PX, stride=STRIDE_PX)[0].sum(dim=0)
        min_area = torch.clamp(mask.sum() / 100, max=(1.0, 0.95)[index] * WINDOW_PX**2)
        eligible = torch.nonzero((areas >= min_area) & (areas > 0))[:, 0]
        if len(eligible):
            windows = self._sample(eligible, MAX_WINDOWS)
            return global_, (sums[:, windows] / areas[windows]).T
        pixels = self._sample(torch.nonzero(mask.flatten() > 0)[:, 0], MAX_PIXELS)
        return global_, full[0].flatten(1)[:, pixels].T

    def priors(
        self,
        prototypes: list[tuple[Tensor, Tensor]],
        query: Tensor,
        *,
        tau_support: Tensor,
        tau_query: Tensor,
    ) -> list[Tensor]:
        """Return the refined prior masks of background and foreground, each `(h, w)`."""
        raw = []
        for index, class_prototypes in enumerate(prototypes):
            similarity = self.similarity(torch.cat(class_prototypes), query)
            weights = torch.softmax(_sharpness(tau_query) * similarity, dim=0)
            pooled = (weights * similarity).sum(dim=0)
            raw.append((10 * pooled > tau_support[index]).to(query.dtype))
        return [raw[0] * (1 - raw[1]), raw[1] * (1 - raw[0])]

    def similarity(self, prototypes: Tensor, features: Tensor) -> Tensor:
        """Compare prototypes `(P, C)` with features `(1, C, h, w)`: `(P, h, w)`."""
        angle = torch.einsum("pc,chw->phw", F.normalize(prototypes), F.normalize(features)[0])
        difference = features - prototypes[:, :, None, None]
        distance = difference.pow(2).mean(dim=1).clamp(min=1e-12).sqrt()
        return angle + self.model.similarity.alpha * 2 / (1 + torch.exp(GAMMA * distance))

    def mine(self, query: Tensor, prior: Tensor, support: Tensor, mask: Tensor, index: int) -> Tensor:
        """Mine the target region of a class in the query: `(1, C, h, w)`."""
        mining = self.model.mining
        small_mask = _resize(mask[:, None], support.shape[-2:])[0, 0]
        self_mined = self.aggregate(mining.self_attention, query, query, prior)
        cross_mined = self.aggregate(mining.cross_attention, query, support, small_mask)
        beta = (mining.beta_bg, mining.beta_fg)[index]
        return (0.5 * self_mined + beta * cross_mined) / (0.5 + beta)

    def aggregate(
        self, module: InformationAggregation, query: Tensor, source: Tensor, mask: Tensor
    ) -> Tensor:
        """Attend to source features, with plain keys and keys masked by `(h, w)`."""
        positions, source_positions = query[0].flatten(1).T, source[0].flatten(1).T
        masked_source = (source[0] * mask).flatten(1).T
        queries, values = module.wq(positions), module.wv(source_positions)
        plain = torch.softmax(queries @ module.wk(source_positions).T, dim=1)
        masked = torch.softmax(queries @ module.wk(masked_source).T, dim=1)
        attention = (0.5 * plain + module.mu * masked) / (0.5 + module.mu)
        return (positions + attention @ values).T.reshape(query.shape)

    def match(
        self, mined: Tensor, prior: Tensor, global_: Tensor, region: Tensor, *, index: int, tau_query: Tensor
    ) -> Tensor:
        """Return the decoder's input `(1, 2C + 3, h, w)`."""
        strength = tau_query[1:] if index else self.model.matching.expand_bg(tau_query[1:])
        query_prototype = (mined * prior).sum(dim=(2, 3)) / (prior.sum() + EPSILON)
        step = torch.sigmoid(strength) * query_prototype
        global_, region = global_ + step, region + step
        similarity = self.similarity(region, mined)
        weights = torch.softmax(_sharpness(tau_query) * similarity, dim=0)
        matched = torch.einsum("phw,pc->chw", weights, region)[None]
        pooled, summed = (weights * similarity).sum(dim=0), similarity.sum(dim=0)
        global_similarity = F.cosine_similarity(global_[:, :, None, None], mined, dim=1)[0]
        return torch.cat([mined, matched, torch.stack([pooled, summed, global_similarity])[None]], dim=1)

    def _sample(self, candidates: Tensor, limit: int) -> Tensor:
        if len(candidates) <= limit:
            return candidates
        if self.randomly:
            return candidates[torch.randperm(len(candidates), device=candidates.device)[:limit]]
        return candidates[torch.arange(limit, device=candidates.device) * len(candidates) // limit]


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=True)


def _sharpness(tau_query: Tensor) -> Tensor:
    return 1 + 10 * torch.sigmoid(tau_query[0])
