"""The shared encoder (design of HCPMNet).

A dilated ResNet with a reducing convolution and a threshold head. Residual networks: He et al., "Deep
Residual Learning for Image Recognition", CVPR 2016. Stride 4 by dilation: Chen et al., "Rethinking Atrous
Convolution for Semantic Image Segmentation", 2017.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from models.precision import full_precision, widen
from models.recomputation import batchnorms, run_again_later, run_keeping_less

ENCODERS = ("resnet101", "resnet50", "resnet18")
N_CLASSIFIER_OUTPUTS = 1000
NORMS = ("batch", "group")
MOST_GROUPS, LEAST_GROUP_WIDTH = 32, 8


@dataclass(frozen=True)
class Encoded:
    """What the encoder gives for `N` images of each of `B` episodes.

    Attributes:
        features: `(B, N, C, h, w)`, with `h = ceil(H / 4)` and likewise `w`.
        tau: `(B, N, 2)`, the threshold head's two scalars per image.
    """

    features: Tensor
    tau: Tensor


class Encoder(nn.Module):
    """ResNet to layer3 at stride 4, reduced to `feature_width` channels.

    A threshold head sits on layer4.

    Args:
        name: one of `ENCODERS`.
        feature_width: channels `C` of the features.
        norm: one of `NORMS`. `group` normalises each image alone: at most 32 groups of at least 8 channels.
            Source: Wu and He, "Group Normalization", ECCV 2018.
        recompute: keep only each residual block's input while training, and compute the rest again in the
            backward pass: less memory, more time, the same results. Source: Chen et al., "Training Deep Nets
            with Sublinear Memory Cost", 2016.

    Raises:
        ValueError: name or norm are unknown, or the width is below 1.
    """

    def __init__(
        self,
        *,
        name: str = "resnet101",
        feature_width: int = 512,
        norm: str = "batch",
        recompute: bool = False,
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
        if name not in ENCODERS:
            raise ValueError(f"encoder must be one of {', '.join(ENCODERS)}, got {name!r}")
        if feature_width < 1:
            raise ValueError(f"feature_width must be at least 1, got {feature_width}")
        self.name = name
        self.recompute = recompute
        self.backbone = _make_backbone(name, nn.BatchNorm2d if norm == "batch" else _group_norm)
        layer3_width = self.backbone.layer4[0].conv1.in_channels
        self.reduce = nn.Conv2d(layer3_width, feature_width, kernel_size=1, bias=False)
        nn.init.kaiming_normal_(self.reduce.weight, mode="fan_out", nonlinearity="relu")
        self.threshold = nn.Linear(N_CLASSIFIER_OUTPUTS, 2)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Encode images.

        Args:
            images: `(N, 1, H, W)` or `(N, 3, H, W)`; one channel is repeated to three.

        Returns:
            Features `(N, C, h, w)` and `tau` `(N, 2)`.
        """
        net = self.backbone
        x = images.expand(-1, 3, -1, -1)
        x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
        for layer in (net.layer1, net.layer2, net.layer3):
            x = self._run(layer, x)
        features = self.reduce(x)
        pooled = F.adaptive_avg_pool2d(self._run(net.layer4, x), 1).flatten(1)
        with full_precision(pooled):  # what is compared with a threshold
            tau = self.threshold(net.fc(widen(pooled)))
        return features, tau

    def _run(self, layer: nn.Sequential, x: Tensor) -> Tensor:
        if not (self.training and torch.is_grad_enabled()):
            return layer(x)
        if self.recompute:
            run = run_again_later
        elif x.device.type == "cpu" and not torch.compiler.is_compiling():
            run = run_keeping_less  # on GPUs, launching its many small operations would cost more time
        else:
            return layer(x)
        for block in layer:
            x = run(block, x)
        return x

    def encode(self, images: Tensor) -> Encoded:
        """Encode `(B, N, 1 or 3, H, W)` images of `B` episodes in one pass."""
        n_episodes, n_images = images.shape[:2]
        features, tau = self(images.flatten(0, 1))
        return Encoded(
            features=features.unflatten(0, (n_episodes, n_images)),
            tau=tau.unflatten(0, (n_episodes, n_images)),
        )


def _group_norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(MOST_GROUPS, width // LEAST_GROUP_WIDTH), width)


def _make_backbone(name: str, norm_layer: Callable[[int], nn.Module]) -> nn.Module:
    build = getattr(torchvision.models, name)
    if name != "resnet18":
        return build(weights=None, norm_layer=norm_layer, replace_stride_with_dilation=[True, True, False])
    # Basic blocks cannot be dilated, so stride 4 is kept by taking the later strides out instead.
    net = build(weights=None, norm_layer=norm_layer)
    for layer in (net.layer2, net.layer3):
        layer[0].conv1.stride = (1, 1)
        layer[0].downsample[0].stride = (1, 1)
    return net


def freeze_batchnorm(module: nn.Module) -> None:
    """Put every BatchNorm below `module` in evaluation mode.

    Running statistics are used and kept.
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
