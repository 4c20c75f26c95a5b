"""Read and write a custom dataset's `dataset.json`, with nnU-Net's keys and ours.

A complete example (`name`, `labels`, `channel_names` and `file_ending` are nnU-Net's)::

    {
      "name": "Hips", "labels": {"background": 0, "left femur": 1, "right femur": 2},
      "channel_names": {"0": "T1"}, "file_ending": ".nii.gz",
      "spacing_mm": [3.0, 1.0, 1.0], "size_px": [256, 256], "clip": {"percentile": 99.5},
      "orientation": "LPS", "supervoxel_min_size_vox": 2000,
      "test_labels": [1, 2], "organ_groups": [[1], [2]], "nsd_tolerance_mm": 3.0
    }

Only `name` and `labels` are required. Without `spacing_mm`, `size_px` or `clip`, spacing, size or intensities
are kept.
"""

import difflib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from data.custom_rules import Clip, CustomName, Orientation, label_fault, parse_groups_of, parse_labels_among
from data.specs import DEFAULT_NSD_TOLERANCE_MM, CustomDataset, DatasetSpec
from data.transforms import Preparation
from util.config.settings import Count, ListAsTuple, Positive, Settings, SettingsError, key, parse_values
from util.errors import UserError
from util.io.json_files import read_json_object, write_json
from util.io.nifti_names import NIFTI_ENDINGS
from util.remarks import remark

DATASET_JSON = "dataset.json"
VOLUMES_FOLDER = "volumes"
_LABEL_KEYS = ("labels", "test_labels", "organ_groups")
_Spacing = Annotated[float, Field(ge=0.01)]
_SidePx = Annotated[int, Field(ge=8, le=4096)]


def read_dataset_json(path: Path, *, name: str | None = None) -> CustomDataset:
    """Read a `dataset.json`.

    Unknown keys are ignored, except for those that resemble a known one.

    Args:
        path: the file.
        name: of the dataset; a different name in the file is remarked on. None: the file's.

    Raises:
        UserError: the file is missing, not JSON, or holds invalid values: one line each, all at once.
    """
    values = read_json_object(path, kind="dataset.json")
    return _Reading(path, values, name).finish()


def write_dataset_json(path: Path, dataset: CustomDataset) -> None:
    """Write the inverse of `read_dataset_json`; raises `UserError` if it fails."""
    spec, preparation = dataset.spec, dataset.preparation
    clips = {"window": preparation.window, "percentile": preparation.clip_percentile}
    values = {
        "name": spec.name,
        "labels": {"background": 0} | {organ: label for label, organ in sorted(spec.labels.items())},
        "channel_names": {"0": dataset.channel},
        "file_ending": dataset.file_ending,
        "spacing_mm": preparation.spacing_mm,
        "size_px": preparation.size_px,
        "clip": {kind: value for kind, value in clips.items() if value is not None} or None,
        "orientation": preparation.orientation,
        "assume_orientation": preparation.assume_orientation,
        "supervoxel_min_size_vox": spec.supervoxel_min_vox,
        "test_labels": spec.test_labels,
        "organ_groups": spec.organ_groups,
        "nsd_tolerance_mm": spec.nsd_tolerance_mm,
    }
    write_json(path, values, indent=2, ensure_ascii=False)


class _DatasetJson(Settings):
    """Keys of the file, apart from those that depend on its labels; null stands for a missing key."""

    model_config = ConfigDict(extra="ignore")

    name: CustomName = key(..., "name of the dataset")
    file_ending: Literal[NIFTI_ENDINGS] = key(NIFTI_ENDINGS[0], "ending of image and label files")
    channel_names: dict[Literal["0"], Any] = key(
        {"0": "image"},
        "name of the only channel",
        min_length=1,
        must_be='one channel, as {"0": "CT"}',
    )
    spacing_mm: Annotated[tuple[_Spacing, _Spacing, _Spacing], ListAsTuple] | None = key(None, "(z, y, x)")
    size_px: Annotated[tuple[_SidePx, _SidePx], ListAsTuple] | None = key(None, "height and width of slices")
    clip: Clip | None = key(None, "intensity range")
    orientation: Orientation | None = key(None, "of the prepared volumes")
    assume_orientation: Orientation | None = key(None, "of files whose header has none")
    supervoxel_min_size_vox: Count | None = key(None, "minimum size of a supervoxel")
    nsd_tolerance_mm: Positive = key(DEFAULT_NSD_TOLERANCE_MM, "tolerance of the normalised surface Dice")


class _Reading:
    """Collects the problems of all values, to report them at once."""

    def __init__(self, path: Path, values: Mapping[str, Any], name: str | None) -> None:
        self._path, self._values, self._name = path, dict(values), name
        self._problems: list[str] = []

    def finish(self) -> CustomDataset:
        self._check_keys()
        self._adopt_name()
        keys = self._parse_keys()
        labels = self._labels()
        test_labels, groups = self._organ_groups(labels) if labels else ((), ())
        if keys is None or self._problems:
            raise UserError("\n".join(f"{self._path}: {text}; correct it" for text in self._problems))
        clip = keys.clip
        return CustomDataset(
            spec=DatasetSpec(
                keys.name,
                VOLUMES_FOLDER,
                labels,
                test_labels,
                groups,
                keys.supervoxel_min_size_vox,
                keeps_slice_axes=keys.orientation is None,
                nsd_tolerance_mm=keys.nsd_tolerance_mm,
            ),
            preparation=Preparation(
                assume_orientation=keys.assume_orientation,
                orientation=keys.orientation,
                window=clip and clip.window,
                clip_percentile=clip and clip.percentile,
                spacing_mm=keys.spacing_mm,
                size_px=keys.size_px,
            ),
            file_ending=keys.file_ending,
            channel=str(keys.channel_names["0"]),
        )

    def _check_keys(self) -> None:
        known = (*_DatasetJson.model_fields, *_LABEL_KEYS)
        for name in self._values:
            close_matches = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            if name not in known and close_matches:
                self._problems.append(f"unknown key {name}, did you mean {close_matches[0]}?")
        if "regions_class_order" in self._values:
            self._problems.append("labels must be single ids, got nnU-Net's regions (regions_class_order)")

    def _adopt_name(self) -> None:
        """Replace the file's name by the command's."""
        if self._name is None:
            return
        if self._values.get("name", self._name) != self._name:
            name = json.dumps(self._values["name"], ensure_ascii=False)
            remark(f"{self._path}: its name {name} is ignored, the dataset is named {self._name}")
        self._values["name"] = self._name

    def _parse_keys(self) -> _DatasetJson | None:
        try:
            return parse_values(_DatasetJson, self._values)
        except SettingsError as error:
            self._problems += error.problems
            return None

    def _organ_groups(self, labels: Mapping[int, str]) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
        """Return the test labels and their groups."""
        test_labels = tuple(labels)
        if "test_labels" in self._values:
            value = self._values["test_labels"]
            try:
                test_labels = parse_labels_among(value, labels)
            except ValueError:
                self._problem("test_labels", f"a list of some of {_join(labels)}, each once")
        groups = (test_labels,)
        if "organ_groups" in self._values:
            value = self._values["organ_groups"]
            try:
                groups = parse_groups_of(value, test_labels)
            except ValueError:
                self._problem(
                    "organ_groups",
                    "a list of groups without common members, each a list of some of "
                    f"{_join(test_labels)}, each once",
                )
        return test_labels, groups

    def _problem(self, name: str, requirement: str) -> None:
        self._problems.append(f"{name}={self._values[name]!r}: must be {requirement}")

    def _labels(self) -> dict[int, str]:
        values = self._values.get("labels")
        example = '{"background": 0, "liver": 1}'
        if not isinstance(values, dict) or not values:
            self._problems.append(f"labels must be name: id, as {example}, got {json.dumps(values)}")
            return {}
        if all(key.isdecimal() for key in values):
            self._problems.append(f"labels must be name: id, as {example}, got nnU-Net's old form id: name")
            return {}
        labels: dict[int, str] = {}
        faults = []
        for organ, label in values.items():
            fault = label_fault(organ, label, labels)
            if fault:
                faults.append(fault)
            elif label != 0:
                labels[label] = organ
        if not labels and not faults:
            faults = [f"must list an organ besides background, as {example}, got {json.dumps(values)}"]
        self._problems += [f"labels: {fault}" for fault in faults]
        return {} if faults else dict(sorted(labels.items()))


def _join(labels: Iterable[int]) -> str:
    return ", ".join(map(str, labels))
