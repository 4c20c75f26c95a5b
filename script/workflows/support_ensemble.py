"""Segment scans in a network's frame by several annotated scans together."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from config_ssl_upload import Config, EvaluationConfig
from data.prediction_results import Agreement, overlap
from dataloaders.framed_scans import (
    FramedScan,
    FramedSupport,
    WarpedSupport,
    assign_support_slices,
    warp_support,
)
from models.inference.scan import OrganQuery, resize_slices, segment_queries
from models.inference.segmenters import SupportSegmenter
from models.inference.supports import SupportBank
from script.workflows.refinement import choose_mask, chooses_mask, guide_by_mask, join, refine_by_slices
from util.evaluation.postprocess import THRESHOLD, keep_largest_component


@dataclass(frozen=True)
class Options:
    """How supports and registration work together.

    Attributes:
        guided: register each support to the query; its warped mask joins the network's log-odds.
        largest_component: see `keep_largest_component`.
        n_part: support slices of each organ.
        guiding: settings of the warped mask, of intensities and of test-time augmentation.
    """

    guided: bool = True
    largest_component: bool = False
    n_part: int = Config.model_fields["n_part"].default
    guiding: EvaluationConfig = field(default_factory=EvaluationConfig)


@dataclass(frozen=True, eq=False)
class NetworkResult:
    """What a network gives for one label from one support, in slices `(n, H, W)`.

    Attributes:
        probabilities: joined with the U-Net's, if there is one.
        with_unet: Dice of the network's mask and the U-Net's; None without a U-Net.
        between_versions: mean Dice of its masks in changed versions of the slices, over all pairs; None with
            a single version.
    """

    probabilities: np.ndarray
    with_unet: float | None
    between_versions: float | None


@dataclass(frozen=True, eq=False)
class SupportResult:
    """What one support gives for one label, in slices `(n, H, W)`.

    Attributes:
        support: its name.
        network: see `NetworkResult`; None without a network.
        warped: the support's warped mask; None without registration, or if it failed.
        result: both together; None without either.
    """

    support: str
    network: NetworkResult | None
    warped: np.ndarray | None
    result: np.ndarray | None


class SupportEnsemble:
    """Segment labels by the mean over several supports.

    Args:
        slices: segments slices from support slices; None: registration alone.
        supports: their labels are positions in `labels`, counted from 1.
        labels: id -> name.
        options: see `Options`.
        device: where `slices` computes.
        unet: returns each class's probability in slices `(n, 1, h, w)`, `(n, C, h, w)`, the labels' from 1;
            it joins `slices`. None: none does.
    """

    def __init__(
        self,
        slices: SupportSegmenter | None,
        supports: Sequence[FramedSupport],
        labels: Mapping[int, str],
        *,
        options: Options,
        device: torch.device,
        unet: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.supports, self._unet = supports, unet
        self._slices, self._labels, self._options, self._device = slices, labels, options, device
        if slices is not None:
            self._bank = SupportBank(slices, n_slices=1, join="probabilities", device=device)

    def warp(self, query: FramedScan) -> list[WarpedSupport | None]:
        """Register each support to a query; None without registration."""
        if not self._options.guided:
            return [None] * len(self.supports)
        by_both = self._slices is not None and chooses_mask(self._options.guiding)
        return [warp_support(support, query, by_both=by_both) for support in self.supports]

    def segment(
        self, query: FramedScan, slices: np.ndarray, warped: Sequence[WarpedSupport | None]
    ) -> Iterator[tuple[int, np.ndarray, list[Agreement]]]:
        """Segment slices of a scan by all supports together.

        Args:
            query: the scan.
            slices: its slices, increasing.
            warped: see `warp`.

        Yields:
            Each label's id, its joint probability in these slices, `(n, H, W)`, and how far the supports and
            registration agree.
        """
        for label, sources in self.segment_by_support(query, slices, warped):
            joint = self._average([source.result for source in sources], query, slices)
            agreements = [
                Agreement.measure(
                    label,
                    source.support,
                    network=None if source.network is None else source.network.probabilities,
                    warped=source.warped,
                    result=source.result,
                    joint=joint,
                    with_unet=source.network and source.network.with_unet,
                    between_versions=source.network and source.network.between_versions,
                )
                for source in sources
            ]
            yield label, self._refine(joint, query, slices), agreements

    def segment_by_support(
        self, query: FramedScan, slices: np.ndarray, warped: Sequence[WarpedSupport | None]
    ) -> Iterator[tuple[int, list[SupportResult]]]:
        """Yield each label's id, and the results of its supports; see `segment`."""
        pairs = [
            (number, position)
            for position in range(1, len(self._labels) + 1)
            for number, support in enumerate(self.supports)
            if position in support.support_slices
        ]
        results = self._segment_slices(query, pairs, slices=slices, warped=warped)
        for position, label in enumerate(self._labels, start=1):
            sources = []
            for number in [number for number, label_position in pairs if label_position == position]:
                network = next(results)
                masks = warped[number].candidates(position) if warped[number] else []
                mask, result = self._guide(network, masks, query, slices)
                cropped = None if mask is None else mask[slices]
                sources.append(SupportResult(self.supports[number].scan.name, network, cropped, result))
            yield label, sources

    def combine(
        self, sources: Sequence[SupportResult], query: FramedScan, slices: np.ndarray
    ) -> np.ndarray | None:
        """Return the joint probability `(n, H, W)` of supports; None without any."""
        results = [source.result for source in sources]
        if all(result is None for result in results):
            return None
        return self._refine(self._average(results, query, slices), query, slices)

    def _segment_slices(
        self,
        query: FramedScan,
        pairs: Sequence[tuple[int, int]],
        *,
        slices: np.ndarray,
        warped: Sequence[WarpedSupport | None],
    ) -> Iterator[NetworkResult | None]:
        """Yield the network's result from each support for each label; None without a network."""
        if self._slices is None:
            yield from [None] * len(pairs)
            return
        queries = [self._make_query(pair, query, slices=slices, warped=warped[pair[0]]) for pair in pairs]
        classes = None if self._unet is None else self._unet(query.images[slices])
        versions: dict[int, list[np.ndarray]] = {}
        results = segment_queries(
            self._slices,
            queries,
            device=self._device,
            bank=self._bank,
            n_versions=self._options.guiding.test_time_augmentation,
            on_version=lambda n, result: versions.setdefault(n, []).append(result.numpy() > THRESHOLD),
        )
        size_px = query.geometry.shape[1:]
        for (_, position), (number, result) in zip(pairs, results, strict=True):
            own, masks = result.numpy(), versions.pop(number, [])
            unet = None if classes is None else resize_slices(classes[:, position], size_px).numpy()
            yield NetworkResult(
                own if unet is None else join(own, unet),
                None if unet is None else overlap(own, unet),
                float(np.mean([overlap(*pair) for pair in combinations(masks, 2)])) if masks else None,
            )

    @staticmethod
    def _average(results: Sequence[np.ndarray | None], query: FramedScan, slices: np.ndarray) -> np.ndarray:
        """Average the supports' probabilities; 0 if no support has any."""
        results = [result for result in results if result is not None]
        if len(results) == 1:
            return results[0]
        if not results:
            return np.zeros((len(slices), *query.geometry.shape[1:]), np.float32)
        return np.mean(results, axis=0, dtype=np.float32)

    def _refine(self, joint: np.ndarray, query: FramedScan, slices: np.ndarray) -> np.ndarray:
        """Refine joint probabilities by the query's intensities and, if set, by their largest component."""
        spacing_mm, images = query.geometry.spacing_mm, query.images[slices]
        joint = refine_by_slices(joint, images, spacing_mm=spacing_mm, options=self._options.guiding)
        return keep_largest_component(joint) if self._options.largest_component else joint

    def _make_query(
        self, pair: tuple[int, int], query: FramedScan, *, slices: np.ndarray, warped: WarpedSupport | None
    ) -> OrganQuery:
        number, position = pair
        support, transform = self.supports[number], warped.transform if warped else None
        assignment = assign_support_slices(
            support.support_slices[position], support.scan, query, slices=slices, transform=transform
        )
        return OrganQuery(
            support_id=number,
            query_id=query.name,
            label=position,
            support_images=support.scan.images,
            support_labels=torch.from_numpy(support.network_labels),
            support_slices=support.support_slices[position].tolist(),
            query_images=query.images,
            slices=torch.from_numpy(assignment.slices),
            parts=torch.from_numpy(assignment.parts),
            size_px=query.geometry.shape[1:],
        )

    def _guide(
        self,
        network: NetworkResult | None,
        masks: Sequence[np.ndarray],
        query: FramedScan,
        slices: np.ndarray,
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Return the warped mask that serves, in the whole scan, and the result in the slices."""
        if not masks:
            return None, None if network is None else network.probabilities
        if network is None:
            return masks[0], masks[0][slices]
        grid = {"slices": slices, "spacing_mm": query.geometry.spacing_mm}
        options, images = self._options.guiding, query.images
        mask = choose_mask(network.probabilities, masks, images, **grid, options=options)
        return mask, guide_by_mask(network.probabilities, mask, images, **grid, options=options)
