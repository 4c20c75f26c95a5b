"""The sacred experiments' configuration.

Every key is declared once, with its default, meaning and constraints: here, in `data/data_settings.py`,
`dataloaders/episode_settings.py` or `util/engine/optimisation.py`. Any key can be set on the command
line, nested ones with dots: `bash script/train.sh dataset=CHAOST2 n_steps=2000 optim.lr=0.002`. `python
training.py print_config with dataset=PHANTOM` shows the resulting configuration.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PrivateAttr

from data.data_settings import DATASET_NAME, PathConfig, PhantomConfig
from data.dataset_lookup import find_dataset
from data.datasets import DATASETS, default_data_dir, path_group
from data.layout import DatasetLayout
from data.specs import DatasetSpec
from dataloaders.episode_settings import TaskConfig
from dataloaders.evaluation_protocol import PROTOCOLS, Protocol
from dataloaders.splits import FOLDS, Split, find_split
from dataloaders.support_choice import DEFAULT_SUPPORT, SUPPORT_SCANS
from dataloaders.support_episodes import SupportAugmentation
from models.encoder import BACKBONES, NORMS
from models.inference.adaptation import PARTS
from models.inference.supports import SUPPORT_COMBINATIONS
from models.inference.test_time_augmentation import MAX_VERSIONS
from models.losses import CRITERIA
from models.prior_masks import PRIOR_FORMS, PRIOR_GRADIENTS
from util.config.path_values import PathText
from util.config.settings import (
    Amount,
    Count,
    Counts,
    ListAsTuple,
    MustBe,
    Positive,
    Settings,
    Text,
    TextOrNumber,
    Whole,
    default_values,
    group,
    key,
    markdown_table,
    merge_values,
    parse_values,
)
from util.engine.optimisation import OptimConfig
from util.errors import UserError
from util.evaluation import N_FOLDS
from util.evaluation.intensity_refinement import RECOMMENDED_WEIGHT
from util.evaluation.method_names import GUIDES, METHODS, REGISTRATION
from util.parallel.hardware import AUTO, PRECISIONS

REPOSITORY = Path(__file__).resolve().parent
_HELPING_UNET = {"unet_steps": 150, "unet_joins": True}
# What a recipe changes of the defaults, the dataset's among them; see bench/study/RESULTS.md.
RECIPES: dict[str, dict[str, Any]] = {
    "published": {},
    "strong": {
        "optim": {"name": "adamw", "lr": 3e-4, "weight_decay": 1e-2, "schedule": "cosine", "warmup": 0.05},
        "adaptation": {"steps": 150},
        "evaluation": {"guide": REGISTRATION, "intensity_weight": RECOMMENDED_WEIGHT, **_HELPING_UNET},
    },
}


class ModelConfig(Settings):
    """The network."""

    encoder: Literal[tuple(BACKBONES)] = key("resnet101", "encoder; the small ones suit CPUs")
    encoder_weights: PathText | None = key(
        "deeplabv3_coco",
        "encoder weights: `deeplabv3_coco` or `imagenet` (downloaded once), a file, or None for random",
    )
    feature_width: int = key(512, "channels of features, attention and decoders", ge=1, le=8192)
    frozen_batchnorm: bool = key(False, "freeze BatchNorm's running statistics in training")
    magnitude: bool = key(True, "compare by magnitude too; False: by angle alone")
    norm: Literal[tuple(NORMS)] = key("batch", "BatchNorm, or GroupNorm for training from scratch")
    prior: bool = key(True, "use HCPMG's prior masks; False: masks of 1 everywhere")
    prior_form: Literal[tuple(PRIOR_FORMS)] = key(
        "literal", "what the prior masks compare; literal: published"
    )
    prior_gradient: Literal[tuple(PRIOR_GRADIENTS)] = key(
        "none", "how gradients pass the prior masks; none: published"
    )
    mining: bool = key(True, "use TRM; False: the query's own features")
    expansion: bool = key(True, "use POEM's prototype expansion; False: the support's prototypes")


class EvaluationConfig(Settings):
    """What is evaluated, and how."""

    chunks: bool = key(True, "segment the slices of each query that hold the organ, in `n_part` chunks")
    all_slices: bool = key(True, "segment every slice of each query, without using the organ's position")
    every_support: bool = key(False, "also take every scan of the fold as support in turn")
    baselines: bool = key(
        False, "also score the untrained network, copied masks, plain cosine matching and registration"
    )
    unet_steps: Whole = key(0, "above 0: also score a U-Net, trained so many steps on the support scan alone")
    unet_joins: bool = key(False, "average the network's log-odds and that U-Net's, if there is a network")
    guide: Literal[GUIDES] = key(
        "none", "registration: the support's warped mask joins the network's log-odds"
    )
    guide_weight: Amount = key(0.75, "weight of the warped mask's log-odds")
    guide_smoothing_mm: Amount = key(6.0, "Gaussian that smooths the warped mask within slices")
    guide_offset: float = key(0.5, "added to the warped mask's log-odds; above 0 widens it", ge=-20, le=20)
    guide_shift_mm: Amount = key(30.0, "scale of shifts that align each warped mask with the result; 0: none")
    guide_measures: int = key(
        2, "1: register by correlation alone; 2: by mutual information, too, and choose per organ", ge=1, le=2
    )
    intensity_weight: Amount = key(
        0.0,
        "weight of the log-likelihood ratio of the query's intensities, inside the segmented organ to around "
        "it, that joins the log-odds; 0: off",
    )
    intensity_margin_mm: Positive = key(12.0, "width of the surroundings that it compares and may change")
    support_slices: Count = key(1, "support slices per query slice: the protocol's and its neighbours")
    join_support: Literal[tuple(SUPPORT_COMBINATIONS)] = key(
        "probabilities",
        "average the probabilities from these slices, or use them as the shots of one support",
    )
    test_time_augmentation: int = key(
        1,
        "versions of a query slice to average over: itself and shifted, scaled and brightened ones",
        old_name="query_copies",
        ge=1,
        le=MAX_VERSIONS,
    )
    largest_component: bool = key(
        False, "keep the largest connected component of each organ, and fill its holes", old_name="clean_up"
    )
    slices_per_call: Count | None = key(
        None, "query slices encoded or segmented at once; None: 1 on a CPU, else 16"
    )
    save_predictions: bool = key(True, "write the predictions as NIfTI files")
    original_grid: bool = key(False, "write the predictions on the grids of the raw files, with their names")
    report: bool = key(True, "write report.html, with pictures of the queries")


class AdaptationConfig(Settings):
    """Adaptation of the trained network to the support scan."""

    steps: Whole = key(0, "training steps on the support scan alone before it serves; 0: no adaptation")
    lr: Positive = key(3e-4, "highest learning rate, of AdamW with warm-up and a cosine schedule")
    weight_decay: Amount = key(1e-2, "weight decay")
    parts: Literal[tuple(PARTS)] = key("all", "parts of the network that train")
    organs: Literal["jointly", "separately"] = key(
        "jointly", "one adapted network for all organs, or one per organ, each with `adaptation.steps`"
    )
    max_gap: Count = key(3, "maximum distance, in slices, between support and query of an episode")
    min_size: Count = key(
        50, "minimum area of the organ in at least one slice of an episode, in px at 256 x 256"
    )
    augmentation: SupportAugmentation = group(SupportAugmentation)


SidePx = Annotated[int, Field(ge=16, le=2048)]
Tag = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if type(value) in (int, float) else value),
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"),
    MustBe("a name of letters, digits, _, . and -"),
]


class Config(Settings):
    """Everything that can be set.

    `seed` to `n_shot` carry the names usual among these code bases.
    """

    dataset: str = key(
        "CHAOST2",
        "a published dataset, PHANTOM, or the name of your own prepared data",
        pattern=f"^{DATASET_NAME}$",
        must_be=f"{', '.join(DATASETS)}, or a name of letters, digits and _",
    )
    recipe: Literal[tuple(RECIPES)] = key(
        "published", "set of defaults: the published ones, or the study's choice"
    )
    protocol: Literal[tuple(PROTOCOLS)] = key(
        "published", "set of defaults of the evaluation: as papers do, or every slice of every scan"
    )
    tag: Tag | None = key(None, "name of a variant, whose runs and summaries are kept apart")
    eval_fold: int = key(0, "fold held out of training and evaluated", ge=0, le=N_FOLDS - 1)
    folds: Literal[tuple(FOLDS)] = key(
        "overlapping", "overlapping: neighbour folds share a scan, as published; disjoint: they do not"
    )
    setting: int = key(
        1,
        "1: nothing excluded; 2: slices with the tested organ group never train",
        ge=1,
        le=2,
        must_be="1 or 2",
    )
    organ_group: Whole | None = key(
        None, "setting 2: which group of organs is tested; None: the scripts take each in turn, programs 0"
    )
    n_steps: Count = key(40_000, "training steps")
    seed: int = key(2025, "seed of weights, episodes and prototype sampling", ge=0, le=2**32 - 1)
    batch_size: Count = key(1, "episodes per training step")
    n_shot: Count = key(1, "support slices per training episode")
    supp_idx: Whole = key(
        DEFAULT_SUPPORT,
        "position of the support, for organs that it shows in `n_part` slices, otherwise the nearest that "
        "does; 2 is the last of a smaller fold",
    )
    support_scans: Literal[SUPPORT_SCANS] = key(
        "fold", "where positions are counted: in the fold, or in the labelled scans after it"
    )
    n_part: Count = key(3, "chunks of a query, each served by one support slice")
    test_label: Counts | None = key(None, "label ids to evaluate; None: the protocol's", min_length=1)
    exclude_label: Counts | None = key(
        None, "label ids whose slices never train; None: none in setting 1, the group in setting 2"
    )
    use_gt: bool = key(False, "train on manual labels outside `test_label` instead of on supervoxels")
    n_sv: Count | None = key(None, "minimum supervoxel size in voxels; None: the dataset's")
    min_size: Count = key(
        200, "minimum area of a supervoxel in at least one slice of an episode, in px at 256 x 256"
    )
    image_size_px: Annotated[tuple[SidePx, SidePx], ListAsTuple] | None = key(
        None, "resize slices to [H, W]; None: as they are"
    )
    loss: Literal[tuple(CRITERIA)] = key(
        "weighted_cross_entropy", "loss of both directions, of `models/losses.py`"
    )
    max_iters_per_load: Count = key(10_000, "steps between two cuts of the learning rate")
    lr_step_gamma: float = key(0.98, "factor of each cut", gt=0, le=1)
    resume: TextOrNumber | None = key(
        None, "training to resume: latest (starts a new one if missing), a run's number or its folder"
    )
    resume_changed: bool = key(False, "resume even if settings that affect the result differ")
    checkpoint_minutes: Amount = key(
        1.0, "minutes between checkpoints, longer on slow disks; each snapshot also writes one"
    )
    nonfinite: str = key(
        "stop",
        "on a non-finite loss or gradient: stop, or skip:<n> to skip up to n steps",
        pattern=r"^(stop|skip:[0-9]+)$",
        must_be="stop, or skip:<n> with a whole number n",
    )
    save_snapshot_every: Count = key(10_000, "steps between snapshots; the last step always writes one")
    print_interval: Count = key(100, "steps between log lines")
    validate_every: Count | None = key(
        None, "steps between validations, which keep the best snapshot, too; None: no validation"
    )
    validation_scans: int = key(3, "labelled training scans held back for validation, if any", ge=2, le=100)
    tensorboard: bool = key(False, "also log metrics and pictures for TensorBoard; needs that package")
    num_workers: int = key(
        2, "worker processes that make episodes; 0: the main process makes them", ge=0, le=256
    )
    device: Text = key("auto", "cpu, cuda, cuda:<n>, mps, or auto for the best one available")
    precision: Literal[(*PRECISIONS, AUTO)] = key(
        "fp32", "number format; auto: the fastest that the device computes in hardware"
    )
    channels_last: bool = key(True, "channels-last memory format in training; faster nearly everywhere")
    compile: bool = key(False, "compile encoder and decoders in training; the first step takes far longer")
    activation_checkpointing: bool = key(
        False,
        "recompute the encoder's inner activations in the backward pass: less memory, more time",
        old_name="recompute",
    )
    sync_batchnorm: bool = key(False, "BatchNorm over all ranks' images; CUDA with several ranks only")
    deterministic: bool = key(False, "reproducible weights on CUDA; slower")
    method: Literal[METHODS] = key(
        "network", "what evaluation scores; registration: without any network or snapshot"
    )
    reload_model_path: PathText | None = key(
        None, "snapshot or run folder to evaluate, best or `<run folder>/best`; None: the latest of its fold"
    )
    optim: OptimConfig = group(OptimConfig)
    model: ModelConfig = group(ModelConfig)
    task: TaskConfig = group(TaskConfig)
    adaptation: AdaptationConfig = group(AdaptationConfig)
    evaluation: EvaluationConfig = group(EvaluationConfig)
    phantom: PhantomConfig = group(PhantomConfig)
    path: PathConfig = group(PathConfig)

    _spec: DatasetSpec | None = PrivateAttr(None)

    @property
    def spec(self) -> DatasetSpec:
        """The dataset's constants, which `parse_config` looks up."""
        if self._spec is None:
            raise ValueError("the dataset was not looked up; make configurations by parse_config")
        return self._spec

    @property
    def test_organs(self) -> dict[int, str]:
        """The organs to evaluate, label -> name."""
        return {label: self.spec.labels[label] for label in self.test_label}

    @property
    def data_dir(self) -> Path:
        """The folder that holds the dataset's volumes folder."""
        data_dir = getattr(self.path, path_group(self.dataset)).data_dir
        return Path(data_dir or default_data_dir(self.dataset))

    @property
    def layout(self) -> DatasetLayout:
        """Where the dataset's files lie."""
        supervoxel_dir = getattr(self.path, path_group(self.dataset)).supervoxel_dir
        return DatasetLayout(
            spec=self.spec,
            data_dir=self.data_dir,
            supervoxel_dir=Path(supervoxel_dir or self.data_dir),
            supervoxel_min_vox=self.n_sv or self.spec.supervoxel_min_vox,
        )

    @property
    def further_layouts(self) -> list[DatasetLayout]:
        """Where the dataset's files lie, with supervoxels of the further sizes."""
        return [replace(self.layout, supervoxel_min_vox=size) for size in self.task.more_sv]

    @property
    def needs_registration(self) -> bool:
        """Whether an evaluation registers the support to its queries."""
        options = self.evaluation
        return options.baselines or REGISTRATION in (options.guide, self.method)

    @property
    def n_validation_scans(self) -> int:
        """How many training scans are held back for validation."""
        return self.validation_scans if self.validate_every else 0

    def find_split(self, scan_ids: Sequence[int] = ()) -> Split:
        """Split the dataset's scans for the fold; see `dataloaders.splits.find_split`."""
        options = {"n_phantom_scans": self.phantom.n_scans, "scan_ids": scan_ids, "folds": self.folds}
        return find_split(self.layout, self.eval_fold, **options)

    @property
    def support_options(self) -> dict[str, Any]:
        """How supports are chosen and loaded; arguments of `load_fold`."""
        return {
            "support_scans": self.support_scans,
            "supp_idx": self.supp_idx,
            "n_part": self.n_part,
            "image_size_px": self.image_size_px,
        }

    @property
    def evaluation_protocol(self) -> Protocol:
        """The protocol that the keys describe."""
        defaults = dataset_defaults(self.dataset, self.recipe, self.protocol)
        parts = {name: getattr(self, name) for name in ("folds", "support_scans", "supp_idx", "n_part")}
        slices = {"chunks": self.evaluation.chunks, "all_slices": self.evaluation.all_slices}
        changes = [f"{name}={value}" for name, value in parts.items() if value != defaults[name]]
        changes += [
            f"evaluation.{name}={value}"
            for name, value in slices.items()
            if value != defaults["evaluation"][name]
        ]
        every_support = self.evaluation.every_support
        return Protocol(self.protocol, tuple(changes), **parts, **slices, every_support=every_support)

    @property
    def fold_overrides(self) -> str:
        """The command-line overrides that select this fold's runs."""
        group_words = f" setting=2 organ_group={self.organ_group}" if self.setting == 2 else ""
        tag = "" if self.tag is None else f" tag={self.tag}"
        log_dir = "" if self.path.log_dir == PathConfig().log_dir else f" path.log_dir={self.path.log_dir}"
        return f"dataset={self.dataset} eval_fold={self.eval_fold}{group_words}{tag}{log_dir}"

    @property
    def runs_dir(self) -> Path:
        """The folder of all runs of this dataset, setting, organ group and tag."""
        return self._runs_dir(f"_setting2_group{self.organ_group or 0}" if self.setting == 2 else "")

    @property
    def all_groups_dir(self) -> Path:
        """The folder of what merges the organ groups; in setting 1 that of all runs."""
        return self._runs_dir("_setting2" if self.setting == 2 else "")

    def _runs_dir(self, suffix: str) -> Path:
        tag = "" if self.tag is None else f"-{self.tag}"  # no dataset's name contains a hyphen
        return Path(self.path.log_dir) / f"{self.dataset}{suffix}{tag}"

    @property
    def fold_dir(self) -> Path:
        """The folder of all runs of this fold."""
        return self.runs_dir / f"fold_{self.eval_fold}"


def parse_config(values: Mapping[str, Any]) -> Config:
    """Check a whole configuration, and fill in what dataset and setting imply.

    Raises:
        UserError: an unknown key, a wrong type, an impossible value or combination.
    """
    config: Config = parse_values(Config, values)
    config = config.model_copy(update={"organ_group": config.organ_group or 0})
    spec = config._spec = find_dataset(config.dataset, config.data_dir)
    if config.setting == 2 and config.organ_group >= len(spec.organ_groups):
        raise UserError(
            f"organ_group={config.organ_group}: {config.dataset} has {len(spec.organ_groups)} organ groups, "
            "counted from 0"
        )
    in_group = spec.organ_groups[config.organ_group] if config.setting == 2 else None
    if config.test_label is None:
        config = config.model_copy(update={"test_label": in_group or spec.test_labels})
    if config.exclude_label is None:
        config = config.model_copy(update={"exclude_label": in_group or ()})
    if config.model.norm == "group" and config.model.encoder_weights is not None:
        raise UserError(
            "model.norm=group: pretrained encoders have BatchNorm; set model.encoder_weights=None, or keep "
            "model.norm=batch"
        )
    _check_evaluation(config)
    for name in ("test_label", "exclude_label"):
        unknown = sorted(set(getattr(config, name)) - set(spec.labels))
        if unknown:
            known = ", ".join(f"{label} {organ}" for label, organ in spec.labels.items())
            raise UserError(f"{name}={unknown}: {config.dataset} has the labels {known}")
    return config


def _check_evaluation(config: Config) -> None:
    """Raise `UserError` unless the parts of the protocol fit together."""
    slices = config.evaluation
    if not slices.chunks and not slices.all_slices:
        raise UserError(
            "evaluation.chunks=False, evaluation.all_slices=False: nothing to score; set one True"
        )
    if config.method == "registration" and config.reload_model_path:
        raise UserError("method=registration: has no network; leave reload_model_path out")
    if slices.every_support and not (slices.chunks and config.support_scans == "fold"):
        raise UserError(
            "evaluation.every_support=True: needs evaluation.chunks=True and support_scans=fold, because the "
            "fold's scans serve the chunks in turn; set these, or leave it out"
        )


def dataset_defaults(dataset: str, recipe: str = "published", protocol: str = "published") -> dict[str, Any]:
    """Return the defaults of dataset, recipe and protocol as nested plain values."""
    own_defaults = DATASETS[dataset].config_defaults if dataset in DATASETS else {}
    defaults = {**default_values(Config), "dataset": dataset, "recipe": recipe, "protocol": protocol}
    for changes in (own_defaults, RECIPES.get(recipe, {}), PROTOCOLS.get(protocol, {})):
        defaults = merge_values(defaults, changes)
    return defaults


if __name__ == "__main__":
    schema = json.dumps(Config.model_json_schema(), indent=2)
    print(schema if sys.argv[1:] == ["schema"] else markdown_table(Config))  # of docs/configuration.md
