"""Segment scans of your own with a trained network and an annotated scan.

`bash script/predict.sh reload_model_path=<run> support_image=a.nii.gz support_label=a_seg.nii.gz query=scans
out=masks` segments files; `Segmenter` does the same in Python. Research use only, not a medical device.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from data.dicom_seg import DICOM_SEG_ENDING, check_dicom_queries, check_dicom_seg, write_dicom_seg
from data.label_choice import choose_labels
from data.prediction_files import (
    PAGE_HTML,
    RECORD_NAMES,
    SUPPORTS_CSV,
    check_out,
    probability_names,
    write_prediction_record,
    write_result,
    write_support_table,
    write_tables,
)
from data.prediction_page import PredictionPage
from data.prediction_results import ScanSummary, describe_doubtful, describe_supports
from data.prediction_settings import GPU_ADAPTATION_STEPS, NOTICE, SEGMENTER_KEYS, PredictConfig
from data.raw.input_listing import find_inputs, name_outputs
from data.raw.input_scans import read_scan
from dataloaders.framed_scans import read_supports
from script.workflows.scan_segmenter import Segmenter
from script.workflows.scan_training import TrainedOnScans, TrainingRequest, train_on_scans
from script.workflows.unet_training import check_monai
from util.config.key_value_words import parse_words
from util.config.settings import plain_values
from util.engine.word_command import describe_usage, run_word_command
from util.errors import EXIT_PARTIAL, EXIT_USER_ERROR, ProblemList, UserError
from util.io.files import remove_file
from util.io.folders import check_folder
from util.parallel.devices import choose_device
from util.parallel.wait_policy import AdaptiveWaitPolicy
from util.progress import progress_bar
from util.remarks import remark

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
    _announce(segmenter, config)
    page = _start_page(segmenter) if config.report else None
    _compare_supports(segmenter, config, page, progress=progress)
    summaries: dict[str, ScanSummary] = {}
    failed: dict[str, str] = {}
    remove_file(out / PAGE_HTML)  # an earlier page would pass for this one
    with progress_bar(total=len(outputs), desc="segmenting", unit="scan", disable=not progress) as bar:
        for path, name in outputs.items():
            try:
                summaries[name] = _segment_file(segmenter, path, out / name, config=config, page=page)
            except (UserError, MemoryError, torch.OutOfMemoryError) as error:
                failed[str(path)] = (str(error) or "not enough memory").splitlines()[0]
                tqdm.write(f"error: {failed[str(path)]}", file=sys.stderr)
                _remove_results(out, name, segmenter.labels)
            write_tables(out, summaries, segmenter.labels)
            bar.update()
    record = {"notice": NOTICE, "failed": failed, "supports": segmenter.support_names}
    record["snapshot"] = str(segmenter.source) if segmenter.has_network else None
    write_prediction_record(out, segmenter.labels, {**record, "settings": plain_values(config)})
    print(f"{len(summaries)} of {len(outputs)} scans segmented; masks and tables: {out}")
    if summaries:
        print(describe_doubtful(summaries))
    if page is not None:
        page.report(out, summaries, failed=failed, notice=NOTICE)
    if not failed:
        return 0
    return EXIT_PARTIAL if summaries else EXIT_USER_ERROR


def _announce(segmenter: Segmenter, config: PredictConfig) -> None:
    print(
        f"{_describe_source(segmenter)}\n"
        f"labels: {', '.join(f'{label} {name}' for label, name in segmenter.labels.items())}",
        flush=True,
    )
    if config.reload_model_path and config.adaptation == "auto" and segmenter.device.type != "cuda":
        print(
            f"the network is not adapted to the supports, as no GPU is used; "
            f"adaptation={GPU_ADAPTATION_STEPS} does so, in some minutes",
            flush=True,
        )


def _compare_supports(
    segmenter: Segmenter, config: PredictConfig, page: PredictionPage | None, *, progress: bool
) -> None:
    """Print and write how much each of several supports helps; an earlier table is removed."""
    remove_file(Path(config.out) / SUPPORTS_CSV)
    if not config.compare_supports:
        return
    try:
        scores = segmenter.compare_supports(progress=progress)
    except (UserError, MemoryError, torch.OutOfMemoryError) as error:
        remark(f"supports are not compared: {(str(error) or 'not enough memory').splitlines()[0]}")
        return
    if not scores:
        return
    write_support_table(Path(config.out), scores, segmenter.labels)
    if page is not None:
        page.support_scores = scores
    print("\n".join(describe_supports(scores, by=segmenter.describe_comparison())), flush=True)


def _remove_results(out: Path, name: str, labels: Mapping[int, str]) -> None:
    """Remove an earlier call's results of a scan, which would pass for this call's."""
    for file_name in (name, *probability_names(name, labels).values()):
        remove_file(out / file_name)


def _describe_source(segmenter: Segmenter) -> str:
    """Describe, in two lines, what segments scans and in which frame."""
    frame = segmenter.frame.describe()
    if not segmenter.has_network:
        return f"registration alone, no network\nscans are compared in this frame: {frame}"
    return (
        f"snapshot: {segmenter.source}\n"
        f"scans are brought to the frame of the training scans: {frame}; a scan of another modality or "
        "sequence may not be recognised, and its mask would be wrong"
    )


def _prepare(config: PredictConfig) -> tuple[Segmenter, dict[Path, str]]:
    """Check all settings and inputs; return the segmenter and the name of each query's result."""
    problems = ProblemList()
    inputs = [Path(text) for text in (*config.support_image, *config.support_label)]
    queries = _find_queries(config, inputs, problems)
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


def _find_queries(config: PredictConfig, supports: Sequence[Path], problems: ProblemList) -> list[Path]:
    """List the scans to segment, without supports and earlier results."""
    matches = problems.attempt(partial(find_inputs, config.query)) or []
    support_paths = {path.resolve() for path in supports}
    queries = [path for path in matches if path.resolve() not in support_paths]
    if len(queries) < len(matches):
        remark(f"{len(matches) - len(queries)} of the queries are supports or their masks, and left out")
    if matches and not queries:
        problems.lines.append("query: holds nothing but the supports; give the scans to segment")
    result_folders = {Path(config.out).resolve(), config.work_dir.resolve()}
    parents = {path: path.absolute().parent.resolve() for path in queries}
    outside = [path for path in queries if result_folders.isdisjoint((parents[path], *parents[path].parents))]
    if outside and len(outside) < len(queries):
        remark(f"{len(queries) - len(outside)} of the queries lie in out or work, and are left out")
        return outside
    return queries


def _make_segmenter(
    config: PredictConfig, queries: Sequence[Path], problems: ProblemList
) -> Segmenter | None:
    """Load or train what segments; None if there are problems with it."""
    if config.method == "registration":
        modality = None if config.prepared else config.modality
        options = config.model_dump(include={"largest_component", "intensity_weight"})
        return Segmenter.by_registration(modality, **options)
    options = config.model_dump(include=set(SEGMENTER_KEYS))
    path = config.reload_model_path
    if path is None:
        trained = _train(config, queries, problems)
        path, options["auto_steps"] = trained.snapshot, trained.adaptation_steps
    if problems.lines:  # with a mistake in the call, supports are checked, and no time is spent on them
        options["adaptation"] = options["unet_steps"] = 0
    cache_dir = config.work_dir / "adapted"
    return problems.attempt(partial(Segmenter.from_snapshot, path, cache_dir=cache_dir, **options))


def _name_results(
    config: PredictConfig, queries: Sequence[Path], *, inputs: Sequence[Path], problems: ProblemList
) -> dict[Path, str]:
    """Choose the file name of each query's result, and check that all results can be written."""
    out, endings = Path(config.out), {}
    if config.format == "dicom_seg":
        problems.attempt(partial(check_dicom_queries, queries, out, patterns=config.query))
        endings = {"dicom_ending": DICOM_SEG_ENDING}
    elif out.resolve() in {path.resolve() for path in (*inputs, *queries)} and out.is_dir():
        problems.lines.append(f"out={out}: is the folder of a DICOM series; choose another folder")
    outputs = problems.attempt(partial(name_outputs, queries, **endings)) or {}
    names = [*outputs.values(), *RECORD_NAMES]
    problems.attempt(partial(check_out, out, names=names, inputs=[*inputs, *queries]))
    return outputs


def _train(config: PredictConfig, queries: Sequence[Path], problems: ProblemList) -> TrainedOnScans:
    """Train a network on supports and queries, after all else is checked; raises all problems."""
    read = partial(read_supports, assume_orientation=None)
    supports = problems.attempt(partial(read, list(config.support_image), list(config.support_label)))
    if supports is not None:
        _, maps, names = supports
        present = {int(label) for label_map in maps for label in np.unique(label_map)} - {0}
        choose = partial(choose_labels, names=names, training_names={})
        problems.attempt(partial(choose, config.labels, present))
    problems.attempt(partial(choose_device, config.device))
    if config.unet_steps and (config.unet_steps != "auto" or config.adaptation):
        problems.attempt(partial(check_monai, "unet_steps"))
    problems.attempt(partial(check_folder, config.work_dir, key="work", for_writing=True))
    problems.raise_all()
    sources = list(dict.fromkeys([*map(Path, config.support_image), *queries]))
    request = TrainingRequest(
        *(sources, maps[0], config.modality, config.minutes, config.device),
        time_scan=partial(_time_scan, config, queries),
        n_queries=len(queries) + (len(maps) if config.compare_supports and len(maps) > 1 else 0),
        with_adaptation=config.adaptation == "auto",
        **({"time_unet_step": partial(_time_unet_step, config)} if config.unet_steps == "auto" else {}),
    )
    return train_on_scans(config.work_dir, request, progress=sys.stderr.isatty())


def _time_scan(config: PredictConfig, queries: Sequence[Path], snapshot: Path) -> float | None:
    """Return the seconds that the first usable query takes; None if no query is usable."""
    options = config.model_dump(include=set(SEGMENTER_KEYS)) | {"adaptation": 0, "unet_steps": 0}
    segmenter = Segmenter.from_snapshot(snapshot, **options)
    segmenter.set_support(list(config.support_image), list(config.support_label), labels=config.labels)
    for path in queries:
        started = time.perf_counter()
        with suppress(UserError):
            segmenter.segment(path, slices=config.slices)
            return time.perf_counter() - started
    return None


def _time_unet_step(config: PredictConfig, snapshot: Path) -> float:
    """Return the seconds that a training step of the supports' U-Net takes."""
    n_steps, seconds = 10, []
    for steps in (1, 1, 1 + n_steps):  # the first imports MONAI
        options = config.model_dump(include=set(SEGMENTER_KEYS)) | {"adaptation": 0, "unet_steps": steps}
        segmenter = Segmenter.from_snapshot(snapshot, **options)
        started = time.perf_counter()
        segmenter.set_support(list(config.support_image), list(config.support_label), labels=config.labels)
        seconds.append(time.perf_counter() - started)
    return max(0.0, seconds[2] - seconds[1]) / n_steps


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
    names = probability_names(target.name, segmenter.labels)
    for label, probabilities in result.probabilities.items():
        write_result(target.with_name(names[label]), probabilities, scan)
    if config.format == "dicom_seg":
        write_dicom_seg(target, result.label_map, path, segmenter.labels)
    else:
        write_result(target, result.label_map, scan)
    if page is not None:
        page.add_scan(target.name, scan.voxels, result.label_map, scan.geometry)
    seconds = (time.perf_counter() - started) / result.n_slices
    for support, reason in result.failures.items():
        consequence = "the network decides alone" if segmenter.has_network else "it is left out"
        tqdm.write(f"warning: {path}: registration of {support} failed ({reason}); {consequence}")
    volumes = ", ".join(f"{segmenter.labels[label]} {ml:.1f} ml" for label, ml in result.volumes_ml.items())
    tqdm.write(f"{path}: {volumes}; {result.n_slices} slices, {seconds:.2f} s a slice")
    return result.summarise()


def main(words: Sequence[str] | None = None, *, program: str = "python prediction.py") -> int:
    """Run the command and return its exit code; `program` is its name in --help.

    That is 0; 2 for bad input, with one line on stderr per problem, or if no query could be segmented; 3 if
    some could not; 130 if interrupted, 143 if terminated.
    """

    def run(words: list[str]) -> int:
        with AdaptiveWaitPolicy():
            return predict(parse_words(PredictConfig, words, texts=_TEXTS), progress=sys.stderr.isatty())

    usage = describe_usage(
        PredictConfig,
        f"{program} reload_model_path=<snapshot or run> support_image=<scan> support_label=<mask> "
        "query=<scans> out=<folder> [key=value ...]",
        footer=f"{NOTICE.capitalize()}. `bash script/predict.sh --help` says more.",
    )
    return run_word_command(run, words, usage=usage)


if __name__ == "__main__":
    sys.exit(main())
