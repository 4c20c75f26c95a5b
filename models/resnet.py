"""torchvision's ResNets as backbones; nothing else knows how they are built.

Residual networks: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016. Stride 4 by dilation:
Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017.
"""

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.activation_checkpointing import checkpointed
from models.deferred_import import deferred_import

# torchvision imports PyTorch's compiler for its detection networks, a third of the start of every command.
with deferred_import("torch._dynamo.utils", "is_compile_supported"):
    import torchvision
    from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

# Pretrained weights that torchvision publishes, by source and backbone.
PUBLISHED_WEIGHTS = {
    ("deeplabv3_coco", "resnet101"): "DeepLabV3_ResNet101_Weights.COCO_WITH_VOC_LABELS_V1",
    ("deeplabv3_coco", "resnet50"): "DeepLabV3_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1",
    ("imagenet", "resnet101"): "ResNet101_Weights.IMAGENET1K_V1",
    ("imagenet", "resnet50"): "ResNet50_Weights.IMAGENET1K_V1",
    ("imagenet", "resnet18"): "ResNet18_Weights.IMAGENET1K_V1",
}


class ResNetBackbone(ResNet):
    """A ResNet whose first three layers keep stride 4; see `models.encoder.Backbone`.

    Names in the state dict are torchvision's.

    Args:
        block, n_blocks: as torchvision's `ResNet` takes them.
        norm_layer: makes a normalisation of so many channels.
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        n_blocks: Sequence[int],
        *,
        norm_layer: Callable[[int], nn.Module],
    ) -> None:
        is_basic = block is BasicBlock
        dilation = [False] * 3 if is_basic else [True, True, False]
        super().__init__(block, list(n_blocks), norm_layer=norm_layer, replace_stride_with_dilation=dilation)
        if is_basic:  # basic blocks cannot be dilated: stride 4 is kept by removing the later strides
            for layer in (self.layer2, self.layer3):
                layer[0].conv1.stride = (1, 1)
                layer[0].downsample[0].stride = (1, 1)

    @property
    def n_channels(self) -> int:
        """Channels of the features."""
        return self.layer4[0].conv1.in_channels

    @property
    def n_outputs(self) -> int:
        """Outputs of the classifier."""
        return self.fc.out_features

    @property
    def feature_stages(self) -> tuple[nn.Sequential, ...]:
        """The stages between stem and features."""
        return self.layer1, self.layer2, self.layer3

    @property
    def classifier_stage(self) -> nn.Sequential:
        """The stage between features and classifier."""
        return self.layer4

    def stem(self, images: Tensor) -> Tensor:
        """Map images `(N, 3, H, W)` to `(N, c, ceil(H / 4), ceil(W / 4))`."""
        return self.maxpool(self.relu(self.bn1(self.conv1(images))))

    def classify(self, pooled: Tensor) -> Tensor:
        """Map pooled outputs of the classifier stage `(N, c)` to `(N, n_outputs)`."""
        return self.fc(pooled)

    def run_block(self, block: nn.Module, x: Tensor) -> Tensor:
        """Run a residual block of a training step without storing normalised activations.

        These are a sixth of what a bottleneck stores, and cheap: the second pass ends in front of each
        convolution, as soon as the convolution's input is there.
        """
        if not isinstance(block, BasicBlock | Bottleneck):
            return block(x)
        identity = x if block.downsample is None else block.downsample(x)
        convolutions, norms = [block.conv1, block.conv2], [block.bn1, block.bn2]
        if isinstance(block, Bottleneck):
            convolutions, norms = [*convolutions, block.conv3], [*norms, block.bn3]
        x = convolutions[0](x)
        for norm, convolution in zip(norms[:-1], convolutions[1:], strict=True):
            x = checkpointed(partial(_normalise_and_convolve, block, norm, convolution), x, module=norm)
        x = norms[-1](x)
        x += identity
        return block.relu(x)

    def autocast_modules(self) -> list[nn.Module]:
        """List the modules that do nearly all of the work, and none that needs float32."""
        return [self.conv1, self.layer1, self.layer2, self.layer3, self.layer4]

    def fold_batchnorm(self) -> None:
        """Fold every BatchNorm into its convolution, for good, for evaluation only.

        In evaluation a BatchNorm is a fixed scale and shift of each channel, which the weights can carry. On
        a CPU it takes a sixth of the encoder's time.
        """
        for module in self.modules():
            for index in ("1", "2", "3"):
                _fold(module, f"conv{index}", f"bn{index}")
            downsample = getattr(module, "downsample", None)
            if isinstance(downsample, nn.Sequential):
                _fold(downsample, "0", "1")


RESNETS = {
    "resnet101": partial(ResNetBackbone, Bottleneck, (3, 4, 23, 3)),
    "resnet50": partial(ResNetBackbone, Bottleneck, (3, 4, 6, 3)),
    "resnet18": partial(ResNetBackbone, BasicBlock, (2, 2, 2, 2)),
}


def find_published(source: str, name: str) -> torchvision.models.WeightsEnum | None:
    """Return torchvision's entry of pretrained weights; None if there is none."""
    if (source, name) not in PUBLISHED_WEIGHTS:
        return None
    family, member = PUBLISHED_WEIGHTS[source, name].split(".")
    models = torchvision.models.segmentation if family.startswith("DeepLab") else torchvision.models
    return getattr(models, family)[member]


def _normalise_and_convolve(block: nn.Module, norm: nn.Module, convolution: nn.Module, x: Tensor) -> Tensor:
    return convolution(block.relu(norm(x)))


def _fold(owner: nn.Module, convolution_name: str, norm_name: str) -> None:
    convolution, norm = (getattr(owner, name, None) for name in (convolution_name, norm_name))
    if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
        setattr(owner, convolution_name, fuse_conv_bn_eval(convolution, norm))
        setattr(owner, norm_name, nn.Identity())
