"""Say where a training's numbers come from.

Going on with other data, or on another machine, must not pass unnoticed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from util.engine.snapshots import current_versions
from util.errors import UserError
from util.parallel.processor import processor_name


@dataclass(frozen=True)
class Origin:
    """Data and machinery of a training.

    Attributes:
        data: hash of all that episodes are made of; None where it was not taken.
        environment: see `describe_environment`.
    """

    data: str | None = None
    environment: Mapping[str, str | int] = field(default_factory=dict)


UNKNOWN = Origin()


def describe_environment(device: torch.device) -> dict[str, str | int]:
    """Return what results depend on to the last bit, besides configuration and data.

    Versions of Python and packages, the device, the processor and its threads.
    """
    is_cuda = device.type == "cuda"
    return {
        **current_versions(),
        "device": torch.cuda.get_device_name(device) if is_cuda else device.type,
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
    }


def check_origin(before: Origin, now: Origin, *, allows_changes: bool) -> list[str]:
    """Compare a training with the one that it goes on from.

    Args:
        before, now: hashes that are None are not compared.
        allows_changes: whether other data are only remarked on.

    Returns:
        Lines to tell: of other machinery the result is the same within rounding alone.

    Raises:
        UserError: the data changed, and that is not allowed.
    """
    remarks = []
    if None not in (before.data, now.data) and before.data != now.data:
        told = "the volumes or supervoxels are not those that the training began with"
        if not allows_changes:
            raise UserError(f"{told}; restore them, or add resume_changed=True")
        remarks.append(f"warning: {told}")
    changes = [
        f"{name} {value}, now {now.environment[name]}"
        for name, value in before.environment.items()
        if name in now.environment and now.environment[name] != value
    ]
    if changes:
        remarks.append(f"warning: equal within rounding only, for it began with {'; '.join(changes)}")
    return remarks
