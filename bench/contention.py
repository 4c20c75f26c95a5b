"""Time training and evaluation while other programs use the cores.

python -m bench.contention [--quick]
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench import formatting
from bench.cases.network_cases import time_evaluation, time_training
from bench.measuring import Measurement, measure_in_process
from bench.sections import Headline, Section, Table, benchmark_parser, write_section
from util.parallel.wait_policy import AdaptiveWaitPolicy

# GNU OpenMP's default number of spins: how all threads waited before `AdaptiveWaitPolicy`.
SPINNING, ADAPTIVE, ONE_THREAD = "spinning", "adaptive", "one thread"
POLICIES = {
    SPINNING: {"GOMP_SPINCOUNT": "300000"},
    ADAPTIVE: {},
    "sleeping": {"OMP_WAIT_POLICY": "passive"},
    ONE_THREAD: {"OMP_NUM_THREADS": "1"},
}
BUSY = "while True: pass"
OPENMP = (
    "import torch\nx, w = torch.randn(1, 64, 32, 32), torch.randn(64, 64, 3, 3)\n"
    "while True: torch.nn.functional.conv2d(x, w, padding=1).relu_()"
)
NO_LOAD = "none"
LOADS = {
    NO_LOAD: [],
    "1 busy process": [BUSY],
    "2 busy processes": [BUSY] * 2,
    "2 OpenMP programs": [OPENMP] * 2,
}
IMPORT_S = 8.0  # until the OpenMP programs have imported torch
LARGE = "training step, ResNet-101, 256 x 256"
SMALL = {"size_px": 64, "model": {"encoder": "resnet18", "feature_width": 64}}
TARGETS = {NO_LOAD: 1.05, "1 busy process": 1.6, "2 busy processes": 2.6, "2 OpenMP programs": 2.6}


def main() -> None:
    """Measure every load and policy, and write the section."""
    options = benchmark_parser(__doc__).parse_args()
    tables, headline, remarks = [], [], []
    repeats = 3 if options.quick else 10
    cases: dict[str, dict[str, Any]] = {"training step, ResNet-18, 64 x 64": {**SMALL, "repeats": repeats}}
    if not options.quick:
        cases["evaluated slice, ResNet-18, 64 x 64"] = {**SMALL, "is_training": False, "repeats": 2}
        cases[LARGE] = {"repeats": 1}
    for name, arguments in cases.items():
        # A step of the large network takes many seconds.
        n_loads, n_policies = (2, 2) if name == LARGE else (len(LOADS), len(POLICIES))
        measured = _measure(arguments, n_loads=n_loads, n_policies=n_policies)
        tables.append(_table(name, measured))
        headline += _headline(name, measured)
        remarks += explain_bound(name, measured)
    section = Section(
        title="Contention",
        intro=(
            "Training steps and evaluated slices while other programs run on the same cores: Python loops, "
            "or programs whose own OpenMP threads spin. `spinning` is GNU OpenMP's default; `adaptive`, "
            "which is ours (`util/parallel/wait_policy.py`), lets threads sleep while cores are busy; "
            "`sleeping` is OMP_WAIT_POLICY=passive. Ratios compare medians with that of spinning without "
            "other load."
        ),
        tables=tables,
        remarks=remarks,
        headline=headline,
    )
    write_section("contention", section, quick=options.quick)


def _measure(
    arguments: dict[str, Any], *, n_loads: int, n_policies: int
) -> dict[str, dict[str, Measurement]]:
    """Measure a case by load and policy, of each the first ones."""
    measured = {}
    for load, programs in list(LOADS.items())[:n_loads]:
        with running(programs):
            measured[load] = {
                policy: measure_in_process(
                    "bench.contention:time_policy", environment=environment, **arguments
                )
                for policy, environment in list(POLICIES.items())[:n_policies]
            }
    return measured


def _headline(name: str, measured: dict[str, dict[str, Measurement]]) -> list[Headline]:
    idle = measured[NO_LOAD][SPINNING]
    return [
        Headline(
            f"{name}, other load: {load}",
            formatting.times(by_policy[ADAPTIVE]),
            formatting.times(by_policy[SPINNING]),
            formatting.time_ratio(by_policy[SPINNING], by_policy[ADAPTIVE]),
            target=f"time <= {TARGETS[load]} x spinning without load: "
            f"{formatting.time_ratio(by_policy[ADAPTIVE], idle)}",
        )
        for load, by_policy in measured.items()
    ]


def time_policy(is_training: bool = True, **options: Any) -> dict[str, Any]:
    """Time steps or slices under the wait policy that the environment allows."""
    with AdaptiveWaitPolicy():
        if is_training:
            return time_training(**options)
        return time_evaluation(**options, n_slices=16)


def explain_bound(name: str, measured: dict[str, dict[str, Measurement]]) -> list[str]:
    """Explain why the target with one busy process cannot be met, if so.

    Args:
        name: of the case.
        measured: by load and policy.

    Returns:
        A line, or none if one thread on an idle core is within the target, or was not measured.
    """
    load = "1 busy process"
    idle = measured[NO_LOAD]
    alone = idle.get(ONE_THREAD)
    if alone is None or load not in measured or alone.median <= TARGETS[load] * idle[SPINNING].median:
        return []
    ratios = [
        formatting.time_ratio(m, idle[SPINNING])
        for m in (alone, measured[load][ONE_THREAD], measured[load][ADAPTIVE])
    ]
    return [
        f"{name[0].upper()}{name[1:]}, {load} on two cores: threads with equal shares of the work wait for "
        "the one that shares its core, so two threads are hardly faster than a single one on the other core. "
        f"A single thread takes {ratios[0]} even without other load, more than the target of "
        f"{TARGETS[load]}x; with the busy process it took {ratios[1]}, and `{ADAPTIVE}` {ratios[2]}."
    ]


@contextmanager
def running(programs: list[str]) -> Iterator[None]:
    """Run Python programs in the background."""
    processes = [subprocess.Popen([sys.executable, "-c", program]) for program in programs]
    try:
        if OPENMP in programs:
            time.sleep(IMPORT_S)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _table(caption: str, measured: dict[str, dict[str, Measurement]]) -> Table:
    idle = measured[NO_LOAD][SPINNING]
    rows = [
        [load, policy, formatting.times(m), formatting.time_ratio(m, idle), formatting.memory(m)]
        for load, by_policy in measured.items()
        for policy, m in by_policy.items()
    ]
    columns = ["other load", "policy", "time", "time / spinning without load", "peak memory"]
    return Table(caption[0].upper() + caption[1:], columns, rows)


if __name__ == "__main__":
    main()
