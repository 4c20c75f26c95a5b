"""Say what training episodes are made of."""

from dataclasses import dataclass, field

from dataloaders.augmentation_ranges import AugmentationRanges
from util.errors import UserError


@dataclass(frozen=True)
class EpisodeConfig:
    """What episodes are made of.

    Attributes:
        seed: with an episode's index, all that its content depends on; at least 0.
        n_episodes: length of the data set.
        n_shots: support slices per episode.
        max_gap: largest step between neighbouring slices of an episode, which is the same for all of them;
            1: consecutive slices.
        min_size_px: least area of the target in one of the slices, at 256 x 256; scales with `H * W`.
        augmentation: strength of the augmentation.
        use_gt: manual labels take the supervoxels' place.
        train_labels: with `use_gt`, the labels to train on: the dataset's labels outside the test labels.
        exclude_labels: setting II's test organs, whose slices are never used; empty for setting I.
        exclude_rule: "any": slices with at least one of them are excluded; "all": only those with every one.

    Raises:
        UserError: a value is out of range, or `use_gt` has no labels or excluded ones, on construction.
    """

    seed: int
    n_episodes: int
    n_shots: int = 1
    max_gap: int = 1
    min_size_px: float = 200.0
    augmentation: AugmentationRanges = field(default_factory=AugmentationRanges)
    use_gt: bool = False
    train_labels: tuple[int, ...] = ()
    exclude_labels: tuple[int, ...] = ()
    exclude_rule: str = "any"

    def __post_init__(self) -> None:
        least = {"seed": 0, "n_episodes": 1, "n_shots": 1, "max_gap": 1, "min_size_px": 1}
        for name, bound in least.items():
            if not getattr(self, name) >= bound:
                raise UserError(f"{name}={getattr(self, name)}: must be at least {bound}")
        if self.exclude_rule not in ("any", "all"):
            raise UserError(f"exclude_rule={self.exclude_rule}: must be any or all")
        if self.use_gt and not self.train_labels:
            raise UserError("use_gt=True: no label is left to train on; take some out of test_label")
        if any(label < 1 for label in (*self.train_labels, *self.exclude_labels)):
            raise UserError(
                f"train_labels={self.train_labels}, exclude_labels={self.exclude_labels}: must be at least 1"
            )

    @property
    def needs_labels(self) -> bool:
        """Whether the scans must be loaded with label maps."""
        return self.use_gt or bool(self.exclude_labels)

    @property
    def needs_supervoxels(self) -> bool:
        """Whether the scans must be loaded with supervoxels."""
        return not self.use_gt
