"""Segment scans on their own grids by annotated scans."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from config_ssl_upload import EvaluationConfig
from data.label_choice import choose_labels, renumber_labels
from data.model_frame import ModelFrame, find_frame, registration_frame
from data.prediction_results import Segmentation, SupportScore, measure_confidence
from data.prediction_settings import SegmenterConfig
from data.raw.input_scans import check_slices, to_scan
from dataloaders.framed_scans import (
    FramedSupport,
    frame_query,
    frame_support,
    leave_out_unlabelled,
    read_supports,
)
from models.inference.segmenters import SupportSegmenter
from script.workflows.networks import load_segmenter, start_computing, trained_config
from script.workflows.support_adaptation import SupportAdaptation
from script.workflows.support_comparison import compare_supports
from script.workflows.support_ensemble import Options, SupportEnsemble
from script.workflows.support_unets import make_unet_training
from util.config.settings import parse_values
from util.engine.runs import find_selected_snapshot
from util.engine.snapshots import load_snapshot
from util.errors import ProblemList, UserError
from util.evaluation.intensity_refinement import RECOMMENDED_WEIGHT
from util.evaluation.method_names import NO_GUIDE
from util.evaluation.postprocess import THRESHOLD
from util.io.resampling import assign_label
from util.parallel.wait_policy import AdaptiveWaitPolicy


class Segmenter:
    """Segment scans on their own grids by one or several annotated scans.

    Args:
        slices: segments slices from support slices, such as a `NetworkSegmenter`; None: registration alone.
        frame: of the scans that it was trained on.
        device: where it computes.
        image_size_px: its slice size; None: that of prepared slices.
        options: see `Options`.
        training_names: label id -> name in the training data, to request labels by name.
        adapt: takes supports and the number of labels; returns what segments slices in place of `slices`.
        train_unet: see `train_on_supports`; None: no U-Net helps.

    Attributes:
        source: the snapshot's file; None without one.
    """

    def __init__(
        self,
        slices: SupportSegmenter | None,
        frame: ModelFrame,
        *,
        device: torch.device,
        image_size_px: tuple[int, int] | None = None,
        options: Options | None = None,
        training_names: Mapping[int, str] | None = None,
        adapt: Callable[[Sequence[FramedSupport], int], SupportSegmenter] | None = None,
        train_unet: Callable[[Sequence[FramedSupport], int], Callable[[Tensor], Tensor] | None] | None = None,
    ) -> None:
        self.frame, self.device = frame, device
        self._slices = self._unadapted = slices
        self._adapt = adapt or (lambda supports, n_labels: slices)
        self._train_unet = train_unet or (lambda supports, n_labels: None)
        self._image_size_px, self._options = image_size_px, options or Options()
        self._training_names = training_names or {}
        self.source: Path | None = None
        self._ensemble: SupportEnsemble | None = None
        self._unet: Callable[[Tensor], Tensor] | None = None
        self.labels: dict[int, str] = {}

    @classmethod
    def from_snapshot(
        cls,
        path: str | Path,
        *,
        guide: str = "registration",
        adaptation: int | str = "auto",
        auto_steps: int | None = None,
        unet_steps: int | str = "auto",
        test_time_augmentation: int = 1,
        cache_dir: str | Path | None = None,
        largest_component: bool = False,
        intensity_weight: float = RECOMMENDED_WEIGHT,
        device: str = "auto",
        precision: str = "fp32",
        orientation: str | None = None,
        prepared: bool = False,
        data_dir: str | None = None,
    ) -> "Segmenter":
        """Load a snapshot, or the latest or best of a run folder.

        `PredictConfig` describes the settings; with `auto_steps`, `adaptation="auto"` takes so many steps on
        any device. Adapted networks and U-Nets are kept in `cache_dir`, if there is one. The
        process then has PyTorch's deterministic kernels, and as many threads as are useful.

        Raises:
            UserError: a setting is invalid, the snapshot is missing, damaged or of another version, the
                device is missing, or the frame of its training scans is unknown.
        """
        values = {"guide": guide, "adaptation": adaptation, "unet_steps": unet_steps, "precision": precision}
        parse_values(SegmenterConfig, values)
        values = {"intensity_weight": intensity_weight, "test_time_augmentation": test_time_augmentation}
        guiding = parse_values(EvaluationConfig, values)
        snapshot = load_snapshot(find_selected_snapshot(str(path)))
        config = trained_config(snapshot, data_dir)
        frame = find_frame(config.layout, orientation_letters=orientation, are_prepared=prepared)
        config, device = start_computing(config, frame, device=device, precision=precision)
        slices = load_segmenter(config, snapshot, device=device)
        adapt = SupportAdaptation(slices, snapshot, config, adaptation, device, cache_dir, auto_steps)
        unet = {"auto_steps": adapt.n_steps, "device": device, "cache_dir": cache_dir}
        segmenter = cls(
            *(slices, frame),
            device=device,
            image_size_px=config.image_size_px,
            options=Options(guide != NO_GUIDE, largest_component, guiding=guiding),
            training_names=config.spec.labels,
            adapt=adapt,
            train_unet=make_unet_training(config, unet_steps, **unet),
        )
        segmenter.source = snapshot.source
        return segmenter

    @classmethod
    def by_registration(
        cls,
        modality: str | None,
        *,
        largest_component: bool = False,
        intensity_weight: float = RECOMMENDED_WEIGHT,
    ) -> "Segmenter":
        """Warp the supports' masks to each scan, without any network.

        Args:
            modality: "MR" or "CT", by which intensities are clipped; None: they were clipped before.
            largest_component: see `keep_largest_component`.
            intensity_weight: see `refine_by_intensities`.

        Raises:
            UserError: a setting is invalid.
        """
        guiding = parse_values(EvaluationConfig, {"intensity_weight": intensity_weight})
        options = Options(largest_component=largest_component, guiding=guiding)
        return cls(None, registration_frame(modality), device=torch.device("cpu"), options=options)

    @property
    def has_network(self) -> bool:
        """Whether a network segments, and not registration alone."""
        return self._slices is not None

    @AdaptiveWaitPolicy()
    def set_support(
        self,
        images: Any,
        masks: Any,
        *,
        labels: Sequence[str | int] | Mapping[int, str] | str | int | None = None,
    ) -> None:
        """Set the annotated scans that show what to segment.

        Args:
            images: a scan, or a list of scans: paths, SimpleITK or nibabel images, or pairs of an array
                `(Z, H, W)` and its spacing `(z, y, x)` in mm; see `to_scan`.
            masks: their masks in the same order; label ids, 0 = background.
            labels: to segment, see `choose_labels`; None: all in the masks.

        Raises:
            UserError: masks are missing, do not match their image, or lack a label, one line each; or the
                network cannot be adapted to them.
        """
        scans, maps, names = read_supports(images, masks, assume_orientation=self._assumed)
        present = {int(label) for label_map in maps for label in np.unique(label_map)} - {0}
        selected = choose_labels(labels, present, names=names, training_names=self._training_names)
        to_support = partial(
            frame_support,
            self.frame,
            labels=range(1, len(selected) + 1),
            n_part=self._options.n_part,
            image_size_px=self._image_size_px,
        )
        problems = ProblemList()
        supports = [
            problems.attempt(partial(to_support, scan, renumber_labels(ids, selected)))
            for scan, ids in zip(scans, maps, strict=True)
        ]
        problems.raise_all()
        supports = leave_out_unlabelled(supports)
        slices, unet = (learn(supports, len(selected)) for learn in (self._adapt, self._train_unet))
        self._slices, self._unet, self.labels = slices, unet, selected
        self._ensemble = SupportEnsemble(
            self._slices, supports, selected, options=self._options, device=self.device, unet=self._unet
        )

    @AdaptiveWaitPolicy()
    def compare_supports(self, *, progress: bool = False) -> list[SupportScore]:
        """Segment every support from the others, to measure how much each of them helps.

        A network serves as it was before it was adapted to the supports, and without a U-Net: both have
        learnt from the masks that are to be found.

        Args:
            progress: show a progress bar.

        Returns:
            A score for each label and pair of supports that hold it; none with a single support.
        """

        def make_ensemble(supports: Sequence[FramedSupport]) -> SupportEnsemble:
            slices, options, device = self._unadapted, self._options, self.device
            return SupportEnsemble(slices, supports, self.labels, options=options, device=device)

        return compare_supports(self.supports, make_ensemble, progress=progress)

    def describe_comparison(self) -> str:
        """Name what segments in `compare_supports`."""
        if not self.has_network:
            return "registration"
        learns = self._slices is not self._unadapted or self._unet is not None
        return "the network before it learnt from them" if learns else "the network"

    @property
    def supports(self) -> list[FramedSupport]:
        """The supports that hold a label to segment.

        Their labels are positions in `labels`, counted from 1.
        """
        return [] if self._ensemble is None else list(self._ensemble.supports)

    @property
    def support_names(self) -> list[str]:
        """Names of the supports that hold a label to segment."""
        return [support.scan.name for support in self.supports]

    @AdaptiveWaitPolicy()
    def segment(
        self, image: Any, *, slices: tuple[int, int | None] | None = None, confidence: bool = False
    ) -> Segmentation:
        """Segment one scan on its own grid.

        Args:
            image: see `set_support`.
            slices: first slice and end of the range along the image's first axis; None: all.
            confidence: also return each label's probability.

        Raises:
            UserError: no support was set, the scan is unusable, or there is no network and all registrations
                failed.
        """
        if self._ensemble is None:
            raise UserError("set_support must be called before segment")
        scan = to_scan(image, name="image", assume_orientation=self._assumed)
        first, end = check_slices(slices, scan)
        query = frame_query(self.frame, scan, image_size_px=self._image_size_px)
        indices = query.slices_covering(first, end)
        warped = self._ensemble.warp(query)
        names = self.support_names
        failures = {name: w.failure for name, w in zip(names, warped, strict=True) if w and w.failure}
        if not self.has_network and all(support.failure for support in warped):
            raise UserError(f"{scan.name}: registration failed ({'; '.join(failures.values())})")
        best = np.full(scan.geometry.shape, THRESHOLD, np.float32)
        label_map = np.zeros(scan.geometry.shape, np.uint16 if max(self.labels) > 255 else np.uint8)
        agreements, probabilities = [], {}
        for label, joint, label_agreements in self._ensemble.segment(query, indices, warped):
            agreements += label_agreements
            full = np.zeros(query.geometry.shape, np.float32)
            full[indices] = joint
            restored = query.restore(full)
            restored[:first] = restored[end:] = 0
            assign_label(label_map, label, restored, best)
            if confidence:
                probabilities[label] = restored
        confidences = {label: measure_confidence(best[label_map == label]) for label in self.labels}
        alike = {name: w.similarity for name, w in zip(names, warped, strict=True) if w}
        similarities = {name: value for name, value in alike.items() if value is not None}
        return Segmentation(
            label_map,
            scan.geometry,
            self.labels,
            confidences=confidences,
            agreements=agreements,
            failures=failures,
            similarities=similarities,
            probabilities=probabilities,
            n_slices=len(indices),
        )

    @property
    def _assumed(self) -> str | None:
        return self.frame.preparation.assume_orientation
