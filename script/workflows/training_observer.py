"""Validate, report and draw a training while it runs."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from config_ssl_upload import Config
from dataloaders.episode_pictures import draw_episode
from dataloaders.evaluation_sets import Job
from dataloaders.validation_scans import hold_back_scans, plan_validation, validation_dice
from models.few_shot_seg import FewShotSeg
from models.inference.scan import OrganQuery, segment_queries
from models.inference.segmenters import NetworkSegmenter
from models.losses import METRIC_PLOTS, describe_failure, describe_metrics
from models.precision import mixed_precision
from script.workflows.networks import make_network
from util.config.settings import plain_values
from util.engine.checkpoint_manager import BestSnapshot, CheckpointManager
from util.engine.metric_averager import mean_over_ranks
from util.engine.training_reporter import TimeBudget, TrainingReporter
from util.engine.training_state import TrainingState
from util.evaluation.postprocess import THRESHOLD
from util.parallel.collectives import average_buffers
from util.parallel.ranks import Ranks

MAX_PICTURES_SHARE, FIRST_PICTURE_S = 0.01, 2.0  # of the time; assumed for the first picture


class TrainingObserver:
    """Validate, report and draw after the steps in which that is due.

    Args:
        config: of the training.
        state: of the training; its step determines what is due.
        checkpoints: of its run.
        add_picture: takes the name of a picture, the picture and the step; None draws no pictures.
        device, ranks: of the training.

    Attributes:
        best: the snapshot of the best validation.
    """

    def __init__(
        self,
        config: Config,
        state: TrainingState,
        checkpoints: CheckpointManager,
        *,
        add_picture: Callable[[str, np.ndarray, int], None] | None,
        device: torch.device,
        ranks: Ranks,
    ) -> None:
        self._config, self._state, self._device, self._ranks = config, state, device, ranks
        copy = partial(copy_network, config, state, device=device)
        self.best = BestSnapshot(state, checkpoints, config=plain_values(config), copy_network=copy)
        self._validation_jobs = plan_jobs_of_validation(config)
        self._reporter = _make_reporter(config, state, checkpoints.run_dir, ranks=ranks)
        self._add_picture = add_picture
        self._pictures_budget = TimeBudget(MAX_PICTURES_SHARE, first_s=FIRST_PICTURE_S)

    @property
    def reports(self) -> bool:
        """Whether the present step is reported."""
        return self._is_due(self._config.print_interval)

    @property
    def validates(self) -> bool:
        """Whether the present step is validated."""
        return bool(self._validation_jobs) and self._is_due(self._config.validate_every)

    def observe(self, batch: dict[str, Tensor], bar: tqdm) -> None:
        """Do what is due after a step; all ranks must call it."""
        config, state, device = self._config, self._state, self._device
        if self.validates:
            network = copy_network(config, state, device=device)
            dice = validate(config, network, self._validation_jobs, device=device, ranks=self._ranks)
            self._reporter.report_validation(dice, step=state.step, bar=bar)
        if not self.reports:
            return
        averages = mean_over_ranks(state.meter.flush())
        self._reporter.report(averages, lr=state.lr, step=state.step, bar=bar)
        is_last = state.step == config.n_steps
        if self._add_picture is not None and (is_last or self._pictures_budget.is_due()):
            with self._pictures_budget.charge():
                self._add_picture("episode", draw_batch(config, state, batch, device=device), state.step)

    def _is_due(self, interval: int) -> bool:
        return self._state.step % interval == 0 or self._state.step == self._config.n_steps


def plan_jobs_of_validation(config: Config, *, with_image: bool = True) -> list[Job]:
    """Plan the validation, as `plan_validation` does; no jobs without one."""
    _, scan_ids = hold_back_scans(config.find_split(), config.n_validation_scans)
    return plan_validation(
        config.layout,
        scan_ids,
        config.test_organs,
        n_part=config.n_part,
        image_size_px=config.image_size_px,
        with_image=with_image,
    )


def validate(
    config: Config, network: FewShotSeg, jobs: Sequence[Job], *, device: torch.device, ranks: Ranks
) -> float:
    """Return a network's mean Dice over the validation's jobs.

    All ranks must call it. The network is changed, so pass a copy.
    """
    segmenter = NetworkSegmenter(network, precision=config.precision)

    def segment(queries: list[dict[str, Any]]) -> list[Tensor]:
        probabilities = dict(
            segment_queries(segmenter, [OrganQuery(**query) for query in queries], device=device)
        )
        return [probabilities[position] for position in range(len(queries))]

    return validation_dice(jobs, segment, ranks=ranks)


def draw_batch(
    config: Config, state: TrainingState, batch: dict[str, Tensor], *, device: torch.device
) -> np.ndarray:
    """Draw the first episode of a batch, with the present prediction.

    Returns:
        `(h, w, 3)`, 0 to 1, see `draw_episode`.
    """
    episode = {name: values[:1] for name, values in batch.items()}
    names = ("support_images", "support_masks", "query_images")
    network = copy_network(config, state, device=device, averages=False).eval()
    with torch.no_grad(), mixed_precision(device, config.precision):
        probabilities = network.predict(*(episode[name].to(device) for name in names))
    prediction = (probabilities[0, 0, 1] > THRESHOLD).cpu().numpy()
    return draw_episode({name: values[0].cpu() for name, values in episode.items()}, prediction=prediction)


def copy_network(
    config: Config, state: TrainingState, *, device: torch.device, averages: bool = True
) -> FewShotSeg:
    """Copy the network that snapshots hold.

    Its buffers are averaged over the ranks if requested; then all of them must call it.
    """
    network = make_network(config, pretrained=False).to(device)
    network.load_state_dict(state.snapshot_model.state_dict())
    if averages:
        average_buffers(network)
    return network


def _make_reporter(config: Config, state: TrainingState, run_dir: Path, *, ranks: Ranks) -> TrainingReporter:
    return TrainingReporter(
        state.history,
        n_steps=config.n_steps,
        first_step=state.step,
        describe=describe_metrics,
        describe_failure=describe_failure,
        curves_path=run_dir / "training_curves.png" if ranks.is_main else None,
        plots=METRIC_PLOTS,
        title=f"{config.dataset}, fold {config.eval_fold}, setting {config.setting}, run {run_dir.name}",
    )
