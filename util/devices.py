"""Choose the device to compute on."""

import torch

from util.errors import UserError


def choose_device(name: str) -> torch.device:
    """Turn a configured device name into a device that is there.

    Args:
        name: `cpu`, `cuda`, `cuda:<n>`, `mps`, or `auto` for the first present of cuda, mps, cpu.

    Raises:
        UserError: the name is not a device, or this machine has none like it.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device={name}: must be cpu, cuda, cuda:<n>, mps or auto") from None
    if device.type == "cuda":
        n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= n_devices:
            raise UserError(f"device={name}: this machine offers {n_devices} CUDA devices; use device=auto")
    elif device.type == "mps":
        if not torch.backends.mps.is_available():
            raise UserError("device=mps: this machine has no Metal GPU; use device=auto")
    elif device.type != "cpu":
        raise UserError(f"device={name}: must be cpu, cuda, cuda:<n>, mps or auto")
    return device
