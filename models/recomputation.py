"""Compute parts of residual blocks again instead of keeping them.

Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016. Results are the same: BatchNorm's
running statistics count each image once.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.resnet import BasicBlock, Bottleneck


def run_again_later(block: nn.Module, x: Tensor) -> Tensor:
    """Run a block and keep its input alone."""
    return _checkpointed(block, x, module=block)


def run_keeping_less(block: nn.Module, x: Tensor) -> Tensor:
    """Run a block; of torchvision's residual ones keep no normalised activation.

    These are a sixth of what a bottleneck keeps, and cheap: the second pass ends in front of each
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
        x = _checkpointed(partial(_normalise_and_convolve, block, norm, convolution), x, module=norm)
    x = norms[-1](x)
    x += identity
    return block.relu(x)


def batchnorms(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """List the BatchNorms of a module, itself included."""
    return [child for child in module.modules() if isinstance(child, nn.modules.batchnorm._BatchNorm)]


def _normalise_and_convolve(block: nn.Module, norm: nn.Module, convolution: nn.Module, x: Tensor) -> Tensor:
    return convolution(block.relu(norm(x)))


def _checkpointed(function: Callable[[Tensor], Tensor], x: Tensor, *, module: nn.Module) -> Tensor:
    options = {}
    if not torch.compiler.is_compiling():  # a compiled update of the statistics is done once anyway
        options["context_fn"] = partial(_contexts, module)
    return checkpoint(function, x, use_reentrant=False, preserve_rng_state=False, **options)


def _contexts(module: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """Give the contexts of the first pass and of the second one."""
    return nullcontext(), _kept_statistics(module)


@contextmanager
def _kept_statistics(module: nn.Module) -> Iterator[None]:
    norms = batchnorms(module)
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    try:
        for norm in norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None
        yield
    finally:
        for norm, (momentum, count) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
