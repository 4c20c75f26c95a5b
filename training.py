"""Train HCPMNet on supervoxel episodes.

Usage: `python training.py with dataset=CHAOST2 eval_fold=0`. `bash script/train.sh` does the same after
setting up what is missing. Runs lie under `runs/<dataset>/fold_<k>/training/<number>`.
"""

import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from config_ssl_upload import Config, parse_config
from data.preparation import hash_volumes
from dataloaders.episodes import EpisodeDataset, make_episode_loader
from dataloaders.evaluation_folds import check_fold
from dataloaders.sharding import episodes_of_step
from dataloaders.validation_scans import hold_back_scans
from dataloaders.worker_batches import BatchLoader
from models.factory import to_device
from models.few_shot_seg import FewShotSeg
from models.losses import CRITERIA, METRICS, EpisodeLosses, episode_losses
from models.precision import mixed_precision
from script.workflows.experiment import find_former_run, make_experiment
from script.workflows.networks import make_network
from script.workflows.training_episodes import make_training_episodes
from script.workflows.training_observer import TrainingObserver, plan_jobs_of_validation
from util.config.command_line import run_command_line
from util.config.settings import plain_values
from util.engine.checkpoint_manager import CheckpointManager
from util.engine.non_finite import NonFiniteMonitor
from util.engine.optimisation import learning_rate
from util.engine.provenance import UNKNOWN, Provenance, describe_environment
from util.engine.runs import snapshot_path
from util.engine.seeding import derive_seed
from util.engine.signals import SignalHandler
from util.engine.tensorboard_log import TensorBoardLog, check_tensorboard
from util.engine.training_state import Log, TrainingState
from util.errors import Stopped, UserError
from util.parallel.collectives import (
    average_buffers,
    broadcast_value,
    local_main_first,
    max_over_ranks,
    run_on_all_ranks,
    start_ranks,
    wrap_ddp,
)
from util.parallel.devices import choose_device
from util.parallel.hardware import peak_memory_gb, set_up_device
from util.parallel.ranks import Ranks, find_ranks
from util.parallel.threads import ThreadChoice, set_threads
from util.parallel.wait_policy import AdaptiveWaitPolicy
from util.progress import progress_bar

CHECK_EVERY = 50  # steps between two checks of a GPU for non-finite numbers


def check_request(config: Config) -> None:
    """Check a run's device, what it resumes, and that its fold can be evaluated."""
    device = choose_device(config.device, find_ranks())
    former_run = find_former_run(config)
    check_fold(config.layout, config.find_split(), config.test_organs, **config.support_options)
    if config.tensorboard:
        check_tensorboard()
    hold_back_scans(config.find_split(), config.n_validation_scans)
    if not config.spec.is_synthetic:  # PHANTOM may not exist yet
        plan_jobs_of_validation(config, with_image=False)
    if config.sync_batchnorm and device.type != "cuda":
        message = f"sync_batchnorm=True: PyTorch has it on CUDA GPUs only, not on {device}; leave it out"
        raise UserError(message if former_run is None else f"{former_run / 'config.json'}: {message}")


experiment = make_experiment("training", preflight=check_request)


@experiment.main
def main(_config: dict[str, Any], _run: Any) -> None:
    """Train one fold."""
    config = parse_config(_config)
    if not _run.observers:
        raise UserError("training keeps its snapshots in a run folder; leave out --unobserved")
    run_dir, log = Path(_run.observers[0].dir), _run.log_scalar
    if not config.tensorboard:
        train(config, run_dir, log=log, info=_run.info)
        return
    with closing(TensorBoardLog(run_dir / "tensorboard", log)) as board:
        train(config, run_dir, log=board, info=_run.info, add_picture=board.add_picture)


def worker_main(values: dict[str, Any], run_dir: Path) -> None:
    """Train as a rank other than the main one, which owns the run."""
    train(parse_config(values), run_dir, log=lambda name, value, step: None, info={})


def train(
    config: Config,
    run_dir: Path,
    *,
    log: Log,
    info: dict[str, Any],
    add_picture: Callable[[str, np.ndarray, int], None] | None = None,
) -> Path:
    """Train a fold's network, alone or as one of several ranks.

    Returns the last snapshot's path.

    Args:
        config: checked, the same on all ranks.
        run_dir: where the first rank puts snapshots and checkpoints.
        log: takes a metric's name, its value and the step.
        info: receives the data's fingerprint, the environment and the seconds of all steps.
        add_picture: takes the name of a picture, the picture and the step; None draws no pictures.

    Raises:
        UserError: data, weights, device or checkpoint are not usable, or a number stopped being finite.
        Stopped: a signal arrived; a checkpoint of the last step was saved, if there was one.
    """
    with SignalHandler() as signals:
        ranks = start_ranks(config.device)
        former_run = broadcast_value(find_former_run(config) if ranks.is_main else None)
        device, precision = set_up_device(
            config.device, config.precision, deterministic=config.deterministic, ranks=ranks
        )
        config = config.model_copy(update={"precision": precision})
        model, state, dataset = _make_parts(config, run_dir, log=log, device=device, ranks=ranks)
        if former_run is not None:
            state.resume(former_run, plain_values(config), ranks=ranks)
        data = run_on_all_ranks(lambda: hash_volumes(config.layout) if ranks.is_main else None)
        info.update(data_fingerprint=data, environment=state.provenance.environment)
        signals.defer()
        checkpoints = CheckpointManager(
            run_dir,
            config.checkpoint_minutes,
            former_run=former_run,
            data=data,
            training_ids=dataset.scan_ids,
        )
        observer = TrainingObserver(
            config, state, checkpoints, add_picture=add_picture, device=device, ranks=ranks
        )
        if former_run is not None:
            observer.best.resume(former_run)
        loop = _TrainingLoop(
            config, model, state, dataset, checkpoints, observer, signals, device=device, ranks=ranks
        )
        info["training_seconds"] = loop.run()
    return snapshot_path(run_dir, config.n_steps)


def _make_parts(
    config: Config, run_dir: Path, *, log: Log, device: torch.device, ranks: Ranks
) -> tuple[nn.Module, TrainingState, EpisodeDataset]:
    """Make the network, the state of its training and the episodes, and print what will be trained."""
    # The network first, as pretrained weights may turn out to be missing.
    network = local_main_first(lambda: make_network(config)).train()
    dataset = local_main_first(lambda: make_training_episodes(config, n_ranks=ranks.n_ranks))
    threads = set_threads(
        ranks,
        n_workers=config.num_workers,
        slice_size_px=dataset.slice_size_px,
        feature_width=config.model.feature_width,
    )
    model = prepare_network(config, network, device=device, ranks=ranks)
    provenance = Provenance(dataset.content_hash() if ranks.is_main else None, describe_environment(device))
    state = make_state(config, network, device=device, provenance=provenance, log=log)
    _announce(config, network, dataset, run_dir=run_dir, device=device, threads=threads, ranks=ranks)
    return model, state, dataset


@dataclass(frozen=True)
class _TrainingLoop:
    """The remaining steps of a training, with snapshots and checkpoints."""

    config: Config
    model: nn.Module
    state: TrainingState
    dataset: EpisodeDataset
    checkpoints: CheckpointManager
    observer: TrainingObserver
    signals: SignalHandler
    device: torch.device
    ranks: Ranks

    def run(self) -> float:
        """Run the steps; returns their seconds."""
        loader = self._make_loader()
        first_step, started = self.state.step, time.perf_counter()
        monitor = self._make_monitor()
        bar = progress_bar(
            total=self.config.n_steps,
            initial=first_step,
            desc="training",
            unit="step",
            disable=not self.ranks.is_main,
        )
        with bar, AdaptiveWaitPolicy():
            # With several ranks none may leave alone: the others would wait for it.
            for batch in loader if self.ranks.is_distributed else self.signals.interruptible(loader):
                if batch is None:
                    self._stop(self.signals.pending_signal, has_progress=self.state.step > first_step)
                take_step(
                    self.config, self.model, self.state, batch, device=self.device, rank=self.ranks.rank
                )
                bar.update()
                self._finish_step(batch, monitor, bar)
        self.checkpoints.finish()
        seconds, n_steps = time.perf_counter() - started, self.config.n_steps - first_step
        print(
            f"trained {n_steps} steps in {seconds:.0f} s ({seconds / max(n_steps, 1):.3f} s a step), peak "
            f"memory {peak_memory_gb(self.device):.1f} GB; snapshot "
            f"{snapshot_path(self.checkpoints.run_dir, self.config.n_steps)}"
        )
        return seconds

    def _finish_step(self, batch: dict[str, Tensor], monitor: NonFiniteMonitor, bar: tqdm) -> None:
        """Check, report and save what is due after a step; stop if a signal arrived."""
        step, observer = self.state.step, self.observer
        is_last = step == self.config.n_steps
        is_snapshot_due = step % self.config.save_snapshot_every == 0 or is_last
        pending = [int(self.signals.pending_signal or 0), int(self.checkpoints.is_due())]
        signal_number, is_due = max_over_ranks(pending)
        should_checkpoint = is_snapshot_due or signal_number or is_due or observer.validates
        should_check = self.device.type != "cuda" or step % CHECK_EVERY == 0 or observer.reports
        if should_check or should_checkpoint:
            monitor.check(bar.write)
        observer.observe(batch, bar)
        if is_snapshot_due:
            self._save_snapshot()
        if signal_number and not is_last:
            self._stop(signal_number)
        if should_checkpoint and not is_last:
            self._save_checkpoint()
        if observer.validates:
            observer.best.update()

    def _stop(self, signal_number: int, *, has_progress: bool = True) -> NoReturn:
        if not has_progress:
            raise Stopped(signal_number)
        self._save_checkpoint()
        resume = f"{self.config.fold_overrides} resume={self.checkpoints.run_dir.name}"
        raise Stopped(signal_number, f"resume with bash script/train.sh {resume}")

    def _save_checkpoint(self) -> None:
        settings = plain_values(self.config)
        self.checkpoints.save(lambda: self.state.make_checkpoint(settings, is_main=self.ranks.is_main))

    def _save_snapshot(self) -> None:
        model = self.state.snapshot_model
        average_buffers(model)
        settings = plain_values(self.config)
        run_on_all_ranks(lambda: self.checkpoints.save_snapshot(model, settings, step=self.state.step))

    def _make_loader(self) -> BatchLoader:
        """Return the loader of this rank's batches after the steps that were done before."""
        config, ranks = self.config, self.ranks
        return make_episode_loader(
            self.dataset,
            batch_size=config.batch_size,
            num_workers=config.num_workers,
            start_episode=self.state.step * config.batch_size * ranks.n_ranks,
            pin_memory=self.device.type == "cuda",
            rank=ranks.rank,
            n_ranks=ranks.n_ranks,
        )

    def _make_monitor(self) -> NonFiniteMonitor:
        ranks, batch_size = self.ranks, self.config.batch_size

        def episodes_of(step: int) -> list[dict[str, Tensor]]:
            indices = episodes_of_step(step, batch_size, rank=ranks.rank, n_ranks=ranks.n_ranks)
            return [self.dataset[index] for index in indices]

        return NonFiniteMonitor(self.state.guard, episodes_of, folder=self.checkpoints.run_dir)


def make_state(
    config: Config, network: FewShotSeg, *, device: torch.device, provenance: Provenance = UNKNOWN, log: Log
) -> TrainingState:
    """Create the mutable training state."""
    return TrainingState.create(
        network,
        config.optim,
        config.nonfinite,
        device=device,
        metrics=METRICS,
        provenance=provenance,
        log=log,
    )


def take_step(
    config: Config,
    model: nn.Module,
    state: TrainingState,
    batch: dict[str, Tensor],
    *,
    device: torch.device,
    rank: int = 0,
) -> None:
    """Train on a batch of episodes.

    Waits for no device that has fused optimisers.
    """
    step = state.step + 1
    for parameters in state.optimizer.param_groups:
        parameters["lr"] = learning_rate(
            config.optim,
            step,
            n_steps=config.n_steps,
            cut_every=config.max_iters_per_load,
            cut_factor=config.lr_step_gamma,
        )
    state.guard.save_buffers()
    losses = training_losses(model, batch, config=config, step=step, device=device, rank=rank)
    losses.total.backward()
    state.guard.update(losses.total, step)
    state.optimizer.zero_grad(set_to_none=True)  # here, so that the next forward pass has their memory
    if state.ema is not None:
        state.ema.update()
    state.meter.add(losses.metrics())
    state.step = step


def prepare_network(config: Config, network: FewShotSeg, *, device: torch.device, ranks: Ranks) -> nn.Module:
    """Move the network to its device, in the form in which it trains.

    Args:
        config: with channels innermost, pooling would add gradients up in no fixed order on CUDA.
        network: changed in place.
        device: where it will run.
        ranks: if there are several, gradients are averaged over them.

    Returns:
        The network, or what wraps it.
    """
    to_device(
        network,
        device=device,
        channels_last=config.channels_last and not config.deterministic,
        compiles=config.compile,
        sync_batchnorm=config.sync_batchnorm,
    )
    if not ranks.is_distributed:
        return network
    return wrap_ddp(network, device, find_unused_parameters=network.has_unused_parameters)


def training_losses(
    model: nn.Module,
    batch: dict[str, Tensor],
    *,
    config: Config,
    step: int,
    device: torch.device,
    rank: int = 0,
) -> EpisodeLosses:
    """Compute the losses of a batch of episodes.

    Prototype sampling depends on the seed and each episode's index, dropout on the seed, the step and the
    rank: no random state is carried from step to step.
    """
    torch.manual_seed(derive_seed(config.seed, "dropout", step, rank))
    seeds = torch.tensor([derive_seed(config.seed, "prototypes", int(i)) for i in batch["episode_index"]])
    names = ("support_images", "support_masks", "query_images", "query_masks")
    images, masks, query_images, query_masks = (batch[name].to(device, non_blocking=True) for name in names)
    with mixed_precision(device, config.precision):
        output = model(images, masks, query_images, prototype_seeds=seeds.to(device, non_blocking=True))
        return episode_losses(output, masks, query_masks, CRITERIA[config.loss])


def _announce(
    config: Config,
    network: FewShotSeg,
    dataset: EpisodeDataset,
    *,
    run_dir: Path,
    device: torch.device,
    threads: ThreadChoice,
    ranks: Ranks,
) -> None:
    n_parameters, index = sum(p.numel() for p in network.parameters()), dataset.index
    n_small = dataset.config.n_half_size // (config.batch_size * ranks.n_ranks)
    resizing = (
        f"slices of half the size up to step {n_small}; until then, the reported time left is too short\n"
    )
    on_ranks = f" on each of {ranks.n_ranks} ranks" if ranks.is_distributed else ""
    print(
        f"training {config.dataset}, fold {config.eval_fold}, setting {config.setting}: "
        f"{config.n_steps} steps of batch {config.batch_size}{on_ranks} in {config.precision} on {device}\n"
        f"threads: {threads}\nnetwork: {config.model.encoder}, {n_parameters / 1e6:.1f} million parameters\n"
        f"episodes: {len(index.target_ids)} targets in {len(index.scan_positions)} scans\n"
        f"{resizing if n_small else ''}run: {run_dir}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(run_command_line(experiment, worker_main=worker_main))
