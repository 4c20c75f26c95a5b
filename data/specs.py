"""What each dataset holds: folder names, labels, organ groups, supervoxel sizes."""

from dataclasses import dataclass, field

from util.errors import UserError


@dataclass(frozen=True)
class DatasetSpec:
    """The constants of one prepared dataset.

    Attributes:
        name: the config's `dataset`.
        volumes_folder: folder of images and labels inside the data folder.
        labels: label id -> organ name; 0 is background and not listed.
        test_labels: organs that the published protocol evaluates.
        organ_groups: setting II's groups; one training each, its organs unseen in training.
        supervoxel_min_vox: default least size of a supervoxel, in voxels; None for own data before
            preparation.
        raw_labels: id in the challenge's files -> label id, where they differ. Publicly shared prepared
            volumes may hold either.
        keeps_slice_axes: each scan keeps the axis that its slices are stacked along, so that there are
            several orientations; otherwise the dataset has one.
    """

    name: str
    volumes_folder: str
    labels: dict[int, str]
    test_labels: tuple[int, ...]
    organ_groups: tuple[tuple[int, ...], ...]
    supervoxel_min_vox: int | None
    raw_labels: dict[int, int] = field(default_factory=dict)
    keeps_slice_axes: bool = False


_ABDOMEN_MR = {1: "liver", 2: "right kidney", 3: "left kidney", 4: "spleen"}

DATASETS = {
    spec.name: spec
    for spec in (
        DatasetSpec(
            name="CHAOST2",
            volumes_folder="chaos_MR_T2_normalized",
            labels=_ABDOMEN_MR,
            test_labels=(1, 2, 3, 4),
            organ_groups=((1, 4), (2, 3)),
            supervoxel_min_vox=5000,
        ),
        DatasetSpec(
            name="SABS",
            volumes_folder="sabs_CT_normalized",
            labels={
                1: "spleen",
                2: "right kidney",
                3: "left kidney",
                4: "gallbladder",
                5: "esophagus",
                6: "liver",
                7: "stomach",
                8: "aorta",
                9: "inferior vena cava",
                10: "portal and splenic vein",
                11: "pancreas",
                12: "right adrenal",
                13: "left adrenal",
            },
            test_labels=(1, 2, 3, 6),
            organ_groups=((1, 6), (2, 3)),
            supervoxel_min_vox=5000,
        ),
        DatasetSpec(
            name="CMR",
            volumes_folder="cmr_MR_normalized",
            labels={1: "LV myocardium", 2: "LV blood pool", 3: "right ventricle"},
            test_labels=(1, 2, 3),
            organ_groups=((1, 2, 3),),
            supervoxel_min_vox=1000,
            raw_labels={200: 1, 500: 2, 600: 3},
        ),
        DatasetSpec(
            name="PHANTOM",
            volumes_folder="phantom_MR_T2_normalized",
            labels=_ABDOMEN_MR,
            test_labels=(1, 2, 3, 4),
            organ_groups=((1, 4), (2, 3)),
            supervoxel_min_vox=180,
        ),
    )
}


def find_spec(name: str) -> DatasetSpec:
    """Return the spec of dataset `name`.

    Raises `UserError` with the known names where it is none of them.
    """
    if name not in DATASETS:
        raise UserError(f"dataset={name}: must be one of {', '.join(DATASETS)}")
    return DATASETS[name]
