"""Segmenters of slices from a support: the network, and baselines to beat.

All share three steps: `encode` slices, `prepare` a support from encoded slices and their masks, `segment`
encoded slices with it. Encodings and supports are opaque to the caller and reused freely.
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from models.encoder import Encoded, Encoder
from models.few_shot_seg import FewShotSeg
from models.outputs import SupportState, stack_supports
from models.precision import mixed_precision, store_half_weights
from models.similarity import cosine_similarity

MAX_SUPPORTS = 4  # that the network takes at once: what they mine needs memory
COSINE_SCALE = 20.0  # sharpness of the cosine baseline's softmax
PRIOR_THRESHOLD = 0.5  # of a prior mask, which is soft if its gradient is, or once it is upsampled


class SliceSegmenter(Protocol):
    """Segment slices of a scan from a prepared support."""

    def encode(self, batches: Iterable[Tensor]) -> Any:
        """Encode slices, passed in batches `(n, 1, H, W)`.

        `take` indexes the result over all of them.
        """

    def take(self, encoding: Any, positions: Tensor) -> Any:
        """Select encoded slices, by their positions `(n,)`."""

    def segment(self, support: Any, encoding: Any, *, image_size: tuple[int, int]) -> Tensor:
        """Return the foreground's probability in each encoded slice, `(N, *image_size)`."""

    def segment_each(
        self, supports: Sequence[Any], encoding: Any, *, image_size: tuple[int, int], per_call: int
    ) -> Tensor:
        """Segment all encoded slices from each of several supports.

        Args:
            supports: at least one.
            encoding: `N` slices.
            image_size: `(H, W)` of the result.
            per_call: pairs of slice and support that the decoders take at once, or `N` if that is more.

        Returns:
            `(n_supports, N, H, W)`.
        """
        return torch.stack([self.segment(item, encoding, image_size=image_size) for item in supports])


class SupportSegmenter(SliceSegmenter, Protocol):
    """Segment slices of a scan from support slices.

    Attributes:
        uses_queries: whether the result depends on the segmented slices at all.
    """

    uses_queries: bool

    def join(self, encodings: Sequence[Any]) -> Any:
        """Concatenate encoded slices, in order; a single encoding is returned as it is."""

    def prepare(self, encoding: Any, masks: Tensor) -> Any:
        """Prepare one support from `S` encoded slices, its shots.

        Their masks are `(S, H, W)` of 0 and 1; a single one may be `(H, W)`.
        """


class NetworkSegmenter(SupportSegmenter):
    """The network in evaluation mode: deterministic, each slice alone.

    Args:
        model: modified: BatchNorm is folded into the convolutions, and `bf16` rounds the large weights.
        precision: see `mixed_precision`.
    """

    uses_queries = True

    def __init__(self, model: FewShotSeg, *, precision: str = "fp32") -> None:
        model.eval().encoder.backbone.fold_batchnorm()
        self.model = model.to(memory_format=torch.channels_last)
        self.precision = precision
        if precision == "bf16":
            for part in model.autocast_modules():
                store_half_weights(part)

    def _context(self, tensor: Tensor) -> AbstractContextManager:
        return mixed_precision(tensor.device, self.precision)

    @torch.inference_mode()
    def encode(self, batches: Iterable[Tensor]) -> Encoded:
        """Encode slices; see `SupportSegmenter`."""
        parts = []
        for images in batches:
            with self._context(images):
                parts.append(self.model.encoder(images))
        features, tau = (torch.cat(part) for part in zip(*parts, strict=True))
        return Encoded(features=features[None], tau=tau[None])

    def take(self, encoding: Encoded, positions: Tensor) -> Encoded:
        """Select encoded slices; see `SupportSegmenter`."""
        return Encoded(features=encoding.features[:, positions], tau=encoding.tau[:, positions])

    @torch.inference_mode()
    def join(self, encodings: Sequence[Encoded]) -> Encoded:
        """Concatenate encoded slices; see `SupportSegmenter`."""
        if len(encodings) == 1:
            return encodings[0]
        features, tau = zip(*((encoding.features, encoding.tau) for encoding in encodings), strict=True)
        return Encoded(features=torch.cat(features, dim=1), tau=torch.cat(tau, dim=1))

    @torch.inference_mode()
    def prepare(self, encoding: Encoded, masks: Tensor) -> Any:
        """Prepare a support; see `SupportSegmenter`."""
        with self._context(masks):
            return self.model.prepare_support(encoding, _stack_masks(masks)[None])

    @torch.inference_mode()
    def segment(self, support: Any, encoding: Encoded, *, image_size: tuple[int, int]) -> Tensor:
        """Segment slices; see `SupportSegmenter`."""
        with self._context(encoding.features):
            return self.model.segment(support, encoding, image_size=image_size).probabilities[0, :, 1]

    @torch.inference_mode()
    def segment_each(
        self,
        supports: Sequence[SupportState],
        encoding: Encoded,
        *,
        image_size: tuple[int, int],
        per_call: int,
    ) -> Tensor:
        """Segment slices from several supports together; see `SliceSegmenter`.

        What concerns the slices alone is computed once.
        """
        n_slices = encoding.features.shape[1]
        n_decoded = max(1, per_call // n_slices)
        probabilities = encoding.features.new_empty(len(supports), n_slices, *image_size, dtype=torch.float32)
        positions_of: dict[tuple[int, ...], list[int]] = {}
        for position, support in enumerate(supports):
            positions_of.setdefault(support.layout, []).append(position)
        with self._context(encoding.features):
            for positions in positions_of.values():
                for group in torch.tensor(positions).split(MAX_SUPPORTS):
                    state = stack_supports([supports[position] for position in group.tolist()])
                    segmentation = self.model.segment(
                        state, encoding, image_size=image_size, n_decoded=n_decoded
                    )
                    probabilities[group] = segmentation.probabilities[:, :, 1].float()
        return probabilities

    @torch.inference_mode()
    def find_prior_masks(self, support: Any, encoding: Encoded, *, image_size: tuple[int, int]) -> Tensor:
        """Find the foreground's refined prior masks, `(N, *image_size)` bool."""
        with self._context(encoding.features):
            masks = self.model.find_prior_masks(support, encoding).foreground[0]
        upsampled = F.interpolate(masks[None].float(), size=image_size, mode="bilinear", align_corners=True)
        return upsampled[0] > PRIOR_THRESHOLD


class CosineSegmenter(SupportSegmenter):
    """Baseline: the nearer, by angle, of the support's two mean features.

    They are the mean foreground and the mean background feature of all shots.
    """

    uses_queries = True

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder.eval()

    @torch.inference_mode()
    def encode(self, batches: Iterable[Tensor]) -> Tensor:
        """Encode slices; see `SupportSegmenter`."""
        return torch.cat([self.encoder(images)[0] for images in batches])

    def take(self, encoding: Tensor, positions: Tensor) -> Tensor:
        """Select encoded slices; see `SupportSegmenter`."""
        return encoding[positions]

    @torch.inference_mode()
    def join(self, encodings: Sequence[Tensor]) -> Tensor:
        """Concatenate encoded slices; see `SupportSegmenter`."""
        return encodings[0] if len(encodings) == 1 else torch.cat(list(encodings))

    @torch.inference_mode()
    def prepare(self, encoding: Tensor, masks: Tensor) -> Tensor:
        """Prepare a support, the two mean features `(2, C)`; see `SupportSegmenter`."""
        size = encoding.shape[-2:]
        shares = F.interpolate(
            _stack_masks(masks).float()[None], size=size, mode="bilinear", align_corners=True
        )
        shares = torch.cat([1 - shares, shares]).flatten(1)
        features = encoding.flatten(-2).transpose(0, 1).flatten(1)
        return shares @ features.T / shares.sum(dim=1, keepdim=True).clamp(min=1e-5)

    @torch.inference_mode()
    def segment(self, support: Tensor, encoding: Tensor, *, image_size: tuple[int, int]) -> Tensor:
        """Segment slices; see `SupportSegmenter`."""
        similarity = cosine_similarity(support[None], encoding.flatten(-2)[:, None])
        logits = COSINE_SCALE * similarity.unflatten(-1, encoding.shape[-2:])
        upsampled = F.interpolate(logits, size=image_size, mode="bilinear", align_corners=True)
        return upsampled.softmax(dim=1)[:, 1]


@dataclass(frozen=True)
class _SliceCount:
    n_slices: int


class CopySegmenter(SupportSegmenter):
    """Baseline: the support's mask, copied onto every query slice.

    With several shots it is their mean.
    """

    uses_queries = False

    def encode(self, batches: Iterable[Tensor]) -> _SliceCount:
        """Count the slices; see `SupportSegmenter`."""
        return _SliceCount(sum(len(images) for images in batches))

    def take(self, encoding: _SliceCount, positions: Tensor) -> _SliceCount:
        """Count some of the slices; see `SupportSegmenter`."""
        return _SliceCount(len(positions))

    def join(self, encodings: Sequence[_SliceCount]) -> _SliceCount:
        """Count the slices of all; see `SupportSegmenter`."""
        return _SliceCount(sum(encoding.n_slices for encoding in encodings))

    def prepare(self, encoding: _SliceCount, masks: Tensor) -> Tensor:
        """Return the mask; see `SupportSegmenter`."""
        return _stack_masks(masks).float().mean(dim=0)

    def segment(self, support: Tensor, encoding: _SliceCount, *, image_size: tuple[int, int]) -> Tensor:
        """Copy the mask; see `SupportSegmenter`."""
        resized = F.interpolate(support[None, None], size=image_size, mode="bilinear", align_corners=True)[0]
        return resized.expand(encoding.n_slices, -1, -1)


def _stack_masks(masks: Tensor) -> Tensor:
    return masks if masks.ndim == 3 else masks[None]
