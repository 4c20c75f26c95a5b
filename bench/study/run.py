"""Run the study's missing trials, several at a time, and write its report.

`bash bench/study/run.sh` calls this after setting up what it needs.
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

from bench.study import report
from bench.study.arms import ARMS, PROFILES, arms_of
from bench.study.trial import BUILD_DIR, add_options, config_of, read_record, result_path
from config_ssl_upload import REPOSITORY
from util.config.command_line import run_guarded
from util.errors import EXIT_INTERRUPTED
from util.parallel.processor import usable_cores

FULL = ("phantom_default", "phantom", "chaost2_choice", "chaost2")
LOG_DIR = BUILD_DIR / "logs"

Trial = tuple[str, str, int]


def main() -> int:
    """Run what is missing; returns the exit code."""
    options = read_options()
    trials = missing_trials(options)
    n_there = len(all_trials(options)) - len(trials)
    told = f"{n_there} trials are in {options.results}, {len(trials)} to run, {options.jobs} at a time"
    print(told, flush=True)
    # All before any trial: it takes minutes, and shows at once what is missing.
    for profile in dict.fromkeys(profile for profile, _, _ in trials):
        code = run_guarded(lambda profile=profile: prepare(profile, options))
        if code != 0:
            return code
    failed = run_trials(trials, options)
    report.write_page(options.results)
    for trial in failed:
        said = log_path(trial).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = said[-1] if said else "nothing was said"
        print(f"error: {name_of(trial)} failed ({last}); see {log_path(trial)}", file=sys.stderr)
    return 1 if failed else 0


def read_options(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    `full` stands for the profiles of the whole study on a CPU.
    """
    parser = argparse.ArgumentParser(prog="bash bench/study/run.sh", description=__doc__.splitlines()[0])
    parser.add_argument(
        "profiles",
        nargs="*",
        default=["quick"],
        metavar="profile",
        help=f"{', '.join(PROFILES)}, or full for {', '.join(FULL)}; quick if none is named",
    )
    parser.add_argument(
        "--arms", nargs="+", choices=ARMS, metavar="arm", help=f"only these: {', '.join(ARMS)}"
    )
    parser.add_argument("--seeds", type=int, help="trainings of each arm, instead of the profile's number")
    parser.add_argument("--jobs", type=int, help="trials at a time; 1 on a GPU, elsewhere one a core")
    add_options(parser)
    options = parser.parse_args(words)
    if options.jobs is None:
        options.jobs = usable_cores() if options.device == "cpu" else 1
    names = [FULL if name == "full" else (name,) for name in options.profiles]
    options.profiles = list(dict.fromkeys(itertools.chain(*names)))
    options.results = options.results.resolve()
    for name in options.profiles:
        if name not in PROFILES:
            parser.error(f"{name}: no such profile; there are {', '.join(PROFILES)}, and full")
    if options.jobs < 1 or (options.seeds is not None and options.seeds < 1):
        parser.error("--jobs and --seeds must be at least 1")
    if not all_trials(options):
        parser.error(f"--arms {' '.join(options.arms)}: none is in {', '.join(options.profiles)}")
    return options


def all_trials(options: argparse.Namespace) -> list[Trial]:
    """List the trials that are asked for.

    Every arm comes with the first seed before any comes with the next.
    """
    trials = []
    for name in options.profiles:
        profile = PROFILES[name]
        arms = [arm for arm in arms_of(profile) if options.arms is None or arm in options.arms]
        seeds = range(1, (options.seeds or profile.n_seeds) + 1)
        trials += [(name, arm, seed) for seed in seeds for arm in arms]
    return trials


def missing_trials(options: argparse.Namespace) -> list[Trial]:
    """List those without a record of the present settings."""
    return [
        trial for trial in all_trials(options) if read_record(result_path(options.results, *trial)) is None
    ]


def prepare(profile: str, options: argparse.Namespace) -> None:
    """Make volumes and supervoxels once, before several trials need them.

    Raises:
        UserError: volumes are missing or not usable.
    """
    from data.preparation import ensure_volumes
    from data.supervoxels.generation import generate_supervoxels

    arms = list(arms_of(PROFILES[profile]))
    for arm in dict.fromkeys([arms[0], *(arm for arm in arms if arm == "mixed_sizes")]):
        config = config_of(profile, arm, 1, options=options)
        ensure_volumes(config.layout, phantom=config.phantom.settings, n_phantom_scans=config.phantom.n_scans)
        for layout in (config.layout, *config.further_layouts):
            generate_supervoxels(layout)


def run_trials(trials: Sequence[Trial], options: argparse.Namespace) -> list[Trial]:
    """Run trials in processes of their own, `options.jobs` at a time.

    Returns those that failed.
    """
    threads = str(max(1, usable_cores() // options.jobs))
    environment = {**os.environ, "OMP_NUM_THREADS": threads}
    shared = [
        word
        for name in ("device", "data_dir", "supervoxel_dir", "results")
        if (value := getattr(options, name))
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    running: list[subprocess.Popen] = []

    def run(trial: Trial) -> bool:
        log_path(trial).parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "bench.study.trial", *map(str, trial), *shared]
        with log_path(trial).open("w", encoding="utf-8") as log:
            child = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log)
            running.append(child)
            return child.wait() == 0

    failed = []
    with ThreadPoolExecutor(options.jobs) as pool, tqdm(total=len(trials), unit="trial") as bar:
        try:
            for trial, succeeded in zip(trials, pool.map(run, trials), strict=True):
                bar.update()
                bar.set_postfix_str(name_of(trial))
                if not succeeded:
                    failed.append(trial)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in running:
                child.terminate()
            raise
    return failed


def name_of(trial: Trial) -> str:
    """Name a trial in a line of text."""
    profile, arm, seed = trial
    return f"{profile} {arm} {seed}"


def log_path(trial: Trial) -> Path:
    """Name the file that keeps what a trial says."""
    profile, arm, seed = trial
    return LOG_DIR / profile / f"{arm}_{seed}.log"


if __name__ == "__main__":
    started = time.perf_counter()
    try:
        code = main()
    except KeyboardInterrupt:
        print("interrupted; the same command goes on with what is missing", file=sys.stderr)
        code = EXIT_INTERRUPTED
    print(f"{time.perf_counter() - started:.0f} s")
    sys.exit(code)
