"""Measure a step's memory: number format, checkpointing, largest batch.

python -m bench.memory [--quick] [--device cuda]
"""

from typing import Any

from bench.measuring import Measurement, measure_in_process
from bench.sections import (
    Section,
    Table,
    benchmark_parser,
    format_memory,
    format_seconds,
    write_section,
)

STEP = "bench.cases.network:time_training"
QUICK = {"size_px": 64, "encoder": "resnet18", "feature_width": 64}
GPU_SIZES_GB = (8, 24, 80)
# What a CUDA context, the libraries' workspaces and fragmentation take of a GPU.
RESERVED_GB = 1.5
# On a CPU the encoder does not keep normalised activations, on a GPU it does: so much more an episode at
# 256 x 256, by the bytes of what autograd saves with and without `run_block`.
KEPT_ON_GPU_GB = {"fp32": 0.47, "bf16": 0.30}
# Blocks above this return to the system when freed, so that the process's peak is what tensors take.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 16)}


def main() -> None:
    """Measure two batch sizes for each setting, and compute what fits."""
    options = benchmark_parser(__doc__).parse_args()
    on_cuda = options.device.startswith("cuda")
    shared: dict[str, Any] = {"device": options.device, **(QUICK if options.quick else {})}
    settings = {
        f"{precision}{', recompute' if recompute else ''}": {
            "precision": precision,
            "activation_checkpointing": recompute,
        }
        for precision in ("fp32", "bf16")
        for recompute in (False, True)
    }
    environment = None if on_cuda else ALLOCATOR
    measured = {
        name: {
            n: measure_in_process(STEP, environment=environment, **{**shared, **setting, "batch_size": n})
            for n in (1, 2)
        }
        for name, setting in settings.items()
    }
    section = Section(
        title=f"Memory of a training step ({options.device})",
        command="bash bench/run.sh memory" + (f" --device {options.device}" if on_cuda else ""),
        intro=(
            "ResNet-101, 256 x 256, width 512, SGD with momentum. `activation_checkpointing=True` stores "
            "only each residual block's input and recomputes the rest in the backward pass; the results are "
            "the same."
        ),
        tables=[_costs(measured), _largest(measured, on_cuda=on_cuda)],
        remarks=[
            "The largest batch is computed: memory of batch 1 and 2 beyond Python's imports, extended in "
            f"proportion, within the GPU's memory less {RESERVED_GB} GB for the CUDA context, workspaces and "
            "fragmentation. Measured on a CPU, an episode is given what a GPU keeps beside it, the encoder's "
            f"normalised activations: {KEPT_ON_GPU_GB['fp32']:.2f} GB in fp32, "
            f"{KEPT_ON_GPU_GB['bf16']:.2f} GB in bf16, where nothing is recomputed."
        ],
    )
    write_section("memory", section, options.device, quick=options.quick)


def _costs(measured: dict[str, dict[int, Measurement]]) -> Table:
    rows = []
    for name, of_batches in measured.items():
        plain = measured[name.split(",")[0]]
        rows.append(
            [
                name,
                *(f"{format_seconds(of_batches[n])}, {format_memory(of_batches[n])}" for n in (1, 2)),
                f"{of_batches[2].median / plain[2].median:.2f}x",
                f"{_tensors_mb(of_batches[2]) / _tensors_mb(plain[2]):.2f}x",
            ]
        )
    columns = ["setting", "batch 1", "batch 2", "time to plain, batch 2", "memory to plain, batch 2"]
    return Table("Time and peak memory of a step; ratios of memory without the imports'", columns, rows)


def _largest(measured: dict[str, dict[int, Measurement]], *, on_cuda: bool) -> Table:
    rows = []
    for name, of_batches in measured.items():
        one, two = (_tensors_mb(of_batches[n]) / 1e3 for n in (1, 2))
        per_episode = two - one
        fixed = one - per_episode
        if not on_cuda:
            per_episode += KEPT_ON_GPU_GB.get(name, 0.0)  # with `activation_checkpointing` neither keeps them
        cells = [f"{int(max((size - RESERVED_GB - fixed) // per_episode, 0))}" for size in GPU_SIZES_GB]
        rows.append([name, f"{fixed:.2f} GB", f"{per_episode:.2f} GB", *cells])
    columns = ["setting", "fixed", "an episode", *(f"{size} GB" for size in GPU_SIZES_GB)]
    return Table("Largest batch of 1-shot episodes at 256 x 256 on a GPU", columns, rows)


def _tensors_mb(measurement: Measurement) -> float:
    """Return the memory of tensors: on the CPU, what the process holds beyond its imports."""
    return measurement.peak_mb - (0 if "on_device" in measurement.extra else measurement.extra["import_mb"])


if __name__ == "__main__":
    main()
