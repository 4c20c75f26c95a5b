"""The datasets' constants are the published protocol's."""

import pytest

from data.datasets import DATASETS, RAW_DATASETS, find_spec, path_group
from util.errors import UserError


def test_the_real_datasets_and_the_phantom_are_known():
    assert list(DATASETS) == ["CHAOST2", "SABS", "CMR", "PHANTOM"]
    assert all(find_spec(name).name == name for name in DATASETS)


@pytest.mark.parametrize(
    ("name", "labels", "tested"),
    [
        ("CHAOST2", {1: "liver", 2: "right kidney", 3: "left kidney", 4: "spleen"}, (1, 2, 3, 4)),
        ("CMR", {1: "LV myocardium", 2: "LV blood pool", 3: "right ventricle"}, (1, 2, 3)),
    ],
)
def test_all_organs_of_these_are_tested(name, labels, tested):
    assert find_spec(name).labels == labels
    assert find_spec(name).test_labels == tested


def test_of_sabs_four_of_thirteen_organs_are_tested():
    spec = find_spec("SABS")
    assert list(spec.labels) == list(range(1, 14))
    assert {label: spec.labels[label] for label in spec.test_labels} == {
        1: "spleen",
        2: "right kidney",
        3: "left kidney",
        6: "liver",
    }


def test_setting_2_splits_upper_organs_from_kidneys():
    for name in ("CHAOST2", "SABS", "PHANTOM"):
        spec = find_spec(name)
        groups = [{spec.labels[label] for label in group} for group in spec.organ_groups]
        assert groups == [{"liver", "spleen"}, {"left kidney", "right kidney"}]


def test_the_phantom_has_chaost2s_labels():
    assert find_spec("PHANTOM").labels == find_spec("CHAOST2").labels


@pytest.mark.parametrize("name", DATASETS)
def test_tested_and_grouped_labels_are_known_ones(name):
    spec = find_spec(name)
    grouped = [label for group in spec.organ_groups for label in group]
    assert set(spec.test_labels) <= set(spec.labels)
    assert sorted(grouped) == sorted(spec.test_labels)
    assert 0 not in spec.labels
    assert len(set(spec.labels.values())) == len(spec.labels)


@pytest.mark.parametrize("name", ["chaost2", "", "KITS"])
def test_an_unknown_dataset_is_refused_with_the_known_ones(name):
    with pytest.raises(UserError, match=rf"^dataset={name}: must be one of CHAOST2, SABS, CMR, PHANTOM$"):
        find_spec(name)


def test_each_dataset_with_raw_scans_has_a_finder_and_a_preparation():
    assert RAW_DATASETS == ("CHAOST2", "SABS", "CMR")
    for name, dataset in DATASETS.items():
        assert (dataset.find_scans is not None) == (dataset.preparation is not None) == (name in RAW_DATASETS)
        assert all(folder == folder.lower() for folder in dataset.inner_folders)


def test_custom_datasets_share_one_group_of_path_keys():
    assert [path_group(name) for name in ("CMR", "PHANTOM", "Hips")] == ["CMR", "PHANTOM", "OWN"]
