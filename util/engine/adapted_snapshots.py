"""Adapt a snapshot to a support: cached by content, resumed if interrupted."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch

from util.engine.seeding import derive_seed
from util.engine.snapshots import Snapshot, current_versions, load_snapshot, save_snapshot
from util.errors import UserError
from util.io.files import remove_leftovers
from util.io.tensor_files import read_tensors, write_tensors
from util.progress import progress_bar
from util.remarks import remark

ALGORITHM_VERSION = 2  # raised by any change of an adaptation's result
CHECKPOINT_INTERVAL_S = 60.0
_DIGEST_BYTES = 16

Episode = Mapping[str, torch.Tensor]


class Adaptable(Protocol):
    """An adaptation under way; see `models.inference.adaptation.Adaptation`."""

    step: int
    model: torch.nn.Module

    def take_step(self, episode: Episode, *, seed: int) -> float:
        """Train on an episode; returns the loss."""

    def state_dict(self) -> dict[str, Any]:
        """Return all that changes from step to step."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from such a state."""


def find_or_adapt(
    cache_dir: Path | None,
    snapshot: Snapshot,
    identity: Mapping[str, Any],
    *,
    start: Callable[[], tuple[Adaptable, Sequence[Episode]]],
    seed: int,
    title: str,
    progress: bool = True,
) -> Snapshot:
    """Return a snapshot adapted to a support, from the cache if possible.

    Args:
        cache_dir: folder of one snapshot per adaptation, named by a hash of everything that affects it; None:
            nothing is kept.
        snapshot: of the trained network.
        identity: plain values that identify support, organs and settings; kept in the adapted snapshot's
            configuration as `adapted_to`.
        start: makes the adaptation before its first step, and its episodes, one per step.
        seed: of dropout and prototype sampling.
        title: of progress bar and messages, such as "adapting to scan 3".
        progress: show a progress bar.

    Raises:
        UserError: the loss is not finite, or the cache cannot be written.
    """
    path = None if cache_dir is None else cache_dir / f"{_digest(snapshot, identity, seed)}.pt"
    adapted = path and _find(path)
    if adapted:
        return adapted
    adaptation, episodes = start()
    partial = path and path.with_suffix(".partial.pt")
    if partial and partial.is_file():
        _resume(adaptation, partial)
    started, first_step = time.perf_counter(), adaptation.step
    _take_steps(adaptation, episodes, seed=seed, partial=partial, title=title, progress=progress)
    adapted = replace(
        snapshot,
        weights={name: tensor.detach().cpu() for name, tensor in adaptation.model.state_dict().items()},
        config={**snapshot.config, "adapted_to": dict(identity)},
        versions=current_versions(),
        source=path,
    )
    if path:
        save_snapshot(path, adapted)
        partial.unlink(missing_ok=True)
    n_steps, seconds = adaptation.step - first_step, time.perf_counter() - started
    print(f"{title}: {n_steps} steps in {seconds:.0f} s{f'; {path}' if path else ''}", flush=True)
    return adapted


def _find(path: Path) -> Snapshot | None:
    """Load an adapted snapshot; None if it is missing or damaged."""
    remove_leftovers(path.parent)
    if not path.is_file():
        return None
    try:
        return load_snapshot(path)
    except UserError as error:
        remark(f"{error}; adapting again")
        return None


def _take_steps(
    adaptation: Adaptable,
    episodes: Sequence[Episode],
    *,
    seed: int,
    partial: Path | None,
    title: str,
    progress: bool,
) -> None:
    last_save = time.monotonic()
    with progress_bar(
        total=len(episodes), initial=adaptation.step, desc=title, unit="step", disable=not progress
    ) as bar:
        for step in range(adaptation.step, len(episodes)):
            episode = {name: tensor[None] for name, tensor in episodes[step].items()}
            try:
                loss = adaptation.take_step(episode, seed=derive_seed(seed, "adaptation", step))
            except FloatingPointError as error:
                raise UserError(f"{title}: {error}; lower adaptation.lr") from error
            bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
            bar.update()
            if partial and time.monotonic() - last_save > CHECKPOINT_INTERVAL_S:
                write_tensors(partial, adaptation.state_dict())
                last_save = time.monotonic()


def _resume(adaptation: Adaptable, partial: Path) -> None:
    """Resume from a checkpoint of the same adaptation; one that is damaged is ignored with a remark."""
    before = adaptation.state_dict()
    before = {**before, "weights": {name: tensor.clone() for name, tensor in before["weights"].items()}}
    try:
        adaptation.load_state_dict(read_tensors(partial, kind="checkpoint of an adaptation"))
    except (UserError, KeyError, TypeError, ValueError, RuntimeError) as error:
        adaptation.load_state_dict(before)
        remark(f"{partial}: not usable ({error}); the adaptation starts again")


def _digest(snapshot: Snapshot, identity: Mapping[str, Any], seed: int) -> str:
    """Hash everything that affects an adaptation's result, but for the machine."""
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    fields = {"identity": identity, "seed": seed, "version": ALGORITHM_VERSION, "torch": torch.__version__}
    digest.update(json.dumps(fields, sort_keys=True).encode())
    for name, tensor in snapshot.weights.items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
