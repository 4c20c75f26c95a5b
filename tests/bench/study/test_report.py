"""The study's page says what its records hold."""

import json

import pytest

from bench.study import measures, report
from bench.study.arms import START
from bench.study.trial import key_of

ORGANS = ("liver", "spleen")


def _record(arm, seed, mean, **more):
    table = {"mean": mean, "organs": dict.fromkeys(ORGANS, mean)}
    steps = list(range(1, 21))
    log = {
        name: {"steps": steps, "values": [level] * 10 + [2 * level] * 10}
        for name, level in (
            ("raw_prior_foreground", 0.5),
            ("raw_prior_background", 0.25),
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
    """Adds records to a folder of its own, which is also the one that the README's tables are made of."""
    folder = tmp_path / "results"
    monkeypatch.setattr(report, "RECORDED", folder)

    def add(*records):
        for record in records:
            path = folder / record["profile"] / f"{record['arm']}_{record['seed']}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(record))
        return folder

    return add


def _row(page, start):
    [row] = [line for line in page.splitlines() if line.startswith(start)]
    return row


def test_the_page_gives_each_arms_mean_spread_and_difference_to_the_start(results, tmp_path):
    folder = results(
        _record(START, 1, 0.40, baselines=BASELINES, test_time=TEST_TIME),
        _record(START, 2, 0.50, baselines=BASELINES, test_time=TEST_TIME),
        _record("no_prior", 1, 0.43),
        _record("no_prior", 2, 0.55),
        _record("prior_calibrated", 1, 0.60),
    )
    report.write_page(folder)
    page = (tmp_path / "RESULTS.md").read_text()
    row = _row(page, "| `no_prior`")
    assert "**0.490 (0.430-0.550)**" in row
    assert "+0.040 (2)" in row
    assert row.endswith("| 0% | 2.0 min |")
    assert "+0.200 (1)" in _row(page, "| `prior_calibrated` | `prior_form")
    assert "| copied support mask | 0.250 (0.250-0.250)" in page
    assert "| `start` | clean-up | 0.450 (0.450-0.450), +0.000" in page
    areas = "0.50 → 1.00 | 0.25 → 0.50 | 0.10 → 0.20 | 0.20 → 0.40 | 0.30 → 0.60 | 0.05 → 0.10"
    assert f"| `prior_calibrated` | {areas} | 1 of 1 |" in page
    assert "1 to 2 seeds an arm" in page
    for name in ("phantom", "phantom_priors"):
        assert f"(plots/{name}.png)" in page
        assert (tmp_path / "plots" / f"{name}.png").stat().st_size > 5000


def test_scatter_is_pooled_over_arms_that_learnt():
    of_arm = {
        START: [_record(START, 1, 0.4), _record(START, 2, 0.5)],  # variance 0.005
        "no_prior": [
            _record("no_prior", seed, mean) for seed, mean in ((1, 0.3), (2, 0.4), (3, 0.5))
        ],  # 0.01
        "clipped": [_record("clipped", 1, 0.0), _record("clipped", 2, 0.4)],
        "cosine": [_record("cosine", 1, 0.4)],
    }
    deviation, freedom = measures.measure_scatter(of_arm)
    assert freedom == 3
    assert deviation == pytest.approx(((0.005 + 2 * 0.01) / 3) ** 0.5)
    assert measures.measure_scatter({"cosine": of_arm["cosine"]}) == (0.0, 0)


@pytest.mark.parametrize(
    ("area", "dice", "by_chance", "expected"),
    [(0.3, 0.2, 0.1, True), (0.3, 0.14, 0.1, False), (0.0, 0.0, 0.0, False), (1.0, 0.2, 0.1, False)],
)
def test_alive_is_neither_empty_nor_full_nor_chance_in_the_last_quarter(area, dice, by_chance, expected):
    record = _record("prior_contrast", 1, 0.4)
    for metric, value in (
        ("prior_foreground", area),
        ("prior_dice_foreground", dice),
        ("prior_dice_by_chance", by_chance),
    ):
        record["training"][metric]["values"][-5:] = [value] * 5
    assert measures.is_alive(record) is expected


def test_silent_is_the_share_of_the_log_without_an_alignment_loss():
    record = _record(START, 1, 0.4)
    record["training"]["alignment_loss"]["values"] = [0.3, 0.0, 0.0, 0.1]
    assert measures.measure_silence(record) == 0.5


def test_conclusions_stand_before_the_tables(results, tmp_path):
    (tmp_path / "conclusions.md").write_text("## What follows\n\nNothing.\n")
    report.write_page(results(_record(START, 1, 0.4)))
    page = (tmp_path / "RESULTS.md").read_text()
    assert page.index("# Does it learn?") < page.index("What follows") < page.index("## phantom")


def test_damaged_records_and_those_of_other_settings_are_left_out_and_named(results, tmp_path, capsys):
    folder = results(
        _record(START, 1, 0.4),
        {**_record("no_prior", 1, 0.9), "key": "other"},
        {**_record("no_mining", 1, 0.9), "profile": "phantom_default"},  # which has no such arm
    )
    (folder / "phantom" / "angle_only_1.json").write_text("{half")
    report.write_page(folder)
    said = capsys.readouterr().out
    page = (tmp_path / "RESULTS.md").read_text()
    for name in ("no_prior", "angle_only", "no_mining"):
        assert f"{name}_1.json: is damaged or was made with other settings" in said
        assert f"| `{name}`" not in page


def test_a_difference_is_taken_over_shared_seeds_only():
    start = [_record(START, 1, 0.4)]
    both = [_record("cosine", 1, 0.5), _record("cosine", 2, 0.9)]
    assert measures.compare_to_start(both, start) == "+0.100 (1)"
    assert measures.compare_to_start(both[1:], start) == ""


@pytest.mark.parametrize("summarise", [report.summarise_default, report.summarise_recipes])
def test_the_readme_has_the_kept_records_tables(summarise):
    readme = (report.RECORDED.parents[2] / "README.md").read_text(encoding="utf-8")
    assert summarise() in readme


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
    lines = report.summarise_recipes().splitlines()
    assert lines[0] == "| mean Dice | PHANTOM fold 0, 1000 episodes, 1 seed |"
    assert "| untrained | 0.020 |" in lines
    assert "| published rate | **0.400 (0.300-0.500)**, 2 min |" in lines
    assert "| `recipe=strong` | **0.600**, 2 min |" in lines
