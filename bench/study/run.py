"""Run the study's missing trials, several at a time, and write its page.

`bash bench/study/run.sh` prepares the environment and runs this module.
"""

import argparse
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from bench.study import study_page
from bench.study.arms import ARMS, N_SEEDS, PROFILES
from bench.study.trial import BUILD_DIR, Trial, add_options, read_record
from config_ssl_upload import REPOSITORY
from util.config.command_line import run_guarded
from util.errors import EXIT_INTERRUPTED
from util.parallel.processor import usable_cores

FULL = (
    "phantom_default",
    "phantom",
    "chaost2_choice",
    "chaost2",
    "phantom_scan",
    "phantom_start",
    "chaost2_scan_choice",
    "chaost2_scan",
)
LOG_DIR = BUILD_DIR / "logs"


def main() -> int:
    """Run the missing trials; returns the exit code."""
    options = parse_arguments()
    trials = missing_trials(options)
    n_records = len(list_trials(options)) - len(trials)
    print(
        f"{n_records} trials are in {options.results}, {len(trials)} to run, {options.jobs} at a time",
        flush=True,
    )
    # Before any trial: preparation takes minutes, and missing data should be reported at once.
    for profile in dict.fromkeys(trial.profile for trial in trials):
        code = run_guarded(lambda profile=profile: prepare(profile, options))
        if code != 0:
            return code
    failed = run_trials(trials, options)
    study_page.write_page(options.results)
    for trial in failed:
        lines = log_path(trial).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        reason = lines[-1] if lines else "no output"
        print(f"error: {trial} failed ({reason}); see {log_path(trial)}", file=sys.stderr)
    return 1 if failed else 0


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; `full` selects all profiles for a CPU."""
    parser = argparse.ArgumentParser(prog="bash bench/study/run.sh", description=__doc__.splitlines()[0])
    parser.add_argument(
        "profiles",
        nargs="*",
        default=["quick"],
        metavar="profile",
        help=f"{', '.join(PROFILES)}, or full for {', '.join(FULL)}; default: quick",
    )
    parser.add_argument(
        "--arms", nargs="+", choices=ARMS, metavar="arm", help=f"only these: {', '.join(ARMS)}"
    )
    parser.add_argument("--seeds", type=int, default=N_SEEDS, help="trainings per arm")
    parser.add_argument("--jobs", type=int, help="trials at a time; default: 1 on a GPU, else one per core")
    add_options(parser)
    options = parser.parse_args(words)
    if options.jobs is None:
        options.jobs = usable_cores() if options.device == "cpu" else 1
    names = [FULL if name == "full" else (name,) for name in options.profiles]
    options.profiles = list(dict.fromkeys(itertools.chain(*names)))
    options.results = options.results.resolve()
    for name in options.profiles:
        if name not in PROFILES:
            parser.error(f"{name}: unknown profile; must be full or one of {', '.join(PROFILES)}")
    if options.jobs < 1 or options.seeds < 1:
        parser.error("--jobs and --seeds must be at least 1")
    if not list_trials(options):
        parser.error(f"--arms {' '.join(options.arms)}: not in {', '.join(options.profiles)}")
    return options


def list_trials(options: argparse.Namespace) -> list[Trial]:
    """List the requested trials: all arms with the first seed, then the next."""
    return [
        Trial(profile, arm, seed)
        for profile in options.profiles
        for seed in range(1, options.seeds + 1)
        for arm in PROFILES[profile].named_arms()
        if options.arms is None or arm in options.arms
    ]


def missing_trials(options: argparse.Namespace) -> list[Trial]:
    """List the requested trials without a record of the current settings."""
    return [trial for trial in list_trials(options) if not read_record(trial.record_path(options.results))]


def prepare(profile: str, options: argparse.Namespace) -> None:
    """Prepare volumes and supervoxels once for all trials of a profile.

    Raises:
        UserError: volumes are missing or invalid.
    """
    from data.preparation import ensure_volumes
    from data.supervoxels.generation import generate_supervoxels

    arms = list(PROFILES[profile].named_arms())
    with_further_sizes = [arm for arm in arms if "more_sv" in ARMS[arm].changes.get("task", {})]
    for arm in dict.fromkeys([arms[0], *with_further_sizes]):
        config = Trial(profile, arm, 1).config(options)
        ensure_volumes(config.layout, phantom=config.phantom.settings, n_phantom_scans=config.phantom.n_scans)
        for layout in (config.layout, *config.further_layouts):
            generate_supervoxels(layout)


def run_trials(trials: Sequence[Trial], options: argparse.Namespace) -> list[Trial]:
    """Run trials, `options.jobs` processes at a time; returns those that failed."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, usable_cores() // options.jobs))}
    shared = [
        word
        for name in ("device", "data_dir", "supervoxel_dir", "results")
        if (value := getattr(options, name))
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    processes: list[subprocess.Popen] = []

    def run(trial: Trial) -> bool:
        log_path(trial).parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "bench.study.trial", *map(str, trial), *shared]
        with log_path(trial).open("w", encoding="utf-8") as log:
            process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log)
            processes.append(process)
            return process.wait() == 0

    failed = []
    with ThreadPoolExecutor(options.jobs) as pool, tqdm(total=len(trials), unit="trial") as bar:
        try:
            for trial, succeeded in zip(trials, pool.map(run, trials), strict=True):
                bar.update()
                bar.set_postfix_str(str(trial))
                failed += [] if succeeded else [trial]
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.terminate()
            raise
    return failed


def log_path(trial: Trial) -> Path:
    """Return the path of a trial's output."""
    return LOG_DIR / trial.profile / f"{trial.arm}_{trial.seed}.log"


if __name__ == "__main__":
    started = time.perf_counter()
    try:
        code = main()
    except KeyboardInterrupt:
        print("interrupted; the same command resumes with the missing trials", file=sys.stderr)
        code = EXIT_INTERRUPTED
    print(f"{time.perf_counter() - started:.0f} s")
    sys.exit(code)
