"""A custom dataset's `dataset.json`: read, checked all at once, written back the same."""

import json

import pytest

from data.custom_spec import CustomDataset, read_dataset_json, write_dataset_json
from data.specs import DatasetSpec
from data.transforms import Preparation
from util.errors import UserError
from util.remarks import Remark

FULL = {
    "name": "Hips",
    "labels": {"background": 0, "left femur": 1, "right femur": 3},
    "channel_names": {"0": "T1"},
    "numTraining": 5,
    "description": "not ours, passed over",
    "file_ending": ".nii",
    "spacing_mm": [3, 1.5, 1],
    "size_px": [200, 256],
    "clip": {"window": [-100, 300]},
    "orientation": "RAS",
    "supervoxel_min_size_vox": 700,
    "test_labels": ["right femur", 1],
    "organ_groups": [[1], [3]],
    "nsd_tolerance_mm": 2.5,
}


@pytest.fixture(name="read")
def _read(tmp_path):
    def read(values):
        path = tmp_path / "dataset.json"
        path.write_text(values if isinstance(values, str) else json.dumps(values), encoding="utf-8")
        return read_dataset_json(path)

    return read


def test_all_keys_are_read(read):
    assert read(FULL) == CustomDataset(
        spec=DatasetSpec(
            name="Hips",
            volumes_folder="volumes",
            labels={1: "left femur", 3: "right femur"},
            test_labels=(3, 1),
            organ_groups=((1,), (3,)),
            supervoxel_min_vox=700,
            nsd_tolerance_mm=2.5,
        ),
        preparation=Preparation(
            orientation="RAS", window=(-100.0, 300.0), spacing_mm=(3.0, 1.5, 1.0), size_px=(200, 256)
        ),
        file_ending=".nii",
        channel="T1",
    )


def test_name_and_labels_are_enough(read):
    own = read({"name": "Hips", "labels": {"background": 0, "femur": 2, "pelvis": 1}})
    assert own.spec.labels == {1: "pelvis", 2: "femur"}
    assert own.spec.test_labels == (1, 2)
    assert own.spec.organ_groups == ((1, 2),)
    assert own.preparation == Preparation()
    assert own.spec.keeps_slice_axes
    assert own.spec.supervoxel_min_vox is None
    assert own.file_ending == ".nii.gz"


def test_the_command_names_the_dataset_and_another_name_inside_is_remarked_on(tmp_path):
    (tmp_path / "dataset.json").write_text(json.dumps({"name": "Dataset004 Hips", "labels": FULL["labels"]}))
    with pytest.warns(
        Remark, match=r"dataset\.json: its name \"Dataset004 Hips\" is ignored, .* named Knees"
    ):
        own = read_dataset_json(tmp_path / "dataset.json", name="Knees")
    assert own.spec.name == "Knees"


@pytest.mark.filterwarnings("error")
def test_what_nnunet_writes_needs_no_name(tmp_path):
    values = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "femur": 1},
        "numTraining": 30,
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
    }
    (tmp_path / "dataset.json").write_text(json.dumps(values))
    own = read_dataset_json(tmp_path / "dataset.json", name="Hips")
    assert (own.spec.name, own.spec.labels) == ("Hips", {1: "femur"})


@pytest.mark.parametrize(("orientation", "is_kept"), [("LPS", False), ("RAI", False), (None, True)])
def test_only_data_without_an_orientation_keep_slice_axes(read, orientation, is_kept):
    assert read(FULL | {"orientation": orientation}).spec.keeps_slice_axes is is_kept


def test_null_means_none(read):
    own = read(FULL | {"orientation": None, "clip": None, "spacing_mm": None, "size_px": None})
    assert own.preparation == Preparation()


def test_a_percentile_clips_too(read):
    assert read(FULL | {"clip": {"percentile": 99.5}}).preparation.clip_percentile == 99.5


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"clip": {"percentile": 98}},
        {"orientation": None, "clip": None, "spacing_mm": None, "size_px": None},
        {"labels": {"background": 0, "Hüfte": 9}, "test_labels": [9], "organ_groups": [[9]]},
    ],
)
def test_what_is_written_reads_back_the_same(read, tmp_path, changes):
    own = read(FULL | changes)
    write_dataset_json(tmp_path / "again" / "dataset.json", own)
    assert read_dataset_json(tmp_path / "again" / "dataset.json") == own


def test_the_example_in_the_module_is_valid(read):
    import data.custom_spec

    text = data.custom_spec.__doc__
    own = read(text[text.index("{") : text.rindex("}") + 1])
    assert own.spec.labels == {1: "left femur", 2: "right femur"}
    assert own.spec.organ_groups == ((1,), (2,))


def test_all_problems_are_reported_at_once_one_line_each(read):
    with pytest.raises(UserError) as raised:
        read({"name": "a b", "labels": {"background": 0, "x": 300, "y/z": 1}, "size_px": [0, 9], "clip": 3})
    lines = str(raised.value).splitlines()
    assert [line.split("dataset.json: ")[1].split(" must")[0] for line in lines] == [
        "name='a b':",
        "size_px=[0, 9]:",
        "clip=3:",
        "labels: 'x'",
        "labels: names",
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "../up"}, r"name=.*: must be a name of at most 40 letters"),
        ({"name": "CHAOST2"}, r"none of CHAOST2, SABS, CMR, PHANTOM, and not one"),
        ({"name": "123"}, r"read as a number or literal, such as 123, 1e5 or True; correct it"),
        ({"assume_orientation": "RAR"}, r"assume_orientation=.*: must be three letters, one of each of L/R"),
        ({"name": 3}, r"name=.*: must be"),
        ({"labels": {}}, r"labels must be name: id"),
        ({"labels": {"background": 0}}, r"must list an organ besides background"),
        ({"labels": {"a": 0, "b": 1}}, r"0 must be 'background' and nothing else, got 'a': 0"),
        ({"labels": {"background": 1}}, r"0 must be 'background' and nothing else, got 'background': 1"),
        ({"labels": {"a": 255}}, r"'a' must be a whole number of 0 to 254, got 255"),
        ({"labels": {"a": True}}, r"'a' must be a whole number of 0 to 254, got true"),
        ({"labels": {"a": "1"}}, r"'a' must be a whole number of 0 to 254, got \"1\""),
        ({"labels": {"left hip": 1, "Left_Hip": 2}}, r"names must differ in file names"),
        ({"labels": {"a:b": 1}}, r"names must be valid in file names"),
        ({"labels": {".a": 1}}, r"names must be valid in file names"),
        ({"labels": {" a": 1}}, r"names must be valid in file names"),
        ({"labels": {"": 1}}, r"names must be valid in file names"),
        ({"labels": {"a\nb": 1}}, r"names must be valid in file names"),
        ({"labels": {"a" * 61: 1}}, r"names must be valid in file names"),
        ({"regions_class_order": [1, 2]}, r"got nnU-Net's regions"),
        ({"channel_names": {}}, r"channel_names={}: must be one channel"),
        ({"file_ending": ".mha"}, r"file_ending=.*: must be one of \.nii\.gz, \.nii; correct it"),
        (
            {"spacing_mm": [1, 0, 1]},
            r"spacing_mm=.*: must be a list of 3 values, each a number of at least 0.01",
        ),
        ({"spacing_mm": 1}, r"spacing_mm=.*: must be"),
        ({"size_px": [256, 256, 30]}, r"size_px=.*: must be a list of 2 values"),
        ({"size_px": [256.5, 256]}, r"size_px=.*: must be"),
        ({"clip": {"percentile": 0}}, r"clip=.*: must be"),
        ({"clip": {"percentile": 99, "window": [0, 1]}}, r"clip=.*: must be"),
        ({"clip": {"range": [0, 1]}}, r"clip=.*: must be"),
        ({"clip": {"window": [1, 1]}}, r"clip=.*: must be"),
        ({"orientation": "LP"}, r"orientation=.*: must be three letters"),
        ({"orientation": "lps"}, r"orientation=.*: must be three letters"),
        (
            {"supervoxel_min_size_vox": 0},
            r"supervoxel_min_size_vox=.*: must be a whole number of at least 1, or None; correct it",
        ),
        ({"test_labels": []}, r"test_labels=.*: must be a list of some of 1, 3"),
        ({"test_labels": [1, 1]}, r"test_labels=.*: must be"),
        (
            {"test_labels": ["spleen"]},
            r"test_labels=.*: must be a list of some of 1, 3, each once; correct it",
        ),
        (
            {"test_labels": [1], "organ_groups": [[1], [3]]},
            r"organ_groups=.* some of 1, each once",
        ),
        (
            {"organ_groups": [[1], [1, 3]]},
            r"organ_groups=.* groups without common members",
        ),
        ({"organ_groups": [1, 3]}, r"organ_groups=.*: must be"),
        ({"supervoxel_min_vox": 3}, r"unknown key supervoxel_min_vox, did you mean supervoxel_min_size_vox"),
        ({"testlabels": [1]}, r"unknown key testlabels, did you mean test_labels"),
    ],
)
def test_wrong_values_are_refused_with_what_they_must_be(read, changes, words):
    defaults = {} if "labels" not in changes else {"test_labels": None, "organ_groups": None}
    values = {key: value for key, value in (FULL | changes | defaults).items() if value is not None}
    with pytest.raises(UserError, match=words) as raised:
        read(values)
    assert len(str(raised.value).splitlines()) == 1


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(UserError, match=r"dataset\.json: cannot be read \(No such file"):
        read_dataset_json(tmp_path / "dataset.json")
