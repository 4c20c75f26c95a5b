"""Record data and environment of a training, and compare them on resume."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from util.engine.snapshots import current_versions
from util.errors import UserError
from util.parallel.processor import processor_name


@dataclass(frozen=True)
class Provenance:
    """Data and environment of a training.

    Attributes:
        data: hash of everything that episodes are made of; None if unknown.
        environment: see `describe_environment`.
    """

    data: str | None = None
    environment: Mapping[str, str | int] = field(default_factory=dict)


UNKNOWN = Provenance()


def describe_environment(device: torch.device) -> dict[str, str | int]:
    """Return what affects results bit for bit besides configuration and data.

    Versions of Python and packages, the device, the processor and the number of threads.
    """
    is_cuda = device.type == "cuda"
    return {
        **current_versions(),
        "device": torch.cuda.get_device_name(device) if is_cuda else device.type,
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
    }


def check_provenance(before: Provenance, now: Provenance, *, allows_changes: bool) -> list[str]:
    """Compare the provenance of a training with that of the run it resumes.

    Args:
        before, now: unknown hashes are not compared.
        allows_changes: warn about changed data instead of raising.

    Returns:
        Warnings to print; in another environment results are equal within rounding only.

    Raises:
        UserError: the data changed and changes are not allowed.
    """
    remarks = []
    if None not in (before.data, now.data) and before.data != now.data:
        message = "the volumes or supervoxels differ from those at the start of the training"
        if not allows_changes:
            raise UserError(f"{message}; restore them, or add resume_changed=True")
        remarks.append(f"warning: {message}")
    changes = [
        f"{name} {value}, now {now.environment[name]}"
        for name, value in before.environment.items()
        if name in now.environment and now.environment[name] != value
    ]
    if changes:
        remarks.append(
            f"warning: results will be equal within rounding only: started with {'; '.join(changes)}"
        )
    return remarks
