"""Read and write own data's `dataset.json`, with nnU-Net's keys and ours.

A complete example (`name`, `labels`, `channel_names` and `file_ending` are nnU-Net's)::

    {
      "name": "Hips", "labels": {"background": 0, "left femur": 1, "right femur": 2},
      "channel_names": {"0": "T1"}, "file_ending": ".nii.gz",
      "spacing_mm": [3.0, 1.0, 1.0], "size_px": [256, 256], "clip": {"percentile": 99.5},
      "orientation": "LPS", "supervoxel_min_size_vox": 2000,
      "test_labels": [1, 2], "organ_groups": [[1], [2]]
    }

Only `name` and `labels` are required. Without `spacing_mm`, `size_px` or `clip`, spacing, size or intensities
are kept.
"""

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.own_rules import clip, disjoint_groups_of, label_fault, orientation, own_dataset_name, subset_of
from data.specs import DatasetSpec, OwnDataset
from data.transforms import Preparation
from util.config.settings import Rule, one_of, optional, real, several, whole
from util.errors import UserError
from util.io.files import write_text
from util.io.json_files import read_json_object
from util.remarks import remark

DATASET_JSON = "dataset.json"
VOLUMES_FOLDER = "volumes"
_KEYS = ("name", "labels", "channel_names", "file_ending", "spacing_mm", "size_px", "clip", "orientation")
_KEYS += ("assume_orientation", "supervoxel_min_size_vox", "test_labels", "organ_groups")


def read_dataset_json(path: Path, *, name: str | None = None) -> OwnDataset:
    """Read a `dataset.json`.

    Unknown keys are ignored, except for those that resemble a known one.

    Args:
        path: the file.
        name: of the dataset; a different name in the file is remarked on. None: the file's.

    Raises:
        UserError: the file is missing, not JSON, or holds invalid values: one line each, all at once.
    """
    values = read_json_object(path, what="dataset.json")
    return _Reading(path, values, name).finish()


def write_dataset_json(path: Path, own: OwnDataset) -> None:
    """Write the inverse of `read_dataset_json`; raises `UserError` if it fails."""
    spec, preparation = own.spec, own.preparation
    clips = {"window": preparation.window, "percentile": preparation.clip_percentile}
    values = {
        "name": spec.name,
        "labels": {"background": 0} | {organ: label for label, organ in sorted(spec.labels.items())},
        "channel_names": {"0": own.channel},
        "file_ending": own.file_ending,
        "spacing_mm": preparation.spacing_mm,
        "size_px": preparation.size_px,
        "clip": {kind: value for kind, value in clips.items() if value is not None} or None,
        "orientation": preparation.orientation,
        "assume_orientation": preparation.assume_orientation,
        "supervoxel_min_size_vox": spec.supervoxel_min_vox,
        "test_labels": spec.test_labels,
        "organ_groups": spec.organ_groups,
    }
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


class _Reading:
    """Collects the problems of all values, to report them at once."""

    def __init__(self, path: Path, values: Mapping[str, Any], name: str | None) -> None:
        self._path, self._values, self._name = path, values, name
        self._problems: list[str] = []

    def finish(self) -> OwnDataset:
        self._check_keys()
        name = self._dataset_name()
        labels = self._labels()
        channel = self._channel()
        spacing_mm = self._take("spacing_mm", optional(several(real(0.01), length=3)))
        size_px = self._take("size_px", optional(several(whole(8, 4096), length=2)))
        clipped = self._take("clip", optional(clip())) or {}
        letters = self._take("orientation", optional(orientation()))
        min_vox = self._take("supervoxel_min_size_vox", optional(whole(1)))
        assumed = self._take("assume_orientation", optional(orientation()))
        ending = self._take("file_ending", one_of(".nii.gz", ".nii"), default=".nii.gz")
        test_labels = self._take("test_labels", subset_of(labels), default=tuple(labels)) if labels else ()
        groups = (
            self._take("organ_groups", disjoint_groups_of(test_labels), default=(test_labels,))
            if labels
            else ()
        )
        if self._problems:
            raise UserError("\n".join(self._problems))
        return OwnDataset(
            spec=DatasetSpec(
                name,
                VOLUMES_FOLDER,
                labels,
                test_labels,
                groups,
                min_vox,
                keeps_slice_axes=letters is None,
            ),
            preparation=Preparation(
                assume_orientation=assumed,
                orientation=letters,
                window=clipped.get("window"),
                clip_percentile=clipped.get("percentile"),
                spacing_mm=spacing_mm,
                size_px=size_px,
            ),
            file_ending=ending,
            channel=channel,
        )

    def _take(self, key: str, rule: Rule, *, default: Any = None, required: bool = False) -> Any:
        if key not in self._values:
            if required:
                self._problem(f"{key} is missing, must be {rule.text}")
            return default
        try:
            return rule.parse(self._values[key])
        except (TypeError, ValueError):
            self._problem(
                f"{key} must be {rule.text}, got {json.dumps(self._values[key], ensure_ascii=False)}"
            )
            return default

    def _dataset_name(self) -> str | None:
        if self._name is None:
            return self._take("name", own_dataset_name(), required=True)
        if self._values.get("name", self._name) != self._name:
            found = json.dumps(self._values["name"], ensure_ascii=False)
            remark(f"{self._path}: its name {found} is ignored, the dataset is named {self._name}")
        return self._name

    def _problem(self, text: str) -> None:
        self._problems.append(f"{self._path}: {text}; correct it")

    def _check_keys(self) -> None:
        for key in self._values:
            near = difflib.get_close_matches(key, _KEYS, n=1, cutoff=0.8)
            if key not in _KEYS and near:
                self._problem(f"unknown key {key}, did you mean {near[0]}?")
        if "regions_class_order" in self._values:
            self._problem("labels must be single ids, got nnU-Net's regions (regions_class_order)")

    def _channel(self) -> str:
        channels = self._values.get("channel_names", {"0": "image"})
        if not isinstance(channels, dict) or len(channels) != 1 or "0" not in channels:
            found = json.dumps(channels, ensure_ascii=False)
            self._problem(f'channel_names must name one channel, as {{"0": "CT"}}, got {found}')
            return "image"
        return str(channels["0"])

    def _labels(self) -> dict[int, str]:
        values = self._values.get("labels")
        example = '{"background": 0, "liver": 1}'
        if not isinstance(values, dict) or not values:
            self._problem(f"labels must be name: id, as {example}, got {json.dumps(values)}")
            return {}
        if all(key.isdecimal() for key in values):
            self._problem(f"labels must be name: id, as {example}, got nnU-Net's old form id: name")
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
        for fault in faults:
            self._problem(f"labels: {fault}")
        return {} if faults else dict(sorted(labels.items()))
