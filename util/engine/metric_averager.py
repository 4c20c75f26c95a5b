"""Average training metrics without synchronising with the device."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from util.parallel.collectives import gather_values


class MetricAverager:
    """Running means of metrics, accumulated on the device.

    Steps with a non-finite metric are left out of the means; `NonFiniteMonitor` reports them.

    Args:
        names: the metrics, in order.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._sum: Tensor | None = None
        self._count = 0

    def add(self, values: Tensor) -> None:
        """Add the metrics of one step, `(n_metrics,)`."""
        is_finite = values.isfinite().all()
        # The number of finite steps is counted on the device, too, which avoids a synchronisation.
        added = torch.cat([torch.where(is_finite, values, 0), is_finite.to(values.dtype)[None]])
        self._sum = added if self._sum is None else self._sum.to(values.device) + added
        self._count += 1

    def flush(self) -> dict[str, float]:
        """Return the means since the last call, and reset; NaN if no step was finite."""
        *sums, n_finite = self._sum.tolist()
        self._sum, self._count = None, 0
        means = [number / n_finite if n_finite else math.nan for number in sums]
        return dict(zip(self._names, means, strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Return the sums and the step count since the last `flush`."""
        return {"sum": None if self._sum is None else self._sum.cpu(), "count": self._count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a `state_dict`; sums of another set of metrics are dropped."""
        is_same_set = state["sum"] is not None and state["sum"].shape == (len(self._names) + 1,)
        self._sum, self._count = (state["sum"], state["count"]) if is_same_set else (None, 0)


def mean_over_ranks(metrics: dict[str, float]) -> dict[str, float]:
    """Average each metric over the ranks."""
    metrics_of_ranks = gather_values(metrics)
    return {name: sum(m[name] for m in metrics_of_ranks) / len(metrics_of_ranks) for name in metrics}
