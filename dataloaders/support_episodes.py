"""Episodes of annotated scans, to adapt a network to them."""

from collections.abc import Sequence

from dataloaders.episode_settings import AugmentationRanges, EpisodeConfig
from dataloaders.episodes import EpisodeDataset
from dataloaders.prepared_scans import PreparedScan
from util.config.settings import with_defaults

# Stronger than in training: the slices of one scan must stand for those of all others.
SupportAugmentation = with_defaults(
    AugmentationRanges,
    rotation_deg=15.0,
    shift_px=20.0,
    scale=(0.7, 1.4),
    contrast=(0.7, 1.3),
    brightness=0.3,
    noise=0.1,
    bias=0.3,
)


def make_support_episodes(
    scans: Sequence[PreparedScan],
    labels: Sequence[int],
    *,
    n_episodes: int,
    max_gap: int,
    min_size_px: float,
    augmentation: AugmentationRanges,
    seed: int,
) -> EpisodeDataset:
    """Make episodes that find an organ of one slice of a scan in another slice.

    Args:
        scans: with label maps, their slices of one size.
        labels: the organs; each episode samples one of them uniformly.
        n_episodes, max_gap, min_size_px, augmentation, seed: see `EpisodeConfig`.

    Raises:
        UserError: none of the organs shows in two slices at most `max_gap` apart, none is large enough, or
            slices differ in size.
    """
    config = EpisodeConfig(
        seed=seed,
        n_episodes=n_episodes,
        max_gap=max_gap,
        min_size_px=min_size_px,
        augmentation=augmentation,
        use_gt=True,
        train_labels=tuple(labels),
    )
    return EpisodeDataset(scans, config)
