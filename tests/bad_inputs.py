"""A small trained PHANTOM to damage, and what a refusal must look like."""

import json
import os
import pickle
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

import training
import validation
from util.config.command_line import run_command_line
from util.io.image_io import read_volume, write_volume

# What evaluates fastest.
QUICK = (
    "evaluation.baselines=False",
    "evaluation.every_support=False",
    "evaluation.all_slices=False",
    "evaluation.report=False",
    "test_label=[1]",
)


@dataclass(frozen=True)
class Workspace:
    """Copies of data and runs that a test may damage.

    Attributes:
        root: holds `data`, `runs` and what tests add.
        words: overrides that train and evaluate there.
    """

    root: Path
    words: tuple[str, ...]

    @property
    def runs(self) -> Path:
        """The folder of the training runs; 1 is finished, 2 was stopped and has checkpoints."""
        return self.root / "runs" / "PHANTOM" / "fold_0" / "training"

    @property
    def snapshot(self) -> Path:
        """The finished training's last snapshot."""
        return self.runs / "1" / "snapshots" / "snapshot_000003.pt"

    @property
    def reload(self) -> str:
        """The override that evaluates that snapshot."""
        return f"reload_model_path={self.snapshot}"

    @property
    def supervoxels(self) -> Path:
        """The folder of the supervoxel files."""
        return self.root / "data" / "supervoxels_60"

    def file(self, kind: str, scan_id: int) -> Path:
        """Name an `image`, `label` or `superpix-MIDDLE` file."""
        folder = self.root / "data" / "phantom_MR_T2_normalized"
        return (self.supervoxels if kind == "superpix-MIDDLE" else folder) / f"{kind}_{scan_id}.nii.gz"

    def loosen(self, path: Path) -> Path:
        """Copy a file of a run, so that it can be damaged: it is linked to those of all places."""
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
        return path

    def change(self, kind: str, *scan_ids: int, by: Callable[[np.ndarray], np.ndarray], **geometry) -> None:
        """Rewrite the voxels of files, and their geometry."""
        for path in (self.file(kind, scan_id) for scan_id in scan_ids):
            voxels, result = read_volume(path)
            voxels = by(voxels)
            write_volume(path, voxels, replace(result, **{"shape": voxels.shape, **geometry}))

    def forget_records(self) -> None:
        """Let all supervoxel files be somebody else's."""
        for path in self.supervoxels.glob("*.record.json"):
            path.unlink()

    def make_own(self, **description) -> list[str]:
        """Turn the data into a custom dataset, `Hips`, and return the words that find them."""
        (self.root / "own").mkdir()
        shutil.move(self.file("image", 0).parent, self.root / "own" / "volumes")
        values = {
            "name": "Hips",
            "labels": {"background": 0, "cup": 1, "stem": 2, "left": 3, "right": 4},
            "test_labels": [1],
        }
        (self.root / "own" / "dataset.json").write_text(json.dumps(values | description))
        own = ["dataset=Hips", f"path.OWN.data_dir={self.root / 'own'}", "model.encoder_weights=None"]
        return [*own, *(word for word in self.words if word.startswith("path.log_dir="))]

    def own_file(self, kind: str, scan_id: int) -> Path:
        """Name an image or label file of the custom dataset."""
        return self.root / "own" / "volumes" / f"{kind}_{scan_id}.nii.gz"


def train_twice(words: list[str]) -> None:
    """Train to the end, and once more to be stopped after two of three steps."""
    assert run_command_line(training.experiment, words) == 0
    real = training.take_step

    def take_step(config, model, state, batch, **options):
        real(config, model, state, batch, **options)
        if state.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "take_step", take_step)
        assert run_command_line(training.experiment, words) == 128 + signal.SIGTERM


def train_in(runs: Path, overrides_for: Callable[[Path], list[str]]) -> Iterator[tuple[Path, list[str]]]:
    """Make the runs that workspaces copy, and yield them with their words; remove them at the end."""
    words = overrides_for(runs)[1:]
    train_twice(words)
    for path in runs.rglob("snapshot_000002.pt"):  # not needed here, and large
        path.unlink()
    yield runs, words
    shutil.rmtree(runs)


def make_workspace(root: Path, data: Path, runs: Path, words: list[str]) -> Iterator[Workspace]:
    """Copy data and link runs to a separate folder; remove it at the end."""
    yield _copy_to(root, data, runs, words)
    shutil.rmtree(root)


def _copy_to(root: Path, data: Path, runs: Path, words: list[str]) -> Workspace:
    shutil.copytree(data, root / "data")
    shutil.copytree(runs, root / "runs", copy_function=os.link)
    elsewhere = (word.replace(str(data), str(root / "data")) for word in words)
    return Workspace(root, tuple(word.replace(str(runs), str(root / "runs")) for word in elsewhere))


class Trap:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def set_trap(path: Path, mark: Path) -> None:
    """Write a pickle that leaves a mark."""
    path.write_bytes(pickle.dumps({"weights": Trap(mark)}, protocol=2))


def refusal(call: Callable[[], int], capsys, root: Path) -> str:
    """Call a command on bad input; return its one line, after checking that nothing else came of it."""
    before = _content(root)
    capsys.readouterr()
    code = call()
    lines = capsys.readouterr().err.replace("\r", "\n").strip().splitlines()
    assert code == 2, lines
    assert [line for line in lines if "error:" in line.lower()] == lines[-1:], lines
    assert lines[-1].startswith("error: ")
    assert not any("Traceback" in line for line in lines), lines
    after = _content(root)
    assert after == before, [path for path in before | after if before.get(path, 0) != after.get(path, 0)]
    states = {json.loads(path.read_text())["status"] for path in root.rglob("run.json")}
    assert states <= {"COMPLETED", "FAILED", "INTERRUPTED"}, states
    assert not list(root.rglob("*.tmp*"))
    return lines[-1].removeprefix("error: ")


def train(*words: str) -> int:
    """Run the training."""
    return run_command_line(training.experiment, ["with", *words])


def evaluate(*words: str) -> int:
    """Run the evaluation."""
    return run_command_line(validation.experiment, ["with", *words])


def _content(root: Path) -> dict[str, tuple | None]:
    """Tell the state of all files; of runs those that were there before."""
    paths = [path for path in root.rglob("*") if not _is_of_new_run(path.relative_to(root))]
    states = {str(path): path.stat() if path.is_file() else None for path in paths}
    return {
        name: state and (state.st_size, state.st_mtime_ns, state.st_ino) for name, state in states.items()
    }


def _is_of_new_run(path: Path) -> bool:
    former = [("PHANTOM", "fold_0", "training", number) for number in ("1", "2")]
    return path.parts[0] == "runs" and path.parts[1:5] not in former
