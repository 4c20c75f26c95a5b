"""Kill a training at random moments, resume each time, and compare with one that was never killed.

`python tests/kill_training.py --kills 20` prints where each process was killed, and ends with code 0 if the
final weights are those of the unbroken run, to the bit. tests/test_resumed_training.py does so once.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from config_ssl_upload import REPOSITORY
from util.engine.runs import latest_snapshot_in, list_checkpoints, list_runs
from util.engine.snapshots import load_snapshot

TINY = (
    "dataset=PHANTOM",
    "phantom.n_scans=10",
    "phantom.image_size_px=48",
    "n_sv=60",
    "model.encoder=resnet18",
    "model.feature_width=8",
    "optim.ema_decay=0.9",
    "print_interval=7",
    "save_snapshot_every=25",
    "checkpoint_minutes=0",
    "num_workers=1",
    "device=cpu",
)


def main() -> int:
    """Run the comparison; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hcpmnet-kill-") as name:
        folder = Path(name)
        words = [*TINY, f"n_steps={options.steps}", f"path.PHANTOM.data_dir={folder / 'data'}"]
        started = time.monotonic()
        train(words, folder / "unbroken")
        seconds = time.monotonic() - started
        expected = final_weights(folder / "unbroken")
        moments, n_kills, n_trainings, n_differing = random.Random(options.seed), 0, 0, 0
        while n_kills < options.kills:
            n_trainings += 1
            log_dir = folder / f"killed_{n_trainings}"
            while n_kills < options.kills and kill_after(moments.uniform(0, seconds / 2), words, log_dir):
                n_kills += 1
            train([*words, "resume=latest"], log_dir)
            result = final_weights(log_dir)
            n_differing += sum(not torch.equal(expected[name], result[name]) for name in expected)
        print(f"{n_kills} kills in {n_trainings} trainings of {len(expected)} tensors, {n_differing} differ")
        return 1 if n_differing else 0


def command(words: Sequence[str], log_dir: Path) -> list[str]:
    """Return the command line of one training process."""
    return [sys.executable, str(REPOSITORY / "training.py"), "with", *words, f"path.log_dir={log_dir}"]


def train(words: Sequence[str], log_dir: Path) -> None:
    """Train to the end."""
    subprocess.run(
        command(words, log_dir), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=_few()
    )


def kill_after(seconds: float, words: Sequence[str], log_dir: Path) -> bool:
    """Go on with a training and kill it after some time; False where it had ended by then."""
    child = subprocess.Popen(
        command([*words, "resume=latest"], log_dir),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=_few(),
    )
    try:
        child.wait(timeout=seconds)
        return False
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    runs = list_runs(log_dir / "PHANTOM" / "fold_0" / "training")
    checkpoints = [path.name for run in runs for path in list_checkpoints(run)]
    print(
        f"killed after {seconds:.1f} s; newest checkpoint {checkpoints[0] if checkpoints else 'none'}",
        flush=True,
    )
    return True


def final_weights(log_dir: Path) -> dict[str, torch.Tensor]:
    """Read the weights that a training ended with."""
    runs = list_runs(log_dir / "PHANTOM" / "fold_0" / "training")
    snapshot = next(path for run in runs if (path := latest_snapshot_in(run)) is not None)
    return dict(load_snapshot(snapshot).weights)


def _few() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


if __name__ == "__main__":
    sys.exit(main())
