"""Make the episodes that a training's configuration describes."""

import math

from config_ssl_upload import Config
from data.preparation import ensure_volumes
from data.supervoxels.generation import generate_supervoxels
from dataloaders.episodes import EpisodeDataset, load_episodes
from dataloaders.validation_scans import hold_back_scans


def make_training_episodes(config: Config, *, n_ranks: int = 1) -> EpisodeDataset:
    """Make a fold's training episodes, with volumes and supervoxels that are missing.

    Raises:
        UserError: see `load_scans`, `generate_supervoxels` and `EpisodeDataset`.
    """
    layout = config.layout
    scan_ids = ensure_volumes(layout, phantom=config.phantom.settings, n_phantom_scans=config.phantom.n_scans)
    split, _ = hold_back_scans(config.find_split(scan_ids), config.n_validation_scans)
    if not config.use_gt:
        for source in (layout, *config.further_layouts):
            print(f"supervoxels: {source.supervoxels_dir}", flush=True)
            generate_supervoxels(source)
    n_of_step = config.batch_size * n_ranks
    episode_config = config.task.episode_config(
        seed=config.seed,
        n_episodes=config.n_steps * n_of_step,
        n_half_size=math.floor(config.task.half_size_share * config.n_steps) * n_of_step,
        n_shots=config.n_shot,
        min_size_px=config.min_size,
        use_gt=config.use_gt,
        train_labels=tuple(label for label in config.spec.labels if label not in config.test_label),
        exclude_labels=config.exclude_label,
    )
    further, size_px = config.further_layouts, config.image_size_px
    return load_episodes(layout, split, episode_config, further=further, image_size_px=size_px)
