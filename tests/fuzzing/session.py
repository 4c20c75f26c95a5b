"""Make inputs, damage a copy of them, try it, classify the outcome."""

import fnmatch
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import SimpleITK as sitk
import torch

from tests.fuzzing.judging import Verdict, classify
from tests.fuzzing.kinds import ROUND, Kind
from tests.fuzzing.tensor_damages import CANARY
from tests.fuzzing.tries import Ending, run_apart

_MAKING_SECONDS = 300.0


class Session:
    """Tries of one seed.

    Args:
        folder: empty; everything is done in it.
        seed: of all damages.
        round_: the kinds in their order.
    """

    def __init__(self, folder: Path, seed: int, round_: tuple[Kind, ...] = ROUND) -> None:
        self._folder = folder.resolve()
        self._seed = seed
        self._round = round_
        torch.set_num_threads(1)  # a fork has none of the threads that its parent started
        cv2.setNumThreads(1)
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
        self._right: dict[tuple[Callable, Callable], str] = {}

    def numbers(self, n_tries: int, *, kind: str | None = None, only: int | None = None) -> Iterator[int]:
        """List the numbers of tries: the first ones of a kind or of all, or only one."""
        if only is not None:
            return iter([only])
        return itertools.islice((n for n in itertools.count() if kind in (None, self._kind(n).name)), n_tries)

    def attempt(self, number: int) -> Verdict:
        """Make one try, the same for the same seed and number."""
        kind = self._kind(number)
        rng = np.random.default_rng([self._seed, number])
        template = self._template(kind)
        end_to_end = kind.end_to_end is not None and rng.random() < kind.share
        consume = kind.end_to_end if end_to_end else kind.consume
        right = self._right_result(kind, consume)
        try_folder = self._copy(template, f"try_{number}")
        target = kind.target(try_folder / "inputs", rng)
        whole = target.read_bytes()
        name = list(kind.damages)[int(rng.integers(len(kind.damages)))]
        damaged = kind.damages[name](whole, rng)
        target.unlink()  # it is linked to the template
        target.write_bytes(damaged)
        before = _states(try_folder / "inputs")
        ending = run_apart(lambda: consume(try_folder / "inputs"), try_folder, seconds=kind.seconds)
        outcome, output = classify(
            ending,
            names=_names(target),
            right={right, *kind.accepted} if kind.as_written is None else {kind.as_written(damaged)},
            faults=_faults(try_folder, before, remade=kind.remade),
            several_lines=kind.several_lines,
        )
        shutil.rmtree(try_folder)
        return Verdict(kind.name, name + (", end to end" if end_to_end else ""), outcome, output)

    def _kind(self, number: int) -> Kind:
        return self._round[number % len(self._round)]

    def _template(self, kind: Kind) -> Path:
        template = self._folder / f"template_{kind.make.__name__}"
        if not template.exists():
            inputs = template / "inputs"
            inputs.mkdir(parents=True)

            def make() -> tuple[int, str]:
                kind.make(inputs)
                return 0, ""

            _require(run_apart(make, template, seconds=_MAKING_SECONDS), kind)
        return template

    def _right_result(self, kind: Kind, consume: Callable) -> str:
        """Find what the undamaged inputs give."""
        if (kind.make, consume) not in self._right:
            try_folder = self._copy(self._template(kind), "undamaged")
            ending = run_apart(lambda: consume(try_folder / "inputs"), try_folder, seconds=_MAKING_SECONDS)
            self._right[kind.make, consume] = _require(ending, kind).result
            shutil.rmtree(try_folder)
        return self._right[kind.make, consume]

    def _copy(self, template: Path, name: str) -> Path:
        try_folder = self._folder / name
        shutil.copytree(template / "inputs", try_folder / "inputs", copy_function=os.link)
        return try_folder


def _require(ending: Ending, kind: Kind) -> Ending:
    if ending.code != 0:
        raise RuntimeError(f"{kind.name}: undamaged inputs end with {ending.code}: {ending.errors[-3000:]}")
    return ending


def _names(target: Path) -> set[str]:
    """List names of which a refusal must tell one: the file's, or its partner's of the same scan."""
    names = {target.name, target.name.replace(".record.json", ".nii.gz")}
    if target.name == "config.json":  # of a run, which may be named itself
        names.add(str(target.parent))
    for kind, other in (("image", "label"), ("label", "image"), ("superpix-MIDDLE", "image")):
        names.add(target.name.replace(f"{kind}_", f"{other}_"))
    if target.suffix in (".dcm", ".png") or "_0000" in target.name:
        names |= {target.parent.name, target.with_suffix("").name, target.name.replace("_0000", "")}
    return names


def _states(inputs: Path) -> dict[str, tuple[int, int]]:
    files = (path for path in inputs.rglob("*") if path.is_file())
    return {str(path.relative_to(inputs)): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def _faults(try_folder: Path, before: dict[str, tuple[int, int]], *, remade: tuple[str, ...]) -> list[str]:
    """List what a program must not have done to the files."""
    now = _states(try_folder / "inputs")
    changed = [
        name
        for name, state in before.items()
        if now.get(name) != state and not any(fnmatch.fnmatch(name, pattern) for pattern in remade)
    ]
    left = [str(path) for path in try_folder.rglob("*") if ".tmp" in path.name or ".unpacked." in path.name]
    faults = [f"changed or removed {changed[:3]}"] if changed else []
    faults += [f"left {left[:3]}"] if left else []
    ran = [str(path) for path in try_folder.rglob(CANARY)]
    return [*faults, *(["code was run"] if ran else [])]
