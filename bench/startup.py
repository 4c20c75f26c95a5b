"""Time the start of a training, and how it grows with the data.

    python -m bench.startup

Synthetic prepared scans of 36 x 256 x 256 with supervoxels are written to a temporary folder.
"""

import itertools
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bench import formatting
from bench.measuring import (
    ONE_THREAD,
    ROOT,
    Measurement,
    measure_alternately,
    measure_in_process,
    peak_memory_mb,
    status_mb,
)
from bench.plotting import plot_lines
from bench.sections import Plot, Section, Table, benchmark_parser, write_section

N_SLICES = 36
N_IMPORTS_LISTED = 8
LAST_LINE_BEFORE_STEPS = "run: "  # printed by a training
SMALL_NETWORK = ["model.encoder=resnet18", "model.encoder_weights=None", "model.feature_width=8"]
SMALL_TRAINING = ["dataset=CHAOST2", "n_steps=1", "num_workers=0", "device=cpu", *SMALL_NETWORK]
SHELL_SETUP = "source script/environment.sh; prepare_environment"  # as in script/train.sh
PRINT_CONFIG = ("training.py", "print_config")


def main() -> None:
    """Measure and write the section."""
    options = benchmark_parser(__doc__).parse_args()
    quick = options.quick
    scan_counts, slice_counts = ((5, 20), (20, 60)) if quick else ((5, 20, 80), (20, 40, 80, 120))
    rounds = 1 if quick else 3
    commands, stages = measure_start(scan_counts, rounds=rounds)
    section = Section(
        title="Start-up and growth with the data",
        intro=(
            "Time from the start of a training to its first step, against the number of scans "
            f"({N_SLICES} x 256 x 256, with supervoxels) and of slices. Files are in the page cache."
        ),
        tables=[command_table(commands), import_table(), stage_table(stages)],
        plots=[
            start_plot(commands, stages, quick=quick),
            episode_plot("scans", {n: (n, N_SLICES) for n in scan_counts}, rounds=rounds, quick=quick),
            episode_plot("slices", {n: (5, n) for n in slice_counts}, rounds=rounds, quick=quick),
        ],
    )
    write_section("startup", section, device=options.device, quick=quick)


def measure_start(
    scan_counts: Sequence[int], *, rounds: int
) -> tuple[dict[str, Measurement], dict[int, Measurement]]:
    """Measure commands by name, and the stages of loading by the number of scans."""
    from bench.synthetic import write_dataset

    commands = {
        "script/train.sh before Python starts (second call)": ["bash", "-c", SHELL_SETUP],
        "print_config of training.py": [sys.executable, *PRINT_CONFIG],
    }
    stages = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for n_scans in scan_counts:
            data_dir = Path(folder, str(n_scans))
            write_dataset(data_dir, n_scans, with_supervoxels=True)
            paths = [f"path.CHAOST2.data_dir={data_dir}", f"path.log_dir={folder}/runs"]
            command = [sys.executable, "training.py", "with", *SMALL_TRAINING, *paths]
            commands[f"training.py, small network, until the first step, {n_scans} scans"] = command
        variants = {
            name: ("bench.startup:time_command", {"command": command}) for name, command in commands.items()
        }
        measured = measure_alternately(variants, rounds=rounds)
        for n_scans in scan_counts:
            stages[n_scans] = measure_in_process(
                "bench.startup:time_stages",
                rounds=rounds,
                data_dir=str(Path(folder, str(n_scans))),
                n_scans=n_scans,
            )
    return measured, stages


def time_command(command: list[str]) -> dict[str, object]:
    """Time a command from start to end, or a training up to its first step."""
    lines = []
    started = time.perf_counter()
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout:
            lines.append(line)
            if line.startswith(LAST_LINE_BEFORE_STEPS):
                seconds = time.perf_counter() - started
                process.kill()
                return {"seconds": [seconds]}
    seconds = time.perf_counter() - started
    if process.returncode != 0 or "with" in command:
        raise RuntimeError(f"{' '.join(command)}: no step, exit code {process.returncode}\n{''.join(lines)}")
    return {"seconds": [seconds]}


def time_stages(data_dir: str, n_scans: int) -> dict[str, object]:
    """Time the stages from prepared files to the first episode."""
    from bench.synthetic import chaost2_layout
    from data.supervoxels.generation import generate_supervoxels
    from dataloaders.episodes import EpisodeConfig, EpisodeDataset
    from dataloaders.prepared_scans import load_scans

    layout = chaost2_layout(Path(data_dir))
    initial_mb = status_mb("VmRSS") or peak_memory_mb()
    times = [time.perf_counter()]
    generate_supervoxels(layout, progress=False)
    times.append(time.perf_counter())
    scans = load_scans(layout, range(n_scans), with_supervoxels=True, progress=False)
    times.append(time.perf_counter())
    dataset = EpisodeDataset(scans, EpisodeConfig(seed=1, n_episodes=40_000))
    times.append(time.perf_counter())
    dataset[0]
    times.append(time.perf_counter())
    return {
        "seconds": [times[-1] - times[0]],
        "stages": [end - start for start, end in itertools.pairwise(times)],
        "added_mb": (status_mb("VmRSS") or peak_memory_mb()) - initial_mb,
    }


def command_table(commands: dict[str, Measurement]) -> Table:
    """Tabulate the commands' times."""
    rows = [[name, formatting.times(measurement)] for name, measurement in commands.items()]
    return Table("Commands, from start to end or to the first step:", ["command", "time"], rows)


def import_table() -> Table:
    """Measure the import time of each package for `training.py print_config`."""
    command = [sys.executable, "-X", "importtime", *PRINT_CONFIG]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    times = sum_import_times(process.stderr)
    total = sum(times.values())
    rows = [
        [package, formatting.duration(seconds), f"{seconds / total:.0%}"]
        for package, seconds in [*times.most_common(N_IMPORTS_LISTED), ("all", total)]
    ]
    caption = "Imports of `training.py print_config`, time of each package's own modules (traced):"
    return Table(caption, ["package", "time", "share"], rows)


def sum_import_times(report: str) -> Counter[str]:
    """Sum a report of `python -X importtime` by package, in seconds.

    Its lines are `import time: <own µs> | <cumulative µs> | <module>`. torch's compiler is listed separately,
    because importing torch alone does not import it.
    """
    times = Counter()
    for line in report.splitlines():
        own_us, _, module = line.removeprefix("import time:").partition("|")
        if line.startswith("import time:") and own_us.strip().isdigit():
            parts = module.partition("|")[2].strip().split(".")
            n_parts = 2 if parts[:2] in (["torch", "_dynamo"], ["torch", "_inductor"]) else 1
            times[".".join(parts[:n_parts])] += int(own_us) / 1e6
    return times


def stage_table(stages: dict[int, Measurement]) -> Table:
    """Tabulate the stages' times and memory per scan."""
    rows = []
    for n_scans, measurement in stages.items():
        *per_scan, episode = measurement.extra["stages"]
        times = [
            *(formatting.duration(seconds / n_scans) for seconds in per_scan),
            formatting.duration(episode),
        ]
        added = f"{measurement.extra['added_mb'] / n_scans:.1f} MB"
        rows.append([str(n_scans), *times, added, formatting.memory(measurement)])
    columns = ["scans", "check, per scan", "load, per scan", "index, per scan", "first episode"]
    columns += ["memory, per scan", "peak memory"]
    return Table("From prepared files to the first episode (last round):", columns, rows)


def start_plot(commands: dict[str, Measurement], stages: dict[int, Measurement], *, quick: bool) -> Plot:
    """Plot the time to the first step against the number of scans."""
    counts = list(stages)
    training = [m.median for name, m in commands.items() if name.startswith("training.py")]
    loading = [m.median for m in stages.values()]
    slopes = [(times[-1] - times[0]) / (counts[-1] - counts[0]) for times in (training, loading)]
    caption = (
        f"Start-up against the number of scans: each adds {formatting.duration(slopes[0])} to a training, "
        f"which holds out a fold, and {formatting.duration(slopes[1])} to checking, loading and indexing "
        "alone."
    )
    return plot_lines(
        "startup_scans.png",
        {"until the first step": (counts, training), "check, load and index": (counts, loading)},
        labels=("scans", "time (s)"),
        caption=caption,
        quick=quick,
    )


def episode_plot(what: str, sizes: dict[int, tuple[int, int]], *, rounds: int, quick: bool) -> Plot:
    """Measure and plot the time of an episode against the number of scans or slices.

    `sizes` maps that number to those of scans and of slices.
    """
    medians = []
    for n_scans, n_slices in sizes.values():
        measured = measure_in_process(
            "bench.episodes:time_episodes",
            rounds=rounds,
            environment=ONE_THREAD,
            n_episodes=300,
            n_scans=n_scans,
            n_slices=n_slices,
        )
        medians.append(measured.median)
    counts = list(sizes)
    caption = (
        f"Time of an episode against the number of {what}: {formatting.duration(medians[0])} with "
        f"{counts[0]}, {formatting.duration(medians[-1])} with {counts[-1]}."
    )
    return plot_lines(
        f"startup_episode_{what}.png",
        {"episode": (counts, [1000 * median for median in medians])},
        labels=(what, "time of an episode (ms)"),
        caption=caption,
        quick=quick,
    )


if __name__ == "__main__":
    main()
