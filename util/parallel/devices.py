"""Choose the device to compute on."""

import torch

from util.errors import UserError
from util.parallel.ranks import Ranks

SINGLE_RANK = Ranks()


def choose_device(name: str, ranks: Ranks = SINGLE_RANK) -> torch.device:
    """Resolve a configured device name to an available device.

    Args:
        name: `cpu`, `cuda`, `cuda:<n>`, `mps`, or `auto` for the first available of cuda, mps, cpu.
        ranks: this process's rank. With several ranks, `cuda` and `auto` give each the CUDA device of its
            local rank; `auto` skips mps, and `cuda:<n>` and `mps` are invalid.

    Raises:
        UserError: the device is unknown or not available, or there are too few for the ranks.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return _cuda_of_rank(name, ranks) if ranks.is_distributed else torch.device("cuda")
        has_mps = torch.backends.mps.is_available() and not ranks.is_distributed
        return torch.device("mps" if has_mps else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device={name}: must be cpu, cuda, cuda:<n>, mps or auto") from None
    if device.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"device={name}: must be cpu, cuda, cuda:<n>, mps or auto")
    is_single_device = device.type == "mps" or (device.type == "cuda" and device.index is not None)
    if ranks.is_distributed and is_single_device:
        raise UserError(
            f"device={name}: {ranks.n_ranks} ranks cannot share it; use device=cuda, which gives each one "
            "its own, or device=cpu"
        )
    if device.type == "cuda":
        n_devices = _n_cuda_devices()
        if (device.index or 0) >= n_devices:
            raise UserError(f"device={name}: this machine has {n_devices} CUDA devices; use device=auto")
        return _cuda_of_rank(name, ranks) if ranks.is_distributed else device
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("device=mps: this machine has no Metal GPU; use device=auto")
    return device


def _cuda_of_rank(name: str, ranks: Ranks) -> torch.device:
    n_devices = _n_cuda_devices()
    if ranks.n_local_ranks > n_devices:
        raise UserError(
            f"device={name}: {ranks.n_local_ranks} ranks are on a machine with {n_devices} CUDA devices; "
            "start one for each (NPROC=gpu), or use device=cpu"
        )
    return torch.device("cuda", ranks.local_rank)


def _n_cuda_devices() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0
