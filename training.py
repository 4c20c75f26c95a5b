"""Train HCPMNet on supervoxel episodes.

Usage: `python training.py with dataset=CHAOST2 eval_fold=0`. `bash script/train.sh` does the same after
setting up what is missing. Runs lie under `runs/<dataset>/fold_<k>/training/<number>`.
"""

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from config_ssl_upload import Config, make_experiment, parse_config
from data.phantom import PhantomSettings
from data.preparation import ensure_volumes
from data.supervoxels.generation import generate_supervoxels
from dataloaders.episodes import EpisodeConfig, EpisodeDataset, make_episode_loader
from dataloaders.folds import training_scan_ids
from dataloaders.volumes import load_scans
from dataloaders.warps import AugmentationRanges
from models.encoder_weights import WeightsError
from models.factory import build_network
from models.few_shot_seg import EpisodeLosses, FewShotSeg
from util.checkpoints import Snapshot, current_versions, save_snapshot
from util.command_line import run_command_line
from util.devices import choose_device
from util.errors import UserError
from util.progress import progress_bar
from util.runs import snapshot_path
from util.seeding import derive_seed, torch_generator
from util.settings import plain_values

METRICS = (
    "loss",
    "query_loss",
    "alignment_loss",
    "raw_prior_background",
    "raw_prior_foreground",
    "prior_background",
    "prior_foreground",
)

ADAMW_SECOND_DECAY = 0.999  # Kingma and Ba's default


def check_device(config: Config) -> None:
    """Check, before a run starts, that its device is there."""
    choose_device(config.device)


experiment = make_experiment("training", preflight=check_device)


@experiment.main
def main(_config: dict[str, Any], _run: Any) -> None:
    """Train one fold."""
    config = parse_config(_config)
    if not _run.observers:
        raise UserError("training keeps its snapshots in a run folder; leave out --unobserved")
    train(config, Path(_run.observers[0].dir), log=_run.log_scalar)


def train(config: Config, run_dir: Path, *, log: Callable[[str, float, int], None]) -> Path:
    """Train the network of one fold.

    Args:
        config: checked.
        run_dir: where the snapshots go.
        log: takes a metric's name, its value and the step.

    Returns:
        The last snapshot's path.

    Raises:
        UserError: data, weights or device are not usable, or the loss stopped being finite.
    """
    device = choose_device(config.device)
    choose_kernels(deterministic=config.deterministic)
    model = make_network(config).to(device).train()  # first, as pretrained weights may turn out to be missing
    dataset = make_dataset(config)
    optimizer = make_optimizer(config, model)
    loader = make_episode_loader(
        dataset,
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        pin_memory=device.type == "cuda",
    )
    _announce(config, model, dataset, run_dir=run_dir, device=device)
    meter = Meter()
    started = time.perf_counter()
    with progress_bar(total=config.n_steps, desc="training", unit="step") as bar:
        for step, batch in enumerate(loader, start=1):
            for parameters in optimizer.param_groups:
                parameters["lr"] = learning_rate(config, step)
            losses = play(model, batch, seed=config.seed, step=step, device=device)
            optimizer.zero_grad(set_to_none=True)
            (losses.query + losses.alignment).mean().backward()
            optimizer.step()
            meter.add(losses)
            bar.update()
            if step % config.print_interval == 0 or step == config.n_steps:
                _report(meter.take(step), bar, step=step, lr=learning_rate(config, step), log=log)
            if step % config.save_snapshot_every == 0 or step == config.n_steps:
                path = _save(model, config, run_dir, step=step)
    seconds = time.perf_counter() - started
    print(
        f"trained {config.n_steps} steps in {seconds:.0f} s ({seconds / config.n_steps:.3f} s a step), "
        f"peak memory {peak_memory_gb(device):.1f} GB; snapshot {path}"
    )
    return path


def make_dataset(config: Config) -> EpisodeDataset:
    """Make a fold's training episodes, with volumes and supervoxels that are missing.

    Raises:
        UserError: see `load_scans`, `generate_supervoxels` and `EpisodeDataset`.
    """
    spec, layout, task = config.spec, config.layout, config.task
    scan_ids = ensure_volumes(
        layout, phantom=phantom_settings(config), n_phantom_scans=config.phantom.n_scans
    )
    if not config.use_gt:
        print(f"supervoxels: {layout.supervoxels_dir}", flush=True)
        generate_supervoxels(layout)
    episode_config = EpisodeConfig(
        seed=config.seed,
        n_episodes=config.n_steps * config.batch_size,
        n_shots=config.n_shot,
        min_size_px=config.min_size,
        augmentation=AugmentationRanges(
            rotation_deg=task.rotation_deg,
            shift_px=task.shift_px,
            shear_deg=task.shear_deg,
            scale=task.scale,
            elastic_sigma_px=task.elastic_sigma_px,
            elastic_amplitude=task.elastic_amplitude,
            gamma=task.gamma,
        ),
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
        image_size_px=config.image_size_px,
    )
    return EpisodeDataset(scans, episode_config)


def make_network(config: Config) -> FewShotSeg:
    """Build the network at its start.

    Raises `UserError` when the encoder's weights cannot be had.
    """
    options = plain_values(config.model)
    try:
        return build_network(seed=derive_seed(config.seed, "weights"), **options)
    except WeightsError as error:
        raise UserError(str(error)) from error


def make_optimizer(config: Config, model: FewShotSeg) -> torch.optim.Optimizer:
    """Make the optimiser over all of the network's parameters."""
    optim = config.optim
    shared = {"lr": optim.lr, "weight_decay": optim.weight_decay}
    if optim.name == "sgd":
        return torch.optim.SGD(model.parameters(), momentum=optim.momentum, **shared)
    return torch.optim.AdamW(model.parameters(), betas=(optim.momentum, ADAMW_SECOND_DECAY), **shared)


def phantom_settings(config: Config) -> PhantomSettings:
    """Return what the synthetic scans depend on."""
    return PhantomSettings(image_size_px=config.phantom.image_size_px, seed=config.phantom.seed)


def learning_rate(config: Config, step: int) -> float:
    """Return a step's rate, cut every `max_iters_per_load` steps; steps count from 1."""
    return config.optim.lr * config.lr_step_gamma ** ((step - 1) // config.max_iters_per_load)


def play(
    model: FewShotSeg, batch: dict[str, Tensor], *, seed: int, step: int, device: torch.device
) -> EpisodeLosses:
    """Play a batch of episodes.

    Prototype draws depend on the seed and each episode's index, dropout on the seed and the step: no random
    state is carried from step to step.
    """
    torch.manual_seed(derive_seed(seed, "dropout", step))
    generators = [torch_generator(seed, "prototypes", int(index)) for index in batch["episode_index"]]
    names = ("support_images", "support_masks", "query_images", "query_masks")
    tensors = (batch[name].to(device, non_blocking=True) for name in names)
    return model(*tensors, generators=generators)


class Meter:
    """Averages of what training reports.

    They are summed on the device so that no step waits for it.
    """

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._count = 0

    def add(self, losses: EpisodeLosses) -> None:
        """Add one step's losses and prior areas."""
        query, alignment = losses.query.detach().mean(), losses.alignment.detach().mean()
        values = torch.cat([torch.stack([query + alignment, query, alignment]).float(), losses.prior_areas])
        self._sum = values if self._sum is None else self._sum + values
        self._count += 1

    def take(self, step: int) -> dict[str, float]:
        """Return the averages since the last call, by name in `METRICS`, and start anew.

        Raises:
            UserError: the loss is not finite; `step` is named.
        """
        means = (self._sum / self._count).tolist()
        self._sum, self._count = None, 0
        averages = dict(zip(METRICS, means, strict=True))
        if not torch.isfinite(torch.tensor(averages["loss"])):
            raise UserError(f"the loss is not finite in the steps up to {step}; lower optim.lr")
        return averages


def choose_kernels(*, deterministic: bool) -> None:
    """Let CUDA choose the fastest kernels, or deterministic ones: never both."""
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cudnn.deterministic = deterministic
    torch.use_deterministic_algorithms(deterministic, warn_only=True)


def peak_memory_gb(device: torch.device) -> float:
    """Return the most memory used so far, in 1e9 bytes.

    It is the GPU's on CUDA, else this process's.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def _announce(
    config: Config, model: FewShotSeg, dataset: EpisodeDataset, *, run_dir: Path, device: torch.device
) -> None:
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    index = dataset.index
    print(
        f"training {config.dataset}, fold {config.eval_fold}, setting {config.setting}: "
        f"{config.n_steps} steps of batch {config.batch_size} on {device}\n"
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


def _save(model: FewShotSeg, config: Config, run_dir: Path, *, step: int) -> Path:
    path = snapshot_path(run_dir, step)
    snapshot = Snapshot(
        step=step, weights=model.state_dict(), config=plain_values(config), versions=current_versions()
    )
    save_snapshot(path, snapshot)
    return path


if __name__ == "__main__":
    sys.exit(run_command_line(experiment))
