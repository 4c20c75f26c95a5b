"""Measure the default evaluation of a fold, part by part.

python -m bench.fold_evaluation [--quick] [--device cuda]
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from bench import formatting
from bench.measuring import ONE_THREAD, Measurement, measure_in_process, measure_usage
from bench.sections import Headline, Section, Table, benchmark_parser, write_section
from util.config.settings import merge_values

PARTS: dict[str, dict[str, bool]] = {
    "chunks": {"all_slices": False},
    "chunks and all slices (default)": {},
    "chunks and all slices, every support": {"every_support": True},
}
DEFAULT = "chunks and all slices (default)"
TARGET = 1.5
SMALL, LARGE = "ResNet-18, 64 x 64, all four queries", "ResNet-101, 256 x 256, one query"
NETWORKS: dict[str, dict[str, Any]] = {
    SMALL: {"changes": {}, "parts": list(PARTS)},
    LARGE: {
        "changes": {
            "image_size_px": [256, 256],
            "model": {"encoder": "resnet101", "feature_width": 512, "encoder_weights": None},
        },
        "parts": ["chunks", DEFAULT],
        "n_queries": 1,
    },
}


def main() -> None:
    """Measure in one process, part after part, and write the section."""
    options = benchmark_parser(__doc__).parse_args()
    measured = {
        name: measure_in_process(
            "bench.fold_evaluation:measure_parts",
            environment=ONE_THREAD,
            device=options.device,
            n_rounds=1 if options.quick or name == LARGE else 2,
            **network,
        ).extra["parts"]
        for name, network in NETWORKS.items()
        if name == SMALL or not options.quick
    }
    section = Section(
        title="Default evaluation of a fold",
        intro=(
            "PHANTOM, fold 0, untrained networks of width 64 and 512, one thread: processor time of one "
            "network's segmentation of four organs with one support, and of all metrics, without "
            "registration, adaptation, pictures and start-up. Each slice is encoded once, and segmented once "
            "with each support slice assigned to it; slices with the same supports share a call."
        ),
        tables=[_table(name, parts) for name, parts in measured.items()],
        remarks=[make_remark(measured[SMALL])],
        headline=[_headline(name, parts) for name, parts in measured.items()],
    )
    write_section("fold_evaluation", section, device=options.device, quick=options.quick)


def _headline(network: str, parts: dict[str, dict[str, Any]]) -> Headline:
    chunks, default = (_total(parts[name]) for name in ("chunks", DEFAULT))
    return Headline(
        f"default evaluation of a fold against chunks alone, {network}",
        formatting.times(default),
        "",
        f"{default.median / chunks.median:.2f}x",
        target=f"<= {TARGET} x the time of chunks ({formatting.times(chunks)})",
    )


def make_remark(parts: dict[str, dict[str, Any]]) -> str:
    """Describe what all slices cost, from the parts of the first network."""
    growth = {key: parts[DEFAULT][key] / parts["chunks"][key] for key in ("n_encoded", "n_pairs")}
    return (
        f"With the first network, all slices need {growth['n_encoded']:.2f} times as many encoded slices and "
        f"{growth['n_pairs']:.2f} times as many segmentations as the chunks, because each organ is also "
        "segmented in slices without it. Time grows by a factor between these two, closer to the second for "
        "larger slices. All slices are what a user gets, so they are part of the default; "
        "`evaluation.every_support` is not."
    )


def measure_parts(
    device: str,
    n_rounds: int,
    *,
    changes: dict[str, Any],
    parts: Sequence[str],
    n_queries: int | None = None,
) -> dict[str, Any]:
    """Measure processor time and work of some of `PARTS`, in turn.

    Args:
        device: where the network runs.
        n_rounds: how often each part is measured.
        changes: to PHANTOM's default settings.
        parts: names of `PARTS`, `DEFAULT` among them.
        n_queries: of the fold; None: all.
    """
    # Late: these import torch, whose memory the caller does not need.
    import torch

    from config_ssl_upload import dataset_defaults, parse_config
    from dataloaders.evaluation_folds import load_fold, plan_jobs
    from script.workflows.evaluation_methods import make_split, make_untrained

    config = parse_config(merge_values({**dataset_defaults("PHANTOM"), "eval_fold": 0}, changes))
    fold = load_fold(config.layout, make_split(config), config.test_organs, **config.support_options)
    if n_queries is not None:
        supports = {scan.scan_id for scan in fold.supports.values()}
        queries = [scan for scan in fold.queries if scan.scan_id not in supports]
        fold = replace(fold, queries=queries[:n_queries])
    options = {"config": config, "device": torch.device(device)}
    options["network"] = make_untrained(config, device=options["device"])
    jobs_of = {
        name: plan_jobs(fold, config.test_organs, n_part=config.n_part, **PARTS[name]) for name in parts
    }
    _measure_jobs(jobs_of["chunks"][:1], **options)  # warms up
    rounds = [
        {name: _measure_jobs(jobs, **options) for name, jobs in jobs_of.items()} for _ in range(n_rounds)
    ]
    results = {
        name: rounds[0][name]
        | {key: [result[name][key] for result in rounds] for key in ("segmenting", "scoring")}
        for name in parts
    }
    return {"seconds": _total(results[DEFAULT]).seconds, "parts": results}


def _measure_jobs(jobs: Sequence[Any], *, config: Any, device: Any, network: Any) -> dict[str, Any]:
    """Segment and score jobs; returns the processor time of both, and the segmenter's work."""
    from dataloaders.evaluation_sets import score_job
    from models.inference.segmenters import NetworkSegmenter
    from script.workflows.evaluation_methods import segment_jobs

    segmenter = NetworkSegmenter(network)
    work = _count_work(segmenter)
    results: list[tuple[Any, Any]] = []

    def segment() -> None:
        results.extend(segment_jobs(segmenter, jobs, config=config, device=device, name="fold"))

    def score() -> None:
        for result in results:
            score_job(*result, method="", fold=0, organ="", nsd_tolerance_mm=config.spec.nsd_tolerance_mm)

    return {"segmenting": measure_usage(segment)["cpu_s"], "scoring": measure_usage(score)["cpu_s"], **work}


def _count_work(segmenter: Any) -> dict[str, int]:
    """Count, from now on, encoded slices, pairs of slice and support, and calls that segment these."""
    work = dict.fromkeys(("n_encoded", "n_pairs", "n_calls"), 0)
    encode, segment_each = segmenter.encode, segmenter.segment_each

    def counting_encode(batches: Iterable[Any]) -> Any:
        batches = list(batches)
        work["n_encoded"] += sum(map(len, batches))
        return encode(batches)

    def counting_segment_each(supports: Sequence[Any], encoding: Any, **options: Any) -> Any:
        work["n_pairs"] += len(supports) * encoding.features.shape[1]
        work["n_calls"] += 1
        return segment_each(supports, encoding, **options)

    segmenter.encode, segmenter.segment_each = counting_encode, counting_segment_each
    return work


def _total(part: dict[str, Any]) -> Measurement:
    pairs = zip(part["segmenting"], part["scoring"], strict=True)
    return Measurement(tuple(segmenting + scoring for segmenting, scoring in pairs), 0.0)


def _table(network: str, parts: dict[str, dict[str, Any]]) -> Table:
    reference = _total(parts["chunks"]).median
    rows = []
    for name, part in parts.items():
        total = _total(part)
        cells = [formatting.times(total), formatting.duration(statistics.median(part["scoring"]))]
        cells += [f"{total.median / reference:.2f}x"]
        rows.append([name, *(str(part[key]) for key in ("n_encoded", "n_pairs", "n_calls")), *cells])
    columns = ["what is segmented", "encoded slices", "segmentations", "calls", "processor time"]
    columns += ["of which metrics", "time / chunks"]
    return Table(network, columns, rows)


if __name__ == "__main__":
    main()
