"""A shallow ResNet-18 of an eighth of the width, for tests that train but are not about features."""

from typing import Any

from torch import nn
from torchvision.models.resnet import BasicBlock

from models.resnet import ResNetBackbone

NARROWING = 8


class NarrowResNet(ResNetBackbone):
    """A ResNet-18 with 8 to 64 channels in place of 64 to 512, and one block a layer in place of two.

    The names in its state dict are among those of a ResNet-18.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(BasicBlock, [1, 1, 1, 1], **options)
        self.fc = nn.Linear(512 // NARROWING, self.fc.out_features)

    def _make_layer(self, block: type[BasicBlock], planes: int, blocks: int, **options: Any) -> nn.Sequential:
        width = planes // NARROWING
        if planes == 64:  # the first layer: its input narrows too, so that it needs no downsampling
            self.inplanes = width
            self.conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
            self.bn1 = self._norm_layer(width)
        return super()._make_layer(block, width, blocks, **options)
