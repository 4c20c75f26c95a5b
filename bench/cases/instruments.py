"""Count the operations of a network's steps, and time its parts."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import models.few_shot_seg
from models.few_shot_seg import FewShotSeg


class OperationCounter(TorchDispatchMode):
    """Counts the operations of products and convolutions.

    Backward passes are included.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        with self:  # in inference mode products arrive whole, and are counted by their parts
            out = function.decompose(*args, **kwargs)
        if out is not NotImplemented:
            return out
        out = function(*args, **kwargs)
        count = flop_registry.get(function.overloadpacket)
        if count is not None:
            self.total += count(*args, **kwargs, out_val=out)
        return out


class Clock:
    """Adds up the time of the network's parts, each without those inside it."""

    def __init__(self, synchronize: Callable[[], object] | None) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.synchronize = synchronize or (lambda: None)
        self._inner = [0.0]

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time what is done inside."""
        self.synchronize()
        started = time.perf_counter()
        self._inner.append(0.0)
        yield
        self.synchronize()
        took = time.perf_counter() - started
        self.seconds[name] += took - self._inner.pop()
        self._inner[-1] += took

    @contextmanager
    def watch(self, network: FewShotSeg) -> Iterator[None]:
        """Time the parts of a network's forward passes."""
        places = [
            (network.encoder, "forward", "encoder"),
            (models.few_shot_seg, "extract_prototypes", "prototypes"),
            (models.few_shot_seg, "make_prior_masks", "prior masks"),
            (network.mining, "forward", "attention"),
            (network.matching, "forward", "matching"),
            (network.matching.decoder_bg, "forward", "decoders"),
            (network.matching.decoder_fg, "forward", "decoders"),
        ]
        kept = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
        for (owner, name, part), (_, _, function) in zip(places, kept, strict=True):
            setattr(owner, name, self._timed(part, function))
        try:
            yield
        finally:
            for owner, name, function in kept:
                setattr(owner, name, function)

    def _timed(self, part: str, function: Callable) -> Callable:
        def timed(*arguments: Any, **options: Any) -> Any:
            with self.part(part):
                return function(*arguments, **options)

        return timed
