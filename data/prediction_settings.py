"""Configuration keys of `script/predict.sh`."""

import ast
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, create_model

from data.custom_rules import Orientation
from data.model_frame import CLIPPING
from util.config.path_values import PathText
from util.config.settings import Amount, MustBe, Settings, Text, Whole, copy_key, key
from util.evaluation.intensity_refinement import RECOMMENDED_WEIGHT
from util.evaluation.method_names import GUIDES, METHODS
from util.parallel.hardware import AUTO, PRECISIONS

NOTICE = "research use only: not a medical device, check every mask"
# They raise Dice over all slices from 0.764 to 0.781 on CHAOST2 (fold 2, four organs, with registration). A
# step takes 1.6 s on a CPU core at 128 px, and a fraction of that on a GPU.
GPU_ADAPTATION_STEPS = 150
# Of the steps that `minutes` allows, adaptation to the supports takes half, but no more than these.
MAX_ADAPTATION_STEPS = 600
MAX_VERSIONS = 5  # those of models.inference.test_time_augmentation, which data does not import
# How a trained network serves, in prediction and on a server.
SEGMENTER_KEYS = (
    *("guide", "adaptation", "unet_steps", "test_time_augmentation", "largest_component"),
    *("intensity_weight", "prepared", "orientation", "data_dir", "device", "precision"),
)
_MODALITIES = " or ".join(f"modality={modality}" for modality in CLIPPING)
# What describes a network or its training, and is meaningless without one.
_NETWORK_KEYS = (
    *("reload_model_path", "minutes", "adaptation", "unet_steps", "test_time_augmentation"),
    *("precision", "orientation", "data_dir"),
)


def _split(value: Any) -> Any:
    """Split a text at its commas; a Python list of texts stays whole."""
    if not isinstance(value, str):
        return tuple(value) if isinstance(value, list) else value
    if value.lstrip().startswith("["):
        try:
            return tuple(map(str, ast.literal_eval(value)))
        except (ValueError, SyntaxError, TypeError):
            return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _require_entry(texts: tuple[str, ...]) -> tuple[str, ...]:
    if not texts:
        raise ValueError("empty")
    return texts


def _parse_range(value: Any) -> Any:
    """Parse `a:b` to two slice positions; None stands for an open end."""
    if not isinstance(value, str):
        return value
    first, colon, end = (part.strip() for part in value.partition(":"))
    if not colon or not all(part == "" or part.isdecimal() for part in (first, end)):
        raise ValueError("not a range")
    bounds = (int(first or 0), int(end) if end else None)
    if bounds[1] is not None and bounds[0] >= bounds[1]:
        raise ValueError("empty range")
    return bounds


Paths = Annotated[
    tuple[PathText, ...],
    BeforeValidator(_split),
    AfterValidator(_require_entry),
    MustBe("one or several paths, separated by commas"),
]
SliceRange = Annotated[
    tuple[int, int | None],
    BeforeValidator(_parse_range),
    MustBe("a:b with whole numbers a below b, a: or :b"),
]


class PredictConfig(Settings):
    """Keys of `script/predict.sh`."""

    reload_model_path: PathText | None = key(
        None,
        "trained network: a snapshot, run folder, best or `<run folder>/best`; None: trains one on the scans",
        examples=["runs/CHAOST2/fold_0/training/1"],
    )
    method: Literal[METHODS] = key(
        "network", "registration: the supports' masks, warped to each scan, without any network"
    )
    modality: Literal[tuple(CLIPPING)] | None = key(None, "of the scans, without reload_model_path")
    minutes: Amount = key(20.0, "for preparing, training and adapting together, without reload_model_path")
    support_image: Paths = key(..., "annotated scan, or several", examples=["a.nii.gz"])
    support_label: Paths = key(
        ..., "their masks, in the same order, on the scans' grids", examples=["a_seg.nii.gz"]
    )
    query: Paths = key(..., "scans to segment: a file, a folder or a pattern, or several", examples=["scans"])
    out: PathText = key(..., "folder of the results", examples=["masks"])
    format: Literal["auto", "dicom_seg"] = key(
        "auto",
        "of the masks; auto: the scan's own, NIfTI for DICOM; dicom_seg: DICOM-SEG, for DICOM series only",
    )
    labels: Annotated[
        tuple[Text, ...] | None,
        BeforeValidator(_split),
        MustBe("ids, names or id:name, separated by commas, or None"),
    ] = key(None, "labels to segment, as 1,4 or 1:liver or liver; None: all of the supports")
    guide: Literal[GUIDES] = key(
        "registration", "registration: each support's mask, warped to the query, joins the network; none: not"
    )
    adaptation: Whole | Literal["auto"] = key(
        "auto",
        f"training steps on the supports before they serve; auto: {GPU_ADAPTATION_STEPS} on a GPU, else 0; "
        f"without reload_model_path, half of the steps that `minutes` allows, at most {MAX_ADAPTATION_STEPS}",
        must_be="a whole number of steps, or auto",
    )
    unet_steps: Whole | Literal["auto"] = key(
        "auto",
        "training steps of a U-Net of the supports, which helps the network; 0: none; auto: as many as "
        "adaptation takes",
        must_be="a whole number of steps, or auto",
    )
    compare_supports: bool = key(
        True, "segment each of several supports from the others: how much does each help?"
    )
    test_time_augmentation: int = key(
        1,
        "versions of each scan to average over, at most 5: itself and shifted, scaled and brightened ones",
        ge=1,
        le=MAX_VERSIONS,
    )
    work: PathText | None = key(None, "folder of what a second call reuses; None: `<out>/work`")
    slices: SliceRange | None = key(
        None, "only these slices of each query file, as 10:30 (counted from 0, the last one excluded)"
    )
    largest_component: bool = key(
        False, "keep the largest connected component of each organ, and fill its holes"
    )
    intensity_weight: Amount = key(
        RECOMMENDED_WEIGHT,
        "weight of each scan's own intensities, inside the segmented organ to around it; 0: off",
    )
    confidence: bool = key(False, "also write each label's probability")
    report: bool = key(True, "write predictions.html, with pictures of every scan, doubtful ones first")
    prepared: bool = key(False, "all scans are prepared volumes already: intensities are not clipped again")
    orientation: Orientation | None = key(
        None, "axis codes the network expects, such as LPS; None: those of its training scans"
    )
    data_dir: PathText | None = key(None, "folder of the training data; None: as in the training")
    device: Text = key("auto", "cpu, cuda, cuda:<n>, mps, or auto for the best one available")
    precision: Literal[(*PRECISIONS, AUTO)] = key(
        "fp32", "number format; auto: the fastest that the device computes in hardware"
    )

    @property
    def work_dir(self) -> Path:
        """The folder of what a second call reuses."""
        return Path(self.work or Path(self.out) / "work")

    def method_problems(self) -> list[str]:
        """List keys that contradict the method, one line each."""
        if self.method == "registration":
            return self._registration_problems()
        if self.reload_model_path is not None:
            needless = "is for training, which reload_model_path replaces; leave one of them out"
            names = [name for name in ("modality", "minutes") if name in self.model_fields_set]
            given = [(name, getattr(self, name)) for name in names]
            return [f"{name}={value}: {needless}" for name, value in given if value is not None]
        problems = []
        if self.modality is None:
            problems.append(
                "modality: missing key; without reload_model_path a network is trained on the scans, as "
                f"{_MODALITIES}"
            )
        described = {"orientation": self.orientation, "prepared": self.prepared, "data_dir": self.data_dir}
        return problems + [
            f"{name}={value}: describes the training of a given network; set reload_model_path, too"
            for name, value in described.items()
            if value
        ]

    def _registration_problems(self) -> list[str]:
        network_keys = [name for name in _NETWORK_KEYS if name in self.model_fields_set]
        problems = [
            f"{name}={getattr(self, name)}: method=registration has no network; leave {name} out"
            for name in network_keys
        ]
        if self.guide == "none":
            problems.append("guide=none: leaves nothing of method=registration; leave guide out")
        if self.modality is None and not self.prepared:
            problems.append(
                f"modality: missing key; method=registration clips intensities as {_MODALITIES}, or not "
                "again with prepared=True"
            )
        return problems


SEGMENTER_FIELDS = {
    name: copy_key(PredictConfig.model_fields[name], PredictConfig.model_fields[name].default)
    for name in SEGMENTER_KEYS
}
SegmenterConfig = create_model(
    "SegmenterConfig", __base__=Settings, __doc__="How a trained network serves.", **SEGMENTER_FIELDS
)
