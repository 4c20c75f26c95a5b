"""The shared encoder: backbone, reducing convolution and threshold head.

Another backbone is one new file beside `models/resnet.py` and a line in `BACKBONES`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.activation_checkpointing import batchnorms, checkpointed
from models.precision import full_precision, upcast
from models.resnet import RESNETS

MAX_GROUPS, MIN_GROUP_WIDTH = 32, 8


class Backbone(Protocol):
    """What the encoder needs of a backbone, an `nn.Module`.

    Attributes:
        n_channels: channels of the features, which the last feature stage returns at stride 4.
        n_outputs: outputs of the classifier.
        feature_stages: the stages between stem and features, sequences of blocks.
        classifier_stage: the stage between features and classifier.
    """

    n_channels: int
    n_outputs: int
    feature_stages: Sequence[nn.Sequential]
    classifier_stage: nn.Sequential

    def stem(self, images: Tensor) -> Tensor:
        """Map images `(N, 3, H, W)` to the input of the first stage."""

    def classify(self, pooled: Tensor) -> Tensor:
        """Map pooled outputs of the classifier stage `(N, c)` to `(N, n_outputs)`."""

    def run_block(self, block: nn.Module, x: Tensor) -> Tensor:
        """Run a block of a training step on a CPU, storing few activations."""

    def autocast_modules(self) -> list[nn.Module]:
        """List the modules that do nearly all of the work, and none that needs float32."""

    def fold_batchnorm(self) -> None:
        """Fold every BatchNorm into its convolution, for good, for evaluation only."""


BACKBONES: dict[str, Callable[..., nn.Module]] = {**RESNETS}


def _group_norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(MAX_GROUPS, width // MIN_GROUP_WIDTH), width)


NORMS: dict[str, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm2d, "group": _group_norm}


@dataclass(frozen=True)
class Encoded:
    """What the encoder returns for `N` images of each of `B` episodes.

    Attributes:
        features: `(B, N, C, h, w)`, with `h = ceil(H / 4)` and likewise `w`.
        tau: `(B, N, 2)`, the threshold head's two scalars per image.
    """

    features: Tensor
    tau: Tensor


class Encoder(nn.Module):
    """Features at stride 4 in `feature_width` channels, and the head's thresholds.

    Args:
        name: one of `BACKBONES`.
        feature_width: channels `C` of the features.
        norm: one of `NORMS`. `group` normalises each image alone: at most 32 groups of at least 8 channels.
            Source: Wu and He, "Group Normalization", ECCV 2018.
        activation_checkpointing: store only each block's input while training, and recompute the rest in the
            backward pass: less memory, more time, the same results.

    Raises:
        ValueError: name or norm are unknown, or the width is below 1.
    """

    def __init__(
        self,
        *,
        name: str = "resnet101",
        feature_width: int = 512,
        norm: str = "batch",
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
        if name not in BACKBONES:
            raise ValueError(f"encoder must be one of {', '.join(BACKBONES)}, got {name!r}")
        if feature_width < 1:
            raise ValueError(f"feature_width must be at least 1, got {feature_width}")
        self.name = name
        self.activation_checkpointing = activation_checkpointing
        self.backbone = BACKBONES[name](norm_layer=NORMS[norm])
        self.reduce = nn.Conv2d(self.backbone.n_channels, feature_width, kernel_size=1, bias=False)
        nn.init.kaiming_normal_(self.reduce.weight, mode="fan_out", nonlinearity="relu")
        self.threshold = nn.Linear(self.backbone.n_outputs, 2)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Encode images.

        Args:
            images: `(N, 1, H, W)` or `(N, 3, H, W)`; one channel is repeated to three.

        Returns:
            Features `(N, C, h, w)` and `tau` `(N, 2)`.
        """
        backbone = self.backbone
        x = backbone.stem(images.expand(-1, 3, -1, -1))
        for stage in backbone.feature_stages:
            x = self._run(stage, x)
        features = self.reduce(x)
        pooled = F.adaptive_avg_pool2d(self._run(backbone.classifier_stage, x), 1).flatten(1)
        with full_precision(pooled):  # what is compared with a threshold
            tau = self.threshold(backbone.classify(upcast(pooled)))
        return features, tau

    def _run(self, stage: nn.Sequential, x: Tensor) -> Tensor:
        if not (self.training and torch.is_grad_enabled()):
            return stage(x)
        if self.activation_checkpointing:
            for block in stage:
                x = checkpointed(block, x, module=block)
            return x
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return stage(x)  # on GPUs, launching many small operations would cost more time
        for block in stage:
            x = self.backbone.run_block(block, x)
        return x

    def autocast_modules(self) -> list[nn.Module]:
        """List the modules that do nearly all of the work, and none that needs float32."""
        return [*self.backbone.autocast_modules(), self.reduce]

    def encode(self, images: Tensor) -> Encoded:
        """Encode `(B, N, 1 or 3, H, W)` images of `B` episodes in one pass."""
        n_episodes, n_images = images.shape[:2]
        features, tau = self(images.flatten(0, 1))
        return Encoded(
            features=features.unflatten(0, (n_episodes, n_images)),
            tau=tau.unflatten(0, (n_episodes, n_images)),
        )


def freeze_batchnorm(module: nn.Module) -> None:
    """Set every BatchNorm below `module` to evaluation mode.

    Running statistics are used and not updated.
    """
    for norm in batchnorms(module):
        norm.eval()


@torch.no_grad()
def calibrate_batchnorm(encoder: Encoder, batches: list[Tensor]) -> None:
    """Set an encoder's BatchNorm statistics to the averages over image batches.

    An untrained network needs this before its features mean anything; the weights stay as they are.

    Args:
        encoder: its statistics are changed; training modes and momenta are restored, norm by norm.
        batches: images, each `(N, 1 or 3, H, W)`.
    """
    norms = batchnorms(encoder)
    modes = {module: module.training for module in encoder.modules()}
    momenta = [norm.momentum for norm in norms]
    try:
        encoder.train()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain average over the batches
        for images in batches:
            encoder(images)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes.items():
            module.training = mode
