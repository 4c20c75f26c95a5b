"""FewShotSeg: the whole network, wired from its parts.

Support and query go through one encoder; prior masks (HCPMG) guide target region mining (TRM) and prototype-
oriented expansion matching (POEM). Training segments in both directions with the same function.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.encoder import Encoded, Encoder, freeze_batchnorm
from models.losses import segmentation_loss
from models.matching import ExpansionMatching
from models.mining import TargetRegionMining
from models.outputs import EpisodeLosses, Segmentation, SupportState
from models.precision import widen
from models.prior_masks import (
    PRIOR_FORMS,
    PRIOR_GRADIENTS,
    full_prior_masks,
    make_prior_masks,
    measure_contrast,
)
from models.prototypes import (
    BACKGROUND_AREA_LIMIT,
    FOREGROUND_AREA_LIMIT,
    extract_prototypes,
)
from models.similarity import Similarity


class FewShotSeg(nn.Module):
    """Segment queries after a few annotated support slices.

    Args:
        encoder: one of `models.encoder.ENCODERS`.
        feature_width: channels `C` of features, attention and decoders.
        frozen_batchnorm: keep BatchNorm's running statistics as they are while training.
        magnitude: False compares by angle alone.
        prior: False makes the refined prior masks 1 everywhere.
        prior_form, prior_gradient: one of `models.prior_masks.PRIOR_FORMS`, and of `PRIOR_GRADIENTS`.
        mining: False takes the query's own features for both classes' mined ones.
        expansion: False does not expand the prototypes.
        norm, recompute: see `Encoder`; the latter changes no result.

    Raises:
        ValueError: there is no such form or gradient of the prior; see `Encoder` for more.

    Attributes:
        leaves_parameters_out: whether some parameters have no part in the losses.
    """

    def __init__(
        self,
        *,
        encoder: str = "resnet101",
        feature_width: int = 512,
        frozen_batchnorm: bool = False,
        magnitude: bool = True,
        prior: bool = True,
        prior_form: str = "literal",
        prior_gradient: str = "none",
        mining: bool = True,
        expansion: bool = True,
        norm: str = "batch",
        recompute: bool = False,
    ) -> None:
        super().__init__()
        if prior_form not in PRIOR_FORMS:
            raise ValueError(f"prior_form must be one of {', '.join(PRIOR_FORMS)}, got {prior_form!r}")
        if prior_gradient not in PRIOR_GRADIENTS:
            known = ", ".join(PRIOR_GRADIENTS)
            raise ValueError(f"prior_gradient must be one of {known}, got {prior_gradient!r}")
        self.frozen_batchnorm = frozen_batchnorm
        self.prior_form = prior_form if prior else None
        self.prior_gradient = prior_gradient
        self.uses_mining = mining
        self.encoder = Encoder(name=encoder, feature_width=feature_width, norm=norm, recompute=recompute)
        self.similarity = Similarity(magnitude=magnitude)
        self.mining = TargetRegionMining(feature_width=feature_width)
        self.matching = ExpansionMatching(feature_width=feature_width, expansion=expansion)
        self.leaves_parameters_out = not (magnitude and mining and expansion)
        self.train()  # freezes BatchNorm from the start, where that is asked for

    def train(self, mode: bool = True) -> "FewShotSeg":
        """Set training or evaluation mode; a frozen BatchNorm stays in the latter."""
        super().train(mode)
        if self.frozen_batchnorm:
            freeze_batchnorm(self)
        return self

    def heavy_parts(self) -> list[nn.Module]:
        """List the modules that do nearly all of the work, and none that needs float32."""
        net, matching = self.encoder.backbone, self.matching
        of_encoder = [net.conv1, net.layer1, net.layer2, net.layer3, net.layer4, self.encoder.reduce]
        return [*of_encoder, self.mining, matching.decoder_bg, matching.decoder_fg]

    def compile_parts(self) -> None:
        """Have `torch.compile` make kernels of encoder and decoders on first use.

        Names in the state dict stay as they are.
        """
        for part in (self.encoder, self.matching.decoder_bg, self.matching.decoder_fg):
            part.compile()

    def forward(
        self,
        support_images: Tensor,
        support_masks: Tensor,
        query_images: Tensor,
        query_masks: Tensor,
        *,
        draws: Tensor | None = None,
    ) -> EpisodeLosses:
        """Play training episodes in both directions.

        Args:
            support_images: `(B, S, 1 or 3, H, W)`.
            support_masks: `(B, S, H, W)` of 0 and 1.
            query_images: `(B, Q, 1 or 3, H, W)`.
            query_masks: `(B, Q, H, W)` of 0 and 1, or 255 for pixels to ignore.
            draws: int64 seeds `(B,)` of drawing prototypes, one per episode; None draws none at random.

        Returns:
            The losses of each episode; their sum is to be minimised. With several queries or shots an
            episode's loss is the mean over its images, and the alignment takes the queries' mean `tau`.
        """
        n_shots = support_images.shape[1]
        encoded = self.encoder.encode(torch.cat([support_images, query_images], dim=1))
        support = Encoded(features=encoded.features[:, :n_shots], tau=encoded.tau[:, :n_shots])
        query = Encoded(features=encoded.features[:, n_shots:], tau=encoded.tau[:, n_shots:])

        state = self.prepare_support(support, support_masks, draws=draws)
        there = self.segment(state, query, image_size=query_images.shape[-2:])
        query_loss = segmentation_loss(there.probabilities, query_masks).mean(dim=1)
        alignment = self._alignment_loss(there, support, query, support_masks, draws=draws)
        return EpisodeLosses(
            query=query_loss,
            alignment=alignment,
            prior_areas=there.prior_masks.areas().detach(),
            prior_agreement=there.prior_masks.agreement(query_masks),
        )

    def predict(self, support_images: Tensor, support_masks: Tensor, query_images: Tensor) -> Tensor:
        """Segment queries once: probabilities `(B, Q, 2, H, W)`; shapes as in `forward`.

        For many queries of one support, call `prepare_support` once and `segment` for each batch.
        """
        state = self.prepare_support(self.encoder.encode(support_images), support_masks)
        query = self.encoder.encode(query_images)
        return self.segment(state, query, image_size=query_images.shape[-2:]).probabilities

    def prepare_support(
        self,
        support: Encoded,
        masks: Tensor,
        *,
        draws: Tensor | None = None,
    ) -> SupportState:
        """Compute what segmentation needs of the support.

        Args:
            support: `S` shots of each of `B` episodes.
            masks: `(B, S, H, W)` of 0 and 1.
            draws: as in `forward`.
        """
        masks = masks.to(widen(support.features).dtype)
        limits = (BACKGROUND_AREA_LIMIT, FOREGROUND_AREA_LIMIT)
        background, foreground = (
            extract_prototypes(
                support.features,
                of_class,
                area_limit=limits[index],
                draws=None if draws is None else draws + index,
            )
            for index, of_class in enumerate((1 - masks, masks))
        )
        prototypes = (background, foreground)
        positions = support.features.flatten(-2).transpose(-1, -2).flatten(1, 2)
        keys, values = (
            self.mining.cross_attention.project(positions) if self.uses_mining else (positions,) * 2
        )
        size = support.features.shape[-2:]
        resized = F.interpolate(masks, size=size, mode="bilinear", align_corners=True)
        tau = support.tau.mean(dim=1)
        contrast = None
        if self.prior_form is not None and PRIOR_FORMS[self.prior_form].needs_contrast:
            contrast = measure_contrast(
                self.similarity, prototypes, support.features, masks=resized, tau_support=tau
            )
        return SupportState(
            prototypes=prototypes,
            keys=keys,
            values=values,
            mask=resized.flatten(1),
            tau=tau,
            contrast=contrast,
        )

    def segment(self, state: SupportState, query: Encoded, *, image_size: Sequence[int]) -> Segmentation:
        """Segment queries with a prepared support.

        It serves either direction of training, and evaluation.

        Args:
            state: of `B` episodes.
            query: `Q` images of each episode.
            image_size: `(H, W)` of the probabilities.
        """
        features = query.features
        prior_masks = full_prior_masks(features)
        if self.prior_form is not None:
            prior_masks = make_prior_masks(
                self.similarity,
                state.prototypes,
                features,
                tau_support=state.tau,
                tau_query=query.tau,
                form=self.prior_form,
                gradient=self.prior_gradient,
                contrast=state.contrast,
            )
        refined = (prior_masks.background, prior_masks.foreground)
        mined = (features, features)
        if self.uses_mining:
            mined = self.mining(
                features,
                refined,
                support_keys=state.keys,
                support_values=state.values,
                support_mask=state.mask,
            )
        logits = self.matching(self.similarity, state.prototypes, mined, refined, tau_query=query.tau)
        logits = widen(logits)
        upsampled = F.interpolate(
            logits.flatten(0, 1), size=tuple(image_size), mode="bilinear", align_corners=True
        )
        probabilities = upsampled.softmax(dim=1).unflatten(0, logits.shape[:2])
        return Segmentation(probabilities=probabilities, prior_masks=prior_masks)

    def _alignment_loss(
        self,
        there: Segmentation,
        support: Encoded,
        query: Encoded,
        support_masks: Tensor,
        *,
        draws: Tensor | None,
    ) -> Tensor:
        """Return the loss of segmenting the support after the predicted query: `(B,)`.

        It is 0 where nothing was predicted. `tau` keeps its places: thresholds come from the support image,
        sharpness and expansion from the query image, in this direction too.
        """
        predicted = there.probabilities.detach().argmax(dim=2)
        n_shots = support.features.shape[1]
        as_support = Encoded(features=query.features, tau=support.tau)
        tau_query = query.tau.mean(dim=1, keepdim=True).expand(-1, n_shots, -1)
        as_query = Encoded(features=support.features, tau=tau_query)
        # Beside the seeds of both classes in the first direction.
        draws = None if draws is None else draws + 2
        state = self.prepare_support(as_support, predicted, draws=draws)
        back = self.segment(state, as_query, image_size=support_masks.shape[-2:])
        losses = segmentation_loss(back.probabilities, support_masks).mean(dim=1)
        found = predicted.flatten(1).any(dim=1)
        return torch.where(found, losses, torch.zeros_like(losses))
