"""Choose the number of threads of PyTorch, OpenCV and SimpleITK."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import SimpleITK as sitk
import torch

from util.parallel.processor import core_limits
from util.parallel.ranks import Ranks

# Measured for a network of 64 channels on 64 x 64 slices: two threads are 1.5 times as fast as one, so four
# would be about twice as fast (Amdahl), and more would gain little. The useful number grows with the work.
_USEFUL_THREADS = 4
_SMALL_PX, _SMALL_WIDTH = 64 * 64, 64


@dataclass(frozen=True)
class ThreadChoice:
    """A number of threads.

    Attributes:
        number: of threads of this process.
        reason: what limits it, for messages.
    """

    number: int
    reason: str

    def __str__(self) -> str:
        return f"{self.number} ({self.reason})"


def choose_threads(
    ranks: Ranks,
    *,
    n_workers: int,
    slice_size_px: Sequence[int],
    feature_width: int,
    environment: Mapping[str, str] = os.environ,
) -> ThreadChoice:
    """Choose the number of threads of a rank that computes on the CPU.

    Args:
        ranks: those of this machine share its cores, unless Slurm gave each its own.
        n_workers: loader processes of each rank. They mostly wait: cores are left to them only if they are
            less than half of the rank's.
        slice_size_px: height and width of a slice.
        feature_width: channels of the network's features.
        environment: `OMP_NUM_THREADS`, if set there, is respected.
    """
    requested = environment.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if requested.isdecimal() and int(requested) > 0:
        return ThreadChoice(int(requested), "OMP_NUM_THREADS")
    number, reason = min(core_limits(environment))
    reason = f"{number} {reason}" if reason == "cores" else reason
    has_own_cores = "SLURM_PROCID" in environment and "TORCHELASTIC_RUN_ID" not in environment
    if ranks.n_local_ranks > 1 and not has_own_cores:
        number, reason = max(1, number // ranks.n_local_ranks), f"{reason} for {ranks.n_local_ranks} ranks"
    if n_workers < number / 2:
        number, reason = number - n_workers, f"{reason}, {n_workers} left to workers" if n_workers else reason
    work = math.prod(slice_size_px) / _SMALL_PX * feature_width / _SMALL_WIDTH
    useful = max(1, round(_USEFUL_THREADS * work))
    if useful < number:
        number, reason = useful, "a small network gains nothing from more"
    return ThreadChoice(number, reason)


def apply_threads(choice: ThreadChoice) -> None:
    """Let PyTorch, OpenCV and SimpleITK use a number of threads."""
    torch.set_num_threads(choice.number)
    cv2.setNumThreads(choice.number)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(choice.number)


def set_threads(ranks: Ranks, **options: Any) -> ThreadChoice:
    """Choose and apply the number of threads; options as in `choose_threads`."""
    choice = choose_threads(ranks, **options)
    apply_threads(choice)
    return choice
