"""Segment scans of your own with a trained network and an annotated scan.

`bash script/predict.sh reload_model_path=<run> support_image=a.nii.gz support_label=a_seg.nii.gz query=scans
out=masks` segments files; `Segmenter` does the same in Python. Research use only, not a medical device.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from config_ssl_upload import Config, EvaluationConfig, dataset_defaults, parse_config
from data.datasets import path_group
from data.dicom_seg import DICOM_SEG_ENDING, check_dicom_queries, check_dicom_seg, write_dicom_seg
from data.label_choice import choose_labels, renumber_labels
from data.model_frame import ModelFrame, find_frame, registration_frame
from data.prediction_files import (
    PAGE_HTML,
    RECORD_NAMES,
    check_out,
    probability_name,
    write_prediction_record,
    write_result,
    write_tables,
)
from data.prediction_page import PredictionPage
from data.prediction_results import Agreement, ScanSummary, Segmentation, describe_doubtful
from data.prediction_settings import GPU_ADAPTATION_STEPS, SEGMENTER_KEYS, PredictConfig
from data.raw.input_listing import find_inputs, name_outputs
from data.raw.input_scans import check_slices, read_scan, to_scan
from dataloaders.framed_scans import (
    FramedScan,
    FramedSupport,
    WarpedSupport,
    assign_support_slices,
    frame_query,
    frame_support,
    take_supports,
    warp_support,
)
from models.inference.scan import OrganQuery, segment_queries
from models.inference.segmenters import NetworkSegmenter
from models.inference.segmenters import Segmenter as SupportSegmenter
from models.inference.supports import SupportBank
from util.config.key_value_words import parse_words
from util.config.settings import SettingsError, merge_values, plain_values, with_present_names
from util.engine.runs import find_selected_snapshot
from util.engine.snapshots import Snapshot, load_snapshot
from util.engine.word_command import describe_usage, run_word_command
from util.errors import EXIT_PARTIAL, EXIT_USER_ERROR, ProblemList, UserError
from util.evaluation.postprocess import THRESHOLD, keep_largest_component
from util.io.files import remove_file
from util.io.folders import check_folder
from util.parallel.devices import choose_device
from util.parallel.hardware import choose_kernels, choose_precision
from util.parallel.ranks import find_ranks
from util.parallel.threads import set_threads
from util.progress import progress_bar
from util.remarks import remark
from workflows.networks import load_trained
from workflows.registration_guide import guide_by_mask
from workflows.scan_training import TrainingRequest, train_on_scans
from workflows.support_adaptation import SupportAdaptation

NOTICE = "research use only: not a medical device, check every mask"
# Their values are names, paths and ranges, and a folder may be named 2019.
_TEXTS = (
    "reload_model_path",
    "support_image",
    "support_label",
    "query",
    "out",
    "work",
    "labels",
    "slices",
    "data_dir",
)


@dataclass(frozen=True)
class Options:
    """How supports and registration work together.

    Attributes:
        guided: register each support to the query; its warped mask joins the network's log-odds.
        largest_component: see `keep_largest_component`.
        n_part: support slices of each organ.
        guiding: weight, offset and smoothing of the warped mask.
    """

    guided: bool = True
    largest_component: bool = False
    n_part: int = Config.model_fields["n_part"].default
    guiding: EvaluationConfig = field(default_factory=EvaluationConfig)


class Segmenter:
    """Segment scans on their own grids by one or several annotated scans.

    Args:
        slices: segments slices from support slices, such as a `NetworkSegmenter`; None: registration alone.
        frame: of the scans that it was trained on.
        device: where it computes.
        image_size_px: its slice size; None: that of prepared slices.
        options: see `Options`.
        names_of_training: label id -> name in the training data, to request labels by name.
        adapt: takes supports and the number of labels; returns what segments slices in place of `slices`.

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
        options: Options = Options(),
        names_of_training: Mapping[int, str] | None = None,
        adapt: Callable[[Sequence[FramedSupport], int], SupportSegmenter] | None = None,
    ) -> None:
        self.frame, self.device = frame, device
        self._slices = slices
        self._adapt = adapt or (lambda supports, n_labels: slices)
        self._image_size_px, self._options = image_size_px, options
        self._names_of_training = names_of_training or {}
        self.source: Path | None = None
        self._supports: list[FramedSupport] = []
        self.labels: dict[int, str] = {}

    @classmethod
    def from_snapshot(
        cls,
        path: str | Path,
        *,
        guide: str = "registration",
        adaptation: int | str = "auto",
        cache_dir: str | Path | None = None,
        largest_component: bool = False,
        device: str = "auto",
        precision: str = "fp32",
        orientation: str | None = None,
        prepared: bool = False,
        data_dir: str | None = None,
    ) -> "Segmenter":
        """Load a snapshot, or the latest or best of a run folder.

        `PredictConfig` describes the settings; adapted networks are kept in `cache_dir`, if there is one. The
        process then has PyTorch's deterministic kernels, and as many threads as are useful.

        Raises:
            UserError: the snapshot is missing, damaged or of another version, the device is missing, or the
                frame of its training scans is unknown.
        """
        snapshot = load_snapshot(find_selected_snapshot(str(path)))
        config = _trained_config(snapshot, data_dir)
        frame = find_frame(config.layout, orientation_letters=orientation, are_prepared=prepared)
        place = choose_device(device)
        precision = choose_precision(precision, place)
        choose_kernels(deterministic=True, precision=precision)
        config = config.model_copy(update={"precision": precision})
        slices = NetworkSegmenter(load_trained(config, snapshot).to(place), precision=precision)
        size_px = config.image_size_px or frame.preparation.size_px or (256, 256)
        width = config.model.feature_width
        set_threads(find_ranks(), n_workers=0, slice_size_px=size_px, feature_width=width)
        adapt = SupportAdaptation(slices, snapshot, config, adaptation, place, cache_dir)
        segmenter = cls(
            slices,
            frame,
            device=place,
            image_size_px=config.image_size_px,
            options=Options(guided=guide == "registration", largest_component=largest_component),
            names_of_training=config.spec.labels,
            adapt=adapt,
        )
        segmenter.source = snapshot.source
        return segmenter

    @classmethod
    def by_registration(cls, modality: str | None, *, largest_component: bool = False) -> "Segmenter":
        """Warp the supports' masks to each scan, without any network.

        Args:
            modality: "MR" or "CT", by which intensities are clipped; None: they were clipped before.
            largest_component: see `keep_largest_component`.
        """
        options = Options(largest_component=largest_component)
        return cls(None, registration_frame(modality), device=torch.device("cpu"), options=options)

    @property
    def has_network(self) -> bool:
        """Whether a network segments, and not registration alone."""
        return self._slices is not None

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
        scans, maps, names = take_supports(images, masks, assume_orientation=self._assumed)
        present = {int(label) for label_map in maps for label in np.unique(label_map)} - {0}
        chosen = choose_labels(labels, present, names=names, names_of_training=self._names_of_training)
        options = {
            "labels": range(1, len(chosen) + 1),
            "n_part": self._options.n_part,
            "image_size_px": self._image_size_px,
        }
        problems = ProblemList()
        supports = [
            problems.attempt(
                partial(frame_support, self.frame, scan, renumber_labels(ids, chosen), **options)
            )
            for scan, ids in zip(scans, maps, strict=True)
        ]
        problems.raise_all()
        supports = [support for support in supports if support.chosen]
        self._slices = self._adapt(supports, len(chosen))
        self.labels, self._supports = chosen, supports
        if self.has_network:
            self._bank = SupportBank(self._slices, n_slices=1, join="probabilities", device=self.device)

    @property
    def supports(self) -> list[FramedSupport]:
        """The supports that hold a label to segment.

        Their labels are positions in `labels`, counted from 1.
        """
        return list(self._supports)

    @property
    def support_names(self) -> list[str]:
        """Names of the supports that hold a label to segment."""
        return [support.scan.name for support in self._supports]

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
        if not self._supports:
            raise UserError("set_support must be called before segment")
        scan = to_scan(image, name="image", assume_orientation=self._assumed)
        first, end = check_slices(slices, scan)
        query = frame_query(self.frame, scan, image_size_px=self._image_size_px)
        wanted = query.slices_covering(first, end)
        warped = [warp_support(each, query) if self._options.guided else None for each in self._supports]
        names = self.support_names
        failures = {name: w.failure for name, w in zip(names, warped, strict=True) if w and w.failure}
        if not self.has_network and all(each.failure for each in warped):
            raise UserError(f"{scan.name}: registration failed ({'; '.join(failures.values())})")
        best = np.full(scan.geometry.shape, THRESHOLD, np.float32)
        label_map = np.zeros(scan.geometry.shape, np.uint16 if max(self.labels) > 255 else np.uint8)
        agreements, probabilities = [], {}
        for label, joint, found in self._segment_labels(query, wanted, warped):
            agreements += found
            full = np.zeros(query.geometry.shape, np.float32)
            full[wanted] = joint
            restored = query.restore(full)
            restored[:first] = restored[end:] = 0
            wins = restored > best
            label_map[wins] = label
            best[wins] = restored[wins]
            if confidence:
                probabilities[label] = restored
        return Segmentation(
            label_map, scan.geometry, self.labels, agreements, failures, probabilities, len(wanted)
        )

    @property
    def _assumed(self) -> str | None:
        return self.frame.preparation.assume_orientation

    def _segment_labels(
        self, query: FramedScan, wanted: np.ndarray, warped: Sequence[WarpedSupport | None]
    ) -> Iterator[tuple[int, np.ndarray, list[Agreement]]]:
        """Yield each label's id, joint probability `(n, H, W)` in the wanted slices, and agreements."""
        pairs = [
            (number, position)
            for position in range(1, len(self.labels) + 1)
            for number, support in enumerate(self._supports)
            if position in support.chosen
        ]
        results = self._segment_slices(query, pairs, wanted=wanted, warped=warped)
        for position, label in enumerate(self.labels, start=1):
            numbers = [number for number, other in pairs if other == position]
            masks = [warped[n].masks.get(position) if warped[n] else None for n in numbers]
            masks = [None if mask is None else mask[wanted] for mask in masks]
            networks = [next(results) for _ in numbers]
            guided = [self._guide(*pair, query) for pair in zip(networks, masks, strict=True)]
            joint = self._join(guided, shape=(len(wanted), *query.geometry.shape[1:]))
            found = [
                Agreement.measure(
                    label, self.support_names[n], network=network, warped=mask, own=own, joint=joint
                )
                for n, network, mask, own in zip(numbers, networks, masks, guided, strict=True)
            ]
            yield label, keep_largest_component(joint) if self._options.largest_component else joint, found

    def _segment_slices(
        self,
        query: FramedScan,
        pairs: Sequence[tuple[int, int]],
        *,
        wanted: np.ndarray,
        warped: Sequence[WarpedSupport | None],
    ) -> Iterator[np.ndarray | None]:
        """Yield the network's probabilities `(n, H, W)` of each support and label; None without a network."""
        if not self.has_network:
            yield from [None] * len(pairs)
            return
        queries = [self._make_query(pair, query, wanted=wanted, warped=warped[pair[0]]) for pair in pairs]
        for _, result in segment_queries(self._slices, queries, device=self.device, bank=self._bank):
            yield result.numpy()

    @staticmethod
    def _join(results: Sequence[np.ndarray | None], *, shape: tuple[int, ...]) -> np.ndarray:
        """Average the supports' probabilities; 0 if no support has any."""
        found = [result for result in results if result is not None]
        if len(found) == 1:
            return found[0]
        return np.mean(found, axis=0, dtype=np.float32) if found else np.zeros(shape, np.float32)

    def _make_query(
        self, pair: tuple[int, int], query: FramedScan, *, wanted: np.ndarray, warped: WarpedSupport | None
    ) -> OrganQuery:
        number, position = pair
        support, transform = self._supports[number], warped.transform if warped else None
        assignment = assign_support_slices(
            support.chosen[position], support.scan, query, slices=wanted, transform=transform
        )
        return OrganQuery(
            support_id=number,
            query_id=query.name,
            label=position,
            support_images=support.scan.images,
            support_labels=torch.from_numpy(support.network_labels),
            support_slices=support.chosen[position].tolist(),
            query_images=query.images,
            slices=torch.from_numpy(assignment.slices),
            parts=torch.from_numpy(assignment.parts),
            size_px=query.geometry.shape[1:],
        )

    def _guide(
        self, network: np.ndarray | None, mask: np.ndarray | None, query: FramedScan
    ) -> np.ndarray | None:
        if network is None or mask is None:
            return mask if network is None else network
        spacing_mm = query.geometry.spacing_mm
        return guide_by_mask(network, mask, spacing_mm=spacing_mm, options=self._options.guiding)


def _trained_config(snapshot: Snapshot, data_dir: str | None) -> Config:
    """Return the configuration of a snapshot's training, as far as prediction needs it."""
    try:
        dataset, names = snapshot.config["dataset"], ("model", "image_size_px", "path")
        saved = {name: snapshot.config[name] for name in names if name in snapshot.config}
        values = merge_values(dataset_defaults(dataset), with_present_names(Config, saved)[0])
        if data_dir is not None:
            values = merge_values(values, {"path": {path_group(dataset): {"data_dir": data_dir}}})
        return parse_config(values)
    except (KeyError, TypeError, UserError) as error:
        fault = f"its configuration is not usable ({error})"
        raise UserError(f"{snapshot.source}: {fault}; set data_dir, or train it again") from error


def predict(config: PredictConfig, *, progress: bool = True) -> int:
    """Segment the queries, and write masks, tables and a record.

    A query that cannot be segmented is reported, and the others are segmented.

    Returns:
        Exit code: 0, 3 if some queries could not be segmented, 2 if none could.

    Raises:
        UserError: settings, snapshot, supports or `out` are unusable; one line each, before any work.
    """
    print(NOTICE, flush=True)
    segmenter, outputs = _prepare(config)
    out = Path(config.out)
    print(
        f"{_describe_source(segmenter)}\n"
        f"labels: {', '.join(f'{label} {name}' for label, name in segmenter.labels.items())}",
        flush=True,
    )
    if segmenter.has_network and config.adaptation == "auto" and segmenter.device.type != "cuda":
        print(
            f"the network is not adapted to the supports, as no GPU is used; "
            f"adaptation={GPU_ADAPTATION_STEPS} does so, in some minutes",
            flush=True,
        )
    summaries: dict[str, ScanSummary] = {}
    failed: dict[str, str] = {}
    page = _start_page(segmenter) if config.report else None
    remove_file(out / PAGE_HTML)  # an earlier page would pass for this one
    with progress_bar(total=len(outputs), desc="segmenting", unit="scan", disable=not progress) as bar:
        for path, name in outputs.items():
            try:
                summaries[name] = _segment_file(segmenter, path, out / name, config=config, page=page)
            except (UserError, MemoryError, torch.OutOfMemoryError) as error:
                failed[str(path)] = (str(error) or "not enough memory").splitlines()[0]
                tqdm.write(f"error: {failed[str(path)]}", file=sys.stderr)
                remove_file(out / name)  # an earlier result would pass for this one
            write_tables(out, summaries, segmenter.labels)
            bar.update()
    record = {"notice": NOTICE, "failed": failed, "supports": segmenter.support_names}
    record["snapshot"] = str(segmenter.source) if segmenter.has_network else None
    write_prediction_record(out, segmenter.labels, {**record, "settings": plain_values(config)})
    print(f"{len(summaries)} of {len(outputs)} scans segmented; masks and tables: {out}")
    print(describe_doubtful(summaries))
    if page is not None:
        page.report(out, summaries, failed=failed, notice=NOTICE)
    if not failed:
        return 0
    return EXIT_PARTIAL if summaries else EXIT_USER_ERROR


def _describe_source(segmenter: Segmenter) -> str:
    """Say, in two lines, what segments scans and in which frame."""
    frame = segmenter.frame.describe()
    if not segmenter.has_network:
        return f"registration alone, no network\nscans are compared in this frame: {frame}"
    return (
        f"snapshot: {segmenter.source}\n"
        f"scans are brought to the frame of the training scans: {frame}; a scan of another modality or "
        "sequence cannot be recognised, and its mask would be wrong"
    )


def _prepare(config: PredictConfig) -> tuple[Segmenter, dict[Path, str]]:
    """Check all settings and inputs; return the segmenter and the name of each query's result."""
    problems = ProblemList()
    inputs = [Path(text) for text in (*config.support_image, *config.support_label)]
    found = problems.attempt(partial(find_inputs, config.query)) or []
    given = {path.resolve() for path in inputs}
    queries = [path for path in found if path.resolve() not in given]
    if len(queries) < len(found):
        remark(f"{len(found) - len(queries)} of the queries are supports or their masks, and left out")
    if found and not queries:
        problems.lines.append("query: holds nothing but the supports; give the scans to segment")
    outputs = _name_results(config, queries, inputs=inputs, problems=problems)
    problems.lines += config.method_problems()
    segmenter = _make_segmenter(config, queries, problems)
    images, masks = list(config.support_image), list(config.support_label)
    if segmenter is None:
        for path in inputs:
            problems.attempt(partial(read_scan, path))
    else:
        problems.attempt(partial(segmenter.set_support, images, masks, labels=config.labels))
    problems.raise_all()
    return segmenter, outputs


def _make_segmenter(
    config: PredictConfig, queries: Sequence[Path], problems: ProblemList
) -> Segmenter | None:
    """Load or train what segments; None if there are problems with it."""
    if config.method == "registration":
        modality = None if config.prepared else config.modality
        return Segmenter.by_registration(modality, largest_component=config.largest_component)
    options = config.model_dump(include=set(SEGMENTER_KEYS))
    path = config.reload_model_path or _train(config, queries, problems)
    if problems.lines:  # with a mistake in the call, supports are checked, and no time is spent on them
        options["adaptation"] = 0
    cache_dir = config.work_dir / "adapted"
    return problems.attempt(partial(Segmenter.from_snapshot, path, cache_dir=cache_dir, **options))


def _name_results(
    config: PredictConfig, queries: Sequence[Path], *, inputs: Sequence[Path], problems: ProblemList
) -> dict[Path, str]:
    """Name each query's result, and check that all results can be written."""
    out, endings = Path(config.out), {}
    if config.format == "dicom_seg":
        problems.attempt(partial(check_dicom_queries, queries, out, patterns=config.query))
        endings = {"dicom_ending": DICOM_SEG_ENDING}
    outputs = problems.attempt(partial(name_outputs, queries, **endings)) or {}
    names = [*outputs.values(), *RECORD_NAMES]
    problems.attempt(partial(check_out, out, names=names, inputs=[*inputs, *queries]))
    return outputs


def _train(config: PredictConfig, queries: Sequence[Path], problems: ProblemList) -> Path:
    """Train a network on supports and queries, after all else is checked; raises all problems."""
    read = partial(take_supports, assume_orientation=None)
    taken = problems.attempt(partial(read, list(config.support_image), list(config.support_label)))
    if taken is not None:
        _, maps, names = taken
        present = {int(label) for label_map in maps for label in np.unique(label_map)} - {0}
        choose = partial(choose_labels, names=names, names_of_training={})
        problems.attempt(partial(choose, config.labels, present))
    problems.attempt(partial(choose_device, config.device))
    problems.attempt(partial(check_folder, config.work_dir, key="work", for_writing=True))
    problems.raise_all()
    sources = list(dict.fromkeys([*map(Path, config.support_image), *queries]))
    request = TrainingRequest(sources, maps[0], config.modality, config.minutes, config.device)
    return train_on_scans(config.work_dir, request, progress=sys.stderr.isatty())


def _start_page(segmenter: Segmenter) -> PredictionPage:
    """Return a page with the pictures of the supports."""
    page, ids = PredictionPage(segmenter.labels), np.array([0, *segmenter.labels])
    for support in segmenter.supports:
        scan = support.scan
        page.add_support(scan.name, scan.images[:, 0].numpy(), ids[support.label_map], scan.geometry)
    return page


def _segment_file(
    segmenter: Segmenter, path: Path, target: Path, *, config: PredictConfig, page: PredictionPage | None
) -> ScanSummary:
    """Segment one file and write its results."""
    started = time.perf_counter()
    if config.format == "dicom_seg":
        check_dicom_seg(path)
    scan = read_scan(path, assume_orientation=segmenter.frame.preparation.assume_orientation)
    result = segmenter.segment(scan, slices=config.slices, confidence=config.confidence)
    for label, probabilities in result.probabilities.items():
        name = probability_name(target.name, segmenter.labels[label])
        write_result(target.with_name(name), probabilities, scan)
    if config.format == "dicom_seg":
        write_dicom_seg(target, result.label_map, path, segmenter.labels)
    else:
        write_result(target, result.label_map, scan)
    if page is not None:
        page.add_scan(target.name, scan.voxels, result.label_map, scan.geometry)
    seconds = (time.perf_counter() - started) / result.n_slices
    for support, reason in result.failures.items():
        rest = "the network decides alone" if segmenter.has_network else "it is left out"
        tqdm.write(f"warning: {path}: registration of {support} failed ({reason}); {rest}")
    volumes = ", ".join(f"{segmenter.labels[label]} {ml:.1f} ml" for label, ml in result.volumes_ml.items())
    tqdm.write(f"{path}: {volumes}; {result.n_slices} slices, {seconds:.2f} s a slice")
    return result.summarise()


def main(words: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    That is 0; 2 for bad input, with one line on stderr per problem, or if no query could be segmented; 3 if
    some could not; 130 if interrupted, 143 if terminated.
    """

    def run(words: list[str]) -> int:
        try:
            config = parse_words(PredictConfig, words, texts=_TEXTS)
        except SettingsError as error:
            raise UserError("\n".join(error.problems)) from error
        return predict(config, progress=sys.stderr.isatty())

    usage = describe_usage(
        PredictConfig,
        "python prediction.py reload_model_path=<snapshot or run> support_image=<scan> support_label=<mask> "
        "query=<scans> out=<folder> [key=value ...]",
        more=f"{NOTICE.capitalize()}. `bash script/predict.sh --help` says more.",
    )
    return run_word_command(run, words, usage=usage)


if __name__ == "__main__":
    sys.exit(main())
