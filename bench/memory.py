"""Measure the memory of a step by number format and activation checkpointing.

python -m bench.memory [--quick] [--device cuda]
"""

from bench import formatting
from bench.comparison import STEP, list_precisions, network_arguments
from bench.measuring import Measurement, measure_in_process
from bench.sections import Section, Table, benchmark_parser, write_section

GPU_SIZES_GB = (8, 24, 80)
RESERVED_GB = 1.5  # for the CUDA context, library workspaces and fragmentation
# Normalised activations of the encoder for one episode at 256 x 256, which autograd saves on a GPU but not on
# a CPU; with activation checkpointing neither does. Measured as what autograd saves with and without
# `run_block`.
SAVED_ON_GPU_GB = {"fp32": 0.47, "bf16": 0.30}
# Larger blocks are returned to the system when freed, so that the process's peak is that of its tensors.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 16)}

Batches = dict[int, Measurement]  # by batch size


def main() -> None:
    """Measure batches of 1 and 2, and extrapolate to the largest batch."""
    options = benchmark_parser(__doc__).parse_args()
    on_cuda = options.device.startswith("cuda")
    shared = {**network_arguments(options), "environment": None if on_cuda else ALLOCATOR}
    measured: dict[str, Batches] = {}
    for precision in (precision for precision in list_precisions(options.device) if precision != "tf32"):
        for checkpointing in (False, True):
            setting = {"precision": precision, "activation_checkpointing": checkpointing}
            name = f"{precision}, activation checkpointing" if checkpointing else precision
            measured[name] = {n: measure_in_process(STEP, **shared, **setting, batch_size=n) for n in (1, 2)}
    section = Section(
        title="Memory of a training step",
        intro=(
            "ResNet-101, 256 x 256, width 512, SGD with momentum. `activation_checkpointing=True` stores "
            "only each residual block's input and recomputes the rest in the backward pass; the results are "
            "the same."
        ),
        tables=[_step_table(measured), _max_batch_table(measured, on_cuda=on_cuda)],
        remarks=[
            "The largest batch is extrapolated from the memory of batches of 1 and 2 without Python's "
            f"imports, with {RESERVED_GB} GB of the GPU reserved for the CUDA context, workspaces and "
            "fragmentation. For measurements on a CPU, each episode includes the normalised activations of "
            "the encoder that only a GPU saves, without activation checkpointing: "
            f"{SAVED_ON_GPU_GB['fp32']:.2f} GB in fp32, {SAVED_ON_GPU_GB['bf16']:.2f} GB in bf16."
        ],
    )
    write_section("memory", section, device=options.device, quick=options.quick)


def _step_table(measured: dict[str, Batches]) -> Table:
    rows = []
    for name, batches in measured.items():
        baseline = measured[name.split(",")[0]]
        cells = [f"{formatting.times(batches[n])}, {formatting.memory(batches[n])}" for n in (1, 2)]
        for measure in (lambda m: m.median, _tensors_mb):
            cells.append(f"{measure(batches[2]) / measure(baseline[2]):.2f}x")
        rows.append([name, *cells])
    columns = ["setting", "batch 1", "batch 2", "relative time, batch 2", "relative memory, batch 2"]
    caption = "Time and peak memory of a step; relative memory excludes Python's imports"
    return Table(caption, columns, rows)


def _max_batch_table(measured: dict[str, Batches], *, on_cuda: bool) -> Table:
    rows = []
    for name, batches in measured.items():
        single, double = (_tensors_mb(batches[n]) / 1e3 for n in (1, 2))
        per_episode = double - single
        fixed = single - per_episode
        if not on_cuda:
            per_episode += SAVED_ON_GPU_GB.get(name, 0.0)
        cells = [f"{int(max((size - RESERVED_GB - fixed) // per_episode, 0))}" for size in GPU_SIZES_GB]
        rows.append([name, f"{fixed:.2f} GB", f"{per_episode:.2f} GB", *cells])
    columns = ["setting", "fixed", "per episode", *(f"{size} GB" for size in GPU_SIZES_GB)]
    return Table("Largest batch of 1-shot episodes at 256 x 256 on a GPU", columns, rows)


def _tensors_mb(measurement: Measurement) -> float:
    """Return the memory of tensors: on a CPU, the process's peak without its imports."""
    return measurement.peak_mb - (0 if "on_device" in measurement.extra else measurement.extra["import_mb"])


if __name__ == "__main__":
    main()
