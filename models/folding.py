"""Fold BatchNorm into the convolutions before it, for evaluation."""

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batchnorm(backbone: nn.Module) -> None:
    """Fold every BatchNorm of a torchvision ResNet into its convolution.

    In evaluation a BatchNorm is a fixed scale and shift of each channel, which the weights can carry. On a
    CPU it takes a sixth of the encoder's time.

    Args:
        backbone: in evaluation mode; changed for good. What is no ResNet of torchvision stays as it is.
    """
    for module in backbone.modules():
        for index in ("1", "2", "3"):
            _fold(module, f"conv{index}", f"bn{index}")
        downsample = getattr(module, "downsample", None)
        if isinstance(downsample, nn.Sequential):
            _fold(downsample, "0", "1")


def _fold(owner: nn.Module, convolution_name: str, norm_name: str) -> None:
    convolution, norm = (getattr(owner, name, None) for name in (convolution_name, norm_name))
    if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
        setattr(owner, convolution_name, fuse_conv_bn_eval(convolution, norm))
        setattr(owner, norm_name, nn.Identity())
