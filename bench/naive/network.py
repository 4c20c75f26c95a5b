"""The network as its formulas read: what the benchmarks compare with.

Same encoder, same parameters, one episode of one shot and one query. Features are upsampled to the image and
unfolded into windows, differences are formed for every pair of prototype and position, each class has
attentions of its own with masked keys projected anew, and the support is encoded again for each query.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.few_shot_seg import FewShotSeg
from models.losses import weighted_cross_entropy
from models.matching import Decoder
from models.mining import InformationAggregation

WINDOW_PX, STRIDE_PX, MAX_WINDOWS, MAX_PIXELS = 16, 8, 150, 100
GAMMA = 3.5
EPSILON = 1e-5


class NaiveFewShotSeg(nn.Module):
    """A network's naive twin, with the same parameters.

    Args:
        model: whose encoder and parameters are used.
        randomly: draw prototypes at random, as in training; False spaces them evenly.
    """

    def __init__(self, model: FewShotSeg, *, randomly: bool = False) -> None:
        super().__init__()
        self.model = model
        self.randomly = randomly

    def forward(
        self, support_image: Tensor, support_mask: Tensor, query_image: Tensor, query_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Give query and alignment loss; images are `(1, 1, H, W)`, masks `(1, H, W)`."""
        features, tau = self.model.encoder(torch.cat([support_image, query_image]))
        (support, query), (tau_support, tau_query) = features.split(1), tau
        taus = {"tau_support": tau_support, "tau_query": tau_query}
        there = self.segment(support, support_mask, query, **taus)
        query_loss = weighted_cross_entropy(there.log()[:, None], query_mask[:, None])[0, 0]
        predicted = there.argmax(dim=1)
        if not predicted.any():
            return query_loss, torch.zeros_like(query_loss)
        back = self.segment(query, predicted.to(support_mask.dtype), support, **taus)
        return query_loss, weighted_cross_entropy(back.log()[:, None], support_mask[:, None])[0, 0]

    def predict(self, support_image: Tensor, support_mask: Tensor, query_image: Tensor) -> Tensor:
        """Segment one query: probabilities `(1, 2, H, W)`."""
        features, tau = self.model.encoder(torch.cat([support_image, query_image]))
        support, query = features.split(1)
        return self.segment(support, support_mask, query, tau_support=tau[0], tau_query=tau[1])

    def segment(
        self, support: Tensor, mask: Tensor, query: Tensor, *, tau_support: Tensor, tau_query: Tensor
    ) -> Tensor:
        """Segment features `(1, C, h, w)` after a support's, with its mask `(1, H, W)`."""
        masks = (1 - mask, mask)
        prototypes = [self.prototypes(support, of_class, index) for index, of_class in enumerate(masks)]
        priors = self.priors(prototypes, query, tau_support=tau_support, tau_query=tau_query)
        logits = []
        for index in (0, 1):
            mined = self.mine(query, priors[index], support, masks[index], index)
            maps = self.match(mined, priors[index], *prototypes[index], index=index, tau_query=tau_query)
            logits.append(self.decoder(index)(maps))
        upsampled = _resize(torch.cat(logits, dim=1), mask.shape[-2:])
        return upsampled.softmax(dim=1)

    def prototypes(self, features: Tensor, mask: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """Give the global prototype `(1, C)` and the region ones `(P, C)` of a class."""
        full = _resize(features, mask.shape[-2:])
        weighed = full * mask[:, None]
        global_ = weighed.sum(dim=(2, 3)) / (mask.sum() + EPSILON)
        n_channels = full.shape[1]
        sums = F.unfold(weighed, WINDOW_PX, stride=STRIDE_PX).view(n_channels, WINDOW_PX**2, -1).sum(dim=1)
        areas = F.unfold(mask[:, None], WINDOW_PX, stride=STRIDE_PX)[0].sum(dim=0)
        least = torch.clamp(mask.sum() / 100, max=(1.0, 0.95)[index] * WINDOW_PX**2)
        counting = torch.nonzero((areas >= least) & (areas > 0))[:, 0]
        if len(counting):
            chosen = self._sample(counting, MAX_WINDOWS)
            return global_, (sums[:, chosen] / areas[chosen]).T
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
        """Give the refined prior masks of background and foreground, each `(h, w)`."""
        raw = []
        for index, both in enumerate(prototypes):
            similarity = self.similarity(torch.cat(both), query)
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
        """Mine a class's region in the query: `(1, C, h, w)`."""
        mining = self.model.mining
        share = _resize(mask[:, None], support.shape[-2:])[0, 0]
        own = self.aggregate(mining.self_attention, query, query, prior)
        cross = self.aggregate(mining.cross_attention, query, support, share)
        beta = (mining.beta_bg, mining.beta_fg)[index]
        return (0.5 * own + beta * cross) / (0.5 + beta)

    def aggregate(
        self, module: InformationAggregation, query: Tensor, source: Tensor, mask: Tensor
    ) -> Tensor:
        """Attend to a source, plainly and through a mask `(h, w)`."""
        positions, of_source = query[0].flatten(1).T, source[0].flatten(1).T
        masked_source = (source[0] * mask).flatten(1).T
        queries, values = module.wq(positions), module.wv(of_source)
        plain = torch.softmax(queries @ module.wk(of_source).T, dim=1)
        masked = torch.softmax(queries @ module.wk(masked_source).T, dim=1)
        attention = (0.5 * plain + module.mu * masked) / (0.5 + module.mu)
        return (positions + attention @ values).T.reshape(query.shape)

    def match(
        self, mined: Tensor, prior: Tensor, global_: Tensor, region: Tensor, *, index: int, tau_query: Tensor
    ) -> Tensor:
        """Give the decoder's input, `(1, 2C + 3, h, w)`."""
        strength = tau_query[1:] if index else self.model.matching.expand_bg(tau_query[1:])
        of_query = (mined * prior).sum(dim=(2, 3)) / (prior.sum() + EPSILON)
        step = torch.sigmoid(strength) * of_query
        global_, region = global_ + step, region + step
        similarity = self.similarity(region, mined)
        weights = torch.softmax(_sharpness(tau_query) * similarity, dim=0)
        matched = torch.einsum("phw,pc->chw", weights, region)[None]
        pooled, summed = (weights * similarity).sum(dim=0), similarity.sum(dim=0)
        of_global = F.cosine_similarity(global_[:, :, None, None], mined, dim=1)[0]
        return torch.cat([mined, matched, torch.stack([pooled, summed, of_global])[None]], dim=1)

    def decoder(self, index: int) -> Decoder:
        """Return the decoder of background or foreground."""
        return (self.model.matching.decoder_bg, self.model.matching.decoder_fg)[index]

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
