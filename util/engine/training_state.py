"""Mutable training state: checkpoint and resume."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from util.config.resume_keys import IGNORED_ON_RESUME
from util.engine.checkpoints import Checkpoint, load_checkpoint, newest_checkpoint
from util.engine.metric_averager import MetricAverager
from util.engine.non_finite import NonFiniteGuard, max_skipped_steps
from util.engine.optimisation import ExponentialMovingAverage, OptimConfig, make_optimizer
from util.engine.provenance import Provenance, check_provenance
from util.engine.resume import find_changes
from util.engine.runs import checkpoint_path
from util.errors import UserError
from util.parallel.collectives import broadcast_value, gather_values, run_on_all_ranks
from util.parallel.ranks import Ranks

Log = Callable[[str, float, int], None]


class MetricHistory:
    """All logged values of the metrics."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.metrics: dict[str, dict[str, list]] = {}

    def add(self, name: str, value: float, step: int) -> None:
        """Log the value of a metric after a step."""
        values = self.metrics.setdefault(name, {"steps": [], "values": []})
        values["steps"].append(step)
        values["values"].append(value)
        self._log(name, value, step)

    def replay(self, metrics: Mapping[str, Mapping[str, Sequence]]) -> None:
        """Log the history of the run being resumed."""
        for name, values in metrics.items():
            for step, value in zip(values["steps"], values["values"], strict=True):
                self.add(name, value, step)


class TrainingState:
    """Mutable training state: checkpoint and resume.

    Args:
        network: on its device.
        optimizer: of its parameters.
        ema: average of its weights, or None.
        guard: steps the optimiser.
        metrics: names of the metrics of a step.
        provenance: of the training.
        log: takes a metric's name, its value and the step.

    Attributes:
        step: steps done.
        network, optimizer, ema, guard, provenance: as passed.
        meter, history: empty at first.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        ema: ExponentialMovingAverage | None,
        guard: NonFiniteGuard,
        metrics: Sequence[str],
        provenance: Provenance,
        log: Log,
    ) -> None:
        self.step = 0
        self.network = network
        self.optimizer = optimizer
        self.ema = ema
        self.guard = guard
        self.provenance = provenance
        self.meter = MetricAverager(metrics)
        self.history = MetricHistory(log)

    @classmethod
    def create(
        cls,
        network: nn.Module,
        optim: OptimConfig,
        nonfinite: str,
        *,
        device: torch.device,
        metrics: Sequence[str],
        provenance: Provenance,
        log: Log,
    ) -> "TrainingState":
        """Create the state before the first step.

        Args:
            network: on its device.
            optim: the optimiser's settings.
            nonfinite: "stop", or "skip:n" to skip up to n non-finite steps.
            device: the network's.
            metrics, provenance, log: as for the class.
        """
        max_skipped = max_skipped_steps(nonfinite)
        optimizer = make_optimizer(optim, network.parameters(), device=device)
        return cls(
            network,
            optimizer,
            ema=ExponentialMovingAverage(network, optim.ema_decay) if optim.ema_decay else None,
            guard=NonFiniteGuard(network, optimizer, max_skipped=max_skipped, max_norm=optim.clip_norm),
            metrics=metrics,
            provenance=provenance,
            log=log,
        )

    @property
    def lr(self) -> float:
        """The learning rate of the last step."""
        return self.optimizer.param_groups[0]["lr"]

    @property
    def snapshot_model(self) -> nn.Module:
        """The network that snapshots save: the averaged one if there is an average."""
        return self.network if self.ema is None else self.ema.module

    def make_checkpoint(self, config: Mapping[str, Any], *, is_main: bool = True) -> Checkpoint | None:
        """Collect the state in a checkpoint on rank 0.

        All ranks must call it at the same step.

        Args:
            config: stored with it.
            is_main: whether this is rank 0; None is returned on the others.
        """
        of_rank = {
            "buffers": _to_cpu(dict(self.network.named_buffers())),
            "meter": self.meter.state_dict(),
        }
        if self.ema is not None:
            of_rank["averaged_buffers"] = _to_cpu(dict(self.ema.module.named_buffers()))
        of_ranks = gather_values(of_rank)
        if not is_main:
            return None
        average = None
        if self.ema is not None:
            average = {"weights": _to_cpu(self.ema.module.state_dict()), "n_updates": self.ema.n_updates}
        return Checkpoint(
            step=self.step,
            config=dict(config),
            weights=_to_cpu(self.network.state_dict()),
            optimizer=_to_cpu(self.optimizer.state_dict()),
            average=average,
            of_ranks=of_ranks,
            history=self.history.metrics,
            n_skipped=self.guard.non_finite_steps().n_steps,
            origin=asdict(self.provenance),
        )

    def resume(self, former_run: Path, config: Mapping[str, Any], *, ranks: Ranks) -> None:
        """Resume from a run's newest readable checkpoint, and print that.

        All ranks must call it.

        Args:
            former_run: its folder.
            config: of this training, plain values; with `resume_changed` it may differ from the
                checkpoint's.
            ranks: this process's rank.

        Raises:
            UserError: settings or data differ and may not; or as `restore` does.
        """
        # Rank 0 chooses: on network file systems others may not see the newest file yet.
        newest = run_on_all_ranks(lambda: newest_checkpoint(former_run) if ranks.is_main else None)
        step = broadcast_value(newest[0].step if newest else None)

        def load_and_restore() -> None:
            checkpoint, remarks = newest or (load_checkpoint(checkpoint_path(former_run, step)), [])
            remarks = remarks + self._check_resumable(checkpoint, former_run, config)
            self.restore(checkpoint, rank=ranks.rank, n_ranks=ranks.n_ranks)
            print("\n".join([*remarks, f"resuming after step {step} of {former_run}"]), flush=True)

        run_on_all_ranks(load_and_restore)

    def _check_resumable(
        self, checkpoint: Checkpoint, former_run: Path, config: Mapping[str, Any]
    ) -> list[str]:
        allows_changes = config["resume_changed"]
        changes = find_changes(checkpoint.config, config, ignored_keys=IGNORED_ON_RESUME)
        if changes and not allows_changes:
            raise UserError(
                f"{former_run}: its config.json differs from its checkpoint ({'; '.join(changes)}); restore "
                "that file, or add resume_changed=True"
            )
        provenance = Provenance(**checkpoint.origin)
        return check_provenance(provenance, self.provenance, allows_changes=allows_changes)

    def restore(self, checkpoint: Checkpoint, *, rank: int, n_ranks: int) -> None:
        """Load a checkpoint of the same network and optimiser.

        Args:
            checkpoint: made by as many ranks.
            rank, n_ranks: this process's rank and the number of ranks.

        Raises:
            UserError: it was made by another number of processes, or does not fit the network.
        """
        n_before = len(checkpoint.of_ranks)
        if n_before != n_ranks:
            raise UserError(
                f"the checkpoint was made by {n_before} processes, this job has {n_ranks}; resume with "
                f"NPROC={n_before}"
            )
        of_rank = checkpoint.of_ranks[rank]
        try:
            self.network.load_state_dict(checkpoint.weights)
            self.optimizer.load_state_dict(dict(checkpoint.optimizer))
            _require_shapes(self.optimizer)
            if self.ema is not None:
                self.ema.module.load_state_dict(checkpoint.average["weights"])
                self.ema.n_updates = checkpoint.average["n_updates"]
                _set_buffers(self.ema.module, of_rank["averaged_buffers"])
            _set_buffers(self.network, of_rank["buffers"])
            self.meter.load_state_dict(of_rank["meter"])
        except (RuntimeError, KeyError, TypeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"the checkpoint does not fit this network and optimiser ({reason}); start a new training "
                "without resume"
            ) from error
        self.guard.resume(checkpoint.n_skipped)
        self.history.replay(checkpoint.history)
        self.step = checkpoint.step


def _require_shapes(optimizer: torch.optim.Optimizer) -> None:
    """Raise ValueError if optimiser state has another shape than its parameter; PyTorch does not check."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.dim() and value.shape != parameter.shape:
                raise ValueError(f"the optimiser's {name} has shape {tuple(value.shape)}")


def _set_buffers(module: nn.Module, values: Mapping[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            buffer.copy_(values[name])


def _to_cpu(value: Any) -> Any:
    """Copy tensors in nested containers to the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {name: _to_cpu(item) for name, item in value.items()}
    return [_to_cpu(item) for item in value] if isinstance(value, list) else value
