"""Describe where and with what is measured."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version

from util.parallel.processor import processor_name, usable_cores

VERSIONED_PACKAGES = ("torch", "torchvision", "numpy", "scipy", "opencv-python-headless", "Cython")


def describe_machine(device: str = "cpu") -> dict[str, str]:
    """Describe processor, usable cores, memory, system and, on CUDA, the GPU."""
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
    """Name the versions of Python and of the packages that matter for speed."""
    versions = {"Python": platform.python_version()}
    for package in VERSIONED_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
