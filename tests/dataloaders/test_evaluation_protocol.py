"""A protocol describes itself in three lines, with what was changed of the named one."""

import copy

import pytest

from config_ssl_upload import dataset_defaults, parse_config
from util.config.settings import merge_values
from util.errors import UserError


def protocol_of(name, **changes):
    values = copy.deepcopy(dataset_defaults("CHAOST2", protocol=name))
    return parse_config(merge_values(values, changes)).evaluation_protocol


def test_the_published_protocol_is_the_default_in_all_its_parts():
    assert dataset_defaults("CHAOST2") == dataset_defaults("CHAOST2", protocol="published")
    protocol = parse_config(dataset_defaults("CHAOST2")).evaluation_protocol
    assert (protocol.name, protocol.changes, protocol.folds) == ("published", (), "overlapping")
    assert (protocol.support_scans, protocol.supp_idx, protocol.n_part) == ("fold", 2, 3)
    assert (protocol.chunks, protocol.all_slices, protocol.every_support) == (True, True, False)


def test_the_published_protocol_describes_what_papers_do():
    assert protocol_of("published", evaluation={"all_slices": False}).describe() == [
        "protocol: published, changed to evaluation.all_slices=False; 5 overlapping folds (neighbours share "
        "a scan, so some scans are queries twice)",
        "slices scored: chunks (those that hold the organ, known from the truth, in 3 chunks); queries "
        "without an organ are left out of its mean",
        "support: the scan at position 2 in the fold, which is no query, or the nearest that shows the organ "
        "in 3 slices; 3 of its slices serve",
    ]


def test_whole_volumes_are_segmented_without_using_the_truth_and_once():
    assert protocol_of("whole_volume").describe() == [
        "protocol: whole_volume; 5 disjoint folds (no scan is in two of them)",
        "slices scored: all_slices (every slice of the query, without a look at its truth); queries without "
        "an organ are left out of its mean",
        "support: the scan at position 2 after the fold, so that every scan is a query, or the nearest that "
        "shows the organ in 3 slices; 3 of its slices serve",
    ]


def test_each_part_can_be_set_and_is_named():
    protocol = protocol_of("whole_volume", folds="overlapping", supp_idx=4, evaluation={"chunks": True})
    assert protocol.title == ("whole_volume, changed to folds=overlapping supp_idx=4 evaluation.chunks=True")
    assert (
        protocol_of("published", evaluation={"every_support": True})
        .describe()[2]
        .endswith("3 of its slices serve; then every scan of the fold in turn")
    )


def test_the_record_holds_parts_and_lines():
    record = protocol_of("whole_volume", n_part=5).as_record()
    assert (record["name"], record["changes"], record["n_part"]) == ("whole_volume", ["n_part=5"], 5)
    assert len(record["description"]) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"evaluation": {"chunks": False, "all_slices": False}},
            r"^evaluation.chunks=False.* nothing to score",
        ),
        ({"evaluation": {"chunks": False, "every_support": True}}, r"^evaluation.every_support=True: needs "),
        ({"support_scans": "outside", "evaluation": {"every_support": True}}, "needs .*support_scans=fold"),
        ({"protocol": "mine"}, r"^protocol='mine': must be one of published, whole_volume$"),
        ({"folds": "none"}, r"^folds='none': must be one of overlapping, disjoint$"),
        ({"tag": "../x"}, r"^tag='../x': must be a name of letters, digits, _, . and -"),
        ({"tag": True}, r"^tag=True: must be a name"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        protocol_of("published", **changes)


def test_a_tag_keeps_runs_and_summaries_apart():
    values = merge_values(dataset_defaults("CHAOST2"), {"setting": 2, "organ_group": 1, "tag": 7})
    config = parse_config(values)
    assert str(config.fold_dir) == "runs/CHAOST2_setting2_group1-7/fold_0"
    assert str(config.all_groups_dir) == "runs/CHAOST2_setting2-7"
    assert config.fold_overrides == "dataset=CHAOST2 eval_fold=0 setting=2 organ_group=1 tag=7"
    assert str(parse_config(dataset_defaults("CHAOST2")).all_groups_dir) == "runs/CHAOST2"
