"""Activation checkpointing: recompute in the backward pass instead of storing.

Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016. Results are the same: BatchNorm's
running statistics count each image once.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def checkpointed(function: Callable[[Tensor], Tensor], x: Tensor, *, module: nn.Module) -> Tensor:
    """Run a function of `x` and store its input alone.

    Args:
        function: runs again in the backward pass.
        x: its input.
        module: holds every BatchNorm that the function runs; their statistics count the first pass alone.
    """
    options = {}
    if not torch.compiler.is_compiling():  # a compiled update of the statistics is done once anyway
        options["context_fn"] = partial(_contexts, module)
    return checkpoint(function, x, use_reentrant=False, preserve_rng_state=False, **options)


def batchnorms(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """List the BatchNorms of a module, itself included."""
    return [child for child in module.modules() if isinstance(child, nn.modules.batchnorm._BatchNorm)]


def _contexts(module: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """Return the contexts of the first pass and of the second one."""
    return nullcontext(), _frozen_statistics(module)


@contextmanager
def _frozen_statistics(module: nn.Module) -> Iterator[None]:
    norms = batchnorms(module)
    saved = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    try:
        for norm in norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None
        yield
    finally:
        for norm, (momentum, count) in zip(norms, saved, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
