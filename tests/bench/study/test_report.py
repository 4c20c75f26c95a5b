"""The study's page says what its records hold."""

import json
import statistics

import pytest

from bench.study import report, trial
from bench.study.arms import PROFILES, START
from bench.study.trial import key_of

ORGANS = ("liver", "spleen")


def _record(arm, seed, mean, **more):
    table = {"mean": mean, "organs": dict.fromkeys(ORGANS, mean)}
    steps = list(range(1, 21))
    log = {
        name: {"steps": steps, "values": [level] * 10 + [2 * level] * 10}
        for name, level in (
            ("prior_foreground", 0.1),
            ("prior_background", 0.2),
            ("prior_dice_foreground", 0.3),
            ("prior_dice_by_chance", 0.05),
            ("alignment_loss", 0.01 * mean),
        )
    }
    return {
        "key": key_of("phantom", arm, seed),
        "profile": "phantom",
        "arm": arm,
        "seed": seed,
        "n_steps": 1000,
        "batch_size": 1,
        "train_seconds": 120.0,
        "threads": 1,
        "training": log,
        "curve": {"250": table, "1000": table},
        "chunks": table,
        "all_slices": table,
        "every_support": {"3": mean - 0.1, "4": mean + 0.1},
        "machine": {"processor": "a processor"},
        "versions": {"torch": "2.0"},
        **more,
    }


BASELINES = {
    name: {"mean": mean, "organs": dict.fromkeys(ORGANS, mean)}
    for name, mean in (("untrained", 0.02), ("copied support mask", 0.25))
}
TEST_TIME = {"clean-up": {name: {"mean": 0.45, "organs": {}} for name in ("chunks", "all_slices")}}


@pytest.fixture(name="results")
def _results(tmp_path, monkeypatch):
    """A folder of records, read and reported there."""
    folder = tmp_path / "results"
    for module in (report, trial):
        monkeypatch.setattr(module, "RESULTS_DIR", folder)
    monkeypatch.setattr(report, "PAGE", tmp_path / "RESULTS.md")
    monkeypatch.setattr(report, "PLOTS_DIR", tmp_path / "plots")
    monkeypatch.setattr(report, "REMARKS", tmp_path / "conclusions.md")
    (folder / "phantom").mkdir(parents=True)

    def add(*records):
        for record in records:
            path = folder / "phantom" / f"{record['arm']}_{record['seed']}.json"
            path.write_text(json.dumps(record))

    return add


def test_the_page_gives_each_arms_mean_spread_and_difference_to_the_start(results, tmp_path):
    results(
        _record(START, 1, 0.40, baselines=BASELINES, test_time=TEST_TIME),
        _record(START, 2, 0.50, baselines=BASELINES, test_time=TEST_TIME),
        _record("no_prior", 1, 0.43),
        _record("no_prior", 2, 0.55),
        _record("prior_calibrated", 1, 0.60),
    )
    report.main()
    page = (tmp_path / "RESULTS.md").read_text()
    [row] = [line for line in page.splitlines() if line.startswith("| `no_prior`")]
    assert "**0.490 (0.430-0.550)**" in row
    spread = statistics.stdev([0.03, 0.05])
    assert f"+0.040 (±{spread:.3f})" in row
    [row] = [line for line in page.splitlines() if "+0.200" in line and "prior_calibrated" in line]
    assert "±" not in row  # of one seed
    assert row.endswith("| 0% | 2.0 min |")
    assert "| copied support mask | 0.250 (0.250-0.250)" in page
    assert "| `start` | clean-up | 0.450 (0.450-0.450), +0.000" in page
    assert "| `prior_calibrated` | 0.10 → 0.20 | 0.20 → 0.40 | 0.30 → 0.60 | 0.05 → 0.10 |" in page
    assert "1 to 2 seeds an arm" in page
    assert (tmp_path / "plots" / "phantom.png").stat().st_size > 5000


def test_silent_is_the_share_of_the_log_without_an_alignment_loss():
    record = _record(START, 1, 0.4)
    record["training"]["alignment_loss"]["values"] = [0.3, 0.0, 0.0, 0.1]
    assert report.silent_share(record) == 0.5


def test_conclusions_stand_before_the_tables(results, tmp_path):
    (tmp_path / "conclusions.md").write_text("## What follows\n\nNothing.\n")
    results(_record(START, 1, 0.4))
    report.main()
    page = (tmp_path / "RESULTS.md").read_text()
    assert page.index("What follows") < page.index("## phantom")


def test_records_of_other_settings_are_left_out_and_named(results, tmp_path, capsys):
    results(_record(START, 1, 0.4), {**_record("no_prior", 1, 0.9), "key": "other"})
    report.main()
    assert "no_prior_1.json: was made with other settings" in capsys.readouterr().out
    assert "| `no_prior`" not in (tmp_path / "RESULTS.md").read_text()


def test_a_difference_is_taken_over_shared_seeds_only():
    start = [_record(START, 1, 0.4)]
    assert report.difference([_record("cosine", 1, 0.5), _record("cosine", 2, 0.9)], start) == "+0.100"
    assert report.difference([_record("cosine", 2, 0.9)], start) == ""


def test_every_profile_of_the_page_is_described():
    assert all(profile.meaning for profile in PROFILES.values())


def test_the_readme_has_the_records_table():
    readme = (report.PAGE.parents[2] / "README.md").read_text(encoding="utf-8")
    assert report.summary() in readme


def test_the_summary_gives_recipes_and_baselines_with_their_spread(results):
    baselines = {
        name: {"mean": mean, "organs": {}}
        for name, mean in (("untrained", 0.02), ("untrained cosine", 0.2), ("copied support mask", 0.3))
    }
    results(
        _record(START, 1, 0.4, baselines=baselines),
        _record("published", 1, 0.3),
        _record("published", 2, 0.5),
        _record("strong", 1, 0.6),
    )
    lines = report.summary().splitlines()
    assert lines[0] == "| mean Dice | PHANTOM fold 0, 1000 episodes, 1 seed |"
    assert "| untrained | 0.020 |" in lines
    assert "| `recipe=published` | **0.400 (0.300-0.500)**, 2 min |" in lines
    assert "| `recipe=strong` | **0.600**, 2 min |" in lines
