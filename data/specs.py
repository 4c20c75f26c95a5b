"""Records of a dataset's labels, organ groups and preparation."""

from dataclasses import dataclass, field

from data.transforms import Preparation

DEFAULT_NSD_TOLERANCE_MM = 3.0  # usual for abdominal organs


@dataclass(frozen=True)
class DatasetSpec:
    """The constants of one prepared dataset.

    Attributes:
        name: the configuration's `dataset`.
        volumes_folder: folder of images and labels inside the data folder.
        labels: label id -> organ name; 0 is background and not listed.
        test_labels: organs that the published protocol evaluates.
        organ_groups: setting II's groups; each is held out of one training.
        supervoxel_min_vox: default minimum size of a supervoxel, in voxels; None for a custom dataset before
            preparation.
        raw_labels: id in the challenge's files -> label id, where they differ. Publicly shared prepared
            volumes may hold either.
        keeps_slice_axes: each scan keeps the axis that its slices are stacked along, so that several
            orientations occur; otherwise the dataset has one.
        nsd_tolerance_mm: distance within which surfaces agree, for the normalised surface Dice.
        is_synthetic: the scans are generated where they are missing, and all are labelled.
    """

    name: str
    volumes_folder: str
    labels: dict[int, str]
    test_labels: tuple[int, ...]
    organ_groups: tuple[tuple[int, ...], ...]
    supervoxel_min_vox: int | None
    raw_labels: dict[int, int] = field(default_factory=dict)
    keeps_slice_axes: bool = False
    nsd_tolerance_mm: float = DEFAULT_NSD_TOLERANCE_MM
    is_synthetic: bool = False


@dataclass(frozen=True)
class CustomDataset:
    """The content of a `dataset.json`.

    Attributes:
        spec: name, labels and supervoxel size.
        preparation: of the volumes.
        file_ending: of the raw files, `.nii.gz` or `.nii`.
        channel: what the images show, for people and nnU-Net.
    """

    spec: DatasetSpec
    preparation: Preparation
    file_ending: str = ".nii.gz"
    channel: str = "image"
