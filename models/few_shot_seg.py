"""FewShotSeg: the whole network, wired from its parts.

Support and query go through one encoder; prior masks (HCPMG) guide target region mining (TRM) and prototype-
oriented expansion matching (POEM). Training segments in both directions with the same function.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.encoder import Encoded, Encoder, freeze_batchnorm
from models.matching import ExpansionMatching
from models.mining import TargetRegionMining
from models.outputs import EpisodeOutput, SegmentationOutput, SupportState, share
from models.precision import upcast
from models.prior_masks import (
    PRIOR_FORMS,
    PRIOR_GRADIENTS,
    PriorMasks,
    full_prior_masks,
    make_prior_masks,
    measure_contrast,
)
from models.prototypes import BACKGROUND_AREA_LIMIT, FOREGROUND_AREA_LIMIT, extract_prototypes
from models.similarity import Similarity


class FewShotSeg(nn.Module):
    """Segment queries after a few annotated support slices.

    Args:
        encoder: one of `models.encoder.BACKBONES`.
        feature_width: channels `C` of features, attention and decoders.
        frozen_batchnorm: keep BatchNorm's running statistics as they are while training.
        magnitude: False compares by angle alone.
        prior: False makes the refined prior masks 1 everywhere.
        prior_form, prior_gradient: one of `models.prior_masks.PRIOR_FORMS`, and of `PRIOR_GRADIENTS`.
        mining: False takes the query's own features for both classes' mined ones.
        expansion: False does not expand the prototypes.
        norm, activation_checkpointing: see `Encoder`; the latter changes no result.

    Raises:
        ValueError: unknown form or gradient of the prior; see `Encoder` for more.

    Attributes:
        has_unused_parameters: whether some parameters have no part in the output.
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
        activation_checkpointing: bool = False,
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
        self.encoder = Encoder(
            name=encoder,
            feature_width=feature_width,
            norm=norm,
            activation_checkpointing=activation_checkpointing,
        )
        self.similarity = Similarity(magnitude=magnitude)
        self.mining = TargetRegionMining(feature_width=feature_width)
        self.matching = ExpansionMatching(feature_width=feature_width, expansion=expansion)
        self.has_unused_parameters = not (magnitude and mining and expansion)
        self.train()  # freezes BatchNorm from the start, if requested

    def train(self, mode: bool = True) -> "FewShotSeg":
        """Set training or evaluation mode; a frozen BatchNorm stays in evaluation mode."""
        super().train(mode)
        if self.frozen_batchnorm:
            freeze_batchnorm(self)
        return self

    def autocast_modules(self) -> list[nn.Module]:
        """List the modules that do nearly all of the work, and none that needs float32."""
        decoders = (self.matching.decoder_bg, self.matching.decoder_fg)
        return [*self.encoder.autocast_modules(), self.mining, *decoders]

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
        *,
        prototype_seeds: Tensor | None = None,
    ) -> EpisodeOutput:
        """Segment training episodes in both directions.

        Args:
            support_images: `(B, S, 1 or 3, H, W)`.
            support_masks: `(B, S, H, W)` of 0 and 1.
            query_images: `(B, Q, 1 or 3, H, W)`.
            prototype_seeds: int64 `(B,)`, of sampling each episode's prototypes; None samples none at random.

        Returns:
            Both directions' segmentations, for `models.losses.episode_losses`. With several queries the
            direction back to the support takes their mean `tau`.
        """
        n_shots = support_images.shape[1]
        encoded = self.encoder.encode(torch.cat([support_images, query_images], dim=1))
        support = Encoded(features=encoded.features[:, :n_shots], tau=encoded.tau[:, :n_shots])
        query = Encoded(features=encoded.features[:, n_shots:], tau=encoded.tau[:, n_shots:])

        state = self.prepare_support(support, support_masks, prototype_seeds=prototype_seeds)
        query_prediction = self.segment(state, query, image_size=query_images.shape[-2:])
        predicted = query_prediction.logits.detach().softmax(dim=2).argmax(dim=2)
        # Other seeds than those of both classes in the first direction.
        seeds = None if prototype_seeds is None else prototype_seeds + 2
        return EpisodeOutput(
            query=query_prediction,
            support=self._segment_support(
                predicted, support, query, image_size=support_masks.shape[-2:], prototype_seeds=seeds
            ),
            has_prediction=predicted.flatten(1).any(dim=1),
        )

    def predict(self, support_images: Tensor, support_masks: Tensor, query_images: Tensor) -> Tensor:
        """Segment queries once: probabilities `(B, Q, 2, H, W)`; shapes as in `forward`.

        For many queries of one support, call `prepare_support` once and `segment` for each batch.
        """
        state = self.prepare_support(self.encoder.encode(support_images), support_masks)
        query = self.encoder.encode(query_images)
        return self.segment(state, query, image_size=query_images.shape[-2:]).probabilities

    def prepare_support(
        self, support: Encoded, masks: Tensor, *, prototype_seeds: Tensor | None = None
    ) -> SupportState:
        """Prepare a support for any number of queries.

        Args:
            support: `S` shots of each of `B` episodes.
            masks: `(B, S, H, W)` of 0 and 1.
            prototype_seeds: as in `forward`.
        """
        masks = masks.to(upcast(support.features).dtype)
        limits = (BACKGROUND_AREA_LIMIT, FOREGROUND_AREA_LIMIT)
        background, foreground = (
            extract_prototypes(
                support.features,
                class_masks,
                area_limit=limits[index],
                seeds=None if prototype_seeds is None else prototype_seeds + index,
            )
            for index, class_masks in enumerate((1 - masks, masks))
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

    def find_prior_masks(self, state: SupportState, query: Encoded) -> PriorMasks:
        """Find the queries' prior masks; arguments are those of `segment`."""
        if self.prior_form is None:
            return full_prior_masks(share(query.features, len(state.tau)))
        return make_prior_masks(
            self.similarity,
            state.prototypes,
            query.features,
            tau_support=state.tau,
            tau_query=query.tau,
            form=self.prior_form,
            gradient=self.prior_gradient,
            contrast=state.contrast,
        )

    def segment(
        self,
        state: SupportState,
        query: Encoded,
        *,
        image_size: Sequence[int],
        n_decoded: int | None = None,
    ) -> SegmentationOutput:
        """Segment queries with a prepared support.

        Used in both directions of training, and in evaluation.

        Args:
            state: of `B` episodes.
            query: `Q` images of each episode, or of a single one that all states share.
            image_size: `(H, W)` of the logits.
            n_decoded: episodes that are matched and decoded at once; None: all.
        """
        features = query.features
        n_episodes = len(state.tau)
        prior_masks = self.find_prior_masks(state, query)
        refined = (prior_masks.background, prior_masks.foreground)
        mined = (share(features, n_episodes),) * 2
        if self.uses_mining:
            mined = self.mining(
                features,
                refined,
                support_keys=state.keys,
                support_values=state.values,
                support_mask=state.mask,
            )
        tau_query = share(query.tau, n_episodes)
        logits = upcast(self._match(state, mined, refined, tau_query=tau_query, n_decoded=n_decoded))
        upsampled = F.interpolate(
            logits.flatten(0, 1), size=tuple(image_size), mode="bilinear", align_corners=True
        )
        return SegmentationOutput(logits=upsampled.unflatten(0, logits.shape[:2]), prior_masks=prior_masks)

    def _match(
        self,
        state: SupportState,
        mined: tuple[Tensor, Tensor],
        refined: tuple[Tensor, Tensor],
        *,
        tau_query: Tensor,
        n_decoded: int | None,
    ) -> Tensor:
        """Match and decode `n_decoded` episodes at once; returns logits `(B, Q, 2, h, w)`."""
        n_episodes = len(state.tau)
        if n_decoded is None or n_decoded >= n_episodes:
            return self.matching(self.similarity, state.prototypes, mined, refined, tau_query=tau_query)
        parts = [slice(start, start + n_decoded) for start in range(0, n_episodes, n_decoded)]
        return torch.cat(
            [
                self.matching(
                    self.similarity,
                    state.take(part).prototypes,
                    tuple(class_features[part] for class_features in mined),
                    tuple(prior_mask[part] for prior_mask in refined),
                    tau_query=tau_query[part],
                )
                for part in parts
            ]
        )

    def _segment_support(
        self,
        predicted: Tensor,
        support: Encoded,
        query: Encoded,
        *,
        image_size: Sequence[int],
        prototype_seeds: Tensor | None,
    ) -> SegmentationOutput:
        """Segment the support's shots from the queries' predicted masks `(B, Q, H, W)`.

        `tau` keeps its roles: thresholds come from the support image, sharpness and expansion from the query
        image, in this direction too.
        """
        n_shots = support.features.shape[1]
        as_support = Encoded(features=query.features, tau=support.tau)
        tau_query = query.tau.mean(dim=1, keepdim=True).expand(-1, n_shots, -1)
        as_query = Encoded(features=support.features, tau=tau_query)
        state = self.prepare_support(as_support, predicted, prototype_seeds=prototype_seeds)
        return self.segment(state, as_query, image_size=image_size)
