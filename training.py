"""Train HCPMNet on supervoxel episodes.

Usage: `python training.py with dataset=CHAOST2 eval_fold=0`. `bash script/train.sh` does the same after
setting up what is missing. Runs lie under `runs/<dataset>/fold_<k>/training/<number>`.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from config_ssl_upload import Config, make_experiment, parse_config
from data.phantom import PhantomSettings
from data.preparation import ensure_volumes
from data.supervoxels.generation import generate_supervoxels
from dataloaders.episode_config import EpisodeConfig
from dataloaders.episodes import EpisodeDataset, make_episode_loader
from dataloaders.folds import training_scan_ids
from dataloaders.volumes import load_scans
from models.encoder_weights import WeightsError
from models.factory import build_network
from models.few_shot_seg import FewShotSeg
from models.precision import mixed_precision
from models.records import EpisodeLosses
from util.checkpoints import Snapshot, current_versions, save_snapshot
from util.command_line import run_command_line
from util.devices import choose_device
from util.distributed import (
    agree,
    average_buffers,
    average_gradients,
    local_main_first,
    start_ranks,
)
from util.errors import UserError
from util.hardware import choose_kernels, peak_memory_gb
from util.meter import Meter, mean_over_ranks
from util.optimisation import WeightAverage, learning_rate
from util.progress import progress_bar
from util.ranks import Ranks, find_ranks
from util.runs import snapshot_path
from util.seeding import derive_seed
from util.settings import plain_values

METRICS = (
    "loss",
    "query_loss",
    "alignment_loss",
    "raw_prior_background",
    "raw_prior_foreground",
    "prior_background",
    "prior_foreground",
    "prior_dice_background",
    "prior_dice_foreground",
    "prior_dice_by_chance",
)

ADAMW_SECOND_DECAY = 0.999  # Kingma and Ba's default


def check_device(config: Config) -> None:
    """Check, before a run starts, that its device is there."""
    device = choose_device(config.device, find_ranks())
    if config.sync_batchnorm and device.type != "cuda":
        raise UserError(
            f"sync_batchnorm=True: PyTorch has it on CUDA GPUs only, not on {device}; leave it out"
        )


experiment = make_experiment("training", preflight=check_device)


@experiment.main
def main(_config: dict[str, Any], _run: Any) -> None:
    """Train one fold."""
    config = parse_config(_config)
    if not _run.observers:
        raise UserError("training keeps its snapshots in a run folder; leave out --unobserved")
    train(config, Path(_run.observers[0].dir), log=_run.log_scalar)


def follow(values: dict[str, Any], run_dir: Path) -> None:
    """Train as another rank than the one that has the run."""
    train(parse_config(values), run_dir, log=lambda name, value, step: None)


def train(config: Config, run_dir: Path, *, log: Callable[[str, float, int], None]) -> Path:
    """Train the network of one fold, as one rank of the job or alone.

    Args:
        config: checked, the same on all ranks.
        run_dir: where the first rank puts the snapshots.
        log: takes a metric's name, its value and the step.

    Returns:
        The last snapshot's path.

    Raises:
        UserError: data, weights or device are not usable, or the loss stopped being finite.
    """
    ranks = start_ranks(config.device)
    device = choose_device(config.device, ranks)
    choose_kernels(deterministic=config.deterministic, precision=config.precision)
    # The network first, as pretrained weights may turn out to be missing.
    network = local_main_first(lambda: make_network(config)).train()
    dataset = local_main_first(lambda: make_dataset(config, n_ranks=ranks.n_ranks))
    model = place_network(config, network, device=device, ranks=ranks)
    optimizer = make_optimizer(config, network, device=device)
    average = WeightAverage(network, config.optim.average_decay) if config.optim.average_decay else None
    loader = make_episode_loader(
        dataset,
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        pin_memory=device.type == "cuda",
        rank=ranks.rank,
        n_ranks=ranks.n_ranks,
    )
    _announce(config, network, dataset, run_dir=run_dir, device=device, ranks=ranks)
    meter, path = Meter(METRICS), snapshot_path(run_dir, config.n_steps)
    started = time.perf_counter()
    with progress_bar(total=config.n_steps, desc="training", unit="step", disable=not ranks.is_main) as bar:
        for step, batch in enumerate(loader, start=1):
            for parameters in optimizer.param_groups:
                parameters["lr"] = rate_of(config, step)
            losses = play(model, batch, config=config, step=step, device=device, rank=ranks.rank)
            (losses.query + losses.alignment).mean().backward()
            update(config, network, optimizer, average)
            meter.add(losses_and_prior(losses))
            bar.update()
            if step % config.print_interval == 0 or step == config.n_steps:
                averages = agree(partial(meter.take, step))
                _report(mean_over_ranks(averages), bar, step=step, lr=rate_of(config, step), log=log)
            if step % config.save_snapshot_every == 0 or step == config.n_steps:
                kept = network if average is None else average.module
                average_buffers(kept)
                agree(partial(_save, kept, config, run_dir, step=step, is_main=ranks.is_main))
    seconds = time.perf_counter() - started
    print(
        f"trained {config.n_steps} steps in {seconds:.0f} s ({seconds / config.n_steps:.3f} s a step), "
        f"peak memory {peak_memory_gb(device):.1f} GB; snapshot {path}"
    )
    return path


def make_dataset(config: Config, *, n_ranks: int = 1) -> EpisodeDataset:
    """Make a fold's training episodes, with volumes and supervoxels that are missing.

    Raises:
        UserError: see `load_scans`, `generate_supervoxels` and `EpisodeDataset`.
    """
    spec, layout, task = config.spec, config.layout, config.task
    scan_ids = ensure_volumes(
        layout, phantom=phantom_settings(config), n_phantom_scans=config.phantom.n_scans
    )
    if not config.use_gt:
        for each in (layout, *config.further_layouts):
            print(f"supervoxels: {each.supervoxels_dir}", flush=True)
            generate_supervoxels(each)
    episode_config = EpisodeConfig(
        seed=config.seed,
        n_episodes=config.n_steps * config.batch_size * n_ranks,
        n_shots=config.n_shot,
        max_gap=task.max_gap,
        min_size_px=config.min_size,
        augmentation=task.augmentation,
        use_gt=config.use_gt,
        train_labels=tuple(label for label in spec.labels if label not in config.test_label),
        exclude_labels=config.exclude_label,
        exclude_rule=task.exclude_rule,
    )
    scans = load_scans(
        layout,
        training_scan_ids(scan_ids, config.eval_fold),
        with_labels=episode_config.needs_labels,
        with_supervoxels=episode_config.needs_supervoxels,
        more_supervoxels=config.further_layouts,
        image_size_px=config.image_size_px,
    )
    return EpisodeDataset(scans, episode_config)


def make_network(config: Config) -> FewShotSeg:
    """Build the network at its start.

    Raises `UserError` when the encoder's weights cannot be had.
    """
    options = {**plain_values(config.model), "recompute": config.recompute}
    try:
        return build_network(seed=derive_seed(config.seed, "weights"), **options)
    except WeightsError as error:
        raise UserError(str(error)) from error


def place_network(config: Config, network: FewShotSeg, *, device: torch.device, ranks: Ranks) -> nn.Module:
    """Bring the network to its device, in the form in which its steps run.

    Args:
        config: `channels_last`, `compile` and `sync_batchnorm` count here.
        network: changed in place.
        device: where it shall run.
        ranks: with several, the gradients will be averaged over them.

    Returns:
        The network, or what wraps it.
    """
    if config.sync_batchnorm:
        nn.SyncBatchNorm.convert_sync_batchnorm(network)
    network.to(device)
    if config.channels_last:
        network.to(memory_format=torch.channels_last)
    if config.compile:
        network.compile_parts()
    if not ranks.are_several:
        return network
    return average_gradients(network, device, leaves_parameters_out=network.leaves_parameters_out)


def make_optimizer(config: Config, network: FewShotSeg, *, device: torch.device) -> torch.optim.Optimizer:
    """Make the optimiser over all of the network's parameters."""
    optim = config.optim
    shared = {"lr": optim.lr, "weight_decay": optim.weight_decay, "fused": device.type in ("cpu", "cuda")}
    if optim.name == "sgd":
        return torch.optim.SGD(network.parameters(), momentum=optim.momentum, **shared)
    return torch.optim.AdamW(network.parameters(), betas=(optim.momentum, ADAMW_SECOND_DECAY), **shared)


def phantom_settings(config: Config) -> PhantomSettings:
    """Return what the synthetic scans depend on."""
    return PhantomSettings(image_size_px=config.phantom.image_size_px, seed=config.phantom.seed)


def rate_of(config: Config, step: int) -> float:
    """Return a step's learning rate; steps count from 1."""
    optim = config.optim
    return learning_rate(
        step,
        start=optim.lr,
        schedule=optim.schedule,
        n_steps=config.n_steps,
        warmup_steps=round(optim.warmup * config.n_steps),
        cut_every=config.max_iters_per_load,
        cut_factor=config.lr_step_gamma,
    )


def play(
    model: nn.Module,
    batch: dict[str, Tensor],
    *,
    config: Config,
    step: int,
    device: torch.device,
    rank: int = 0,
) -> EpisodeLosses:
    """Play a batch of episodes.

    Prototype draws depend on the seed and each episode's index, dropout on the seed, the step and the rank:
    no random state is carried from step to step.
    """
    torch.manual_seed(derive_seed(config.seed, "dropout", step, rank))
    draws = torch.tensor([derive_seed(config.seed, "prototypes", int(i)) for i in batch["episode_index"]])
    names = ("support_images", "support_masks", "query_images", "query_masks")
    tensors = [batch[name].to(device, non_blocking=True) for name in names]
    with mixed_precision(device, config.precision):
        return model(*tensors, draws=draws.to(device, non_blocking=True))


def update(
    config: Config,
    network: FewShotSeg,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None = None,
) -> None:
    """Change the weights by their gradients, and their average with them."""
    if config.optim.clip_norm is not None:
        nn.utils.clip_grad_norm_(network.parameters(), config.optim.clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)  # here, so that the next forward pass has their memory
    if average is not None:
        average.update()


def losses_and_prior(losses: EpisodeLosses) -> Tensor:
    """Put what one step is told by into one tensor, in the order of `METRICS`."""
    query, alignment = losses.query.detach().mean(), losses.alignment.detach().mean()
    totals = torch.stack([query + alignment, query, alignment]).float()
    return torch.cat([totals, losses.prior_areas, losses.prior_agreement])


def _announce(
    config: Config,
    network: FewShotSeg,
    dataset: EpisodeDataset,
    *,
    run_dir: Path,
    device: torch.device,
    ranks: Ranks,
) -> None:
    n_parameters = sum(parameter.numel() for parameter in network.parameters())
    index = dataset.index
    on_ranks = f" on each of {ranks.n_ranks} ranks" if ranks.are_several else ""
    print(
        f"training {config.dataset}, fold {config.eval_fold}, setting {config.setting}: "
        f"{config.n_steps} steps of batch {config.batch_size}{on_ranks} in {config.precision} on {device}\n"
        f"network: {config.model.encoder}, {n_parameters / 1e6:.1f} million parameters\n"
        f"episodes: {len(index.target_ids)} targets in {len(index.scan_positions)} scans\n"
        f"run: {run_dir}",
        flush=True,
    )


def _report(
    averages: dict[str, float], bar: tqdm, *, step: int, lr: float, log: Callable[[str, float, int], None]
) -> None:
    """Tell the averages in a line, on the bar and in the run's metrics."""
    for name, value in {**averages, "lr": lr}.items():
        log(name, value, step)
    of = averages
    refined = f"prior fg {of['prior_foreground']:.3f} bg {of['prior_background']:.3f}"
    raw = f"raw fg {of['raw_prior_foreground']:.3f} bg {of['raw_prior_background']:.3f}"
    parts = f"query {of['query_loss']:.4f}, alignment {of['alignment_loss']:.4f}"
    bar.set_postfix_str(f"loss {of['loss']:.3f}, {refined}", refresh=False)
    bar.write(f"step {step}: loss {of['loss']:.4f} ({parts}), {refined} ({raw}), lr {lr:.2e}")


def _save(network: FewShotSeg, config: Config, run_dir: Path, *, step: int, is_main: bool) -> None:
    if not is_main:
        return
    snapshot = Snapshot(
        step=step, weights=network.state_dict(), config=plain_values(config), versions=current_versions()
    )
    save_snapshot(snapshot_path(run_dir, step), snapshot)


if __name__ == "__main__":
    sys.exit(run_command_line(experiment, follow=follow))
