"""Describe the hardware and software of a measurement."""

import os
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

from util.parallel.processor import processor_name, usable_cores

VERSIONED_PACKAGES = ("torch", "torchvision", "numpy", "scipy", "opencv-python-headless", "Cython")


def describe_machine(device: str = "cpu") -> dict[str, str]:
    """Return processor, usable cores, memory, system and, on CUDA, the GPU."""
    machine = {
        "processor": processor_name(),
        "cores": str(usable_cores()),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB",
        "system": platform.system(),
    }
    if device.startswith("cuda"):
        import torch

        machine["device"] = torch.cuda.get_device_name(device)
    return machine


def describe_versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that affect speed."""
    versions = {"Python": platform.python_version()}
    for package in VERSIONED_PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions
