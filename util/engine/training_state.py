"""All that a training's steps change.

How it is kept, and taken up again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from util.config.training_settings import FREE_ON_RESUME, OptimConfig
from util.engine.checkpoints import Checkpoint, load_checkpoint, newest_checkpoint
from util.engine.metric_averager import Meter
from util.engine.non_finite import FiniteGuard, allowed_bad_steps
from util.engine.optimisation import WeightAverage, make_optimizer
from util.engine.provenance import Origin, check_origin
from util.engine.resume import find_changes
from util.engine.runs import checkpoint_path
from util.errors import UserError
from util.parallel.collectives import agree, broadcast_value, gather_values
from util.parallel.ranks import Ranks

Log = Callable[[str, float, int], None]


class History:
    """All that a training has logged, by metric."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.metrics: dict[str, dict[str, list]] = {}

    def add(self, name: str, value: float, step: int) -> None:
        """Log a metric's value after a step."""
        of_metric = self.metrics.setdefault(name, {"steps": [], "values": []})
        of_metric["steps"].append(step)
        of_metric["values"].append(value)
        self._log(name, value, step)

    def replay(self, metrics: Mapping[str, Mapping[str, Sequence]]) -> None:
        """Log again what a training before had logged."""
        for name, of_metric in metrics.items():
            for step, value in zip(of_metric["steps"], of_metric["values"], strict=True):
                self.add(name, value, step)


class TrainingState:
    """What a training's steps change.

    Args:
        network: on its device.
        optimizer: of its parameters.
        average: of its weights, or None.
        guard: through which it is updated.
        metrics: names of what a step is told by.
        origin: of the training.
        log: takes a metric's name, its value and the step.

    Attributes:
        step: steps done.
        network, optimizer, average, guard, origin: as given.
        meter, history: empty at first.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        average: WeightAverage | None,
        guard: FiniteGuard,
        metrics: Sequence[str],
        origin: Origin,
        log: Log,
    ) -> None:
        self.step = 0
        self.network = network
        self.optimizer = optimizer
        self.average = average
        self.guard = guard
        self.origin = origin
        self.meter = Meter(metrics)
        self.history = History(log)

    @classmethod
    def begin(
        cls,
        network: nn.Module,
        optim: OptimConfig,
        nonfinite: str,
        *,
        device: torch.device,
        metrics: Sequence[str],
        origin: Origin,
        log: Log,
    ) -> "TrainingState":
        """Make the state before the first step.

        Args:
            network: on its device.
            optim: the optimiser's settings.
            nonfinite: "stop", or "skip:n" where n steps may be left out that are not finite.
            device: the network's.
            metrics, origin, log: as for the class.
        """
        n_allowed = allowed_bad_steps(nonfinite)
        optimizer = make_optimizer(optim, network.parameters(), device=device)
        return cls(
            network,
            optimizer,
            average=WeightAverage(network, optim.ema_decay) if optim.ema_decay else None,
            guard=FiniteGuard(network, optimizer, n_allowed=n_allowed, max_norm=optim.clip_norm),
            metrics=metrics,
            origin=origin,
            log=log,
        )

    @property
    def kept(self) -> nn.Module:
        """The network that snapshots hold: with averaged weights if there is an average."""
        return self.network if self.average is None else self.average.module

    def take_checkpoint(self, config: Mapping[str, Any], *, is_main: bool = True) -> Checkpoint | None:
        """Put everything into a checkpoint, on the rank that writes.

        All ranks must call it at the same step.

        Args:
            config: what is kept with it.
            is_main: whether this is that rank; the others get None.
        """
        own = {"buffers": _on_cpu(dict(self.network.named_buffers())), "meter": self.meter.state()}
        if self.average is not None:
            own["averaged_buffers"] = _on_cpu(dict(self.average.module.named_buffers()))
        of_ranks = gather_values(own)
        if not is_main:
            return None
        average = None
        if self.average is not None:
            average = {
                "weights": _on_cpu(self.average.module.state_dict()),
                "n_updates": self.average.n_updates,
            }
        return Checkpoint(
            step=self.step,
            config=dict(config),
            weights=_on_cpu(self.network.state_dict()),
            optimizer=_on_cpu(self.optimizer.state_dict()),
            average=average,
            of_ranks=of_ranks,
            history=self.history.metrics,
            n_skipped=self.guard.read().n_steps,
            origin=asdict(self.origin),
        )

    def go_on(self, former_run: Path, config: Mapping[str, Any], *, ranks: Ranks) -> None:
        """Go on from a run's newest checkpoint that can be read, and say so.

        All ranks must call it.

        Args:
            former_run: its folder.
            config: of this training, plain values; with `resume_changed`, what changes the result may differ.
            ranks: this process's place.

        Raises:
            UserError: it differs and may not; or as `resume` does.
        """
        # One rank chooses: on a network's disk others may not see the newest file yet.
        found = agree(lambda: newest_checkpoint(former_run) if ranks.is_main else None)
        step = broadcast_value(found[0].step if found else None)

        def take_up() -> None:
            checkpoint, remarks = found or (load_checkpoint(checkpoint_path(former_run, step)), [])
            self._take_up(checkpoint, remarks, former_run, config, ranks=ranks)

        agree(take_up)

    def _take_up(
        self,
        checkpoint: Checkpoint,
        remarks: list[str],
        former_run: Path,
        config: Mapping[str, Any],
        *,
        ranks: Ranks,
    ) -> None:
        allows_changes = config["resume_changed"]
        changes = find_changes(checkpoint.config, config, free=FREE_ON_RESUME)
        if changes and not allows_changes:
            raise UserError(
                f"{former_run}: its checkpoint was made with {'; '.join(changes)}, unlike its "
                "config.json says; restore that file, or add resume_changed=True"
            )
        origin = Origin(**checkpoint.origin)
        remarks = remarks + check_origin(origin, self.origin, allows_changes=allows_changes)
        self.resume(checkpoint, rank=ranks.rank, n_ranks=ranks.n_ranks)
        print("\n".join([*remarks, f"going on after step {checkpoint.step} of {former_run}"]), flush=True)

    def resume(self, checkpoint: Checkpoint, *, rank: int, n_ranks: int) -> None:
        """Go on from a checkpoint.

        Args:
            checkpoint: of the same network and optimiser.
            rank, n_ranks: this process's place; as many ranks as before.

        Raises:
            UserError: it is of another number of processes, or of another network.
        """
        n_before = len(checkpoint.of_ranks)
        if n_before != n_ranks:
            raise UserError(
                f"the checkpoint is of {n_before} processes, and there are {n_ranks} now; go on with "
                f"NPROC={n_before}"
            )
        own = checkpoint.of_ranks[rank]
        try:
            self.network.load_state_dict(checkpoint.weights)
            self.optimizer.load_state_dict(dict(checkpoint.optimizer))
            _require_shapes(self.optimizer)
            if self.average is not None:
                self.average.module.load_state_dict(checkpoint.average["weights"])
                self.average.n_updates = checkpoint.average["n_updates"]
                _set_buffers(self.average.module, own["averaged_buffers"])
            _set_buffers(self.network, own["buffers"])
            self.meter.restore(own["meter"])
        except (RuntimeError, KeyError, TypeError, ValueError) as error:
            told = str(error).strip().splitlines()[0]
            raise UserError(
                f"the checkpoint does not fit this network and optimiser ({told}); train anew without resume"
            ) from error
        self.guard.resume(checkpoint.n_skipped)
        self.history.replay(checkpoint.history)
        self.step = checkpoint.step


def _require_shapes(optimizer: torch.optim.Optimizer) -> None:
    """Raise ValueError where what it keeps of a parameter has another shape; PyTorch does not look."""
    for parameter, kept in optimizer.state.items():
        for name, value in kept.items():
            if isinstance(value, torch.Tensor) and value.dim() and value.shape != parameter.shape:
                raise ValueError(f"the optimiser's {name} has shape {tuple(value.shape)}")


def _set_buffers(module: nn.Module, values: Mapping[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            buffer.copy_(values[name])


def _on_cpu(value: Any) -> Any:
    """Copy tensors, wherever they are nested, to the CPU's memory."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {name: _on_cpu(item) for name, item in value.items()}
    return [_on_cpu(item) for item in value] if isinstance(value, list) else value
