"""Average what training reports, without a step that waits for its device."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from util.distributed import gather_values
from util.errors import UserError


class Meter:
    """Averages of a few numbers over steps, summed on the device.

    Args:
        names: of the numbers, in order.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._sum: Tensor | None = None
        self._count = 0

    def add(self, values: Tensor) -> None:
        """Add one step's numbers, one for each name."""
        self._sum = values if self._sum is None else self._sum.to(values.device) + values
        self._count += 1

    def take(self, step: int) -> dict[str, float]:
        """Return the averages since the last call, by name, and start anew.

        Raises:
            UserError: the first, which is the loss, is not finite; `step` is named.
        """
        means = (self._sum / self._count).tolist()
        self._sum, self._count = None, 0
        if not math.isfinite(means[0]):
            raise UserError(f"the loss is not finite in the steps up to {step}; lower optim.lr")
        return dict(zip(self._names, means, strict=True))

    def state(self) -> dict[str, Any]:
        """Return what has been added since the last `take`, as tensors and numbers."""
        return {"sum": None if self._sum is None else self._sum.cpu(), "count": self._count}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self._sum, self._count = state["sum"], state["count"]


def mean_over_ranks(averages: dict[str, float]) -> dict[str, float]:
    """Average what each rank found."""
    of_ranks = gather_values(averages)
    return {name: sum(of_rank[name] for of_rank in of_ranks) / len(of_ranks) for name in averages}
