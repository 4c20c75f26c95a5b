"""Kill the making of supervoxels at random moments; every file must be whole and right, at each moment.

`python tests/kill_supervoxels.py --kills 20` does so on PHANTOM, `--volumes` on other prepared volumes. It
ends with code 0 if no file ever differs from an unbroken run's.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from config_ssl_upload import REPOSITORY
from data.phantom.scans import PhantomSettings, make_phantom
from util.io.image_io import read_volume

N_PHANTOM_SCANS, PHANTOM_SIZE_PX = 30, 96


def main() -> int:
    """Run the comparison; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--dataset", default="PHANTOM")
    parser.add_argument("--volumes", type=Path, help="folder of prepared volumes; PHANTOM's are made")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hcpmnet-kill-") as name:
        folder = Path(name)
        data_dir = options.volumes or make_volumes(folder / "data")
        words = ["--dataset", options.dataset, "--data-dir", str(data_dir)]
        started = time.monotonic()
        make(words, folder / "unbroken")
        seconds = time.monotonic() - started
        expected = read_all(folder / "unbroken")
        moments, n_kills, n_rounds, n_checked, n_wrong, n_left = random.Random(options.seed), 0, 0, 0, 0, 0
        while n_kills < options.kills:
            n_rounds += 1
            into = folder / f"killed_{n_rounds}"
            # Now the whole group, now the main process alone, whose workers must not outlive it.
            while n_kills < options.kills and not make(
                words, into, kill_after=moments.uniform(0, seconds / 2), whole_group=bool(n_kills % 2)
            ):
                n_kills += 1
                result = read_all(into)
                n_checked += len(result)
                n_wrong += count_wrong(result, expected)
                print(f"killed; {len(result)} of {len(expected)} files are there", flush=True)
            make(words, into)
            result = read_all(into)
            n_checked += len(result)
            n_wrong += count_wrong(result, expected) + len(expected.keys() - result.keys())
            n_left += sum(".tmp" in path.name for path in into.rglob("*"))
        print(
            f"{n_kills} kills in {n_rounds} rounds of {len(expected)} files, {n_checked} files read on the "
            f"way, {n_wrong} wrong, {n_left} temporary files left"
        )
        return 1 if n_wrong or n_left else 0


def make_volumes(folder: Path) -> Path:
    """Make PHANTOM's volumes."""
    make_phantom(folder, PhantomSettings(image_size_px=PHANTOM_SIZE_PX), n_scans=N_PHANTOM_SCANS)
    return folder


def make(words: list[str], into: Path, *, kill_after: float | None = None, whole_group: bool = False) -> bool:
    """Make what is missing; returns whether it came to its end before it was killed."""
    child = subprocess.Popen(
        [sys.executable, "-m", "data.supervoxels", *words, "--supervoxel-dir", str(into)],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        code = child.wait(timeout=kill_after)
    except subprocess.TimeoutExpired:
        if whole_group:
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()
        child.wait()
        return False
    assert code == 0, f"data.supervoxels ended with code {code}"
    return True


def read_all(folder: Path) -> dict[str, np.ndarray]:
    """Read all supervoxel files of a folder; raises where one is damaged."""
    return {path.name: read_volume(path)[0] for path in sorted(folder.glob("*/superpix-*.nii.gz"))}


def count_wrong(result: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> int:
    """Count the files that differ from the unbroken run's."""
    return sum(not np.array_equal(voxels, expected[name]) for name, voxels in result.items())


if __name__ == "__main__":
    sys.exit(main())
