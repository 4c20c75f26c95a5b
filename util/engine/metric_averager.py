"""Average what training reports, without a step that waits for its device."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from util.parallel.collectives import gather_values


class Meter:
    """Averages of a few numbers over steps, summed on the device.

    Steps with a number that is not finite are left out; what stops a training for them is not told here.

    Args:
        names: of the numbers, in order.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._sum: Tensor | None = None
        self._count = 0

    def add(self, values: Tensor) -> None:
        """Add one step's numbers, one for each name."""
        is_finite = values.isfinite().all()
        # What has been left out is counted on the device, too, which nobody waits for.
        added = torch.cat([torch.where(is_finite, values, 0), is_finite.to(values.dtype)[None]])
        self._sum = added if self._sum is None else self._sum.to(values.device) + added
        self._count += 1

    def take(self) -> dict[str, float]:
        """Return the averages since the last call, by name, and start anew.

        They are NaN where all steps were left out.
        """
        *sums, n_finite = self._sum.tolist()
        self._sum, self._count = None, 0
        means = [number / n_finite if n_finite else math.nan for number in sums]
        return dict(zip(self._names, means, strict=True))

    def state(self) -> dict[str, Any]:
        """Return what has been added since the last `take`, as tensors and numbers."""
        return {"sum": None if self._sum is None else self._sum.cpu(), "count": self._count}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned.

        Raises `ValueError` where that is of other names.
        """
        if state["sum"] is not None and state["sum"].shape != (len(self._names) + 1,):
            raise ValueError(f"sums of {len(self._names)} metrics expected")
        self._sum, self._count = state["sum"], state["count"]


def mean_over_ranks(averages: dict[str, float]) -> dict[str, float]:
    """Average what each rank found."""
    of_ranks = gather_values(averages)
    return {name: sum(of_rank[name] for of_rank in of_ranks) / len(of_ranks) for name in averages}
