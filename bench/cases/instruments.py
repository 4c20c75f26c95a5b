"""Count the operations of a network's steps, and time its parts."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any
from unittest.mock import patch

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import models.few_shot_seg
from models.few_shot_seg import FewShotSeg


class FlopCounter(TorchDispatchMode):
    """Count operations of matrix products and convolutions, backward included."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        with self:  # inference mode dispatches composite products, whose components are counted
            out = function.decompose(*args, **kwargs)
        if out is not NotImplemented:
            return out
        out = function(*args, **kwargs)
        count = flop_registry.get(function.overloadpacket)
        if count is not None:
            self.total += count(*args, **kwargs, out_val=out)
        return out


class Profiler:
    """Sum the time of each part, without the parts nested in it.

    Args:
        synchronize: waits for the device; None on a CPU.
    """

    def __init__(self, synchronize: Callable[[], object] | None) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.synchronize = synchronize or (lambda: None)
        self._nested_seconds = [0.0]

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time the block as a part."""
        self.synchronize()
        started = time.perf_counter()
        self._nested_seconds.append(0.0)
        yield
        self.synchronize()
        seconds = time.perf_counter() - started
        self.seconds[name] += seconds - self._nested_seconds.pop()
        self._nested_seconds[-1] += seconds

    @contextmanager
    def profile(self, network: FewShotSeg) -> Iterator[None]:
        """Time the parts of the network's forward passes within the block."""
        functions = [
            (network.encoder, "forward", "encoder"),
            (models.few_shot_seg, "extract_prototypes", "prototypes"),
            (models.few_shot_seg, "make_prior_masks", "prior masks"),
            (network.mining, "forward", "attention"),
            (network.matching, "forward", "matching"),
            (network.matching.decoder_bg, "forward", "decoders"),
            (network.matching.decoder_fg, "forward", "decoders"),
        ]
        with ExitStack() as patches:
            for owner, name, part in functions:
                timed = self._timed(part, getattr(owner, name))
                patches.enter_context(patch.object(owner, name, timed))
            yield

    def _timed(self, part: str, function: Callable) -> Callable:
        @wraps(function)
        def timed(*arguments: Any, **options: Any) -> Any:
            with self.part(part):
                return function(*arguments, **options)

        return timed
