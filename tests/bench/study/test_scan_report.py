"""The section on one annotated scan agrees with its records."""

import json

import pytest

from bench.study import scan_report
from bench.study.scan_methods import NETWORK
from bench.study.scan_report import describe_scan_profile, describe_starts, paired_interval, summarise_scans
from bench.study.trial import RECORDED, Trial


def _table(mean):
    return {"mean": mean, "organs": {"liver": mean}, "queries": {"4 liver": mean}}


def _record(seed, network, adapted):
    methods = {
        name: {"chunks": _table(mean + 0.1), "all_slices": _table(mean)}
        for name, mean in ((NETWORK, network), ("adapted", adapted))
    }
    return {
        "profile": "chaost2_scan",
        "arm": "strong",
        "seed": seed,
        "threads": 1,
        "methods": methods,
        "method_seconds": {NETWORK: 20.0 + seed} if seed < 3 else {},
        "machine": {"processor": "a processor"},
    }


def test_paired_differences_have_a_t_interval():
    mean, half_width = paired_interval([0.5, 0.7, 0.9], [0.4, 0.5, 0.6])
    assert mean == pytest.approx(0.2)
    # Standard deviation 0.1; the 97.5 % quantile of Student's t with two degrees of freedom is 4.3027.
    assert half_width == pytest.approx(4.3027 * 0.1 / 3**0.5, abs=1e-5)
    assert paired_interval([0.5], [0.25]) == (0.25, None)


def test_rows_have_both_protocols_the_difference_and_the_time():
    page = describe_scan_profile([_record(1, 0.3, 0.5), _record(2, 0.4, 0.6), _record(3, 0.5, 0.7)])
    network, adapted = (line for line in page.splitlines() if line.startswith("| trained"))
    assert "**0.500 (0.400-0.600)** | **0.400 (0.300-0.500)** |  | 21 s |" in network
    assert "**0.700 (0.600-0.800)** | **0.600 (0.500-0.700)** | +0.200 ± 0.000 |  |" in adapted
    assert "3 seeds" in page


def test_starts_are_compared_with_their_twin_of_the_same_seed(monkeypatch):
    monkeypatch.setattr(scan_report, "START_ROWS", (NETWORK,))
    twins = [_record(1, 0.3, 0.5), _record(2, 0.5, 0.6), _record(3, 0.7, 0.6)]
    others = [_record(1, 0.35, 0.5), _record(3, 0.75, 0.6)]
    records = [
        {**record, "profile": "phantom_start", "arm": arm, "train_seconds": 60.0 * seconds}
        for arm, records, seconds in (("strong", twins, 2), ("strong_gaps", others, 3))
        for record in records
    ]
    page = describe_starts(records)
    twin, other = (line for line in page.splitlines() if line.startswith("| `strong"))
    assert "| 3 | **0.600 (0.400-0.800)** |  | **0.500 (0.300-0.700)** |  | 2.0 min |" in twin
    assert (
        "| 2 | **0.650 (0.450-0.850)** | +0.050 ± 0.000 | **0.550 (0.350-0.750)** | +0.050 ± 0.000 |" in other
    )
    assert other.endswith("| 3.0 min |")
    assert "### Trained on supervoxels (`strong`)" in page


def test_the_readme_has_the_table_of_the_recorded_results():
    readme = (RECORDED.parents[2] / "README.md").read_text(encoding="utf-8")
    assert summarise_scans(RECORDED) in readme


def test_the_summary_has_a_column_for_each_dataset_and_protocol(tmp_path, monkeypatch):
    monkeypatch.setattr(scan_report, "LABELS", {NETWORK: "trained", "adapted": "adapted"})
    monkeypatch.setattr(scan_report, "SUMMARISED_METHODS", (NETWORK, "adapted"))
    for seed in (1, 2):
        record = {**_record(seed, 0.1 * seed, 0.5), "key": Trial("chaost2_scan", "strong", seed).key}
        path = Trial("chaost2_scan", "strong", seed).record_path(tmp_path)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(record))
    assert summarise_scans(tmp_path).splitlines() == [
        "|  | CHAOST2 fold 0, 2 seeds: organ's slices | all slices |",
        "| --- | --- | --- |",
        "| trained | 0.250 (0.200-0.300) | 0.150 (0.100-0.200) |",
        "| adapted | 0.600 | 0.500 |",
    ]
