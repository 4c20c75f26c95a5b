"""The study's page agrees with its records."""

import json

import pytest

from bench.study import measures, study_page
from bench.study.arms import REFERENCE
from bench.study.trial import Trial

ORGANS = ("liver", "spleen")


def _record(arm, seed, mean, **fields):
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
        "key": Trial("phantom", arm, seed).key,
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
        **fields,
    }


BASELINES = {
    name: {"mean": mean, "organs": dict.fromkeys(ORGANS, mean)}
    for name, mean in (("untrained", 0.02), ("copied support mask", 0.25))
}
TEST_TIME = {"clean-up": {name: {"mean": 0.45, "organs": {}} for name in ("chunks", "all_slices")}}


@pytest.fixture(name="results")
def _results(tmp_path):
    """Write records to a temporary folder."""
    folder = tmp_path / "results"

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


def test_the_page_has_mean_range_and_difference_to_the_reference_of_each_arm(results, tmp_path):
    folder = results(
        _record(REFERENCE, 1, 0.40, baselines=BASELINES, test_time=TEST_TIME),
        _record(REFERENCE, 2, 0.50, baselines=BASELINES, test_time=TEST_TIME),
        _record("no_prior", 1, 0.43),
        _record("no_prior", 2, 0.55),
        _record("prior_calibrated", 1, 0.60),
    )
    study_page.write_page(folder)
    page = (tmp_path / "RESULTS.md").read_text()
    row = _row(page, "| `no_prior`")
    assert "**0.490 (0.430-0.550)**" in row
    assert "+0.040 (2)" in row
    assert row.endswith("| 0% | 2.0 min |")
    assert "+0.200 (1)" in _row(page, "| `prior_calibrated` | `prior_form")
    assert "| copied support mask | 0.250" in page
    assert "| `start` | largest component | 0.450, +0.000" in page
    areas = "0.50 → 1.00 | 0.25 → 0.50 | 0.10 → 0.20 | 0.20 → 0.40 | 0.30 → 0.60 | 0.05 → 0.10"
    assert f"| `prior_calibrated` | {areas} | 1 of 1 |" in page
    assert "1 to 2 seeds per arm" in page
    for name in ("phantom", "phantom_priors"):
        assert f"(plots/{name}.png)" in page
        assert (tmp_path / "plots" / f"{name}.png").stat().st_size > 5000


def test_the_deviation_is_pooled_over_arms_that_learnt():
    arms = {
        REFERENCE: [_record(REFERENCE, 1, 0.4), _record(REFERENCE, 2, 0.5)],  # variance 0.005
        "no_prior": [
            _record("no_prior", seed, mean) for seed, mean in ((1, 0.3), (2, 0.4), (3, 0.5))
        ],  # 0.01
        "clipped": [_record("clipped", 1, 0.0), _record("clipped", 2, 0.4)],
        "cosine": [_record("cosine", 1, 0.4)],
    }
    deviation, freedom = measures.pooled_deviation(arms)
    assert freedom == 3
    assert deviation == pytest.approx(((0.005 + 2 * 0.01) / 3) ** 0.5)
    assert measures.pooled_deviation({"cosine": arms["cosine"]}) == (0.0, 0)


@pytest.mark.parametrize(
    ("area", "dice", "chance", "expected"),
    [(0.3, 0.2, 0.1, True), (0.3, 0.14, 0.1, False), (0.0, 0.0, 0.0, False), (1.0, 0.2, 0.1, False)],
)
def test_an_informative_prior_is_neither_degenerate_nor_random_in_the_last_quarter(
    area, dice, chance, expected
):
    record = _record("prior_contrast", 1, 0.4)
    for metric, value in (
        ("prior_foreground", area),
        ("prior_dice_foreground", dice),
        ("prior_dice_by_chance", chance),
    ):
        record["training"][metric]["values"][-5:] = [value] * 5
    assert measures.has_informative_prior(record) is expected


def test_background_only_is_the_share_of_the_log_without_an_alignment_loss():
    record = _record(REFERENCE, 1, 0.4)
    record["training"]["alignment_loss"]["values"] = [0.3, 0.0, 0.0, 0.1]
    assert measures.background_only_share(record) == 0.5


def test_conclusions_precede_the_tables(results, tmp_path):
    (tmp_path / "conclusions.md").write_text("## What follows\n\nNothing.\n")
    study_page.write_page(results(_record(REFERENCE, 1, 0.4)))
    page = (tmp_path / "RESULTS.md").read_text()
    assert page.index("# Does it learn?") < page.index("What follows") < page.index("## phantom")


def test_damaged_records_and_those_of_other_settings_are_skipped_and_named(results, tmp_path, capsys):
    folder = results(
        _record(REFERENCE, 1, 0.4),
        {**_record("no_prior", 1, 0.9), "key": "other"},
        {**_record("no_mining", 1, 0.9), "profile": "phantom_default"},  # has no such arm
    )
    (folder / "phantom" / "angle_only_1.json").write_text("{half")
    study_page.write_page(folder)
    output = capsys.readouterr().out
    page = (tmp_path / "RESULTS.md").read_text()
    for name in ("no_prior", "angle_only", "no_mining"):
        assert f"{name}_1.json: damaged or of other settings" in output
        assert f"| `{name}`" not in page


def test_a_difference_uses_shared_seeds_only():
    reference = [_record(REFERENCE, 1, 0.4)]
    both = [_record("cosine", 1, 0.5), _record("cosine", 2, 0.9)]
    assert measures.format_difference(both, reference) == "+0.100 (1)"
    assert measures.format_difference(both[1:], reference) == ""
