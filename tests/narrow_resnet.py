"""A shallow ResNet-18 of an eighth of the width, for tests that train but are not about features."""

from collections.abc import Sequence
from typing import Any

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from models.resnet import ResNetBackbone

NARROWING = 8


class NarrowResNet(ResNetBackbone):
    """A ResNet-18 with 8 to 64 channels in place of 64 to 512, and one block a layer in place of two.

    The names in its state dict are among those of a ResNet-18. Other blocks and numbers of them narrow the
    networks that consist of these.
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck] = BasicBlock,
        n_blocks: Sequence[int] = (1, 1, 1, 1),
        **options: Any,
    ) -> None:
        super().__init__(block, n_blocks, **options)
        self.fc = nn.Linear(512 // NARROWING * block.expansion, self.fc.out_features)

    def _make_layer(
        self, block: type[BasicBlock | Bottleneck], planes: int, blocks: int, **options: Any
    ) -> nn.Sequential:
        width = planes // NARROWING
        if planes == 64:  # the first layer: its input narrows too, so that basic blocks do not downsample it
            self.inplanes = width
            self.conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
            self.bn1 = self._norm_layer(width)
        return super()._make_layer(block, width, blocks, **options)
