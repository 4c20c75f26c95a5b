"""Time what happens before the first training step, and what grows with the data.

    python -m bench.startup

It writes synthetic prepared scans of 36 x 256 x 256 with supervoxels to a temporary folder.
"""

import itertools
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bench.measuring import (
    ROOT,
    Measurement,
    held_memory_mb,
    measure_alternately,
    measure_in_process,
    time_calls,
)
from bench.plotting import plot_lines
from bench.sections import (
    Plot,
    Section,
    Table,
    benchmark_parser,
    format_duration,
    format_memory,
    format_seconds,
    write_section,
)

N_SLICES = 36
N_IMPORTS_LISTED = 8
STAGES = {"check": "check files", "load": "load", "index": "index", "episode": "first episode"}
FIRST_STEP = "training.py, small network, until the first step, {} scans"
LAST_LINE_BEFORE_STEPS = "run: "  # that a training prints
SMALL_TRAINING = (
    "dataset=CHAOST2",
    "n_steps=1",
    "num_workers=0",
    "model.encoder=resnet18",
    "model.encoder_weights=None",
    "model.feature_width=8",
    "device=cpu",
)
TO_PYTHON = "source script/environment.sh; prepare_environment"  # what script/train.sh does before Python
PRINT_CONFIG = ("training.py", "print_config")


def main() -> None:
    """Measure, and write the section."""
    options = benchmark_parser(__doc__).parse_args()
    scan_counts, slice_counts = ((5, 20), (20, 60)) if options.quick else ((5, 20, 80), (20, 40, 80, 120))
    rounds = 1 if options.quick else 3
    commands, stages = measure_start(scan_counts, rounds=rounds)
    section = Section(
        title="Start-up and growth with the data",
        command="bash bench/run.sh startup",
        intro=(
            "What a training does before its first step, and what depends on the number of scans "
            f"({N_SLICES} x 256 x 256, supervoxels made) and of slices. Files are in the disk cache."
        ),
        tables=[command_table(commands), import_table(), stage_table(stages)],
        plots=[
            start_plot(commands, stages, quick=options.quick),
            scans_plot(scan_counts, rounds=rounds, quick=options.quick),
            slices_plot(slice_counts, rounds=rounds, quick=options.quick),
        ],
    )
    write_section("startup", section, options.device, quick=options.quick)


def measure_start(
    scan_counts: Sequence[int], *, rounds: int
) -> tuple[dict[str, Measurement], dict[int, Measurement]]:
    """Measure commands by name, and the stages of loading by the number of scans."""
    from bench.synthetic import write_dataset

    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        data_dirs = {n_scans: str(Path(folder, str(n_scans))) for n_scans in scan_counts}
        for n_scans, data_dir in data_dirs.items():
            write_dataset(Path(data_dir), n_scans, with_supervoxels=True)
        target = "bench.startup:time_command"
        words = {
            "script/train.sh before Python starts (second call)": ["bash", "-c", TO_PYTHON],
            "print_config of training.py": [sys.executable, *PRINT_CONFIG],
        }
        for n_scans, data_dir in data_dirs.items():
            paths = [f"path.CHAOST2.data_dir={data_dir}", f"path.log_dir={folder}/runs"]
            words[FIRST_STEP.format(n_scans)] = [
                sys.executable,
                "training.py",
                "with",
                *SMALL_TRAINING,
                *paths,
            ]
        commands = measure_alternately(
            {name: (target, {"words": list_of_words}) for name, list_of_words in words.items()},
            rounds=rounds,
        )
        stages = {
            n_scans: measure_alternately(
                {"": ("bench.startup:time_stages", {"data_dir": data_dir, "n_scans": n_scans})}, rounds=rounds
            )[""]
            for n_scans, data_dir in data_dirs.items()
        }
    return commands, stages


def time_command(words: list[str]) -> dict[str, object]:
    """Time one command from its start to its end, a training until its first step."""
    with tempfile.TemporaryFile("w+") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True)
        with process:
            for line in process.stdout:
                if line.startswith(LAST_LINE_BEFORE_STEPS):
                    seconds = time.perf_counter() - started
                    process.kill()
                    return {"seconds": [seconds]}
        seconds = time.perf_counter() - started
        errors.seek(0)
        if process.returncode != 0 or "with" in words:
            raise RuntimeError(f"{' '.join(words)}: no step, exit code {process.returncode}\n{errors.read()}")
    return {"seconds": [seconds]}


def time_stages(data_dir: str, n_scans: int) -> dict[str, object]:
    """Time the stages from prepared files to the first episode."""
    from data.datasets import find_spec
    from data.layout import DatasetLayout
    from data.supervoxels.generation import generate_supervoxels
    from dataloaders.episodes import EpisodeConfig, EpisodeDataset
    from dataloaders.prepared_scans import load_scans

    spec = find_spec("CHAOST2")
    folder = Path(data_dir)
    layout = DatasetLayout(
        spec, data_dir=folder, supervoxel_dir=folder, supervoxel_min_vox=spec.supervoxel_min_vox
    )
    before_mb = held_memory_mb()
    times = [time.perf_counter()]
    generate_supervoxels(layout, progress=False)
    times.append(time.perf_counter())
    scans = load_scans(layout, range(n_scans), with_supervoxels=True, progress=False)
    times.append(time.perf_counter())
    dataset = EpisodeDataset(scans, EpisodeConfig(seed=1, n_episodes=40_000))
    times.append(time.perf_counter())
    dataset[0]
    times.append(time.perf_counter())
    taken = [end - start for start, end in itertools.pairwise(times)]
    return {
        "seconds": [times[-1] - times[0]],
        "stages": dict(zip(STAGES, taken, strict=True)),
        "grown_mb": held_memory_mb() - before_mb,
    }


def time_episodes(n_scans: int, n_slices: int, n_episodes: int) -> dict[str, object]:
    """Time episodes over scans in memory, on one thread."""
    import cv2
    import torch

    from bench.synthetic import SHAPE, make_scans
    from dataloaders.episodes import EpisodeConfig, EpisodeDataset

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    scans = make_scans(n_scans, (n_slices, *SHAPE[1:]))
    dataset = EpisodeDataset(scans, EpisodeConfig(seed=2025, n_episodes=40_000))
    indices = iter(range(len(dataset)))
    return {"seconds": time_calls(lambda: dataset[next(indices)], n_episodes, warm_up=20)}


def command_table(commands: dict[str, Measurement]) -> Table:
    """Lay out the commands' times."""
    rows = [[name, format_seconds(one)] for name, one in commands.items()]
    return Table("Commands, from start to end or to the first step:", ["command", "time"], rows)


def import_table() -> Table:
    """Tell which packages take how long to import for `training.py print_config`."""
    command = [sys.executable, "-X", "importtime", *PRINT_CONFIG]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    costs = import_costs(done.stderr)
    total = sum(costs.values())
    rows = [
        [package, format_duration(seconds), f"{seconds / total:.0%}"]
        for package, seconds in costs.most_common(N_IMPORTS_LISTED)
    ]
    rows.append(["all", format_duration(total), "100%"])
    caption = "Imports of `training.py print_config`, each package by the time of its own modules (traced):"
    return Table(caption, ["package", "time", "share"], rows)


def import_costs(report: str) -> Counter[str]:
    """Add up a report of `python -X importtime` by package, in seconds.

    Its lines are `import time: <own µs> | <cumulated µs> | <module>`. torch's compiler counts for itself, for
    torch alone does not import it.
    """
    costs = Counter()
    for line in report.splitlines():
        own, _, module = line.removeprefix("import time:").partition("|")
        if line.startswith("import time:") and own.strip().isdigit():
            parts = module.partition("|")[2].strip().split(".")
            n_parts = 2 if parts[:2] in (["torch", "_dynamo"], ["torch", "_inductor"]) else 1
            costs[".".join(parts[:n_parts])] += int(own) / 1e6
    return costs


def stage_table(stages: dict[int, Measurement]) -> Table:
    """Lay out the stages' times and memory per scan."""
    rows = [
        [
            str(n_scans),
            *(format_duration(one.extra["stages"][stage] / n_scans) for stage in ("check", "load", "index")),
            format_duration(one.extra["stages"]["episode"]),
            f"{one.extra['grown_mb'] / n_scans:.1f} MB",
            format_memory(one),
        ]
        for n_scans, one in stages.items()
    ]
    columns = [
        "scans",
        "check a scan",
        "load a scan",
        "index a scan",
        "first episode",
        "memory a scan",
        "peak",
    ]
    return Table("From prepared files to the first episode (last round):", columns, rows)


def start_plot(commands: dict[str, Measurement], stages: dict[int, Measurement], *, quick: bool) -> Plot:
    """Draw the time to the first step against the number of scans."""
    counts = list(stages)
    whole = [commands[name].median for name in commands if name.startswith("training.py")]
    reading = [one.median for one in stages.values()]
    slopes = [(times[-1] - times[0]) / (counts[-1] - counts[0]) for times in (whole, reading)]
    caption = (
        f"Start-up against the number of scans: one more costs {format_duration(slopes[0])} of a "
        f"training, which holds out a fold, and {format_duration(slopes[1])} of checking, loading and "
        "indexing alone."
    )
    return plot_lines(
        "startup_scans.png",
        {"until the first step": (counts, whole), "check, load and index": (counts, reading)},
        x_label="scans",
        y_label="time (s)",
        caption=caption,
        quick=quick,
    )


def scans_plot(scan_counts: Sequence[int], *, rounds: int, quick: bool) -> Plot:
    """Draw the time of an episode against the number of scans."""
    medians = [median_episode(n_scans, N_SLICES, rounds=rounds) for n_scans in scan_counts]
    return _episode_plot("scans", scan_counts, medians, quick=quick)


def slices_plot(slice_counts: Sequence[int], *, rounds: int, quick: bool) -> Plot:
    """Draw the time of an episode against the number of slices."""
    medians = [median_episode(5, n_slices, rounds=rounds) for n_slices in slice_counts]
    return _episode_plot("slices", slice_counts, medians, quick=quick)


def median_episode(n_scans: int, n_slices: int, *, rounds: int) -> float:
    """Return the median time of an episode in seconds."""
    arguments = {"n_scans": n_scans, "n_slices": n_slices, "n_episodes": 300}
    measured = [
        measure_in_process("bench.startup:time_episodes", environment={"OMP_NUM_THREADS": "1"}, **arguments)
        for _ in range(rounds)
    ]
    return Measurement(tuple(run for one in measured for run in one.seconds), 0.0).median


def _episode_plot(what: str, counts: Sequence[int], medians: list[float], *, quick: bool) -> Plot:
    caption = (
        f"An episode against the number of {what}: {format_duration(medians[0])} with {counts[0]}, "
        f"{format_duration(medians[-1])} with {counts[-1]}."
    )
    return plot_lines(
        f"startup_episode_{what}.png",
        {"episode": (counts, [1000 * median for median in medians])},
        x_label=what,
        y_label="time of an episode (ms)",
        caption=caption,
        quick=quick,
    )


if __name__ == "__main__":
    main()
